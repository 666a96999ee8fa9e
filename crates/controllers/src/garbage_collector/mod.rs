//! Deletes what has lost its owners, and carries out foreground and orphaning deletion.
//! Watches: the metadata of everything that can be deleted, CRDs' objects included.
//! Writes: deletion of dependents, removal of owner references and of the finalizers `foregroundDeletion`, `orphan`.
//! Invariants: an owner counts as gone only after a live read says so; every deletion names UID and revision.
mod graph;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::{EventType, Informers, ObjectKey, Recorder, Select, WorkQueue};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::discovery::{self, Found};
use crate::framework::{Controller, Error, Next, Wakes, code, unless_gone};
use graph::{FOREGROUND, Graph, Node, ORPHAN, Standing, Verdict, is_same, judge};

type Meta = PartialObjectMeta<DynamicObject>;

/// The key under which the list of resources is brought up to date; no UID looks like it.
const DISCOVER: &str = "discover resources";
/// A CRD is served a moment after its object changed.
const DISCOVER_AGAIN: Duration = Duration::from_secs(2);
/// For what no CRD announces.
const DISCOVER_ANYWAY: Duration = Duration::from_secs(600);

/// See the module.
pub struct GarbageCollector {
    client: Client,
    informers: Informers,
    recorder: Recorder,
    state: Arc<Mutex<State>>,
    queue: Mutex<Option<Arc<WorkQueue<ObjectKey>>>>,
}

#[derive(Default)]
struct State {
    graph: Graph,
    /// All ever watched; positions are what [`Node::resource`] holds.
    resources: Vec<Found>,
    watched: HashMap<String, CancellationToken>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GarbageCollector {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            informers: context.informers.clone(),
            recorder: context.recorder.named("garbage-collector-controller"),
            state: Arc::default(),
            queue: Mutex::new(None),
        }
    }

    fn queue(&self) -> Option<Arc<WorkQueue<ObjectKey>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn api(&self, found: &Found, namespace: &str) -> Api<Meta> {
        if found.namespaced {
            Api::namespaced_with(self.client.clone(), namespace, &found.resource)
        } else {
            Api::all_with(self.client.clone(), &found.resource)
        }
    }

    /// Starts to watch what is new and stops to watch what is gone.
    async fn follow_discovery(&self) -> Result<Next, Error> {
        let discovered = discovery::discover(&self.client).await?;
        let Some(queue) = self.queue() else { return Ok(Next::Rest) };
        let wanted: HashMap<String, Found> = discovered
            .resources
            .into_iter()
            .filter(|f| ["delete", "list", "watch"].iter().all(|v| f.can(v)) && !is_ignored(&f.resource))
            .map(|f| (format!("{}/{}", f.resource.api_version, f.resource.plural), f))
            .collect();
        let mut started = Vec::new();
        {
            let mut state = lock(&self.state);
            state.watched.retain(|name, stop| {
                let keep =
                    wanted.contains_key(name) || discovered.stale.iter().any(|gv| name.starts_with(&**gv));
                if !keep {
                    stop.cancel();
                }
                keep
            });
            for (name, found) in wanted {
                if state.watched.contains_key(&name) {
                    continue;
                }
                let stop = CancellationToken::new();
                state.watched.insert(name, stop.clone());
                let at = state.resources.len();
                state.resources.push(found.clone());
                started.push((at, found, stop));
            }
        }
        for (at, found, stop) in started {
            let cache = self.informers.cache_dynamic::<Meta>(found.resource, Select::default());
            let (state, queue) = (self.state.clone(), queue.clone());
            tokio::spawn(async move {
                let mut changes = cache.changes();
                loop {
                    let change = tokio::select! {
                        change = changes.next() => change,
                        () = stop.cancelled() => break,
                    };
                    let uid = |meta: &Arc<Meta>| meta.metadata.uid.clone().unwrap_or_default();
                    let mut state = lock(&state);
                    let mut wake = Vec::new();
                    let replaced =
                        change.old.as_ref().filter(|old| change.new.as_ref().map(uid) != Some(uid(old)));
                    if let Some(old) = replaced {
                        wake.extend(state.graph.remove(&uid(old)));
                    }
                    if let Some(new) = &change.new {
                        let node = Node::new(at, change.key.clone(), &new.metadata);
                        wake.extend(state.graph.set(&uid(new), node));
                    }
                    drop(state);
                    for uid in wake {
                        queue.add(ObjectKey::cluster(uid));
                    }
                }
                let mut state = lock(&state);
                for object in cache.list() {
                    let wake = state.graph.remove(object.metadata.uid.as_deref().unwrap_or(""));
                    for uid in wake {
                        queue.add(ObjectKey::cluster(uid));
                    }
                }
            });
        }
        Ok(Next::After(DISCOVER_ANYWAY))
    }

    /// How the owner stands, by a live read unless the graph knows it to be there.
    async fn standing(
        &self,
        owner: &OwnerReference,
        dependent: &Node,
        found: &Found,
    ) -> Result<Standing, Error> {
        let resource = {
            let state = lock(&self.state);
            if let Some(node) = state.graph.get(&owner.uid)
                && is_same(node, owner, dependent)
                && !node.deleting
            {
                return Ok(Standing::Solid);
            }
            let of_kind = |f: &&Found| {
                let group = owner.api_version.rsplit_once('/').map_or("", |(g, _)| g);
                f.resource.group == group && f.resource.kind == owner.kind
            };
            let resource = state.resources.iter().rev().find(of_kind).cloned();
            resource.ok_or_else(|| {
                Error::Unfinished(format!("no such kind of owner: {} {}", owner.api_version, owner.kind))
            })?
        };
        if resource.namespaced && !found.namespaced {
            // Can never be found: kept, and told.
            let about = ObjectReference {
                kind: Some(found.resource.kind.clone()),
                api_version: Some(found.resource.api_version.clone()),
                name: Some(dependent.key.name.clone()),
                ..ObjectReference::default()
            };
            let text = format!(
                "ownerRef [{}/{}, namespace: , name: {}, uid: {}] does not exist in namespace {:?}",
                owner.api_version, owner.kind, owner.name, owner.uid, dependent.key.namespace
            );
            self.recorder.event(&about, EventType::Warning, "OwnerRefInvalidNamespace", text);
            return Ok(Standing::Solid);
        }
        let live = self.api(&resource, &dependent.key.namespace).get_metadata_opt(&owner.name).await;
        let live = live.map_err(Error::at("read an owner"))?;
        Ok(match live {
            Some(live) if live.metadata.uid.as_ref() == Some(&owner.uid) => {
                let waits = Node::new(0, ObjectKey::default(), &live.metadata).waits_for_dependents();
                if waits { Standing::Waiting } else { Standing::Solid }
            }
            _ => Standing::Dangling,
        })
    }

    async fn look_at(&self, uid: &str) -> Result<Next, Error> {
        let (node, found, dependents) = {
            let state = lock(&self.state);
            let Some(node) = state.graph.get(uid).cloned() else { return Ok(Next::Rest) };
            let found = state.resources[node.resource].clone();
            (node, found, state.graph.dependents(uid))
        };
        let api = self.api(&found, &node.key.namespace);
        if node.orphans_dependents() {
            self.orphan(uid, &dependents).await?;
            return self.drop_finalizer(&api, uid, &node, ORPHAN).await;
        }
        if node.waits_for_dependents() {
            let blocking = lock(&self.state).graph.blocking(uid);
            if blocking.is_empty() {
                return self.drop_finalizer(&api, uid, &node, FOREGROUND).await;
            }
            if let Some(queue) = self.queue() {
                for dependent in blocking {
                    queue.add(ObjectKey::cluster(dependent));
                }
            }
            // Its own owners, if any, have had their say.
            return Ok(Next::Rest);
        }
        if node.deleting || node.owners.is_empty() {
            return Ok(Next::Rest);
        }
        let live = api.get_metadata_opt(&node.key.name).await.map_err(Error::at("read an object"))?;
        let Some(live) = live.filter(|l| l.metadata.uid.as_deref() == Some(uid)) else {
            return Ok(Next::Rest);
        };
        let now = Node::new(node.resource, node.key.clone(), &live.metadata);
        let mut standings = Vec::new();
        for owner in &now.owners {
            standings.push((owner.uid.clone(), self.standing(owner, &now, &found).await?));
        }
        match judge(&standings, !dependents.is_empty()) {
            Verdict::Keep => Ok(Next::Rest),
            Verdict::Unlink(gone) => {
                self.unlink(&api, &live.metadata, &gone).await?;
                Ok(Next::Rest)
            }
            verdict => {
                if verdict == Verdict::DeleteForeground {
                    self.break_circles(uid, &dependents).await?;
                }
                let policy = match verdict {
                    Verdict::DeleteForeground => PropagationPolicy::Foreground,
                    _ if now.orphan => PropagationPolicy::Orphan,
                    _ if now.foreground => PropagationPolicy::Foreground,
                    _ => PropagationPolicy::Background,
                };
                let params = DeleteParams {
                    propagation_policy: Some(policy),
                    preconditions: Some(Preconditions {
                        uid: Some(uid.to_owned()),
                        resource_version: live.metadata.resource_version.clone(),
                    }),
                    ..DeleteParams::default()
                };
                let deleted = api.delete(&node.key.name, &params).await;
                if unless_gone(deleted).map_err(Error::at("delete a dependent"))?.is_some() {
                    tracing::debug!(kind = found.resource.kind, key = %node.key, "deleted, its owners are gone");
                }
                Ok(Next::Rest)
            }
        }
    }

    /// Lets go of an object whose dependents wait for it while it waits for them.
    async fn break_circles(&self, uid: &str, dependents: &[String]) -> Result<(), Error> {
        let circle = {
            let state = lock(&self.state);
            dependents.iter().any(|d| state.graph.get(d).is_some_and(Node::waits_for_dependents))
        };
        if !circle {
            return Ok(());
        }
        let (node, found) = {
            let state = lock(&self.state);
            let Some(node) = state.graph.get(uid).cloned() else { return Ok(()) };
            let found = state.resources[node.resource].clone();
            (node, found)
        };
        let owners: Vec<OwnerReference> = node
            .owners
            .iter()
            .cloned()
            .map(|owner| OwnerReference { block_owner_deletion: Some(false), ..owner })
            .collect();
        let patch = json!({"metadata": {"uid": uid, "ownerReferences": owners}});
        let api = self.api(&found, &node.key.namespace);
        let patched = api.patch(&node.key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        unless_gone(patched).map_err(Error::at("unblock an owner"))?;
        Ok(())
    }

    /// Takes references to these owners away, from what was read live.
    async fn unlink(&self, api: &Api<Meta>, live: &ObjectMeta, gone: &[String]) -> Result<(), Error> {
        let mut owners = live.owner_references.clone().unwrap_or_default();
        owners.retain(|o| !gone.contains(&o.uid));
        let patch = json!({"metadata": {
            "uid": live.uid,
            "resourceVersion": live.resource_version,
            "ownerReferences": some(owners),
        }});
        let name = live.name.as_deref().unwrap_or("");
        let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        unless_gone(patched).map_err(Error::at("remove owner references"))?;
        Ok(())
    }

    async fn orphan(&self, uid: &str, dependents: &[String]) -> Result<(), Error> {
        for dependent in dependents {
            let (node, found) = {
                let state = lock(&self.state);
                let Some(node) = state.graph.get(dependent).cloned() else { continue };
                let found = state.resources[node.resource].clone();
                (node, found)
            };
            let api = self.api(&found, &node.key.namespace);
            let live = api.get_metadata_opt(&node.key.name).await.map_err(Error::at("read a dependent"))?;
            let Some(live) = live.filter(|l| l.metadata.uid.as_ref() == Some(dependent)) else { continue };
            self.unlink(&api, &live.metadata, &[uid.to_owned()]).await?;
        }
        Ok(())
    }

    async fn drop_finalizer(
        &self,
        api: &Api<Meta>,
        uid: &str,
        node: &Node,
        finalizer: &str,
    ) -> Result<Next, Error> {
        let live = api.get_metadata_opt(&node.key.name).await.map_err(Error::at("read an object"))?;
        let Some(live) = live.filter(|l| l.metadata.uid.as_deref() == Some(uid)) else {
            return Ok(Next::Rest);
        };
        let mut finalizers = live.metadata.finalizers.unwrap_or_default();
        if !finalizers.iter().any(|f| f == finalizer) {
            return Ok(Next::Rest);
        }
        finalizers.retain(|f| f != finalizer);
        let patch = json!({"metadata": {
            "resourceVersion": live.metadata.resource_version,
            "finalizers": some(finalizers),
        }});
        let patched = api.patch(&node.key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        match patched {
            Ok(_) => Ok(Next::Rest),
            Err(error) if code(&error) == 404 => Ok(Next::Rest),
            Err(error) => Err(Error::at("remove a finalizer")(error)),
        }
    }
}

/// An empty list is written as none at all.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|l| !l.is_empty())
}

/// Events come and go by themselves and own nothing.
fn is_ignored(resource: &ApiResource) -> bool {
    resource.plural == "events" && matches!(&*resource.group, "" | "events.k8s.io")
}

impl Controller for GarbageCollector {
    const NAME: &'static str = "garbage-collector-controller";
    const WORKERS: usize = 20;

    fn wake_on(&self, wakes: &mut Wakes) {
        let queue = wakes.queue();
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = Some(queue.clone());
        queue.add(ObjectKey::cluster(DISCOVER));
        let definitions = self.informers.cache::<PartialObjectMeta<CustomResourceDefinition>>();
        let mut changes = definitions.changes();
        wakes.beside(async move {
            loop {
                changes.next().await;
                queue.add_after(ObjectKey::cluster(DISCOVER), DISCOVER_AGAIN);
            }
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        if key.name == DISCOVER { self.follow_discovery().await } else { self.look_at(&key.name).await }
    }
}
