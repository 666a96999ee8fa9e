//! How the members of etcd are, for `cox status`.
use provision::membership::lost_next;

use super::change::{has_majority, member_data, members_of};
use crate::hosts::{Hosts, HostsCluster};

/// What is said about one of them, or about all.
pub struct Told {
    /// Of whom.
    pub name: String,
    /// Whether all is well.
    pub healthy: bool,
    /// What else there is to say.
    pub detail: String,
}

/// Each member; and what to do where too few work.
pub async fn etcd_status(cluster: &HostsCluster, hosts: &Hosts) -> Vec<Told> {
    let spec = &cluster.spec;
    let wanted = spec.etcd_hosts();
    if wanted.is_empty() {
        return Vec::new();
    }
    let paths = cluster.plan_options().paths;
    let found = members_of(&wanted, hosts, &paths).await.unwrap_or_default();
    let mut told: Vec<Told> = wanted
        .iter()
        .map(|host| {
            let member = found.iter().find(|m| m.name == host.name);
            let (healthy, detail) = match member {
                Some(m) if m.learner => (false, "learns, and has no vote yet; `cox up` gives it one"),
                Some(m) if m.healthy => (true, "works"),
                Some(_) => (false, "does not work; `cox up` repairs it"),
                None if found.is_empty() => (false, "does not answer"),
                None => (false, "is no member; `cox up` lets it join"),
            };
            Told { name: host.name.clone(), healthy, detail: detail.into() }
        })
        .collect();
    for member in found.iter().filter(|m| !wanted.iter().any(|h| h.name == m.name)) {
        let name = if member.name.is_empty() { member.peer_url.clone() } else { member.name.clone() };
        told.push(Told {
            name,
            healthy: false,
            detail: "is a member and no host of the cluster; `cox up` removes it".into(),
        });
    }
    if has_majority(&found) {
        return told;
    }
    let (all, work) = (found.len().max(wanted.len()), found.iter().filter(|m| m.healthy).count());
    let data = member_data(&paths);
    let mut survivor = None;
    for host in &wanted {
        if survivor.is_none() && hosts.host(host).inspect(&[&data]).await.is_ok_and(|f| !f.is_empty()) {
            survivor = Some(host.name.as_str());
        }
    }
    told.push(Told {
        name: "majority".into(),
        healthy: false,
        detail: format!(
            "{work} of {all} members work: nothing can be written. `cox up` brings back hosts that have their data; if it \
             is lost, {}",
            lost_next(survivor)
        ),
    });
    told
}
