//! What is wanted of this node: pods that the API binds to it, and static pods from manifests; one worker for each.

pub mod mirror;
mod static_pods;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use client::{Change, ObjectKey, Select};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::actual::Relisted;
use crate::pod::PodExt;
use crate::reconcilers::cleanup;
use crate::reconcilers::status::Verdict;
use crate::shared::Shared;
use crate::worker::{self, Handle, Order, View};

/// How often orphaned directories, cgroups and logs are looked for.
const SWEEP: std::time::Duration = std::time::Duration::from_secs(120);

/// The pods of this node, as the server and the node's part see them.
#[derive(Clone, Default)]
pub struct Directory(Arc<Mutex<HashMap<String, Handle>>>);

impl Directory {
    /// All pods.
    pub fn views(&self) -> Vec<View> {
        let handles: Vec<Handle> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        handles.iter().map(Handle::view).filter(|view| view.pod.is_some()).collect()
    }

    /// The pod of that namespace and name; the one that is not being deleted, where there are two.
    pub fn find(&self, namespace: &str, name: &str) -> Option<View> {
        let mut found: Vec<View> = self.views();
        found.retain(|view| {
            view.pod.as_ref().is_some_and(|pod| pod.namespace() == namespace && pod.name() == name)
        });
        found.sort_by_key(|view| {
            view.pod.as_ref().is_some_and(|pod| pod.metadata.deletion_timestamp.is_some())
        });
        found.into_iter().next()
    }

    /// Ends a pod by the kubelet's own decision.
    pub fn evict(&self, uid: &str, verdict: Verdict) {
        if let Some(handle) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid) {
            handle.tell(|order| order.verdict = Some(verdict));
        }
    }

    /// Whether there is any pod.
    pub fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// Gives each pod its worker and passes on what changes.
pub struct Pods {
    shared: Arc<Shared>,
    directory: Directory,
    workers: JoinSet<String>,
    stop: CancellationToken,
    /// Pods of the API by key, mirrors apart.
    uids: HashMap<ObjectKey, String>,
    mirrors: HashMap<ObjectKey, Arc<Pod>>,
    statics: HashMap<String, Arc<Pod>>,
    /// Static pods that wait until the one of that name before them is gone.
    waiting: HashMap<ObjectKey, Arc<Pod>>,
    /// Static pods' UIDs by key.
    static_uids: HashMap<ObjectKey, String>,
    /// Every pod UID in the runtime, once it was asked.
    in_runtime: Option<Vec<String>>,
    api_ready: bool,
    files_ready: bool,
}

/// Runs until stopped.
pub async fn run(
    shared: Arc<Shared>,
    directory: Directory,
    mut relisted: mpsc::UnboundedReceiver<Relisted>,
    stop: CancellationToken,
) {
    let mut pods = Pods {
        files_ready: shared.config.static_pod_path.is_none(),
        shared: shared.clone(),
        directory,
        workers: JoinSet::new(),
        stop: stop.clone(),
        uids: HashMap::new(),
        mirrors: HashMap::new(),
        statics: HashMap::new(),
        waiting: HashMap::new(),
        static_uids: HashMap::new(),
        in_runtime: None,
        api_ready: false,
    };
    let cache = shared
        .informers
        .cache_with::<Pod>(Select::fields(format!("spec.nodeName={}", shared.config.node_name)));
    let mut changes = cache.changes();
    let (static_sender, mut static_pods) = mpsc::channel(4);
    if let Some(path) = shared.config.static_pod_path.clone() {
        let (node, stop) = (shared.config.node_name.clone(), stop.clone());
        pods.workers.spawn(async move {
            static_pods::follow(path, node, static_sender, stop).await;
            String::new()
        });
    }
    let mut sweep = tokio::time::interval_at(tokio::time::Instant::now() + SWEEP, SWEEP);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            change = changes.next() => pods.api_change(change),
            () = cache.synced(), if !pods.api_ready => {
                while let Some(change) = changes.try_next() {
                    pods.api_change(change);
                }
                pods.api_ready = true;
                pods.settle_orphans();
            }
            Some(set) = static_pods.recv() => {
                pods.static_set(set);
                pods.files_ready = true;
                pods.settle_orphans();
            }
            Some(found) = relisted.recv() => pods.relisted(found),
            Some(done) = pods.workers.join_next() => if let Ok(uid) = done {
                pods.worker_over(&uid);
            },
            _ = sweep.tick() => pods.sweep(),
        }
    }
    // Workers leave their containers alone when the kubelet stops.
    while pods.workers.join_next().await.is_some() {}
}

impl Pods {
    fn tell(&self, uid: &str, change: impl FnOnce(&mut Order)) -> bool {
        let handle = self.directory.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned();
        match handle {
            Some(handle) => {
                handle.tell(change);
                true
            }
            None => false,
        }
    }

    fn spawn(&mut self, uid: &str, order: Order) {
        let (handle, work) = worker::spawn(self.shared.clone(), uid.to_owned(), order, self.stop.clone());
        self.directory.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), handle);
        self.workers.spawn(work);
    }

    fn api_change(&mut self, change: Change<Pod>) {
        let Some(object) = change.object() else { return };
        if object.is_mirror() {
            let key = change.key.clone();
            match change.new {
                Some(pod) => drop(self.mirrors.insert(key.clone(), pod)),
                None => drop(self.mirrors.remove(&key)),
            }
            self.mirror_changed(&key);
            return;
        }
        let old_uid = self.uids.get(&change.key).cloned();
        let new_uid = change.new.as_ref().map(|pod| pod.uid().to_owned());
        if let Some(old) = old_uid.filter(|old| Some(old) != new_uid.as_ref()) {
            self.tell(&old, |order| order.removed = true);
            self.uids.remove(&change.key);
        }
        let (Some(pod), Some(uid)) = (change.new, new_uid) else { return };
        self.uids.insert(change.key, uid.clone());
        let known = self.tell(&uid, |order| order.pod = Some(pod.clone()));
        if !known {
            self.spawn(&uid, Order { pod: Some(pod), ..Order::default() });
        }
    }

    fn mirror_changed(&mut self, key: &ObjectKey) {
        let mirror = self.mirrors.get(key).cloned();
        match self.static_uids.get(key).cloned() {
            Some(uid) => drop(self.tell(&uid, |order| order.mirror = mirror)),
            // The picture of a static pod that is no more.
            None if self.files_ready => {
                if let Some(mirror) = mirror {
                    let shared = self.shared.clone();
                    self.workers.spawn(async move {
                        mirror::delete(&shared, &mirror).await;
                        String::new()
                    });
                }
            }
            None => {}
        }
    }

    fn static_set(&mut self, set: HashMap<String, Arc<Pod>>) {
        let gone: Vec<Arc<Pod>> =
            self.statics.values().filter(|pod| !set.contains_key(pod.uid())).cloned().collect();
        for pod in gone {
            self.tell(pod.uid(), |order| order.removed = true);
            self.waiting.remove(&ObjectKey::of(pod.as_ref()));
        }
        for (uid, pod) in &set {
            let key = ObjectKey::of(pod.as_ref());
            match self.static_uids.get(&key) {
                Some(current) if current == uid => {}
                // One of the same name still runs, from an older manifest: its end comes first.
                Some(_) => drop(self.waiting.insert(key, pod.clone())),
                None => self.start_static(key, pod.clone()),
            }
        }
        self.statics = set;
        let orphaned: Vec<ObjectKey> =
            self.mirrors.keys().filter(|key| !self.static_uids.contains_key(*key)).cloned().collect();
        for key in orphaned {
            self.mirror_changed(&key);
        }
    }

    fn start_static(&mut self, key: ObjectKey, pod: Arc<Pod>) {
        tracing::info!(pod = %pod.printed(), "static pod");
        let uid = pod.uid().to_owned();
        let mirror = self.mirrors.get(&key).cloned();
        self.static_uids.insert(key, uid.clone());
        self.spawn(&uid, Order { pod: Some(pod), mirror, ..Order::default() });
    }

    fn worker_over(&mut self, uid: &str) {
        self.directory.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        let Some(key) = self.static_uids.iter().find(|(_, known)| *known == uid).map(|(key, _)| key.clone())
        else {
            return;
        };
        self.static_uids.remove(&key);
        match self.waiting.remove(&key) {
            Some(next) => self.start_static(key, next),
            None => self.mirror_changed(&key),
        }
    }

    fn relisted(&mut self, found: Relisted) {
        for uid in &found.changed {
            self.tell(uid, |order| order.stale = true);
        }
        self.in_runtime = Some(found.all);
        self.settle_orphans();
    }

    /// Ends what runs for pods that no source knows, once every source has spoken.
    fn settle_orphans(&mut self) {
        if !(self.api_ready && self.files_ready) {
            return;
        }
        let Some(all) = self.in_runtime.clone() else { return };
        for uid in all {
            let known = self.directory.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&uid);
            if !known {
                self.spawn(&uid, Order::default());
            }
        }
    }

    fn sweep(&self) {
        let Some(in_runtime) = self.in_runtime.as_ref().filter(|_| self.api_ready && self.files_ready) else {
            return;
        };
        let mut known: BTreeSet<String> =
            self.directory.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        known.extend(in_runtime.iter().cloned());
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || cleanup::remove_orphans(&shared, &known));
    }
}
