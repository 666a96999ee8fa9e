//! Empties namespaces that are being deleted, pods first, then lets them go.
//! Watches: Namespace (by key), Pod (its namespace).  Writes: deletion of everything in the namespace,
//! Namespace/status conditions, Namespace/finalize.
//! Invariants: touches nothing but pods while a pod remains; removes only the finalizer `kubernetes`.
use std::collections::BTreeMap;
use std::time::Duration;

use client::{Cache, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client};

use crate::context::Context;
use crate::discovery::{self, Found};
use crate::framework::{Controller, Error, Next, Wakes, chain, code, unless_gone};
use crate::pods::whole_seconds;

const FINALIZER: &str = "kubernetes";
/// How soon to look again at what only waits for somebody else's finalizer.
const FINALIZER_WAIT: Duration = Duration::from_secs(2);

/// See the module.
pub struct NamespaceController {
    client: Client,
    namespaces: Cache<Namespace>,
    pods: Cache<Pod>,
}

impl NamespaceController {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            namespaces: context.informers.cache(),
            pods: context.pods.cache.clone(),
        }
    }

    async fn empty(&self, namespace: &Namespace) -> Result<Remains, Error> {
        let name = namespace.metadata.name.as_deref().unwrap_or("");
        let mut remains = Remains::default();
        let discovered = match discovery::discover(&self.client).await {
            Ok(discovered) => discovered,
            Err(error) => {
                remains.discovery_failures.push(chain(&error));
                discovery::Discovered::default()
            }
        };
        remains
            .discovery_failures
            .extend(discovered.stale.into_iter().map(|gv| format!("{gv}: stale GroupVersion discovery")));
        let mut resources: Vec<Found> =
            discovered.resources.into_iter().filter(|f| f.namespaced && f.can("delete")).collect();
        if let Some(at) =
            resources.iter().position(|f| f.resource.group.is_empty() && f.resource.plural == "pods")
        {
            let pods = resources.remove(at);
            self.delete_all(name, &pods, &mut remains).await;
            if remains.total() > 0 {
                remains.grace = self.pods.list_in(name).iter().map(|p| grace(p)).max().unwrap_or(0);
                return Ok(remains);
            }
        }
        for found in &resources {
            self.delete_all(name, found, &mut remains).await;
        }
        Ok(remains)
    }

    /// Deletes all objects of one resource and counts what is still there.
    async fn delete_all(&self, namespace: &str, found: &Found, remains: &mut Remains) {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::namespaced_with(self.client.clone(), namespace, &found.resource);
        let gr = match &*found.resource.group {
            "" => found.resource.plural.clone() + ".",
            group => format!("{}.{group}", found.resource.plural),
        };
        let mut fail = |error: kube::Error| {
            if !matches!(code(&error), 404 | 405) {
                remains.failures.push(chain(&error));
            }
        };
        let listed = if found.can("list") {
            api.list(&ListParams::default()).await.map_err(&mut fail).ok()
        } else {
            None
        };
        if listed.as_ref().is_some_and(|l| l.items.is_empty()) {
            return;
        }
        let params = DeleteParams::background();
        if found.can("deletecollection") {
            if let Err(error) = delete_collection(&self.client, namespace, found, &params).await {
                fail(error);
            }
        } else {
            for object in listed.iter().flat_map(|l| &l.items) {
                let name = object.metadata.name.as_deref().unwrap_or("");
                if let Err(error) = api.delete(name, &params).await {
                    fail(error);
                }
            }
        }
        if !found.can("list") {
            return;
        }
        match api.list(&ListParams::default()).await {
            Ok(left) if left.items.is_empty() => {}
            Ok(left) => {
                remains.resources.insert(gr, left.items.len());
                for finalizer in left.items.iter().flat_map(|o| o.metadata.finalizers.iter().flatten()) {
                    *remains.finalizers.entry(finalizer.clone()).or_default() += 1;
                }
            }
            Err(error) => fail(error),
        }
    }
}

/// The answer's body does not matter and may be large.
async fn delete_collection(
    client: &Client,
    namespace: &str,
    found: &Found,
    params: &DeleteParams,
) -> Result<(), kube::Error> {
    use kube::Resource as _;
    let url = DynamicObject::url_path(&found.resource, Some(namespace));
    let request = kube::core::Request::new(url)
        .delete_collection(params, &ListParams::default())
        .map_err(kube::Error::BuildRequest)?;
    client.request_text(request).await.map(|_| ())
}

fn grace(pod: &Pod) -> i64 {
    pod.metadata
        .deletion_grace_period_seconds
        .or_else(|| pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds))
        .unwrap_or(0)
}

impl Controller for NamespaceController {
    const NAME: &'static str = "namespace-controller";
    const WORKERS: usize = 10;

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.on(&self.namespaces, |change| match &change.new {
            Some(namespace) if namespace.metadata.deletion_timestamp.is_some() => vec![change.key.clone()],
            _ => Vec::new(),
        });
        let namespaces = self.namespaces.clone();
        wakes.on(&self.pods, move |change| {
            let key = ObjectKey::cluster(change.key.namespace.clone());
            let gone = change.new.is_none();
            let wakes = gone && namespaces.get(&key).is_some_and(|n| n.metadata.deletion_timestamp.is_some());
            if wakes { vec![key] } else { Vec::new() }
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        // Live: what follows destroys.
        let Some(mut namespace) = api.get_opt(&key.name).await.map_err(Error::at("read the namespace"))?
        else {
            return Ok(Next::Rest);
        };
        let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(Next::Rest);
        }
        if namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating") {
            namespace.status.get_or_insert_default().phase = Some("Terminating".into());
            namespace = api
                .replace_status(&key.name, &PostParams::default(), &namespace)
                .await
                .map_err(Error::at("mark the namespace as terminating"))?;
        }
        let remains = self.empty(&namespace).await?;
        let status = namespace.status.clone().unwrap_or_default();
        let next = with_conditions(&status, &remains, Timestamp::now());
        if next != status {
            namespace.status = Some(next);
            let written = api.replace_status(&key.name, &PostParams::default(), &namespace).await;
            match unless_gone(written).map_err(Error::at("write the namespace's conditions"))? {
                Some(written) => namespace = written,
                None => return Ok(Next::Rest),
            }
        }
        if remains.total() > 0 {
            // Pods wake us when they go; the rest has no watch here.
            let wait = Duration::from_secs((remains.grace / 2 + 1).unsigned_abs());
            return Ok(Next::After(if remains.grace > 0 { wait } else { FINALIZER_WAIT }));
        }
        if !remains.failures.is_empty() || !remains.discovery_failures.is_empty() {
            return Err(Error::Unfinished(format!(
                "namespace content not deleted: {}",
                [remains.discovery_failures, remains.failures].concat().join("; ")
            )));
        }
        let spec = namespace.spec.get_or_insert_default();
        spec.finalizers.get_or_insert_default().retain(|f| f != FINALIZER);
        let body = serde_json::to_vec(&namespace).map_err(|e| Error::Unfinished(e.to_string()))?;
        let request = kube::core::Request::new("/api/v1/namespaces")
            .replace_subresource("finalize", &key.name, &PostParams::default(), body)
            .map_err(|e| Error::at("finalize the namespace")(kube::Error::BuildRequest(e)))?;
        let done = self.client.request_text(request).await;
        if unless_gone(done).map_err(Error::at("finalize the namespace"))?.is_some() {
            tracing::info!(namespace = key.name, "namespace emptied");
        }
        Ok(Next::Rest)
    }
}

/// What a pass left.
#[derive(Debug, Default)]
struct Remains {
    discovery_failures: Vec<String>,
    failures: Vec<String>,
    resources: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
    /// Seconds that the slowest pod may take.
    grace: i64,
}

impl Remains {
    fn total(&self) -> usize {
        self.resources.values().sum()
    }
}

fn with_conditions(status: &NamespaceStatus, remains: &Remains, now: Timestamp) -> NamespaceStatus {
    let joined = |map: &BTreeMap<String, usize>, text: fn(&String, &usize) -> String| {
        map.iter().map(|(k, v)| text(k, v)).collect::<Vec<_>>().join(", ")
    };
    let problem = |bad: bool, reason: &'static str, message: String| bad.then_some((reason, message));
    let wanted = [
        (
            "NamespaceDeletionDiscoveryFailure",
            problem(
                !remains.discovery_failures.is_empty(),
                "DiscoveryFailed",
                format!(
                    "Discovery failed for some groups, {} failing: {}",
                    remains.discovery_failures.len(),
                    remains.discovery_failures.join(", ")
                ),
            ),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            problem(
                !remains.failures.is_empty(),
                "ContentDeletionFailed",
                format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    remains.failures.len(),
                    remains.failures.join(", ")
                ),
            ),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            problem(
                !remains.resources.is_empty(),
                "SomeResourcesRemain",
                format!(
                    "Some resources are remaining: {}",
                    joined(&remains.resources, |gr, n| format!("{gr} has {n} resource instances"))
                ),
            ),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            problem(
                !remains.finalizers.is_empty(),
                "SomeFinalizersRemain",
                format!(
                    "Some content in the namespace has finalizers remaining: {}",
                    joined(&remains.finalizers, |f, n| format!("{f} in {n} resource instances"))
                ),
            ),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    let mut next = status.clone();
    let conditions = next.conditions.get_or_insert_default();
    for (ty, problem, (ok_reason, ok_message)) in wanted {
        let value = if problem.is_some() { "True" } else { "False" };
        let (reason, message) = problem.unwrap_or((ok_reason, ok_message.into()));
        let new = NamespaceCondition {
            type_: ty.into(),
            status: value.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(whole_seconds(now)),
        };
        match conditions.iter_mut().find(|c| c.type_ == ty) {
            None => conditions.push(new),
            Some(old) => {
                let since = old.last_transition_time.clone().filter(|_| old.status == value);
                *old = NamespaceCondition {
                    last_transition_time: since.or(new.last_transition_time.clone()),
                    ..new
                };
            }
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get<'a>(status: &'a NamespaceStatus, ty: &str) -> &'a NamespaceCondition {
        status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == ty).unwrap()
    }

    #[test]
    fn conditions_name_what_remains_and_keep_their_time_until_they_flip() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let remains = Remains {
            resources: [("pods.".to_owned(), 2), ("jobs.batch".to_owned(), 1)].into(),
            finalizers: [("x/y".to_owned(), 2)].into(),
            ..Remains::default()
        };
        let first = with_conditions(&NamespaceStatus::default(), &remains, at(100));
        let c = get(&first, "NamespaceContentRemaining");
        assert_eq!((c.status.as_str(), c.reason.as_deref()), ("True", Some("SomeResourcesRemain")));
        assert_eq!(
            c.message.as_deref(),
            Some(
                "Some resources are remaining: jobs.batch has 1 resource instances, pods. has 2 resource instances"
            )
        );
        assert_eq!(
            get(&first, "NamespaceFinalizersRemaining").message.as_deref(),
            Some("Some content in the namespace has finalizers remaining: x/y in 2 resource instances")
        );
        assert_eq!(get(&first, "NamespaceDeletionContentFailure").status, "False");

        assert_eq!(with_conditions(&first, &remains, at(200)), first, "nothing new, nothing to write");
        let done = with_conditions(&first, &Remains::default(), at(300));
        let c = get(&done, "NamespaceContentRemaining");
        assert_eq!(
            (c.status.as_str(), c.message.as_deref()),
            ("False", Some("All content successfully removed"))
        );
        assert_eq!(c.last_transition_time.as_ref().unwrap().0, at(300));
        assert_eq!(
            get(&done, "NamespaceDeletionContentFailure").last_transition_time.as_ref().unwrap().0,
            at(100)
        );
    }
}
