//! A kubelet that begins with a bootstrap token and nothing else.
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{eventually, free_port, run};

use crate::authority::{Authority, Pair, openssl};
use crate::binary;
use crate::control_plane::{ControlPlane, Process};

const NODE: &str = "cert-node";

fn containerd(dir: &Path) -> Result<Process> {
    let config = format!(
        "version = 2\nroot = \"{0}/containerd\"\nstate = \"{0}/containerd-state\"\noom_score = 0\n[grpc]\n  address = \
         \"{0}/containerd.sock\"\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  restrict_oom_score_adj = true\n  \
         disable_tcp_service = true\n  [plugins.\"io.containerd.grpc.v1.cri\".cni]\n    bin_dir = \"/usr/lib/cni\"\n    conf_dir = \
         \"{0}/cni\"\n",
        dir.display()
    );
    let path = dir.join("containerd.toml");
    std::fs::write(&path, config)?;
    let mut command = Command::new("containerd");
    command.arg("--config").arg(&path);
    Process::start(command, &dir.join("containerd.log"))
}

/// Removes the cgroups that the kubelet made.
struct Cgroups(String);

impl Drop for Cgroups {
    fn drop(&mut self) {
        let name = self.0.trim_start_matches('/');
        let mut roots = vec![Path::new("/sys/fs/cgroup").to_path_buf()];
        roots.extend(std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path()));
        for root in roots {
            remove(&root.join(name));
        }
    }
}

fn remove(directory: &Path) {
    for inner in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if inner.path().is_dir() {
            remove(&inner.path());
        }
    }
    let _ = std::fs::remove_dir(directory);
}

/// The file with the CAs of the kubelet's clients is followed.
fn client_authority(plane: &ControlPlane, port: &str) -> Result<()> {
    let other = Authority::new(plane.path("other"), "other-ca")?;
    let stranger = other.client("stranger", "/CN=stranger")?;
    // The code; none where the handshake fails.
    let ask = |pair: &Pair| -> Result<Option<String>> {
        let mut command = Command::new("curl");
        command.args(["-sSk", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}"]);
        command.args(["--cert", pair.certificate(), "--key", pair.key()]);
        command.arg(format!("https://127.0.0.1:{port}/pods"));
        let answer = run(command, None, Duration::from_secs(30))?;
        Ok((answer.code == Some(0)).then_some(answer.out))
    };
    let admin = plane.pair("admin");
    ensure!(ask(&admin)?.as_deref() == Some("200"), "the administrator gets {:?}", ask(&admin)?);
    ensure!(ask(&stranger)?.is_none(), "the certificate of a stranger was taken");
    let file = plane.path("clients.pem");
    let own = std::fs::read_to_string(&file)?;
    std::fs::write(&file, format!("{own}{}", std::fs::read_to_string(other.certificate())?))?;
    eventually("the new CA counts", Duration::from_secs(30), || {
        let got = ask(&stranger)?;
        ensure!(got.as_deref() == Some("403"), "{got:?}");
        Ok(())
    })?;
    std::fs::write(&file, "half a fi")?;
    std::thread::sleep(Duration::from_millis(1500));
    ensure!(ask(&admin)?.as_deref() == Some("200"), "a broken file ended the service");
    std::fs::write(&file, own)?;
    eventually("the removed CA does not count", Duration::from_secs(30), || {
        let got = ask(&stranger)?;
        ensure!(got.is_none(), "{got:?}");
        Ok(())
    })
}

/// Bootstrap, rotation of the client certificate, the serving certificate by request.
pub fn bootstrap() -> Result<()> {
    // So short that each certificate is due soon after it is issued.
    let plane = ControlPlane::start(&[], &["--cluster-signing-duration=40s"])?;
    let kubectl = plane.kubectl();
    let secret = "apiVersion: v1\nkind: Secret\ntype: bootstrap.kubernetes.io/token\nmetadata: {name: \
                  bootstrap-token-abcdef, namespace: kube-system}\nstringData: {token-id: abcdef, token-secret: \
                  0123456789abcdef, usage-bootstrap-authentication: 'true'}\n";
    kubectl.within("kube-system").feed("create", secret)?;
    plane.kubeconfig_with_token("bootstrap", "abcdef.0123456789abcdef")?;
    let system = "system:certificates.k8s.io:certificatesigningrequests";
    for line in [
        "create clusterrolebinding b1 --clusterrole=system:node-bootstrapper --group=system:bootstrappers"
            .to_owned(),
        format!("create clusterrolebinding b3 --clusterrole={system}:selfnodeclient --group=system:nodes"),
    ] {
        kubectl.run(&line)?;
    }
    let root = rustix::process::geteuid().is_root();
    let runtime = if root && Path::new("/usr/bin/containerd").exists() {
        Some(containerd(plane.dir.path())?)
    } else {
        println!("SKIPPED: the kubelet's server needs root and containerd");
        None
    };
    let cgroup = format!("/cox-certs-{}", std::process::id());
    let _cgroups = Cgroups(cgroup.clone());
    let path = |file: &str| plane.path(file).display().to_string();
    let port = free_port()?.to_string();
    std::fs::copy(plane.ca.certificate(), plane.path("clients.pem"))?;
    let kubelet = |log: &str| {
        let mut command = Command::new(binary());
        command.args(["kubelet", "--hostname-override", NODE, "--node-ip=127.0.0.1", "--address=127.0.0.1"]);
        command.args(["--port", &port, "--cgroup-root", &cgroup, "--rotate-certificates"]);
        command.args(["--rotate-server-certificates", "--client-ca-file", &path("clients.pem")]);
        command.args(["--kubeconfig", &path("kubelet.kubeconfig"), "--cert-dir", &path("kubelet-pki")]);
        command.args([
            "--bootstrap-kubeconfig",
            &path("bootstrap.kubeconfig"),
            "--root-dir",
            &path("kubelet"),
        ]);
        command.arg("--container-runtime-endpoint").arg(format!("unix://{}", path("containerd.sock")));
        Process::start(command, &plane.path(log))
    };
    let logs = || {
        let text = std::fs::read_to_string(plane.path("kubelet.log")).unwrap_or_default();
        format!("--- kubelet\n{text}{}", plane.log())
    };

    // Nobody may approve by itself yet: the request waits, through a restart too, and is not made twice.
    let first = kubelet("kubelet.log")?;
    let requests = || kubectl.run("get csr -o name");
    eventually("the kubelet asks", Duration::from_secs(20), || {
        let text = requests()?;
        ensure!(text.contains("node-csr-"), "{text}{}", logs());
        Ok(())
    })?;
    drop(first);
    let second = kubelet("kubelet.log")?;
    eventually("the kubelet waits", Duration::from_secs(20), || {
        let text = std::fs::read_to_string(plane.path("kubelet.log")).unwrap_or_default();
        ensure!(text.contains("waiting for a certificate"), "{text}");
        Ok(())
    })?;
    let pending = requests()?;
    ensure!(pending.lines().count() == 1, "asked twice: {pending}");
    kubectl.run(&format!(
        "create clusterrolebinding b2 --clusterrole={system}:nodeclient --group=system:bootstrappers"
    ))?;
    let config = plane.path("kubelet.kubeconfig");
    eventually("the kubeconfig is written", Duration::from_secs(60), || {
        ensure!(config.exists(), "not yet\n{}", logs());
        Ok(())
    })?;
    let shown = kubectl.run(&format!("get {} -o jsonpath={{.status.conditions}}", pending.trim()))?;
    ensure!(
        shown.contains("Auto approving kubelet client certificate after SubjectAccessReview."),
        "{shown}"
    );
    let mode = |path: &Path| -> Result<u32> { Ok(std::fs::metadata(path)?.permissions().mode() & 0o777) };
    let current = plane.path("kubelet-pki/kubelet-client-current.pem");
    ensure!(mode(&config)? == 0o600 && mode(&current)? == 0o600, "others may read keys");
    ensure!(std::fs::symlink_metadata(&current)?.is_symlink(), "the current certificate is no link");
    let text = std::fs::read_to_string(&config)?;
    ensure!(text.contains("kubelet-client-current.pem") && !text.contains("0123456789abcdef"), "{text}");
    let subject =
        openssl(plane.dir.path(), &["x509", "-in", &current.display().to_string(), "-noout", "-subject"])?;
    ensure!(
        subject.contains("system:nodes") && subject.contains(&format!("system:node:{NODE}")),
        "{subject}"
    );

    // The certificate is replaced before it ends, while the kubelet works on.
    let target = || std::fs::read_link(&current);
    let before = target()?;
    eventually("the client certificate is replaced", Duration::from_secs(90), || {
        ensure!(target()? != before, "still {}\n{}", before.display(), logs());
        Ok(())
    })?;
    let shown = kubectl.run("get csr -o jsonpath={.items[*].status.conditions[*].message}")?;
    ensure!(shown.contains("Auto approving self kubelet client certificate"), "{shown}");

    if runtime.is_some() {
        // A serving certificate is for a person to approve.
        eventually("the kubelet asks for a serving certificate", Duration::from_secs(60), || {
            let serving = "kubernetes.io/kubelet-serving";
            let expression = format!(
                "jsonpath={{range .items[?(@.spec.signerName==\"{serving}\")]}}{{.metadata.name}}{{\"\\n\"}}{{end}}"
            );
            let all = kubectl.args(&["get", "csr", "-o", &expression])?;
            let name = all.lines().next().unwrap_or_default();
            ensure!(!name.is_empty(), "not yet\n{}", logs());
            kubectl.run(&format!("certificate approve {name}"))
        })?;
        let address = format!("127.0.0.1:{port}");
        let ca = plane.ca.certificate().display().to_string();
        eventually("the serving certificate is shown", Duration::from_secs(30), || {
            let shown = openssl(
                plane.dir.path(),
                &[
                    "s_client",
                    "-connect",
                    &address,
                    "-CAfile",
                    &ca,
                    "-verify_return_error",
                    "-verify_ip",
                    "127.0.0.1",
                ],
            )?;
            ensure!(shown.contains(&format!("system:node:{NODE}")), "{shown}");
            Ok(())
        })?;
        client_authority(&plane, &port)?;
        // When its first certificates have ended, the node still reports.
        let first_end =
            openssl(plane.dir.path(), &["x509", "-in", &before.display().to_string(), "-checkend", "0"]);
        let lease = kubectl.within("kube-node-lease");
        let renewed = || lease.field(&format!("lease {NODE}"), ".spec.renewTime");
        let mut last = renewed()?;
        if first_end.is_ok() {
            eventually("the first certificate ends", Duration::from_secs(60), || {
                let ended = openssl(
                    plane.dir.path(),
                    &["x509", "-in", &before.display().to_string(), "-checkend", "0"],
                );
                ensure!(ended.is_err(), "not yet");
                Ok(())
            })?;
            last = renewed()?;
        }
        eventually("the node reports with its newer certificates", Duration::from_secs(40), || {
            ensure!(renewed()? > last, "no report since {last}\n{}", logs());
            Ok(())
        })?;
    }
    drop(second);
    Ok(())
}
