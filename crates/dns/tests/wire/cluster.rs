//! As much of an API server as the DNS server talks to: objects that are listed, watched, read and written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Channel, Full};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::BoxError;

#[derive(Clone, Default)]
pub struct Cluster(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    revision: u64,
    /// By plural, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    watches: Vec<(String, mpsc::UnboundedSender<Value>)>,
    writes: Vec<String>,
}

type Reply = Response<BoxBody<Bytes, BoxError>>;

impl Cluster {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panicked with it")
    }

    /// The writes so far, as `METHOD plural/name`.
    pub fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().writes)
    }

    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        self.lock().objects.get(&(plural.into(), namespace.into(), name.into())).cloned()
    }

    pub fn put(&self, plural: &str, namespace: &str, name: &str, object: Value) {
        self.lock().put(plural, namespace, name, object);
    }

    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        self.lock().delete(plural, namespace, name);
    }

    /// Has to be called inside the runtime that uses it.
    pub fn client(&self) -> kube::Client {
        let cluster = self.clone();
        let service =
            tower::service_fn(move |request: Request<Body>| -> BoxFuture<'static, Result<Reply, BoxError>> {
                let cluster = cluster.clone();
                Box::pin(async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect_bytes().await?;
                    Ok(cluster.answer(
                        &parts.method,
                        &parts.uri,
                        serde_json::from_slice(&body).unwrap_or_default(),
                    ))
                })
            });
        client::in_process(service, "tester/1")
    }

    fn answer(&self, method: &Method, uri: &http::Uri, body: Value) -> Reply {
        let words: Vec<_> = uri.path().split('/').skip(1).collect();
        // /api/v1/... or /apis/GROUP/VERSION/...
        let rest = if words[0] == "api" { &words[2..] } else { &words[3..] };
        let (namespace, plural, name) = match rest {
            ["namespaces", namespace, plural] => (*namespace, *plural, None),
            ["namespaces", namespace, plural, name] => (*namespace, *plural, Some(*name)),
            [plural, name] => ("", *plural, Some(*name)),
            [plural] => ("", *plural, None),
            other => panic!("what is {other:?}?"),
        };
        let mut state = self.lock();
        if *method != Method::GET {
            let name = name.or(body["metadata"]["name"].as_str()).unwrap_or_default();
            state.writes.push(format!("{method} {plural}/{name}"));
        }
        match (method.as_str(), name) {
            ("GET", None) if uri.query().is_some_and(|q| q.contains("watch=true")) => state.watch(plural),
            ("GET", None) => {
                let all = state.objects.iter().filter(|((p, ..), _)| p == plural);
                let items: Vec<_> = all.map(|(_, object)| object.clone()).collect();
                reply(
                    200,
                    &json!({"metadata": {"resourceVersion": state.revision.to_string()}, "items": items}),
                )
            }
            ("GET", Some(name)) => match state.objects.get(&(plural.into(), namespace.into(), name.into())) {
                Some(object) => reply(200, object),
                None => failure(404, "NotFound"),
            },
            ("POST", None) => {
                let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                if state.objects.contains_key(&(plural.into(), namespace.into(), name.clone())) {
                    return failure(409, "AlreadyExists");
                }
                reply(201, &state.put(plural, namespace, &name, body))
            }
            ("PATCH", Some(name)) => {
                let mut object = state.objects[&(plural.into(), namespace.into(), name.into())].clone();
                merge(&mut object, &body);
                reply(200, &state.put(plural, namespace, name, object))
            }
            ("DELETE", Some(name)) => {
                state.delete(plural, namespace, name);
                reply(200, &json!({"kind": "Status", "status": "Success"}))
            }
            other => panic!("what is {other:?}?"),
        }
    }
}

impl State {
    fn put(&mut self, plural: &str, namespace: &str, name: &str, mut object: Value) -> Value {
        self.revision += 1;
        let (api, kind) = match plural {
            "services" => ("v1", "Service"),
            "namespaces" => ("v1", "Namespace"),
            _ => ("discovery.k8s.io/v1", "EndpointSlice"),
        };
        object["apiVersion"] = json!(api);
        object["kind"] = json!(kind);
        object["metadata"]["name"] = json!(name);
        object["metadata"]["uid"] = json!(format!("uid-of-{name}"));
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.objects.insert((plural.into(), namespace.into(), name.into()), object.clone());
        self.tell(plural, "MODIFIED", &object);
        object
    }

    fn delete(&mut self, plural: &str, namespace: &str, name: &str) {
        self.revision += 1;
        if let Some(mut object) = self.objects.remove(&(plural.into(), namespace.into(), name.into())) {
            object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
            self.tell(plural, "DELETED", &object);
        }
    }

    fn tell(&mut self, plural: &str, kind: &str, object: &Value) {
        let event = json!({"type": kind, "object": object});
        self.watches.retain(|(p, watch)| p != plural || watch.send(event.clone()).is_ok());
    }

    /// Everything there is is told again: what came between the list and the watch is not lost.
    fn watch(&mut self, plural: &str) -> Reply {
        let (events, mut queue) = mpsc::unbounded_channel::<Value>();
        for ((p, ..), object) in &self.objects {
            if p == plural {
                let _ = events.send(json!({"type": "MODIFIED", "object": object}));
            }
        }
        self.watches.push((plural.into(), events));
        let (mut sender, body) = Channel::<Bytes, BoxError>::new(16);
        tokio::spawn(async move {
            while let Some(event) = queue.recv().await {
                if sender.send_data(Bytes::from(format!("{event}\n"))).await.is_err() {
                    return;
                }
            }
        });
        Response::new(body.boxed())
    }
}

fn merge(object: &mut Value, patch: &Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    object.remove(key);
                } else {
                    merge(object.entry(key.clone()).or_insert(json!({})), value);
                }
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}

fn reply(code: u16, body: &Value) -> Reply {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|e| match e {}).boxed();
    let mut reply = Response::new(body);
    *reply.status_mut() = http::StatusCode::from_u16(code).expect("a status code");
    reply
}

fn failure(code: u16, reason: &str) -> Reply {
    reply(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": reason, "metadata": {}}),
    )
}
