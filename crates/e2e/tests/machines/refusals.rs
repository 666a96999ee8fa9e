//! Hosts that cannot be used: each message says what to do, and all hosts are told at once.
use anyhow::{Result, ensure};

use crate::cluster::Cluster;

pub fn all(cluster: &mut Cluster) -> Result<()> {
    let other = cluster.wire.other_key().display().to_string();
    cluster.write(&format!(
        "hosts:\n\
         - {{name: a, address: 10.77.0.11, roles: [control-plane], ssh: {{user: guest}}}}\n\
         - {{name: b, address: 10.77.0.12, roles: [worker], ssh: {{key: {other}}}}}\n\
         - {{name: c, address: 10.77.0.13, roles: [worker]}}\n\
         - {{name: d, address: 10.77.0.99, roles: [worker]}}\n"
    ))?;
    let answer = cluster.answer_of_up(&[])?;
    let said = answer.err.clone();
    ensure!(answer.code == Some(1), "{said}");
    for (host, words) in [
        ("host a:", ["sudo", "NOPASSWD"]),
        ("host b:", ["Permission denied", "right key"]),
        ("host d:", ["No route to host", "is it on"]),
    ] {
        let line = said.lines().find(|l| l.contains(host)).unwrap_or_default();
        ensure!(words.iter().all(|word| line.contains(word)), "{host} {words:?} in\n{said}");
    }
    ensure!(!said.contains("host c:"), "{said}");
    // Nobody has been given a part of a cluster that could not be made.
    cluster
        .machine("c")
        .sh("[ ! -e /etc/kubernetes ]; [ ! -e /usr/local/bin/cox ]; [ ! -e /var/lib/cox ]")?;
    Ok(())
}
