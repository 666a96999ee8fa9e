//! Finds cluster IPs and node ports that nobody holds, and Services whose own are not marked as taken. Upstream:
//! pkg/registry/core/service/{ipallocator,portallocator}/controller, 1.36.
//!
//! What a Service takes is written before the Service, and given back after it is gone. So a server that dies in
//! between, or a write whose outcome nobody knows, leaves something taken for nobody. Every server looks for that; what
//! they do is guarded by revision, so they do not disturb each other.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apiserver_registry::list::ListOptions;
use apiserver_registry::{Registry, Store, encode};
use jiff::{SignedDuration, Timestamp};
use machinery::{Object, StatusError, StatusResult};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::service_allocator::{ServiceAllocator, held, parent};

/// How often is looked.
const INTERVAL: Duration = Duration::from_secs(180);
/// An IP younger than this may belong to a Service that is being written.
const YOUNG: SignedDuration = SignedDuration::from_secs(60);
/// A port that nobody holds is given back when it is found so for the third time.
const STRIKES: u32 = 3;

/// What has to be put right.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    /// IPs that nobody holds, with the Service that took them.
    orphans: Vec<(String, Value)>,
    /// Services whose IP is not marked as taken.
    unmarked: Vec<(String, Object)>,
    ports_to_take: BTreeSet<u16>,
    ports_to_free: BTreeSet<u16>,
}

/// Decides. `strikes`: how often each port was found held by nobody, updated here.
fn plan(
    services: &[Object],
    addresses: &[Object],
    taken: &BTreeSet<u16>,
    strikes: &mut BTreeMap<u16, u32>,
    now: Timestamp,
) -> Plan {
    let mut holders: BTreeMap<String, &Object> = BTreeMap::new();
    let mut ports = BTreeSet::new();
    for service in services {
        let held = held(service);
        ports.extend(held.ports);
        holders.extend(held.ips.into_iter().map(|ip| (ip, service)));
    }
    let mut plan = Plan::default();
    for address in addresses {
        let wanted = address.at(&["spec", "parentRef"]);
        if let Some(service) = holders.get(address.name())
            && wanted == Some(&parent(service))
        {
            holders.remove(address.name());
            continue;
        }
        let ours = address
            .labels()
            .any(|(k, v)| k == "ipaddress.kubernetes.io/managed-by" && v == "ipallocator.k8s.io");
        let born = address.str_at(&["metadata", "creationTimestamp"]).parse::<Timestamp>();
        let old = born.is_ok_and(|born| now.duration_since(born) > YOUNG);
        if let (true, true, Some(wanted)) = (ours, old, wanted) {
            plan.orphans.push((address.name().to_owned(), wanted.clone()));
        }
    }
    plan.unmarked = holders.into_iter().map(|(ip, service)| (ip, service.clone())).collect();
    strikes.retain(|port, _| taken.contains(port) && !ports.contains(port));
    for port in taken.difference(&ports) {
        let count = strikes.entry(*port).or_default();
        *count += 1;
        if *count >= STRIKES {
            plan.ports_to_free.insert(*port);
        }
    }
    plan.ports_to_take = ports.difference(taken).copied().collect();
    plan
}

async fn all(store: &Store) -> StatusResult<Vec<Object>> {
    let page = store.list("", &ListOptions::default()).await?;
    page.items.into_vec().iter().map(|item| encode::decode(&item.value, item.revision)).collect()
}

/// Looks once.
async fn look(
    allocator: &ServiceAllocator,
    services: &Store,
    addresses: &Store,
    strikes: &mut BTreeMap<u16, u32>,
) -> StatusResult<()> {
    // In the order of giving back: a Service that is deleted in between has its IP here still, and it is young or stays.
    let (marked, taken) = (all(addresses).await?, allocator.taken_ports().await?);
    let services = all(services).await?;
    let plan = plan(&services, &marked, &taken, strikes, Timestamp::now());
    for (ip, parent) in &plan.orphans {
        allocator.give_back(ip, parent).await?;
        tracing::info!(ip, "a cluster IP that no Service holds was released");
    }
    let unmarked =
        if plan.unmarked.is_empty() { Vec::new() } else { allocator.within(plan.unmarked).await? };
    for (ip, service) in &unmarked {
        if allocator.take_ip(ip, service).await? {
            tracing::info!(ip, service = service.name(), "a cluster IP was marked as taken");
        }
    }
    if !plan.ports_to_take.is_empty() || !plan.ports_to_free.is_empty() {
        allocator.correct_ports(&plan.ports_to_take, &plan.ports_to_free).await?;
        tracing::info!(taken = ?plan.ports_to_take, freed = ?plan.ports_to_free, "node ports were corrected");
    }
    Ok(())
}

/// Looks once now, so that the server's own Service finds its IP, then at intervals until `stop`.
pub async fn start(allocator: Arc<ServiceAllocator>, registry: &Registry, stop: CancellationToken) {
    let (Some(services), Some(addresses)) =
        (registry.store("", "services"), registry.store("networking.k8s.io", "ipaddresses"))
    else {
        return;
    };
    let (services, addresses) = (services.clone(), addresses.clone());
    let mut strikes = BTreeMap::new();
    let failed = |e: StatusError| tracing::warn!(error = %e, "cluster IPs and node ports were not checked");
    look(&allocator, &services, &addresses, &mut strikes).await.unwrap_or_else(failed);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            look(&allocator, &services, &addresses, &mut strikes).await.unwrap_or_else(failed);
        }
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(name: &str, ip: &str, port: u16) -> Object {
        Object::from_value(json!({
            "metadata": {"name": name, "namespace": "d"},
            "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "nodePort": port}]},
        }))
        .unwrap()
    }

    fn address(ip: &str, service: &str, born: &str) -> Object {
        Object::from_value(json!({
            "metadata": {
                "name": ip,
                "creationTimestamp": born,
                "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"},
            },
            "spec": {"parentRef": {"resource": "services", "namespace": "d", "name": service}},
        }))
        .unwrap()
    }

    #[test]
    fn only_what_nobody_holds_is_given_back() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let (old, young) = ("2026-01-01T00:00:00Z", "2026-01-01T00:59:30Z");
        let services = [service("a", "10.0.0.1", 30001), service("b", "10.0.0.2", 0)];
        let addresses = [
            address("10.0.0.1", "a", old),
            address("10.0.0.3", "gone", old),
            address("10.0.0.4", "coming", young),
        ];
        let mut strikes = BTreeMap::new();
        let taken = BTreeSet::from([30002]);
        let first = plan(&services, &addresses, &taken, &mut strikes, now);
        assert_eq!(first.orphans, [("10.0.0.3".to_owned(), parent_of("gone"))]);
        assert_eq!(first.unmarked.iter().map(|(ip, _)| ip.as_str()).collect::<Vec<_>>(), ["10.0.0.2"]);
        assert_eq!(first.ports_to_take, BTreeSet::from([30001]));
        assert!(first.ports_to_free.is_empty());
        plan(&services, &addresses, &taken, &mut strikes, now);
        let third = plan(&services, &addresses, &taken, &mut strikes, now);
        assert_eq!(third.ports_to_free, BTreeSet::from([30002]));
        let other = [service("c", "10.0.0.9", 30002)];
        plan(&other, &[], &taken, &mut strikes, now);
        assert!(strikes.is_empty(), "a port that is held again counts from the beginning");
    }

    fn parent_of(name: &str) -> Value {
        json!({"resource": "services", "namespace": "d", "name": name})
    }
}
