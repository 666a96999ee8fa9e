//! An HTTP server that tells which pod answered: to see load balancing, rollouts, probes and restarts at work.
//!
//! `/` and every other path tell pod, node, version and the request, as text or, where the client accepts it, as JSON.
//! `/healthz` says ok, `/delay?ms=N` answers later, `/exit?code=N` ends the process.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tracing::{info, warn};

/// Most connections served at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 512;
/// The longest delay a client can ask for.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// How long requests may go on after the process was told to end.
const DRAIN: Duration = Duration::from_secs(5);

/// How the server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Who it says it is.
    pub identity: Identity,
}

/// Who a hello server says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Name of the pod.
    pub pod: String,
    /// Its namespace.
    pub namespace: String,
    /// The node it runs on.
    pub node: String,
    /// Version of the image.
    pub version: String,
}

impl Identity {
    /// Takes `POD_NAME`, `POD_NAMESPACE`, `NODE_NAME` and `HELLO_VERSION` from a lookup, and for the first two what a
    /// pod shows without being told: its host name and its service account.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let namespace =
            || std::fs::read_to_string("/var/run/secrets/kubernetes.io/serviceaccount/namespace").ok();
        Self {
            pod: lookup("POD_NAME").unwrap_or_else(host),
            namespace: lookup("POD_NAMESPACE").or_else(namespace).unwrap_or_default(),
            node: lookup("NODE_NAME").unwrap_or_default(),
            version: lookup("HELLO_VERSION").unwrap_or_else(|| crate::VERSION.to_owned()),
        }
    }
}

/// Serves until SIGTERM or SIGINT, then lets requests finish; on a runtime of one thread.
pub fn run_hello(config: HelloConfig) -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {}: {e}", config.listen)))?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        hello(listener, config.identity, async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        })
        .await
    })
}

/// Serves on a listener until `stop` is ready, then lets requests finish.
pub async fn hello(
    listener: TcpListener,
    identity: Identity,
    stop: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    info!(address = %listener.local_addr()?, version = identity.version, "hello is listening");
    let identity = Arc::new(identity);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let (draining, drain) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = async {
                let place = places.clone().acquire_owned().await;
                (place, listener.accept().await)
            } => accepted,
        };
        let (Ok(place), accepted) = accepted else {
            break;
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: let some connection end first.
                warn!(%error, "cannot accept a connection");
                connections.join_next().await;
                continue;
            }
        };
        let identity = identity.clone();
        let mut drain = drain.clone();
        connections.spawn(async move {
            let _place = place;
            let service = service_fn(move |request| {
                let identity = identity.clone();
                async move { Ok::<_, Infallible>(serve(&identity, client, &request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30))
                .max_buf_size(64 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                // A client that goes away is its own business.
                _ = connection.as_mut() => return,
                _ = drain.changed() => {}
            }
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        });
    }
    draining.send_replace(true);
    let _ = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Tell,
    Health,
    Delay(Duration),
    Exit(i32),
    Wrong(String),
}

fn wish(path: &str, query: &str) -> Wish {
    let number =
        |name: &str, default: u64| match form_urlencoded::parse(query.as_bytes()).find(|(k, _)| k == name) {
            None => Ok(default),
            Some((_, v)) => {
                v.parse::<u64>().map_err(|_| Wish::Wrong(format!("{name} must be a number, not {v:?}")))
            }
        };
    match path {
        "/healthz" | "/readyz" | "/livez" => Wish::Health,
        "/delay" => match number("ms", 1000) {
            Ok(ms) => Wish::Delay(Duration::from_millis(ms).min(LONGEST_DELAY)),
            Err(wrong) => wrong,
        },
        "/exit" => match number("code", 0) {
            Ok(code @ 0..=255) => Wish::Exit(code as i32),
            Ok(_) => Wish::Wrong("code must be between 0 and 255".into()),
            Err(wrong) => wrong,
        },
        _ => Wish::Tell,
    }
}

async fn serve(
    identity: &Identity,
    client: SocketAddr,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    match wish(request.uri().path(), request.uri().query().unwrap_or_default()) {
        Wish::Tell => {}
        Wish::Health => return text(StatusCode::OK, "ok\n".to_owned()),
        Wish::Delay(delay) => tokio::time::sleep(delay).await,
        Wish::Exit(code) => {
            info!(code, "asked to exit");
            std::process::exit(code)
        }
        Wish::Wrong(why) => return text(StatusCode::BAD_REQUEST, why + "\n"),
    }
    let told = told(identity, client, request);
    let wants_json = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|accept| accept.contains("application/json"));
    if wants_json {
        let body = serde_json::to_vec(&told).unwrap_or_default();
        let mut response = Response::new(Full::new(Bytes::from(body)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return response;
    }
    text(StatusCode::OK, told.to_text())
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    identity: &'a Identity,
    client: SocketAddr,
    method: String,
    uri: String,
    headers: Vec<(String, String)>,
}

fn told<'a, B>(identity: &'a Identity, client: SocketAddr, request: &Request<B>) -> Told<'a> {
    Told {
        identity,
        client,
        method: request.method().to_string(),
        uri: request.uri().to_string(),
        headers: request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect(),
    }
}

impl Told<'_> {
    fn to_text(&self) -> String {
        let known = |label: &str, value: &str| {
            if value.is_empty() { String::new() } else { format!("{label} {value}\n") }
        };
        let Identity { pod, namespace, node, version } = self.identity;
        let mut out = format!("hello from pod {pod}\n");
        out += &known("namespace", namespace);
        out += &known("node", node);
        out +=
            &format!("version {version}\nclient {}\n\n{} {} HTTP/1.1\n", self.client, self.method, self.uri);
        for (name, value) in &self.headers {
            out += &format!("{name}: {value}\n");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        sync::oneshot,
    };

    use super::*;

    fn identity() -> Identity {
        Identity { pod: "p-1".into(), namespace: "shop".into(), node: "n1".into(), version: "v2".into() }
    }

    #[test]
    fn wishes_are_bounded() {
        assert_eq!(wish("/", ""), Wish::Tell);
        assert_eq!(wish("/anything", "code=3"), Wish::Tell);
        assert_eq!(wish("/delay", "ms=5"), Wish::Delay(Duration::from_millis(5)));
        assert_eq!(wish("/delay", "ms=99999999999"), Wish::Delay(LONGEST_DELAY));
        assert_eq!(wish("/exit", "code=7"), Wish::Exit(7));
        assert!(matches!(wish("/exit", "code=256"), Wish::Wrong(_)));
        assert!(matches!(wish("/exit", "code=-1"), Wish::Wrong(_)));
        assert!(matches!(wish("/delay", "ms=soon"), Wish::Wrong(_)));
    }

    #[test]
    fn identity_comes_from_the_environment_where_it_is_told() {
        let told = Identity::from_lookup(|name| Some(name.to_lowercase()));
        assert_eq!(told.pod, "pod_name");
        assert_eq!(told.namespace, "pod_namespace");
        assert_eq!(told.node, "node_name");
        let untold = Identity::from_lookup(|_| None);
        assert_eq!(untold.pod, rustix::system::uname().nodename().to_string_lossy());
        assert_eq!(untold.version, crate::VERSION);
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn tells_who_answered_and_drains_at_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (end, ended) = oneshot::channel::<()>();
        let server = tokio::spawn(hello(listener, identity(), async move {
            let _ = ended.await;
        }));
        let close = "connection: close\r\n\r\n";
        let answer = ask(address, &format!("GET /a?b=c HTTP/1.1\r\nhost: shop\r\nx-y: z\r\n{close}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        for part in [
            "hello from pod p-1\n",
            "namespace shop\n",
            "node n1\n",
            "version v2\n",
            "GET /a?b=c HTTP/1.1\n",
            "x-y: z\n",
        ] {
            assert!(answer.contains(part), "{part:?} in {answer}");
        }
        let answer =
            ask(address, &format!("GET / HTTP/1.1\r\nhost: a\r\naccept: application/json\r\n{close}")).await;
        let body = answer.split("\r\n\r\n").nth(1).expect("a body");
        let value: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(value["pod"], "p-1");
        assert_eq!(value["method"], "GET");
        let answer = ask(address, &format!("GET /healthz HTTP/1.1\r\nhost: a\r\n{close}")).await;
        assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
        let answer = ask(address, &format!("GET /exit?code=x HTTP/1.1\r\nhost: a\r\n{close}")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");

        // Asked before the end, answered after it.
        let mut slow = TcpStream::connect(address).await.expect("connected");
        slow.write_all(b"GET /delay?ms=200 HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
        let _ = ask(address, &format!("GET / HTTP/1.1\r\nhost: a\r\n{close}")).await;
        end.send(()).expect("still serving");
        let mut answer = String::new();
        slow.read_to_string(&mut answer).await.expect("answered");
        assert!(answer.contains("hello from pod p-1"), "{answer}");
        server.await.expect("no panic").expect("served");
    }

    #[tokio::test]
    async fn an_endless_header_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(hello(listener, identity(), std::future::pending()));
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let chunk = vec![b'a'; 256 * 1024];
        let sent = async {
            stream.write_all(b"GET / HTTP/1.1\r\nx: ").await?;
            stream.write_all(&chunk).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&answer).into_owned())
        }
        .await;
        // Refused in words, or cut off while still sending.
        assert!(sent.as_ref().map_or(true, |a| a.starts_with("HTTP/1.1 431")), "{sent:?}");
        server.abort();
    }
}
