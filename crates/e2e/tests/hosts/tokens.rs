//! Bootstrap tokens, and what who joins is told where it cannot be. Nothing is installed: this machine is no host.
use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, eventually, free_port};
use serde_json::Value;

use crate::PATIENCE;
use crate::verbs::hosts;

fn said(cluster: &Cluster, arguments: &[&str]) -> Result<Value> {
    let answer = cluster.cox(&[arguments, &["-o", "json"]].concat())?;
    ensure!(answer.code == Some(0), "{arguments:?}: {}{}", answer.out, answer.err);
    serde_json::from_str(&answer.out).with_context(|| answer.out)
}

/// `cox join`, which says what it would do at most.
fn join(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let mut command = std::process::Command::new(cluster.binary());
    command.arg("join").args(arguments).arg("--dry-run");
    let answer = e2e::run(command, None, PATIENCE)?;
    Ok(format!("{:?} {}{}", answer.code, answer.out, answer.err))
}

pub fn tokens(cluster: &Cluster) -> Result<()> {
    let made = said(cluster, &["token", "create", "--ttl", "1h", "--description", "rack 7"])?;
    let token = made["token"].as_str().context("a token")?.to_owned();
    let (id, _) = token.split_once('.').context("a dot")?;
    let again = cluster.cox(&["token", "create", &token])?;
    ensure!(again.code == Some(1) && again.err.contains("already"), "{}", again.err);
    let listed = cluster.cox(&["token", "list"])?.out;
    ensure!(listed.contains(&token) && listed.contains("rack 7") && listed.contains("signing"), "{listed}");
    let config = "get configmap cluster-info -n kube-public -o yaml";
    let info = eventually("a signature of the token", PATIENCE, || {
        let text = cluster.kubectl().run(config)?;
        ensure!(text.contains(&format!("jws-kubeconfig-{id}")), "{text}");
        Ok(text)
    })?;
    ensure!(!info.contains(&token), "{info}");
    let gone = cluster.cox(&["token", "delete", id])?;
    ensure!(gone.code == Some(0) && gone.out.contains("deleted"), "{}{}", gone.out, gone.err);
    let gone = cluster.cox(&["token", "delete", &token])?;
    ensure!(gone.code == Some(1) && gone.err.contains("there is no token"), "{}", gone.err);
    eventually("the signature of a token that is gone goes", PATIENCE, || {
        let text = cluster.kubectl().run(config)?;
        ensure!(!text.contains(&format!("jws-kubeconfig-{id}")), "{text}");
        Ok(())
    })
}

pub fn refusals(cluster: &Cluster) -> Result<()> {
    let command = said(cluster, &["token", "create", "--print-join-command"])?;
    let words: Vec<&str> = command["joinCommand"].as_str().context("a command")?.split(' ').collect();
    let ["cox", "join", endpoint, "--token", token, "--discovery-token-ca-cert-hash", pin] = words[..] else {
        anyhow::bail!("{command}");
    };
    let told = |arguments: &[&str], want: &[&str]| -> Result<()> {
        let said = join(cluster, arguments)?;
        for word in want {
            ensure!(said.contains(word), "{arguments:?}\nsays {said}\nwanted {word:?}");
        }
        Ok(())
    };
    let with = |token: &str, pin: &str, more: &[&str]| -> Vec<String> {
        let all = [endpoint, "--token", token, "--discovery-token-ca-cert-hash", pin];
        all.iter().chain(more).map(|w| (*w).to_owned()).collect()
    };
    let check = |token: &str, pin: &str, more: &[&str], want: &[&str]| {
        let all = with(token, pin, more);
        told(&all.iter().map(String::as_str).collect::<Vec<_>>(), want)
    };
    // All is well as far as the cluster goes; what this machine lacks, if anything, is told last.
    let good = join(
        cluster,
        &with(token, pin, &["--node-name", "new"]).iter().map(String::as_str).collect::<Vec<_>>(),
    )?;
    ensure!(good.contains("would become node new") || good.contains("systemd does not run"), "{good}");
    let (id, _) = token.split_once('.').context("a dot")?;
    check(&format!("{id}.0000000000000000"), pin, &[], &["what follows the dot", "cox token create"])?;
    check(
        "uvwxyz.0123456789abcdef",
        pin,
        &[],
        &["knows no token \"uvwxyz\"", "expired", "cox token create"],
    )?;
    let wrong = format!("sha256:{}", "0".repeat(64));
    check(token, &wrong, &[], &["is not the one that was meant", pin])?;
    let taken = hosts(cluster).remove(0);
    check(
        token,
        pin,
        &["--node-name", &taken],
        &["already, and it is Ready", "--node-name", "kubectl delete node"],
    )?;
    let leader = endpoint.split(':').next().unwrap_or_default();
    check(
        token,
        pin,
        &["--node-name", "new", "--node-ip", leader],
        &["is that of hosts[0] too", "--node-ip"],
    )?;
    check(token, pin, &["--node-name", "new", "--node-ip", "10.244.9.9"], &["is in network.podCIDR"])?;
    let nobody = format!("127.0.0.1:{}", free_port()?);
    told(
        &[&nobody, "--token", token, "--discovery-token-ca-cert-hash", pin],
        &["cannot reach the API server", "nothing listens there"],
    )?;

    let mute = said(cluster, &["token", "create", "--usages", "signing", "--print-join-command"])?;
    let mute = mute["token"].as_str().context("a token")?;
    check(mute, pin, &["--node-name", "new"], &["not good for authentication", "cox token create"])?;
    // The cluster deletes it when its time has come.
    let short = said(cluster, &["token", "create", "--ttl", "1s"])?;
    let short = short["token"].as_str().context("a token")?;
    eventually("an expired token goes", PATIENCE, || {
        let listed = cluster.cox(&["token", "list"])?.out;
        ensure!(!listed.contains(short), "{listed}");
        Ok(())
    })?;
    check(short, pin, &[], &["knows no token", "expired"])
}
