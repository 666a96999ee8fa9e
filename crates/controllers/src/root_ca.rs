//! Publishes the cluster's CA bundle as ConfigMap `kube-root-ca.crt` in every namespace.
//! Watches: Namespace, that ConfigMap.  Writes: that ConfigMap.
//! Invariants: repairs what was edited; makes nothing in a namespace that goes away.
use std::collections::BTreeMap;

use client::{Cache, ObjectKey, Select};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::context::Context;
use crate::framework::{Controller, Error, Next, Wakes, code, is_namespace_terminating};
use crate::service_account::is_active;

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the \
     internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes \
     clusters.",
);

/// See the module.
pub struct RootCaPublisher {
    client: Client,
    namespaces: Cache<Namespace>,
    published: Cache<ConfigMap>,
    bundle: String,
}

impl RootCaPublisher {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            namespaces: context.informers.cache(),
            published: context.informers.cache_with(Select::fields(format!("metadata.name={NAME}"))),
            bundle: context.config.root_ca.clone(),
        }
    }
}

impl Controller for RootCaPublisher {
    const NAME: &'static str = "root-ca-certificate-publisher-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.namespaces);
        wakes.on(&self.published, |change| {
            let ours = change.key.name == NAME;
            if ours { vec![ObjectKey::cluster(change.key.namespace.clone())] } else { Vec::new() }
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        if !self.namespaces.get(&key).is_some_and(|n| is_active(&n)) {
            return Ok(Next::Rest);
        }
        let seen = self.published.get(&ObjectKey::new(key.name.clone(), NAME));
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &key.name);
        let result = match plan(seen.as_deref(), &key.name, &self.bundle) {
            Plan::Nothing => return Ok(Next::Rest),
            Plan::Create(map) => api.create(&PostParams::default(), &map).await,
            Plan::Update(map) => api.replace(NAME, &PostParams::default(), &map).await,
        };
        match result {
            Ok(_) => tracing::debug!("root CA published"),
            Err(error) if code(&error) == 404 || is_namespace_terminating(&error) => {}
            // Somebody was faster; the cache will show it.
            Err(error) if code(&error) == 409 && seen.is_none() => {}
            Err(error) => return Err(Error::at("publish the root CA")(error)),
        }
        Ok(Next::Rest)
    }
}

#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    Create(Box<ConfigMap>),
    Update(Box<ConfigMap>),
}

fn plan(seen: Option<&ConfigMap>, namespace: &str, bundle: &str) -> Plan {
    let data = BTreeMap::from([("ca.crt".to_owned(), bundle.to_owned())]);
    let (annotation, text) = DESCRIPTION;
    let Some(seen) = seen else {
        return Plan::Create(Box::new(ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.into()),
                namespace: Some(namespace.into()),
                annotations: Some([(annotation.to_owned(), text.to_owned())].into()),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..ConfigMap::default()
        }));
    };
    let described =
        seen.metadata.annotations.as_ref().and_then(|a| a.get(annotation)).is_some_and(|t| t == text);
    if seen.data.as_ref() == Some(&data) && described {
        return Plan::Nothing;
    }
    let mut fixed = seen.clone();
    fixed.data = Some(data);
    fixed.metadata.annotations.get_or_insert_default().insert(annotation.into(), text.into());
    Plan::Update(Box::new(fixed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_repairs_and_rests() {
        let Plan::Create(made) = plan(None, "ns", "PEM") else { panic!() };
        assert_eq!(made.data.as_ref().unwrap()["ca.crt"], "PEM");
        assert_eq!(plan(Some(&made), "ns", "PEM"), Plan::Nothing);
        let mut edited = (*made).clone();
        edited.data =
            Some([("ca.crt".to_owned(), "evil".to_owned()), ("more".to_owned(), "x".to_owned())].into());
        assert_eq!(plan(Some(&edited), "ns", "PEM"), Plan::Update(made));
    }
}
