//! Owners of fields, as the writes of a store need them: versions of the kind, and the fields that each resource
//! leaves as they are (upstream: `GetResetFields` of the strategies, 1.36).
use std::borrow::Cow;

use api::kinds::Kind;
use jiff::Timestamp;
use machinery::Object;
use machinery::fields::{self, Reset, Scope, Typed, Versions};

use crate::delete::timestamp;
use crate::request::Write;

/// The versions of one resource.
pub struct Views<'a>(pub &'a Kind);

impl Views<'_> {
    fn kind(&self, api_version: &str) -> Option<Cow<'_, Kind>> {
        if self.0.api_version() == api_version {
            return Some(Cow::Borrowed(self.0));
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        api::kinds::by_resource(group, version, &self.0.plural).map(Cow::Borrowed)
    }
}

impl Versions for Views<'_> {
    fn typed(&self, api_version: &str) -> Option<Typed<'_>> {
        self.kind(api_version).map(|kind| api::fields::typed(kind.schema))
    }

    fn convert<'a>(&self, object: &'a Object, api_version: &str) -> Cow<'a, Object> {
        if object.api_version() == api_version || object.0.is_empty() {
            return Cow::Borrowed(object);
        }
        match self.kind(api_version) {
            Some(kind) => Cow::Owned(apiserver_resources::convert(object.clone(), &kind)),
            None => Cow::Borrowed(object),
        }
    }
}

/// What a resource leaves as it is.
pub fn reset(kind: &Kind, subresource: &str) -> Reset<'static> {
    match (subresource, &*kind.group, &*kind.plural) {
        ("", "certificates.k8s.io", "certificatesigningrequests") => Reset::Below(&[&["spec"], &["status"]]),
        // Alone among all with a status.
        ("", "certificates.k8s.io", "podcertificaterequests") => Reset::Nothing,
        ("", ..) if kind.subresource("status").is_some() => Reset::Below(&[&["status"]]),
        ("finalize", "", "namespaces") => Reset::Below(&[&["status"]]),
        ("status", "apps", "deployments") => Reset::Below(&[&["spec"], &["metadata", "labels"]]),
        ("status", "", "pods") => {
            Reset::Below(&[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]])
        }
        ("status", "certificates.k8s.io", "certificatesigningrequests") => {
            Reset::Below(&[&["spec"], &["status", "conditions"]])
        }
        ("status", "networking.k8s.io", "servicecidrs")
        | (
            "status",
            "storage.k8s.io"
            | "flowcontrol.apiserver.k8s.io"
            | "admissionregistration.k8s.io"
            | "resource.k8s.io"
            | "scheduling.k8s.io"
            | "storagemigration.k8s.io"
            | "internal.apiserver.k8s.io"
            | "apiregistration.k8s.io",
            _,
        ) => Reset::Below(&[&["spec"], &["metadata"]]),
        ("status", ..) if kind.schema.is_none() => Reset::Below(&[&["spec"], &["metadata"]]),
        ("status", ..) => Reset::Below(&[&["spec"]]),
        ("scale", ..) => Reset::AllBut(&[&["spec", "replicas"]]),
        ("ephemeralcontainers", ..) => Reset::AllBut(&[&["spec", "ephemeralContainers"]]),
        ("resize", ..) => Reset::AllBut(&[
            &["spec", "containers", "*", "resources"],
            &["spec", "containers", "*", "resizePolicy"],
            &["spec", "initContainers", "*", "resources"],
            &["spec", "initContainers", "*", "resizePolicy"],
        ]),
        ("approval", ..) => Reset::Below(&[&["spec"], &["status", "certificate"]]),
        _ => Reset::Nothing,
    }
}

/// Whom a write makes an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// The writer, of what it changes.
    Tracked,
    /// Nobody: the object has its `managedFields` already.
    Settled,
}

impl Ownership {
    /// Sets `metadata.managedFields` of an object that is about to be written over another.
    pub fn note(self, kind: &Kind, write: &Write<'_>, old: &Object, new: &mut Object) {
        if self == Self::Settled || write.manager.is_empty() {
            return;
        }
        let (api_version, now) = (api_version(kind, write), timestamp(Timestamp::now()));
        fields::update(&Views(kind), &scope(kind, write, &api_version, &now), old, new);
    }

    /// Takes the owners out of an object that is too large for the store with them, if it may be kept without: whoever
    /// applies wants to be known (upstream: handlers/create.go, update.go and patch.go, `isTooLargeError`).
    pub fn gives_way(self, e: &storage::Error, object: &mut Object) -> bool {
        self == Self::Tracked
            && matches!(e, storage::Error::ValueTooLarge { .. })
            && object.remove(&["metadata", "managedFields"]).is_some()
    }
}

/// The version in which a write names fields: that of the request. A subresource that speaks another kind names those
/// of its parent.
pub fn api_version(kind: &Kind, write: &Write<'_>) -> String {
    if write.kind.kind == kind.kind { write.kind.api_version() } else { kind.api_version() }
}

/// A write, as the rules of ownership see it.
pub fn scope<'a>(kind: &Kind, write: &'a Write<'_>, api_version: &'a str, now: &'a str) -> Scope<'a> {
    Scope {
        manager: &write.manager,
        api_version,
        subresource: write.subresource,
        now,
        reset: reset(kind, write.subresource),
    }
}

/// Where nothing but the times of owners changed, takes the times from before.
pub fn keep_times(new: &mut Object, old: &Object) {
    const AT: [&str; 2] = ["metadata", "managedFields"];
    let (Some(mine), Some(theirs)) = (new.at(&AT), old.at(&AT)) else { return };
    if mine == theirs || !fields::same_but_times(mine, theirs) {
        return;
    }
    let theirs = theirs.clone();
    let equal = |(key, value): (&String, &serde_json::Value)| match key.as_str() {
        "apiVersion" | "kind" => true,
        "metadata" => {
            let but = |v: &serde_json::Value| {
                let mut map = v.as_object().cloned().unwrap_or_default();
                map.remove("managedFields");
                map
            };
            old.0.get(key).is_some_and(|o| but(o) == but(value))
        }
        _ => old.0.get(key) == Some(value),
    };
    if new.0.len() == old.0.len() && new.0.iter().all(equal) {
        new.set(&AT, theirs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(group: &str, plural: &str, subresource: &str) -> String {
        let kind = api::kinds::KINDS.iter().find(|k| k.group == group && k.plural == plural).unwrap();
        match reset(kind, subresource) {
            Reset::Nothing => String::new(),
            Reset::Below(paths) => paths.iter().map(|p| p.join(".")).collect::<Vec<_>>().join(" "),
            Reset::AllBut(paths) => {
                format!("but {}", paths.iter().map(|p| p.join(".")).collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn each_resource_leaves_what_upstreams_leaves() {
        for (group, plural, subresource, expected) in [
            ("", "configmaps", "", ""),
            ("", "pods", "", "status"),
            ("", "pods", "status", "spec metadata.deletionTimestamp metadata.ownerReferences"),
            ("", "pods", "ephemeralcontainers", "but spec.ephemeralContainers"),
            ("", "namespaces", "finalize", "status"),
            ("", "namespaces", "status", "spec"),
            ("", "nodes", "status", "spec"),
            ("", "services", "status", "spec"),
            ("apps", "deployments", "status", "spec metadata.labels"),
            ("apps", "replicasets", "status", "spec"),
            ("apps", "replicasets", "scale", "but spec.replicas"),
            ("batch", "jobs", "status", "spec"),
            ("autoscaling", "horizontalpodautoscalers", "status", "spec"),
            ("policy", "poddisruptionbudgets", "status", "spec"),
            ("networking.k8s.io", "ingresses", "status", "spec"),
            ("networking.k8s.io", "servicecidrs", "", "status"),
            ("networking.k8s.io", "servicecidrs", "status", "spec metadata"),
            ("certificates.k8s.io", "certificatesigningrequests", "", "spec status"),
            ("certificates.k8s.io", "certificatesigningrequests", "status", "spec status.conditions"),
            ("certificates.k8s.io", "certificatesigningrequests", "approval", "spec status.certificate"),
            ("certificates.k8s.io", "podcertificaterequests", "", ""),
            ("certificates.k8s.io", "podcertificaterequests", "status", "spec"),
            ("apiextensions.k8s.io", "customresourcedefinitions", "status", "spec"),
            ("apiregistration.k8s.io", "apiservices", "status", "spec metadata"),
            ("flowcontrol.apiserver.k8s.io", "flowschemas", "status", "spec metadata"),
            ("admissionregistration.k8s.io", "validatingadmissionpolicies", "status", "spec metadata"),
            ("resource.k8s.io", "resourceclaims", "status", "spec metadata"),
            ("resource.k8s.io", "deviceclasses", "", ""),
            ("scheduling.k8s.io", "podgroups", "status", "spec metadata"),
            ("storage.k8s.io", "volumeattachments", "status", "spec metadata"),
            ("storagemigration.k8s.io", "storageversionmigrations", "status", "spec metadata"),
            ("internal.apiserver.k8s.io", "storageversions", "status", "spec metadata"),
        ] {
            assert_eq!(of(group, plural, subresource), expected, "{group} {plural} {subresource}");
        }
    }
}
