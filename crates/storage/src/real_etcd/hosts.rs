//! Hosts of a test's own: a network namespace for each member and one for the clients, on one switch. The kernel cuts
//! their links, so what is lost is lost without a word, and what was on its way arrives late.

use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Drops what comes from and goes to hosts that were parted from this one.
const RULES: &str = "table inet parted {
  set hosts { type ipv4_addr; }
  chain in { type filter hook input priority 0; ip saddr @hosts drop; }
  chain out { type filter hook output priority 0; ip daddr @hosts drop; }
}
";

/// Some hosts for members, and one for clients. Dropping them removes everything.
pub struct Hosts {
    prefix: String,
    members: usize,
}

fn run(command: &mut Command) {
    let output = command.output().expect("a program of iproute2, util-linux or nftables runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ip(line: &str) {
    run(Command::new("ip").args(line.split(' ')));
}

impl Hosts {
    /// `None`, and says so, without the right to make namespaces.
    pub fn new(members: usize) -> Option<Arc<Self>> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: network namespaces need root");
            return None;
        }
        let prefix = format!("storage{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let hosts = Self { prefix, members };
        let switch = hosts.switch();
        ip(&format!("netns add {switch}"));
        ip(&format!("-n {switch} link add switch type bridge"));
        ip(&format!("-n {switch} link set switch up"));
        for host in 0..=members {
            let name = hosts.name(host);
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
            ip(&format!("-n {switch} link add port{host} type veth peer name eth0 netns {name}"));
            ip(&format!("-n {switch} link set port{host} master switch"));
            ip(&format!("-n {name} addr add {}/24 dev eth0", hosts.address(host)));
            ip(&format!("-n {name} link set eth0 up"));
            hosts.plug(host);
            hosts.rules(host, RULES);
        }
        Some(Arc::new(hosts))
    }

    fn switch(&self) -> String {
        format!("{}s", self.prefix)
    }

    fn name(&self, host: usize) -> String {
        format!("{}h{host}", self.prefix)
    }

    fn path(&self, host: usize) -> PathBuf {
        Path::new("/run/netns").join(self.name(host))
    }

    /// The clients' host.
    pub fn client(&self) -> usize {
        self.members
    }

    /// A host's address, on the switch alone.
    pub fn address(&self, host: usize) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, u8::try_from(11 + host).expect("few hosts"))
    }

    /// A command on a host.
    pub fn command(&self, host: usize, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path(host).display())).arg(program);
        command
    }

    /// Runs work on threads that are on the clients' host.
    pub fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> T {
        let path = self.path(self.client());
        let enter = move || {
            let namespace = File::open(&path).expect("a namespace");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("to enter it");
        };
        let thread = std::thread::spawn(move || {
            enter();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .on_thread_start(enter)
                .build()
                .expect("a runtime");
            runtime.block_on(work())
        });
        match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Takes the cable of a host out.
    pub fn unplug(&self, host: usize) {
        ip(&format!("-n {} link set port{host} down", self.switch()));
    }

    /// Puts it in again.
    pub fn plug(&self, host: usize) {
        ip(&format!("-n {} link set port{host} up", self.switch()));
    }

    /// Loses all that two hosts send each other; both still see the others.
    pub fn part(&self, host: usize, other: usize) {
        self.rules(host, &format!("add element inet parted hosts {{ {} }}", self.address(other)));
    }

    /// Lets two parted hosts meet again.
    pub fn unite(&self, host: usize, other: usize) {
        self.rules(host, &format!("delete element inet parted hosts {{ {} }}", self.address(other)));
    }

    fn rules(&self, host: usize, rules: &str) {
        let mut command = self.command(host, Path::new("nft"));
        command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut nft = command.spawn().expect("nft runs");
        nft.stdin.take().expect("piped").write_all(rules.as_bytes()).expect("nft reads");
        let output = nft.wait_with_output().expect("nft ends");
        assert!(output.status.success(), "{rules}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in (0..=self.members).map(|host| self.name(host)).chain([self.switch()]) {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}
