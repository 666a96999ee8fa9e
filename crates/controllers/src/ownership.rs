//! Who controls what: owner references, adoption and release.
use std::sync::Arc;

use client::ObjectKey;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use machinery::label_selector::LabelSelector;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::framework::{Error, code};

/// The reference marked as controller.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|o| o.controller == Some(true))
}

/// A controller reference to `owner`.
pub fn controller_ref<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What to do about one candidate.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Claim {
    /// It is the owner's already.
    Keep,
    /// It matches and has no controller.
    Adopt,
    /// It is the owner's but matches no more.
    Release,
    /// It is none of the owner's business.
    Ignore,
}

/// Decides about one candidate.
pub fn claim(owner: &ObjectMeta, selector: &LabelSelector, candidate: &ObjectMeta) -> Claim {
    let matches = selector.matches_optional(candidate.labels.as_ref());
    match controller_of(candidate) {
        Some(controller) if Some(&controller.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner.deletion_timestamp.is_some() => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner.deletion_timestamp.is_some() || !matches => Claim::Ignore,
        None if candidate.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// Claims objects for an owner and returns those that are its own now.
///
/// Before the first adoption the owner is read live: a cache may show an owner that is gone or being deleted.
/// `finalizers`: what adopted objects get besides the owner.
pub async fn claim_all<O, K>(
    client: &Client,
    owner: &O,
    selector: &LabelSelector,
    candidates: Vec<Arc<K>>,
    finalizers: &[&str],
) -> Result<Vec<Arc<K>>, Error>
where
    O: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let key = ObjectKey::of(owner);
    let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
    let mut ours = Vec::new();
    let mut may_adopt = None;
    for candidate in candidates {
        let meta = candidate.meta();
        let name = meta.name.clone().unwrap_or_default();
        match claim(owner.meta(), selector, meta) {
            Claim::Keep => ours.push(candidate),
            Claim::Ignore => {}
            Claim::Adopt => {
                if may_adopt.is_none() {
                    let owners: Api<O> = Api::namespaced(client.clone(), &key.namespace);
                    let live = owners.get_opt(&key.name).await.map_err(Error::at("read the owner"))?;
                    may_adopt = Some(live.is_some_and(|o| {
                        o.meta().uid == owner.meta().uid && o.meta().deletion_timestamp.is_none()
                    }));
                }
                if may_adopt != Some(true) {
                    return Err(Error::Unfinished(format!(
                        "cannot adopt {name}: the owner is gone or going"
                    )));
                }
                let mut patch = json!({"metadata": {
                    "uid": meta.uid,
                    "ownerReferences": [controller_ref(owner)],
                }});
                if !finalizers.is_empty() {
                    patch["metadata"]["finalizers"] = json!(finalizers);
                }
                match api.patch(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
                    Ok(adopted) => ours.push(Arc::new(adopted)),
                    Err(error) if code(&error) == 404 => {}
                    Err(error) => return Err(Error::at("adopt")(error)),
                }
            }
            Claim::Release => {
                let mut patch = json!({"metadata": {
                    "uid": meta.uid,
                    "ownerReferences": [{"$patch": "delete", "uid": owner.meta().uid}],
                }});
                if !finalizers.is_empty() {
                    patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!(finalizers);
                }
                match api.patch(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
                    // Gone, or its uid differs: no longer the object we meant.
                    Err(error) if !matches!(code(&error), 404 | 409 | 422) => {
                        return Err(Error::at("release")(error));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims() {
        let going = Some(
            "2026-01-01T00:00:00Z".parse().map(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time).unwrap(),
        );
        let selector = LabelSelector::parse("app=a").unwrap();
        // controller uid, labels match, candidate going, owner going, verdict
        for (controller, matches, candidate_going, owner_going, verdict) in [
            (Some("me"), true, false, false, Claim::Keep),
            (Some("me"), true, true, true, Claim::Keep),
            (Some("me"), false, false, false, Claim::Release),
            (Some("me"), false, false, true, Claim::Ignore),
            (Some("other"), true, false, false, Claim::Ignore),
            (None, true, false, false, Claim::Adopt),
            (None, true, true, false, Claim::Ignore),
            (None, true, false, true, Claim::Ignore),
            (None, false, false, false, Claim::Ignore),
        ] {
            let owner = ObjectMeta {
                uid: Some("me".into()),
                deletion_timestamp: going.clone().filter(|_| owner_going),
                ..ObjectMeta::default()
            };
            let label = if matches { "a" } else { "b" };
            let candidate = ObjectMeta {
                labels: Some([("app".to_owned(), label.to_owned())].into()),
                deletion_timestamp: going.clone().filter(|_| candidate_going),
                owner_references: controller.map(|uid| {
                    vec![OwnerReference {
                        uid: uid.into(),
                        controller: Some(true),
                        ..OwnerReference::default()
                    }]
                }),
                ..ObjectMeta::default()
            };
            assert_eq!(
                claim(&owner, &selector, &candidate),
                verdict,
                "{controller:?} {matches} {candidate_going} {owner_going}"
            );
        }
    }
}
