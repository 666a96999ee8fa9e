//! The ConfigMaps and Secrets that one pod refers to: watched one by one, only while a pod here needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{Cache, Informers, ObjectKey, Select};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::env;
use crate::pod::PodExt;

/// How long the first answer of a watch may take.
const SYNC: Duration = Duration::from_secs(10);

/// The watches of one pod; dropping it ends those that no other pod shares.
#[derive(Default)]
pub struct References {
    namespace: String,
    changed: Arc<AtomicBool>,
    config_maps: BTreeMap<String, Follow<ConfigMap>>,
    secrets: BTreeMap<String, Follow<Secret>>,
}

struct Follow<K: client::Watched> {
    cache: Cache<K>,
    task: AbortHandle,
}

impl<K: client::Watched> Drop for Follow<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The object could not be read in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to sync {0} cache: timed out waiting for the condition")]
pub struct NotSynced(&'static str);

/// Names of the ConfigMaps and Secrets that a pod refers to anywhere.
pub fn names(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut config_maps, mut secrets) = env::references(pod);
    for volume in pod.spec().volumes.iter().flatten() {
        config_maps.extend(volume.config_map.as_ref().map(|source| source.name.clone()));
        secrets.extend(volume.secret.as_ref().and_then(|source| source.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            config_maps.extend(source.config_map.as_ref().map(|source| source.name.clone()));
            secrets.extend(source.secret.as_ref().map(|source| source.name.clone()));
        }
    }
    secrets.extend(pod.spec().image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()));
    (config_maps, secrets)
}

fn follow<K>(
    informers: &Informers,
    namespace: &str,
    name: &str,
    wake: &Arc<Notify>,
    changed: &Arc<AtomicBool>,
) -> Follow<K>
where
    K: client::Watched + kube::Resource<DynamicType = ()>,
{
    let select = Select {
        namespace: Some(namespace.to_owned()),
        fields: Some(format!("metadata.name={name}")),
        ..Select::default()
    };
    let cache = informers.cache_with::<K>(select);
    let mut changes = cache.changes();
    let (wake, changed) = (wake.clone(), changed.clone());
    let task = tokio::spawn(async move {
        loop {
            changes.next().await;
            changed.store(true, Ordering::Release);
            wake.notify_one();
        }
    });
    Follow { cache, task: task.abort_handle() }
}

impl References {
    /// Watches what the pod refers to now, and no more what it does not; `wake` is told of changes.
    pub fn update(&mut self, pod: &Pod, informers: &Informers, wake: &Arc<Notify>) {
        self.namespace = pod.namespace().to_owned();
        let (config_maps, secrets) = names(pod);
        self.config_maps.retain(|name, _| config_maps.contains(name));
        self.secrets.retain(|name, _| secrets.contains(name));
        for name in config_maps {
            self.config_maps
                .entry(name.clone())
                .or_insert_with(|| follow(informers, pod.namespace(), &name, wake, &self.changed));
        }
        for name in secrets {
            self.secrets
                .entry(name.clone())
                .or_insert_with(|| follow(informers, pod.namespace(), &name, wake, &self.changed));
        }
    }

    /// Whether any of the objects has changed since the last time.
    pub fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    /// Ends all watches.
    pub fn clear(&mut self) {
        self.config_maps.clear();
        self.secrets.clear();
    }

    /// Handles through which a task can read, apart from this.
    pub fn reader(&self) -> Reader {
        Reader {
            namespace: self.namespace.clone(),
            config_maps: self
                .config_maps
                .iter()
                .map(|(name, follow)| (name.clone(), follow.cache.clone()))
                .collect(),
            secrets: self.secrets.iter().map(|(name, follow)| (name.clone(), follow.cache.clone())).collect(),
        }
    }
}

/// Reads the objects of one pod.
#[derive(Clone, Default)]
pub struct Reader {
    namespace: String,
    config_maps: BTreeMap<String, Cache<ConfigMap>>,
    secrets: BTreeMap<String, Cache<Secret>>,
}

impl Reader {
    /// A ConfigMap; `None` if there is none of that name.
    pub async fn config_map(&self, name: &str) -> Result<Option<Arc<ConfigMap>>, NotSynced> {
        let Some(cache) = self.config_maps.get(name) else { return Ok(None) };
        tokio::time::timeout(SYNC, cache.synced()).await.map_err(|_| NotSynced("configmap"))?;
        Ok(cache.get(&ObjectKey::new(self.namespace.as_str(), name)))
    }

    /// A Secret; `None` if there is none of that name.
    pub async fn secret(&self, name: &str) -> Result<Option<Arc<Secret>>, NotSynced> {
        let Some(cache) = self.secrets.get(name) else { return Ok(None) };
        tokio::time::timeout(SYNC, cache.synced()).await.map_err(|_| NotSynced("secret"))?;
        Ok(cache.get(&ObjectKey::new(self.namespace.as_str(), name)))
    }

    /// Everything that a pod's environment may refer to.
    pub async fn environment(&self, pod: &Pod) -> Result<env::Sources, NotSynced> {
        let mut sources = env::Sources::default();
        let (config_maps, secrets) = env::references(pod);
        for name in config_maps {
            let found = self.config_map(&name).await?;
            sources.config_maps.insert(name, found);
        }
        for name in secrets {
            let found = self.secret(&name).await?;
            sources.secrets.insert(name, found);
        }
        Ok(sources)
    }
}
