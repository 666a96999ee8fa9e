//! Who owns whom, as far as the caches have told.
use std::collections::{HashMap, HashSet};

use client::ObjectKey;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

/// One object.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Which of the watched resources it is one of.
    pub resource: usize,
    pub key: ObjectKey,
    pub owners: Vec<OwnerReference>,
    pub deleting: bool,
    pub foreground: bool,
    pub orphan: bool,
}

impl Node {
    pub fn new(resource: usize, key: ObjectKey, meta: &ObjectMeta) -> Self {
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|f| f == finalizer);
        Self {
            resource,
            key,
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    /// Deleted in the foreground: waits for its dependents.
    pub fn waits_for_dependents(&self) -> bool {
        self.deleting && self.foreground
    }

    /// Deleted, and its dependents are to lose it.
    pub fn orphans_dependents(&self) -> bool {
        self.deleting && self.orphan
    }

    fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|o| o.uid == owner && o.block_owner_deletion == Some(true))
    }
}

/// All objects by UID, and by their owners' UIDs.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, HashSet<String>>,
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// Sets an object and returns the UIDs to look at because of it.
    pub fn set(&mut self, uid: &str, node: Node) -> Vec<String> {
        let before = self.nodes.get(uid);
        if before == Some(&node) {
            return Vec::new();
        }
        let mut wake = Vec::new();
        let begins = |now: fn(&Node) -> bool| now(&node) && !before.is_some_and(now);
        if begins(Node::waits_for_dependents) || begins(Node::orphans_dependents) {
            wake.push(uid.to_owned());
            wake.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        }
        if before.is_none_or(|b| b.owners != node.owners) {
            if node.owners.iter().any(|owner| self.is_suspect(owner, &node)) {
                wake.push(uid.to_owned());
            }
            // A dependent that blocks no more may be what an owner waited for.
            wake.extend(before.into_iter().flat_map(|b| &b.owners).map(|o| o.uid.clone()));
            self.unlink(uid);
            for owner in &node.owners {
                self.dependents.entry(owner.uid.clone()).or_default().insert(uid.to_owned());
            }
        }
        self.nodes.insert(uid.to_owned(), node);
        wake
    }

    /// Removes an object and returns the UIDs to look at because of it.
    pub fn remove(&mut self, uid: &str) -> Vec<String> {
        self.unlink(uid);
        let owners = self.nodes.remove(uid).map(|n| n.owners).unwrap_or_default();
        let waiting =
            owners.into_iter().map(|o| o.uid).filter(|o| self.get(o).is_some_and(Node::waits_for_dependents));
        let mut wake: Vec<String> = waiting.collect();
        wake.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        wake
    }

    fn unlink(&mut self, uid: &str) {
        let owners = self.nodes.get(uid).map(|n| n.owners.clone()).unwrap_or_default();
        for owner in owners {
            if let Some(set) = self.dependents.get_mut(&owner.uid) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    /// Whether the owner is not known to be there, or is on its way out together with its dependents.
    fn is_suspect(&self, owner: &OwnerReference, dependent: &Node) -> bool {
        match self.get(&owner.uid) {
            None => true,
            Some(node) => {
                !is_same(node, owner, dependent) || node.waits_for_dependents() || node.orphans_dependents()
            }
        }
    }

    pub fn dependents(&self, uid: &str) -> Vec<String> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// Dependents that hold up the foreground deletion of their owner.
    pub fn blocking(&self, uid: &str) -> Vec<String> {
        let mut blocking = self.dependents(uid);
        blocking.retain(|d| self.get(d).is_some_and(|n| n.blocks(uid)));
        blocking
    }
}

/// Whether this object is what the reference of that dependent means: same name, and in reach.
pub fn is_same(node: &Node, owner: &OwnerReference, dependent: &Node) -> bool {
    node.key.name == owner.name
        && (node.key.namespace.is_empty() || node.key.namespace == dependent.key.namespace)
}

/// How an owner reference stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The owner is there.
    Solid,
    /// The owner is gone.
    Dangling,
    /// The owner is there and waits for its dependents to go.
    Waiting,
}

/// What to do about an object that has owners.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// It stays as it is.
    Keep,
    /// It stays, but for references to these UIDs.
    Unlink(Vec<String>),
    /// It goes, its own dependents first.
    DeleteForeground,
    /// It goes; how, its own finalizers say.
    Delete,
}

/// Decides about an object from the standing of each of its owners.
pub fn judge(standings: &[(String, Standing)], has_dependents: bool) -> Verdict {
    let of = |standing| standings.iter().filter(move |(_, s)| *s == standing).map(|(uid, _)| uid.clone());
    let gone: Vec<String> = of(Standing::Dangling).chain(of(Standing::Waiting)).collect();
    if standings.is_empty() || gone.is_empty() {
        Verdict::Keep
    } else if of(Standing::Solid).next().is_some() {
        Verdict::Unlink(gone)
    } else if of(Standing::Waiting).next().is_some() && has_dependents {
        Verdict::DeleteForeground
    } else {
        Verdict::Delete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, owners: &[(&str, &str, bool)]) -> Node {
        let owner = |(uid, name, blocks): &(&str, &str, bool)| OwnerReference {
            uid: (*uid).into(),
            name: (*name).into(),
            block_owner_deletion: Some(*blocks),
            ..OwnerReference::default()
        };
        let meta = ObjectMeta {
            owner_references: Some(owners.iter().map(owner).collect()),
            ..ObjectMeta::default()
        };
        Node::new(0, ObjectKey::new("ns", name), &meta)
    }

    #[test]
    fn verdicts() {
        use Standing::*;
        let s =
            |list: &[Standing]| list.iter().enumerate().map(|(i, s)| (i.to_string(), *s)).collect::<Vec<_>>();
        for (standings, dependents, verdict) in [
            (&[][..], false, Verdict::Keep),
            (&[Solid], false, Verdict::Keep),
            (&[Solid, Solid], true, Verdict::Keep),
            (&[Solid, Dangling], false, Verdict::Unlink(vec!["1".into()])),
            (&[Waiting, Solid], true, Verdict::Unlink(vec!["0".into()])),
            (&[Dangling], true, Verdict::Delete),
            (&[Waiting], false, Verdict::Delete),
            (&[Waiting, Dangling], true, Verdict::DeleteForeground),
        ] {
            assert_eq!(judge(&s(standings), dependents), verdict, "{standings:?} {dependents}");
        }
    }

    #[test]
    fn a_dependent_is_looked_at_when_its_owner_is_unknown_goes_or_waits() {
        let mut g = Graph::default();
        assert_eq!(g.set("d", node("d", &[("o", "owner", true)])), ["d"], "owner not seen yet");
        assert!(g.set("o", node("owner", &[])).is_empty());
        assert!(g.set("e", node("e", &[("o", "owner", false)])).is_empty(), "owner is there");
        assert_eq!(
            g.set("x", node("x", &[("o", "other name", false)])),
            ["x"],
            "not what the reference means"
        );
        g.remove("x");
        assert_eq!(g.blocking("o"), ["d"]);

        let mut going = node("owner", &[]);
        going.deleting = true;
        going.foreground = true;
        let mut wake = g.set("o", going.clone());
        wake.sort();
        assert_eq!(wake, ["d", "e", "o"]);
        assert!(g.set("o", going).is_empty(), "only once");
        assert_eq!(g.remove("d"), ["o"], "the owner may go now");
        assert_eq!(g.remove("o"), ["e"]);
        assert!(g.remove("e").is_empty());
        assert!(g.nodes.is_empty() && g.dependents.is_empty());
    }

    #[test]
    fn losing_a_blocking_reference_wakes_the_owner() {
        let mut g = Graph::default();
        g.set("o", node("owner", &[]));
        g.set("d", node("d", &[("o", "owner", true)]));
        assert_eq!(g.set("d", node("d", &[])), ["o"]);
        assert!(g.dependents("o").is_empty());
    }
}
