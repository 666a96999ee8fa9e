//! The resources that quotas know, and which names of a quota speak of each.
use std::collections::BTreeSet;

use machinery::Object;

use crate::Scope;

/// One resource, as quotas count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted<'a> {
    /// Empty for core.
    pub group: &'a str,
    /// Plural.
    pub resource: &'a str,
}

/// Never counted: what is not stored, and Events.
const IGNORED: [(&str, &str); 10] = [
    ("", "bindings"),
    ("", "componentstatuses"),
    ("", "events"),
    ("events.k8s.io", "events"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
];

const POD: [&str; 11] = [
    "count/pods",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "pods",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SERVICE: [&str; 4] = ["count/services", "services", "services.loadbalancers", "services.nodeports"];
const CLAIM: [&str; 3] = ["count/persistentvolumeclaims", "persistentvolumeclaims", "requests.storage"];

/// Whether a quota's name is one of a device that a pod asks for by itself.
fn is_extended(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    name.starts_with("requests.")
        && (!native || name.starts_with("requests.deviceclass.resource.kubernetes.io/"))
}

impl Counted<'_> {
    /// Whether quotas leave it alone.
    pub fn is_ignored(&self) -> bool {
        IGNORED.contains(&(self.group, self.resource))
    }

    /// The name by which quotas count how many there are, for example `count/deployments.apps`.
    pub fn count_name(&self) -> String {
        if self.group.is_empty() {
            format!("count/{}", self.resource)
        } else {
            format!("count/{}.{}", self.resource, self.group)
        }
    }

    /// Whether a name of a quota speaks of this resource.
    pub fn is_named(&self, name: &str) -> bool {
        match (self.group, self.resource) {
            ("", "pods") => {
                POD.contains(&name)
                    || name.starts_with("hugepages-")
                    || name.starts_with("requests.hugepages-")
                    || is_extended(name)
            }
            ("", "services") => SERVICE.contains(&name),
            ("", "persistentvolumeclaims") => {
                let by_class =
                    |suffix: &str| name.ends_with(&format!(".storageclass.storage.k8s.io/{suffix}"));
                CLAIM.contains(&name) || CLAIM[1..].iter().any(|suffix| by_class(suffix))
            }
            ("resource.k8s.io", "resourceclaims") => {
                name == self.count_name() || name.ends_with(crate::usage::BY_DEVICE_CLASS)
            }
            ("", "configmaps" | "secrets" | "resourcequotas" | "replicationcontrollers") => {
                name == self.resource || name == self.count_name()
            }
            _ => name == self.count_name(),
        }
    }

    /// Those of a quota's names that speak of this resource.
    pub fn names<'n>(&self, names: impl IntoIterator<Item = &'n String>) -> BTreeSet<&'n str> {
        names.into_iter().map(String::as_str).filter(|name| self.is_named(name)).collect()
    }

    /// Whether an object is in a scope. Only pods and claims of volumes can be.
    pub fn is_in(&self, scope: &Scope, object: &Object) -> bool {
        match (self.group, self.resource) {
            ("", "pods") => scope.holds_pod(object),
            ("", "persistentvolumeclaims") => scope.holds_claim(object),
            _ => false,
        }
    }

    /// Whether an object is in all of these scopes; everything is in none.
    pub fn is_in_all(&self, scopes: &[Scope], object: &Object) -> bool {
        scopes.iter().all(|scope| self.is_in(scope, object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_speak_of_resources() {
        for (group, resource, name, speaks) in [
            ("", "pods", "pods", true),
            ("", "pods", "count/pods", true),
            ("", "pods", "hugepages-2Mi", true),
            ("", "pods", "requests.example.com/gpu", true),
            ("", "pods", "requests.deviceclass.resource.kubernetes.io/x", true),
            ("", "pods", "example.com/gpu", false),
            ("", "pods", "requests.storage", false),
            ("", "services", "services.nodeports", true),
            ("", "services", "pods", false),
            ("", "persistentvolumeclaims", "requests.storage", true),
            ("", "persistentvolumeclaims", "gold.storageclass.storage.k8s.io/requests.storage", true),
            ("", "configmaps", "configmaps", true),
            ("", "configmaps", "count/configmaps", true),
            ("apps", "deployments", "count/deployments.apps", true),
            ("apps", "deployments", "deployments", false),
            ("resource.k8s.io", "resourceclaims", "gpu.deviceclass.resource.k8s.io/devices", true),
        ] {
            assert_eq!(Counted { group, resource }.is_named(name), speaks, "{resource} {name}");
        }
        assert!(Counted { group: "events.k8s.io", resource: "events" }.is_ignored());
        assert!(!Counted { group: "", resource: "pods" }.is_ignored());
    }
}
