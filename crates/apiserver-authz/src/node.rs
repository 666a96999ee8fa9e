//! The Node authorizer: a kubelet may read what the pods bound to its node need, and no more.
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use machinery::Object;
use machinery::field_selector::FieldSelector;
use machinery::request::{Attributes, RequestInfo, UserInfo};

use crate::node_graph::{Kind, NodeGraph};
use crate::rule::PolicyRule;
use crate::{Answer, Authorizer, Rules, bootstrap_policy};

/// The Node authorizer. Whoever watches Pods, PersistentVolumes, VolumeAttachments and ResourceSlices feeds it.
pub struct NodeAuthorizer {
    graph: RwLock<NodeGraph>,
    rules: Vec<PolicyRule>,
}

impl Default for NodeAuthorizer {
    fn default() -> Self {
        Self::new()
    }
}

/// The node a user speaks for: `None` for users that are no nodes, empty for a node without a name.
pub fn node_name(user: &UserInfo) -> Option<&str> {
    user.name.strip_prefix("system:node:").filter(|_| user.in_group("system:nodes"))
}

impl NodeAuthorizer {
    /// One that knows no objects yet.
    pub fn new() -> Self {
        Self { graph: RwLock::default(), rules: bootstrap_policy::node_rules() }
    }

    fn read(&self) -> RwLockReadGuard<'_, NodeGraph> {
        self.graph.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, NodeGraph> {
        self.graph.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a Pod, PersistentVolume, VolumeAttachment or ResourceSlice; ignores other kinds.
    pub fn set(&self, object: &Object) {
        self.write().set(object);
    }

    /// Forgets an object of one of the four kinds.
    pub fn remove(&self, kind: &str, namespace: &str, name: &str) {
        self.write().remove(kind, namespace, name);
    }

    /// Decides without waiting.
    pub fn decide(&self, attributes: &Attributes<'_>) -> Answer {
        let Some(node) = node_name(attributes.user) else { return Answer::NO_OPINION };
        if node.is_empty() {
            return Answer::no_opinion(format!("unknown node for user {:?}", attributes.user.name));
        }
        let request = attributes.request;
        if request.is_resource {
            match (request.api_group.as_str(), request.resource.as_str()) {
                ("", "secrets") => return self.read_namespaced(node, Kind::Secret, request),
                ("", "configmaps") => return self.read_namespaced(node, Kind::ConfigMap, request),
                ("", "persistentvolumeclaims") if request.subresource == "status" => {
                    return self.claim_status(node, request);
                }
                ("", "persistentvolumeclaims") => return self.get(node, Kind::Claim, request),
                ("resource.k8s.io", "resourceclaims") => return self.get(node, Kind::ResourceClaim, request),
                ("", "persistentvolumes") => {
                    return get_only(request).unwrap_or_else(|| {
                        related(node, request, self.read().uses_volume(node, &request.name))
                    });
                }
                ("storage.k8s.io", "volumeattachments") => {
                    return get_only(request).unwrap_or_else(|| {
                        related(node, request, self.read().owns_attachment(node, &request.name))
                    });
                }
                ("resource.k8s.io", "resourceslices") => return self.slice(node, request),
                ("", "serviceaccounts") if request.verb == "get" && request.subresource.is_empty() => {
                    return self.get(node, Kind::ServiceAccount, request);
                }
                ("", "serviceaccounts") => return self.token(node, request),
                ("coordination.k8s.io", "leases") => return lease(node, request),
                ("storage.k8s.io", "csinodes") => return csi_node(node, request),
                ("", "nodes") => return own_node(node, request),
                ("", "pods") => return self.pod(node, request),
                _ => {}
            }
        }
        if self.rules.iter().any(|rule| rule.allows(request)) { Answer::ALLOW } else { Answer::NO_OPINION }
    }

    fn by_graph(&self, node: &str, kind: Kind, request: &RequestInfo) -> Answer {
        if request.name.is_empty() {
            return Answer::no_opinion("No Object name found");
        }
        related(node, request, self.read().uses(node, kind, &request.namespace, &request.name))
    }

    fn read_namespaced(&self, node: &str, kind: Kind, request: &RequestInfo) -> Answer {
        if !matches!(request.verb.as_str(), "get" | "list" | "watch") {
            return Answer::no_opinion("can only read resources of this type");
        }
        if !request.subresource.is_empty() {
            return Answer::no_opinion("cannot read subresource");
        }
        if request.namespace.is_empty() {
            return Answer::no_opinion("can only read namespaced object of this type");
        }
        self.by_graph(node, kind, request)
    }

    fn get(&self, node: &str, kind: Kind, request: &RequestInfo) -> Answer {
        get_only(request).unwrap_or_else(|| self.by_graph(node, kind, request))
    }

    fn claim_status(&self, node: &str, request: &RequestInfo) -> Answer {
        if !matches!(request.verb.as_str(), "update" | "patch") {
            return Answer::no_opinion("can only get/update/patch this type");
        }
        self.by_graph(node, Kind::Claim, request)
    }

    fn token(&self, node: &str, request: &RequestInfo) -> Answer {
        if request.verb != "create" || request.name.is_empty() {
            return Answer::no_opinion("can only create tokens for individual service accounts");
        }
        if request.subresource != "token" {
            return Answer::no_opinion("can only create token subresource of serviceaccount");
        }
        self.by_graph(node, Kind::ServiceAccount, request)
    }

    fn slice(&self, node: &str, request: &RequestInfo) -> Answer {
        if !request.subresource.is_empty() {
            return Answer::no_opinion("cannot authorize ResourceSlice subresources");
        }
        match request.verb.as_str() {
            "create" => Answer::ALLOW,
            "get" | "update" | "patch" | "delete" => {
                related(node, request, self.read().owns_slice(node, &request.name))
            }
            "watch" | "list" | "deletecollection" if selects(request, "spec.nodeName", node) => Answer::ALLOW,
            "watch" | "list" | "deletecollection" => Answer::no_opinion(
                "can only list/watch/deletecollection resourceslices with spec.nodeName field selector",
            ),
            _ => Answer::no_opinion(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, \
                 delete, deletecollection",
            ),
        }
    }

    fn pod(&self, node: &str, request: &RequestInfo) -> Answer {
        match (request.subresource.as_str(), request.verb.as_str()) {
            ("", "get") => self.by_graph(node, Kind::Pod, request),
            ("", "list" | "watch") if selects(request, "spec.nodeName", node) => Answer::ALLOW,
            ("", "list" | "watch") => {
                Answer::no_opinion("can only list/watch pods with spec.nodeName field selector")
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                Answer::ALLOW
            }
            _ => Answer::NO_OPINION,
        }
    }
}

/// The refusal of anything but reading one object.
fn get_only(request: &RequestInfo) -> Option<Answer> {
    if request.verb != "get" {
        return Some(Answer::no_opinion("can only get individual resources of this type"));
    }
    (!request.subresource.is_empty()).then(|| Answer::no_opinion("cannot get subresource"))
}

fn related(node: &str, request: &RequestInfo, found: bool) -> Answer {
    if request.name.is_empty() {
        return Answer::no_opinion("No Object name found");
    }
    if found {
        return Answer::ALLOW;
    }
    Answer::no_opinion(format!("no relationship found between node '{node}' and this object"))
}

/// Whether the request's field selector demands that a field has this value.
fn selects(request: &RequestInfo, field: &str, value: &str) -> bool {
    FieldSelector::parse(&request.field_selector).is_ok_and(|selector| selector.exact(field) == Some(value))
}

fn lease(node: &str, request: &RequestInfo) -> Answer {
    const NAMESPACE: &str = "kube-node-lease";
    if !matches!(request.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return Answer::no_opinion("can only get, create, update, patch, or delete a node lease");
    }
    if request.namespace != NAMESPACE {
        return Answer::no_opinion(format!("can only access leases in the {NAMESPACE:?} system namespace"));
    }
    // On create the name is in the body; admission (NodeRestriction) compares it.
    if request.verb != "create" && request.name != node {
        return Answer::no_opinion("can only access node lease with the same name as the requesting node");
    }
    Answer::ALLOW
}

fn csi_node(node: &str, request: &RequestInfo) -> Answer {
    if !matches!(request.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return Answer::no_opinion("can only get, create, update, patch, or delete a CSINode");
    }
    if !request.subresource.is_empty() {
        return Answer::no_opinion("cannot authorize CSINode subresources");
    }
    if request.verb != "create" && request.name != node {
        return Answer::no_opinion("can only access CSINode with the same name as the requesting node");
    }
    Answer::ALLOW
}

fn own_node(node: &str, request: &RequestInfo) -> Answer {
    match (request.subresource.as_str(), request.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Answer::ALLOW,
        ("", "get" | "list" | "watch") if request.name == node => Answer::ALLOW,
        ("", "get" | "list" | "watch") if request.name.is_empty() => {
            Answer::no_opinion(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => Answer::no_opinion(format!(
            "node '{node}' cannot read '{}', only its own Node object",
            request.name
        )),
        _ => Answer::NO_OPINION,
    }
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Answer {
        self.decide(attributes)
    }

    fn rules_for(&self, user: &UserInfo, _namespace: &str) -> Rules {
        if node_name(user).is_none() {
            return Rules::default();
        }
        Rules {
            incomplete: true,
            evaluation_error: "node authorizer does not support user rule resolution".into(),
            ..Rules::default()
        }
    }
}

#[cfg(test)]
mod tests;
