//! What `up` does to hosts, and when it does nothing.
use anyhow::{Context as _, Result, ensure};
use e2e::eventually;

use crate::PATIENCE;
use crate::cluster::{Cluster, changes};

const HOSTS: &str = "\
hosts:
- {name: a, address: 10.77.0.11, roles: [control-plane, worker]}
- {name: b, address: 10.77.0.12, roles: [control-plane, worker]}
- {name: c, address: 10.77.0.13, roles: [control-plane, worker]}
";

pub fn up(cluster: &mut Cluster) -> Result<()> {
    cluster.write(HOSTS)?;
    let said = cluster.up()?;
    ensure!(said["changed"] == true, "{said}");
    println!("     three machines Ready after {} s", said["seconds"]);
    let nodes = cluster.kubectl().run("get nodes --no-headers")?;
    ensure!(nodes.lines().count() == 3 && nodes.lines().all(|l| l.contains(" Ready ")), "{nodes}");
    Ok(())
}

pub fn again(cluster: &mut Cluster) -> Result<()> {
    let said = cluster.up()?;
    ensure!(said["changed"] == false && changes(&said).is_empty(), "{said}");
    println!("     nothing to do, after {} s", said["seconds"]);
    let answer = cluster.answer_of_up(&[])?;
    ensure!(
        answer.code == Some(0) && answer.out.contains("nothing was changed"),
        "{}{}",
        answer.out,
        answer.err
    );
    Ok(())
}

pub fn repair(cluster: &mut Cluster) -> Result<()> {
    let (a, b, c) = (cluster.machine("a"), cluster.machine("b"), cluster.machine("c"));
    a.sh("sed -i 's/clusterDomain: .*/clusterDomain: example.org/' /var/lib/kubelet/config.yaml; chmod 644 /etc/kubernetes/pki/ca.key")?;
    b.sh("sed -i 's/--leader-elect=true/--leader-elect=false/' /etc/systemd/system/kube-scheduler.service; systemctl stop kube-proxy")?;
    c.sh("rm /usr/local/bin/kube-apiserver; systemctl disable -q --now cox-dns")?;
    let said = cluster.up()?;
    let mut done = changes(&said);
    done.sort();
    let want = [
        "a: /etc/kubernetes/pki/ca.key written",
        "a: /var/lib/kubelet/config.yaml written",
        "a: kubelet restarted",
        "b: kube-proxy started",
        "b: kube-scheduler restarted",
        "c: /usr/local/bin/kube-apiserver installed",
        "c: cox-dns started",
    ];
    ensure!(done == want, "{done:#?}");
    a.sh("grep -q 'clusterDomain: cluster.local' /var/lib/kubelet/config.yaml; [ $(stat -c %a /etc/kubernetes/pki/ca.key) = 600 ]")?;
    b.sh("grep -q -- --leader-elect=true /etc/systemd/system/kube-scheduler.service; tr '\\0' ' ' </proc/$(systemctl show -p MainPID --value kube-scheduler)/cmdline | grep -q -- --leader-elect=true")?;
    c.sh("systemctl is-enabled cox-dns; systemctl is-active cox-dns; [ -L /usr/local/bin/kube-apiserver ]")?;
    let said = cluster.up()?;
    ensure!(said["changed"] == false, "{said}");
    Ok(())
}

/// By another way: as a user who becomes root with sudo, through another host; and without a package that it lacks.
pub fn join(cluster: &mut Cluster) -> Result<()> {
    let d = cluster.machine("d");
    // Only from another host does one get in.
    d.sh("nft 'add table inet gate; add chain inet gate in { type filter hook input priority 0; }; \
          add rule inet gate in ip saddr 10.77.0.1 tcp dport 22 reject'")?;
    let packages = cluster.wire.dir().join("packages");
    std::fs::create_dir_all(&packages)?;
    let made = d.sh(
        "mkdir -p /tmp/p/DEBIAN /tmp/p/usr/sbin /tmp/p/usr/lib/systemd/system; cp -L /usr/sbin/conntrack /tmp/p/usr/sbin/
         printf 'Package: conntrack\\nVersion: 99\\nArchitecture: all\\nMaintainer: nobody <nobody@example.org>\\nDescription: test\\n' >/tmp/p/DEBIAN/control
         printf '[Service]\\nExecStart=/bin/sleep infinity\\n' >/tmp/p/usr/lib/systemd/system/own.service
         printf '#!/bin/sh\\nset -e\\nsystemctl daemon-reload\\ndeb-systemd-invoke start own.service\\n' >/tmp/p/DEBIAN/postinst
         chmod 755 /tmp/p/DEBIAN/postinst
         dpkg-deb --root-owner-group -b /tmp/p /tmp/conntrack.deb >/dev/null
         dpkg --purge --force-depends conntrack >/dev/null 2>&1
         ! command -v conntrack >/dev/null",
    )?;
    ensure!(made.is_empty(), "{made}");
    std::fs::copy(d.path("/tmp/conntrack.deb"), packages.join("conntrack_99_all.deb"))?;
    let more = format!(
        "{HOSTS}- {{name: d, address: 10.77.0.14, roles: [worker], labels: {{disk: fast}}, ssh: {{user: admin, jump: root@10.77.0.11}}}}\n\
         packages: {}\n",
        packages.display()
    );
    cluster.write(&more)?;
    let said = cluster.up()?;
    let done = changes(&said);
    ensure!(done.contains(&"d: package conntrack installed".to_owned()), "{done:#?}");
    // Its package starts nothing by itself, and nothing is left that would keep the next one from it.
    d.sh("[ \"$(dpkg-query -W -f '${Version}' conntrack)\" = 99 ]; [ ! -e /usr/sbin/policy-rc.d ]; ! systemctl is-active -q own")?;
    // What the others read has not changed: they need not be started anew.
    ensure!(!done.iter().any(|c| !c.starts_with("d: ") && c.contains("start")), "{done:#?}");
    let kubectl = cluster.kubectl();
    eventually("the new node", PATIENCE, || {
        let line = kubectl.run("get nodes d --no-headers -L disk")?;
        ensure!(line.contains(" Ready ") && line.contains("fast"), "{line}");
        Ok(())
    })
    .context("d")?;
    kubectl.within("across").run("scale deployment hello --replicas=8")?;
    kubectl.within("across").run("rollout status deployment hello --timeout=120s")?;
    crate::network::across(cluster)
}

/// What is not described any more is emptied and leaves, and nothing of the cluster stays on it.
pub fn leave(cluster: &mut Cluster) -> Result<()> {
    cluster.write(HOSTS)?;
    let said = cluster.up()?;
    ensure!(said["changed"] == true, "{said}");
    let kubectl = cluster.kubectl();
    let nodes = kubectl.run("get nodes -o name")?;
    ensure!(!nodes.contains("node/d") && nodes.contains("node/a"), "{nodes}");
    kubectl.within("across").run("rollout status deployment hello --timeout=120s")?;
    crate::verbs::nothing_left(cluster.machine("d"))?;
    crate::network::across(cluster)?;
    let said = cluster.up()?;
    ensure!(said["changed"] == false, "{said}");
    Ok(())
}
