//! An API server over the embedded store, in a process of its own that is killed: the test binary, started again by
//! itself.
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use apiserver::{HttpClient as _, Outbound};
use async_trait::async_trait;
use http::{Method, Request};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use storage::{Embedded, Options};
use tokio::net::TcpListener;

use crate::servers::{Calls, Server, trust};

/// Tells the test binary to be the server.
const CHILD: &str = "APISERVER_TEST_KILLED_DIR";

/// The store below a directory. No snapshot, so that the history before each end is there to be compared with.
pub fn open(root: &Path) -> Arc<Embedded> {
    let options = Options { sync: false, snapshot_bytes: u64::MAX, ..Options::default() };
    Arc::new(Embedded::open(root.join("db"), options).expect("it starts by itself"))
}

/// The process that gets killed; does nothing in an ordinary run of the tests.
#[test]
fn child() {
    let Some(root) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let server = Arc::new(Server::start(open(&root), &trust(&root), 1, false).await);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        eprintln!("port {}", listener.local_addr().expect("an address").port());
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let server = server.clone();
            let service = service_fn(move |request| {
                let server = server.clone();
                async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
}

/// The process.
pub struct Killed {
    process: Child,
    port: u16,
}

impl Killed {
    /// Starts it over the store below a directory; returns when it answers.
    pub async fn start(root: &Path) -> Self {
        let own = std::env::current_exe().expect("the test binary");
        let mut command = Command::new(own);
        command.args(["--exact", "killed::child", "--nocapture"]).env(CHILD, root);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("it starts");
        let said = BufReader::new(process.stderr.take().expect("its words"));
        let port = tokio::task::block_in_place(|| {
            let mut lines = said.lines().map_while(Result::ok);
            lines.find_map(|line| line.strip_prefix("port ")?.parse().ok())
        });
        Self { process, port: port.expect("it says where it listens") }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        self.process.wait().expect("it is gone");
    }

    /// Speaks to it as long as it lives.
    pub fn client(&self) -> Arc<dyn Calls> {
        Arc::new(Client { port: self.port, http: Outbound::plain() })
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Client {
    port: u16,
    http: Outbound,
}

#[async_trait]
impl Calls for Client {
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{}{path}", self.port))
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default())
            .expect("a request");
        match self.http.call(request).await {
            Ok(answer) => {
                let body = serde_json::from_slice(answer.body()).unwrap_or(Value::Null);
                (answer.status().as_u16(), body)
            }
            // Nobody knows what became of it.
            Err(why) => (599, why.into()),
        }
    }
}
