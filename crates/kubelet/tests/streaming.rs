//! Exec, attach and port-forward through the kubelet's endpoints into a real containerd of the test's own.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use cri::{Cri, v1};
use futures::FutureExt;
use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use kubelet::server::{
    attach::serve_attach, exec::serve_exec, port_forward::serve_port_forward, run::serve_run,
};
use sha2::{Digest, Sha256};
use streaming::{
    Body, ExecStatus, Limits, Streams, TerminalSize, body,
    client::{self, ClientError, ClientSession, ExecProtocol, PortForwardClient, PortForwardTransport},
    dial::Dialer,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const IMAGE: &str = "localhost/streaming-test:1";
const PROTOCOLS: [ExecProtocol; 3] =
    [ExecProtocol::Spdy, ExecProtocol::WebSocketV5, ExecProtocol::WebSocketV4];
const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };

/// A containerd with everything of its own in one directory.
struct Containerd {
    process: Child,
    directory: PathBuf,
    cgroup: String,
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // SIGTERM lets containerd unmount what it mounted.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
        if let Ok(controllers) = std::fs::read_dir("/sys/fs/cgroup") {
            for controller in controllers.flatten() {
                let _ = std::fs::remove_dir(controller.path().join(&self.cgroup));
            }
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Containerd {
    async fn start() -> Self {
        let name = format!("streaming-test-{}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        let at = |part: &str| directory.join(part).display().to_string();
        std::fs::create_dir_all(&directory).expect("a directory");
        let config = format!(
            r#"
version = 2
oom_score = 0
root = "{}"
state = "{}"
[grpc]
address = "{}"
[ttrpc]
address = "{}"
[plugins."io.containerd.internal.v1.opt"]
path = "{}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
"#,
            at("root"),
            at("state"),
            at("socket"),
            at("ttrpc"),
            at("opt"),
            at("cni"),
        );
        std::fs::write(at("config.toml"), config).expect("a configuration");
        let log = std::fs::File::create(at("log")).expect("a log");
        let process = Command::new("containerd")
            .args(["--config", &at("config.toml")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd is installed");
        let containerd = Self { process, directory, cgroup: name };
        containerd.import();
        containerd
    }

    fn socket(&self) -> String {
        self.directory.join("socket").display().to_string()
    }

    /// Gives it an image with busybox alone.
    fn import(&self) {
        let archive = image(&self.directory);
        let import = || {
            Command::new("ctr")
                .args([
                    "--address",
                    &self.socket(),
                    "--namespace",
                    "k8s.io",
                    "images",
                    "import",
                    "--snapshotter",
                    "native",
                ])
                .arg(&archive)
                .output()
                .expect("ctr is installed")
        };
        let started = std::time::Instant::now();
        loop {
            let output = import();
            if output.status.success() {
                return;
            }
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "containerd does not take the image: {errors}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// An image archive: one layer with busybox as every tool.
fn image(directory: &Path) -> PathBuf {
    let (tree, parts) = (directory.join("tree"), directory.join("image"));
    std::fs::create_dir_all(tree.join("bin")).expect("a directory");
    std::fs::create_dir_all(&parts).expect("a directory");
    std::fs::copy("/usr/bin/busybox", tree.join("bin/busybox")).expect("busybox is installed");
    for tool in ["sh", "cat", "echo", "stty", "sleep", "head", "true"] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(tool)).expect("a link");
    }
    let tar = |from: &Path, to: &Path| {
        let status = Command::new("tar").arg("-C").arg(from).arg("-cf").arg(to).arg(".").status();
        assert!(status.expect("tar is installed").success());
    };
    tar(&tree, &parts.join("layer.tar"));
    let layer = std::fs::read(parts.join("layer.tar")).expect("a layer");
    let digest: String = Sha256::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Cmd": ["/bin/sleep", "100000"], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest =
        serde_json::json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
    std::fs::write(parts.join("config.json"), config.to_string()).expect("a file");
    std::fs::write(parts.join("manifest.json"), manifest.to_string()).expect("a file");
    let archive = directory.join("image.tar");
    tar(&parts, &archive);
    archive
}

/// One sandbox on the host's network with one container, whose own program copies its input.
struct Pod {
    cri: Cri,
    sandbox: String,
    container: String,
}

impl Pod {
    async fn start(containerd: &Containerd) -> Self {
        let cri = Cri::new(&containerd.socket()).expect("a client");
        let node = v1::NamespaceMode::Node as i32;
        let namespaces = v1::NamespaceOption { network: node, pid: 1, ipc: node, ..Default::default() };
        let sandbox = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: "p".into(),
                uid: "u".into(),
                namespace: "default".into(),
                attempt: 0,
            }),
            log_directory: containerd.directory.join("logs").display().to_string(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}", containerd.cgroup),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let sandbox_id = cri.run_pod_sandbox(sandbox.clone(), "").await.expect("a sandbox");
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
            image: Some(v1::ImageSpec {
                image: IMAGE.into(),
                annotations: HashMap::new(),
                ..Default::default()
            }),
            command: vec!["/bin/cat".into()],
            log_path: "c.log".into(),
            stdin: true,
            linux: Some(v1::LinuxContainerConfig {
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let container = cri.create_container(&sandbox_id, config, sandbox).await.expect("a container");
        cri.start_container(&container).await.expect("started");
        Self { cri, sandbox: sandbox_id, container }
    }

    async fn remove(&self) {
        // Failing here leaves processes behind, which a test must not do silently.
        self.cri.stop_pod_sandbox(&self.sandbox).await.expect("stopped");
        self.cri.remove_pod_sandbox(&self.sandbox).await.expect("removed");
    }
}

/// The kubelet's endpoints, routed as simply as can be.
async fn serve(pod: &'static Pod) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service =
                service_fn(move |request| async move { Ok::<_, Infallible>(route(pod, request).await) });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .with_upgrades();
            tokio::spawn(connection);
        }
    });
    address
}

async fn route(pod: &Pod, request: Request<Incoming>) -> Response<Body> {
    let limits = Limits::default();
    let query = request.uri().query().unwrap_or_default().to_owned();
    match request.uri().path() {
        "/exec" => serve_exec(request, &pod.container, &pod.cri, &limits).await,
        "/exec/gone" => serve_exec(request, "nosuchcontainer", &pod.cri, &limits).await,
        "/attach" => serve_attach(request, &pod.container, &pod.cri, &limits).await,
        "/portForward" => serve_port_forward(request, &pod.sandbox, &pod.cri, &limits).await,
        "/run" => serve_run(&query, &pod.container, &pod.cri).await,
        _ => body::text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

async fn open(
    kubelet: SocketAddr,
    path: &str,
    streams: Streams,
    protocol: ExecProtocol,
    command: &[&str],
) -> Result<ClientSession, ClientError> {
    let uri = format!("http://{kubelet}{path}?{}", streams.to_kubelet_query(command)).parse().expect("a uri");
    client::remote_command(&Dialer::plain(), &uri, streams, protocol, &Limits::default()).await
}

async fn collect(session: ClientSession) -> (String, String, ExecStatus) {
    let (mut out, mut err) = (String::new(), String::new());
    let read_out = async {
        if let Some(mut stdout) = session.stdout {
            stdout.read_to_string(&mut out).await.expect("stdout");
        }
    };
    let read_err = async {
        if let Some(mut stderr) = session.stderr {
            stderr.read_to_string(&mut err).await.expect("stderr");
        }
    };
    let ((), (), status) = tokio::join!(read_out, read_err, session.status);
    (out, err, status)
}

async fn execs(kubelet: SocketAddr) {
    for protocol in PROTOCOLS {
        let streams = Streams { stdin: false, ..ALL };
        let command = ["sh", "-c", "echo out; echo err >&2; exit 3"];
        let (out, err, status) =
            collect(open(kubelet, "/exec", streams, protocol, &command).await.expect("exec")).await;
        assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"), "{protocol:?}");
        assert_eq!(status.exit_code(), Some(3), "{protocol:?}: {status:?}");
        let session = open(kubelet, "/exec", streams, protocol, &["/no/such/program"]).await.expect("exec");
        let (_, _, status) = collect(session).await;
        assert!(!status.is_success(), "{protocol:?}");
        let command = ["head", "-c", "5000000", "/dev/zero"];
        let (out, _, status) =
            collect(open(kubelet, "/exec", streams, protocol, &command).await.expect("exec")).await;
        assert_eq!((out.len(), status.exit_code()), (5_000_000, Some(0)), "{protocol:?}");
        let gone = open(kubelet, "/exec/gone", streams, protocol, &["true"]).await.err();
        assert!(matches!(gone, Some(ClientError::Refused { .. })), "{gone:?}");
    }
}

async fn input_ends(kubelet: SocketAddr) {
    let input = "0123456789".repeat(100_000);
    for protocol in [ExecProtocol::Spdy, ExecProtocol::WebSocketV5] {
        let mut session = open(kubelet, "/exec", ALL, protocol, &["cat"]).await.expect("exec");
        let mut stdin = session.stdin.take().expect("stdin");
        let send = async {
            stdin.write_all(input.as_bytes()).await.expect("input");
            stdin.shutdown().await.expect("end of input");
        };
        let ((), (out, _, status)) = tokio::join!(send, collect(session));
        assert!(out == input, "{protocol:?}: {} bytes", out.len());
        assert_eq!(status.exit_code(), Some(0), "{protocol:?}");
    }
}

async fn terminals(kubelet: SocketAddr) {
    let streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };
    for protocol in PROTOCOLS {
        let script = "until [ \"$(stty size 2>/dev/null)\" = '43 132' ]; do sleep 0.05; done; echo resized";
        let mut session =
            open(kubelet, "/exec", streams, protocol, &["sh", "-c", script]).await.expect("exec");
        let mut resize = session.resize.take().expect("a resize stream");
        resize.send(TerminalSize { width: 132, height: 43 }).await.expect("sent");
        let (out, _, status) = collect(session).await;
        assert_eq!((out.as_str(), status.exit_code()), ("resized\r\n", Some(0)), "{protocol:?}");
    }
}

async fn attachments(kubelet: SocketAddr) {
    for protocol in PROTOCOLS {
        let mut session = open(kubelet, "/attach", ALL, protocol, &[]).await.expect("attach");
        let (mut stdin, mut stdout) =
            (session.stdin.take().expect("stdin"), session.stdout.take().expect("stdout"));
        let line = format!("through {protocol:?}\n");
        stdin.write_all(line.as_bytes()).await.expect("input");
        let mut seen = vec![0; line.len()];
        stdout.read_exact(&mut seen).await.expect("output");
        assert_eq!(seen, line.as_bytes());
    }
}

async fn forwards(kubelet: SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = socket.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    for transport in [PortForwardTransport::Spdy, PortForwardTransport::WebSocket] {
        let uri = format!("http://{kubelet}/portForward").parse().expect("a uri");
        let client = PortForwardClient::connect(&Dialer::plain(), &uri, transport, &Limits::default()).await;
        let client = client.expect("port-forward");
        for number in 0..5 {
            let (mut data, mut error) = client.open(port).await.expect("a connection");
            let sent = format!("{transport:?} {number}");
            data.write_all(sent.as_bytes()).await.expect("sent");
            let mut answer = vec![0; sent.len()];
            data.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(answer, sent.as_bytes());
            if number == 0 {
                // containerd keeps the end of one direction from the pod and gives the other a second more.
                data.shutdown().await.expect("ended");
                let mut message = String::new();
                error.read_to_string(&mut message).await.expect("an end");
                assert_eq!(message, "");
            }
        }
        // Last, as containerd ends a connection with a failed forward.
        let closed =
            TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address").port();
        let (_data, mut error) = client.open(closed).await.expect("streams");
        let mut message = String::new();
        error.read_to_string(&mut message).await.expect("a message");
        assert!(
            message.starts_with(&format!("error forwarding port {closed} to pod ")),
            "{transport:?}: {message:?}"
        );
        assert!(message.contains("connection refused"), "{transport:?}: {message:?}");
    }
}

async fn runs(kubelet: SocketAddr) {
    let mut socket = TcpStream::connect(kubelet).await.expect("connected");
    let request =
        b"POST /run?cmd=echo+hi HTTP/1.1\r\nHost: k\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    socket.write_all(request).await.expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nhi\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_reach_containers_of_a_real_containerd() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root to run containerd");
        return;
    }
    let containerd = Containerd::start().await;
    let pod: &'static Pod = Box::leak(Box::new(Pod::start(&containerd).await));
    let body = async {
        let kubelet = serve(pod).await;
        execs(kubelet).await;
        input_ends(kubelet).await;
        terminals(kubelet).await;
        attachments(kubelet).await;
        forwards(kubelet).await;
        runs(kubelet).await;
    };
    let body = tokio::time::timeout(Duration::from_secs(120), AssertUnwindSafe(body).catch_unwind()).await;
    pod.remove().await;
    drop(containerd);
    if let Err(panic) = body.expect("two minutes are enough") {
        std::panic::resume_unwind(panic);
    }
}
