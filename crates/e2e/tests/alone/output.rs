//! What the verbs say, to people, to programs, and to readers that left.
use std::io::pipe;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use e2e::{Cluster, binary};
use serde_json::Value;

#[test]
fn verbs_end_quietly_when_nobody_reads_and_speak_json_when_asked() -> Result<()> {
    let cluster = Cluster::up(&binary(), "output", false)?;

    // `cox status | head -0`: the reader is gone before the first word.
    let unread = |verb: &[&str], errors_too: bool| -> Result<()> {
        let (reader, writer) = pipe()?;
        drop(reader);
        let mut command = Command::new(cluster.binary());
        command.args(verb).args(["--name", cluster.name()]).arg("--data-dir").arg(cluster.data_dir());
        command.stdin(Stdio::null()).stdout(writer.try_clone()?);
        if errors_too {
            command.stderr(writer)
        } else {
            command.stderr(Stdio::piped())
        };
        let answer = command.spawn()?.wait_with_output()?;
        let said = String::from_utf8_lossy(&answer.stderr);
        ensure!(said.is_empty(), "{verb:?} said {said}");
        ensure!(answer.status.code() == Some(0), "{verb:?} ended with {:?}", answer.status);
        Ok(())
    };
    for errors_too in [false, true] {
        for verb in [["status", "-o", "text"], ["status", "-o", "json"], ["kubeconfig", "-o", "text"]] {
            unread(&verb, errors_too)?;
        }
    }
    // A failure that cannot be told is a failure all the same.
    let (reader, writer) = pipe()?;
    drop(reader);
    let mut command = Command::new(cluster.binary());
    command.args(["status", "--name", "none", "--data-dir"]).arg(cluster.data_dir());
    let status = command.stdout(writer.try_clone()?).stderr(writer).status()?;
    ensure!(status.code() == Some(1), "{status:?}");
    let (reader, writer) = pipe()?;
    drop(reader);
    let status = Command::new(cluster.binary()).args(["completion", "bash"]).stdout(writer).status()?;
    ensure!(status.code() == Some(0), "{status:?}");

    // Programs get one object, and no steps beside it.
    ensure!(cluster.cox(&["down", "-o", "json"])?.code == Some(0), "down");
    let up = cluster.answer_of_up()?;
    ensure!(up.code == Some(0) && up.err.is_empty(), "{}{}", up.out, up.err);
    for verb in [vec!["status"], vec!["kubeconfig"], vec!["kubeconfig", "--path"]] {
        let answer = cluster.cox(&[&verb[..], &["-o", "json"]].concat())?;
        let value: Value = serde_json::from_str(&answer.out)?;
        ensure!(value.is_object() && answer.err.is_empty(), "{verb:?}: {}{}", answer.out, answer.err);
    }
    let answer = cluster.cox(&["status", "-o", "json", "--no-such-flag"])?;
    let value: Value = serde_json::from_str(&answer.out)?;
    ensure!(
        answer.code == Some(2) && value["error"].to_string().contains("--no-such-flag"),
        "{}",
        answer.out
    );
    Ok(())
}

#[test]
fn networks_of_a_cluster_beside_are_told_with_what_to_change() -> Result<()> {
    // A node's networks alone clash, and no second node is made for this: the record of a running one will do.
    let cluster = Cluster::up(&binary(), "beside", false)?;
    let file = cluster.root().join("cluster.json");
    let mut settings: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    settings["node"] = true.into();
    std::fs::write(&file, settings.to_string())?;
    let mut command = Command::new(cluster.binary());
    command.args(["up", "--name", "second", "--secure-port", "0", "--kubelet-port", "0", "--dns-port", "0"]);
    command.arg("--data-dir").arg(cluster.data_dir());
    let answer = e2e::run(command, None, std::time::Duration::from_secs(60))?;
    settings["node"] = false.into();
    std::fs::write(&file, settings.to_string())?;
    ensure!(answer.code == Some(1), "{:?} {}", answer.code, answer.err);
    for words in [
        "the pod network 10.244.0.0/16 overlaps 10.244.0.0/16 of cluster \"beside\"",
        "for example --cluster-cidr 10.",
        "the service network 10.96.0.0/12 overlaps 10.96.0.0/12 of cluster \"beside\"",
        "for example --service-cidr 10.",
    ] {
        ensure!(answer.err.contains(words), "no {words:?} in {}", answer.err);
    }
    ensure!(!cluster.data_dir().join("second").exists(), "something was made");
    Ok(())
}
