//! Real etcd for tests: members as processes of the test's own, which can be killed, frozen and started again.

// A test that cannot start its etcd has failed.
#![allow(clippy::missing_panics_doc)]

mod hosts;
mod place;
mod proxy;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

pub use self::hosts::Hosts;
pub use self::proxy::{Network, Proxy};

use self::place::Place;
use crate::etcd::{Etcd, OpenError, Options};

/// Longer than a loaded machine with a slow disk takes for anything here.
const PATIENCE: Duration = Duration::from_secs(120);

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

/// What members are like.
#[derive(Clone)]
pub struct Setup {
    /// How many there are.
    pub members: usize,
    /// Certificates on both sides.
    pub tls: Option<ServerTls>,
    /// After how long without a leader another is elected. Short where a test takes leaders away; long where a machine
    /// that is busy for a moment must not look like a leader that is gone.
    pub election: Duration,
    /// Where they run, if it is not loopback.
    pub hosts: Option<Arc<Hosts>>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { members: 1, tls: None, election: Duration::from_secs(1), hosts: None }
    }
}

struct Member {
    host: String,
    client: u16,
    peer: u16,
    process: Option<Child>,
}

/// Members of one etcd. Dropping it kills them, and tells what they said last if the test has failed.
pub struct RealEtcd {
    program: PathBuf,
    place: Place,
    setup: Setup,
    members: Vec<Member>,
}

impl RealEtcd {
    /// Starts members on loopback, with their logs below `dir`.
    pub fn start(program: &Path, dir: &Path, count: usize, tls: Option<ServerTls>) -> Self {
        Self::with(program, dir, Setup { members: count, tls, ..Setup::default() })
    }

    /// Starts members with their logs below `dir`.
    pub fn with(program: &Path, dir: &Path, setup: Setup) -> Self {
        let member = |number: usize| match &setup.hosts {
            Some(hosts) => {
                Member { host: hosts.address(number).to_string(), client: 2379, peer: 2380, process: None }
            }
            None => {
                Member { host: "127.0.0.1".into(), client: free_port(), peer: free_port(), process: None }
            }
        };
        let members = (0..setup.members).map(member).collect();
        let mut etcd = Self { program: program.to_owned(), place: Place::new(dir), setup, members };
        for number in 0..etcd.members.len() {
            etcd.restart(number);
        }
        etcd
    }

    /// Opens a store on it. Options without endpoints get those of all members. A member that ended by itself fails
    /// the test at once, with its last words.
    pub async fn open(&self, options: Options) -> Etcd {
        let endpoints =
            if options.endpoints.is_empty() { self.endpoints() } else { options.endpoints.clone() };
        let began = Instant::now();
        loop {
            let patience = Duration::from_secs(1);
            let options = Options { endpoints: endpoints.clone(), patience, ..options.clone() };
            let error = match Etcd::open(options).await {
                Ok(store) => return store,
                Err(OpenError::Etcd(error)) if error.retryable() => error,
                Err(error) => panic!("etcd cannot be used: {error}; {}", self.last_words()),
            };
            for number in 0..self.members.len() {
                assert!(!self.has_ended(number), "member {number} ended by itself; {}", self.last_words());
            }
            assert!(began.elapsed() < PATIENCE, "etcd does not answer: {error}; {}", self.last_words());
        }
    }

    /// What the members wrote into their logs last.
    pub fn last_words(&self) -> String {
        (0..self.members.len()).map(|number| self.place.last_words(number)).collect()
    }

    /// Whether a member that was not killed does not run any more.
    fn has_ended(&self, number: usize) -> bool {
        let Some(pid) = self.members[number].process.as_ref().map(Pid::from_child) else { return false };
        // It stays to be waited for.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(pid), look), Ok(Some(_)))
    }

    fn scheme(&self) -> &'static str {
        if self.setup.tls.is_some() { "https" } else { "http" }
    }

    fn url(&self, number: usize, port: u16) -> String {
        format!("{}://{}:{port}", self.scheme(), self.members[number].host)
    }

    /// The client URL of a member.
    pub fn endpoint(&self, number: usize) -> String {
        self.url(number, self.members[number].client)
    }

    /// The client port of a member.
    pub fn port(&self, number: usize) -> u16 {
        self.members[number].client
    }

    /// The client URLs of all members.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|number| self.endpoint(number)).collect()
    }

    /// A command on a member's host, or on the clients'.
    fn command(&self, host: Option<usize>, program: &Path) -> Command {
        match &self.setup.hosts {
            Some(hosts) => hosts.command(host.unwrap_or_else(|| hosts.client()), program),
            None => Command::new(program),
        }
    }

    /// Starts a member that does not run, on its old data.
    pub fn restart(&mut self, number: usize) {
        let (client, peer) = (self.endpoint(number), self.url(number, self.members[number].peer));
        let peers: Vec<String> = (0..self.members.len())
            .map(|number| format!("m{number}={}", self.url(number, self.members[number].peer)))
            .collect();
        let log: File = self.place.log(number);
        let election = self.setup.election.as_millis();
        let mut command = self.command(Some(number), &self.program);
        command
            .args(["--name", &format!("m{number}")])
            .arg("--data-dir")
            .arg(self.place.data(number))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &peers.join(","), "--initial-cluster-state", "new"])
            .args(["--heartbeat-interval", "100", "--election-timeout", &election.to_string()])
            .args(["--logger", "zap"])
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .stdin(Stdio::null());
        if let Some(tls) = &self.setup.tls {
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
        kill_process(Pid::from_child(process), signal).expect("the member takes the signal");
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

    fn etcdctl(&self, members: &[usize], patience: Duration) -> Command {
        let endpoints: Vec<String> = members.iter().map(|number| self.endpoint(*number)).collect();
        let mut command = self.command(None, Path::new("etcdctl"));
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoints.join(",")]);
        for flag in ["dial", "command"] {
            command.arg(format!("--{flag}-timeout={}s", patience.as_secs()));
        }
        if let Some(tls) = &self.setup.tls {
            command.arg("--cacert").arg(&tls.authority);
            command.arg("--cert").arg(&tls.certificate).arg("--key").arg(&tls.key);
        }
        command
    }

    /// Runs `etcdctl` towards these members; what it printed.
    pub fn ctl(&self, members: &[usize], args: &[&str]) -> String {
        let output = self.etcdctl(members, PATIENCE).args(args).output().expect("etcdctl runs");
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
        self.leader_among(&(0..self.members.len()).collect::<Vec<_>>())
    }

    /// The one of these members that leads, once one of them does.
    pub fn leader_among(&self, members: &[usize]) -> usize {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            for number in members.iter().copied().filter(|number| self.members[*number].process.is_some()) {
                let mut command = self.etcdctl(&[number], Duration::from_secs(1));
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
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("none of the members {members:?} leads; {}", self.last_words());
    }
}

impl Drop for RealEtcd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.last_words());
        }
        for number in 0..self.members.len() {
            self.kill(number);
        }
    }
}
