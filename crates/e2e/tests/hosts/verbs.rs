//! The verbs of `cox` on a cluster of hosts.
use anyhow::{Context as _, Result, ensure};
use e2e::Cluster;
use serde_json::Value;

/// The hosts' names.
pub fn hosts(cluster: &Cluster) -> Vec<String> {
    (1..=3).map(|i| format!("{}-{i}", cluster.name())).collect()
}

/// The ends of all logs.
pub fn logs(cluster: &Cluster) -> String {
    let mut text = String::new();
    for host in hosts(cluster) {
        let Ok(entries) = std::fs::read_dir(cluster.root().join("logs").join(&host)) else { continue };
        for entry in entries.flatten().filter(|e| e.path().extension().is_some_and(|e| e == "log")) {
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(6)..].join("\n");
            text += &format!("== {host} {}\n{end}\n", entry.file_name().to_string_lossy());
        }
    }
    text
}

pub fn again(cluster: &Cluster) -> Result<()> {
    let answer = cluster.up_again()?;
    ensure!(answer["changed"] == false, "{answer}");
    // Without a word about hosts, too; and people are told.
    let said = cluster.cox(&["up", "--secure-port", cluster.port()])?;
    ensure!(said.code == Some(0) && said.out.contains("nothing was changed"), "{}{}", said.out, said.err);
    let other = cluster.cox(&["up", "--nodes", "3", "--service-cidr", "10.97.0.0/16"])?;
    ensure!(
        other.code == Some(1) && other.err.contains("network.serviceCIDR is 10.96.0.0/12"),
        "{}{}",
        other.out,
        other.err
    );
    Ok(())
}

pub fn status(cluster: &Cluster) -> Result<()> {
    let answer = cluster.cox(&["status", "-o", "json"])?;
    ensure!(answer.code == Some(0), "{}{}", answer.out, answer.err);
    let status: Value = serde_json::from_str(&answer.out).context("cox status -o json")?;
    let names = |what: &str| -> Vec<String> {
        let items = status["items"].as_array().into_iter().flatten();
        items.filter(|i| i["what"] == what).filter_map(|i| i["name"].as_str().map(str::to_owned)).collect()
    };
    ensure!(names("host") == hosts(cluster), "{status}");
    ensure!(names("node") == hosts(cluster), "{status}");
    for host in hosts(cluster) {
        for service in ["etcd", "kube-apiserver", "kubelet", "cox-balancer"] {
            ensure!(names("service").contains(&format!("{host}/{service}")), "{host}/{service}: {status}");
        }
    }
    let etcd: Vec<&Value> =
        status["items"].as_array().into_iter().flatten().filter(|i| i["what"] == "etcd").collect();
    ensure!(etcd.len() == 3, "{status}");
    ensure!(etcd.iter().filter(|i| i["data"]["leader"] == true).count() == 1, "{etcd:?}");
    ensure!(etcd.iter().all(|i| i["data"]["dbSize"].as_u64() > Some(0)), "{etcd:?}");
    ensure!(hosts(cluster).iter().all(|h| names("certificate").contains(h)), "{status}");
    ensure!(names("add-on") == ["DNS"], "{status}");
    // People have the services of a host in one line.
    let text = cluster.cox(&["status"])?.out;
    ensure!(text.contains("cox-balancer, cox-dns"), "{text}");
    let path = cluster.cox(&["kubeconfig", "--path"])?;
    ensure!(path.out.trim() == cluster.root().join("kubeconfig/admin.kubeconfig").display().to_string());
    Ok(())
}
