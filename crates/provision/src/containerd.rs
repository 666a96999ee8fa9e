//! A containerd of the cluster's own: configured, started, adopted, stopped.
//!
//! It outlives us on purpose: pods run on while the parts of Kubernetes are replaced. Whoever comes next finds it by its
//! process record and adopts it.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{net::UnixDatagram, process::Command, time::Instant};
use tracing::{debug, info, warn};

use crate::{
    Layout, Process, ProcessRecord,
    binaries::{find_program, search_path},
    files,
};

/// How long a start may take before it counts as failed.
const START: Duration = Duration::from_secs(30);
/// How long it gets to end by itself.
const GRACE: Duration = Duration::from_secs(10);
/// Size from which its log is put aside when it starts.
const LOG_LIMIT: u64 = 16 << 20;

/// What a cluster's containerd is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerdConfig {
    /// The image that holds a pod's namespaces.
    pub sandbox_image: String,
    /// Where the CNI plugins are.
    pub cni_bin_dir: PathBuf,
    /// How image layers are stacked.
    pub snapshotter: String,
    /// Whether containers may not have a lower out-of-memory score than containerd: where we lack the right to lower
    /// it, asking for it fails every pod.
    pub restrict_oom_score: bool,
}

/// Why containerd does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerdError {
    /// It is not installed.
    #[error("{program} is not installed; apt-get install {program}")]
    Missing {
        /// Which program.
        program: &'static str,
    },
    /// A file or the start failed.
    #[error("cannot {step}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// It ended instead of starting.
    #[error("containerd ended while starting: {said} (whole log: {})", log.display())]
    Died {
        /// The last line of its log.
        said: String,
        /// Where the log is.
        log: PathBuf,
    },
    /// It runs and does not answer.
    #[error("containerd does not answer after {} s; see {}", START.as_secs(), log.display())]
    Silent {
        /// Where the log is.
        log: PathBuf,
        /// Its last answer.
        #[source]
        source: Option<cri::Error>,
    },
}

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> ContainerdError {
    move |source| ContainerdError::Io { step, source }
}

/// Where a containerd keeps things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerdPlaces {
    /// Images and containers.
    pub data: PathBuf,
    /// What is gone with the next start of the machine.
    pub state: PathBuf,
    /// What it would install.
    pub opt: PathBuf,
    /// How registries are reached.
    pub registries: PathBuf,
    /// Where it listens.
    pub socket: PathBuf,
    /// Configuration of the pod network.
    pub cni_conf: PathBuf,
}

/// The configuration file of a cluster's containerd.
pub fn containerd_config(layout: &Layout, config: &ContainerdConfig, runc: &Path) -> String {
    let root = layout.containerd_root();
    let places = ContainerdPlaces {
        data: root.join("data"),
        state: layout.containerd_state(),
        opt: root.join("opt"),
        registries: root.join("certs.d"),
        socket: layout.containerd_socket(),
        cni_conf: layout.cni_conf(),
    };
    config_text(&places, config, runc)
}

/// The configuration file of a containerd, wherever it keeps things.
pub(crate) fn config_text(places: &ContainerdPlaces, config: &ContainerdConfig, runc: &Path) -> String {
    let socket = &places.socket;
    let mut ttrpc = socket.clone().into_os_string();
    ttrpc.push(".ttrpc");
    let cri = json!({
        "sandbox_image": config.sandbox_image,
        "restrict_oom_score_adj": config.restrict_oom_score,
        // Streams go through the kubelet, which connects to loopback.
        "disable_tcp_service": true,
        "stream_server_address": "127.0.0.1",
        "stream_server_port": "0",
        // Below our own directory, so that nothing of ours is left in /run.
        "netns_mounts_under_state_dir": true,
        "tolerate_missing_hugetlb_controller": true,
        "cni": { "bin_dir": config.cni_bin_dir, "conf_dir": places.cni_conf, "max_conf_num": 1 },
        "containerd": {
            "snapshotter": config.snapshotter,
            "default_runtime_name": "runc",
            "runtimes": { "runc": {
                "runtime_type": "io.containerd.runc.v2",
                "options": { "BinaryName": runc, "SystemdCgroup": false },
            } },
        },
        "registry": { "config_path": places.registries },
    });
    let all: Value = json!({
        "version": 2,
        "root": places.data,
        "state": places.state,
        // Zero: left as it is. Lowering it needs a right that containers and some hosts do not give.
        "oom_score": 0,
        "disabled_plugins": [
            "io.containerd.snapshotter.v1.aufs",
            "io.containerd.snapshotter.v1.btrfs",
            "io.containerd.snapshotter.v1.devmapper",
            "io.containerd.snapshotter.v1.zfs",
            "io.containerd.tracing.processor.v1.otlp",
            "io.containerd.internal.v1.tracing",
        ],
        "grpc": { "address": socket, "uid": 0, "gid": 0 },
        "ttrpc": { "address": PathBuf::from(ttrpc), "uid": 0, "gid": 0 },
        "debug": { "level": "warn" },
        "plugins": {
            "io.containerd.grpc.v1.cri": cri,
            "io.containerd.internal.v1.opt": { "path": places.opt },
        },
    });
    toml::to_string(&all).expect("text, numbers, lists and tables always have a TOML form")
}

/// A containerd that runs and answers.
#[derive(Debug)]
pub struct Containerd {
    process: Process,
    cri: cri::Cri,
}

impl Containerd {
    /// The one that runs for the cluster, if it does.
    pub fn find(layout: &Layout) -> Option<Self> {
        let process = ProcessRecord::read(&layout.process_record("containerd"))?.open()?;
        let cri = cri::Cri::new(&endpoint(layout)).ok()?;
        Some(Self { process, cri })
    }

    /// Whether it runs, with this configuration, and answers.
    pub async fn is_current(layout: &Layout, config: &ContainerdConfig) -> bool {
        let Some(runc) = find_program("runc") else { return false };
        let text = containerd_config(layout, config, &runc);
        let same = fs::read(layout.containerd_config()).is_ok_and(|found| found == text.as_bytes());
        match Self::find(layout) {
            Some(running) if same => running.cri.version().await.is_ok(),
            _ => false,
        }
    }

    /// Finds or starts it, and returns when it answers. One that runs with another configuration is started anew; its
    /// containers run on meanwhile.
    pub async fn ensure(layout: &Layout, config: &ContainerdConfig) -> Result<Self, ContainerdError> {
        let runc = find_program("runc").ok_or(ContainerdError::Missing { program: "runc" })?;
        let text = containerd_config(layout, config, &runc);
        let changed = files::write_if_changed(&layout.containerd_config(), text.as_bytes(), 0o644)
            .map_err(failed("write containerd's configuration"))?;
        if let Some(running) = Self::find(layout) {
            if !changed && running.wait_until_ready(&layout.logs().join("containerd.log")).await.is_ok() {
                debug!(pid = running.process.record().pid, "adopted the running containerd");
                return Ok(running);
            }
            info!(changed, "starting containerd anew");
            running.process.stop(GRACE).await.map_err(failed("stop containerd"))?;
        }
        Self::start(layout).await
    }

    /// Starts it as it was last configured.
    pub(crate) async fn restart(layout: &Layout) -> Result<Self, ContainerdError> {
        Self::start(layout).await
    }

    async fn start(layout: &Layout) -> Result<Self, ContainerdError> {
        let binary = find_program("containerd").ok_or(ContainerdError::Missing { program: "containerd" })?;
        let log = layout.logs().join("containerd.log");
        if fs::metadata(&log).is_ok_and(|m| m.len() > LOG_LIMIT) {
            fs::rename(&log, log.with_extension("log.1")).map_err(failed("put containerd's log aside"))?;
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(layout.containerd_state())
            .map_err(failed("make containerd's state directory"))?;
        let output = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o644)
            .open(&log)
            .map_err(failed("open containerd's log"))?;
        let log_start = output.metadata().map_or(0, |m| m.len());
        let errors = output.try_clone().map_err(failed("open containerd's log"))?;
        // systemd's way for a service to say that it is ready: containerd speaks it, so nobody has to guess.
        let notify_path = layout.run().join("containerd.notify");
        let _ = fs::remove_file(&notify_path);
        let notify = UnixDatagram::bind(&notify_path).map_err(failed("listen for containerd's readiness"))?;

        let mut child = Command::new(binary)
            .arg("--config")
            .arg(layout.containerd_config())
            .env("PATH", search_path())
            .env("NOTIFY_SOCKET", &notify_path)
            .current_dir("/")
            // Its own group: what ends us from a terminal does not end it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(false)
            .spawn()
            .map_err(failed("start containerd"))?;
        let process = child
            .id()
            .and_then(|pid| ProcessRecord::of(i32::try_from(pid).ok()?))
            .and_then(|record| record.open());
        let Some(process) = process else {
            let _ = child.wait().await;
            return Err(died(&log, log_start));
        };
        process
            .record()
            .write(&layout.process_record("containerd"))
            .map_err(failed("record containerd's process"))?;

        let ready = async {
            let mut message = [0; 1024];
            loop {
                let size = notify.recv(&mut message).await?;
                if message[..size].split(|b| *b == b'\n').any(|line| line == b"READY=1") {
                    return Ok::<_, io::Error>(());
                }
            }
        };
        let said = tokio::select! {
            ready = ready => Some(ready.map_err(failed("listen for containerd's readiness"))),
            _ = child.wait() => None,
            () = tokio::time::sleep(START) => {
                warn!("containerd has not said that it is ready");
                Some(Ok(()))
            }
        };
        let _ = fs::remove_file(&notify_path);
        said.ok_or_else(|| died(&log, log_start))??;

        let cri = cri::Cri::new(&endpoint(layout))
            .map_err(|e| ContainerdError::Silent { log: log.clone(), source: Some(e) })?;
        let running = Self { process, cri };
        tokio::select! {
            answered = running.wait_until_ready(&log) => answered?,
            _ = child.wait() => return Err(died(&log, log_start)),
        }
        info!(pid = running.process.record().pid, "containerd started");
        Ok(running)
    }

    /// Watches over the cluster's containerd: when it ends, starts it again. Never returns; drop it to end the watch,
    /// which leaves containerd running.
    pub async fn keep(layout: &Layout, config: &ContainerdConfig) -> std::convert::Infallible {
        const SHORTEST: Duration = Duration::from_secs(1);
        const LONGEST: Duration = Duration::from_secs(60);
        let mut pause = SHORTEST;
        loop {
            match Self::ensure(layout, config).await {
                Ok(running) => {
                    let since = Instant::now();
                    if let Err(error) = running.process.ended().await {
                        warn!(%error, "cannot watch containerd");
                    }
                    warn!(pid = running.process.record().pid, "containerd ended");
                    // One that ran for a while may come back at once.
                    if since.elapsed() > LONGEST {
                        pause = SHORTEST;
                        continue;
                    }
                }
                Err(error) => warn!(error = &error as &dyn std::error::Error, "containerd does not start"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// Its CRI part comes up a moment after the rest, and refuses calls until then.
    async fn wait_until_ready(&self, log: &Path) -> Result<(), ContainerdError> {
        let deadline = Instant::now() + START;
        let mut pause = Duration::from_millis(1);
        loop {
            let answer = tokio::time::timeout_at(deadline, self.cri.list_pod_sandbox(None)).await;
            match answer {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) if Instant::now() + pause > deadline => {
                    return Err(ContainerdError::Silent { log: log.to_owned(), source: Some(error) });
                }
                Ok(Err(_)) => {}
                Err(_) => return Err(ContainerdError::Silent { log: log.to_owned(), source: None }),
            }
            if !self.process.record().is_alive() {
                return Err(died(log, 0));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// A client of its CRI.
    pub fn cri(&self) -> &cri::Cri {
        &self.cri
    }

    /// Its process: to watch its end, or to end it.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Ends it. Its containers run on.
    pub async fn stop(&self, layout: &Layout) -> Result<(), ContainerdError> {
        if self.process.stop(GRACE).await.map_err(failed("stop containerd"))? {
            warn!("containerd had to be killed");
        }
        let _ = fs::remove_file(layout.process_record("containerd"));
        Ok(())
    }
}

/// The cluster's CRI address.
fn endpoint(layout: &Layout) -> String {
    format!("unix://{}", layout.containerd_socket().display())
}

fn died(log: &Path, since: u64) -> ContainerdError {
    let text = fs::read(log).unwrap_or_default();
    let new = text.get(usize::try_from(since).unwrap_or(usize::MAX)..).unwrap_or_default();
    let said = String::from_utf8_lossy(new)
        .lines()
        .rfind(|l| !l.trim().is_empty())
        .unwrap_or("it said nothing")
        .to_owned();
    ContainerdError::Died { said, log: log.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_configured_outside_the_data_directory() {
        let layout = Layout::new(Path::new("/data"), "home").expect("a layout");
        let config = ContainerdConfig {
            sandbox_image: "localhost/cox/pause:1".into(),
            cni_bin_dir: "/usr/lib/cni".into(),
            snapshotter: "overlayfs".into(),
            restrict_oom_score: true,
        };
        let text = containerd_config(&layout, &config, Path::new("/usr/sbin/runc"));
        let value: toml::Table = text.parse().expect("TOML");
        assert_eq!(value["version"].as_integer(), Some(2));
        assert_eq!(value["root"].as_str(), Some("/data/home/containerd/data"));
        let cri = &value["plugins"]["io.containerd.grpc.v1.cri"];
        assert_eq!(cri["restrict_oom_score_adj"].as_bool(), Some(true));
        assert_eq!(cri["cni"]["conf_dir"].as_str(), Some("/data/home/cni/net.d"));
        assert_eq!(cri["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"].as_bool(), Some(false));
        for line in text.lines().filter(|l| l.contains("= \"/")) {
            let ours = line.contains("/data/home/")
                || line.contains("/usr/lib/cni")
                || line.contains("/usr/sbin/runc");
            assert!(ours, "{line}");
        }
    }
}
