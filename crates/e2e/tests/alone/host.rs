//! Hosts that will not do, and command lines that are wrong: a clear word, and nothing is changed.
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Answer, binary, is_root, run};

const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that everybody may look into, with the binary in it.
fn public_copy() -> Result<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::Builder::new().prefix("cox-e2e-").tempdir()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    let copy = dir.path().join("cox");
    if std::fs::hard_link(binary(), &copy).is_err() {
        std::fs::copy(binary(), &copy)?;
    }
    Ok((dir, copy))
}

fn is_untouched(data: &Path) -> Result<()> {
    let left: Vec<_> = std::fs::read_dir(data)?.flatten().map(|e| e.file_name()).collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

fn refused(answer: &Answer, words: &[&str]) -> Result<()> {
    ensure!(answer.code == Some(1), "ended with {:?}: {}{}", answer.code, answer.out, answer.err);
    for word in words {
        ensure!(answer.err.contains(word), "no {word:?} in: {}", answer.err);
    }
    Ok(())
}

#[test]
fn without_root_a_node_is_refused() -> Result<()> {
    if !is_root("becoming somebody else") {
        return Ok(());
    }
    let (dir, copy) = public_copy()?;
    let data = dir.path().join("data");
    std::fs::create_dir(&data)?;
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o777))?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
    command.args(["up", "--secure-port=0", "--data-dir"]).arg(&data);
    let answer = run(command, None, PATIENCE)?;
    refused(&answer, &["a node needs root", "sudo", "--no-node"])?;
    is_untouched(&data)
}

#[test]
fn without_containerd_a_node_is_refused_and_its_package_named() -> Result<()> {
    if !is_root("a mount namespace") {
        return Ok(());
    }
    let data = tempfile::tempdir()?;
    // Found in the search path or in the system's directories: hidden there, in a namespace of its own.
    let script = "for d in ${PATH//:/ } /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do \
                  if [[ -e $d/containerd ]]; then mount --bind /dev/null \"$d/containerd\"; fi; done; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-c", script, "bash"]).arg(binary());
    command.args(["up", "--secure-port=0", "--data-dir"]).arg(data.path());
    let answer = run(command, None, PATIENCE)?;
    refused(&answer, &["not installed: containerd", "apt-get install containerd"])?;
    is_untouched(data.path())
}

#[test]
fn links_named_after_parts_are_those_parts() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let link = |name: &str, arguments: &[&str]| -> Result<Answer> {
        let path = dir.path().join(name);
        if !path.exists() {
            std::os::unix::fs::symlink(binary(), &path)?;
        }
        let mut command = Command::new(path);
        command.args(arguments);
        run(command, None, PATIENCE)
    };
    for part in ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"] {
        let answer = link(part, &["--version"])?;
        ensure!(answer.out == "Kubernetes v1.36.0\n", "{part}: {}{}", answer.out, answer.err);
        let answer = link(part, &["--no-such-flag"])?;
        ensure!(answer.code == Some(2) && answer.err.contains("--no-such-flag"), "{part}: {}", answer.err);
        let answer = link(part, &["--help"])?;
        let usage = format!("Usage: cox {part} ");
        ensure!(answer.code == Some(0) && answer.out.contains(&usage), "{part}: {}", answer.out);
    }
    let answer = link("kube-proxy", &["--proxy-mode=ipvs", "--kubeconfig=none"])?;
    refused(&answer, &["proxy mode \"ipvs\" is not supported", "nftables"])
}

#[test]
fn configuration_files_that_are_wrong_are_named_with_the_field() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let ask = |part: &str, text: &str| -> Result<Answer> {
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, text)?;
        let mut command = Command::new(binary());
        command.arg(part).arg("--config").arg(&file).arg("--kubeconfig=none");
        run(command, None, PATIENCE)
    };
    let kubelet = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
    let proxy = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    let scheduler = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
    refused(
        &ask("kubelet", &format!("{kubelet}maxPod: 3\n"))?,
        &["config.yaml", "unknown field \"maxPod\""],
    )?;
    refused(&ask("kubelet", proxy)?, &["no kind \"KubeProxyConfiguration\"", "KubeletConfiguration"])?;
    refused(&ask("kube-proxy", &format!("{proxy}mode: ipvs\n"))?, &["proxy mode \"ipvs\" is not supported"])?;
    refused(&ask("kube-proxy", "a: [")?, &["config.yaml"])?;
    let text = format!("{scheduler}profiles: [{{plugins: {{score: {{enabled: [{{name: Mine}}]}}}}}}]\n");
    refused(&ask("kube-scheduler", &text)?, &["profiles[0].plugins: plugin \"Mine\" does not exist"])?;
    refused(&ask("kube-scheduler", &format!("{scheduler}# {}", "x".repeat(2 << 20)))?, &["are read at most"])
}
