//! The real kubectl against our servers: API front, "kubelet" that bridges, and runtime, as in a cluster.

use std::{
    future::Future,
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use streaming::{
    Body, Limits, Streams, body,
    dial::Dialer,
    proxy::{self, ProxyOptions},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdout, Command},
};

use crate::{port_forward, process::runtime, remote_command, server::Server};

/// Both values of the switches that make kubectl choose WebSocket.
const WEBSOCKETS: [bool; 2] = [true, false];

/// The servers of a cluster, as far as kubectl's streaming commands need them.
struct Cluster {
    api: Server,
    home: tempfile::TempDir,
    _kubelet: Server,
    _runtime: Server,
}

impl Cluster {
    async fn start() -> Self {
        let far = Server::plain(runtime).await;
        let base = Arc::new(far.uri("").to_string().trim_end_matches('/').to_owned());
        let kubelet = Server::plain(move |request: Request<Incoming>| {
            let path = request.uri().path().to_owned();
            let target = format!("{base}{path}").parse().expect("a uri");
            async move {
                match path.starts_with("/portForward") {
                    true => port_forward::bridging(target, request).await,
                    false => remote_command::bridging(target, request).await,
                }
            }
        })
        .await;
        let base = Arc::new(kubelet.uri("").to_string().trim_end_matches('/').to_owned());
        let api = Server::tls(move |request| api(base.clone(), request)).await;
        Self { api, home: tempfile::tempdir().expect("a directory"), _kubelet: kubelet, _runtime: far }
    }

    fn kubectl(&self, websockets: bool, arguments: &[&str]) -> Command {
        let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets.to_string())
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets.to_string())
            .arg(format!("--server=https://{}", self.api.address))
            .args(["--insecure-skip-tls-verify", "--namespace=default", "--token=t"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, websockets: bool, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self.kubectl(websockets, arguments).spawn().expect("kubectl is installed");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_vec();
        tokio::spawn(async move {
            // A command that does not read its input may end first.
            let _ = stdin.write_all(&input).await;
        });
        within(child.wait_with_output()).await.expect("kubectl's output")
    }
}

/// Discovery, one pod, and its streaming subresources forwarded to the kubelet.
async fn api(kubelet: Arc<String>, request: Request<Incoming>) -> Response<Body> {
    let answer = |value: serde_json::Value| {
        let mut response = Response::new(body::full(value.to_string()));
        response.headers_mut().insert("content-type", "application/json".parse().expect("a value"));
        response
    };
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    let target = match path {
        "/api" => return answer(json!({ "kind": "APIVersions", "versions": ["v1"] })),
        "/apis" => return answer(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [] })),
        "/api/v1" => {
            let pods = json!({ "name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": ["get"] });
            return answer(json!({ "kind": "APIResourceList", "groupVersion": "v1", "resources": [pods] }));
        }
        "/api/v1/namespaces/default/pods/p" => {
            return answer(json!({
                "kind": "Pod", "apiVersion": "v1", "metadata": { "name": "p", "namespace": "default" },
                "spec": { "containers": [{ "name": "c", "image": "i", "stdin": true }] },
                "status": { "phase": "Running" },
            }));
        }
        "/api/v1/namespaces/default/pods/p/exec" | "/api/v1/namespaces/default/pods/p/attach" => {
            let streams = Streams::from_api_query(query).expect("streams");
            let parameters = form_urlencoded::parse(query.as_bytes());
            let command: Vec<_> =
                parameters.filter(|(name, _)| name == "command").map(|(_, value)| value).collect();
            let verb = path.rsplit('/').next().unwrap_or_default();
            format!("{kubelet}/{verb}?{}", streams.to_kubelet_query(&command))
        }
        "/api/v1/namespaces/default/pods/p/portforward" => format!("{kubelet}/portForward"),
        _ => return body::text(StatusCode::NOT_FOUND, "404 page not found"),
    };
    let target = target.parse().expect("a uri");
    let (options, limits) = (ProxyOptions::default(), Limits::default());
    let forwarded = proxy::forward(request, &target, &Dialer::plain(), &options, &limits).await;
    forwarded.unwrap_or_else(|error| error.into_response())
}

/// The local port of a running `kubectl port-forward`, and its output, which must stay open for it to live.
async fn forwarded_port(kubectl: &mut Child) -> (u16, Lines<BufReader<ChildStdout>>) {
    let mut lines = BufReader::new(kubectl.stdout.take().expect("piped")).lines();
    let line = within(lines.next_line()).await.expect("output").expect("a line");
    let port = line.split_once("127.0.0.1:").and_then(|(_, rest)| rest.split_once(' ')).expect("a port").0;
    (port.parse().expect("a number"), lines)
}

/// A test must fail rather than hang.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("no minute should be needed")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[tokio::test]
async fn exec_has_output_and_exit_code() {
    let cluster = Cluster::start().await;
    for websockets in WEBSOCKETS {
        let script = "echo out; echo err >&2; exit 7";
        let output = cluster.run(websockets, &["exec", "p", "--", "sh", "-c", script], b"").await;
        assert_eq!(text(&output.stdout), "out\n", "{output:?}");
        assert_eq!(
            text(&output.stderr),
            "err\ncommand terminated with exit code 7\n",
            "websockets {websockets}"
        );
        assert_eq!(output.status.code(), Some(7));
    }
}

#[tokio::test]
async fn exec_takes_input_to_its_end() {
    let cluster = Cluster::start().await;
    let input: Vec<u8> = (0..2_000_000u32).map(|at| (at % 251) as u8).collect();
    for websockets in WEBSOCKETS {
        let output = cluster.run(websockets, &["exec", "-i", "p", "--", "cat"], &input).await;
        let (size, errors) = (output.stdout.len(), text(&output.stderr));
        assert!(output.stdout == input, "websockets {websockets}: {size} bytes, {errors}");
        assert_eq!((errors, output.status.code()), ("", Some(0)), "websockets {websockets}");
    }
}

#[tokio::test]
async fn exec_delivers_much_output_whole() {
    let cluster = Cluster::start().await;
    for websockets in WEBSOCKETS {
        let arguments = ["exec", "p", "--", "head", "-c", "20000000", "/dev/zero"];
        let output = cluster.run(websockets, &arguments, b"").await;
        assert_eq!((output.stdout.len(), text(&output.stderr)), (20_000_000, ""), "websockets {websockets}");
    }
}

#[tokio::test]
async fn attach_carries_both_directions() {
    let cluster = Cluster::start().await;
    for websockets in WEBSOCKETS {
        let output = cluster.run(websockets, &["attach", "-i", "p", "-c", "c"], b"to and fro\n").await;
        assert_eq!(text(&output.stdout), "to and fro\n", "websockets {websockets}: {output:?}");
        assert!(output.status.success());
    }
}

#[tokio::test]
async fn port_forward_serves_many_connections() {
    let cluster = Cluster::start().await;
    let port = port_forward::shouting().await;
    for websockets in WEBSOCKETS {
        let mut kubectl = cluster
            .kubectl(websockets, &["port-forward", "p", &format!(":{port}")])
            .spawn()
            .expect("kubectl");
        let (local, _output) = forwarded_port(&mut kubectl).await;
        let connections = (0..10).map(|number| async move {
            let mut socket = TcpStream::connect(("127.0.0.1", local)).await.expect("connected");
            let sent = format!("connection {number} ").repeat(500);
            socket.write_all(sent.as_bytes()).await.expect("sent");
            socket.shutdown().await.expect("ended");
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.expect("an answer");
            assert!(answer == sent.to_ascii_uppercase(), "websockets {websockets}: {} bytes", answer.len());
        });
        within(futures::future::join_all(connections)).await;
        kubectl.kill().await.expect("stopped");
    }
}

#[tokio::test]
async fn port_forward_says_what_failed() {
    let cluster = Cluster::start().await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port")
        .local_addr()
        .expect("an address")
        .port();
    for websockets in WEBSOCKETS {
        let mut kubectl = cluster
            .kubectl(websockets, &["port-forward", "p", &format!(":{closed}")])
            .spawn()
            .expect("kubectl");
        let (local, _output) = forwarded_port(&mut kubectl).await;
        let mut socket = TcpStream::connect(("127.0.0.1", local)).await.expect("connected");
        let mut nothing = Vec::new();
        let _ = within(socket.read_to_end(&mut nothing)).await;
        let mut errors = BufReader::new(kubectl.stderr.take().expect("piped")).lines();
        let mut said = String::new();
        while !said.contains("an error occurred forwarding") {
            said = within(errors.next_line()).await.expect("output").expect("a message about the failure");
        }
        assert!(
            said.contains(&format!("dial {closed}: Connection refused")),
            "websockets {websockets}: {said}"
        );
        kubectl.kill().await.expect("stopped");
    }
}
