//! Guide 001: three masters whose kubelets keep everything running from manifests: etcd, API server, controller manager,
//! scheduler; taints, mirror pods, bootstrap tokens, an audit log.
mod files;

use anyhow::{Context as _, Result, ensure};

use crate::changes::{changed, named_as_gone, refused};
use crate::hosts::{Host, Network};
use crate::images::{ETCD, HYPERKUBE, Images, PAUSE};
use crate::nodes;

const KUBECTL: &str = "kubectl --kubeconfig /etc/kubernetes/admin.kubeconfig";

/// Follows the guide, and lets a worker join.
pub fn replay() -> Result<()> {
    let network = Network::new("s")?;
    let images = Images::new(network.dir());
    let all = [
        ("master0", "10.180.0.10"),
        ("master1", "10.180.0.11"),
        ("master2", "10.180.0.12"),
        ("worker0", "10.180.0.20"),
    ];
    let mut hosts = network.boot(&all)?;
    let worker = hosts.pop().context("worker0")?;
    let done = masters(&hosts, &images)
        .and_then(|()| verification(&hosts))
        .and_then(|()| join(&hosts[0], &worker, &images))
        .and_then(|()| restarts(&hosts[0]));
    done.map_err(|e| {
        let tails = "for f in /var/log/pods/*/*/*.log; do echo \"--- $f\"; tail -n 12 $f; done";
        let pods: String = hosts.iter().map(|h| h.sh(tails).unwrap_or_default()).collect();
        let logs: String = hosts.iter().chain([&worker]).map(Host::journals).collect();
        e.context(format!("{pods}{logs}"))
    })
}

fn masters(hosts: &[Host], images: &Images) -> Result<()> {
    let first = &hosts[0];
    first.sh(&format!("{{ {} }} >/dev/null 2>&1", files::CERTIFICATES))?;
    let given = [
        "ca.pem",
        "ca-key.pem",
        "kubernetes.pem",
        "kubernetes-key.pem",
        "token.csv",
        "master.kubeconfig",
        "admin.kubeconfig",
    ]
    .map(|file| format!("/opt/certs/{file}"));
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let kubelet = changed(files::KUBELET, &[files::WRAPPER])?;
    for (i, host) in hosts.iter().enumerate() {
        let variables =
            format!("export INTERNAL_IP={0} ETCD_NAME=master$(echo {0} | cut -c 11)\n", host.address);
        host.sh("sudo mkdir -p /etc/kubernetes/manifests")?;
        first.scp(&given, host, "/etc/kubernetes")?;
        host.write("/etc/kubernetes/audit.yaml", files::AUDIT)?;
        nodes::start_containerd(host)?;
        images.import(host, &[PAUSE, ETCD, HYPERKUBE])?;
        nodes::write_network(host, &format!("10.180.{}.0/24", 128 + i))?;
        if i == 0 {
            refused(host, "kubelet", &format!("{variables}{kubelet}"), files::KUBELET_CHANGES)?;
        }
        host.sh(&format!("{variables}{}", changed(&kubelet, files::KUBELET_CHANGES)?))?;
        host.sh("sudo systemctl enable kubelet; sudo systemctl start kubelet")?;
        host.sh("sudo mkdir -p /var/lib/etcd")?;
        host.sh(&format!("{variables}{}", changed(files::ETCD, files::ETCD_CHANGES)?))?;
        if i == 0 {
            // As the guide has it, the pod fails, and its log says all that is wrong with it.
            host.sh(&format!("{variables}{}", changed(files::API_SERVER, files::API_SERVER_IMAGE)?))?;
            let log = "cat /var/log/pods/kube-system_apiserver-master0_*/apiserver/*.log";
            let said = host.until("the pod fails", log, |log| log.contains("of these flags no more"))?;
            named_as_gone(&said, "apiserver", files::API_SERVER_CHANGES)?;
        }
    }
    let health = "ETCDCTL_API=3 etcdctl --cacert=/etc/kubernetes/ca.pem --cert=/etc/kubernetes/kubernetes.pem \
                  --key=/etc/kubernetes/kubernetes-key.pem \
                  --endpoints=https://10.180.0.10:2379,https://10.180.0.11:2379,https://10.180.0.12:2379 endpoint health 2>&1";
    first.until("etcd is healthy", health, |text| text.matches(" is healthy: ").count() == 3)?;
    for host in hosts {
        let variables = format!("export INTERNAL_IP={}\n", host.address);
        let server =
            changed(&changed(files::API_SERVER, files::API_SERVER_IMAGE)?, files::API_SERVER_CHANGES)?;
        for text in [
            server,
            changed(files::CONTROLLER_MANAGER, files::CONTROLLER_MANAGER_CHANGES)?,
            changed(files::SCHEDULER, files::SCHEDULER_CHANGES)?,
        ] {
            host.sh(&format!("{variables}cd /opt; {text}"))?;
        }
    }
    Ok(())
}

fn verification(hosts: &[Host]) -> Result<()> {
    let first = &hosts[0];
    let three =
        |table: &str| table.lines().filter(|l| l.starts_with("master") && l.contains(" Ready ")).count() == 3;
    first.until("the masters are ready", &format!("{KUBECTL} get nodes"), three)?;
    // Four pods each, as the guide shows them.
    let running = |table: &str| {
        ["etcd", "apiserver", "controller-manager", "scheduler"].iter().all(|pod| {
            (0..3).all(|i| {
                table.lines().any(|l| {
                    l.starts_with(&format!("{pod}-master{i} ")) && l.contains("1/1") && l.contains("Running")
                })
            })
        })
    };
    first.until("all pods run", &format!("{KUBECTL} get pods --namespace=kube-system"), running)?;
    let inside = first.sh("ctr -n k8s.io containers list -q | wc -l")?;
    ensure!(inside.trim().parse::<u32>()? >= 8, "{inside} containers, pause containers among them");
    // Nobody in particular gets nothing, as in the guide.
    let unauthorized = first.sh("curl -k -s https://10.180.0.11:6443/healthz")?;
    ensure!(unauthorized.contains("Unauthorized"), "{unauthorized}");
    // Logs of a mirror pod, by way of another master's API server.
    let logs = "kubectl --kubeconfig /etc/kubernetes/admin.kubeconfig --server https://10.180.0.12:6443 -n kube-system \
                logs apiserver-master1";
    first.until("logs of a mirror pod", logs, |log| log.contains("the API server serves"))?;
    // What is recorded, inside of the pod.
    let audit = format!("{KUBECTL} -n kube-system exec apiserver-master0 -- cat /var/lib/audit.log");
    first.until("the audit log", &audit, |log| {
        log.contains("\"kind\":\"Event\"") && log.contains("\"level\":\"Metadata\"")
    })?;
    let taints = first.sh(&format!("{KUBECTL} get node master1 -o jsonpath={{.spec.taints}}"))?;
    ensure!(taints.contains("node-role.kubernetes.io/master") && taints.contains("NoSchedule"), "{taints}");
    // The mirror of a pod may go: it comes back, and the pod never noticed.
    let container = format!(
        "{KUBECTL} -n kube-system get pod scheduler-master2 -o jsonpath={{.status.containerStatuses[0].containerID}}"
    );
    let before = first.sh(&container)?;
    first.sh(&format!("{KUBECTL} -n kube-system delete pod scheduler-master2"))?;
    first.until("the mirror comes back", &container, |id| id == before)?;
    Ok(())
}

/// A worker joins with a bootstrap token, and pods that tolerate no taint go there.
fn join(first: &Host, worker: &Host, images: &Images) -> Result<()> {
    first.write("/opt/token.yaml", files::TOKEN)?;
    first.sh(&format!("{KUBECTL} create -f /opt/token.yaml"))?;
    first.sh(&format!("{KUBECTL} create deployment web --image={HYPERKUBE} -- /hyperkube hello"))?;
    let pending =
        format!("{KUBECTL} get pods -l app=web -o jsonpath={{.items[0].status.conditions[0].message}}");
    first.until("no master takes it", &pending, |text| text.contains("3 node(s) had untolerated taint"))?;
    first.scp(&["/etc/kubernetes/ca.pem"], worker, "/etc/kubernetes")?;
    nodes::start_containerd(worker)?;
    images.import(worker, &[PAUSE, HYPERKUBE])?;
    nodes::write_network(worker, "10.180.140.0/24")?;
    worker.sh(&format!("{{ {} }} >/dev/null", files::WORKER))?;
    // What asks for a kubelet's client certificate is signed by itself, a serving certificate by who is asked.
    let serving = format!(
        "{KUBECTL} get csr -o jsonpath='{{range .items[?(@.spec.signerName==\"kubernetes.io/kubelet-serving\")]}}{{.metadata.name}} {{end}}'"
    );
    let name = first
        .until("the worker asks for a serving certificate", &serving, |names| !names.trim().is_empty())?;
    first.sh(&format!("{KUBECTL} certificate approve {}", name.trim()))?;
    let ready = format!("{KUBECTL} get node worker0 --no-headers");
    first.until("the worker is ready", &ready, |line| line.contains(" Ready "))?;
    let there = format!("{KUBECTL} get pods -l app=web -o wide --no-headers");
    first.until("the pod runs there", &there, |line| line.contains("Running") && line.contains("worker0"))?;
    let logs = format!("{KUBECTL} logs deployment/web");
    first.until("the worker's certificate is believed", &logs, |_| true)?;
    Ok(())
}

/// A container that dies is started again, and a manifest that is taken away takes its pod along.
fn restarts(first: &Host) -> Result<()> {
    let count = format!(
        "{KUBECTL} -n kube-system get pod scheduler-master0 -o jsonpath={{.status.containerStatuses[0].restartCount}}"
    );
    let before: u32 = first.sh(&count)?.trim().parse()?;
    first.sh("kill -9 $(pgrep -f '^/hyperkube scheduler')")?;
    first.until("the kubelet starts it again", &count, |n| {
        n.trim().parse::<u32>().is_ok_and(|n| n > before)
    })?;
    first.sh("mv /etc/kubernetes/manifests/scheduler.manifest /opt/")?;
    let pods = format!("{KUBECTL} -n kube-system get pods --no-headers");
    first.until("it is gone with its manifest", &pods, |table| !table.contains("scheduler-master0"))?;
    Ok(())
}
