//! A host brought up and taken down for real: containerd, system images, a pod on the pod network, nothing left over.
//!
//! Each test runs in a network namespace of its own, where it may do as it likes. The test program itself is what goes
//! into the images as `/cox`: its argument there is `hello`, which picks [`hello_inside_the_image`].

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use cri::v1;
use images::{HelloConfig, Identity, Source};
use provision::{
    Containerd, DownOptions, HostConfig, Layout, ProcessRecord, Progress, control_plane, down,
    find_cni_plugins, find_program, node, preflight, run,
};

/// Set in the copies of this program that run inside a namespace.
const INSIDE: &str = "COX_TEST_INSIDE";

/// Not a test of its own: what `/cox hello` is in an image made of this program.
#[test]
fn hello_inside_the_image() {
    if std::env::var_os("HELLO_VERSION").is_none() {
        return;
    }
    let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080));
    let identity = Identity::from_lookup(|name| std::env::var(name).ok());
    images::run_hello(HelloConfig { listen, identity }).expect("it serves");
}

/// Runs a test in a new network namespace; says loudly if it cannot.
fn isolated(test: &str, body: impl Future<Output = ()>) {
    if !rustix::process::geteuid().is_root()
        || find_program("containerd").is_none()
        || !find_cni_plugins().1.is_empty()
    {
        eprintln!("skipped: {test} needs root, containerd and the CNI plugins");
        return;
    }
    if std::env::var_os(INSIDE).is_none() {
        let status = Command::new("unshare")
            .arg("--net")
            .arg(std::env::current_exe().expect("this program"))
            .args(["--exact", test, "--nocapture"])
            .env(INSIDE, "1")
            .status()
            .expect("unshare is installed");
        assert!(status.success(), "{test} failed inside its namespace");
        return;
    }
    assert!(
        Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip is installed").success()
    );
    tokio::runtime::Runtime::new().expect("a runtime").block_on(body);
}

struct Fixture {
    dir: tempfile::TempDir,
    config: HostConfig,
    /// Every sandbox that was made.
    sandboxes: Vec<String>,
}

impl Fixture {
    fn new(name: &str) -> Self {
        // Short, because of the sockets below it.
        let dir =
            tempfile::Builder::new().prefix("pki").rand_bytes(4).tempdir_in("/tmp").expect("a directory");
        let layout = Layout::new(dir.path(), name).expect("a layout");
        let config = HostConfig {
            layout,
            node_name: "test-node".into(),
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            advertise_address: Ipv4Addr::LOCALHOST.into(),
            secure_port: 16443,
            extra_names: Vec::new(),
            service_cidrs: vec!["10.98.0.0/16".parse().expect("a cidr")],
            pod_cidrs: vec!["10.99.7.0/24".parse().expect("a cidr")],
            cluster_domain: "cluster.local".into(),
            node: true,
            other_ports: Vec::new(),
            neighbours: Vec::new(),
            algorithm: pki::KeyAlgorithm::EcdsaP256,
            images: Source {
                binary: std::env::current_exe().expect("this program"),
                busybox: find_program("busybox"),
                version: "1.2.3".into(),
            },
        };
        Self { dir, config, sandboxes: Vec::new() }
    }

    fn layout(&self) -> &Layout {
        &self.config.layout
    }

    async fn up(&self) -> Vec<Progress> {
        let mut seen = Vec::new();
        run(control_plane(&self.config), |p| seen.push(p)).await.expect("a control plane's ground");
        run(node(&self.config), |p| seen.push(p)).await.expect("a node's ground");
        seen
    }

    fn containerd(&self) -> Containerd {
        Containerd::find(self.layout()).expect("it runs")
    }

    /// Starts a pod with one hello container; answers sandbox, container, address.
    async fn pod(&mut self, name: &str) -> (String, String, String) {
        let list = net::cni::conflist(&net::cni::Network {
            name: &self.layout().cni_network(),
            pod_cidrs: &self.config.pod_cidrs,
            ipam_dir: &self.layout().cni_ipam(),
            mtu: None,
            host_ports: find_program("iptables").is_some(),
        });
        net::cni::install(&self.layout().cni_conf(), &list).expect("installed");
        let containerd = self.containerd();
        let cri = containerd.cri();
        wait_until("the network is ready", || async {
            let status = cri.status().await.ok().and_then(|s| s.status);
            status.is_some_and(|s| s.conditions.iter().all(|c| c.status))
        })
        .await;
        let logs = self.layout().pod_logs().join(name);
        fs::create_dir_all(&logs).expect("made");
        let sandbox_config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.into(),
                uid: name.into(),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: logs.display().to_string(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/kubepods/pod{name}", self.layout().cgroup_root()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let sandbox = cri.run_pod_sandbox(sandbox_config.clone(), "").await.expect("a sandbox");
        self.sandboxes.push(sandbox.clone());
        let container_config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "hello".into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: "localhost/cox/hello:v2".into(), ..Default::default() }),
            log_path: "hello.log".into(),
            linux: Some(v1::LinuxContainerConfig::default()),
            ..Default::default()
        };
        let container =
            cri.create_container(&sandbox, container_config, sandbox_config).await.expect("a container");
        cri.start_container(&container).await.expect("started");
        let address =
            cri.pod_sandbox_status(&sandbox).await.expect("a status").network.expect("a network").ip;
        (sandbox, container, address)
    }

    /// What is still in the kernel or on disk that should be gone.
    fn remains(&self) -> Vec<String> {
        let mut found = Vec::new();
        let root = self.dir.path().to_str().expect("text");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("readable");
        found.extend(mounts.lines().filter(|l| l.contains(root)).map(|l| format!("mount {l}")));
        for process in fs::read_dir("/proc").expect("readable").flatten() {
            let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if command.contains(root) {
                found.push(format!("process {command}"));
            }
        }
        for hierarchy in ["", "memory", "pids", "cpu", "unified", "systemd"] {
            let path = Path::new("/sys/fs/cgroup").join(hierarchy).join(&self.layout().cgroup_root()[1..]);
            if path.exists() {
                found.push(format!("cgroup {}", path.display()));
            }
        }
        for link in fs::read_dir("/proc/self/net/dev_snmp6").into_iter().flatten().flatten() {
            let name = link.file_name().to_string_lossy().into_owned();
            if name.starts_with("veth") {
                found.push(format!("link {name}"));
            }
        }
        for result in fs::read_dir("/var/lib/cni/results").into_iter().flatten().flatten() {
            let text = fs::read_to_string(result.path()).unwrap_or_default();
            if text.contains(root) || self.sandboxes.iter().any(|id| text.contains(id)) {
                found.push(format!("result {}", result.path().display()));
            }
        }
        let results = net::cni::find(&self.layout().cni_network()).expect("listed");
        found.extend(results.attachments.iter().map(|a| format!("result {}", a.0.display())));
        if self.layout().cni_ipam().join(self.layout().cni_network()).exists() {
            found.push("address reservations".into());
        }
        found
    }

    async fn down(&self, purge: bool) -> provision::Removed {
        let options = DownOptions { purge, nft_tables: Vec::new(), ..DownOptions::default() };
        down(self.layout(), &options).await
    }
}

impl Drop for Fixture {
    /// A test that failed half-way cleans up as well as one that did not.
    fn drop(&mut self) {
        let layout = self.layout().clone();
        let purge = DownOptions { purge: true, nft_tables: Vec::new(), grace: Duration::ZERO };
        std::thread::spawn(move || {
            tokio::runtime::Runtime::new().expect("a runtime").block_on(down(&layout, &purge));
        })
        .join()
        .expect("cleaned up");
    }
}

async fn wait_until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn get(address: &str) -> Option<String> {
    let address: SocketAddr = format!("{address}:8080").parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: hello\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn up_pod_and_down() {
    isolated("up_pod_and_down", async {
        let mut fixture = Fixture::new("one");
        let errors: Vec<_> = preflight(&fixture.config)
            .into_iter()
            .filter(|f| f.severity == provision::Severity::Error)
            .collect();
        assert_eq!(errors, []);
        // A new network namespace has the settings of the host's, which a cluster there may have changed.
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("a namespace of our own");

        let first = fixture.up().await;
        let steps: Vec<&str> = first
            .iter()
            .filter_map(|p| if let Progress::Done(name, _) = p { Some(*name) } else { None })
            .collect();
        assert_eq!(
            steps,
            [
                "directories",
                "certificates",
                "encryption key",
                "kubeconfigs",
                "kernel settings",
                "containerd",
                "system images"
            ]
        );
        let pid = fixture.containerd().process().record().pid;

        // Again: quick and harmless.
        let again = fixture.up().await;
        assert!(again.iter().all(|p| matches!(p, Progress::AlreadyDone(_))), "{again:?}");
        assert_eq!(fixture.containerd().process().record().pid, pid);

        let listed = Command::new("ctr")
            .args(["--address", fixture.layout().containerd_socket().to_str().expect("text")])
            .args(["-n", "k8s.io", "images", "ls", "-q"])
            .output()
            .expect("ctr is installed");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        for name in ["pause:1.2.3", "hello:1.2.3", "hello:latest", "hello:v1", "hello:v2"] {
            assert!(listed.lines().any(|l| l == format!("localhost/cox/{name}")), "{name} in {listed}");
        }

        let (_, container, address) = fixture.pod("p1").await;
        assert!(address.starts_with("10.99.7."), "{address}");
        wait_until("hello answers", || async { get(&address).is_some() }).await;
        let answer = get(&address).expect("an answer");
        assert!(answer.contains("hello from pod p1\n") && answer.contains("version v2\n"), "{answer}");
        let containerd = fixture.containerd();
        let shell = ["sh", "-c", "ls /cox && cat /etc/passwd | wc -l && tar --help 2>&1 | head -1"];
        let answer = containerd
            .cri()
            .exec_sync(&container, shell.map(String::from).to_vec(), Duration::from_secs(10))
            .await
            .expect("a shell inside");
        assert_eq!(answer.exit_code, 0);
        assert!(String::from_utf8_lossy(&answer.stdout).starts_with("/cox\n2\n"));

        // containerd may die: the container does not notice, and the next one takes it up.
        containerd.process().signal(rustix::process::Signal::KILL).expect("killed");
        containerd.process().ended().await.expect("ended");
        fixture.up().await;
        let running = fixture.containerd();
        assert_ne!(running.process().record().pid, pid);
        let status = running.cri().container_status(&container).await.expect("known");
        assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
        assert!(get(&address).is_some());

        // Watched over, it comes back by itself.
        let before = running.process().record().clone();
        let facts = provision::Facts::gather(fixture.layout().root(), &[]);
        let config = fixture.config.containerd_config(&facts);
        let killed_and_back = async {
            running.process().signal(rustix::process::Signal::KILL).expect("killed");
            wait_until("another containerd runs", || async {
                let found = Containerd::find(fixture.layout());
                match found.filter(|c| *c.process().record() != before) {
                    Some(found) => found.cri().list_pod_sandbox(None).await.is_ok(),
                    None => false,
                }
            })
            .await;
        };
        tokio::select! {
            _ = Containerd::keep(fixture.layout(), &config) => {}
            () = killed_and_back => {}
        }

        let removed = fixture.down(false).await;
        assert_eq!(removed.problems, [""; 0]);
        assert_eq!(removed.sandboxes, 1);
        assert_eq!(fixture.remains(), [""; 0]);
        assert!(fixture.config.pki().authority().key.exists(), "data is kept");
        assert!(!fixture.layout().run().exists());

        // Up again on the kept data: nothing is made or imported anew.
        let third = fixture.up().await;
        for kept in ["certificates", "kubeconfigs", "system images"] {
            assert!(third.contains(&Progress::AlreadyDone(kept)), "{kept}: {third:?}");
        }
        let removed = fixture.down(true).await;
        assert_eq!((removed.problems, removed.purged), (Vec::new(), true));
        assert!(!fixture.layout().root().exists());
    });
}

#[test]
fn down_finds_what_a_crash_left() {
    isolated("down_finds_what_a_crash_left", async {
        let mut fixture = Fixture::new("two");
        fixture.up().await;
        let (_, _, address) = fixture.pod("p2").await;
        wait_until("hello answers", || async { get(&address).is_some() }).await;
        let volume = fixture.layout().kubelet().join("pods/p2/volumes/v");
        fs::create_dir_all(&volume).expect("made");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&volume).status().expect("mount");
        assert!(mounted.success());
        // A process of ours that was recorded, and nobody waits for.
        let mut sleeper = Command::new("sleep").arg("600").spawn().expect("started");
        let record = ProcessRecord::of(sleeper.id() as i32).expect("alive");
        record.write(&fixture.layout().process_record("part")).expect("written");

        // containerd gone, and its configuration broken: it cannot help.
        let containerd = fixture.containerd();
        containerd.process().signal(rustix::process::Signal::KILL).expect("killed");
        containerd.process().ended().await.expect("ended");
        fs::write(fixture.layout().containerd_config(), "not TOML").expect("written");
        assert!(get(&address).is_some(), "the pod is still there");

        let removed = fixture.down(true).await;
        assert_eq!(removed.problems.len(), 1, "{removed:?}");
        assert!(removed.problems[0].starts_with("cannot start containerd"), "{removed:?}");
        assert_eq!(removed.processes, 1);
        assert!(removed.leftovers >= 4, "{removed:?}");
        assert!(!record.is_alive());
        sleeper.wait().expect("collected");
        assert_eq!(fixture.remains(), [""; 0]);
        assert!(!fixture.layout().root().exists());
    });
}

#[test]
fn a_containerd_that_cannot_start_says_why() {
    isolated("a_containerd_that_cannot_start_says_why", async {
        let fixture = Fixture::new("three");
        run(control_plane(&fixture.config), |_| {}).await.expect("a control plane's ground");
        // A file where its directory has to be.
        let state: PathBuf = fixture.layout().containerd_root().join("data");
        fs::write(&state, "").expect("written");
        let error = run(node(&fixture.config), |_| {}).await.expect_err("refused");
        assert_eq!(error.step, "containerd");
        let text = format!("{:#}", error.source);
        assert!(text.contains("not a directory") && text.contains("containerd.log"), "{text}");
    });
}
