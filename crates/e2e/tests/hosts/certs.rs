//! Certificates, authorities and keys that are replaced while somebody writes and reads.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, Kubectl, Traffic, eventually};
use pki::{Authority, CertificateFacts, CertificateSpec, Credentials, KeyAlgorithm, Kubeconfig, PrivateKey};
use serde_json::Value;

use crate::verbs::hosts;
use crate::{HELLO, PATIENCE};

const DAY: Duration = Duration::from_secs(86_400);

/// The process that is a host's first one.
fn init_of(cluster: &Cluster, host: &str) -> Result<i64> {
    let path = cluster.root().join("run").join(format!("host-{host}.process"));
    let record: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    record["pid"].as_i64().context("a pid")
}

/// A file of a host.
fn file_of(cluster: &Cluster, host: &str, path: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(format!("/proc/{}/root{path}", init_of(cluster, host)?)))
}

/// What `cox ... -o json` says, and its exit code.
fn json(cluster: &Cluster, arguments: &[&str]) -> Result<(Option<i32>, Value)> {
    let answer = cluster.cox(&[arguments, &["-o", "json"]].concat())?;
    let last = answer.out.lines().last().unwrap_or_default();
    let value =
        serde_json::from_str(last).with_context(|| format!("{arguments:?}: {}{}", answer.out, answer.err))?;
    Ok((answer.code, value))
}

fn done(cluster: &Cluster, arguments: &[&str]) -> Result<Value> {
    let (code, value) = json(cluster, arguments)?;
    ensure!(code == Some(0), "{arguments:?}: {value}");
    Ok(value)
}

/// The rows of `cox certs`, by name.
fn rows(value: &Value) -> BTreeMap<String, &Value> {
    let all = ["certificates", "authorities"].into_iter().filter_map(|list| value[list].as_array()).flatten();
    all.filter_map(|row| Some((row["name"].as_str()?.to_owned(), row))).collect()
}

fn places(row: &Value) -> Vec<&str> {
    row["where"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Which services were started anew on any host.
fn restarted(value: &Value) -> Vec<String> {
    let mut all: Vec<String> = value["restarted"]
        .as_object()
        .into_iter()
        .flat_map(|hosts| hosts.values())
        .filter_map(Value::as_array)
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    all.sort();
    all.dedup();
    all
}

fn admin_kubeconfig(cluster: &Cluster) -> PathBuf {
    cluster.root().join("kubeconfig/admin.kubeconfig")
}

pub fn told(cluster: &Cluster) -> Result<()> {
    let (code, value) = json(cluster, &["certs"])?;
    ensure!(code == Some(0), "{value}");
    ensure!(value["notes"] == serde_json::json!([]) && value["rotation"].is_null(), "{value}");
    let rows = rows(&value);
    let all = hosts(cluster);
    let everywhere: Vec<&str> = ["here"].into_iter().chain(all.iter().map(String::as_str)).collect();
    let scheduler = rows.get("kube-scheduler").context("kube-scheduler")?;
    ensure!(places(scheduler) == everywhere && scheduler["authority"] == "ca", "{scheduler}");
    let etcd = rows.get(&format!("etcd-{}", all[1])).context("a member of etcd")?;
    ensure!(places(etcd) == ["here", all[1].as_str()] && etcd["authority"] == "etcd-ca", "{etcd}");
    for name in ["admin.kubeconfig", "ca", "front-proxy-ca", &format!("kubelet-{}-serving", all[0])] {
        ensure!(rows.get(name).is_some_and(|row| row["state"] == "valid"), "{name}: {value}");
    }
    ensure!(!rows.keys().any(|name| name.contains("not the present one")), "{value}");
    let soon = cluster.cox(&["certs", "--within", "400"])?;
    ensure!(soon.code == Some(1) && soon.out.contains("Soon to expire"), "{}{}", soon.out, soon.err);
    let nothing = done(cluster, &["certs", "renew"])?;
    ensure!(nothing["changed"] == false, "{nothing}");
    Ok(())
}

/// A certificate of the cluster's authority, for whom and from when on somebody wants.
fn issue(
    cluster: &Cluster,
    like: &CertificateFacts,
    begins: jiff::Timestamp,
    lasts: Duration,
) -> Result<pki::Issued> {
    let read = |name: &str| std::fs::read_to_string(cluster.root().join("pki").join(name));
    let authority = Authority::load(&read("ca.crt")?, PrivateKey::from_pem(&read("ca.key")?)?)?;
    let spec = CertificateSpec {
        subject: like.subject.clone(),
        names: like.names.clone(),
        usages: like.usages.clone(),
        validity: lasts,
    };
    Ok(authority.issue(&spec, KeyAlgorithm::EcdsaP256, begins)?)
}

fn facts(path: &Path) -> Result<CertificateFacts> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(CertificateFacts::from_pem(&text)?)
}

fn kubeconfig(cluster: &Cluster, server: &str, user: &str, issued: pki::Issued) -> Result<String> {
    let file = Kubeconfig {
        cluster: cluster.name().to_owned(),
        server: server.to_owned(),
        authority_pem: std::fs::read_to_string(cluster.root().join("pki/ca.crt"))?,
        user: user.to_owned(),
        credentials: Credentials::ClientCertificate {
            certificate_pem: issued.certificate_pem,
            key_pem: issued.key.to_pem(),
        },
        namespace: None,
    };
    Ok(file.to_yaml())
}

/// The kubelet of a host.
fn kubelet_of(cluster: &Cluster, host: &str) -> Result<i32> {
    let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let wanted = space(&init_of(cluster, host)?.to_string()).context("the host runs")?;
    let is_kubelet = |pid: &str| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let program =
            String::from_utf8_lossy(line.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
        program.ends_with("/kubelet") && space(pid).as_ref() == Some(&wanted)
    };
    let names = std::fs::read_dir("/proc")?.flatten().filter_map(|e| e.file_name().into_string().ok());
    let found = names.into_iter().find(|pid| pid.parse::<i32>().is_ok() && is_kubelet(pid));
    Ok(found.context("a kubelet")?.parse()?)
}

pub fn kubelet_rotates(cluster: &Cluster) -> Result<()> {
    let host = hosts(cluster).remove(1);
    let link = file_of(cluster, &host, "/var/lib/kubelet/pki/kubelet-client-current.pem")?;
    let config = file_of(cluster, &host, "/etc/kubernetes/kubelet.conf")?;
    ensure!(!link.is_symlink(), "the kubelet asked for a certificate before it had to");
    // One that is due at once, and ends before long.
    let like = facts(&cluster.root().join(format!("pki/kubelet-{host}.crt")))?;
    let short = issue(cluster, &like, jiff::Timestamp::now(), Duration::from_secs(60))?;
    let before = std::fs::read_to_string(&config)?;
    let server = before.lines().find_map(|l| l.trim().strip_prefix("server: ")).context("a server")?;
    let text = kubeconfig(cluster, server, &like.subject.common_name, short)?;
    pki::write_private(&config, text.as_bytes())?;
    let pid = rustix::process::Pid::from_raw(kubelet_of(cluster, &host)?).context("a pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let began = Instant::now();
    // The link leads to where the file lies on the host.
    let current = || facts(&file_of(cluster, &host, &std::fs::read_link(&link)?.display().to_string())?);
    eventually("the kubelet has a new certificate", PATIENCE, current)?;
    println!("     the kubelet has a new certificate after {:.1} s", began.elapsed().as_secs_f64());
    let messages = cluster.kubectl().run("get csr -o jsonpath={.items[*].status.conditions[*].message}")?;
    ensure!(messages.contains("Auto approving self kubelet client certificate"), "{messages}");
    let (_, value) = json(cluster, &["certs"])?;
    let rows = rows(&value);
    let row = rows.get("kubelet-client").with_context(|| value.to_string())?;
    ensure!(places(row) == [host.as_str()] && row["inUse"] == true, "{row}");
    let stray =
        rows.keys().find(|name| name.contains("kubelet.conf")).context("the file that was changed")?;
    ensure!(rows[stray]["state"] == "valid" || rows[stray]["state"] == "expired", "{value}");
    // What somebody changed is put right.
    let answer = cluster.up_again()?;
    ensure!(answer["changed"] == true, "{answer}");
    ensure!(std::fs::read_to_string(&config)? == before, "the kubeconfig was not put back");
    Ok(())
}

pub fn renewed(cluster: &Cluster) -> Result<()> {
    Traffic::prepare(cluster)?;
    let server = hosts(cluster).remove(0);
    let served = file_of(cluster, &server, "/etc/kubernetes/pki/apiserver.crt")?;
    let before = facts(&served)?;
    let traffic = Traffic::start(cluster, "renew");
    traffic.wait_for(10, PATIENCE)?;
    let value = done(cluster, &["certs", "renew", "all"])?;
    traffic.wait_for(10, PATIENCE)?;
    traffic.stop()?.judge(&cluster.kubectl(), &format!("renewal in {} s", value["seconds"]))?;
    ensure!(value["renewed"].as_array().is_some_and(|all| all.len() > 15), "{value}");
    let services = restarted(&value);
    ensure!(services.contains(&"kubelet".into()) && services.contains(&"kube-scheduler".into()), "{value}");
    for follows in ["kube-apiserver", "etcd", "cox-balancer", "containerd"] {
        ensure!(!services.contains(&follows.to_owned()), "{follows} was started anew: {value}");
    }
    let after = facts(&served)?;
    ensure!(after.serial != before.serial && after.names == before.names, "{before:?} {after:?}");
    ensure!(cluster.up_again()?["changed"] == false, "something was left to do");
    Ok(())
}

/// Lets a certificate of the cluster end yesterday, in its directory and on a host.
fn expire(cluster: &Cluster, name: &str, on: Option<(&str, &str)>) -> Result<()> {
    let path = |ending: &str| cluster.root().join(format!("pki/{name}.{ending}"));
    let begins = jiff::Timestamp::now().checked_sub(2 * DAY)?;
    let issued = issue(cluster, &facts(&path("crt"))?, begins, DAY)?;
    let mut targets = vec![(path("crt"), path("key"))];
    if let Some((host, stem)) = on {
        let file = |ending: &str| file_of(cluster, host, &format!("/etc/kubernetes/pki/{stem}.{ending}"));
        targets.push((file("crt")?, file("key")?));
    }
    for (certificate, key) in targets {
        pki::write_private(&key, issued.key.to_pem().as_bytes())?;
        pki::write_public(&certificate, issued.certificate_pem.as_bytes())?;
    }
    Ok(())
}

pub fn expired(cluster: &Cluster) -> Result<()> {
    let all = hosts(cluster);
    for host in &all {
        expire(cluster, &format!("kube-apiserver-{host}"), Some((host, "apiserver")))?;
    }
    expire(cluster, "admin", None)?;
    let begins = jiff::Timestamp::now().checked_sub(2 * DAY)?;
    let like = facts(&cluster.root().join("pki/admin.crt"))?;
    let text = kubeconfig(
        cluster,
        &format!("https://127.0.0.1:{}", cluster.port()),
        "kubernetes-admin",
        issue(cluster, &like, begins, DAY)?,
    )?;
    pki::write_private(&admin_kubeconfig(cluster), text.as_bytes())?;
    eventually("nobody can log in", PATIENCE, || {
        let error = cluster.kubectl().refused("get nodes")?;
        ensure!(error.contains("expired") || error.contains("Unauthorized"), "{error}");
        Ok(())
    })?;
    let status = cluster.cox(&["status"])?;
    let said = status.out.lines().filter(|l| l.contains("expired") && l.contains("cox certs renew")).count();
    ensure!(status.code == Some(1) && said >= 4, "{}{}", status.out, status.err);
    let (code, value) = json(cluster, &["certs"])?;
    let rows = rows(&value);
    ensure!(code == Some(1), "{value}");
    for name in ["admin", "admin.kubeconfig", &format!("kube-apiserver-{}", all[2])] {
        ensure!(rows.get(name).is_some_and(|row| row["state"] == "expired"), "{name}: {value}");
    }
    let value = done(cluster, &["certs", "renew"])?;
    println!("     renewed in {} s", value["seconds"]);
    ensure!(value["renewed"].as_array().map(Vec::len) == Some(4), "{value}");
    eventually("the administrator can log in", PATIENCE, || cluster.kubectl().run("get nodes"))?;
    ensure!(cluster.cox(&["certs"])?.code == Some(0), "something is still expired");

    // A certificate from the future: the clock is wrong.
    let path = |ending: &str| cluster.root().join(format!("pki/kube-scheduler.{ending}"));
    let kept = (std::fs::read(path("crt"))?, std::fs::read(path("key"))?);
    let like = facts(&path("crt"))?;
    let early = issue(cluster, &like, jiff::Timestamp::now().checked_add(2 * DAY)?, DAY)?;
    pki::write_private(&path("key"), early.key.to_pem().as_bytes())?;
    pki::write_public(&path("crt"), early.certificate_pem.as_bytes())?;
    let status = cluster.cox(&["status"])?;
    ensure!(status.out.contains("not valid before") && status.out.contains("NTP"), "{}", status.out);
    pki::write_private(&path("key"), &kept.1)?;
    pki::write_public(&path("crt"), &kept.0)?;
    Ok(())
}

/// What a pod has of its service account.
fn mounted(kubectl: &Kubectl, file: &str) -> Result<String> {
    let path = format!("/var/run/secrets/kubernetes.io/serviceaccount/{file}");
    kubectl.args(&["exec", "holder", "--", "cat", &path])
}

/// Whether a token is taken; a kubeconfig without credentials brings it.
fn takes(cluster: &Cluster, token: &str) -> Result<bool> {
    let review = serde_json::json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": token },
    });
    let answer = cluster.kubectl().feed("create -o json", &review.to_string())?;
    let answer: Value = serde_json::from_str(&answer)?;
    Ok(answer["status"]["authenticated"] == true)
}

fn certificates_in(text: &str) -> usize {
    text.matches("BEGIN CERTIFICATE").count()
}

pub fn rotated(cluster: &Cluster) -> Result<()> {
    Traffic::prepare(cluster)?;
    let within = cluster.namespace("rotated")?;
    within.run(&format!("run holder --image={HELLO} --restart=Never"))?;
    within.run(&format!("wait --for=condition=Ready pod/holder --timeout={}s", PATIENCE.as_secs()))?;
    let token = mounted(&within, "token")?;
    ensure!(takes(cluster, &token)?, "the pod's token is not taken");
    let copied = cluster.root().join("copied.kubeconfig");
    std::fs::copy(admin_kubeconfig(cluster), &copied)?;
    let copied = Kubectl::new(&copied);

    let traffic = Traffic::start(cluster, "rotate");
    traffic.wait_for(10, PATIENCE)?;
    let all = ["certs", "rotate-ca", "ca", "front-proxy-ca", "etcd-ca", "--service-account-key"];
    let first = done(cluster, &[&all[..], &["--until", "issue-new", "--settle", "500ms"]].concat())?;
    ensure!(first["finished"] == false && first["rotation"]["phase"] == "issue-new", "{first}");
    let (code, value) = json(cluster, &["certs"])?;
    ensure!(code == Some(0) && value["rotation"]["phase"] == "issue-new", "{value}");
    ensure!(rows(&value).contains_key("etcd-ca (only trusted)"), "{value}");
    // Whoever has what was there before works on.
    copied.run("get nodes")?;
    ensure!(takes(cluster, &token)?, "the former token is not taken any more");
    // And pods get what will do later.
    let new = eventually("the pod has another token", PATIENCE, || {
        let new = mounted(&within, "token")?;
        ensure!(new != token, "still the former one");
        Ok(new)
    })?;
    eventually("the pod trusts both", PATIENCE, || {
        let bundle = mounted(&within, "ca.crt")?;
        ensure!(certificates_in(&bundle) == 2, "{bundle}");
        Ok(())
    })?;
    let other = cluster.cox(&["certs", "rotate-ca", "etcd-ca"])?;
    ensure!(other.code == Some(1) && other.err.contains("under way"), "{}{}", other.out, other.err);

    let second = done(cluster, &["certs", "rotate-ca", "--settle", "500ms"])?;
    ensure!(second["finished"] == true, "{second}");
    traffic.wait_for(10, PATIENCE)?;
    for phase in [&first, &second].into_iter().filter_map(|v| v["phases"].as_array()).flatten() {
        println!("     {} in {} s", phase["phase"], phase["seconds"]);
    }
    let took = first["seconds"].as_f64().unwrap_or(0.0) + second["seconds"].as_f64().unwrap_or(0.0);
    traffic.stop()?.judge(&cluster.kubectl(), &format!("rotation in {took:.1} s"))?;

    ensure!(takes(cluster, &new)?, "the pod's token of the new key is not taken");
    ensure!(!takes(cluster, &token)?, "a token of the former key is still taken");
    copied.refused("get nodes")?;
    eventually("the pod trusts the new one alone", PATIENCE, || {
        let bundle = mounted(&within, "ca.crt")?;
        ensure!(certificates_in(&bundle) == 1, "{bundle}");
        Ok(())
    })?;
    let (code, value) = json(cluster, &["certs"])?;
    ensure!(code == Some(0) && value["rotation"].is_null(), "{value}");
    let restarts = within.field("pod holder", ".status.containerStatuses[0].restartCount")?;
    ensure!(restarts == "0", "the pod was disturbed: {restarts}");
    // Logs and exec go from the API server to kubelets: they trust each other anew.
    within.run("logs holder")?;
    ensure!(cluster.up_again()?["changed"] == false, "something was left to do");
    let status = cluster.cox(&["status"])?;
    ensure!(status.code == Some(0), "{}{}", status.out, status.err);
    within.run("delete pod holder --grace-period=0 --force")?;
    Ok(())
}
