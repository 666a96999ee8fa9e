//! The services of a host, supervised by its init: started again when they end, with growing pauses.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, kill_process, kill_process_group, prlimit, wait,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::mounts::Hierarchy;
use crate::{
    apply::Running,
    binaries::search_path,
    plan::{PlannedService, Stage, StopWith},
};

/// Where services' output goes.
const LOGS: &str = "/run/cox/logs";
/// Size from which a log is put aside when its service starts.
const LOG_LIMIT: u64 = 16 << 20;
/// The pauses before a service is started again.
const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(10);
/// How long a service has run when its next end counts as the first one.
const SETTLED: Duration = Duration::from_secs(30);
/// How long a service gets to end by itself. A member of etcd loses nothing when it is killed, and the last one of a
/// cluster that goes down would look long for another to lead.
fn grace(stage: Stage) -> Duration {
    Duration::from_secs(if stage == Stage::Etcd { 2 } else { 10 })
}

/// Waits for every process whose parent is gone, as the first process of a host has to, and tells who waits for one.
#[derive(Clone, Default)]
pub(super) struct Children(Arc<Mutex<HashMap<i32, oneshot::Sender<i32>>>>);

impl Children {
    /// Starts a process; the second value is its exit code once it has ended, -1 where a signal ended it.
    pub(super) fn start(
        &self,
        command: &mut Command,
    ) -> io::Result<(std::process::Child, oneshot::Receiver<i32>)> {
        let (ended, end) = oneshot::channel();
        // Held until the process is known: it may have ended by then.
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        waiting.insert(i32::try_from(child.id()).unwrap_or_default(), ended);
        Ok((child, end))
    }

    /// Waits for processes as long as this host lives.
    pub(super) async fn reap(self) -> io::Result<()> {
        let mut signals = signal(SignalKind::child())?;
        loop {
            {
                let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                    if let Some(ended) = waiting.remove(&pid.as_raw_nonzero().get()) {
                        let _ = ended.send(status.exit_status().unwrap_or(-1));
                    }
                }
            }
            if signals.recv().await.is_none() {
                return Ok(());
            }
        }
    }
}

struct Entry {
    stage: Stage,
    digest: String,
    state: watch::Receiver<State>,
    stop: CancellationToken,
    ended: oneshot::Receiver<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    active: bool,
    restarts: u64,
}

/// All services of this host.
pub(super) struct Services {
    children: Children,
    hierarchies: Vec<Hierarchy>,
    all: tokio::sync::Mutex<BTreeMap<String, Entry>>,
}

impl Services {
    pub(super) fn new(children: Children, hierarchies: Vec<Hierarchy>) -> Self {
        Self { children, hierarchies, all: Default::default() }
    }

    /// What there is.
    pub(super) async fn list(&self) -> BTreeMap<String, Running> {
        let all = self.all.lock().await;
        all.iter()
            .map(|(name, entry)| {
                let State { active, restarts } = *entry.state.borrow();
                (name.clone(), Running { digest: entry.digest.clone(), active, restarts })
            })
            .collect()
    }

    /// Starts a service, in place of one of that name.
    pub(super) async fn start(&self, service: PlannedService, digest: String) {
        let mut all = self.all.lock().await;
        if let Some(old) = all.remove(&service.name) {
            old.stop.cancel();
            let _ = old.ended.await;
        }
        let stage = service.stage;
        let (told, state) = watch::channel(State { active: true, restarts: 0 });
        let (stop, name) = (CancellationToken::new(), service.name.clone());
        let (last, ended) = oneshot::channel();
        let (children, hierarchies, token) = (self.children.clone(), self.hierarchies.clone(), stop.clone());
        tokio::spawn(async move {
            supervise(&service, &children, &hierarchies, &told, &token).await;
            let _ = last.send(());
        });
        all.insert(name, Entry { stage, digest, state, stop, ended });
    }

    /// Stops a service and forgets it.
    pub(super) async fn remove(&self, name: &str) {
        let entry = self.all.lock().await.remove(name);
        if let Some(entry) = entry {
            entry.stop.cancel();
            let _ = entry.ended.await;
        }
    }

    /// Stops those of a stage at once.
    pub(super) async fn stop_stage(&self, stage: Stage) {
        let gone: Vec<Entry> = {
            let mut all = self.all.lock().await;
            let names: Vec<String> =
                all.iter().filter(|(_, e)| e.stage == stage).map(|(name, _)| name.clone()).collect();
            names.iter().filter_map(|name| all.remove(name)).collect()
        };
        gone.iter().for_each(|entry| entry.stop.cancel());
        for entry in gone {
            let _ = entry.ended.await;
        }
    }
}

async fn supervise(
    service: &PlannedService,
    children: &Children,
    hierarchies: &[Hierarchy],
    state: &watch::Sender<State>,
    stop: &CancellationToken,
) {
    let mut pause = SHORTEST;
    loop {
        let began = Instant::now();
        match spawn(service, children, hierarchies) {
            Ok((pid, mut end)) => {
                state.send_modify(|s| s.active = true);
                tracing::info!(service = service.name, pid = pid.as_raw_nonzero().get(), "service started");
                let code = tokio::select! {
                    code = &mut end => code.unwrap_or(-1),
                    () = stop.cancelled() => {
                        end_service(service, pid, end).await;
                        tracing::info!(service = service.name, "service stopped");
                        return;
                    }
                };
                tracing::warn!(service = service.name, code, "service ended");
            }
            Err(error) => tracing::warn!(service = service.name, %error, "service does not start"),
        }
        state.send_modify(|s| {
            s.active = false;
            s.restarts += 1;
        });
        if began.elapsed() > SETTLED {
            pause = SHORTEST;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(LONGEST);
    }
}

/// Asks a service to end, then makes it.
async fn end_service(service: &PlannedService, pid: Pid, mut end: oneshot::Receiver<i32>) {
    let _ = kill_process(pid, Signal::TERM);
    if tokio::time::timeout(grace(service.stage), &mut end).await.is_err() {
        let _ = kill_process(pid, Signal::KILL);
        let _ = end.await;
    }
    if service.stop == StopWith::All {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

fn log_file(service: &str) -> PathBuf {
    Path::new(LOGS).join(format!("{service}.log"))
}

fn spawn(
    service: &PlannedService,
    children: &Children,
    hierarchies: &[Hierarchy],
) -> io::Result<(Pid, oneshot::Receiver<i32>)> {
    let log = log_file(&service.name);
    if fs::metadata(&log).is_ok_and(|m| m.len() > LOG_LIMIT) {
        fs::rename(&log, log.with_extension("log.1"))?;
    }
    let output = fs::OpenOptions::new().create(true).append(true).mode(0o640).open(&log)?;
    let (program, arguments) = service
        .exec
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no program"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", search_path())
        .env("HOME", "/root")
        .envs(&service.environment)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let (child, end) = children.start(&mut command)?;
    let raw = i32::try_from(child.id()).unwrap_or_default();
    let Some(pid) = Pid::from_raw(raw) else { return Err(io::ErrorKind::InvalidData.into()) };
    // All that follows may fail where this machine lacks a right; the service runs all the same.
    if let Ok(directories) = super::mounts::make_cgroup(hierarchies, &format!("system/{}", service.name)) {
        for directory in directories {
            let _ = fs::write(directory.join("cgroup.procs"), raw.to_string());
        }
    }
    if let Some(score) = service.oom_score_adjust {
        let _ = fs::write(format!("/proc/{raw}/oom_score_adj"), score.to_string());
    }
    if let Some(most) = service.open_files {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        let _ = prlimit(Some(pid), Resource::Nofile, limit);
    }
    Ok((pid, end))
}

/// The last lines of a service's log.
pub(super) fn last_words(service: &str) -> String {
    let read = || -> io::Result<String> {
        let mut file = fs::File::open(log_file(service))?;
        let from = file.metadata()?.len().saturating_sub(4096);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    // What ended a program of ours begins with its name; else the last thing that was said.
    let end = lines.iter().rev().find(|l| l.starts_with("cox: ")).or(lines.last());
    end.map(|l| (*l).to_owned()).unwrap_or_default()
}
