//! The other end of ssh, as a real sshd on this machine's loopback that takes one key: files, links, and what is told
//! where a host is not reached.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use provision::{
    SshHost,
    apply::{FileFacts, Host as _},
    spec,
};

struct Sshd {
    dir: tempfile::TempDir,
    port: u16,
    child: Child,
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("it runs");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Sshd {
    /// `None`, and says so, where there is none or it may not log anybody in.
    fn start() -> Option<Self> {
        let sshd = ["/usr/sbin/sshd", "/sbin/sshd"].into_iter().find(|p| Path::new(p).exists());
        let has_ssh = Command::new("ssh").arg("-V").stderr(Stdio::null()).status().is_ok();
        let (Some(sshd), true, true) = (sshd, rustix::process::geteuid().is_root(), has_ssh) else {
            eprintln!("SKIPPED: a test of ssh needs root, ssh and sshd");
            return None;
        };
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name).display().to_string();
        for key in ["host", "user"] {
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &at(key)]);
        }
        // It keeps its rights apart there.
        let _ = fs::create_dir_all("/run/sshd");
        let port = base::ports::free_port().expect("a port");
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\n\
             UsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n",
            at("host"),
            at("user.pub")
        );
        fs::write(dir.path().join("config"), config).expect("written");
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        let child = Command::new(sshd)
            .args(["-D", "-e", "-f", &at("config")])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sshd runs");
        let started = Self { dir, port, child };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < deadline, "{}", started.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(started)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn host(&self) -> spec::Host {
        spec::Host {
            name: "a".into(),
            address: Ipv4Addr::LOCALHOST.into(),
            roles: Vec::new(),
            ssh: spec::Ssh {
                port: self.port,
                key: Some(self.dir.path().join("user")),
                ..spec::Ssh::default()
            },
            labels: Default::default(),
            taints: Vec::new(),
        }
    }

    /// The machine's own configuration of ssh has no say here, nor do the keys that it knows: a file of ours does.
    fn connect(&self, host: &spec::Host) -> SshHost {
        let known = self.dir.path().join("known_hosts");
        SshHost::new(host, self.dir.path(), Path::new("/usr/local/bin/cox")).with_options(&[
            "-F",
            "none",
            "-o",
            &format!("UserKnownHostsFile={}", known.display()),
        ])
    }

    fn know(&self) {
        let key = fs::read_to_string(self.dir.path().join("host.pub")).expect("a key");
        fs::write(self.dir.path().join("known_hosts"), format!("[127.0.0.1]:{} {key}", self.port))
            .expect("written");
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // The shared connection first: it would outlive its directory.
        for entry in fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| std::os::unix::fs::FileTypeExt::is_socket(&t)) {
                let control = format!("ControlPath={}", entry.path().display());
                let leave = ["-F", "none", "-o", &control, "-O", "exit", "root@127.0.0.1"];
                let _ = Command::new("ssh").args(leave).stderr(Stdio::null()).status();
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn files_are_written_and_found_over_ssh() {
    let Some(sshd) = Sshd::start() else { return };
    sshd.know();
    let host = sshd.connect(&sshd.host());
    let at = |name: &str| -> PathBuf { sshd.dir.path().join("remote dir").join(name) };

    let said = host.run(&["cat"], b"it's me").await.unwrap_or_else(|e| panic!("{e}\n{}", sshd.log()));
    assert_eq!((said.code, said.out.as_str()), (0, "it's me"));
    let said = host.run(&["sh", "-c", "echo no >&2; exit 3"], b"").await.expect("it runs");
    assert_eq!((said.code, said.err.trim()), (3, "no"));

    host.make_directory(&at("d"), 0o700).await.expect("made");
    host.write_file(&at("d/key"), 0o600, b"a\nsecret $HOME\n").await.expect("written");
    host.write_file(&at("d/key"), 0o600, b"another").await.expect("written anew");
    host.link(&at("l"), Path::new("/usr/bin/true")).await.expect("linked");
    let paths = [at("d"), at("d/key"), at("l"), at("none")];
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let found = host.inspect(&paths).await.expect("looked");
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found[&at("d")], FileFacts::Directory { mode: 0o700 });
    assert_eq!(found[&at("l")], FileFacts::Link("/usr/bin/true".into()));
    assert!(matches!(found[&at("d/key")], FileFacts::File { mode: 0o600, .. }));
    assert_eq!(fs::read(at("d/key")).expect("there"), b"another");
    assert_eq!(fs::metadata(at("")).expect("there").permissions().mode() & 0o777, 0o755);
    // Nothing half-written is left beside it.
    assert_eq!(fs::read_dir(at("d")).expect("listed").count(), 1);

    let program = sshd.dir.path().join("program");
    fs::write(&program, vec![7; 300_000]).expect("written");
    assert!(host.bring_cox(&program, "", &at("bin/cox")).await.expect("brought"));
    assert!(!host.bring_cox(&program, "", &at("bin/cox")).await.expect("kept"));
    assert!(host.write_file(Path::new("/proc/no/such/file"), 0o600, b"x").await.is_err());
}

#[tokio::test]
async fn a_host_that_is_not_reached_is_told_with_what_may_help() {
    let Some(sshd) = Sshd::start() else { return };
    // Its key is not known: refused rather than trusted.
    let error = sshd.connect(&sshd.host()).run(&["true"], b"").await.expect_err("unknown").to_string();
    assert!(error.contains("known_hosts"), "{error}");
    sshd.know();
    let mut other = sshd.host();
    let key = sshd.dir.path().join("other");
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &key.display().to_string()]);
    other.ssh.key = Some(key);
    let error = sshd
        .connect(&other)
        .with_options(&["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"])
        .run(&["true"], b"")
        .await
        .expect_err("not let in")
        .to_string();
    assert!(error.contains("right key"), "{error}");
    let mut nobody = sshd.host();
    nobody.ssh.port = base::ports::free_port().expect("a port");
    let error = sshd.connect(&nobody).run(&["true"], b"").await.expect_err("nobody").to_string();
    assert!(error.contains("firewall"), "{error}");
}
