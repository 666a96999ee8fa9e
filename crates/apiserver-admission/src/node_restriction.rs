//! `NodeRestriction`: a kubelet writes its own Node, Lease and CSINode, and the status of its own pods, and no more.
use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::gvk::GroupResource;
use machinery::request::UserInfo;
use machinery::{Object, StatusError, StatusResult};
use serde_json::Value;

use crate::pod_refs;
use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

/// The plugin.
pub struct NodeRestriction(pub Arc<dyn ClusterView>);

const NODE_LEASES: &str = "kube-node-lease";

fn node_name(user: &UserInfo) -> Option<&str> {
    user.name.strip_prefix("system:node:").filter(|_| user.in_group("system:nodes"))
}

impl NodeRestriction {
    async fn find(&self, resource: Resource, namespace: &str, name: &str) -> StatusResult<Arc<Object>> {
        let found = match self.0.get(resource, namespace, name) {
            Some(object) => Some(object),
            None => self.0.get_live(resource, namespace, name).await?,
        };
        found
            .ok_or_else(|| StatusError::not_found(&GroupResource::new(resource.group, resource.plural), name))
    }

    async fn pod(&self, node: &str, a: &Attributes<'_>) -> StatusResult<()> {
        match (a.operation, a.object()) {
            (Operation::Create, Some(pod)) => {
                let owner = may_create_pod(node, pod).map_err(|why| a.forbidden(why))?;
                let uid = self.find(Resource::NODES, "", node).await?.uid().to_owned();
                if owner != uid {
                    return Err(a.forbidden(format!("node {node} UID mismatch: expected {owner} got {uid}")));
                }
                Ok(())
            }
            (Operation::Delete, _) => {
                let pod = self.find(Resource::PODS, a.namespace, a.name).await?;
                if pod.str_at(&["spec", "nodeName"]) != node {
                    let why = format!("node {node:?} can only delete pods with spec.nodeName set to itself");
                    return Err(a.forbidden(why));
                }
                Ok(())
            }
            (operation, _) => Err(a.forbidden(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                operation.as_str()
            ))),
        }
    }

    async fn eviction(&self, node: &str, a: &Attributes<'_>) -> StatusResult<()> {
        if a.operation != Operation::Create {
            return Err(a.forbidden(format!("unexpected operation {}", a.operation.as_str())));
        }
        let name = if a.name.is_empty() { a.object().map_or("", Object::name) } else { a.name };
        if name.is_empty() {
            return Err(a.forbidden("could not determine pod from request data"));
        }
        let pod = self.find(Resource::PODS, a.namespace, name).await?;
        if pod.str_at(&["spec", "nodeName"]) != node {
            return Err(
                a.forbidden(format!("node {node} can only evict pods with spec.nodeName set to itself"))
            );
        }
        Ok(())
    }

    async fn token(&self, node: &str, a: &Attributes<'_>) -> StatusResult<()> {
        let Some(request) = a.object().filter(|_| a.operation == Operation::Create) else { return Ok(()) };
        let bound = |field: &str| request.str_at(&["spec", "boundObjectRef", field]);
        if bound("apiVersion") != "v1" || bound("kind") != "Pod" || bound("name").is_empty() {
            return Err(a.forbidden("node requested token not bound to a pod"));
        }
        if bound("uid").is_empty() {
            return Err(a.forbidden("node requested token with a pod binding without a uid"));
        }
        let pod = self.find(Resource::PODS, a.namespace, bound("name")).await?;
        if pod.uid() != bound("uid") {
            return Err(a.forbidden(format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have been \
                 deleted and then recreated",
                bound("uid")
            )));
        }
        if pod.str_at(&["spec", "nodeName"]) != node {
            return Err(a.forbidden("node requested token bound to a pod scheduled on a different node"));
        }
        let audience = match request.list_at(&["spec", "audiences"]) {
            [] => "",
            [one] => one.as_str().unwrap_or(""),
            _ => return Err(a.forbidden("node may only request 0 or 1 audiences")),
        };
        if self.wants_audience(&pod, audience) {
            return Ok(());
        }
        Err(a.forbidden(format!("audience {audience:?} not found in pod spec volume")))
    }

    /// Whether a volume of a pod takes a token for this audience: a projected one, or one of a driver that wants tokens.
    fn wants_audience(&self, pod: &Object, audience: &str) -> bool {
        let text =
            |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        pod.list_at(&["spec", "volumes"]).iter().any(|volume| {
            let projected = pod_refs::projections(volume)
                .filter_map(|source| source.get("serviceAccountToken"))
                .any(|token| token["audience"].as_str().unwrap_or("") == audience);
            let claim = text(volume, "/persistentVolumeClaim/claimName").or_else(|| {
                volume
                    .get("ephemeral")
                    .map(|_| format!("{}-{}", pod.name(), volume["name"].as_str().unwrap_or("")))
            });
            let driver = text(volume, "/csi/driver").or_else(|| {
                let claim = self.0.get(Resource::VOLUME_CLAIMS, pod.namespace(), &claim?)?;
                let volume = self.0.get(Resource::VOLUMES, "", claim.str_at(&["spec", "volumeName"]))?;
                Some(volume.str_at(&["spec", "csi", "driver"]).to_owned()).filter(|d| !d.is_empty())
            });
            projected || driver.is_some_and(|driver| self.driver_wants(&driver, audience))
        })
    }

    fn driver_wants(&self, driver: &str, audience: &str) -> bool {
        let driver = self.0.get(Resource::CSI_DRIVERS, "", driver);
        driver.is_some_and(|driver| {
            let requests = driver.list_at(&["spec", "tokenRequests"]);
            requests.iter().any(|request| request["audience"].as_str().unwrap_or("") == audience)
        })
    }
}

/// Whether a node may make this pod: only the mirror of a static pod of its own. Gives the uid of the owner reference.
fn may_create_pod<'a>(node: &str, pod: &'a Object) -> Result<&'a str, String> {
    if !pod_refs::is_mirror(pod) {
        return Err(format!(
            "pod does not have {:?} annotation, node {node:?} can only create mirror pods",
            pod_refs::MIRROR_ANNOTATION
        ));
    }
    if pod.str_at(&["spec", "nodeName"]) != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owner = match pod.list_at(&["metadata", "ownerReferences"]) {
        [one] => one,
        [] => {
            return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
        }
        _ => {
            return Err(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
    };
    let text = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or("");
    let flag = |field: &str| owner.get(field).and_then(Value::as_bool).unwrap_or(false);
    if (text("apiVersion"), text("kind"), text("name")) != ("v1", "Node", node) {
        return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if !flag("controller") {
        return Err(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        ));
    }
    if flag("blockOwnerDeletion") {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let refuse = |what: &str| Err(format!("node {node:?} can not create pods that reference {what}"));
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return refuse("a service account");
    }
    if !pod_refs::secrets(pod).is_empty() {
        return refuse("secrets");
    }
    if !pod_refs::config_maps(pod).is_empty() {
        return refuse("configmaps");
    }
    let volumes = pod.list_at(&["spec", "volumes"]);
    for (source, what) in
        [("clusterTrustBundle", "clustertrustbundles"), ("podCertificate", "podcertificates")]
    {
        if volumes.iter().flat_map(pod_refs::projections).any(|s| s.get(source).is_some()) {
            return refuse(what);
        }
    }
    if volumes.iter().any(|v| v.get("persistentVolumeClaim").is_some()) {
        return refuse("persistentvolumeclaims");
    }
    if !pod.list_at(&["spec", "resourceClaims"]).is_empty() {
        return refuse("resourceclaims");
    }
    Ok(text("uid"))
}

fn pod_status(node: &str, a: &Attributes<'_>) -> StatusResult<()> {
    let (Operation::Update, Some(new), Some(old)) = (a.operation, a.object(), a.old) else {
        return Err(a.forbidden(format!("unexpected operation {:?}", a.operation.as_str())));
    };
    let why = if old.str_at(&["spec", "nodeName"]) != node {
        "can only update pod status for pods with spec.nodeName set to itself"
    } else if !old.labels().eq(new.labels()) {
        "cannot update labels through pod status"
    } else if old.list_at(&["status", "resourceClaimStatuses"])
        != new.list_at(&["status", "resourceClaimStatuses"])
    {
        "cannot update resource claim statues"
    } else {
        return Ok(());
    };
    Err(a.forbidden(format!("node {node:?} {why}")))
}

fn claim(node: &str, a: &Attributes<'_>) -> StatusResult<()> {
    if a.subresource != "status" {
        return Err(a.forbidden("may only update PVC status"));
    }
    let (Operation::Update, Some(new), Some(old)) = (a.operation, a.object(), a.old) else {
        return Err(a.forbidden(format!("unexpected operation {:?}", a.operation.as_str())));
    };
    let bare = |claim: &Object| {
        let mut bare = claim.clone();
        bare.remove(&["metadata", "resourceVersion"]);
        bare.remove(&["metadata", "managedFields"]);
        for field in ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"] {
            bare.remove(&["status", field]);
        }
        if bare.at(&["status"]).and_then(Value::as_object).is_some_and(|s| s.is_empty()) {
            bare.remove(&["status"]);
        }
        bare
    };
    if bare(new) != bare(old) {
        return Err(a.forbidden(format!(
            "node {node:?} is not allowed to update fields other than status.capacity and status.conditions"
        )));
    }
    Ok(())
}

fn node_object(node: &str, a: &Attributes<'_>) -> StatusResult<()> {
    let name = if a.name.is_empty() { a.object().map_or("", Object::name) } else { a.name };
    if name != node {
        return Err(a.forbidden(format!("node {node:?} is not allowed to modify node {name:?}")));
    }
    let Some(new) = a.object() else { return Ok(()) };
    let source = |o: &Object| o.at(&["spec", "configSource"]).filter(|v| !v.is_null()).cloned();
    match (a.operation, a.old) {
        (Operation::Create, _) => {
            if source(new).is_some() {
                return Err(a.forbidden(format!(
                    "node {node:?} is not allowed to create pods with a non-nil configSource"
                )));
            }
            let labels = forbidden_labels(new, &Object::default());
            if !labels.is_empty() {
                return Err(a.forbidden(format!(
                    "node {node:?} is not allowed to set the following labels: {labels}"
                )));
            }
        }
        (Operation::Update, Some(old)) => {
            if source(new).is_some() && source(new) != source(old) {
                return Err(a.forbidden(format!(
                    "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                )));
            }
            if new.list_at(&["spec", "taints"]) != old.list_at(&["spec", "taints"]) {
                return Err(a.forbidden(format!("node {node:?} is not allowed to modify taints")));
            }
            if new.list_at(&["metadata", "ownerReferences"]) != old.list_at(&["metadata", "ownerReferences"])
            {
                return Err(a.forbidden(format!("node {node:?} is not allowed to modify ownerReferences")));
            }
            let labels = forbidden_labels(new, old);
            if !labels.is_empty() {
                return Err(a.forbidden(format!("is not allowed to modify labels: {labels}")));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Changed labels that a node may not touch, joined.
fn forbidden_labels(new: &Object, old: &Object) -> String {
    let changed = |from: &Object, to: &Object| -> Vec<String> {
        from.labels().filter(|(k, v)| to.label(k) != Some(*v)).map(|(k, _)| k.to_owned()).collect()
    };
    let keys: BTreeSet<String> = changed(new, old).into_iter().chain(changed(old, new)).collect();
    let forbidden: Vec<String> = keys.into_iter().filter(|k| is_forbidden(k)).collect();
    forbidden.join(", ")
}

fn is_forbidden(label: &str) -> bool {
    const KUBELET: [&str; 11] = [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/instance-type",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    ];
    let prefix = label.split_once('/').map_or("", |(prefix, _)| prefix);
    let below =
        |domain: &str| prefix == domain || prefix.strip_suffix(domain).is_some_and(|p| p.ends_with('.'));
    if below("node-restriction.kubernetes.io") {
        return true;
    }
    let kubelets_own =
        KUBELET.contains(&label) || below("kubelet.kubernetes.io") || below("node.kubernetes.io");
    (below("kubernetes.io") || below("k8s.io")) && !kubelets_own
}

fn same_name(node: &str, a: &Attributes<'_>, what: &str) -> StatusResult<()> {
    let name = if a.operation == Operation::Create { a.object().map_or("", Object::name) } else { a.name };
    if name == node {
        return Ok(());
    }
    Err(a.forbidden(format!("can only access {what} with the same name as the requesting node")))
}

/// A node asks for certificates of its own name only.
fn signing_request(node: &str, a: &Attributes<'_>) -> StatusResult<()> {
    let Some(request) = a.object().filter(|_| a.operation == Operation::Create) else { return Ok(()) };
    let signer = request.str_at(&["spec", "signerName"]);
    if !matches!(signer, "kubernetes.io/kubelet-serving" | "kubernetes.io/kube-apiserver-client-kubelet") {
        return Ok(());
    }
    let pem = STANDARD.decode(request.str_at(&["spec", "request"])).unwrap_or_default();
    let asked = pki::CertificateRequest::from_pem(&String::from_utf8_lossy(&pem))
        .map_err(|e| a.forbidden(format!("unable to parse csr: {e}")))?;
    if asked.subject.common_name != format!("system:node:{node}") {
        return Err(a.forbidden(format!("can only create a node CSR with CN=system:node:{node}")));
    }
    Ok(())
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        let a = &*a;
        let Some(node) = node_name(a.user) else { return Ok(()) };
        if node.is_empty() {
            return Err(a.forbidden(format!("could not determine node from user {:?}", a.user.name)));
        }
        match (a.gvr.group.as_str(), a.gvr.resource.as_str(), a.subresource) {
            ("", "pods", "") => self.pod(node, a).await,
            ("", "pods", "status") => pod_status(node, a),
            ("", "pods", "eviction") => self.eviction(node, a).await,
            ("", "pods", other) => Err(a.forbidden(format!(
                "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
            ))),
            ("", "nodes", _) => node_object(node, a),
            ("", "persistentvolumeclaims", _) => claim(node, a),
            ("", "serviceaccounts", "token") => self.token(node, a).await,
            ("coordination.k8s.io", "leases", _) => {
                if a.namespace != NODE_LEASES {
                    let why = format!("can only access leases in the {NODE_LEASES:?} system namespace");
                    return Err(a.forbidden(why));
                }
                same_name(node, a, "node lease")
            }
            ("certificates.k8s.io", "certificatesigningrequests", "") => signing_request(node, a),
            ("storage.k8s.io", "csinodes", _) => same_name(node, a, "CSINode"),
            ("resource.k8s.io", "resourceslices", _) => {
                let of = |o: Option<&Object>| o.map(|o| o.str_at(&["spec", "nodeName"]).to_owned());
                let shown = if a.operation == Operation::Delete { of(a.old) } else { of(a.object()) };
                match shown {
                    Some(name) if name != node => Err(a.forbidden(format!(
                        "can only {} ResourceSlice with the same NodeName as the requesting node",
                        a.operation.as_str().to_lowercase()
                    ))),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
