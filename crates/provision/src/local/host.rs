//! Hosts of this machine, seen from it: started, asked, turned off.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_trait::async_trait;
use base64::Engine as _;
use ipnet::Ipv4Net;
use tokio::time::Instant;

use super::{
    agent::{Answer, Request, ask, init_of},
    init::InitSpec,
    mounts::{self, Hierarchy},
    switch::{Switch, SwitchError},
};
use crate::{
    Facts, Layout, ProcessRecord,
    apply::{FileFacts, Host, HostError, Output, Running},
    files,
    plan::{HostPlan, PlannedRuntime, PlannedService, Ready, Stage},
};

/// Directories that are on every host's disk.
const PERSISTENT: [&str; 8] = [
    "/etc/kubernetes",
    "/etc/containerd",
    "/etc/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/lib/etcd",
    "/var/log",
];
/// How long a host may take to come up.
const BOOT: Duration = Duration::from_secs(60);
/// How long it may take to go down by itself.
const SHUTDOWN: Duration = Duration::from_secs(30);

/// The hosts of one cluster on this machine.
#[derive(Clone, Debug)]
pub struct LocalHosts {
    layout: Layout,
    switch: Switch,
    program: PathBuf,
}

impl LocalHosts {
    /// The hosts of a cluster, in a network of their own; `program` is run as their init, as
    /// `PROGRAM host-init --spec FILE`.
    pub fn new(layout: &Layout, network: Ipv4Net, program: PathBuf) -> Self {
        Self { switch: Switch::of(layout, network), layout: layout.clone(), program }
    }

    /// The tables of packet rules that they brought, as (family, name).
    pub fn nft_tables(&self) -> Vec<(String, String)> {
        vec![("ip".into(), self.switch.table.clone())]
    }

    /// Lays the wire between them; says whether it was missing.
    pub async fn ensure_switch(&self) -> Result<bool, SwitchError> {
        self.switch.ensure().await
    }

    /// Takes the wire away.
    pub async fn remove_switch(&self) -> io::Result<bool> {
        self.switch.remove().await
    }

    /// One of them.
    pub fn host(&self, name: &str) -> LocalHost {
        LocalHost { name: name.to_owned(), layout: self.layout.clone() }
    }

    /// Starts a host that does not run; says whether it did not.
    pub async fn start(&self, plan: &HostPlan) -> Result<bool, HostError> {
        let host = self.host(&plan.host);
        if host.process().is_some() && init_of(&host.socket()).await.is_some() {
            return Ok(false);
        }
        let refused = |step: &str, e: String| HostError::Refused { step: step.to_owned(), said: e };
        // One that lives and does not answer is in the way of another.
        host.power_off().await.map_err(|e| refused("stop a host that does not answer", e.to_string()))?;
        let std::net::IpAddr::V4(address) = plan.address else {
            return Err(refused("start the host", format!("{} is no IPv4 address", plan.address)));
        };
        // By its address: hosts come and go, and no two that run may have the same.
        let number = u32::from(address).wrapping_sub(u32::from(self.switch.network.network()));
        let spec = InitSpec {
            name: plan.host.clone(),
            address,
            prefix: self.switch.network.prefix_len(),
            gateway: self.switch.gateway(),
            switch: self.switch.namespace.clone(),
            port: format!("port{number}"),
            disk: host.root().join("disk"),
            persistent: persistent(plan),
            logs: host.logs(),
            socket: host.socket(),
        };
        host.boot(&spec, &self.program).await.map_err(|e| refused("start the host", format!("{e:#}")))?;
        Ok(true)
    }
}

/// What a plan keeps below `/etc` and `/var/lib`, and what every host does.
fn persistent(plan: &HostPlan) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = PERSISTENT.iter().map(PathBuf::from).collect();
    let planned = plan.directories.iter().map(|d| d.path.as_path());
    let planned = planned.chain(plan.files.iter().filter_map(|f| f.path.parent()));
    for path in planned {
        let Ok(below) = path.strip_prefix("/var/lib") else { continue };
        if let Some(first) = below.components().next() {
            all.push(Path::new("/var/lib").join(first));
        }
    }
    all.sort();
    all.dedup();
    all
}

/// A host of this machine.
#[derive(Clone, Debug)]
pub struct LocalHost {
    name: String,
    layout: Layout,
}

impl LocalHost {
    fn root(&self) -> PathBuf {
        self.layout.root().join("hosts").join(&self.name)
    }

    /// Where the logs of its services are.
    pub fn logs(&self) -> PathBuf {
        self.layout.logs().join(&self.name)
    }

    fn socket(&self) -> PathBuf {
        self.layout.run().join(format!("{}.sock", self.name))
    }

    fn record(&self) -> PathBuf {
        self.layout.process_record(&format!("host-{}", self.name))
    }

    fn cgroup(&self) -> String {
        format!("{}/{}", self.layout.cgroup_root(), self.name)
    }

    /// Its init, if it runs.
    pub fn process(&self) -> Option<ProcessRecord> {
        ProcessRecord::read(&self.record()).filter(ProcessRecord::is_alive)
    }

    /// A path of the host as this machine sees it, as long as it runs.
    pub fn path(&self, path: &Path) -> Option<PathBuf> {
        let root = PathBuf::from(format!("/proc/{}/root", self.process()?.pid));
        Some(root.join(path.strip_prefix("/").unwrap_or(path)))
    }

    async fn boot(&self, spec: &InitSpec, program: &Path) -> anyhow::Result<()> {
        use anyhow::{Context as _, bail};
        let mut make = fs::DirBuilder::new();
        make.recursive(true).mode(0o711);
        for directory in [&spec.disk, &spec.logs] {
            make.create(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let file = self.layout.run().join(format!("{}.json", self.name));
        files::write_json(&file, spec)?;
        // Of a former life: kubelets would take its groups for those of pods.
        crate::down::remove_cgroup(&self.cgroup());
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
        let hierarchies: Vec<Hierarchy> = mounts::hierarchies(&mountinfo);
        let cgroups =
            mounts::make_cgroup(&hierarchies, &self.cgroup()).context("cannot make the host's cgroups")?;
        let log = spec.logs.join("init.log");
        let output = fs::OpenOptions::new().create(true).append(true).mode(0o640).open(&log)?;
        let log_start = output.metadata().map_or(0, |m| m.len());
        // The shell enters the groups before the namespace of groups is made below them.
        let enter = "while [ \"$1\" != -- ]; do echo $$ > \"$1/cgroup.procs\" || exit 1; shift; done; shift; exec \"$@\"";
        let mut command = tokio::process::Command::new("/bin/sh");
        command.args(["-c", enter, "sh"]).args(&cgroups).arg("--");
        command.args(["unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup", "--fork"]);
        command.args(["--propagation", "private", "--mount-proc"]);
        command.arg(program).arg("host-init").arg("--spec").arg(&file);
        command
            .env("PATH", crate::binaries::search_path())
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(false);
        let _ = fs::remove_file(&spec.socket);
        let mut child = command.spawn().context("cannot run unshare")?;
        let deadline = Instant::now() + BOOT;
        let mut pause = Duration::from_millis(5);
        loop {
            if let Some(pid) = init_of(&spec.socket).await {
                let record = ProcessRecord::of(pid).context("the host went down at once")?;
                record.write(&self.record())?;
                return Ok(());
            }
            if child.try_wait()?.is_some() {
                let text = fs::read(&log).unwrap_or_default();
                let new = text.get(usize::try_from(log_start)?..).unwrap_or_default();
                let text = String::from_utf8_lossy(new).into_owned();
                let last = text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
                bail!("it did not come up: {last}");
            }
            if Instant::now() > deadline {
                let _ = child.start_kill();
                bail!("it is not up after {} s; see {}", BOOT.as_secs(), log.display());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Stops its services of a stage, if it runs.
    pub async fn stop_stage(&self, stage: Stage) -> Result<(), HostError> {
        if self.process().is_none() {
            return Ok(());
        }
        self.act(|| "stop its services".into(), Request::StopStage(stage)).await
    }

    /// Turns it off, and makes sure; says whether it ran.
    pub async fn power_off(&self) -> io::Result<bool> {
        let Some(process) = self.process().and_then(|r| r.open()) else { return Ok(false) };
        process.stop(SHUTDOWN).await?;
        let _ = fs::remove_file(self.record());
        Ok(true)
    }

    /// Turns it off and removes its disk; its logs stay.
    pub async fn destroy(&self) -> io::Result<()> {
        self.power_off().await?;
        crate::down::remove_cgroup(&self.cgroup());
        match fs::remove_dir_all(self.root()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let _ = fs::remove_file(self.layout.run().join(format!("{}.json", self.name)));
        Ok(())
    }

    async fn ask(&self, request: Request) -> Result<Answer, HostError> {
        ask(&self.socket(), &self.name, &request).await
    }

    /// Asks for something that has no answer but that it is done.
    async fn act(&self, step: impl FnOnce() -> String, request: Request) -> Result<(), HostError> {
        match self.ask(request).await? {
            Answer::Done => Ok(()),
            Answer::Failed(said) => Err(HostError::Refused { step: step(), said }),
            _ => Err(self.strange()),
        }
    }

    fn strange(&self) -> HostError {
        HostError::Unreachable(format!("host {} gives strange answers; is it of another build?", self.name))
    }

    fn refused<T>(&self, step: &str, answer: Answer) -> Result<T, HostError> {
        match answer {
            Answer::Failed(said) => Err(HostError::Refused { step: step.to_owned(), said }),
            _ => Err(self.strange()),
        }
    }
}

fn encode(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[async_trait]
impl Host for LocalHost {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&self, command: &[&str], input: &[u8]) -> Result<Output, HostError> {
        let all = command.iter().map(|word| (*word).to_owned()).collect();
        match self.ask(Request::Run { command: all, input: encode(input) }).await? {
            Answer::Output(output) => Ok(output),
            other => self.refused(&format!("run {}", command.first().unwrap_or(&"nothing")), other),
        }
    }

    async fn inspect(&self, paths: &[&Path]) -> Result<BTreeMap<PathBuf, FileFacts>, HostError> {
        let paths = paths.iter().map(|p| (*p).to_owned()).collect();
        match self.ask(Request::Inspect(paths)).await? {
            Answer::Found(found) => Ok(found),
            other => self.refused("look at its files", other),
        }
    }

    async fn make_directory(&self, path: &Path, mode: u32) -> Result<(), HostError> {
        let step = || format!("make {}", path.display());
        self.act(step, Request::MakeDirectory { path: path.to_owned(), mode }).await
    }

    async fn write_file(&self, path: &Path, mode: u32, content: &[u8]) -> Result<(), HostError> {
        let step = || format!("write {}", path.display());
        self.act(step, Request::WriteFile { path: path.to_owned(), mode, content: encode(content) }).await
    }

    async fn link(&self, path: &Path, to: &Path) -> Result<(), HostError> {
        let step = || format!("link {}", path.display());
        self.act(step, Request::Link { path: path.to_owned(), to: to.to_owned() }).await
    }

    /// The machine's programs are the hosts' too: a link is all that is needed.
    async fn bring_cox(&self, from: &Path, _identity: &str, path: &Path) -> Result<bool, HostError> {
        let found = self.inspect(&[path]).await?;
        if found.get(path) == Some(&FileFacts::Link(from.to_owned())) {
            return Ok(false);
        }
        self.link(path, from).await?;
        Ok(true)
    }

    /// The machine's programs are the hosts' too, and it was looked at before.
    async fn install_packages(&self, _packages: &[String]) -> Result<Vec<String>, HostError> {
        Ok(Vec::new())
    }

    /// The kernel is the machine's: only what belongs to the host's own network is set.
    async fn prepare_kernel(
        &self,
        _modules: &[String],
        settings: &BTreeMap<String, String>,
    ) -> Result<Vec<String>, HostError> {
        match self.ask(Request::Set { settings: settings.clone() }).await? {
            Answer::Settings(changed) => Ok(changed),
            other => self.refused("set kernel settings", other),
        }
    }

    async fn services(&self) -> Result<BTreeMap<String, Running>, HostError> {
        match self.ask(Request::Services).await? {
            Answer::Services(all) => Ok(all),
            other => self.refused("list its services", other),
        }
    }

    async fn start_service(&self, service: &PlannedService, digest: &str) -> Result<(), HostError> {
        let step = || format!("start {}", service.name);
        let request = Request::Start { service: Box::new(service.clone()), digest: digest.to_owned() };
        self.act(step, request).await
    }

    async fn remove_service(&self, name: &str) -> Result<(), HostError> {
        self.act(|| format!("remove {name}"), Request::Remove(name.to_owned())).await
    }

    async fn probe(&self, ready: &Ready) -> Result<Result<(), String>, HostError> {
        match self.ask(Request::Probe(ready.clone())).await? {
            Answer::Probed(result) => Ok(result),
            other => self.refused("ask a service", other),
        }
    }

    async fn last_words(&self, service: &str) -> Result<String, HostError> {
        match self.ask(Request::LastWords(service.to_owned())).await? {
            Answer::Words(words) => Ok(words),
            other => self.refused("read a log", other),
        }
    }

    async fn import_images(
        &self,
        runtime: &PlannedRuntime,
        images: &crate::apply::Images,
    ) -> Result<bool, HostError> {
        self.import(runtime, images).await.map_err(|e| HostError::Refused {
            step: "import the system images".into(),
            said: format!("{e:#}"),
        })
    }
}

impl LocalHost {
    async fn import(&self, runtime: &PlannedRuntime, images: &crate::apply::Images) -> anyhow::Result<bool> {
        use anyhow::Context as _;
        let socket = self.path(&runtime.socket).context("the host does not run")?;
        let record = self.root().join("system-images.json");
        let snapshotter = Facts::gather(&self.root(), &[]).snapshotter().to_owned();
        crate::import_system_images(&socket, &record, images, &snapshotter).await
    }
}
