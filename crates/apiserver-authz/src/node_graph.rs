//! Which objects belong to which node, by way of the pods bound to it.
use std::collections::{HashMap, HashSet};

use machinery::Object;
use serde_json::Value;

type Text = Box<str>;

/// An object that pods refer to, or a pod itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Pod,
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
    ResourceClaim,
}

/// How many pods of each node.
type Uses = HashMap<Text, usize>;
/// Namespace and name.
type Key = (Text, Text);

#[derive(Debug, Default)]
pub(crate) struct NodeGraph {
    /// The node and everything each pod refers to, to undo it later.
    pods: HashMap<Key, (Text, Vec<(Kind, Text)>)>,
    /// How many pods of a node refer to an object: kind, namespace, name, node.
    uses: HashMap<Kind, HashMap<Text, HashMap<Text, Uses>>>,
    volumes: HashMap<Text, Volume>,
    /// Persistent volumes that need a secret.
    secret_volumes: HashMap<Key, HashSet<Text>>,
    attachments: HashMap<Text, Text>,
    slices: HashMap<Text, Text>,
}

#[derive(Debug)]
struct Volume {
    claim: Key,
    secrets: Vec<Key>,
}

impl NodeGraph {
    pub(crate) fn set(&mut self, object: &Object) {
        match object.kind() {
            "Pod" => self.set_pod(object),
            "PersistentVolume" => self.set_volume(object),
            "VolumeAttachment" => {
                self.attachments.insert(object.name().into(), object.str_at(&["spec", "nodeName"]).into());
            }
            "ResourceSlice" => {
                self.slices.insert(object.name().into(), object.str_at(&["spec", "nodeName"]).into());
            }
            _ => {}
        }
    }

    pub(crate) fn remove(&mut self, kind: &str, namespace: &str, name: &str) {
        match kind {
            "Pod" => self.remove_pod(namespace, name),
            "PersistentVolume" => self.remove_volume(name),
            "VolumeAttachment" => {
                self.attachments.remove(name);
            }
            "ResourceSlice" => {
                self.slices.remove(name);
            }
            _ => {}
        }
    }

    /// Whether a pod of the node refers to the object (or is the object).
    pub(crate) fn uses(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let nodes = self.uses.get(&kind).and_then(|m| m.get(namespace)).and_then(|m| m.get(name));
        nodes.is_some_and(|nodes| nodes.contains_key(node))
            || (kind == Kind::Secret && self.mounts_secret(node, namespace, name))
    }

    fn mounts_secret(&self, node: &str, namespace: &str, name: &str) -> bool {
        let volumes = self.secret_volumes.get(&(namespace.into(), name.into()));
        volumes.into_iter().flatten().any(|volume| self.uses_volume(node, volume))
    }

    /// Whether a pod of the node uses the claim of a persistent volume.
    pub(crate) fn uses_volume(&self, node: &str, volume: &str) -> bool {
        self.volumes.get(volume).is_some_and(|v| self.uses(node, Kind::Claim, &v.claim.0, &v.claim.1))
    }

    /// Whether a volume attachment is the node's.
    pub(crate) fn owns_attachment(&self, node: &str, name: &str) -> bool {
        self.attachments.get(name).is_some_and(|n| **n == *node)
    }

    /// Whether a resource slice is the node's.
    pub(crate) fn owns_slice(&self, node: &str, name: &str) -> bool {
        self.slices.get(name).is_some_and(|n| **n == *node)
    }

    fn set_pod(&mut self, pod: &Object) {
        let (namespace, name) = (pod.namespace(), pod.name());
        let node = pod.str_at(&["spec", "nodeName"]);
        let refs = if node.is_empty() { Vec::new() } else { pod_refs(pod) };
        let key: Key = (namespace.into(), name.into());
        if let Some((old_node, old_refs)) = self.pods.get(&key)
            && **old_node == *node
            && *old_refs == refs
        {
            return;
        }
        self.remove_pod(namespace, name);
        if node.is_empty() {
            return;
        }
        for (kind, target) in &refs {
            let by_name = self.uses.entry(*kind).or_default().entry(namespace.into()).or_default();
            *by_name.entry(target.clone()).or_default().entry(node.into()).or_default() += 1;
        }
        self.pods.insert(key, (node.into(), refs));
    }

    fn remove_pod(&mut self, namespace: &str, name: &str) {
        let Some((node, refs)) = self.pods.remove(&(namespace.into(), name.into())) else { return };
        for (kind, target) in refs {
            let Some(namespaces) = self.uses.get_mut(&kind) else { continue };
            let Some(by_name) = namespaces.get_mut(namespace) else { continue };
            if let Some(nodes) = by_name.get_mut(&target) {
                if let Some(count) = nodes.get_mut(&node) {
                    *count -= 1;
                    if *count == 0 {
                        nodes.remove(&node);
                    }
                }
                if nodes.is_empty() {
                    by_name.remove(&target);
                }
            }
            if by_name.is_empty() {
                namespaces.remove(namespace);
            }
        }
    }

    fn set_volume(&mut self, volume: &Object) {
        let name = volume.name();
        self.remove_volume(name);
        let claim_ref = |field: &str| volume.str_at(&["spec", "claimRef", field]);
        if claim_ref("name").is_empty() {
            return;
        }
        let claim: Key = (claim_ref("namespace").into(), claim_ref("name").into());
        let mut secrets = Vec::new();
        let spec = volume.at(&["spec"]).and_then(Value::as_object);
        for source in spec.into_iter().flat_map(|s| s.values()) {
            for field in VOLUME_SECRETS {
                let Some(secret) = source.get(field) else { continue };
                let text = |key: &str| secret.get(key).and_then(Value::as_str).unwrap_or("");
                if !text("name").is_empty() {
                    let namespace = if text("namespace").is_empty() { &claim.0 } else { text("namespace") };
                    secrets.push((namespace.into(), text("name").into()));
                }
            }
        }
        // Azure files name their secret as plain text.
        let azure = |field: &str| volume.str_at(&["spec", "azureFile", field]);
        if !azure("secretName").is_empty() {
            let namespace =
                if azure("secretNamespace").is_empty() { &claim.0 } else { azure("secretNamespace") };
            secrets.push((namespace.into(), azure("secretName").into()));
        }
        for secret in &secrets {
            self.secret_volumes.entry(secret.clone()).or_default().insert(name.into());
        }
        self.volumes.insert(name.into(), Volume { claim, secrets });
    }

    fn remove_volume(&mut self, name: &str) {
        let Some(volume) = self.volumes.remove(name) else { return };
        for secret in volume.secrets {
            if let Some(volumes) = self.secret_volumes.get_mut(&secret) {
                volumes.remove(name);
                if volumes.is_empty() {
                    self.secret_volumes.remove(&secret);
                }
            }
        }
    }
}

/// Fields of a persistent volume's source that refer to a secret which the node reads.
const VOLUME_SECRETS: [&str; 5] = [
    "secretRef",
    "nodePublishSecretRef",
    "nodeStageSecretRef",
    "nodeExpandSecretRef",
    "controllerExpandSecretRef",
];

/// Everything a pod refers to in its own namespace, itself included, sorted and without doubles.
fn pod_refs(pod: &Object) -> Vec<(Kind, Text)> {
    let mut refs = vec![(Kind::Pod, Text::from(pod.name()))];
    // A mirror pod of a static pod must not give its node anything.
    if pod.annotation("kubernetes.io/config.mirror").is_some() {
        return refs;
    }
    let mut add = |kind: Kind, name: Option<&Value>| {
        if let Some(name) = name.and_then(Value::as_str)
            && !name.is_empty()
        {
            refs.push((kind, name.into()));
        }
    };
    let name_of = |v: &'_ Value, field: &str| v.get(field).and_then(|r| r.get("name")).cloned();
    add(Kind::ServiceAccount, pod.at(&["spec", "serviceAccountName"]));
    for secret in pod.list_at(&["spec", "imagePullSecrets"]) {
        add(Kind::Secret, secret.get("name"));
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in pod.list_at(&["spec", list]) {
            let items = |field: &str| container.get(field).and_then(Value::as_array).into_iter().flatten();
            for env in items("env").filter_map(|e| e.get("valueFrom")) {
                add(Kind::Secret, name_of(env, "secretKeyRef").as_ref());
                add(Kind::ConfigMap, name_of(env, "configMapKeyRef").as_ref());
            }
            for from in items("envFrom") {
                add(Kind::Secret, name_of(from, "secretRef").as_ref());
                add(Kind::ConfigMap, name_of(from, "configMapRef").as_ref());
            }
        }
    }
    for volume in pod.list_at(&["spec", "volumes"]) {
        let source = |field: &str| volume.get(field);
        add(Kind::Secret, source("secret").and_then(|s| s.get("secretName")));
        add(Kind::Secret, source("azureFile").and_then(|s| s.get("secretName")));
        add(Kind::ConfigMap, name_of(volume, "configMap").as_ref());
        add(Kind::Claim, source("persistentVolumeClaim").and_then(|s| s.get("claimName")));
        if source("ephemeral").is_some() {
            let own = volume.get("name").and_then(Value::as_str).unwrap_or("");
            add(Kind::Claim, Some(&Value::from(format!("{}-{own}", pod.name()))));
        }
        for of in volume.as_object().into_iter().flat_map(|v| v.values()) {
            add(Kind::Secret, name_of(of, "secretRef").as_ref());
            add(Kind::Secret, name_of(of, "nodePublishSecretRef").as_ref());
        }
        let projected = source("projected").and_then(|p| p.get("sources")).and_then(Value::as_array);
        for part in projected.into_iter().flatten() {
            add(Kind::Secret, name_of(part, "secret").as_ref());
            add(Kind::ConfigMap, name_of(part, "configMap").as_ref());
        }
    }
    for claim in pod.list_at(&["spec", "resourceClaims"]) {
        add(Kind::ResourceClaim, claim.get("resourceClaimName"));
    }
    for claim in pod.list_at(&["status", "resourceClaimStatuses"]) {
        add(Kind::ResourceClaim, claim.get("resourceClaimName"));
    }
    add(Kind::ResourceClaim, pod.at(&["status", "extendedResourceClaimStatus", "resourceClaimName"]));
    refs.sort_unstable_by(|a, b| (a.0 as u8, &a.1).cmp(&(b.0 as u8, &b.1)));
    refs.dedup();
    refs
}
