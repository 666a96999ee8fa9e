//! `cox up`: prepares the host, starts the parts, waits until the cluster is healthy.
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use provision::{Finding, HostConfig, ProcessRecord, Progress, Severity};
use serde_json::json;
use tokio::net::UnixDatagram;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::args::{Up, Which};
use crate::cluster::{Cluster, Settings};
use crate::hosts::HostsCluster;
use crate::output::{self, Failure};
use crate::run;

/// Name of the record of the process that runs the parts.
pub const PROCESS: &str = "cox";
/// Says how the background process is told where to report that it is ready.
const NOTIFY: &str = "NOTIFY_SOCKET";
/// How long a killed process may take to be gone.
const DYING: Duration = Duration::from_secs(5);
/// How long the parts get to end.
const GRACE: Duration = Duration::from_secs(20);

/// Shows long work on standard error; nothing where a program reads the output.
pub struct Steps(Option<ProgressBar>);

impl Steps {
    /// Quiet where a program reads the output.
    pub fn new(quiet: bool) -> Self {
        if quiet {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(Some(bar))
    }

    /// Shows what is being done.
    pub fn begin(&self, what: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(what.to_owned());
        }
    }

    /// Leaves a line about what was done.
    pub fn done(&self, what: &str, detail: &str) {
        match &self.0 {
            // No terminal: no spinner, plain lines.
            Some(bar) if bar.is_hidden() => output::note(&format!("  {what}: {detail}")),
            Some(bar) => bar.println(format!("  {what}: {detail}")),
            None => {}
        }
    }

    /// Takes the display away.
    pub fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// The warnings among the findings, or all that is wrong.
pub fn judge(findings: &[Finding]) -> Result<Vec<String>, Failure> {
    let errors: Vec<&Finding> = findings.iter().filter(|f| f.severity == Severity::Error).collect();
    match errors.as_slice() {
        [] => Ok(findings.iter().map(ToString::to_string).collect()),
        [one] => Err(Failure::new(one.problem.clone(), one.next.clone())),
        many => {
            let all: Vec<String> = many.iter().map(|f| format!("- {f}")).collect();
            Err(Failure::new("this host cannot run a cluster yet", all.join("\n  ")))
        }
    }
}

async fn prepare(host: &HostConfig, steps: &Steps) -> Result<(), Failure> {
    let mut all = provision::control_plane(host);
    if host.node {
        all.extend(provision::node(host));
    }
    provision::run(all, |progress| match progress {
        Progress::AlreadyDone(_) => {}
        Progress::Begins(what) => steps.begin(what),
        Progress::Done(what, detail) => steps.done(what, &detail),
    })
    .await
    .map_err(|e| Failure::of(&e))
}

/// What is running now, and whether it is what is wanted.
enum Running {
    No,
    Same(ProcessRecord),
    Other(ProcessRecord),
}

fn running(cluster: &Cluster, which: &Which) -> Running {
    let path = cluster.layout.process_record(PROCESS);
    let Some(record) = ProcessRecord::read(&path).filter(ProcessRecord::is_alive) else { return Running::No };
    let kept: Option<Settings> = Cluster::kept(which).ok().map(|c| c.settings);
    if kept.as_ref() == Some(&cluster.settings) && same_binary(record.pid) {
        Running::Same(record)
    } else {
        Running::Other(record)
    }
}

/// Whether a process runs the same file as this one: a new build replaces the old one.
pub fn same_binary(pid: i32) -> bool {
    let id = |path: &Path| {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino(), m.mtime()))
    };
    let theirs = id(Path::new(&format!("/proc/{pid}/exe")));
    theirs.is_some() && theirs == id(Path::new("/proc/self/exe"))
}

/// What stands in the way. A process of this cluster that was killed a moment ago may still be letting go of its
/// ports: it gets a little time.
async fn findings(cluster: &Cluster, host: &HostConfig) -> Vec<Finding> {
    let deadline = Instant::now() + DYING;
    let died = ProcessRecord::read(&cluster.layout.process_record(PROCESS)).is_some_and(|r| !r.is_alive());
    loop {
        let found = provision::preflight(host);
        let stands = found.iter().any(|f| f.severity == Severity::Error);
        if !stands || !died || Instant::now() > deadline {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// `cox up`.
pub async fn up(options: Up, as_json: bool) -> Result<ExitCode, Failure> {
    if let Some(cluster) = HostsCluster::wanted(&options)? {
        return super::up_hosts::up(options, cluster, as_json).await;
    }
    let began = Instant::now();
    let cluster = Cluster::wanted(&options).await?;
    let host = cluster.host().await?;
    cluster.layout.exists().map_err(|e| Failure::of(&e))?;
    let state = running(&cluster, &options.which);
    let warnings = judge(&findings(&cluster, &host).await)?;
    if !as_json {
        warnings.iter().for_each(|w| output::note(&format!("  warning: {w}")));
    }
    let lock = cluster.layout.lock().map_err(|e| Failure::of(&e))?;
    let steps = Steps::new(as_json);
    match &state {
        Running::Other(record) => {
            steps.begin("stopping the parts that run with other settings");
            if let Some(process) = record.open() {
                process.stop(GRACE).await.map_err(|e| Failure::of(&e))?;
            }
        }
        Running::Same(record) if options.foreground => {
            return Err(Failure::new(
                format!("cluster {:?} runs already, as process {}", cluster.layout.name(), record.pid),
                "stop it with `cox down` first",
            ));
        }
        _ => {}
    }
    prepare(&host, &steps).await?;
    cluster.keep()?;
    drop(lock);
    if options.foreground {
        steps.end();
        return run_here(cluster, None).await;
    }
    if !matches!(state, Running::Same(_)) {
        steps.begin("starting the parts");
        start(&cluster, options.wait, &steps).await?;
    }
    steps.end();
    tell(&cluster, began.elapsed(), as_json.then_some(warnings))?;
    Ok(ExitCode::SUCCESS)
}

/// Says where the cluster is; as JSON with the warnings, where they are given.
fn tell(cluster: &Cluster, took: Duration, as_json: Option<Vec<String>>) -> Result<(), Failure> {
    let kubeconfig = cluster.admin_kubeconfig();
    let server = format!("https://127.0.0.1:{}", cluster.settings.secure_port);
    let seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
    if let Some(warnings) = as_json {
        return output::print_json(&json!({
            "name": cluster.layout.name(),
            "server": server,
            "kubeconfig": kubeconfig,
            "seconds": seconds,
            "warnings": warnings,
        }));
    }
    let kubeconfig = kubeconfig.display();
    let next = if cluster.settings.node {
        let image = format!("{}:{}", images::HELLO, images::VERSION);
        format!(
            "  kubectl get nodes -o wide\n  kubectl create deployment hello --image={image} --replicas=3\n"
        )
    } else {
        "  kubectl get namespaces\n  kubectl api-resources\n".to_owned()
    };
    output::print(&format!(
        "Cluster {:?} is ready after {seconds} s.\nKubeconfig: {kubeconfig}\n\n  export KUBECONFIG={kubeconfig}\n{next}",
        cluster.layout.name(),
    ))
}

/// The process that runs the parts, if it runs.
fn process(cluster: &Cluster) -> Option<ProcessRecord> {
    ProcessRecord::read(&cluster.layout.process_record(PROCESS)).filter(ProcessRecord::is_alive)
}

/// Whether the parts run.
pub fn is_running(cluster: &Cluster) -> bool {
    process(cluster).is_some()
}

/// Whether the parts run in a process that somebody else looks after.
pub fn runs_in_foreground(cluster: &Cluster) -> bool {
    let line = |pid: i32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    process(cluster).is_some_and(|r| line(r.pid).split(|b| *b == 0).nth(1) != Some(b"run"))
}

/// Starts the parts anew where they run; says whether they did. Pods run on.
pub async fn restart(cluster: &Cluster, wait: u64, steps: &Steps) -> Result<bool, Failure> {
    let Some(process) = process(cluster).and_then(|r| r.open()) else { return Ok(false) };
    process.stop(GRACE).await.map_err(|e| Failure::of(&e))?;
    start(cluster, wait, steps).await?;
    Ok(true)
}

/// Starts the parts in a process of their own and waits until they say that they are ready.
async fn start(cluster: &Cluster, wait: u64, steps: &Steps) -> Result<(), Failure> {
    let log = cluster.layout.logs().join("cox.log");
    let fail = |what: &str, e: std::io::Error| Failure::new(format!("cannot {what}: {e}"), "");
    let output = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(&log)
        .map_err(|e| fail(&format!("open {}", log.display()), e))?;
    let log_start = output.metadata().map_or(0, |m| m.len());
    let errors = output.try_clone().map_err(|e| fail("open the log", e))?;
    let socket = cluster.layout.run().join("cox.notify");
    let _ = std::fs::remove_file(&socket);
    let notify = UnixDatagram::bind(&socket).map_err(|e| fail("listen for readiness", e))?;
    let binary = std::env::current_exe().map_err(|e| fail("find this program", e))?;
    let mut command = Command::new(binary);
    command
        .arg("run")
        .args(["--name", cluster.layout.name()])
        .arg("--data-dir")
        .arg(cluster.layout.root().parent().unwrap_or(Path::new("/")))
        .env(NOTIFY, &socket)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .kill_on_drop(false);
    let mut child = command.spawn().map_err(|e| fail("start the parts", e))?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(wait);
    let mut buffer = [0u8; 1024];
    let result = loop {
        tokio::select! {
            received = notify.recv(&mut buffer) => {
                let n = received.map_err(|e| fail("listen for readiness", e))?;
                let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
                if text.lines().any(|line| line == "READY=1") {
                    break Ok(());
                }
                if let Some(status) = text.lines().find_map(|line| line.strip_prefix("STATUS=")) {
                    steps.begin(status);
                }
            }
            _ = child.wait() => break Err(Failure::new(
                format!("the parts ended: {}", last_words(&log, log_start)),
                format!("whole log: {}", log.display()),
            )),
            () = tokio::time::sleep_until(deadline) => break Err(Failure::new(
                format!("the cluster is not healthy after {wait} s"),
                format!("see `cox status` and {}; it goes on trying", log.display()),
            )),
        }
    };
    let _ = std::fs::remove_file(&socket);
    result
}

/// The last line of a log that says something.
fn last_words(log: &Path, from: u64) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(0).min(text.len());
    let text = String::from_utf8_lossy(&text[from..]).into_owned();
    let said = text.lines().rev().find(|line| line.starts_with("cox: ") || line.contains("ERROR"));
    said.or_else(|| text.lines().last()).unwrap_or("it said nothing").trim_start_matches("cox: ").to_owned()
}

/// `cox run`: what `up` starts in the background.
pub async fn run_kept(which: Which) -> Result<ExitCode, Failure> {
    let cluster = Cluster::kept(&which)?;
    let socket = std::env::var_os(NOTIFY).map(PathBuf::from);
    run_here(cluster, socket).await
}

async fn run_here(cluster: Cluster, notify: Option<PathBuf>) -> Result<ExitCode, Failure> {
    let record = cluster.layout.process_record(PROCESS);
    if let Some(own) = ProcessRecord::current() {
        own.write(&record)
            .map_err(|e| Failure::new(format!("cannot write {}: {e}", record.display()), ""))?;
    }
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| Failure::of(&e))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| Failure::of(&e))?;
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        on_signal.cancel();
    });
    let result = run::run(cluster, stop, notify).await;
    let _ = std::fs::remove_file(&record);
    result.map_err(Failure::from)?;
    Ok(ExitCode::SUCCESS)
}
