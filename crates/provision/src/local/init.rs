//! The first process of a host: makes it what it is, keeps its services running, and does what it is asked.

use std::{
    collections::BTreeMap,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use super::{
    agent::{Answer, LIMIT, Request},
    files, mounts,
    services::{Children, Services, last_words},
};
use crate::{apply::Output, plan::Stage, probe::probe};

/// What a host is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitSpec {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the prefix of the network it is in.
    pub prefix: u8,
    /// The way to everywhere else.
    pub gateway: Ipv4Addr,
    /// The network namespace with the switch.
    pub switch: PathBuf,
    /// Name of the host's end there.
    pub port: String,
    /// Where its disk lies.
    pub disk: PathBuf,
    /// Directories that are on its disk; what it changes elsewhere is gone with it.
    pub persistent: Vec<PathBuf>,
    /// Where its logs go.
    pub logs: PathBuf,
    /// Where it is asked.
    pub socket: PathBuf,
}

/// How long processes get to end when a host is turned off.
const GRACE: Duration = Duration::from_secs(5);

/// Runs a host until it is turned off. Has to be the first process of new namespaces: mount, network, UTS, IPC,
/// process and cgroup ones.
pub async fn run_init(spec: InitSpec) -> anyhow::Result<()> {
    ensure!(std::process::id() == 1, "this is no host: it runs in no process namespace of its own");
    let listener = listen(&spec.socket)?;
    rustix::system::sethostname(spec.name.as_bytes()).context("cannot set the host's name")?;
    network(&spec).context("cannot connect the host to its network")?;
    mounts::make(&spec.disk, &spec.logs, &spec.persistent)?;
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let hierarchies = mounts::hierarchies(&mountinfo);
    // The group at the top may hold groups or processes, not both, where there is but one hierarchy.
    for directory in mounts::make_cgroup(&hierarchies, "init")? {
        fs::write(directory.join("cgroup.procs"), "1")
            .with_context(|| format!("cannot enter {}", directory.display()))?;
    }
    for hierarchy in hierarchies.iter().filter(|h| h.options.is_none()) {
        mounts::delegate(&hierarchy.at);
    }

    let children = Children::default();
    tokio::spawn(children.clone().reap());
    let off = CancellationToken::new();
    let init =
        Arc::new(Init { services: Services::new(children.clone(), hierarchies), children, off: off.clone() });
    let mut terminate = signal(SignalKind::terminate())?;
    tracing::info!(host = spec.name, address = %spec.address, "host is up");
    loop {
        tokio::select! {
            () = off.cancelled() => break,
            _ = terminate.recv() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let init = init.clone();
                    tokio::spawn(async move {
                        if let Err(error) = init.serve(stream).await {
                            tracing::debug!(%error, "a request broke off");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a request");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    // What others count on goes last.
    for stage in Stage::ALL.into_iter().rev() {
        init.services.stop_stage(stage).await;
    }
    end_others().await;
    tracing::info!(host = spec.name, "host is down");
    let _ = fs::remove_file(&spec.socket);
    Ok(())
}

fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    match fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove {}", socket.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(socket).with_context(|| format!("cannot listen at {}", socket.display()))?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Everything that still runs here, containers above all, is asked to end; what does not goes with the namespace.
async fn end_others() {
    let all = || -> Vec<Pid> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        // Kernel threads and what has ended already have no command line.
        let lives = |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| !c.is_empty());
        numbers.filter(|pid| *pid != 1).filter(lives).filter_map(Pid::from_raw).collect()
    };
    for pid in all() {
        let _ = kill_process(pid, Signal::TERM);
    }
    let deadline = tokio::time::Instant::now() + GRACE;
    let is_shim = |pid: &Pid| {
        fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()))
            .is_ok_and(|c| c.starts_with("containerd-shim"))
    };
    while tokio::time::Instant::now() < deadline && !all().iter().all(is_shim) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs one of the programs that make links; what it says is the error.
pub(super) fn tool(command: &[&str]) -> anyhow::Result<()> {
    let (program, arguments) = command.split_first().context("no command")?;
    let program = crate::binaries::find_program(program).unwrap_or_else(|| PathBuf::from(program));
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command[0]))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "{}: {said}", command.join(" "));
    Ok(())
}

/// The hardware address of a host: it follows from its address, so that others need not learn it anew after a reboot.
fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("0a:c1:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn network(spec: &InitSpec) -> anyhow::Result<()> {
    let switch = format!("--net={}", spec.switch.display());
    let namespace = spec.switch.display().to_string();
    tool(&["ip", "link", "set", "lo", "up"])?;
    // Of a former life that the kernel has not cleared away yet.
    let _ = tool(&["nsenter", &switch, "ip", "link", "del", &spec.port]);
    let mac = mac(spec.address);
    tool(&[
        "ip", "link", "add", "eth0", "address", &mac, "type", "veth", "peer", "name", &spec.port, "netns",
        &namespace,
    ])?;
    tool(&["nsenter", &switch, "ip", "link", "set", &spec.port, "master", super::switch::BRIDGE, "up"])?;
    tool(&["ip", "addr", "add", &format!("{}/{}", spec.address, spec.prefix), "dev", "eth0"])?;
    tool(&["ip", "link", "set", "eth0", "up"])?;
    tool(&["ip", "route", "add", "default", "via", &spec.gateway.to_string()])
}

struct Init {
    services: Services,
    children: Children,
    off: CancellationToken,
}

impl Init {
    async fn serve(&self, stream: UnixStream) -> anyhow::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut line = String::new();
        BufReader::new(read.take(LIMIT)).read_line(&mut line).await?;
        if line.is_empty() {
            return Ok(());
        }
        let request: Request = serde_json::from_str(&line).context("not a request")?;
        let answer = self.answer(request).await.unwrap_or_else(|e| Answer::Failed(format!("{e:#}")));
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        write.write_all(&line).await?;
        Ok(())
    }

    async fn answer(&self, request: Request) -> anyhow::Result<Answer> {
        Ok(match request {
            Request::Ping => Answer::Done,
            Request::Inspect(paths) => Answer::Found(files::inspect(&paths)?),
            Request::MakeDirectory { path, mode } => {
                files::make_directory(&path, mode)
                    .with_context(|| format!("cannot make {}", path.display()))?;
                Answer::Done
            }
            Request::WriteFile { path, mode, content } => {
                let content = base64::engine::general_purpose::STANDARD.decode(content)?;
                files::write(&path, mode, &content)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                Answer::Done
            }
            Request::Link { path, to } => {
                files::link(&path, &to).with_context(|| format!("cannot link {}", path.display()))?;
                Answer::Done
            }
            Request::Run { command, input } => Answer::Output(self.run(command, input).await?),
            Request::Set { settings } => Answer::Settings(set(&settings)?),
            Request::Services => Answer::Services(self.services.list().await),
            Request::Start { service, digest } => {
                self.services.start(*service, digest).await;
                Answer::Done
            }
            Request::Remove(name) => {
                self.services.remove(&name).await;
                Answer::Done
            }
            Request::StopStage(stage) => {
                self.services.stop_stage(stage).await;
                Answer::Done
            }
            Request::Probe(ready) => Answer::Probed(probe(&ready).await),
            Request::LastWords(service) => Answer::Words(last_words(&service)),
            Request::PowerOff => {
                self.off.cancel();
                Answer::Done
            }
        })
    }

    /// Commands are small and speak little: their input fits into a pipe or is written by a thread.
    async fn run(&self, command: Vec<String>, input: String) -> anyhow::Result<Output> {
        let (program, arguments) = command.split_first().context("no command")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("PATH", crate::binaries::search_path())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (mut child, end) =
            self.children.start(&mut command).with_context(|| format!("cannot run {program}"))?;
        let input = base64::engine::general_purpose::STANDARD.decode(input)?;
        let (stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = tokio::task::spawn_blocking(move || {
            // One that does not want its input hangs up early.
            stdin.map(|mut stdin| io::Write::write_all(&mut stdin, &input))
        });
        let read = |from: Option<Box<dyn io::Read + Send>>| {
            tokio::task::spawn_blocking(move || {
                let mut bytes = Vec::new();
                if let Some(from) = from {
                    let _ = io::Read::read_to_end(&mut io::Read::take(from, LIMIT / 4), &mut bytes);
                }
                String::from_utf8_lossy(&bytes).into_owned()
            })
        };
        let out = read(out.map(|o| Box::new(o) as Box<dyn io::Read + Send>));
        let err = read(err.map(|e| Box::new(e) as Box<dyn io::Read + Send>));
        let _ = write.await?;
        Ok(Output { code: end.await.unwrap_or(-1), out: out.await?, err: err.await? })
    }
}

/// Kernel settings of the host's own network; all others are the machine's, which is not ours to change.
fn set(settings: &BTreeMap<String, String>) -> anyhow::Result<Vec<String>> {
    let mut changed = Vec::new();
    for (name, value) in settings.iter().filter(|(name, _)| name.starts_with("net.")) {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        // Some are the machine's all the same (`nf_conntrack_max`), or belong to what this kernel lacks.
        let Ok(found) = fs::read_to_string(&path) else { continue };
        if found.trim() != value && fs::write(&path, value).is_ok() {
            changed.push(name.clone());
        }
    }
    Ok(changed)
}
