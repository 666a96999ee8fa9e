//! Claims, volumes and storage classes, and what has to happen to a pod's claims before it can run on a node.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::ObjectKey;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use machinery::Quantity;
use machinery::label_selector::LabelSelector;

use crate::framework::Rejection;
use crate::node::NodeInfo;
use crate::pod::{NodeTerm, PodInfo};

const UNBOUND: &str = "pod has unbound immediate PersistentVolumeClaims";
const NO_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const WRONG_NODE: &str = "node(s) didn't match PersistentVolume's node affinity";
const NONE_FREE: &str = "node(s) didn't find available persistent volumes to bind";

/// Set on a claim once it is bound for good.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// Everything about storage that scheduling depends on.
#[derive(Debug, Clone, Default)]
pub struct Volumes {
    /// Claims.
    pub claims: HashMap<ObjectKey, Arc<PersistentVolumeClaim>>,
    /// Volumes, by name.
    pub volumes: BTreeMap<String, Arc<PersistentVolume>>,
    /// Storage classes, by name.
    pub classes: HashMap<String, Arc<StorageClass>>,
}

/// What has to happen to the claims of a pod that goes to a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Steps {
    /// Claims that a provisioner is to serve for that node.
    pub provision: Vec<ObjectKey>,
    /// Volumes to give to claims.
    pub give: Vec<(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)>,
}

/// A pod's claims, sorted by what they wait for.
#[derive(Debug, Default)]
pub struct Claims {
    bound: Vec<Arc<PersistentVolumeClaim>>,
    /// Bound only once the node is known.
    waiting: Vec<Arc<PersistentVolumeClaim>>,
}

/// Names of the claims that a pod mounts, and whether each is made from the pod itself.
pub fn claim_names(pod: &PodInfo) -> impl Iterator<Item = (String, bool)> {
    let volumes = pod.spec().and_then(|s| s.volumes.as_ref());
    volumes.into_iter().flatten().filter_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(claim), _) => Some((claim.claim_name.clone(), false)),
        (None, Some(_)) => Some((format!("{}-{}", pod.key.name, v.name), true)),
        (None, None) => None,
    })
}

/// Whether a claim has its volume for good.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or("");
    let annotations = claim.metadata.annotations.as_ref();
    !volume.is_empty() && annotations.is_some_and(|a| a.contains_key(BIND_COMPLETED))
}

fn class_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()).unwrap_or("")
}

impl Volumes {
    /// Looks at the claims of a pod. An error: it cannot run on any node yet.
    pub fn claims_of(&self, pod: &PodInfo) -> Result<Claims, Rejection> {
        let mut out = Claims::default();
        let mut unbound = false;
        for (name, ephemeral) in claim_names(pod) {
            let Some(claim) = self.claims.get(&ObjectKey::new(pod.key.namespace.as_str(), name.as_str()))
            else {
                return Err(Rejection::unresolvable(if ephemeral {
                    format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                    )
                } else {
                    format!("persistentvolumeclaim {name:?} not found")
                }));
            };
            let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
            let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or("");
            if phase == Some("Lost") {
                return Err(Rejection::unresolvable(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                )));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(Rejection::unresolvable(format!(
                    "persistentvolumeclaim {name:?} is being deleted"
                )));
            }
            if is_bound(claim) {
                out.bound.push(claim.clone());
            } else if volume.is_empty() && self.waits_for_consumer(claim) {
                out.waiting.push(claim.clone());
            } else {
                unbound = true;
            }
        }
        if unbound { Err(Rejection::unresolvable(UNBOUND)) } else { Ok(out) }
    }

    fn waits_for_consumer(&self, claim: &PersistentVolumeClaim) -> bool {
        self.classes
            .get(class_name(claim))
            .is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
    }

    /// What has to happen so that the claims can be used on a node.
    pub fn plan(&self, claims: &Claims, node: &NodeInfo) -> Result<Steps, Rejection> {
        let mut steps = Steps::default();
        for claim in &claims.bound {
            let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or("");
            match self.volumes.get(name) {
                None => return Err(Rejection::unresolvable(NO_VOLUME)),
                Some(volume) if !reaches(volume, node) => return Err(Rejection::unresolvable(WRONG_NODE)),
                Some(_) => {}
            }
        }
        for claim in &claims.waiting {
            let taken =
                |v: &PersistentVolume| steps.give.iter().any(|(g, _)| g.metadata.name == v.metadata.name);
            let fitting = self.volumes.values().filter(|v| !taken(v) && fits(v, claim) && reaches(v, node));
            if let Some(volume) = fitting.min_by_key(|v| capacity(v)).cloned() {
                steps.give.push((volume, claim.clone()));
                continue;
            }
            let class = self.classes.get(class_name(claim));
            if class.is_none_or(|c| c.provisioner == NO_PROVISIONER || !allows(c, node)) {
                return Err(Rejection::unresolvable(NONE_FREE));
            }
            steps.provision.push(ObjectKey::of(&**claim));
        }
        Ok(steps)
    }
}

impl Claims {
    /// Whether every node will do.
    pub fn is_empty(&self) -> bool {
        self.bound.is_empty() && self.waiting.is_empty()
    }
}

/// Whether a node can use a volume.
fn reaches(volume: &PersistentVolume, node: &NodeInfo) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref());
    affinity.and_then(|a| a.required.as_ref()).is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| NodeTerm::new(term).matches(node))
    })
}

fn capacity(volume: &PersistentVolume) -> Quantity {
    let capacity = volume.spec.as_ref().and_then(|s| s.capacity.as_ref());
    capacity.and_then(|c| c.get("storage")).map(Quantity::from_wire).unwrap_or_default()
}

/// Whether a volume that nobody has can serve a claim.
fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(has), Some(wants)) = (&volume.spec, &claim.spec) else { return false };
    let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
    let size = wants.resources.as_ref().and_then(|r| r.requests.as_ref()?.get("storage"));
    let modes = has.access_modes.as_deref().unwrap_or(&[]);
    let mode = |m: &Option<String>| m.clone().unwrap_or_else(|| "Filesystem".into());
    has.claim_ref.is_none()
        && volume.metadata.deletion_timestamp.is_none()
        && phase == Some("Available")
        && has.storage_class_name.as_deref().unwrap_or("") == class_name(claim)
        && mode(&has.volume_mode) == mode(&wants.volume_mode)
        && wants.access_modes.iter().flatten().all(|m| modes.contains(m))
        && size.map(Quantity::from_wire).unwrap_or_default() <= capacity(volume)
        && wants.selector.as_ref().is_none_or(|s| {
            LabelSelector::from_typed(s).is_ok_and(|s| s.matches_optional(volume.metadata.labels.as_ref()))
        })
}

/// Whether a class provisions for a node.
fn allows(class: &StorageClass, node: &NodeInfo) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or(&[]);
    terms.is_empty()
        || terms.iter().any(|term| {
            let expressions = term.match_label_expressions.as_deref().unwrap_or(&[]);
            expressions.iter().all(|e| node.label(&e.key).is_some_and(|v| e.values.iter().any(|w| w == v)))
        })
}
