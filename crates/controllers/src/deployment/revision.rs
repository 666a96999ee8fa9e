//! Which ReplicaSet holds which template, and how they are numbered.
use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::scale::{max_surge, replicas};
use crate::hash::template_hash;
use crate::ownership::controller_ref;

pub const HASH_LABEL: &str = "pod-template-hash";
pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Belong to the Deployment, or are kept by us.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// Characters of history kept.
const HISTORY_LENGTH: usize = 2000;

pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether the set was made from the Deployment's template: equal but for the hash label.
pub fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let plain = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        let meta = template.metadata.get_or_insert_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        meta.labels = meta.labels.take().filter(|l| !l.is_empty());
        meta.annotations = meta.annotations.take().filter(|a| !a.is_empty());
        meta.creation_timestamp = None;
        template
    };
    let theirs = set.spec.as_ref().and_then(|s| s.template.as_ref());
    let ours = deployment.spec.as_ref().map(|s| &s.template);
    matches!((ours, theirs), (Some(a), Some(b)) if plain(a) == plain(b))
}

/// The set that holds the current template; the oldest where there are several.
pub fn find_new<'a>(deployment: &Deployment, sets: &'a [ReplicaSet]) -> Option<&'a ReplicaSet> {
    sets.iter().filter(|set| same_template(deployment, set)).min_by_key(|set| by_age(set))
}

pub fn by_age(set: &ReplicaSet) -> (Option<jiff::Timestamp>, Option<String>) {
    (set.metadata.creation_timestamp.as_ref().map(|t| t.0), set.metadata.name.clone())
}

pub fn revision_of(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// The set for a template that has none yet, with no replicas.
pub fn make_new(deployment: &Deployment) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or(""))),
            namespace: deployment.metadata.namespace.clone(),
            owner_references: Some(vec![controller_ref(deployment)]),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// Brings the current set's annotations and revision up to date. `exists`: not only about to be made.
pub fn annotate_new(deployment: &Deployment, set: &mut ReplicaSet, revision: i64, exists: bool) {
    let from = deployment.metadata.annotations.clone().unwrap_or_default();
    let old = revision_of(&set.metadata);
    let had_revision = annotation(&set.metadata, REVISION).is_some();
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in from {
        if !NOT_COPIED.contains(&&*key) {
            annotations.insert(key, value);
        }
    }
    if old < revision {
        let before = annotations.insert(REVISION.into(), revision.to_string());
        // Rolled back to: remember the numbers it had.
        if let Some(before) = before.filter(|_| had_revision) {
            let history = annotations.get(REVISION_HISTORY).cloned().unwrap_or_default();
            annotations.insert(REVISION_HISTORY.into(), longer_history(&history, &before));
        }
    }
    if !exists {
        set_replicas(annotations, deployment);
    }
    if annotations.is_empty() {
        set.metadata.annotations = None;
    }
}

fn longer_history(history: &str, revision: &str) -> String {
    if history.is_empty() {
        return revision.to_owned();
    }
    let mut kept = history;
    while kept.len() + revision.len() + 1 > HISTORY_LENGTH {
        let Some((_, rest)) = kept.split_once(',') else { return revision.to_owned() };
        kept = rest;
    }
    format!("{kept},{revision}")
}

/// Notes for which size of the Deployment the set has its size. Whether that was news.
pub fn set_replicas(annotations: &mut BTreeMap<String, String>, deployment: &Deployment) -> bool {
    let desired = replicas(deployment);
    let wanted = [(DESIRED_REPLICAS, desired), (MAX_REPLICAS, desired + max_surge(deployment))];
    let mut changed = false;
    for (key, value) in wanted {
        let value = value.to_string();
        changed |= annotations.insert(key.into(), value.clone()) != Some(value);
    }
    changed
}
