//! Roles apart: a member of etcd, a control plane and a worker, each on a machine of its own; pods go through a tunnel.
use anyhow::{Result, ensure};

use crate::cluster::Cluster;

const HOSTS: &str = "\
network: {podNetwork: vxlan}
hosts:
- {name: a, address: 10.77.0.11, roles: [etcd]}
- {name: b, address: 10.77.0.12, roles: [control-plane, worker], ssh: {user: admin}}
- {name: c, address: 10.77.0.13, roles: [worker]}
";

pub fn up(cluster: &mut Cluster) -> Result<()> {
    // As where systemd-resolved answers: its own address is of no use in pods.
    cluster.machine("c").sh(
        "mkdir -p /run/systemd/resolve; echo nameserver 192.0.2.53 >/run/systemd/resolve/resolv.conf
         echo nameserver 127.0.0.53 >/run/systemd/resolve/stub-resolv.conf
         ln -sfn /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf",
    )?;
    cluster.write(HOSTS)?;
    let said = cluster.up()?;
    println!("     roles apart, Ready after {} s", said["seconds"]);
    crate::network::across(cluster)?;
    let services = |name: &str| cluster.machine(name).sh("ls /var/lib/cox/services | tr '\\n' ' '");
    ensure!(services("a")?.trim() == "etcd", "{}", services("a")?);
    ensure!(!services("b")?.contains("etcd") && !services("c")?.contains("kube-apiserver"), "{}", services("b")?);
    let config = cluster.machine("c").sh("grep resolvConf: /var/lib/kubelet/config.yaml")?;
    ensure!(config.contains("/run/systemd/resolve/resolv.conf"), "{config}");
    ensure!(cluster.machine("b").answer("grep resolvConf: /var/lib/kubelet/config.yaml")?.code == Some(1), "b");
    let said = cluster.up()?;
    ensure!(said["changed"] == false, "{said}");
    Ok(())
}
