//! Everything that streams.
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, Kubectl, eventually};

use crate::HELLO;

/// Runs a `kubectl` line on a terminal of its own, as a person does.
fn on_a_terminal(kubectl: &Kubectl, line: &str, typed: &str) -> Result<String> {
    let command = kubectl.command();
    let mut words: Vec<String> = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.push(line.to_owned());
    let mut script = Command::new("script");
    for (key, value) in command.get_envs() {
        script.env(key, value.unwrap_or_default());
    }
    script.args(["-q", "-e", "-c", &words.join(" "), "/dev/null"]);
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    stdin.write_all(typed.as_bytes())?;
    // The terminal stays open until the command has ended by itself.
    let output = child.wait_with_output()?;
    drop(stdin);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub fn streams(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("streams")?;
    kubectl.feed(
        "apply",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: talker}}\nspec:\n  containers:\n  - name: talker\n    image: \
             {HELLO}\n    command: [sh, -c, 'i=0; while true; do i=$((i+1)); echo line $i; sleep 0.2; done']\n  - name: \
             reader\n    image: {HELLO}\n    stdin: true\n    command: [sh, -c, 'while read l; do echo got $l; done; sleep 3600']\n  terminationGracePeriodSeconds: 1\n"
        ),
    )?;
    kubectl.run("wait pod talker --for=condition=Ready --timeout=90s")?;
    // Logs.
    eventually("log lines", Duration::from_secs(20), || {
        let logs = kubectl.run("logs talker -c talker --tail=3")?;
        ensure!(logs.lines().count() == 3 && logs.contains("line "), "{logs}");
        Ok(())
    })?;
    ensure!(kubectl.run("logs talker -c talker --timestamps --tail=1")?.starts_with("20"));
    let mut follow = kubectl.command();
    follow.args(["logs", "-f", "talker", "-c", "talker", "--tail=1"]).stdout(Stdio::piped());
    let mut following = follow.spawn()?;
    let lines = BufReader::new(following.stdout.take().context("stdout")?).lines();
    let some: Vec<String> = lines.take(5).collect::<Result<_, _>>()?;
    following.kill()?;
    following.wait()?;
    ensure!(some.len() == 5 && some.iter().all(|l| l.starts_with("line ")), "{some:?}");
    // Exec, with and without a terminal, and its exit code.
    ensure!(
        kubectl
            .args(&["exec", "talker", "-c", "talker", "--", "sh", "-c", "echo out; echo err >&2"])?
            .contains("out")
    );
    let failed = kubectl.answer(&["exec", "talker", "-c", "talker", "--", "sh", "-c", "exit 7"], None)?;
    ensure!(failed.code == Some(7), "exit code {:?}: {}", failed.code, failed.err);
    let echoed =
        kubectl.answer(&["exec", "-i", "talker", "-c", "talker", "--", "cat"], Some("to and fro\n"))?;
    ensure!(echoed.out == "to and fro\n", "{echoed:?}");
    let said =
        on_a_terminal(&kubectl, "exec -it talker -c talker -- sh", "tty; echo from-$((40+2)); exit\n")?;
    ensure!(said.contains("/dev/pts/") && said.contains("from-42"), "{said}");
    // Files both ways.
    let dir = tempfile::tempdir()?;
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    let content: String = (0..20_000).map(|i| format!("{i}\n")).collect();
    std::fs::write(&there, &content)?;
    kubectl.args(&["cp", &there.display().to_string(), "talker:/tmp/file", "-c", "talker"])?;
    kubectl.args(&["cp", "talker:/tmp/file", &back.display().to_string(), "-c", "talker"])?;
    ensure!(std::fs::read_to_string(&back)? == content, "the file changed on its way");
    // Attach.
    let mut attach = kubectl.command();
    attach
        .args(["attach", "-i", "talker", "-c", "reader"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut attached = attach.spawn()?;
    attached.stdin.as_mut().context("stdin")?.write_all(b"hello\n")?;
    let mut heard = BufReader::new(attached.stdout.take().context("stdout")?).lines();
    let first = heard
        .by_ref()
        .find(|l| l.as_ref().is_ok_and(|l| l.contains("got")))
        .context("attach said nothing")??;
    attached.kill()?;
    attached.wait()?;
    ensure!(first.contains("got hello"), "{first}");
    port_forward(&kubectl)?;
    // A pod that is removed after its one command.
    let ran = kubectl.answer(
        &[
            "run",
            "once",
            "--rm",
            "-i",
            "--restart=Never",
            &format!("--image={HELLO}"),
            "--command",
            "--",
            "sh",
            "-c",
            "cat; echo done",
        ],
        Some("typed\n"),
    )?;
    ensure!(ran.out.contains("done"), "{ran:?}");
    ensure!(kubectl.refused("get pod once")?.contains("not found"));
    // Watching, describing, events.
    let watched = dir.path().join("watched");
    let mut watch = kubectl.background("get pods -w", &watched)?;
    kubectl.run(&format!("run short --image={HELLO} --restart=Never --command -- true"))?;
    let seen = eventually("the watch shows the pod's end", Duration::from_secs(60), || {
        let text = std::fs::read_to_string(&watched)?;
        ensure!(text.lines().any(|l| l.starts_with("short") && l.contains("Completed")), "{text}");
        Ok(text)
    });
    watch.kill()?;
    watch.wait()?;
    seen?;
    let described = kubectl.run("describe pod short")?;
    for word in ["Scheduled", "Pulled", "Created", "Started", "Completed"] {
        ensure!(described.contains(word), "no {word} in:\n{described}");
    }
    ensure!(kubectl.run("events")?.contains("Started"));
    kubectl.run("delete namespace streams --wait --timeout=120s")?;
    Ok(())
}

fn port_forward(kubectl: &Kubectl) -> Result<()> {
    kubectl.run(&format!("run web --image={HELLO}"))?;
    kubectl.run("wait pod web --for=condition=Ready --timeout=60s")?;
    let mut command = kubectl.command();
    command.args(["port-forward", "pod/web", ":8080"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut forward = command.spawn()?;
    let mut said = BufReader::new(forward.stdout.take().context("stdout")?).lines();
    let first = said.next().context("port-forward said nothing")??;
    let port =
        first.split("127.0.0.1:").nth(1).and_then(|t| t.split(' ').next()).context("no port")?.to_owned();
    let result = (0..3).try_for_each(|_| {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "10", &format!("http://127.0.0.1:{port}/")])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            text.contains("web"),
            "through the forwarded port: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    });
    forward.kill()?;
    forward.wait()?;
    result
}
