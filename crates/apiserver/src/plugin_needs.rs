//! What plugins of admission ask of the server: which resource serves a kind, a new namespace, another server's opinion
//! of images.
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};

use apiserver_admission::{ImageReviewer, MakeNamespaces, NoReview, Served, ServedKinds};
use apiserver_registry::{Registry, Warnings, Write};
use async_trait::async_trait;
use machinery::request::UserInfo;
use machinery::{Object, StatusError, StatusResult};

use crate::outbound::{Outbound, Unanswered};
use crate::webhook_config::WebhookConfig;

/// The kinds that this server serves.
pub struct Known {
    /// Groups and versions that it does not.
    pub not_served: BTreeSet<(String, String)>,
}

impl ServedKinds for Known {
    fn served(&self, group: &str, version: &str, kind: &str) -> Option<Served> {
        let kind = api::kinds::by_kind(group, version, kind).filter(|kind| kind.served_by_default())?;
        if self.not_served.contains(&(group.to_owned(), version.to_owned())) {
            return None;
        }
        Some(Served { plural: kind.plural.to_string(), namespaced: kind.namespaced })
    }
}

/// Makes namespaces as the server itself, once there is where to make them: admission comes first.
#[derive(Default)]
pub struct Namespaces(OnceLock<Weak<Registry>>);

impl Namespaces {
    /// From now on it makes them here. The stores own admission, which owns this.
    pub fn are_kept_in(&self, registry: &Arc<Registry>) {
        let _ = self.0.set(Arc::downgrade(registry));
    }
}

#[async_trait]
impl MakeNamespaces for Namespaces {
    async fn make(&self, name: &str) -> StatusResult<()> {
        let registry = self.0.get().and_then(Weak::upgrade);
        let store = registry.as_ref().and_then(|r| r.store("", "namespaces"));
        let store = store.ok_or_else(|| StatusError::service_unavailable("the server is starting"))?;
        let mut namespace = Object::default();
        namespace.set_type("v1", "Namespace");
        namespace.set(&["metadata", "name"], name);
        let user = UserInfo::new("system:apiserver", &["system:masters"]);
        let warnings = Warnings::default();
        let write = Write {
            kind: &store.kind,
            namespace: "",
            name: "",
            subresource: "",
            user: &user,
            manager: "kube-apiserver".to_owned(),
            dry_run: false,
            warnings: &warnings,
        };
        store.create(&write, namespace).await.map(drop)
    }
}

/// A server that is asked about images, by the kubeconfig that leads to it.
pub fn reviewer(kubeconfig: &Path) -> Result<Arc<dyn ImageReviewer>, String> {
    let found = WebhookConfig::read(kubeconfig)?;
    let http = Outbound::new(&found.trust)?;
    Ok(Arc::new(Reviewer { url: found.url, http }))
}

struct Reviewer {
    url: String,
    http: Outbound,
}

#[async_trait]
impl ImageReviewer for Reviewer {
    async fn review(&self, question: &[u8]) -> Result<Vec<u8>, NoReview> {
        let asked = self.http.ask(&self.url, question).await;
        asked.map_err(|Unanswered { why, again }| NoReview { why, again })
    }
}
