//! Static pods need no API server; a restarted kubelet adopts what runs; what a removed pod held is given back.

use std::fs;
use std::time::Duration;

use cri::v1;
use tokio_util::sync::CancellationToken;

use crate::bench::{Bench, IMAGE, eventually, missing};

const LIMIT: Duration = Duration::from_secs(90);

/// A client of an address where nobody listens.
fn nobody() -> kube::Client {
    let config = kube::Config::new("http://127.0.0.1:9".parse().expect("uri"));
    kube::Client::try_from(config).expect("client")
}

struct Kubelet {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), kubelet::Error>>,
}

impl Kubelet {
    fn start(bench: &Bench) -> Kubelet {
        let stop = CancellationToken::new();
        let task = tokio::spawn(kubelet::run(bench.config(), nobody(), stop.clone()));
        Kubelet { stop, task }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("task").expect("clean stop");
    }
}

async fn running(cri: &cri::Cri, name: &str) -> Option<v1::Container> {
    let all = cri.list_containers(None).await.ok()?;
    let named = |container: &&v1::Container| {
        container.metadata.as_ref().is_some_and(|metadata| metadata.name == name)
    };
    let state = v1::ContainerState::ContainerRunning as i32;
    all.iter().filter(named).find(|container| container.state == state).cloned()
}

fn pod(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n{spec}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_pod_lives_is_adopted_and_leaves_nothing() {
    if let Some(why) = missing() {
        eprintln!("SKIPPED: {why}");
        return;
    }
    let bench = Bench::start("10.231.7.0/24").await;
    let cri = bench.cri();
    let manifest = bench.dir.join("manifests/web.yaml");
    fs::write(
        &manifest,
        pod(&format!(
            "  terminationGracePeriodSeconds: 1\n  initContainers:\n  - {{name: first, image: '{IMAGE}', command: [sh, -c, 'echo ready > /shared/flag'], volumeMounts: [{{name: shared, mountPath: /shared}}]}}\n  \
             containers:\n  - name: main\n    image: '{IMAGE}'\n    command: [sh, -c, 'cat /shared/flag; echo $(WHO) $(NAME); sleep 100000']\n    \
             env: [{{name: WHO, value: hello}}, {{name: NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]\n    \
             resources: {{limits: {{memory: 64Mi, cpu: 100m}}}}\n    volumeMounts: [{{name: shared, mountPath: /shared}}, {{name: mem, mountPath: /mem}}]\n  \
             volumes: [{{name: shared, emptyDir: {{}}}}, {{name: mem, emptyDir: {{medium: Memory}}}}]\n"
        )),
    )
    .expect("manifest");
    let kubelet = Kubelet::start(&bench);
    let main = eventually("main runs", LIMIT, async || running(&cri, "main").await).await;
    let status = cri.container_status(&main.id).await.expect("status");
    let log = eventually("log is written", LIMIT, async || {
        fs::read_to_string(&status.log_path).ok().filter(|log| log.lines().count() >= 2)
    })
    .await;
    assert!(log.contains(" stdout F ready\n") && log.contains(" stdout F hello web-it-node\n"), "{log}");
    let limit = cri
        .exec_sync(&main.id, ["cat", "/etc/hosts"].map(String::from).to_vec(), Duration::from_secs(10))
        .await
        .expect("exec");
    let hosts = String::from_utf8_lossy(&limit.stdout).into_owned();
    assert!(
        hosts.starts_with("# Kubernetes-managed hosts file.") && hosts.contains("web-it-node"),
        "{hosts}"
    );

    // A kubelet that comes back finds its pod and leaves it alone.
    kubelet.end().await;
    let kubelet = Kubelet::start(&bench);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(running(&cri, "main").await.map(|container| container.id), Some(main.id.clone()));
    assert_eq!(cri.list_pod_sandbox(None).await.expect("sandboxes").len(), 1);

    // A container that dies comes back at once, its restarts counted.
    cri.stop_container(&main.id, Duration::ZERO).await.expect("stop");
    let next = eventually("main runs again", LIMIT, async || {
        running(&cri, "main").await.filter(|container| container.id != main.id)
    })
    .await;
    assert_eq!(next.annotations["io.kubernetes.container.restartCount"], "1");

    fs::remove_file(&manifest).expect("remove");
    eventually("all is gone", LIMIT, async || {
        let empty = cri.list_pod_sandbox(None).await.ok()?.is_empty()
            && cri.list_containers(None).await.ok()?.is_empty();
        let dirs =
            ["kubelet/pods", "logs"].map(|dir| fs::read_dir(bench.dir.join(dir)).map_or(0, Iterator::count));
        (empty && dirs == [0, 0]).then_some(())
    })
    .await;
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let ours = bench.dir.join("kubelet").display().to_string();
    assert!(!mounts.contains(&ours), "mounts are left below {ours}");
    let pods: Vec<_> = bench.cgroups().iter().flat_map(|cgroup| find_pods(cgroup)).collect();
    assert!(pods.is_empty(), "{pods:?}");
    let leases = fs::read_dir(bench.dir.join("ipam").join(&bench.name)).into_iter().flatten().flatten();
    let taken: Vec<_> = leases
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().starts_with("10."))
        .collect();
    assert!(taken.is_empty(), "{taken:?}");
    kubelet.end().await;
}

fn find_pods(path: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(path).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        if entry.file_name().to_string_lossy().starts_with("pod") {
            out.push(entry.path());
        }
        out.extend(find_pods(&entry.path()));
    }
    out
}
