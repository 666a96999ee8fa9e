//! What plugins are: they read a pod and the snapshot once, then judge or score nodes. No plugin does I/O.
use std::borrow::Cow;

use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

/// The best score of a plugin.
pub const MAX_SCORE: i64 = 100;

/// Why a node will not do, as users read it.
pub type Reason = Cow<'static, str>;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Every reason of the plugin that refused.
    pub reasons: Vec<Reason>,
    /// Whether no eviction of other pods could help.
    pub unresolvable: bool,
}

impl Rejection {
    /// Could change if other pods went away.
    pub fn resolvable(reason: impl Into<Reason>) -> Self {
        Self { reasons: vec![reason.into()], unresolvable: false }
    }

    /// Stays whatever happens to other pods.
    pub fn unresolvable(reason: impl Into<Reason>) -> Self {
        Self { reasons: vec![reason.into()], unresolvable: true }
    }
}

/// Happenings in the cluster that may make room for a pod, as a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wakes(u16);

impl Wakes {
    /// None.
    pub const NONE: Self = Self(0);
    /// A node is new.
    pub const NODE_ADD: Self = Self(1);
    /// What a node has changed.
    pub const NODE_ALLOCATABLE: Self = Self(1 << 1);
    /// Labels of a node changed.
    pub const NODE_LABELS: Self = Self(1 << 2);
    /// Taints of a node changed, or it was cordoned or uncordoned.
    pub const NODE_TAINTS: Self = Self(1 << 3);
    /// A pod left its node.
    pub const POD_GONE: Self = Self(1 << 4);
    /// A pod came to a node, or its labels changed.
    pub const POD_PLACED: Self = Self(1 << 5);
    /// Labels of a namespace changed.
    pub const NAMESPACE: Self = Self(1 << 6);
    /// A claim, volume or storage class changed.
    pub const VOLUME: Self = Self(1 << 7);
    /// Any of them.
    pub const ALL: Self = Self(u16::MAX);

    /// Both sets.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the sets have something in common.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// What every plugin tells of itself.
pub trait Plugin: Send + Sync {
    /// Name, as in upstream's configuration.
    fn name(&self) -> &'static str;

    /// What may help a pod that this plugin refused.
    fn wakes(&self) -> Wakes {
        Wakes::NONE
    }
}

/// What a plugin says of a pod before it sees a node.
pub enum Prepared<'a> {
    /// Every node will do.
    Skip,
    /// No node will do.
    Reject(Rejection),
    /// It depends on the node.
    Judge(Box<dyn Judge + 'a>),
}

/// Judges nodes for one pod.
pub trait Judge {
    /// Whether the pod may run on the node.
    fn filter(&self, node: &NodeInfo) -> Result<(), Rejection>;
}

impl<F: Fn(&NodeInfo) -> Result<(), Rejection>> Judge for F {
    fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        self(node)
    }
}

/// A plugin with PreFilter and Filter.
pub trait Filter: Plugin {
    /// Looks at the pod and at the cluster as a whole.
    fn prepare<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Prepared<'a>;
}

/// Scores nodes for one pod.
pub trait Scorer {
    /// Any number; [`Scorer::normalize`] brings all of them to 0..=100.
    fn score(&self, node: &NodeInfo) -> i64;

    /// Brings the scores of all feasible nodes to 0..=100.
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// A plugin with PreScore, Score and NormalizeScore.
pub trait Score: Plugin {
    /// Looks at the pod and at the nodes it may run on. `None`: all nodes are alike.
    fn prepare<'a>(
        &'a self,
        pod: &'a PodInfo,
        snapshot: &'a Snapshot,
        feasible: &[&'a NodeInfo],
    ) -> Option<Box<dyn Scorer + 'a>>;
}

/// Brings scores to 0..=100 in proportion to the best; `reverse`: less is better.
pub fn normalize(scores: &mut [i64], reverse: bool) {
    let best = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        if best > 0 {
            *score = *score * MAX_SCORE / best;
        }
        if reverse {
            *score = MAX_SCORE - *score;
        }
    }
}

/// The plugins of a profile, in the order they run.
pub struct Framework {
    /// Filters. The first that refuses a node says why.
    pub filters: Vec<Box<dyn Filter>>,
    /// Scores, with their weights.
    pub scores: Vec<(i64, Box<dyn Score>)>,
    /// Whether pods that fit nowhere may have lesser ones evicted.
    pub preempts: bool,
}
