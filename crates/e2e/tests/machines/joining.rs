//! A machine that becomes a node by itself, with nothing but a token, and leaves again.
use anyhow::{Context as _, Result, ensure};
use e2e::eventually;
use e2e::machines::Machine;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::verbs::nothing_left;
use crate::{HELLO, PATIENCE};

/// Where the program lies on a machine that nobody has prepared.
const COX: &str = "/root/cox";

/// Runs `cox` there to its end, however long that takes; gives what it said.
fn to_the_end(machine: &Machine, arguments: &str) -> Result<String> {
    let run = format!("{COX} {arguments} --wait 240 >/root/said 2>/root/err; echo $? >/root/code");
    machine.sh(&format!("rm -f /root/code; setsid nohup sh -c '{run}' </dev/null >/dev/null 2>&1 &"))?;
    let code = eventually("an end", 3 * PATIENCE, || machine.sh("cat /root/code"))?;
    let (said, err) = (machine.sh("cat /root/said")?, machine.sh("cat /root/err")?);
    ensure!(code.trim() == "0", "{arguments}: {said}{err}");
    Ok(said)
}

pub fn join(cluster: &mut Cluster) -> Result<()> {
    let made = cluster.verb(&["token", "create", "--print-join-command"])?;
    ensure!(made.code == Some(0), "{}{}", made.out, made.err);
    let command = made.out.trim().strip_prefix("cox ").context("a command")?.to_owned();
    let e = cluster.machine("e");
    std::fs::copy(cluster.program(), e.path(COX))?;
    e.sh(&format!("chmod 755 {COX}"))?;
    let refused = e.answer(&format!("{COX} {command} --node-name a"))?;
    ensure!(refused.code == Some(1) && refused.err.contains("already, and it is Ready"), "{}", refused.err);
    let dry = e.sh(&format!("{COX} {command} --dry-run; [ ! -e /etc/kubernetes/pki/ca.crt ]"))?;
    ensure!(dry.contains("would become node e of cluster \"stacked\""), "{dry}");

    let said = to_the_end(e, &format!("{command} --node-labels rack=7 -o json"))?;
    let said: Value =
        serde_json::from_str(said.lines().last().unwrap_or_default()).with_context(|| said.clone())?;
    println!("     a machine joined in {} s", said["seconds"]);
    let kubectl = cluster.kubectl();
    let node = kubectl.run("get node e --no-headers -L rack")?;
    ensure!(node.contains(" Ready ") && node.trim().ends_with('7'), "{node}");
    // The token is gone from it, and no key of the cluster is there.
    e.sh("! ls /etc/kubernetes/pki/*.key /etc/kubernetes/bootstrap-kubelet.conf 2>/dev/null")?;

    // It is a node like the others: pods, DNS and Services there, logs and exec from elsewhere.
    let kubectl = cluster.kubectl().within("default");
    let overrides = r#"{"spec":{"nodeName":"e","tolerations":[{"operator":"Exists"}]}}"#;
    let image = format!("--image={HELLO}");
    kubectl.args(&["run", "probe", &image, "--restart=Never", "--overrides", overrides])?;
    kubectl.args(&["wait", "--for=condition=Ready", "pod/probe", "--timeout=120s"])?;
    eventually("logs of a pod on the new node", PATIENCE, || {
        let logs = kubectl.run("logs probe")?;
        ensure!(logs.contains("listening"), "{logs}");
        Ok(())
    })?;
    eventually("a Service of other nodes from the new one", PATIENCE, || {
        kubectl.args(&["exec", "probe", "--", "wget", "-qO-", "http://hello.across/"])
    })?;
    let slice =
        kubectl.run("get endpointslice kube-dns-e -n kube-system -o jsonpath={.endpoints[0].nodeName}")?;
    ensure!(slice == "e", "{slice}");

    // The same command again repairs, and `up` leaves it alone.
    e.sh("systemctl stop kube-proxy")?;
    to_the_end(e, &format!("{command} --node-labels rack=7"))?;
    e.sh("systemctl is-active kube-proxy kubelet")?;
    let up = cluster.up()?;
    ensure!(up["changed"] == false, "{up}");
    let status = cluster.verb(&["status"])?;
    ensure!(
        status.code == Some(0) && status.out.contains("joined by itself"),
        "{}{}",
        status.out,
        status.err
    );
    let other = e.answer(&format!("{COX} {command} --node-name f"))?;
    ensure!(other.code == Some(1) && other.err.contains("is node e of cluster"), "{}", other.err);
    Ok(())
}

pub fn leave(cluster: &mut Cluster) -> Result<()> {
    let e = cluster.machine("e");
    let down = e.sh(&format!("{COX} down 2>&1; ! systemctl is-active -q kubelet"))?;
    ensure!(down.contains("Node e of cluster \"stacked\" is down"), "{down}");
    let gone = e.sh(&format!("{COX} down --purge 2>&1"))?;
    ensure!(gone.contains("kubectl delete node e"), "{gone}");
    nothing_left(e)?;
    cluster.kubectl().run("delete node e")?;
    eventually("the DNS of the node goes with it", PATIENCE, || {
        cluster.kubectl().refused("get endpointslice kube-dns-e -n kube-system")
    })
    .map(drop)
}
