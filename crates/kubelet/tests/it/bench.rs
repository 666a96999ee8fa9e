//! A private containerd with a busybox image, and directories that vanish with the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// The image that all test pods run; also the sandbox's.
pub const IMAGE: &str = "localhost/kubelet-it/busybox:1";

/// Everything that one test needs of the machine.
pub struct Bench {
    /// Where all of it lives.
    pub dir: PathBuf,
    /// The name that sets this test's cgroups and links apart.
    pub name: String,
    containerd: Child,
    _root: tempfile::TempDir,
}

/// Why the test cannot run here, if so.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".into());
    }
    for path in ["/usr/bin/containerd", "/usr/sbin/runc", "/bin/busybox", "/usr/lib/cni/ptp"] {
        if !Path::new(path).exists() {
            return Some(format!("{path} is missing"));
        }
    }
    None
}

fn tar_entry(out: &mut Vec<u8>, name: &str, kind: u8, mode: u32, link: &str, data: &[u8]) {
    let mut header = [0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", data.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An OCI archive with busybox and a few of its names.
fn image() -> Vec<u8> {
    let mut layer = Vec::new();
    for dir in ["bin/", "etc/", "tmp/", "proc/", "sys/", "dev/"] {
        tar_entry(&mut layer, dir, b'5', 0o755, "", b"");
    }
    tar_entry(&mut layer, "bin/busybox", b'0', 0o755, "", &fs::read("/bin/busybox").expect("busybox"));
    for name in [
        "sh", "sleep", "echo", "cat", "ls", "stat", "env", "id", "true", "false", "httpd", "nc", "trap",
        "hostname",
    ] {
        tar_entry(&mut layer, &format!("bin/{name}"), b'2', 0o777, "busybox", b"");
    }
    tar_entry(&mut layer, "etc/passwd", b'0', 0o644, "", b"root:x:0:0:root:/:/bin/sh\n");
    layer.resize(layer.len() + 1024, 0);
    let config = serde_json::json!({"architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "2147483647"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]}})
    .to_string();
    let manifest = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{}", digest(config.as_bytes())), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{}", digest(&layer)), "size": layer.len()}]})
    .to_string();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": format!("sha256:{}", digest(manifest.as_bytes())), "size": manifest.len(),
        "annotations": {"io.containerd.image.name": IMAGE}}]})
    .to_string();
    let mut out = Vec::new();
    tar_entry(&mut out, "oci-layout", b'0', 0o644, "", br#"{"imageLayoutVersion":"1.0.0"}"#);
    tar_entry(&mut out, "index.json", b'0', 0o644, "", index.as_bytes());
    for blob in [layer.as_slice(), config.as_bytes(), manifest.as_bytes()] {
        tar_entry(&mut out, &format!("blobs/sha256/{}", digest(blob)), b'0', 0o644, "", blob);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// Waits for something to become true.
pub async fn eventually<T>(what: &str, limit: Duration, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < until, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Bench {
    /// Starts a containerd with its own state, and imports the image.
    pub async fn start(subnet: &str) -> Bench {
        let root = tempfile::Builder::new().prefix("kubelet-it").tempdir().expect("dir");
        let dir = root.path().to_owned();
        let name = format!("kubelet-it-{}", std::process::id());
        for part in ["cni", "manifests", "containerd"] {
            fs::create_dir_all(dir.join(part)).expect("dir");
        }
        let at = |part: &str| dir.join(part).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\noom_score = 0\n[grpc]\n  address = {:?}\n[ttrpc]\n  address = {:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = {IMAGE:?}\n  restrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\n  bin_dir = \"/usr/lib/cni\"\n  conf_dir = {:?}\n",
            at("containerd/root"),
            at("containerd/state"),
            at("containerd/sock"),
            at("containerd/ttrpc"),
            at("cni"),
        );
        fs::write(dir.join("containerd.toml"), config).expect("config");
        let cni = serde_json::json!({"cniVersion": "1.0.0", "name": name, "plugins": [{"type": "ptp", "ipMasq": false,
            "ipam": {"type": "host-local", "dataDir": at("ipam"), "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]}}]});
        fs::write(dir.join("cni/10-it.conflist"), cni.to_string()).expect("cni");
        let log = fs::File::create(dir.join("containerd.log")).expect("log");
        let containerd = Command::new("/usr/bin/containerd")
            .arg("--config")
            .arg(dir.join("containerd.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd");
        let bench = Bench { dir, name, containerd, _root: root };
        let cri = bench.cri();
        eventually("containerd answers", Duration::from_secs(60), async || cri.version().await.ok()).await;
        fs::write(bench.dir.join("image.tar"), image()).expect("image");
        let imported = Command::new("/usr/bin/ctr")
            .args(["-a", &bench.socket(), "-n", "k8s.io", "images", "import"])
            .arg(bench.dir.join("image.tar"))
            .output()
            .expect("ctr");
        assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
        bench
    }

    /// The runtime's socket.
    pub fn socket(&self) -> String {
        self.dir.join("containerd/sock").display().to_string()
    }

    /// A client of the runtime.
    pub fn cri(&self) -> cri::Cri {
        cri::Cri::new(&self.socket()).expect("socket path")
    }

    /// A kubelet's settings on this bench.
    pub fn config(&self) -> kubelet::Config {
        kubelet::Config {
            node_ip: Some("127.0.0.1".parse().expect("ip")),
            root_dir: self.dir.join("kubelet"),
            pod_logs_dir: self.dir.join("logs"),
            cri_endpoint: self.socket(),
            static_pod_path: Some(self.dir.join("manifests")),
            cgroup_root: format!("/{}", self.name),
            ..kubelet::Config::new("it-node")
        }
    }

    /// Cgroup directories of this test in any hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let mounts = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        mounts
            .chain([PathBuf::from("/sys/fs/cgroup")])
            .map(|mount| mount.join(&self.name))
            .filter(|path| path.is_dir())
            .collect()
    }
}

fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
        // A failed test may leave shims; they carry the state directory in their command line.
        let ours = self.dir.display().to_string();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&ours) {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut points: Vec<&str> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|point| point.starts_with(&ours))
            .collect();
        points.reverse();
        for point in points {
            let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
        for cgroup in self.cgroups() {
            remove_cgroup(&cgroup);
        }
    }
}
