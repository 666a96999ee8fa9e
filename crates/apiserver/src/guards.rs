//! Admission that asks the authorizer, and roles that gather others.
use std::sync::Arc;

use apiserver_admission::{Attributes, Authorize, Operation, Plugin, QuotaWriter};
use apiserver_authz::aggregation::{aggregate, is_aggregated};
use apiserver_authz::rbac::Rbac;
use apiserver_authz::{Authorizer, escalation};
use apiserver_registry::encode::{self, Header};
use apiserver_registry::{Registry, Warnings, Write, prefix, storage_error};
use apiserver_watch_cache::Scope;
use async_trait::async_trait;
use machinery::gvk::GroupResource;
use machinery::request::{Attributes as Question, RequestInfo, UserInfo};
use machinery::{Object, StatusError, StatusResult};
use storage::{Expect, Revision, Storage, WriteOutcome};
use tokio_util::sync::CancellationToken;

/// Nobody grants more than they have (plugin/pkg/auth/authorizer/rbac and pkg/registry/rbac, 1.36).
pub struct RbacEscalation {
    /// What the writer has.
    pub rbac: Arc<Rbac>,
    /// All modes, for the verbs `escalate` and `bind`.
    pub authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl Plugin for RbacEscalation {
    fn name(&self) -> &'static str {
        "RbacEscalation"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, attributes: &Attributes<'_>) -> StatusResult<()> {
        if attributes.gvr.group != "rbac.authorization.k8s.io" {
            return Ok(());
        }
        let Some(new) = attributes.object() else { return Ok(()) };
        escalation::check_write(&self.rbac, &*self.authorizer, attributes.user, new, attributes.old).await
    }
}

/// A certificate signing request says who asks for it, whatever its writer put there
/// (pkg/registry/certificates/certificates/strategy.go, 1.36).
pub struct RequesterOfCertificate;

#[async_trait]
impl Plugin for RequesterOfCertificate {
    fn name(&self) -> &'static str {
        "RequesterOfCertificate"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, attributes: &mut Attributes<'_>) -> StatusResult<()> {
        if !attributes.is("certificates.k8s.io", "certificatesigningrequests") {
            return Ok(());
        }
        let user = attributes.user;
        let Some(request) = attributes.object.as_deref_mut() else { return Ok(()) };
        for field in ["username", "uid", "groups", "extra"] {
            request.remove(&["spec", field]);
        }
        request.set(&["spec", "username"], user.name.as_str());
        if !user.uid.is_empty() {
            request.set(&["spec", "uid"], user.uid.as_str());
        }
        if !user.groups.is_empty() {
            request.set(&["spec", "groups"], user.groups.clone());
        }
        if !user.extra.is_empty() {
            request.set(&["spec", "extra"], serde_json::json!(user.extra));
        }
        Ok(())
    }
}

/// Answers plugins from the authorizer.
pub struct Decides(pub Arc<dyn Authorizer>);

#[async_trait]
impl Authorize for Decides {
    async fn decide(&self, user: &UserInfo, request: &RequestInfo) -> Result<(), String> {
        let answer = self.0.authorize(&Question { user, request }).await;
        if answer.is_allowed() { Ok(()) } else { Err(answer.reason().to_owned()) }
    }
}

/// Charges quotas by compare-and-swap on the store: below admission, which is what asks.
pub struct Quotas {
    storage: Arc<dyn Storage>,
    header: Header,
    prefix: String,
}

impl Quotas {
    /// Writes to this store.
    pub fn new(storage: Arc<dyn Storage>) -> StatusResult<Self> {
        let kind = api::kinds::by_kind("", "v1", "ResourceQuota")
            .ok_or_else(|| StatusError::internal("the table of kinds has no ResourceQuota"))?;
        Ok(Self { storage, header: Header::new(kind), prefix: prefix(kind) })
    }
}

#[async_trait]
impl QuotaWriter for Quotas {
    async fn write_status(&self, quota: Object) -> StatusResult<()> {
        let stale = || StatusError::stale(&GroupResource::new("", "resourcequotas"), quota.name());
        let revision = quota.resource_version().parse().map(Revision).map_err(|_| stale())?;
        let key = format!("{}{}/{}", self.prefix, quota.namespace(), quota.name());
        let value = self.header.encode(&quota)?;
        match self.storage.put(&key, value, Expect::At(revision), None).await.map_err(storage_error)? {
            WriteOutcome::Done(_) => Ok(()),
            WriteOutcome::Mismatch { .. } => Err(stale()),
        }
    }
}

/// Keeps the rules of aggregated ClusterRoles those of the roles they select, as upstream's
/// clusterrole-aggregation-controller does.
pub fn aggregate_roles(registry: Arc<Registry>, stop: CancellationToken) {
    tokio::spawn(async move {
        let Some(store) = registry.store("rbac.authorization.k8s.io", "clusterroles").cloned() else {
            return;
        };
        let user = UserInfo::new("system:apiserver", &["system:masters"]);
        loop {
            let (snapshot, mut watch) = store.cache.watch_initial(Scope::prefix(store.key_prefix("")));
            let mut objects = snapshot.objects;
            loop {
                let all: Vec<Object> =
                    objects.iter().filter_map(|o| encode::decode(&o.value, o.revision).ok()).collect();
                for role in all.iter().filter(|r| is_aggregated(r)) {
                    let Some(rules) = aggregate(role, &all) else { continue };
                    let warnings = Warnings::default();
                    let write = Write {
                        kind: &store.kind,
                        namespace: "",
                        name: role.name(),
                        subresource: "",
                        user: &user,
                        manager: "clusterrole-aggregation-controller".to_owned(),
                        dry_run: false,
                        warnings: &warnings,
                    };
                    let change = |old: &Object| {
                        let mut new = old.clone();
                        new.remove(&["metadata", "resourceVersion"]);
                        new.set(&["rules"], rules.clone());
                        Ok(new)
                    };
                    if let Err(e) = store.update(&write, change, None).await
                        && e.code() != 404
                    {
                        tracing::warn!(role = role.name(), error = %e, "a cluster role was not aggregated");
                    }
                }
                let batch = tokio::select! {
                    () = stop.cancelled() => return,
                    batch = watch.next_batch() => batch,
                };
                if batch.is_err() {
                    break;
                }
                objects = store.cache.snapshot().objects;
            }
            if store.cache.ready().await.is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_certificate_request_tells_who_really_asks() {
        let kind = api::kinds::by_kind("certificates.k8s.io", "v1", "CertificateSigningRequest").unwrap();
        let mut object: Object = serde_json::from_str(
            r#"{"spec":{"username":"somebody","groups":["system:masters"],"extra":{"a":["b"]}}}"#,
        )
        .unwrap();
        let user = UserInfo::new("me", &["system:authenticated"]);
        let (gvk, gvr) = (kind.gvk(), kind.gvr());
        let mut attributes = Attributes {
            operation: Operation::Create,
            gvk: &gvk,
            gvr: &gvr,
            subresource: "",
            namespace: "",
            name: "x",
            object: Some(&mut object),
            old: None,
            options: None,
            user: &user,
            dry_run: false,
            warnings: Vec::new(),
            annotations: Vec::new(),
        };
        RequesterOfCertificate.mutate(&mut attributes).await.unwrap();
        assert_eq!(object.str_at(&["spec", "username"]), "me");
        assert_eq!(object.list_at(&["spec", "groups"]), ["system:authenticated"]);
        assert!(object.at(&["spec", "extra"]).is_none());
    }
}
