//! What of `kubectl` leans on reads: raw paths, explain, watch, pages, validation.
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::harness::{Live, MAPS};

struct Kubectl {
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Kubectl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", &self.kubeconfig).arg("--cache-dir").arg(&self.cache).args(arguments);
        command
    }

    fn run(&self, line: &str) -> Result<String> {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let output = self.command(&arguments).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(output.status.success(), "kubectl {line}: {}{}", text(&output.stdout), text(&output.stderr));
        Ok(text(&output.stdout))
    }

    /// Exit code and everything that was said.
    fn feed(&self, line: &str, input: &str) -> Result<(bool, String)> {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let mut command = self.command(&arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let all = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&all).into_owned()))
    }
}

async fn with_kubectl(test: impl FnOnce(Kubectl) -> Result<()> + Send + 'static) -> Result<()> {
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        println!("SKIPPED: kubectl is not installed (Debian package kubernetes-client)");
        return Ok(());
    }
    let live = Live::start().await?;
    live.config_maps(7).await?;
    let kubectl = Kubectl { kubeconfig: live.kubeconfig()?, cache: live.dir().join("cache") };
    tokio::task::spawn_blocking(move || test(kubectl)).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_paths_pages_and_watches() -> Result<()> {
    with_kubectl(|kubectl| {
        ensure!(kubectl.run("get --raw /readyz")? == "ok");
        ensure!(kubectl.run("get --raw /livez?verbose")?.contains("[+]etcd ok"));
        ensure!(kubectl.run("get --raw /metrics")?.contains("apiserver_request_total{"));
        ensure!(kubectl.run(&format!("get --raw {MAPS}?limit=1"))?.contains("remainingItemCount"));
        for chunk in ["1", "3", "500", "0"] {
            let names = kubectl.run(&format!("get configmaps --chunk-size={chunk} -o name"))?;
            ensure!(names.lines().count() == 7, "{chunk}: {names}");
        }
        let wide = kubectl.run("get configmaps --show-labels -l parity=1")?;
        ensure!(wide.lines().count() == 4 && wide.contains("parity=1") && wide.starts_with("NAME"), "{wide}");
        let sorted = kubectl
            .run("get configmaps -o name --sort-by=.data.n --field-selector=metadata.name!=map-003")?;
        ensure!(sorted.lines().count() == 6, "{sorted}");

        let mut watch =
            kubectl.command(&["get", "configmaps", "--watch", "--output-watch-events", "--no-headers"]);
        let mut watching = watch.stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(watching.stdout.take().context("stdout")?).lines();
        let mut seen: Vec<String> = Vec::new();
        for _ in 0..7 {
            seen.push(lines.next().context("a line")??);
        }
        kubectl.run("create configmap late")?;
        kubectl.run("label configmap late a=b")?;
        kubectl.run("delete configmap late")?;
        let mut late: Vec<String> = Vec::new();
        for line in lines.by_ref().take(3) {
            late.push(line?.split_whitespace().next().unwrap_or("").to_owned());
        }
        watching.kill()?;
        watching.wait()?;
        ensure!(late == ["ADDED", "MODIFIED", "DELETED"], "{late:?} after {seen:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_and_validation() -> Result<()> {
    with_kubectl(|kubectl| {
        let text = kubectl.run("explain pods.spec.containers.livenessProbe")?;
        ensure!(
            text.contains("DESCRIPTION:") && text.contains("Periodic probe of container liveness"),
            "{text}"
        );
        let all = kubectl.run("explain deployment --recursive")?;
        ensure!(
            all.lines().count() > 500 && all.contains("topologySpreadConstraints"),
            "{}",
            all.lines().count()
        );
        let resources = kubectl.run("api-resources -o wide --verbs=list,watch")?;
        ensure!(resources.contains("deployments") && resources.contains("deploy"), "{resources}");
        ensure!(kubectl.run("api-versions")?.contains("rbac.authorization.k8s.io/v1"));

        let wrong = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\nfrobs: 1\n";
        for (line, ok, expected) in [
            ("apply -f - --validate=strict", false, "unknown field \"frobs\""),
            ("apply -f - --validate=warn --dry-run=server", true, "Warning: unknown field \"frobs\""),
            ("apply -f - --validate=ignore --dry-run=server", true, "configmap/x created (server dry run)"),
            ("create -f - --validate=strict --dry-run=server", false, "unknown field \"frobs\""),
            ("create -f - --validate=false --dry-run=client", true, "configmap/x created (dry run)"),
        ] {
            let (succeeded, said) = kubectl.feed(line, wrong)?;
            ensure!(succeeded == ok && said.contains(expected), "{line}: {succeeded} {said}");
        }
        Ok(())
    })
    .await
}
