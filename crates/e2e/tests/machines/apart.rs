//! Roles apart: a member of etcd, a control plane, a worker and a load balancer, each on a machine of its own; pods go
//! through a tunnel.
use anyhow::{Result, ensure};

use crate::cluster::Cluster;

const HOSTS: &str = "\
network: {podNetwork: vxlan}
apiServer: {loadBalancer: haproxy}
hosts:
- {name: a, address: 10.77.0.11, roles: [etcd]}
- {name: b, address: 10.77.0.12, roles: [control-plane, worker], ssh: {user: admin}}
- {name: c, address: 10.77.0.13, roles: [worker]}
- {name: d, address: 10.77.0.14, roles: [load-balancer]}
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
    ensure!(said["server"] == "https://10.77.0.14:6443", "{said}");
    println!("     roles apart, Ready after {} s", said["seconds"]);
    crate::network::across(cluster)?;
    let services = |name: &str| cluster.machine(name).sh("ls /var/lib/cox/services | tr '\\n' ' '");
    ensure!(services("a")?.trim() == "etcd", "{}", services("a")?);
    ensure!(services("d")?.trim() == "haproxy", "{}", services("d")?);
    ensure!(
        !services("b")?.contains("etcd") && !services("c")?.contains("kube-apiserver"),
        "{}",
        services("b")?
    );
    let config = cluster.machine("c").sh("grep resolvConf: /var/lib/kubelet/config.yaml")?;
    ensure!(config.contains("/run/systemd/resolve/resolv.conf"), "{config}");
    ensure!(
        cluster.machine("b").answer("grep resolvConf: /var/lib/kubelet/config.yaml")?.code == Some(1),
        "b"
    );
    let said = cluster.up()?;
    ensure!(said["changed"] == false, "{said}");
    Ok(())
}

pub fn firewall(cluster: &mut Cluster) -> Result<()> {
    let c = cluster.machine("c");
    c.sh("nft 'add table inet wall; add chain inet wall in { type filter hook input priority 0; }; \
          add rule inet wall in udp dport 8472 drop'")?;
    c.sh("systemctl stop kube-proxy")?;
    let answer = cluster.answer_of_up(&[])?;
    ensure!(answer.code == Some(1), "{}{}", answer.out, answer.err);
    for words in ["pods of nodes b and c do not reach each other", "UDP port 8472", "10.77.0.13"] {
        ensure!(answer.err.contains(words), "{words} in {}", answer.err);
    }
    c.sh("nft delete table inet wall")?;
    // Nothing is left to change, and yet it is tried again, until it works.
    let said = cluster.up()?;
    ensure!(said["changed"] == false, "{said}");
    let left = cluster
        .kubectl()
        .run("get pods,services -n kube-system -l app.kubernetes.io/component=cox-verify -o name")?;
    ensure!(left.lines().all(|l| l.starts_with("pod/")), "{left}");
    e2e::eventually("nothing is left of that", crate::PATIENCE, || {
        let left = cluster.kubectl().run("get pods -n kube-system --no-headers")?;
        ensure!(!left.contains("cox-verify"), "{left}");
        Ok(())
    })
}
