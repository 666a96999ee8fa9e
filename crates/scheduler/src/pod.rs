//! What the scheduler knows of a pod, read once from its object.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::ObjectKey;
use k8s_openapi::api::core::v1::{NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, TopologySpreadConstraint};
use machinery::label_selector::{LabelSelector, Operator, Requirement};

use crate::node::NodeInfo;
use crate::resources::{Requests, requests};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// The scheduler's view of a pod.
#[derive(Debug)]
pub struct PodInfo {
    /// The object.
    pub pod: Arc<Pod>,
    /// Its key.
    pub key: ObjectKey,
    /// Its UID.
    pub uid: String,
    /// Its priority.
    pub priority: i32,
    /// What it asks of a node.
    pub requests: Requests,
    /// Ports of the host it wants.
    pub ports: Vec<HostPort>,
    /// The nodes it may run on.
    pub node_terms: NodeTerms,
    /// Its rules about other pods; `None` for most pods.
    pub affinity: Option<Box<PodRules>>,
}

impl PodInfo {
    /// Reads a pod.
    pub fn new(pod: Arc<Pod>) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        Self {
            key: ObjectKey::of(&*pod),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            requests: requests(&pod),
            ports: host_ports(spec),
            node_terms: NodeTerms::new(spec),
            affinity: PodRules::new(&pod, spec),
            pod,
        }
    }

    /// The spec; every pod has one.
    pub fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    /// The labels.
    pub fn labels(&self) -> Option<&Labels> {
        self.pod.metadata.labels.as_ref()
    }

    /// Whether it is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }
}

/// The node a pod is assigned to; empty: none.
pub fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("")
}

/// Whether a pod has run to its end, after which it holds nothing.
pub fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// A port of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Empty for all addresses.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The number.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be open on one host.
    pub fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip.is_empty() || other.ip.is_empty() || self.ip == other.ip)
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let port = p.host_port.filter(|p| *p > 0)?;
            let ip = p.host_ip.clone().filter(|ip| ip != "0.0.0.0").unwrap_or_default();
            Some(HostPort { ip, protocol: p.protocol.clone().unwrap_or("TCP".into()), port })
        })
        .collect()
}

/// `nodeSelector` and node affinity.
#[derive(Debug, Default)]
pub struct NodeTerms {
    selector: Vec<(String, String)>,
    required: Option<Vec<NodeTerm>>,
    /// Terms that a node is better for matching, with their weights.
    pub preferred: Vec<(i64, NodeTerm)>,
}

impl NodeTerms {
    fn new(spec: &PodSpec) -> Self {
        let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let preferred =
            affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        Self {
            selector: spec.node_selector.clone().into_iter().flatten().collect(),
            required: required.map(|r| r.node_selector_terms.iter().map(NodeTerm::new).collect()),
            preferred: preferred
                .into_iter()
                .flatten()
                .filter(|p| p.weight != 0)
                .map(|p| (i64::from(p.weight), NodeTerm::new(&p.preference)))
                .collect(),
        }
    }

    /// Whether any node will do.
    pub fn is_empty(&self) -> bool {
        self.selector.is_empty() && self.required.is_none()
    }

    /// Whether a node meets them.
    pub fn allow(&self, node: &NodeInfo) -> bool {
        let labels = node.labels();
        self.selector.iter().all(|(k, v)| labels.is_some_and(|l| l.get(k) == Some(v)))
            && self.required.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(node)))
    }
}

/// One alternative of a node selector. What cannot be read matches nothing.
#[derive(Debug, Default)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    names: Vec<(bool, Vec<String>)>,
    never: bool,
}

impl NodeTerm {
    /// Reads a term.
    pub fn new(term: &NodeSelectorTerm) -> Self {
        let mut out = Self::default();
        for e in term.match_expressions.iter().flatten() {
            let operator = match e.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                "Gt" => Operator::GreaterThan,
                "Lt" => Operator::LessThan,
                _ => {
                    out.never = true;
                    continue;
                }
            };
            match Requirement::new(&e.key, operator, e.values.iter().flatten().cloned()) {
                Ok(requirement) => out.labels.push(requirement),
                Err(_) => out.never = true,
            }
        }
        for e in term.match_fields.iter().flatten() {
            match (e.key.as_str(), e.operator.as_str()) {
                ("metadata.name", "In" | "NotIn") => {
                    out.names.push((e.operator == "In", e.values.clone().unwrap_or_default()));
                }
                _ => out.never = true,
            }
        }
        out.never |= out.labels.is_empty() && out.names.is_empty();
        out
    }

    /// Whether a node matches.
    pub fn matches(&self, node: &NodeInfo) -> bool {
        !self.never
            && self.labels.iter().all(|r| r.matches(node.label(r.key())))
            && self.names.iter().all(|(wanted, names)| names.contains(&node.name) == *wanted)
    }
}

/// Pod affinity, anti-affinity and topology spread.
#[derive(Debug, Default)]
pub struct PodRules {
    /// Pods that must be near.
    pub affinity: Vec<PodTerm>,
    /// Pods that must not be near.
    pub anti_affinity: Vec<PodTerm>,
    /// Pods that are better near (or, with a negative weight, far).
    pub preferred: Vec<(i64, PodTerm)>,
    /// Constraints that must hold.
    pub spread: Vec<Spread>,
    /// Constraints that would better hold.
    pub soft_spread: Vec<Spread>,
}

impl PodRules {
    fn new(pod: &Pod, spec: &PodSpec) -> Option<Box<Self>> {
        let affinity = spec.affinity.as_ref();
        let near = affinity.and_then(|a| a.pod_affinity.as_ref());
        let far = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let spread = spec.topology_spread_constraints.as_deref().unwrap_or(&[]);
        if near.is_none() && far.is_none() && spread.is_empty() {
            return None;
        }
        let terms = |list: Option<&Vec<PodAffinityTerm>>| -> Vec<PodTerm> {
            list.into_iter().flatten().map(|t| PodTerm::new(pod, t)).collect()
        };
        let mut rules = Self {
            affinity: terms(
                near.and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            anti_affinity: terms(
                far.and_then(|f| f.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            ..Self::default()
        };
        let soft_near = near.and_then(|n| n.preferred_during_scheduling_ignored_during_execution.as_ref());
        let soft_far = far.and_then(|f| f.preferred_during_scheduling_ignored_during_execution.as_ref());
        for (sign, list) in [(1, soft_near), (-1, soft_far)] {
            for t in list.into_iter().flatten() {
                let term = PodTerm::new(pod, &t.pod_affinity_term);
                rules.preferred.push((sign * i64::from(t.weight), term));
            }
        }
        for constraint in spread {
            let soft = constraint.when_unsatisfiable == "ScheduleAnyway";
            let list = if soft { &mut rules.soft_spread } else { &mut rules.spread };
            list.push(Spread::new(pod, constraint));
        }
        Some(Box::new(rules))
    }
}

/// A set of pods and the places they are counted in.
#[derive(Debug)]
pub struct PodTerm {
    namespaces: BTreeSet<String>,
    namespace_selector: LabelSelector,
    selector: LabelSelector,
    /// Label of nodes that makes places.
    pub topology_key: String,
}

impl PodTerm {
    fn new(pod: &Pod, term: &PodAffinityTerm) -> Self {
        let mut namespaces: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.extend(pod.metadata.namespace.clone());
        }
        let read = |s| LabelSelector::from_optional(s).unwrap_or_else(|_| LabelSelector::nothing());
        Self {
            namespaces,
            namespace_selector: read(term.namespace_selector.as_ref()),
            selector: read(term.label_selector.as_ref()),
            topology_key: term.topology_key.clone(),
        }
    }

    /// Whether a pod is one of the set. `namespaces` gives the labels of a namespace.
    pub fn matches(&self, pod: &PodInfo, namespaces: &BTreeMap<String, Labels>) -> bool {
        let namespace = pod.key.namespace.as_str();
        let here = self.namespaces.contains(namespace)
            || self.namespace_selector.is_empty()
            || namespaces.get(namespace).is_some_and(|l| self.namespace_selector.matches_map(l));
        here && self.selector.matches_optional(pod.labels())
    }
}

/// A topology spread constraint.
#[derive(Debug)]
pub struct Spread {
    /// How uneven the places may be.
    pub max_skew: i64,
    /// Label of nodes that makes places.
    pub topology_key: String,
    /// The pods that are counted.
    pub selector: LabelSelector,
    /// With fewer places than this the least count is taken as zero.
    pub min_domains: i64,
    /// Whether nodes that the pod's node affinity excludes are left out.
    pub honor_affinity: bool,
    /// Whether nodes with taints that the pod does not tolerate are left out.
    pub honor_taints: bool,
}

impl Spread {
    fn new(pod: &Pod, c: &TopologySpreadConstraint) -> Self {
        let mut selector = c.label_selector.clone();
        // Values of these labels of the pod itself become part of the selector.
        if let Some(keys) = &c.match_label_keys {
            let labels = pod.metadata.labels.as_ref();
            let own = keys.iter().filter_map(|k| Some((k.clone(), labels?.get(k)?.clone())));
            selector.get_or_insert_default().match_labels.get_or_insert_default().extend(own);
        }
        Self {
            max_skew: i64::from(c.max_skew),
            topology_key: c.topology_key.clone(),
            selector: LabelSelector::from_optional(selector.as_ref())
                .unwrap_or_else(|_| LabelSelector::nothing()),
            min_domains: i64::from(c.min_domains.unwrap_or(1)),
            honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}
