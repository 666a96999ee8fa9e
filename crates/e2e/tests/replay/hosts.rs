//! Hosts of a guide: namespaces on this machine, each with its own `/etc`, `/var/lib`, `/run`, cgroups and address.
//!
//! Namespaces and a tiny unit runner rather than hosts booted with systemd: seven are there within two seconds and cost
//! nothing while they idle, a kill of their first process is a power cut, and the guides ask nothing more of systemd
//! than to start a command again.
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{Answer, eventually, run};

use crate::units;

/// The longest that a script on a host may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The wire between hosts, and where they keep their files.
pub struct Network {
    hub: Child,
    /// Prefix of names that the machine sees.
    tag: String,
    dir: tempfile::TempDir,
}

/// One host; dropped, it is gone.
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    dir: PathBuf,
    child: Child,
    /// Its first process, as this machine counts.
    init: u32,
    cgroup: String,
}

fn script(command: &mut Command, what: &str) -> Result<()> {
    let output = command.output().with_context(|| what.to_owned())?;
    ensure!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

impl Network {
    /// A wire without hosts.
    pub fn new(tag: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cox-replay-").tempdir_in(roomy())?;
        let mut hub = Command::new("setpriv");
        hub.args(["--pdeathsig", "KILL", "unshare", "--net", "bash", "-c"]);
        hub.arg("set -e; ip link add br0 type bridge; ip link set br0 up; ip link set lo up; touch \"$0/hub\"; exec sleep infinity");
        let hub = hub.arg(dir.path()).stdin(Stdio::null()).spawn().context("setpriv")?;
        let network = Self { hub, tag: format!("{tag}{}", std::process::id()), dir };
        eventually("the hub", Duration::from_secs(30), || {
            ensure!(network.dir.path().join("hub").exists(), "not yet");
            Ok(())
        })?;
        Ok(network)
    }

    /// A directory that is removed with the network.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Boots hosts, all at once: name and address each, and who else `/etc/hosts` knows.
    pub fn boot(&self, all: &[(&str, &str)]) -> Result<Vec<Host>> {
        let names: String = all.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        let hosts = all
            .iter()
            .map(|(name, address)| self.spawn(name, address, &names))
            .collect::<Result<Vec<_>>>()?;
        hosts
            .into_iter()
            .map(|mut host| {
                host.wait()?;
                self.plug(&host)?;
                Ok(host)
            })
            .collect()
    }

    fn spawn(&self, name: &str, address: &str, names: &str) -> Result<Host> {
        let dir = self.dir.path().join(name);
        for own in
            ["var/lib/nginx", "var/lib/haproxy", "var/log/nginx", "opt/cni", "usr/bin", "usr/local/bin"]
        {
            fs::create_dir_all(dir.join(own))?;
        }
        script(Command::new("cp").arg("-a").arg("/etc").arg(&dir), "cp /etc")?;
        fs::write(dir.join("etc/hosts"), format!("127.0.0.1 localhost\n{names}"))?;
        let _ = fs::remove_file(dir.join("etc/resolv.conf"));
        fs::write(dir.join("etc/resolv.conf"), "")?;
        fs::write(dir.join("etc/hostname"), format!("{name}\n"))?;
        script(
            Command::new("cp").args(["-a", "/usr/lib/cni"]).arg(dir.join("opt/cni/bin")),
            "cp /usr/lib/cni",
        )?;
        let bin = dir.join("usr/local/bin");
        for part in PARTS {
            symlink("/usr/local/bin/cox", bin.join(part))?;
            symlink("/usr/local/bin/cox", dir.join("usr/bin").join(part))?;
        }
        fs::write(bin.join("sudo"), "#!/bin/sh\nexec env \"$@\"\n")?;
        script(Command::new("chmod").arg("755").arg(bin.join("sudo")), "chmod")?;
        let mut programs = vec![
            format!("cox={}", e2e::binary().display()),
            format!("systemctl={}", std::env::current_exe()?.display()),
        ];
        for program in ["etcd", "etcdctl", "kubectl", "cfssl", "cfssljson"] {
            if let Some(path) = which(program) {
                programs.push(format!("{program}={}", path.display()));
            }
        }
        let cgroup = format!("cox-{}-{name}", self.tag);
        let joins = make_cgroups(&cgroup)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "bash", "-c"]);
        command.arg(format!(
            "set -e; {joins} exec unshare --cgroup --mount --net --uts --ipc --pid --fork --kill-child --propagation private \
             --mount-proc bash -s -- \"$@\""
        ));
        command.arg("host").arg(name).arg(&dir).args(&programs);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().context("setpriv")?;
        if let Some(mut stdin) = child.stdin.take() {
            std::io::Write::write_all(&mut stdin, include_bytes!("host.sh"))?;
        }
        let host = Host { name: name.into(), address: address.into(), dir, child, init: 0, cgroup };
        Ok(host)
    }

    /// Gives a host its link.
    fn plug(&self, host: &Host) -> Result<()> {
        let (hub, init) = (self.hub.id().to_string(), host.init.to_string());
        let text = format!(
            "set -e; ip link add {0} type veth peer name eth0 netns {init}; ip link set {0} master br0 up",
            host.name
        );
        script(Command::new("nsenter").args(["-t", &hub, "-n", "bash", "-c", &text]), "a link")?;
        // A default route, so that addresses of the Services have a way to go before they are rewritten.
        host.sh(&format!(
            "ip addr add {}/24 dev eth0; ip link set eth0 up; ip route add default dev eth0",
            host.address
        ))?;
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.hub.kill();
        let _ = self.hub.wait();
    }
}

const PARTS: [&str; 6] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "hyperkube"];

/// Where a program of this machine is.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    path.split(':').map(|dir| Path::new(dir).join(program)).find(|path| path.is_file())
}

/// In memory where there is enough: etcd waits for every write, and a disk that is busy makes it elect again and again.
fn roomy() -> PathBuf {
    const ENOUGH: u64 = 8 << 30;
    let memory = PathBuf::from("/dev/shm");
    let free = rustix::fs::statvfs(&memory).map_or(0, |d| d.f_bavail * d.f_frsize);
    if free > ENOUGH { memory } else { std::env::temp_dir() }
}

fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root];
    }
    fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect()
}

/// Makes a cgroup in every hierarchy; gives the shell commands that join them.
fn make_cgroups(name: &str) -> Result<String> {
    let mut joins = String::new();
    for hierarchy in hierarchies() {
        let _ = fs::write(hierarchy.join("cgroup.subtree_control"), "+cpu +memory +pids +cpuset +io");
        let own = hierarchy.join(name);
        fs::create_dir_all(&own).with_context(|| own.display().to_string())?;
        for setting in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(hierarchy.join(setting)) {
                fs::write(own.join(setting), value.trim())?;
            }
        }
        joins.push_str(&format!("echo $$ >{}/cgroup.procs; ", own.display()));
    }
    Ok(joins)
}

fn remove_cgroup(dir: &Path) {
    for inner in fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        remove_cgroup(&inner.path());
    }
    let _ = fs::remove_dir(dir);
}

impl Host {
    fn wait(&mut self) -> Result<()> {
        let (ready, pid) = (self.dir.join("ready"), self.child.id());
        let child = &mut self.child;
        self.init = eventually("a host boots", Duration::from_secs(60), || {
            if let Some(status) = child.try_wait()? {
                return Ok(Err(status));
            }
            ensure!(ready.exists(), "{} does not say that it is ready", ready.display());
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
            Ok(Ok(children.trim().parse::<u32>()?))
        })?
        .map_err(|status| anyhow::anyhow!("host {} ended: {status}", self.name))?;
        Ok(())
    }

    /// A file of the host, as this process reaches it.
    pub fn path(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.init.to_string()).join("root").join(file.trim_start_matches('/'))
    }

    /// A file below the host's own directories, as this machine knows it.
    pub fn outside(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// Reads a file of the host.
    pub fn read(&self, file: &str) -> Result<String> {
        fs::read_to_string(self.path(file)).with_context(|| format!("{}:{file}", self.name))
    }

    /// Writes a file of the host, its directory too.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path(file);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(path, text).with_context(|| format!("{}:{file}", self.name))
    }

    /// What `scp FILES HOST:DIRECTORY` does.
    pub fn scp(&self, files: &[&str], to: &Host, directory: &str) -> Result<()> {
        fs::create_dir_all(to.path(directory))?;
        for file in files {
            let name = Path::new(file).file_name().context("no file")?;
            // The mode comes along.
            fs::copy(self.path(file), to.path(directory).join(name))
                .with_context(|| format!("{}:{file} to {}:{directory}", self.name, to.name))?;
        }
        Ok(())
    }

    /// Runs a script and tells how it ended.
    pub fn answer(&self, script: &str) -> Result<Answer> {
        let mut command = Command::new("nsenter");
        command.args([
            "-t",
            &self.init.to_string(),
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            "-C",
            "env",
            "-i",
            "HOME=/tmp",
        ]);
        command.arg("PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
        // Without output kept open by what it leaves behind.
        command.args(["bash", "-c"]).arg(script);
        run(command, None, PATIENCE).with_context(|| format!("{}: {script}", self.name))
    }

    /// Runs a script that has to succeed; gives what it prints.
    pub fn sh(&self, script: &str) -> Result<String> {
        let answer = self.answer(&format!("set -e -o pipefail\n{script}"))?;
        ensure!(
            answer.code == Some(0),
            "{}: {script}\nended with {:?}\n{}{}",
            self.name,
            answer.code,
            answer.out,
            answer.err
        );
        Ok(answer.out)
    }

    /// Asks again until a script succeeds and its output is as wanted.
    pub fn until(&self, what: &str, script: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        eventually(what, Duration::from_secs(90), || {
            let out = self.sh(script)?;
            ensure!(wanted(&out), "{}: {script}\n{out}", self.name);
            Ok(out)
        })
    }

    /// The end of what a unit said.
    pub fn journal(&self, unit: &str) -> String {
        let text = self.read(&units::log_of(unit)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("--- {} {unit}\n{}\n", self.name, lines[lines.len().saturating_sub(25)..].join("\n"))
    }

    /// The end of what all units said.
    pub fn journals(&self) -> String {
        let mut units: Vec<String> = fs::read_dir(self.path("/var/log/units"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().trim_end_matches(".log").to_owned())
            .collect();
        units.sort();
        units.iter().map(|unit| self.journal(unit)).collect()
    }

    /// A power cut.
    pub fn cut(&mut self) -> Result<()> {
        let _ = self.child.kill();
        self.child.wait()?;
        let gone = Path::new("/proc").join(self.init.to_string());
        eventually("the host is dark", Duration::from_secs(30), || {
            if gone.exists() {
                bail!("{} is still there", gone.display());
            }
            Ok(())
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.cut();
        let gone = || {
            hierarchies().iter().for_each(|h| remove_cgroup(&h.join(&self.cgroup)));
            ensure!(
                !hierarchies().iter().any(|h| h.join(&self.cgroup).exists()),
                "{} is still there",
                self.cgroup
            );
            Ok(())
        };
        if let Err(e) = eventually("the cgroups are gone", Duration::from_secs(20), gone) {
            eprintln!("{e:#}");
        }
    }
}
