//! The roles and bindings every cluster starts with, and how they are kept up.
//!
//! Upstream's facts: plugin/pkg/auth/authorizer/rbac/bootstrappolicy, 1.36 with default feature gates.
mod cluster_roles;
mod controller_roles;
mod namespace_roles;
mod reconcile;

use machinery::Object;
use serde_json::{Value, json};

pub use reconcile::{Reconciled, reconcile};

use crate::aggregation::aggregate;
use crate::rule::PolicyRule;

const API_VERSION: &str = "rbac.authorization.k8s.io/v1";
const GROUP: &str = "rbac.authorization.k8s.io";
/// A role or binding with this annotation set to `false` is left as it is.
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

type Words = &'static [&'static str];

/// One rule of the tables.
#[derive(Clone, Copy)]
struct Rule {
    verbs: Words,
    groups: Words,
    resources: Words,
    names: Words,
    urls: Words,
}

/// A rule about resources.
const fn may(verbs: Words, groups: Words, resources: Words) -> Rule {
    Rule { verbs, groups, resources, names: &[], urls: &[] }
}

/// A rule about resources with these names.
const fn named(verbs: Words, groups: Words, resources: Words, names: Words) -> Rule {
    Rule { verbs, groups, resources, names, urls: &[] }
}

/// A rule about paths.
const fn urls(verbs: Words, urls: Words) -> Rule {
    Rule { verbs, groups: &[], resources: &[], names: &[], urls }
}

/// What whoever records events may do.
const EVENTS: Rule = may(&["create", "patch", "update"], &["", "events.k8s.io"], &["events"]);

impl Rule {
    fn to_policy_rule(self) -> PolicyRule {
        let sorted = |words: Words| {
            let mut words: Vec<String> = words.iter().map(|&w| w.to_owned()).collect();
            words.sort_unstable();
            words
        };
        PolicyRule {
            api_groups: sorted(self.groups),
            resources: sorted(self.resources),
            resource_names: sorted(self.names),
            non_resource_urls: sorted(self.urls),
            verbs: sorted(self.verbs),
        }
    }
}

fn rules(rules: &[Rule]) -> Value {
    rules.iter().map(|r| r.to_policy_rule().to_value()).collect()
}

fn object(kind: &str, namespace: &str, name: &str) -> Object {
    let mut object = Object::default();
    object.set_type(API_VERSION, kind);
    object.set(&["metadata", "name"], name);
    if !namespace.is_empty() {
        object.set(&["metadata", "namespace"], namespace);
    }
    object.set(&["metadata", "labels"], json!({"kubernetes.io/bootstrapping": "rbac-defaults"}));
    object.set(&["metadata", "annotations"], json!({ AUTOUPDATE: "true" }));
    object
}

/// Who is bound to a default role.
#[derive(Clone, Copy)]
enum Who {
    User(&'static str),
    Group(&'static str),
    /// A service account of `kube-system`.
    Account(&'static str),
}

fn binding(kind: &str, namespace: &str, name: &str, role: (&str, &str), subjects: &[Who]) -> Object {
    let mut object = object(kind, namespace, name);
    object.set(&["roleRef"], json!({"apiGroup": GROUP, "kind": role.0, "name": role.1}));
    if !subjects.is_empty() {
        let subjects: Vec<Value> = subjects
            .iter()
            .map(|who| match who {
                Who::User(name) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
                Who::Group(name) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
                Who::Account(name) => {
                    json!({"kind": "ServiceAccount", "name": name, "namespace": "kube-system"})
                }
            })
            .collect();
        object.set(&["subjects"], subjects);
    }
    object
}

/// All default roles and bindings, roles first; aggregated roles already hold the rules they gather.
pub fn objects() -> Vec<Object> {
    let mut roles: Vec<Object> = cluster_roles::roles();
    roles.extend(controller_roles::roles());
    // `view` feeds `edit` feeds `admin`.
    for name in ["view", "edit", "admin"] {
        if let Some(i) = roles.iter().position(|r| r.name() == name)
            && let Some(rules) = aggregate(&roles[i], &roles)
        {
            roles[i].set(&["rules"], rules);
        }
    }
    roles.extend(cluster_roles::bindings());
    roles.extend(controller_roles::bindings());
    roles.extend(namespace_roles::objects());
    roles
}

/// What every kubelet may do, before the Node authorizer narrows it.
pub fn node_rules() -> Vec<PolicyRule> {
    cluster_roles::NODE_RULES.iter().map(|r| r.to_policy_rule()).collect()
}

#[cfg(test)]
mod tests;
