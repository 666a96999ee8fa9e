//! What has to happen, and in which order, for a cluster that is there to become another one: hosts that come and go,
//! members of etcd above all. Pure.
//!
//! Read [`Act`] first; [`plan`] puts them in order, or says why it will not be. [`refusals`] tells what can never change.
//! [`Etcdctl`] asks the members and tells them.

mod etcdctl;

use std::{collections::BTreeSet, fmt};

pub use etcdctl::{Etcdctl, EtcdctlError};

use crate::plan::etcd_peer_url;
use crate::spec::{ClusterSpec, Host, Role, Topology};

/// A member of etcd, as etcd tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What etcd calls it.
    pub id: u64,
    /// Its name; empty where it was announced and has never started.
    pub name: String,
    /// Where the others reach it.
    pub peer_url: String,
    /// Whether it only learns and has no vote yet.
    pub learner: bool,
    /// Whether it answers, with a majority behind it.
    pub healthy: bool,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The members of etcd; none where no etcd answers, or there is none.
    pub members: Vec<Member>,
    /// Hosts without data of a member of etcd.
    pub blank: BTreeSet<String>,
    /// Hosts that do not answer and cannot be cleaned.
    pub silent: BTreeSet<String>,
}

/// One step of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// A member that will not come back is removed.
    Forget {
        /// Its host, or its name where no host is known.
        host: String,
        /// Which.
        id: u64,
    },
    /// A member that works leaves; its host stays.
    Resign {
        /// Its host.
        host: String,
        /// Which.
        id: u64,
    },
    /// The objects move from the only control plane's own store to etcd.
    MoveObjects {
        /// Where they are now.
        from: String,
    },
    /// A member joins: announced, started, given a vote once it has learned everything.
    Join {
        /// Its host.
        host: String,
    },
    /// All hosts that shall be are made what their plans say.
    Apply,
    /// A host goes: its pods, its member, its Node, its services and data.
    Leave {
        /// Which.
        host: String,
        /// Its member of etcd.
        member: Option<u64>,
        /// Whether it answers, so that it can be cleaned.
        answers: bool,
    },
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forget { host, .. } => write!(f, "etcd forgets the lost member of {host}"),
            Self::Resign { host, .. } => write!(f, "the member of {host} leaves etcd"),
            Self::MoveObjects { from } => write!(f, "objects move from {from} to etcd"),
            Self::Join { host } => write!(f, "{host} joins etcd"),
            Self::Apply => f.write_str("all hosts are made what they shall be"),
            Self::Leave { host, answers: true, .. } => write!(f, "{host} is drained and removed"),
            Self::Leave { host, answers: false, .. } => write!(f, "{host} is removed without being cleaned"),
        }
    }
}

/// Why a change will not be, and what to do instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub what: String,
    /// What to do.
    pub next: String,
}

impl Refusal {
    fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), next: next.into() }
    }
}

/// Members that have to agree.
pub fn quorum(members: usize) -> usize {
    members / 2 + 1
}

/// What can never change in a cluster that is there, whatever state it is in.
pub fn refusals(former: &ClusterSpec, wanted: &ClusterSpec) -> Vec<Refusal> {
    let mut all = Vec::new();
    let (old, new) = (&former.network, &wanted.network);
    let mut fixed = |path: &str, before: String, after: String, why: &str| {
        if before != after {
            all.push(Refusal::new(
                format!("{path} is {before} and cannot become {after}: {why}"),
                "put it back; another value needs a new cluster (`cox backup` keeps the objects of this one)",
            ));
        }
    };
    let services = "Services keep the addresses they have, and nobody would lead to them";
    fixed("network.serviceCIDR", old.service_cidr.to_string(), new.service_cidr.to_string(), services);
    // Those that are given out lie in a wider one too.
    if !new.pod_cidr.contains(&old.pod_cidr) {
        let pods = "nodes keep the parts they have, and nobody would lead to their pods; it may become wider";
        fixed("network.podCIDR", old.pod_cidr.to_string(), new.pod_cidr.to_string(), pods);
    }
    let parts = "nodes keep the parts they have";
    fixed("network.nodeCIDRMaskSize", old.node_mask.to_string(), new.node_mask.to_string(), parts);
    let asked = "pods that run ask at the old address";
    fixed("network.clusterDNS", old.cluster_dns.to_string(), new.cluster_dns.to_string(), asked);
    let named = "pods that run and tokens of service accounts have the old one";
    fixed("network.domain", old.domain.clone(), new.domain.clone(), named);
    let hosts = "the hosts that run have addresses in it";
    fixed("network.hostCIDR", old.host_cidr.to_string(), new.host_cidr.to_string(), hosts);
    let provided = "its hosts are others";
    fixed("provider", format!("{:?}", former.provider), format!("{:?}", wanted.provider), provided);
    if former.etcd != wanted.etcd && former.etcd != Topology::Embedded {
        let name = |t| Topology::ALL.iter().find(|(_, x)| *x == t).map_or("", |(name, _)| name);
        let (before, after) = (name(former.etcd), name(wanted.etcd));
        all.push(Refusal::new(
            format!("etcd.topology is {before} and cannot become {after}"),
            format!("put it back (etcd: {{topology: {before}}}); members themselves can come and go"),
        ));
    }
    let keeps_data =
        |spec: &ClusterSpec, host: &Host| host.is(Role::ControlPlane) || is_member(spec, &host.name);
    for (old, new) in former.hosts.iter().filter_map(|h| Some((h, wanted.host(&h.name)?))) {
        if old.address != new.address && keeps_data(former, old) {
            all.push(Refusal::new(
                format!("host {} is at {} and cannot move to {}", old.name, old.address, new.address),
                "give the host at the new address another name, and leave this one out: it is replaced",
            ));
        }
    }
    let stays = |host: &Host| wanted.host(&host.name).is_some_and(|h| h.is(Role::ControlPlane));
    let leaders: Vec<&str> =
        former.hosts_with(Role::ControlPlane).filter(|h| !stays(h)).map(|h| h.name.as_str()).collect();
    if !leaders.is_empty() && leaders.len() == former.hosts_with(Role::ControlPlane).count() {
        let (what, next) = if former.etcd == Topology::Embedded {
            (
                format!("{} keeps the objects of this cluster and has to stay a control plane", leaders[0]),
                "add control planes beside it first (the objects move to etcd), then leave it out",
            )
        } else {
            (
                format!("none of the control planes would stay ({})", leaders.join(", ")),
                "keep one of them, bring the new ones up, then leave it out",
            )
        };
        all.push(Refusal::new(what, next));
    }
    all
}

/// Whether there are too few hosts with data for etcd ever to have a majority again.
pub fn majority_lost(former: &ClusterSpec, blank: &BTreeSet<String>) -> Option<Refusal> {
    let members = former.etcd_hosts();
    let lost: Vec<&str> =
        members.iter().map(|h| h.name.as_str()).filter(|name| blank.contains(*name)).collect();
    let left: Vec<&str> =
        members.iter().map(|h| h.name.as_str()).filter(|name| !blank.contains(*name)).collect();
    if members.is_empty() || left.len() >= quorum(members.len()) {
        return None;
    }
    Some(Refusal::new(
        format!(
            "{} of {} members of etcd have lost their data ({}): no majority is left, so nothing can be written",
            lost.len(),
            members.len(),
            lost.join(", ")
        ),
        lost_next(left.first().copied()),
    ))
}

/// What helps where no majority is left; `survivor`: a host with data.
pub fn lost_next(survivor: Option<&str>) -> String {
    let restore = "`cox restore FILE` rebuilds the cluster from a backup";
    survivor.map_or_else(
        || restore.to_owned(),
        |name| {
            format!(
                "{restore}; without one, `cox restore --from-member {name}` goes on with what that host has"
            )
        },
    )
}

fn is_member(spec: &ClusterSpec, host: &str) -> bool {
    spec.etcd_hosts().iter().any(|h| h.name == host)
}

/// The host of a member.
fn host_of<'a>(member: &Member, specs: &[&'a ClusterSpec]) -> Option<&'a Host> {
    let hosts = || specs.iter().flat_map(|spec| &spec.hosts);
    hosts().find(|h| h.name == member.name).or_else(|| hosts().find(|h| etcd_peer_url(h) == member.peer_url))
}

/// The steps that lead from what is there to what is wanted.
///
/// A vote is only ever taken from members one at a time, and never so that fewer than a majority would work.
pub fn plan(
    former: Option<&ClusterSpec>,
    wanted: &ClusterSpec,
    seen: &Seen,
    force: bool,
) -> Result<Vec<Act>, Vec<Refusal>> {
    let Some(former) = former else { return Ok(vec![Act::Apply]) };
    let mut refused = refusals(former, wanted);
    let mut acts = Vec::new();
    let leaving: Vec<&Host> = former.hosts.iter().filter(|h| wanted.host(&h.name).is_none()).collect();
    for host in leaving.iter().filter(|h| seen.silent.contains(&h.name) && !force) {
        refused.push(Refusal::new(
            format!("host {} shall go and does not answer, so it cannot be cleaned", host.name),
            "make it reachable, or turn it off for good and use --force: a host that comes back would disturb the others",
        ));
    }
    let moves = former.etcd == Topology::Embedded && wanted.etcd != Topology::Embedded;
    let mut votes = Votes::of(&seen.members);
    if moves {
        if let Some(from) = former.hosts_with(Role::ControlPlane).next() {
            acts.push(Act::MoveObjects { from: from.name.clone() });
        }
    } else if !seen.members.is_empty() {
        if votes.healthy < quorum(votes.all) {
            refused.push(Refusal::new(
                format!("{} of {} members of etcd work: no majority", votes.healthy, votes.all),
                lost_next(None),
            ));
            return Err(refused);
        }
        members(former, wanted, seen, &mut votes, &mut acts, &mut refused);
    }
    acts.push(Act::Apply);
    // Those that lead go last: all others need them to go in order.
    let (leaders, others): (Vec<&Host>, Vec<&Host>) =
        leaving.into_iter().partition(|h| h.is(Role::ControlPlane) || is_member(former, &h.name));
    for host in others.into_iter().chain(leaders) {
        let member = seen
            .members
            .iter()
            .filter(|m| m.healthy && host_of(m, &[former]).is_some_and(|h| h.name == host.name))
            .map(|m| m.id)
            .next();
        if member.is_some() {
            votes.give_up(&host.name, &mut refused);
        }
        let answers = !seen.silent.contains(&host.name);
        acts.push(Act::Leave { host: host.name.clone(), member, answers });
    }
    if refused.is_empty() { Ok(acts) } else { Err(refused) }
}

/// Who may vote, and who can.
#[derive(Clone, Copy, Debug)]
struct Votes {
    all: usize,
    healthy: usize,
}

impl Votes {
    fn of(members: &[Member]) -> Self {
        let voters = members.iter().filter(|m| !m.learner);
        Self { all: voters.clone().count(), healthy: voters.filter(|m| m.healthy).count() }
    }

    /// A member that works gives up its vote, if the others can do without.
    fn give_up(&mut self, host: &str, refused: &mut Vec<Refusal>) {
        let (all, healthy) = (self.all.saturating_sub(1), self.healthy.saturating_sub(1));
        if all == 0 || healthy < quorum(all) {
            refused.push(Refusal::new(
                format!(
                    "without {host}, {healthy} of {all} members of etcd would work: too few to write anything"
                ),
                "bring the others back first (`cox status` tells which do not work), or add a member",
            ));
        }
        (self.all, self.healthy) = (all, healthy);
    }
}

fn members(
    former: &ClusterSpec,
    wanted: &ClusterSpec,
    seen: &Seen,
    votes: &mut Votes,
    acts: &mut Vec<Act>,
    refused: &mut Vec<Refusal>,
) {
    let mut forgotten: BTreeSet<u64> = BTreeSet::new();
    for member in &seen.members {
        let host = host_of(member, &[wanted, former]);
        let unknown = if member.name.is_empty() { &member.peer_url } else { &member.name };
        let name = host.map_or(unknown.as_str(), |h| h.name.as_str());
        let stays = is_member(wanted, name);
        // Announced and never started: it still can, if its host shall have one.
        let lost = if member.name.is_empty() { !stays } else { !stays || seen.blank.contains(name) };
        if !member.healthy && lost {
            acts.push(Act::Forget { host: name.to_owned(), id: member.id });
            forgotten.insert(member.id);
            votes.all -= usize::from(!member.learner);
        } else if member.healthy && host.is_none() {
            refused.push(Refusal::new(
                format!("etcd has a member {} at {} that is no host's", member.name, member.peer_url),
                "add its host to cluster.yaml, or remove it with `etcdctl member remove`",
            ));
        }
    }
    let found = |host: &Host| {
        let is_of = |m: &&Member| host_of(m, &[wanted]).is_some_and(|h| h.name == host.name);
        seen.members.iter().filter(|m| !forgotten.contains(&m.id)).find(is_of)
    };
    for host in wanted.etcd_hosts() {
        let votes_already = found(host).is_some_and(|m| !m.name.is_empty() && !m.learner);
        if !votes_already {
            acts.push(Act::Join { host: host.name.clone() });
            votes.all += 1;
            votes.healthy += 1;
        }
    }
    for host in wanted.hosts.iter().filter(|h| !is_member(wanted, &h.name)) {
        if let Some(member) = found(host).filter(|m| m.healthy) {
            votes.give_up(&host.name, refused);
            acts.push(Act::Resign { host: host.name.clone(), id: member.id });
        }
    }
}

#[cfg(test)]
mod tests;
