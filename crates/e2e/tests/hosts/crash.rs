//! A host that goes at once, with all that runs on it, while somebody writes.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, eventually};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use crate::PATIENCE;
use crate::verbs::hosts;

/// The process that is a host's first one.
fn init_of(cluster: &Cluster, host: &str) -> Result<i32> {
    let path = cluster.root().join("run").join(format!("host-{host}.process"));
    let record: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let pid = record["pid"].as_i64().context("a pid")?;
    Ok(i32::try_from(pid)?)
}

/// What a writer saw.
#[derive(Default)]
struct Written {
    /// Acknowledged writes, with what was read back.
    acknowledged: BTreeMap<String, String>,
    /// The longest time between two acknowledged writes.
    gap: Duration,
    /// Reads that did not show what was acknowledged before.
    stale: Vec<String>,
}

async fn client(cluster: &Cluster) -> Result<kube::Client> {
    let file = Kubeconfig::read_from(cluster.root().join("kubeconfig/admin.kubeconfig"))?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    // As a careful client: one that gets no answer asks again.
    config.connect_timeout = Some(Duration::from_secs(2));
    config.read_timeout = Some(Duration::from_secs(2));
    config.write_timeout = Some(Duration::from_secs(2));
    Ok(kube::Client::try_from(config)?)
}

/// Writes and reads back, one after another, until told to stop.
async fn write(cluster: &Cluster, stop: &AtomicBool) -> Result<Written> {
    let maps: Api<ConfigMap> = Api::namespaced(client(cluster).await?, "crash");
    let mut seen = Written::default();
    let mut last = Instant::now();
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let name = format!("w{number}");
        let map = ConfigMap {
            metadata: kube::api::ObjectMeta { name: Some(name.clone()), ..Default::default() },
            data: Some([("n".to_owned(), number.to_string())].into()),
            ..ConfigMap::default()
        };
        match maps.create(&PostParams::default(), &map).await {
            Ok(made) => {
                seen.gap = seen.gap.max(last.elapsed());
                last = Instant::now();
                seen.acknowledged.insert(name.clone(), made.metadata.uid.unwrap_or_default());
                match maps.get(&name).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if status.code == 404 => seen.stale.push(name),
                    // No answer says nothing about what is there.
                    Err(_) => {}
                }
            }
            // Nobody said yes: it may or may not be there.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    Ok(seen)
}

pub fn crash(cluster: &Cluster) -> Result<()> {
    cluster.namespace("crash")?;
    let across = cluster.kubectl().within("across");
    let victim = hosts(cluster).remove(0);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| -> Result<Written> {
        let writer = scope.spawn(|| runtime.block_on(write(cluster, &stop)));
        // Whatever happens here, the writer has to end.
        let killed = (|| -> Result<()> {
            std::thread::sleep(Duration::from_secs(2));
            let pid = rustix::process::Pid::from_raw(init_of(cluster, &victim)?).context("a pid")?;
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
            std::thread::sleep(Duration::from_secs(8));
            Ok(())
        })();
        stop.store(true, Ordering::SeqCst);
        let seen = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        killed?;
        Ok(seen)
    })?;
    println!(
        "     {} writes acknowledged; longest time without one: {:.2} s",
        seen.acknowledged.len(),
        seen.gap.as_secs_f64()
    );
    ensure!(seen.acknowledged.len() > 10, "only {} writes went through", seen.acknowledged.len());
    ensure!(seen.stale.is_empty(), "acknowledged and not read back: {:?}", seen.stale);
    // Generous: machines that run tests stand still for seconds. What is usual is printed.
    ensure!(seen.gap < Duration::from_secs(30), "no write went through for {:?}", seen.gap);

    let maps = eventually("the list of what was written", PATIENCE, || {
        cluster.kubectl().within("crash").args(&[
            "get",
            "configmaps",
            "-o",
            "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid}{\"\\n\"}{end}",
        ])
    })?;
    let found: BTreeMap<&str, &str> = maps.lines().filter_map(|l| l.split_once(' ')).collect();
    for (name, uid) in &seen.acknowledged {
        ensure!(found.get(name.as_str()) == Some(&uid.as_str()), "{name} was acknowledged and is lost");
    }
    // Pods on the other hosts were not disturbed, and one can get at them.
    let path = "{range .items[*]}{.metadata.name} {.spec.nodeName} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}";
    let pods = across.args(&["get", "pods", "-o", &format!("jsonpath={path}")])?;
    for line in pods.lines().filter(|l| !l.contains(&format!(" {victim} "))) {
        ensure!(line.ends_with(" 0"), "restarted: {line}");
        let pod = line.split_whitespace().next().unwrap_or_default();
        eventually("exec on another host", PATIENCE, || across.args(&["exec", pod, "--", "true"]))?;
    }
    let status = cluster.cox(&["status"])?;
    ensure!(status.code == Some(1) && status.out.contains(&victim), "{}{}", status.out, status.err);
    Ok(())
}

pub fn repair(cluster: &Cluster) -> Result<()> {
    let began = Instant::now();
    let answer = cluster.up_again()?;
    ensure!(answer["changed"] == true, "{answer}");
    println!("     the host is back after {:.1} s", began.elapsed().as_secs_f64());
    let kubectl = cluster.kubectl().within("across");
    kubectl.run(&format!("rollout status deployment hello --timeout={}s", PATIENCE.as_secs()))?;
    eventually("a healthy cluster", PATIENCE, || {
        let status = cluster.cox(&["status"])?;
        ensure!(status.code == Some(0), "{}{}", status.out, status.err);
        Ok(())
    })
}
