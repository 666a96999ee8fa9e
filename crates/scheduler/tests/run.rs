//! The whole scheduler against a small API server in memory: lists and watches, bindings, status patches, events.
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::client::Body;
use scheduler::{Config, Delays};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Objects by collection path and name; every change goes to the watchers of its collection.
#[derive(Default)]
struct Objects {
    revision: u64,
    kept: BTreeMap<(String, String), Value>,
    /// Every change with its revision and collection.
    log: Vec<(u64, String, Value)>,
    events: Vec<Value>,
}

struct Fake {
    objects: Mutex<Objects>,
    changes: broadcast::Sender<(String, Value)>,
    /// How many bindings are refused first.
    refuse: Mutex<u32>,
}

fn body(value: &Value) -> UnsyncBoxBody<Bytes, Infallible> {
    Full::new(Bytes::from(value.to_string())).boxed_unsync()
}

fn status(code: u16, reason: &str) -> Answer {
    let status = if code < 300 { "Success" } else { "Failure" };
    let text = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": status, "code": code, "reason": reason, "message": reason});
    Response::builder().status(code).body(body(&text)).expect("a response")
}

impl Fake {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            objects: Mutex::default(),
            changes: broadcast::channel(1024).0,
            refuse: Mutex::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client(self: &Arc<Self>) -> kube::Client {
        let fake = self.clone();
        client::in_process(
            tower::service_fn(move |request: Request<Body>| {
                let fake = fake.clone();
                async move { fake.answer(request).await }
            }),
            "test",
        )
    }

    /// Creates or replaces an object.
    fn put(&self, collection: &str, mut object: Value) {
        let mut objects = self.lock();
        objects.revision += 1;
        object["metadata"]["resourceVersion"] = objects.revision.to_string().into();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let old = objects.kept.insert((collection.to_owned(), name), object.clone());
        let ty = if old.is_some() { "MODIFIED" } else { "ADDED" };
        self.publish(&mut objects, collection, json!({"type": ty, "object": object}));
    }

    fn delete(&self, collection: &str, name: &str) {
        let mut objects = self.lock();
        objects.revision += 1;
        if let Some(mut object) = objects.kept.remove(&(collection.to_owned(), name.to_owned())) {
            object["metadata"]["resourceVersion"] = objects.revision.to_string().into();
            self.publish(&mut objects, collection, json!({"type": "DELETED", "object": object}));
        }
    }

    fn publish(&self, objects: &mut Objects, collection: &str, change: Value) {
        objects.log.push((objects.revision, collection.to_owned(), change.clone()));
        let _ = self.changes.send((collection.to_owned(), change));
    }

    fn get(&self, collection: &str, name: &str) -> Option<Value> {
        self.lock().kept.get(&(collection.to_owned(), name.to_owned())).cloned()
    }

    async fn answer(&self, request: Request<Body>) -> Result<Answer, tower::BoxError> {
        let (parts, sent) = request.into_parts();
        let sent = sent.collect().await?.to_bytes();
        let sent: Value = serde_json::from_slice(&sent).unwrap_or(Value::Null);
        let path = parts.uri.path();
        let path = path.trim_start_matches("/api/v1/").trim_start_matches("/apis/storage.k8s.io/v1/");
        let words: Vec<&str> = path.split('/').collect();
        Ok(match (&parts.method, words.as_slice()) {
            (&Method::GET, [collection]) => {
                let query = parts.uri.query().unwrap_or("");
                if query.contains("watch=true") {
                    self.watch(collection, query)
                } else {
                    self.list(collection)
                }
            }
            (&Method::POST, ["namespaces", _, "pods", name, "binding"]) => self.bind(name, &sent),
            (&Method::PATCH, ["namespaces", _, "pods", name, "status"]) => self.patch(name, &sent),
            (&Method::PATCH, ["namespaces", _, "persistentvolumeclaims", name]) => {
                let Some(mut claim) = self.get("persistentvolumeclaims", name) else {
                    return Ok(status(404, "NotFound"));
                };
                claim["metadata"]["annotations"] = sent["metadata"]["annotations"].clone();
                self.put("persistentvolumeclaims", claim.clone());
                Response::new(body(&claim))
            }
            (&Method::DELETE, ["namespaces", _, "pods", name]) => {
                self.delete("pods", name);
                status(200, "")
            }
            (&Method::POST, ["namespaces", _, "events"]) => {
                self.lock().events.push(sent.clone());
                Response::new(body(&sent))
            }
            _ => status(404, "NotFound"),
        })
    }

    fn list(&self, collection: &str) -> Answer {
        let objects = self.lock();
        let items: Vec<&Value> =
            objects.kept.iter().filter(|((c, _), _)| c == collection).map(|(_, o)| o).collect();
        let revision = objects.revision.to_string();
        Response::new(body(&json!({"metadata": {"resourceVersion": revision}, "items": items})))
    }

    fn watch(&self, collection: &str, query: &str) -> Answer {
        let since = query.split('&').find_map(|q| q.strip_prefix("resourceVersion="));
        let since: u64 = since.and_then(|r| r.parse().ok()).unwrap_or(0);
        let collection = collection.to_owned();
        let objects = self.lock();
        let changes = self.changes.subscribe();
        let missed = objects.log.iter().filter(|(at, of, _)| *at > since && *of == collection);
        let missed: Vec<_> = missed.map(|(_, _, c)| Ok(Frame::data(Bytes::from(format!("{c}\n"))))).collect();
        drop(objects);
        let lines = futures::stream::unfold(changes, |mut changes| async move {
            changes.recv().await.ok().map(|change| (change, changes))
        })
        .filter_map(move |(of, change)| {
            let line = (of == collection).then(|| Bytes::from(format!("{change}\n")));
            async move { line.map(|l| Ok::<_, Infallible>(Frame::data(l))) }
        });
        Response::new(StreamBody::new(futures::stream::iter(missed).chain(lines)).boxed_unsync())
    }

    fn bind(&self, name: &str, binding: &Value) -> Answer {
        let mut refuse = self.refuse.lock().unwrap_or_else(PoisonError::into_inner);
        if *refuse > 0 {
            *refuse -= 1;
            return status(500, "InternalError");
        }
        let Some(mut pod) = self.get("pods", name) else { return status(404, "NotFound") };
        if pod["metadata"]["uid"] != binding["metadata"]["uid"] {
            return status(409, "Conflict");
        }
        pod["spec"]["nodeName"] = binding["target"]["name"].clone();
        self.put("pods", pod);
        status(201, "")
    }

    fn patch(&self, name: &str, patch: &Value) -> Answer {
        let Some(mut pod) = self.get("pods", name) else { return status(404, "NotFound") };
        for (field, value) in patch["status"].as_object().into_iter().flatten() {
            pod["status"][field] = value.clone();
        }
        self.put("pods", pod.clone());
        Response::new(body(&pod))
    }

    /// Waits until something holds.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut changes = self.changes.subscribe();
        let wait = async {
            while !holds(self) {
                // Events are no objects here, so a look from time to time helps out.
                let _ = tokio::time::timeout(Duration::from_millis(20), changes.recv()).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    fn node_of(&self, pod: &str) -> String {
        let pod = self.get("pods", pod).unwrap_or_default();
        pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned()
    }

    fn message_of(&self, pod: &str) -> String {
        let pod = self.get("pods", pod).unwrap_or_default();
        pod["status"]["conditions"][0]["message"].as_str().unwrap_or_default().to_owned()
    }

    fn has_event(&self, reason: &str, message: &str) -> bool {
        let objects = self.lock();
        objects.events.iter().any(|e| {
            e["reason"] == reason && e["message"] == message && e["reportingComponent"] == "default-scheduler"
        })
    }
}

fn node(name: &str, cpu: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name}, "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}})
}

fn pod(name: &str, cpu: &str, more: &Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
        "status": {"phase": "Pending"},
    });
    let spec = pod["spec"].as_object_mut().expect("an object");
    spec.extend(more.as_object().cloned().unwrap_or_default());
    pod
}

struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), scheduler::Error>>,
}

fn start(fake: &Arc<Fake>) -> Running {
    let stop = CancellationToken::new();
    let delays = Delays { first: Duration::from_millis(50), most: Duration::from_millis(200) };
    let config = Config { delays, ..Config::default() };
    let task = tokio::spawn(scheduler::run(config, fake.client(), stop.clone()));
    Running { stop, task }
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(5), self.task).await;
        ended.expect("it stops").expect("it does not panic").expect("it does not fail");
    }
}

#[tokio::test]
async fn binds_pods_and_says_so() {
    let fake = Fake::new();
    fake.put("nodes", node("a", "4"));
    fake.put("pods", pod("before", "1", &json!({})));
    let running = start(&fake);
    fake.until("a pod from before is bound", |f| f.node_of("before") == "a").await;
    fake.put("pods", pod("after", "1", &json!({})));
    fake.put("pods", pod("foreign", "1", &json!({"schedulerName": "other"})));
    fake.until("a new pod is bound", |f| f.node_of("after") == "a").await;
    fake.until("the event is there", |f| {
        f.has_event("Scheduled", "Successfully assigned default/after to a")
    })
    .await;
    assert_eq!(fake.node_of("foreign"), "");
    running.stop().await;
}

#[tokio::test]
async fn tells_why_and_comes_back_when_there_is_room() {
    let fake = Fake::new();
    fake.put("nodes", node("a", "2"));
    fake.put("pods", pod("first", "2", &json!({})));
    let running = start(&fake);
    fake.until("the first is bound", |f| f.node_of("first") == "a").await;
    fake.put("pods", pod("second", "1", &json!({})));
    let why = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    fake.until("the condition says why", |f| f.message_of("second") == why).await;
    fake.until("the event says why", |f| f.has_event("FailedScheduling", why)).await;
    let condition = fake.get("pods", "second").expect("a pod")["status"]["conditions"][0].clone();
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Unschedulable")));
    fake.delete("pods", "first");
    fake.until("the second takes the room", |f| f.node_of("second") == "a").await;
    fake.put("pods", pod("third", "2", &json!({})));
    fake.until("the third waits", |f| !f.message_of("third").is_empty()).await;
    fake.put("nodes", node("b", "4"));
    fake.until("a new node takes the third", |f| f.node_of("third") == "b").await;
    running.stop().await;
}

#[tokio::test]
async fn gates_and_failed_bindings_only_delay() {
    let fake = Fake::new();
    *fake.refuse.lock().unwrap_or_else(PoisonError::into_inner) = 2;
    fake.put("nodes", node("a", "1"));
    fake.put("pods", pod("gated", "1", &json!({"schedulingGates": [{"name": "x/y"}]})));
    let running = start(&fake);
    fake.put("pods", pod("plain", "500m", &json!({})));
    fake.until("bound at the third try", |f| f.node_of("plain") == "a").await;
    assert_eq!(fake.node_of("gated"), "");
    fake.put("pods", pod("gated", "500m", &json!({})));
    fake.until("the gate is open", |f| f.node_of("gated") == "a").await;
    running.stop().await;
}

#[tokio::test]
async fn claims_are_served_for_the_node_before_the_pod_is_bound() {
    let fake = Fake::new();
    fake.put("nodes", node("a", "1"));
    let volume = json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]});
    fake.put("pods", pod("stateful", "100m", &volume));
    let running = start(&fake);
    let missing = "persistentvolumeclaim \"data\" not found";
    fake.until("the claim is missing", |f| f.message_of("stateful").contains(missing)).await;
    fake.put("storageclasses", json!({"metadata": {"name": "slow"}, "provisioner": "x.y/z", "volumeBindingMode": "WaitForFirstConsumer"}));
    let mut claim =
        json!({"metadata": {"name": "data", "namespace": "default"}, "spec": {"storageClassName": "slow"}});
    fake.put("persistentvolumeclaims", claim.clone());
    let selected = |f: &Fake| {
        let claim = f.get("persistentvolumeclaims", "data").unwrap_or_default();
        claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] == "a"
    };
    fake.until("the node is chosen", selected).await;
    assert_eq!(fake.node_of("stateful"), "");
    claim["spec"]["volumeName"] = "pv".into();
    claim["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
    fake.put("persistentvolumeclaims", claim);
    fake.until("the pod is bound", |f| f.node_of("stateful") == "a").await;
    running.stop().await;
}

#[tokio::test]
async fn important_pods_send_others_away() {
    let fake = Fake::new();
    fake.put("nodes", node("a", "1"));
    fake.put("pods", pod("low", "1", &json!({"priority": 1})));
    let running = start(&fake);
    fake.until("the low one is bound", |f| f.node_of("low") == "a").await;
    fake.put("pods", pod("high", "1", &json!({"priority": 10})));
    fake.until("the low one is gone", |f| f.get("pods", "low").is_none()).await;
    fake.until("the high one has its place", |f| f.node_of("high") == "a").await;
    fake.until("the victim is told", |f| f.has_event("Preempted", "Preempted by pod high on node a")).await;
    running.stop().await;
}
