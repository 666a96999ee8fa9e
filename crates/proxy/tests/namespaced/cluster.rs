//! As much of an API server as a proxy reads: lists and watches of Services and EndpointSlices.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
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
    objects: HashMap<&'static str, BTreeMap<String, Value>>,
    watches: HashMap<&'static str, Vec<mpsc::UnboundedSender<Value>>>,
}

impl Cluster {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panicked with it")
    }

    pub fn put(&self, plural: &'static str, name: &str, mut object: Value) {
        let mut state = self.lock();
        state.revision += 1;
        object["apiVersion"] = json!(if plural == "services" { "v1" } else { "discovery.k8s.io/v1" });
        object["kind"] = json!(if plural == "services" { "Service" } else { "EndpointSlice" });
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!("default");
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        let old = state.objects.entry(plural).or_default().insert(name.into(), object.clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        state.tell(plural, &json!({"type": kind, "object": object}));
    }

    pub fn delete(&self, plural: &'static str, name: &str) {
        let mut state = self.lock();
        state.revision += 1;
        let revision = state.revision.to_string();
        if let Some(mut object) = state.objects.entry(plural).or_default().remove(name) {
            object["metadata"]["resourceVersion"] = json!(revision);
            state.tell(plural, &json!({"type": "DELETED", "object": object}));
        }
    }

    /// A Service with port 80 (TCP and UDP) to 8080 of its endpoints, and more of a spec.
    pub fn service(&self, name: &str, ip: &str, more: Value) {
        let mut spec = json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": [
            {"name": "tcp", "port": 80, "protocol": "TCP"}, {"name": "udp", "port": 80, "protocol": "UDP"}]});
        for (key, value) in more.as_object().expect("an object") {
            spec[key] = value.clone();
        }
        self.put("services", name, json!({"metadata": {}, "spec": spec}));
    }

    /// Ready endpoints on this node.
    pub fn endpoints(&self, service: &str, addresses: &[&str]) {
        let endpoints: Vec<_> = addresses
            .iter()
            .map(|a| json!({"addresses": [a], "nodeName": "node", "conditions": {"ready": true}}))
            .collect();
        self.put("endpointslices", &format!("{service}-x"), json!({"addressType": "IPv4", "endpoints": endpoints,
            "metadata": {"labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "tcp", "port": 8080, "protocol": "TCP"}, {"name": "udp", "port": 8080, "protocol": "UDP"}]}));
    }

    /// Has to be called inside the runtime that uses it.
    pub fn client(&self) -> kube::Client {
        let cluster = self.clone();
        let service =
            tower::service_fn(move |request: Request<Body>| -> BoxFuture<'static, Result<Reply, BoxError>> {
                let cluster = cluster.clone();
                Box::pin(async move { Ok(cluster.answer(&request.uri().to_string())) })
            });
        client::in_process(service, "tester/1")
    }

    fn answer(&self, uri: &str) -> Reply {
        let plural = if uri.contains("/endpointslices") { "endpointslices" } else { "services" };
        let mut state = self.lock();
        if uri.contains("watch=true") {
            let (events, mut queue) = mpsc::unbounded_channel::<Value>();
            state.watches.entry(plural).or_default().push(events);
            let (mut sender, body) = Channel::<Bytes, BoxError>::new(16);
            // What changed between the list and this watch is told by the next list of a real server; here the
            // whole state is told again, which a level-triggered reader cannot tell from news.
            let replay: Vec<_> = state.objects.entry(plural).or_default().values().cloned().collect();
            tokio::spawn(async move {
                for object in replay {
                    let event = json!({"type": "MODIFIED", "object": object});
                    if sender.send_data(Bytes::from(format!("{event}\n"))).await.is_err() {
                        return;
                    }
                }
                while let Some(event) = queue.recv().await {
                    if sender.send_data(Bytes::from(format!("{event}\n"))).await.is_err() {
                        return;
                    }
                }
            });
            return Response::new(body.boxed());
        }
        let items: Vec<_> = state.objects.entry(plural).or_default().values().cloned().collect();
        let list = json!({"metadata": {"resourceVersion": state.revision.to_string()}, "items": items});
        Response::new(Full::new(Bytes::from(list.to_string())).map_err(|e| match e {}).boxed())
    }
}

type Reply = Response<BoxBody<Bytes, BoxError>>;

impl State {
    fn tell(&mut self, plural: &'static str, event: &Value) {
        self.watches.entry(plural).or_default().retain(|w| w.send(event.clone()).is_ok());
    }
}
