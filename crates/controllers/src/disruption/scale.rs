//! How many pods an owner wants.
use client::{Cache, ObjectKey};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client};

use crate::context::Context;
use crate::framework::{Wakes, code, message};
use crate::ownership::controller_of;

/// Knows the scale of owners: from caches for the kinds that everybody has, else by asking.
pub struct Scales {
    client: Client,
    controllers: Cache<ReplicationController>,
    replica_sets: Cache<ReplicaSet>,
    deployments: Cache<Deployment>,
    stateful_sets: Cache<StatefulSet>,
}

/// The UID that owners with the same scale share, and the scale.
pub type Scale = (String, i32);

impl Scales {
    /// Over the shared caches.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            controllers: context.informers.cache(),
            replica_sets: context.informers.cache(),
            deployments: context.informers.cache(),
            stateful_sets: context.informers.cache(),
        }
    }

    /// Nothing is counted before these are known.
    pub fn read_by(&self, wakes: &mut Wakes) {
        wakes.reads(&self.controllers);
        wakes.reads(&self.replica_sets);
        wakes.reads(&self.deployments);
        wakes.reads(&self.stateful_sets);
    }

    /// The scale of an owner of pods; nothing where the owner is gone.
    pub async fn of(&self, owner: &OwnerReference, namespace: &str) -> Result<Option<Scale>, String> {
        let key = ObjectKey::new(namespace, owner.name.clone());
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let one = |uid: Option<&String>, replicas: Option<i32>| {
            uid.filter(|uid| **uid == owner.uid).map(|uid| (uid.clone(), replicas.unwrap_or(1)))
        };
        let found = match (group, owner.kind.as_str()) {
            ("", "ReplicationController") => self
                .controllers
                .get(&key)
                .and_then(|o| one(o.metadata.uid.as_ref(), o.spec.as_ref().and_then(|s| s.replicas))),
            ("apps" | "extensions", "ReplicaSet") => self.of_replica_set(&key, &owner.uid),
            ("apps", "StatefulSet") => self
                .stateful_sets
                .get(&key)
                .and_then(|o| one(o.metadata.uid.as_ref(), o.spec.as_ref().and_then(|s| s.replicas))),
            _ => return self.ask(owner, group, namespace).await,
        };
        Ok(found)
    }

    /// A set's own scale, or that of the Deployment behind it.
    fn of_replica_set(&self, key: &ObjectKey, uid: &str) -> Option<Scale> {
        let set = self.replica_sets.get(key).filter(|set| set.metadata.uid.as_deref() == Some(uid))?;
        let behind = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment");
        let Some(behind) = behind else {
            return Some((uid.to_owned(), set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)));
        };
        let deployment = self.deployments.get(&ObjectKey::new(key.namespace.clone(), behind.name.clone()))?;
        let replicas = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
        deployment.metadata.uid.clone().filter(|uid| *uid == behind.uid).map(|uid| (uid, replicas))
    }

    /// Asks for the subresource `scale` of any kind.
    async fn ask(
        &self,
        owner: &OwnerReference,
        group: &str,
        namespace: &str,
    ) -> Result<Option<Scale>, String> {
        let listed = if group.is_empty() {
            self.client.list_core_api_resources(&owner.api_version).await
        } else {
            self.client.list_api_group_resources(&owner.api_version).await
        };
        let unknown = || format!("no matches for kind {:?} in version {:?}", owner.kind, owner.api_version);
        let resources = match listed {
            Ok(listed) => listed.resources,
            Err(error) if code(&error) == 404 => return Err(unknown()),
            Err(error) => return Err(message(&error)),
        };
        let own = resources.iter().find(|r| r.kind == owner.kind && !r.name.contains('/'));
        let plural = own.map(|r| r.name.clone()).ok_or_else(unknown)?;
        if !resources.iter().any(|r| r.name == format!("{plural}/scale") && r.kind == "Scale") {
            let resource = if group.is_empty() { plural } else { format!("{plural}.{group}") };
            return Err(format!("{resource} does not implement the scale subresource"));
        }
        let resource = ApiResource {
            group: group.to_owned(),
            version: owner.api_version.rsplit('/').next().unwrap_or_default().to_owned(),
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            plural,
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        match api.get_scale(&owner.name).await {
            Ok(scale) if scale.metadata.uid.as_ref() == Some(&owner.uid) => {
                let replicas = scale.spec.and_then(|s| s.replicas).unwrap_or(0);
                Ok(Some((owner.uid.clone(), replicas)))
            }
            Ok(_) => Ok(None),
            Err(error) if code(&error) == 404 => Ok(None),
            Err(error) => Err(message(&error)),
        }
    }
}
