//! Real etcd for tests: members as processes of the test's own, which can be killed, frozen and started again.

// A test that cannot start its etcd has failed.
#![allow(clippy::missing_panics_doc)]

mod proxy;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

pub use self::proxy::{Network, Proxy};

/// Finds etcd: `$ETCD`, or where Debian puts it. Says loudly when there is none.
pub fn program() -> Option<PathBuf> {
    let found = std::env::var_os("ETCD").map_or_else(|| PathBuf::from("/usr/bin/etcd"), PathBuf::from);
    if found.exists() {
        return Some(found);
    }
    eprintln!("skipped: no etcd at {} (Debian packages etcd-server and etcd-client)", found.display());
    None
}

/// Finds an etcd of another release: `$ETCD_OTHER`, or where `scripts/deps test` puts it. Says loudly when there is none.
pub fn other_program() -> Option<PathBuf> {
    let usual = || PathBuf::from("/usr/local/lib/cox-test-etcd/usr/bin/etcd");
    let found = std::env::var_os("ETCD_OTHER").map_or_else(usual, PathBuf::from);
    if found.exists() {
        return Some(found);
    }
    eprintln!("skipped: no etcd of another release at {}", found.display());
    None
}

/// A port of this test's own.
pub fn free_port() -> u16 {
    base::ports::free_port().expect("a port")
}

/// The files for TLS between members and clients.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// CA of everybody.
    pub authority: PathBuf,
    /// The members' certificate, for 127.0.0.1.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

struct Member {
    client: u16,
    peer: u16,
    process: Option<Child>,
}

/// Members of one etcd on loopback. Dropping it kills them.
pub struct RealEtcd {
    program: PathBuf,
    dir: PathBuf,
    tls: Option<ServerTls>,
    members: Vec<Member>,
}

impl RealEtcd {
    /// Starts members with their data below `dir`.
    pub fn start(program: &Path, dir: &Path, count: usize, tls: Option<ServerTls>) -> Self {
        let members =
            (0..count).map(|_| Member { client: free_port(), peer: free_port(), process: None }).collect();
        let mut etcd = Self { program: program.to_owned(), dir: dir.to_owned(), tls, members };
        for number in 0..count {
            etcd.restart(number);
        }
        etcd
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The client URL of a member.
    pub fn endpoint(&self, number: usize) -> String {
        format!("{}://127.0.0.1:{}", self.scheme(), self.members[number].client)
    }

    /// The client port of a member.
    pub fn port(&self, number: usize) -> u16 {
        self.members[number].client
    }

    /// The client URLs of all members.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|number| self.endpoint(number)).collect()
    }

    /// Starts a member that does not run, on its old data.
    pub fn restart(&mut self, number: usize) {
        let scheme = self.scheme();
        let peers: Vec<String> = self
            .members
            .iter()
            .enumerate()
            .map(|(number, member)| format!("m{number}={scheme}://127.0.0.1:{}", member.peer))
            .collect();
        let url = |port: u16| format!("{scheme}://127.0.0.1:{port}");
        let (client, peer) = (url(self.members[number].client), url(self.members[number].peer));
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("m{number}.log")))
            .expect("a log file");
        let mut command = Command::new(&self.program);
        command
            .args(["--name", &format!("m{number}")])
            .arg("--data-dir")
            .arg(self.dir.join(format!("m{number}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &peers.join(","), "--initial-cluster-state", "new"])
            .args(["--heartbeat-interval", "100", "--election-timeout", "1000", "--logger", "zap"])
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .stdin(Stdio::null());
        if let Some(tls) = &self.tls {
            let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
            command
                .arg(file("cert-file", &tls.certificate))
                .arg(file("key-file", &tls.key))
                .arg(file("trusted-ca-file", &tls.authority))
                .arg("--client-cert-auth")
                .arg(file("peer-cert-file", &tls.certificate))
                .arg(file("peer-key-file", &tls.key))
                .arg(file("peer-trusted-ca-file", &tls.authority))
                .arg("--peer-client-cert-auth");
        }
        self.members[number].process = Some(command.spawn().expect("etcd starts"));
    }

    fn signal(&self, number: usize, signal: Signal) {
        let process = self.members[number].process.as_ref().expect("the member runs");
        let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the member takes the signal");
    }

    /// Kills a member as a power cut would.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut process) = self.members[number].process.take() {
            process.kill().expect("the member is killed");
            process.wait().expect("the member ends");
        }
    }

    /// Freezes a member: its connections stay, and nobody answers.
    pub fn freeze(&self, number: usize) {
        self.signal(number, Signal::STOP);
    }

    /// Lets a frozen member go on, which does not know yet what it missed.
    pub fn thaw(&self, number: usize) {
        self.signal(number, Signal::CONT);
    }

    /// Runs `etcdctl` towards these members; what it printed.
    pub fn ctl(&self, members: &[usize], args: &[&str]) -> String {
        let endpoints: Vec<String> = members.iter().map(|number| self.endpoint(*number)).collect();
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoints.join(",")]).args(args);
        if let Some(tls) = &self.tls {
            command.arg("--cacert").arg(&tls.authority);
            command.arg("--cert").arg(&tls.certificate).arg("--key").arg(&tls.key);
        }
        let output = command.output().expect("etcdctl runs");
        assert!(
            output.status.success(),
            "etcdctl {args:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The member that leads, once there is one.
    pub fn leader(&self) -> usize {
        for _ in 0..100 {
            for number in 0..self.members.len() {
                if self.members[number].process.is_none() {
                    continue;
                }
                let mut command = Command::new("etcdctl");
                let endpoint = self.endpoint(number);
                command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint, "--command-timeout=1s"]);
                if let Some(tls) = &self.tls {
                    command.arg("--cacert").arg(&tls.authority);
                    command.arg("--cert").arg(&tls.certificate).arg("--key").arg(&tls.key);
                }
                let output =
                    command.args(["endpoint", "status", "-w", "fields"]).output().expect("etcdctl runs");
                let text = String::from_utf8_lossy(&output.stdout);
                let field = |name: &str| {
                    text.lines().find_map(|line| {
                        Some(line.strip_prefix(name)?.trim_start_matches([' ', ':']).to_owned())
                    })
                };
                let (member, leader) = (field("\"MemberID\""), field("\"Leader\""));
                if member.is_some() && member == leader {
                    return number;
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("no member leads");
    }
}

impl Drop for RealEtcd {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            self.kill(number);
        }
    }
}
