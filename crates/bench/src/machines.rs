//! A cluster of three machines over ssh: from `cox up -f` to Ready.
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use e2e::machines::{Wire, missing};

use crate::Plan;
use crate::host::told;
use crate::process::run;
use crate::report::{Report, median};

/// What machines need to be control planes and nodes at once; it is there, and counts not.
const PROGRAMS: [&str; 4] = ["etcd", "containerd", "runc", "nft"];
/// How often: each time new machines are booted.
const ROUNDS: usize = 3;

/// Three control planes with etcd that run pods too.
pub fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    let missing = missing(&PROGRAMS);
    ensure!(rustix::process::geteuid().is_root() && missing.is_empty(), "needs root, and {missing:?}");
    let cox = std::fs::canonicalize(&plan.cox)?;
    let (mut ups, mut seen, mut agains) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds.min(ROUNDS) {
        let wire = Wire::new("bm")?;
        let machines = wire.boot(&[("a", 11), ("b", 12), ("c", 13)])?;
        let hosts: String = machines
            .iter()
            .map(|m| {
                format!("- {{name: {}, address: {}, roles: [control-plane, worker]}}\n", m.name, m.address)
            })
            .collect();
        let file = wire.dir().join("cluster.yaml");
        let text = format!("name: bench\nssh: {{key: {}}}\nhosts:\n{hosts}", wire.key().display());
        std::fs::write(&file, text)?;
        let up = |more: &[&str]| -> Result<f64> {
            let mut command: Command = wire.command(&cox);
            command
                .args(["up", "-o", "json", "-f"])
                .arg(&file)
                .arg("--data-dir")
                .arg(wire.dir().join("data"));
            command.args(more).env_remove("RUST_LOG");
            told(&run(command, "cox up -f")?)?["seconds"].as_f64().context("seconds")
        };
        ups.push(up(&["--no-verify"])?);
        agains.push(up(&[])?);
        machines[0].sh("systemctl stop kube-proxy")?;
        seen.push(up(&[])? - agains[agains.len() - 1]);
    }
    report.add(
        "three hosts over ssh, to Ready",
        median(ups),
        "s",
        "systemd, packages already there; all on this machine",
    );
    report.add("the same, to see that it works", median(seen), "s", "pods, names and Services on every node");
    report.add("the same again", median(agains), "s", "nothing to do");
    Ok(())
}
