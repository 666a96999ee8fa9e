//! A server that answers from a script.
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Channel, Full};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::BoxError;

pub type Reply = Response<BoxBody<Bytes, BoxError>>;

/// Answers each request with `answer(method, path?query, body)`, and writes down what was asked.
#[derive(Clone, Default)]
pub struct Asked(pub Arc<Mutex<Vec<String>>>);

impl Asked {
    pub fn list(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

pub fn client(answer: impl Fn(&str, &str, Value) -> Reply + Send + Sync + 'static) -> (Client, Asked) {
    let asked = Asked::default();
    let (answer, log) = (Arc::new(answer), asked.clone());
    let service =
        tower::service_fn(move |request: Request<Body>| -> BoxFuture<'static, Result<Reply, BoxError>> {
            let (answer, log) = (answer.clone(), log.clone());
            Box::pin(async move {
                assert_eq!(request.headers()["user-agent"], "tester/1");
                let method = request.method().to_string();
                let uri = request.uri().to_string();
                let body = request.into_body().collect_bytes().await?;
                log.0.lock().unwrap().push(format!("{method} {uri}"));
                Ok(answer(&method, &uri, serde_json::from_slice(&body).unwrap_or(Value::Null)))
            })
        });
    (client::in_process(service, "tester/1"), asked)
}

pub fn reply(code: u16, body: &Value) -> Reply {
    let bytes = Full::new(Bytes::from(body.to_string())).map_err(|e| match e {}).boxed();
    Response::builder().status(code).body(bytes).unwrap()
}

pub fn failure(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason})
}

/// A watch whose events are sent through the returned handle.
pub fn watch() -> (mpsc::UnboundedSender<Value>, Reply) {
    let (events, mut queue) = mpsc::unbounded_channel::<Value>();
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(16);
    tokio::spawn(async move {
        while let Some(event) = queue.recv().await {
            if sender.send_data(Bytes::from(format!("{event}\n"))).await.is_err() {
                return;
            }
        }
    });
    (events, Response::new(body.boxed()))
}
