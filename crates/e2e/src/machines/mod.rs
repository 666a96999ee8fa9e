//! Machines with systemd and sshd, on a wire of their own: what `cox up -f` finds where it comes over ssh.
//!
//! Read [`Wire`] first. A machine is this machine's own programs, copied on write, booted by `systemd-nspawn` in half a
//! second: nothing is downloaded, and a kill of its first process is a power cut. Whoever drops a [`Machine`] or the
//! wire leaves nothing behind.

mod cgroups;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{Answer, Kubectl, eventually, run};

/// The longest that a boot may take.
const BOOT: Duration = Duration::from_secs(60);
/// The longest that a script on a machine may take.
const SCRIPT: Duration = Duration::from_secs(120);
/// What machines are made of, beside what is tested.
const PROGRAMS: [&str; 11] = [
    "systemd-nspawn",
    "sshd",
    "ssh",
    "ssh-keygen",
    "sudo",
    "ip",
    "nsenter",
    "unshare",
    "setpriv",
    "mount",
    "systemctl",
];

/// Where a program of this machine is.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    path.split(':').map(|dir| Path::new(dir).join(program)).find(|path| path.is_file())
}

/// What this machine lacks to boot others, among these programs too.
pub fn missing(programs: &[&'static str]) -> Vec<&'static str> {
    PROGRAMS.iter().chain(programs).copied().filter(|p| which(p).is_none()).collect()
}

/// A network of machines, as whoever administers them sees it: a namespace with a bridge, and a key that lets in.
pub struct Wire {
    hub: Child,
    tag: String,
    dir: tempfile::TempDir,
}

/// One machine.
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
    dir: PathBuf,
    cgroup: String,
    hub: u32,
    child: Child,
    init: u32,
}

/// In memory where there is enough: etcd waits for every write, and a disk that is busy makes it elect again and again.
fn roomy() -> PathBuf {
    const ENOUGH: u64 = 8 << 30;
    let memory = PathBuf::from("/dev/shm");
    let free = rustix::fs::statvfs(&memory).map_or(0, |d| d.f_bavail * d.f_frsize);
    // A layer may not lie within what it covers, so it cannot be below /usr, /etc or /var/lib.
    if free > ENOUGH { memory } else { PathBuf::from("/var/tmp") }
}

fn done(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

impl Wire {
    /// A network without machines; the first bytes of addresses are `10.77.0`, in a namespace of its own.
    pub fn new(tag: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cox-machines-").tempdir_in(roomy())?;
        let at = |name: &str| dir.path().join(name);
        for key in ["host_key", "user_key", "other_key"] {
            let arguments = ["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"];
            done(Command::new("ssh-keygen").args(arguments).arg(at(key)))?;
        }
        let public = fs::read_to_string(at("host_key.pub"))?;
        fs::write(at("known_hosts"), format!("10.77.0.* {public}"))?;
        let config = format!(
            "Host *\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile none\n  IdentityAgent none\n  IdentitiesOnly yes\n",
            at("known_hosts").display()
        );
        fs::write(at("ssh_config"), config)?;
        let mut hub = Command::new("setpriv");
        hub.args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--net",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
        ]);
        hub.arg(
            "set -e; mount --bind \"$0/ssh_config\" /etc/ssh/ssh_config; ip link add br0 type bridge; \
             ip addr add 10.77.0.1/24 dev br0; ip link set br0 up; ip link set lo up; touch \"$0/hub\"; exec sleep infinity",
        );
        let hub = hub.arg(dir.path()).stdin(Stdio::null()).spawn().context("setpriv")?;
        let wire = Self { hub, tag: format!("{tag}{}", std::process::id()), dir };
        eventually("the hub", BOOT, || {
            ensure!(wire.dir.path().join("hub").exists(), "not yet");
            Ok(())
        })?;
        Ok(wire)
    }

    /// A directory that is removed with the network.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The private key that machines take.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("user_key")
    }

    /// A private key that they do not take.
    pub fn other_key(&self) -> PathBuf {
        self.dir.path().join("other_key")
    }

    /// `kubectl` of an administrator.
    pub fn kubectl(&self, kubeconfig: &Path) -> Kubectl {
        Kubectl::new(kubeconfig).in_network_of(self.hub.id())
    }

    /// A program, run where machines are reached.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.hub.id().to_string(), "-n", "-m", "--"]).arg(program);
        command
    }

    /// Boots machines, all at once: name and last byte of the address of each.
    pub fn boot(&self, all: &[(&str, u8)]) -> Result<Vec<Machine>> {
        let mut machines = all
            .iter()
            .map(|(name, last)| self.machine(name, &format!("10.77.0.{last}")))
            .collect::<Result<Vec<_>>>()?;
        machines.iter_mut().try_for_each(Machine::wait)?;
        Ok(machines)
    }

    fn machine(&self, name: &str, address: &str) -> Result<Machine> {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir)?;
        let cgroup = format!("cox-{}-{name}", self.tag);
        let hub = self.hub.id();
        let child = power_on(hub, name, address, &dir, &cgroup)?;
        Ok(Machine { name: name.into(), address: address.into(), dir, cgroup, hub, child, init: 0 })
    }
}

/// Those that share the network of a process, and nobody else's.
fn in_network_of(process: u32) -> Vec<i32> {
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let Some(wanted) = network(&process.to_string()).filter(|n| network("self").as_ref() != Some(n)) else {
        return Vec::new();
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = all.map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|pid| network(pid).as_ref() == Some(&wanted)).filter_map(|pid| pid.parse().ok()).collect()
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Connections of ssh outlive who opened them for a while.
        for pid in in_network_of(self.hub.id()).into_iter().filter_map(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let _ = self.hub.kill();
        let _ = self.hub.wait();
    }
}

fn power_on(hub: u32, name: &str, address: &str, dir: &Path, cgroup: &str) -> Result<Child> {
    let joins = cgroups::make(cgroup)?;
    let mut command = Command::new("nsenter");
    command.args(["-t", &hub.to_string(), "-n", "--", "setpriv", "--pdeathsig", "KILL", "bash", "-c"]);
    // In a process namespace of its own: with its first process everything goes.
    command.arg(format!(
        "set -e; {joins} exec unshare --mount --pid --fork --kill-child --mount-proc --propagation private bash -s -- \"$@\""
    ));
    command.arg("machine").arg(name).arg(dir).arg(address);
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("console"))?;
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
    let mut child = command.spawn().context("nsenter")?;
    if let Some(mut stdin) = child.stdin.take() {
        std::io::Write::write_all(&mut stdin, include_bytes!("boot.sh"))?;
    }
    Ok(child)
}

/// The children of a process.
fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The first process of the machine that a process keeps: systemd, below those that boot it.
fn init_below(pid: u32) -> Option<u32> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.trim() == "systemd" {
        return Some(pid);
    }
    children(pid).into_iter().find_map(init_below)
}

impl Machine {
    /// Waits until it takes connections.
    pub fn wait(&mut self) -> Result<()> {
        let (dir, pid) = (self.dir.clone(), self.child.id());
        let mut init = 0;
        let booted = eventually("a machine boots", BOOT, || {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Err(status));
            }
            init = init_below(pid).context("it has no first process")?;
            let mut ask = Command::new("nsenter");
            ask.args(["-t", &init.to_string(), "-m", "-p", "-C", "systemctl", "is-active", "sshd.service"]);
            let answer = run(ask, None, SCRIPT)?;
            ensure!(answer.code == Some(0), "sshd is {}{}", answer.out.trim(), answer.err.trim());
            Ok(Ok(()))
        });
        let console = || fs::read_to_string(dir.join("console")).unwrap_or_default();
        match booted {
            Ok(Ok(())) => {
                self.init = init;
                Ok(())
            }
            Ok(Err(status)) => bail!("machine {} ended: {status}\n{}", self.name, console()),
            Err(e) => Err(e.context(format!("machine {}\n{}", self.name, console()))),
        }
    }

    /// A file of it, as this process reaches it.
    pub fn path(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.init.to_string()).join("root").join(file.trim_start_matches('/'))
    }

    /// Runs a script as root, past ssh, and tells how it ended.
    pub fn answer(&self, script: &str) -> Result<Answer> {
        let mut command = Command::new("nsenter");
        let init = self.init.to_string();
        command.args(["-t", &init, "-m", "-u", "-i", "-n", "-p", "-C", "env", "-i", "HOME=/root"]);
        command.arg("PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(["bash", "-c"]).arg(script);
        run(command, None, SCRIPT).with_context(|| format!("{}: {script}", self.name))
    }

    /// Runs a script as root that has to succeed; gives what it prints.
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

    /// Asks again until a script succeeds.
    pub fn until(&self, what: &str, script: &str) -> Result<String> {
        eventually(what, SCRIPT, || self.sh(script))
    }

    /// Starts it anew as its own administrator would, and waits until it takes connections.
    pub fn reboot(&mut self) -> Result<()> {
        let before = self.boot_id()?;
        // The answer is cut off by what is asked for.
        let _ = self.answer("systemctl reboot");
        eventually("the machine is down", BOOT, || {
            let init = init_below(self.child.id()).filter(|init| *init != self.init);
            self.init = init.context("it still runs")?;
            Ok(())
        })?;
        self.wait()?;
        ensure!(self.boot_id()? != before, "{} was not started anew", self.name);
        Ok(())
    }

    /// Tells a boot from the next.
    fn boot_id(&self) -> Result<String> {
        self.sh("systemctl show -p UserspaceTimestampMonotonic --value; readlink /proc/1/ns/pid")
    }

    /// A power cut.
    pub fn cut(&mut self) -> Result<()> {
        let _ = self.child.kill();
        self.child.wait()?;
        let gone = Path::new("/proc").join(self.init.to_string());
        eventually("the machine is dark", BOOT, || {
            ensure!(self.init == 0 || !gone.exists(), "{} is still there", gone.display());
            Ok(())
        })?;
        cgroups::remove(&self.cgroup)
    }

    /// Power again after a cut.
    pub fn power(&mut self) -> Result<()> {
        self.child = power_on(self.hub, &self.name, &self.address, &self.dir, &self.cgroup)?;
        self.wait()
    }

    /// The end of what all services said.
    pub fn journal(&self) -> String {
        let said = self.answer("journalctl --no-pager -b -n 120 -o short-monotonic");
        let text = said.map_or_else(|e| format!("{e:#}"), |answer| answer.out);
        format!("--- {}\n{text}\n", self.name)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(e) = self.cut() {
            eprintln!("machine {}: {e:#}", self.name);
        }
    }
}
