//! Keeps a ServiceAccount `default` in every namespace.
//! Watches: Namespace, ServiceAccount (its namespace).  Writes: ServiceAccount create.
//! Invariant: makes nothing in a namespace that goes away.
use client::{Cache, ObjectKey};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::context::Context;
use crate::framework::{Controller, Error, Next, Wakes, code, is_namespace_terminating};

const ACCOUNT: &str = "default";

/// See the module.
pub struct ServiceAccountController {
    client: Client,
    namespaces: Cache<Namespace>,
    accounts: Cache<ServiceAccount>,
}

impl ServiceAccountController {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            namespaces: context.informers.cache(),
            accounts: context.informers.cache(),
        }
    }
}

impl Controller for ServiceAccountController {
    const NAME: &'static str = "serviceaccount-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.namespaces);
        wakes.on(&self.accounts, |change| {
            let lost = change.new.is_none() && change.key.name == ACCOUNT;
            if lost { vec![ObjectKey::cluster(change.key.namespace.clone())] } else { Vec::new() }
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        if !self.namespaces.get(&key).is_some_and(|n| is_active(&n))
            || self.accounts.get(&ObjectKey::new(key.name.clone(), ACCOUNT)).is_some()
        {
            return Ok(Next::Rest);
        }
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(ACCOUNT.into());
        account.metadata.namespace = Some(key.name.clone());
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.name);
        match api.create(&PostParams::default(), &account).await {
            Ok(_) => tracing::debug!("default service account made"),
            Err(error) if matches!(code(&error), 404 | 409) || is_namespace_terminating(&error) => {}
            Err(error) => return Err(Error::at("create the default service account")(error)),
        }
        Ok(Next::Rest)
    }
}

/// Whether things may still be made in the namespace.
pub fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
        && namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating")
}
