//! What the members of etcd say of each other: who belongs to them, and whether most of them work.
use provision::membership::lost_next;

use super::Line;
use crate::commands::change::{has_majority, member_data, members_of};
use crate::hosts::{Hosts, HostsCluster};

/// Members that are not what the cluster describes; and what to do where too few work.
pub async fn lines(cluster: &HostsCluster, hosts: &Hosts) -> Vec<Line> {
    let spec = &cluster.spec;
    let wanted = spec.etcd_hosts();
    if wanted.is_empty() {
        return Vec::new();
    }
    let paths = cluster.plan_options().paths;
    let found = members_of(&wanted, hosts, &paths).await.unwrap_or_default();
    let mut out = Vec::new();
    for host in wanted.iter().filter(|h| !found.is_empty() && !found.iter().any(|m| m.name == h.name)) {
        out.push(Line::new("etcd", &host.name, false, "is no member; `cox up` lets it join"));
    }
    for member in found.iter().filter(|m| !wanted.iter().any(|h| h.name == m.name)) {
        let name = if member.name.is_empty() { &member.peer_url } else { &member.name };
        out.push(Line::new(
            "etcd",
            name,
            false,
            "is a member and no host of the cluster; `cox up` removes it",
        ));
    }
    if has_majority(&found) {
        return out;
    }
    let (all, work) = (found.len().max(wanted.len()), found.iter().filter(|m| m.healthy).count());
    let data = member_data(&paths);
    let mut survivor = None;
    for host in &wanted {
        if survivor.is_none() && hosts.host(host).inspect(&[&data]).await.is_ok_and(|f| !f.is_empty()) {
            survivor = Some(host.name.as_str());
        }
    }
    let detail = format!(
        "{work} of {all} members work: nothing can be written. `cox up` brings back hosts that have their data; if it \
         is lost, {}",
        lost_next(survivor)
    );
    out.push(Line::new("etcd", "majority", false, detail));
    out
}
