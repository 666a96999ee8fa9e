//! Counts again what each ResourceQuota counts, and says so in its status.
//! Watches: ResourceQuota (by key), and by namespace what goes away of all that quotas name: Pods, Services, claims, and
//! the metadata of everything else.  Writes: ResourceQuota/status.
//! Invariants: what is charged before an object comes to be is given back only once the quota has been left alone for a
//! moment, since the object may be on its way here.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use client::{Cache, Change, Informers, ObjectKey, Select, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::PostParams;
use kube::core::PartialObjectMeta;
use kube::{Api, Client, Resource};
use machinery::Object;
use quota::{Amounts, Counted, Scope};
use serde::Serialize;

use crate::context::Context;
use crate::discovery;
use crate::framework::{Controller, Error, Next, Wakes, unless_gone};
use crate::pods;

/// How often a quota is counted although nobody said that anything changed.
const RESYNC: Duration = Duration::from_secs(300);
/// An object is stored and heard of this soon after it was charged.
const SETTLED: Duration = Duration::from_secs(1);
/// A resource whose objects are not known by then is counted later.
const PATIENCE: Duration = Duration::from_secs(10);
/// A CRD is served a moment after its object changed.
const DISCOVER_AGAIN: Duration = Duration::from_secs(2);

type Limits = BTreeMap<String, Quantity>;
type Meta = PartialObjectMeta<kube::api::DynamicObject>;

/// See the module.
pub struct ResourceQuotaController {
    client: Client,
    informers: Informers,
    quotas: Cache<ResourceQuota>,
    pods: Cache<Pod>,
    services: Cache<Service>,
    volume_claims: Cache<PersistentVolumeClaim>,
    /// When each quota last changed, by whoever.
    touched: Arc<Mutex<HashMap<ObjectKey, Instant>>>,
    /// The limits that a quota's status was last given here, and when.
    told: Mutex<HashMap<ObjectKey, (Limits, Instant)>>,
    others: Mutex<Others>,
    queue: Mutex<Option<Arc<WorkQueue<ObjectKey>>>>,
}

/// What is watched because some quota names it.
#[derive(Default)]
struct Others {
    metadata: BTreeMap<(String, String), Cache<Meta>>,
    device_claims: Option<Cache<ResourceClaim>>,
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those of a resource's names that are not its own: group and plural by the name of a quota.
fn other_resource(name: &str) -> Option<(String, String)> {
    if ["configmaps", "secrets", "resourcequotas", "replicationcontrollers"].contains(&name) {
        return Some((String::new(), name.to_owned()));
    }
    let name = name.strip_prefix("count/")?;
    let (plural, group) = name.split_once('.').unwrap_or((name, ""));
    let typed = group.is_empty() && ["pods", "services", "persistentvolumeclaims"].contains(&plural);
    let counted = Counted { group, resource: plural };
    (!typed && !counted.is_ignored()).then(|| (group.to_owned(), plural.to_owned()))
}

fn is_of_devices(name: &str) -> bool {
    Counted { group: "resource.k8s.io", resource: "resourceclaims" }.is_named(name)
}

fn trees<K: Serialize>(objects: Vec<Arc<K>>) -> Vec<Object> {
    objects.iter().filter_map(|object| Object::from_typed(&**object).ok()).collect()
}

impl ResourceQuotaController {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            informers: context.informers.clone(),
            quotas: context.informers.cache(),
            pods: context.pods.cache.clone(),
            services: context.informers.cache(),
            volume_claims: context.informers.cache(),
            touched: Arc::default(),
            told: Mutex::default(),
            others: Mutex::default(),
            queue: Mutex::default(),
        }
    }

    /// Wakes the quotas of a namespace when something of a resource goes away there.
    fn follow<K>(&self, cache: &Cache<K>, group: &str, resource: &str)
    where
        K: Resource + std::fmt::Debug + Send + Sync + 'static,
    {
        let Some(queue) = lock(&self.queue).clone() else { return };
        let (quotas, mut changes) = (self.quotas.clone(), cache.changes());
        let (group, resource) = (group.to_owned(), resource.to_owned());
        tokio::spawn(async move {
            loop {
                let change = changes.next().await;
                if change.new.is_none() {
                    let counted = Counted { group: &group, resource: &resource };
                    for key in counting(&quotas, &change.key.namespace, counted) {
                        queue.add(key);
                    }
                }
            }
        });
    }

    /// The objects in a namespace of what a quota names beyond pods, services and claims of volumes. What the server does
    /// not have is left out.
    async fn others(&self, namespace: &str, names: &BTreeSet<String>) -> Result<Vec<Listed>, Error> {
        let mut listed = Vec::new();
        let mut wanted: BTreeSet<(String, String)> = names.iter().filter_map(|n| other_resource(n)).collect();
        if names.iter().any(|n| is_of_devices(n)) {
            wanted.remove(&("resource.k8s.io".to_owned(), "resourceclaims".to_owned()));
            let (cache, is_new) = {
                let mut others = lock(&self.others);
                let is_new = others.device_claims.is_none();
                (others.device_claims.get_or_insert_with(|| self.informers.cache()).clone(), is_new)
            };
            if is_new {
                self.follow(&cache, "resource.k8s.io", "resourceclaims");
            }
            synced(&cache).await?;
            let objects = trees(cache.list_in(namespace));
            listed.push(Listed { group: "resource.k8s.io".into(), plural: "resourceclaims".into(), objects });
        }
        let unknown = |others: &Others| wanted.iter().any(|key| !others.metadata.contains_key(key));
        if unknown(&lock(&self.others)) {
            let discovered = discovery::discover(&self.client).await?;
            for found in discovered.resources {
                let key = (found.resource.group.clone(), found.resource.plural.clone());
                let watchable = found.namespaced && ["list", "watch"].iter().all(|verb| found.can(verb));
                if !watchable || !wanted.contains(&key) || lock(&self.others).metadata.contains_key(&key) {
                    continue;
                }
                let cache = self.informers.cache_dynamic::<Meta>(found.resource, Select::default());
                self.follow(&cache, &key.0, &key.1);
                lock(&self.others).metadata.insert(key, cache);
            }
        }
        for (group, plural) in wanted {
            let cache = lock(&self.others).metadata.get(&(group.clone(), plural.clone())).cloned();
            let Some(cache) = cache else { continue };
            synced(&cache).await?;
            let objects = vec![Object::default(); cache.list_in(namespace).len()];
            listed.push(Listed { group, plural, objects });
        }
        Ok(listed)
    }

    async fn seen(&self, quota: &ResourceQuota) -> Result<Seen, Error> {
        let namespace = quota.metadata.namespace.as_deref().unwrap_or("");
        let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        let names: BTreeSet<String> = hard.keys().cloned().collect();
        let mut listed = self.others(namespace, &names).await?;
        let mut typed = |plural: &str, objects: &dyn Fn() -> Vec<Object>| {
            if !(Counted { group: "", resource: plural }).names(&names).is_empty() {
                listed.push(Listed { group: String::new(), plural: plural.to_owned(), objects: objects() });
            }
        };
        typed("pods", &|| trees(self.pods.list_in(namespace)));
        typed("services", &|| trees(self.services.list_in(namespace)));
        typed("persistentvolumeclaims", &|| trees(self.volume_claims.list_in(namespace)));
        let quota = Object::from_typed(quota).map_err(|e| Error::Unfinished(e.to_string()))?;
        Ok(Seen { quota, listed })
    }
}

/// The quotas of a namespace that count a resource.
fn counting(quotas: &Cache<ResourceQuota>, namespace: &str, counted: Counted<'_>) -> Vec<ObjectKey> {
    let names = |quota: &ResourceQuota| {
        let hard = quota.spec.as_ref().and_then(|s| s.hard.as_ref());
        hard.is_some_and(|hard| !counted.names(hard.keys()).is_empty())
    };
    let all = quotas.list_in(namespace).into_iter();
    all.filter(|quota| names(quota)).map(|quota| ObjectKey::of(&*quota)).collect()
}

async fn synced<K: Resource + Send + Sync + 'static>(cache: &Cache<K>) -> Result<(), Error> {
    let late = |_| Error::Unfinished("what the quota counts is not known yet".into());
    tokio::time::timeout(PATIENCE, cache.synced()).await.map_err(late)
}

/// What there is of one resource in a namespace.
struct Listed {
    group: String,
    plural: String,
    objects: Vec<Object>,
}

/// All that a decision depends on.
struct Seen {
    quota: Object,
    listed: Vec<Listed>,
}

/// What a quota's status should say.
#[derive(Debug, PartialEq)]
struct Plan {
    used: Amounts,
    /// `None`: the status is as it should be.
    write: bool,
    /// Something is given back.
    lowers: bool,
}

fn plan(seen: &Seen, now: Timestamp) -> Plan {
    let of = |path: &[&str]| quota::amounts(seen.quota.at(path));
    let (hard, shown, before) = (of(&["spec", "hard"]), of(&["status", "hard"]), of(&["status", "used"]));
    let scopes = Scope::of(&seen.quota);
    let mut counted = Amounts::new();
    for Listed { group, plural, objects } in &seen.listed {
        let resource = Counted { group, resource: plural };
        let names = resource.names(hard.keys());
        for name in &names {
            counted.entry((*name).to_owned()).or_insert(machinery::Quantity::ZERO);
        }
        for object in objects.iter().filter(|object| resource.is_in_all(&scopes, object)) {
            let mut taken = quota::usage(resource, object, now);
            taken.retain(|name, _| names.contains(name.as_str()));
            quota::add(&mut counted, &taken);
        }
    }
    // What nobody here can count stays as it was.
    let mut used: Amounts = before.clone();
    used.extend(counted);
    used.retain(|name, _| hard.contains_key(name));
    let written =
        seen.quota.at(&["status", "hard"]).is_some() && seen.quota.at(&["status", "used"]).is_some();
    Plan {
        write: !written || hard != shown || used != before,
        lowers: used.iter().any(|(name, now)| before.get(name).is_some_and(|before| now < before)),
        used,
    }
}

/// Whether a change of a pod gives something back.
fn frees(change: &Change<Pod>) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return change.new.is_none() };
    let deadline = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.active_deadline_seconds).is_some();
    let is_over = |pod: &Pod| pods::is_terminal(pod);
    (is_over(new) && !is_over(old))
        || pods::is_terminating(new) != pods::is_terminating(old)
        || deadline(old) != deadline(new)
}

impl Controller for ResourceQuotaController {
    const NAME: &'static str = "resourcequota-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        let queue = wakes.queue();
        *lock(&self.queue) = Some(queue.clone());
        let touched = self.touched.clone();
        wakes.on(&self.quotas, move |change| {
            let mut touched = lock(&touched);
            let Some(new) = &change.new else {
                touched.remove(&change.key);
                return Vec::new();
            };
            touched.insert(change.key.clone(), Instant::now());
            // What admission charges is no news; what is asked for is.
            let same = change.old.as_ref().is_some_and(|old| old.spec == new.spec);
            if same { Vec::new() } else { vec![change.key.clone()] }
        });
        let by = |group: &'static str, resource: &'static str, quotas: Cache<ResourceQuota>| {
            move |namespace: &str| counting(&quotas, namespace, Counted { group, resource })
        };
        let wake = by("", "pods", self.quotas.clone());
        wakes.on(
            &self.pods,
            move |change| {
                if frees(change) { wake(&change.key.namespace) } else { Vec::new() }
            },
        );
        let wake = by("", "services", self.quotas.clone());
        wakes.on(&self.services, move |change| {
            let ports = |service: &Service| service.spec.as_ref().map(|s| (s.type_.clone(), s.ports.clone()));
            let same = change.old.is_none()
                || change
                    .new
                    .as_ref()
                    .is_some_and(|new| change.old.as_ref().is_some_and(|old| ports(old) == ports(new)));
            if same { Vec::new() } else { wake(&change.key.namespace) }
        });
        let wake = by("", "persistentvolumeclaims", self.quotas.clone());
        wakes.on(&self.volume_claims, move |change| {
            let same = change.old.is_none()
                || change.new.as_ref().is_some_and(|new| {
                    change.old.as_ref().is_some_and(|old| old.spec == new.spec && old.status == new.status)
                });
            if same { Vec::new() } else { wake(&change.key.namespace) }
        });
        let definitions = self.informers.cache::<PartialObjectMeta<CustomResourceDefinition>>();
        let (quotas, mut changes) = (self.quotas.clone(), definitions.changes());
        wakes.beside(async move {
            loop {
                changes.next().await;
                let named = |quota: &ResourceQuota| {
                    let hard = quota.spec.as_ref().and_then(|s| s.hard.as_ref());
                    hard.is_some_and(|hard| hard.keys().any(|name| name.starts_with("count/")))
                };
                for quota in quotas.list().into_iter().filter(|quota| named(quota)) {
                    queue.add_after(ObjectKey::of(&*quota), DISCOVER_AGAIN);
                }
            }
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(quota) = self.quotas.get(&key) else {
            lock(&self.told).remove(&key);
            return Ok(Next::Rest);
        };
        let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        let shown = quota.status.as_ref().and_then(|s| s.hard.clone());
        if let Some((told, at)) = lock(&self.told).get(&key)
            && *told == hard
            && shown.is_some_and(|shown| shown != hard)
            && at.elapsed() < RESYNC
        {
            // Somebody wrote the status by hand since: as upstream, that stands for a while.
            return Ok(Next::After(RESYNC.saturating_sub(at.elapsed())));
        }
        let seen = self.seen(&quota).await?;
        let plan = plan(&seen, Timestamp::now());
        if !plan.write {
            return Ok(Next::After(RESYNC));
        }
        if plan.lowers {
            let quiet = lock(&self.touched).get(&key).map_or(SETTLED, Instant::elapsed);
            if quiet < SETTLED {
                return Ok(Next::After(SETTLED - quiet));
            }
        }
        tracing::debug!(used = plan.used.len(), lowers = plan.lowers, "the quota's use is told");
        let used = plan.used.iter().map(|(name, amount)| (name.clone(), Quantity(amount.to_string())));
        let mut next = (*quota).clone();
        next.status = Some(ResourceQuotaStatus { hard: Some(hard.clone()), used: Some(used.collect()) });
        let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), &key.namespace);
        let written = api.replace_status(&key.name, &PostParams::default(), &next).await;
        unless_gone(written).map_err(Error::at("write the status"))?;
        lock(&self.told).insert(key, (hard, Instant::now()));
        // What was made while the quota was not yet there to be charged is seen by then.
        Ok(Next::After(SETTLED * 2))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn check(spec: Value, status: Value, listed: Vec<(&str, &str, Vec<Value>)>, want: (Value, bool, bool)) {
        let quota =
            object(json!({"metadata": {"name": "q", "namespace": "a"}, "spec": spec, "status": status}));
        let listed = listed.into_iter().map(|(group, plural, objects)| Listed {
            group: group.into(),
            plural: plural.into(),
            objects: objects.into_iter().map(object).collect(),
        });
        let plan = plan(&Seen { quota, listed: listed.collect() }, "2026-01-01T00:00:00Z".parse().unwrap());
        let used: BTreeMap<String, String> =
            plan.used.iter().map(|(k, v)| (k.clone(), v.to_string())).collect();
        assert_eq!((json!(used), plan.write, plan.lowers), want, "{spec} {status}");
    }

    #[test]
    fn what_is_there_is_counted() {
        let pod = |cpu: &str, phase: &str| json!({"spec": {"containers": [{"resources": {"requests": {"cpu": cpu}}}]}, "status": {"phase": phase}});
        let running = || vec![pod("500m", "Running"), pod("1", "Pending"), pod("1", "Succeeded")];
        let hard = json!({"pods": "5", "requests.cpu": "4", "count/pods": "9"});
        let used = json!({"pods": "2", "requests.cpu": "1500m", "count/pods": "3"});
        check(json!({"hard": hard}), json!(null), vec![("", "pods", running())], (used.clone(), true, false));
        check(
            json!({"hard": hard}),
            json!({"hard": hard, "used": used}),
            vec![("", "pods", running())],
            (used.clone(), false, false),
        );
        let same = json!({"pods": "2", "requests.cpu": "1.5", "count/pods": "3"});
        check(
            json!({"hard": hard}),
            json!({"hard": hard, "used": same}),
            vec![("", "pods", running())],
            (used.clone(), false, false),
        );
        let more = json!({"pods": "3", "requests.cpu": "2", "count/pods": "3"});
        check(
            json!({"hard": hard}),
            json!({"hard": hard, "used": more}),
            vec![("", "pods", running())],
            (used.clone(), true, true),
        );
        // Less is asked for than before.
        check(
            json!({"hard": {"pods": "5"}}),
            json!({"hard": hard, "used": used}),
            vec![("", "pods", running())],
            (json!({"pods": "2"}), true, false),
        );
    }

    #[test]
    fn scopes_and_kinds() {
        let best_effort = json!({"spec": {"containers": [{}]}});
        let other = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
        check(
            json!({"hard": {"pods": "5"}, "scopes": ["BestEffort"]}),
            json!(null),
            vec![("", "pods", vec![best_effort, other])],
            (json!({"pods": "1"}), true, false),
        );
        check(
            json!({"hard": {"count/deployments.apps": "5", "configmaps": "3", "services": "2", "count/things.example.com": "1"}}),
            json!({"hard": {}, "used": {"count/things.example.com": "4"}}),
            vec![
                ("apps", "deployments", vec![json!({}), json!({})]),
                ("", "configmaps", vec![json!({})]),
                ("", "services", vec![]),
            ],
            (
                json!({"count/deployments.apps": "2", "configmaps": "1", "services": "0", "count/things.example.com": "4"}),
                true,
                false,
            ),
        );
    }

    #[test]
    fn names_lead_to_resources() {
        let to = |group: &str, plural: &str| Some((group.to_owned(), plural.to_owned()));
        for (name, want) in [
            ("secrets", to("", "secrets")),
            ("count/secrets", to("", "secrets")),
            ("count/jobs.batch", to("batch", "jobs")),
            ("count/things.deep.example.com", to("deep.example.com", "things")),
            ("count/pods", None),
            ("count/services", None),
            ("count/events", None),
            ("pods", None),
            ("requests.cpu", None),
        ] {
            assert_eq!(other_resource(name), want, "{name}");
        }
    }
}
