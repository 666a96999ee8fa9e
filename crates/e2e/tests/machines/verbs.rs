//! How `cox status` tells a cluster of machines, and how `cox down` takes it away.
use anyhow::{Context as _, Result, ensure};
use e2e::eventually;
use e2e::machines::Machine;
use serde_json::Value;

use crate::PATIENCE;
use crate::cluster::Cluster;

/// Nobody gets in over ssh; who is in is thrown out.
pub const GATE: &str = "nft 'add table inet shut; add chain inet shut in { type filter hook input priority 0; }; \
                        add rule inet shut in tcp dport 22 reject with tcp reset'";
pub const OPEN: &str = "nft delete table inet shut";

fn status(cluster: &Cluster) -> Result<(Option<i32>, Vec<Value>)> {
    let answer = cluster.verb(&["status", "-o", "json"])?;
    let said: Value = serde_json::from_str(&answer.out).with_context(|| answer.out + &answer.err)?;
    Ok((answer.code, said["items"].as_array().cloned().unwrap_or_default()))
}

fn find<'a>(items: &'a [Value], what: &str, name: &str) -> Result<&'a Value> {
    let found = items.iter().find(|i| i["what"] == what && i["name"] == name);
    found.with_context(|| format!("{what} {name} in {items:#?}"))
}

pub fn told(cluster: &mut Cluster) -> Result<()> {
    let items = eventually("a healthy cluster", PATIENCE, || {
        let (code, items) = status(cluster)?;
        ensure!(code == Some(0), "{items:#?}");
        Ok(items)
    })?;
    for host in ["a", "b", "c", "d"] {
        ensure!(find(&items, "host", host)?["healthy"] == true);
        ensure!(find(&items, "node", host)?["healthy"] == true);
        ensure!(find(&items, "service", &format!("{host}/kubelet"))?["data"]["restarts"].is_u64());
        let certificates = find(&items, "certificate", host)?;
        ensure!(certificates["data"]["count"].as_u64() > Some(1), "{certificates}");
    }
    let etcd: Vec<&Value> = items.iter().filter(|i| i["what"] == "etcd").collect();
    ensure!(etcd.len() == 3, "{etcd:?}");
    ensure!(etcd.iter().filter(|i| i["data"]["leader"] == true).count() == 1, "{etcd:?}");
    ensure!(etcd.iter().all(|i| i["data"]["dbSize"].as_u64() > Some(0)), "{etcd:?}");
    find(&items, "add-on", "DNS")?;
    let text = cluster.verb(&["status"])?;
    println!("{}", text.out);

    // A service that ended and a host that nobody gets to: lines of their own, and the rest is told all the same.
    let (a, b) = (cluster.machine("a"), cluster.machine("b"));
    a.sh("systemctl stop kube-scheduler")?;
    b.sh(GATE)?;
    let told = (|| -> Result<()> {
        let (code, items) = status(cluster)?;
        ensure!(code == Some(1));
        let scheduler = find(&items, "service", "a/kube-scheduler")?;
        ensure!(scheduler["healthy"] == false, "{scheduler}");
        let host = find(&items, "host", "b")?;
        let why = host["detail"].as_str().unwrap_or_default();
        ensure!(host["healthy"] == false && why.contains("no ssh to"), "{host}");
        ensure!(find(&items, "node", "b")?["healthy"] == true);
        ensure!(find(&items, "host", "c")?["healthy"] == true);
        Ok(())
    })();
    b.sh(OPEN)?;
    a.sh("systemctl start kube-scheduler")?;
    told
}

/// What a machine has that it did not have before; nothing where all is gone.
fn left(machine: &Machine) -> Result<String> {
    // Each line asks for something that should not be there.
    let answer = machine.answer(
        "for p in kubelet kube-proxy kube-apiserver kube-controller-manager kube-scheduler etcd containerd containerd-shim-runc-v2 cox; do
           pgrep -x \"$(printf %.15s $p)\" >/dev/null && echo \"process $p\"; done
         for f in /etc/kubernetes /var/lib/kubelet /var/lib/etcd /var/lib/cox/services /var/lib/cox/cluster /var/lib/cox/joined.json /var/lib/cni /var/log/pods /usr/local/bin/cox \
                  /usr/local/bin/kubelet /etc/systemd/system/kubelet.service /etc/systemd/system/containerd.service \
                  /etc/sysctl.d/90-cox.conf /etc/cni/net.d/10-cox.conflist; do
           [ -e $f ] && echo \"file $f\"; done
         ip -o link | grep -E ': (veth|cox|vxlan)' | sed 's/^/link /'
         ip route | grep -E '^10\\.244\\.' | sed 's/^/route /'
         nft list tables | grep -E 'cox-proxy' | sed 's/^/table /'
         find /sys/fs/cgroup -maxdepth 2 -name kubepods | sed 's/^/cgroup /'
         grep -E ' /var/lib/kubelet| /run/containerd' /proc/self/mountinfo | sed 's/^/mount /'
         true",
    )?;
    ensure!(answer.code == Some(0), "{}: {}", machine.name, answer.err);
    Ok(answer.out)
}

pub fn nothing_left(machine: &Machine) -> Result<()> {
    let left = left(machine)?;
    ensure!(left.trim().is_empty(), "{} still has\n{left}", machine.name);
    // What packages brought stays.
    machine.sh("[ -x /usr/bin/containerd ]").map(drop)
}

pub fn down(cluster: &mut Cluster) -> Result<()> {
    let b = cluster.machine("b");
    b.sh(GATE)?;
    let partly = cluster.verb(&["down", "--purge"]);
    b.sh(OPEN)?;
    let partly = partly?;
    ensure!(
        partly.code == Some(1) && partly.err.contains("left as it is: host b"),
        "{}{}",
        partly.out,
        partly.err
    );
    nothing_left(cluster.machine("c"))?;
    ensure!(cluster.verb(&["kubeconfig", "--path"])?.code == Some(0), "its data is needed to go on");

    let down = cluster.verb(&["down", "--purge"])?;
    ensure!(down.code == Some(0) && down.out.contains("its data is gone"), "{}{}", down.out, down.err);
    for host in ["a", "b", "c", "d"] {
        nothing_left(cluster.machine(host))?;
    }
    let again = cluster.verb(&["down", "--purge"])?;
    ensure!(again.code == Some(0) && again.out.contains("There is no cluster"), "{}{}", again.out, again.err);
    Ok(())
}
