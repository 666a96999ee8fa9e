//! Cluster IPs and node ports of Services. Upstream: pkg/registry/core/service/storage/alloc.go, 1.36.
//!
//! What is taken is written to the same store as the objects, with compare-and-swap: an `IPAddress` object for each
//! cluster IP, one `RangeAllocation` bitmap for node ports. So any number of servers share one truth.
mod families;
mod ports;
mod ranges;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use apiserver_registry::encode::{self, Header};
use apiserver_registry::{Hook, storage_error, timestamp};
use async_trait::async_trait;
use ipnet::Ipv4Net;
use jiff::Timestamp;
use machinery::gvk::GroupVersionKind;
use machinery::{FieldError, FieldPath, Object, StatusError, StatusResult};
use rand::Rng as _;
use serde_json::{Value, json};
use storage::{DeleteOutcome, Expect, RangeRequest, Storage, WriteOutcome};

use ports::{Bitmap, Ports, health_check_port, node_ports};
use ranges::{Range, ranges};

/// Where upstream keeps the bitmap of node ports.
const NODE_PORTS_KEY: &str = "/registry/ranges/servicenodeports";
/// Where the networks are kept that addresses are given of.
const CIDRS_PREFIX: &str = "/registry/servicecidrs/";
/// How often the bitmap is read again when another server wrote it.
const ATTEMPTS: u32 = 32;

/// Allocates for Services. What an update keeps or drops, the Service's strategy has decided before.
pub struct ServiceAllocator {
    storage: Arc<dyn Storage>,
    cidr: Ipv4Net,
    ports: Ports,
    address: Header,
}

/// What a Service holds.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Held {
    pub(crate) ips: Vec<String>,
    pub(crate) ports: Vec<u16>,
}

pub(crate) fn held(service: &Object) -> Held {
    let ips = service
        .list_at(&["spec", "clusterIPs"])
        .iter()
        .filter_map(Value::as_str)
        .filter(|ip| !ip.is_empty() && *ip != "None")
        .map(str::to_owned)
        .collect();
    let mut ports = node_ports(service);
    ports.extend(health_check_port(service));
    Held { ips, ports }
}

fn needs_ip(service: &Object) -> bool {
    service.str_at(&["spec", "type"]) != "ExternalName"
}

fn invalid(service: &Object, errors: &[FieldError]) -> StatusError {
    StatusError::invalid(&GroupVersionKind::new("", "v1", "Service"), service.name(), errors)
}

/// How an `IPAddress` names the Service it belongs to.
pub(crate) fn parent(service: &Object) -> Value {
    json!({ "resource": "services", "namespace": service.namespace(), "name": service.name() })
}

impl ServiceAllocator {
    /// Allocates from a service CIDR and a range of node ports.
    pub fn new(storage: Arc<dyn Storage>, cidr: Ipv4Net, ports: RangeInclusive<u16>) -> StatusResult<Self> {
        let kind = api::kinds::by_kind("networking.k8s.io", "v1", "IPAddress")
            .ok_or_else(|| StatusError::internal("the table of kinds has no IPAddress"))?;
        Ok(Self { storage, cidr, ports: Ports(ports), address: Header::new(kind) })
    }

    fn key(ip: &str) -> String {
        format!("/registry/ipaddresses/{ip}")
    }

    /// Takes one IP; false where it is taken already.
    pub(crate) async fn take_ip(&self, ip: &str, service: &Object) -> StatusResult<bool> {
        let mut object = Object::default();
        object.set(&["metadata", "name"], ip);
        object.set(&["metadata", "uid"], uuid::Uuid::new_v4().to_string());
        object.set(&["metadata", "creationTimestamp"], timestamp(Timestamp::now()));
        object.set(&["metadata", "generation"], 1);
        object.set(
            &["metadata", "labels"],
            json!({
                "ipaddress.kubernetes.io/ip-family": "IPv4",
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            }),
        );
        object.set(&["spec", "parentRef"], parent(service));
        let value = self.address.encode(&object)?;
        let outcome =
            self.storage.put(&Self::key(ip), value, Expect::Absent, None).await.map_err(storage_error)?;
        Ok(matches!(outcome, WriteOutcome::Done(_)))
    }

    /// Gives an IP back, if it is still that Service's: another server may have given it to somebody else by now.
    pub(crate) async fn give_back(&self, ip: &str, parent: &Value) -> StatusResult<()> {
        let key = Self::key(ip);
        for _ in 0..ATTEMPTS {
            let (found, _) = self.storage.get(&key, None).await.map_err(storage_error)?;
            let Some(found) = found else { return Ok(()) };
            let object = encode::decode(&found.value, found.mod_revision)?;
            if object.at(&["spec", "parentRef"]) != Some(parent) {
                return Ok(());
            }
            match self.storage.delete(&key, Expect::At(found.mod_revision)).await.map_err(storage_error)? {
                DeleteOutcome::Deleted { .. } => return Ok(()),
                DeleteOutcome::Mismatch { .. } => {}
            }
        }
        Ok(())
    }

    async fn is_taken(&self, ip: &str) -> StatusResult<bool> {
        let (found, _) = self.storage.get(&Self::key(ip), None).await.map_err(storage_error)?;
        Ok(found.is_some())
    }

    /// The networks that addresses are given of now.
    async fn ranges(&self) -> StatusResult<Vec<Range>> {
        let all = RangeRequest::prefix(CIDRS_PREFIX);
        let found = self.storage.range(all).await.map_err(storage_error)?;
        let cidrs: StatusResult<Vec<Object>> =
            found.kvs.iter().map(|kv| encode::decode(&kv.value, kv.mod_revision)).collect();
        Ok(ranges(self.cidr, &cidrs?))
    }

    /// A free IP of any network.
    async fn free_ip(&self, service: &Object, dry_run: bool) -> StatusResult<String> {
        for (first, count) in self.ranges().await?.into_iter().flat_map(Range::bands) {
            if count == 0 {
                continue;
            }
            let start = rand::rng().random_range(0..count);
            for i in 0..count {
                let ip = Ipv4Addr::from(first + (start + i) % count).to_string();
                let free =
                    if dry_run { !self.is_taken(&ip).await? } else { self.take_ip(&ip, service).await? };
                if free {
                    return Ok(ip);
                }
            }
        }
        let name = service.name();
        Err(StatusError::internal(format!(
            "failed to allocate a serviceIP for Service {name:?}: range is full"
        )))
    }

    /// Takes the IP that a Service asks for.
    async fn asked_ip(&self, ip: &str, service: &Object, dry_run: bool) -> StatusResult<()> {
        let path = FieldPath::new("spec").child("clusterIPs");
        let refuse = |why: &str| {
            let detail = format!("failed to allocate IP {ip}: {why}");
            Err(invalid(service, &[FieldError::invalid(&path, json!([ip]), detail)]))
        };
        let parsed = ip.parse::<Ipv4Addr>().ok();
        let ranges = self.ranges().await?;
        let range = ranges.iter().find(|range| parsed.is_some_and(|ip| range.0.contains(&ip)));
        match (range, parsed) {
            (Some(range), Some(parsed)) if range.gives(parsed) => {}
            (Some(range), _) => {
                return refuse(&format!(
                    "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
                    range.0
                ));
            }
            (None, _) => return refuse("the provided network does not match the current range"),
        }
        let free = if dry_run { !self.is_taken(ip).await? } else { self.take_ip(ip, service).await? };
        if free { Ok(()) } else { refuse("provided IP is already allocated") }
    }

    async fn allocate_ip(&self, new: &mut Object, old: Option<&Object>, dry_run: bool) -> StatusResult<()> {
        let errors = families::init(new, old);
        if !errors.is_empty() {
            return Err(invalid(new, &errors));
        }
        if !needs_ip(new) {
            return Ok(());
        }
        let mut ip = new.str_at(&["spec", "clusterIP"]).to_owned();
        if ip.is_empty() {
            ip =
                new.list_at(&["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or("").to_owned();
        }
        if ip.is_empty() {
            ip = self.free_ip(new, dry_run).await?;
        } else if ip != "None" && !old.is_some_and(|old| held(old).ips.contains(&ip)) {
            self.asked_ip(&ip, new, dry_run).await?;
        }
        new.set(&["spec", "clusterIP"], ip.as_str());
        new.set(&["spec", "clusterIPs"], json!([ip]));
        Ok(())
    }

    /// Changes the bitmap of node ports by compare-and-swap.
    async fn change_ports<T: Send>(
        &self,
        mut change: impl FnMut(&mut Bitmap) -> StatusResult<T> + Send,
        dry_run: bool,
    ) -> StatusResult<T> {
        let range = format!("{}-{}", self.ports.0.start(), self.ports.0.end());
        for _ in 0..ATTEMPTS {
            let (found, _) = self.storage.get(NODE_PORTS_KEY, None).await.map_err(storage_error)?;
            let mut bitmap = match &found {
                Some(kv) => Bitmap::decode(&kv.value, &range)?,
                None => Bitmap::default(),
            };
            let before = bitmap.clone();
            let result = change(&mut bitmap)?;
            if bitmap == before || dry_run {
                return Ok(result);
            }
            let expect = found.map_or(Expect::Absent, |kv| Expect::At(kv.mod_revision));
            let value = bitmap.encode(&range).into();
            if let WriteOutcome::Done(_) =
                self.storage.put(NODE_PORTS_KEY, value, expect, None).await.map_err(storage_error)?
            {
                return Ok(result);
            }
        }
        Err(StatusError::service_unavailable("node ports are allocated too fast; try again")
            .with_retry_after(1))
    }

    /// Which of these are cluster IPs.
    pub(crate) async fn within(&self, ips: Vec<(String, Object)>) -> StatusResult<Vec<(String, Object)>> {
        let ranges = self.ranges().await?;
        let ours = |ip: &str| {
            ip.parse::<Ipv4Addr>().is_ok_and(|ip| ranges.iter().any(|range| range.0.contains(&ip)))
        };
        Ok(ips.into_iter().filter(|(ip, _)| ours(ip)).collect())
    }

    /// The node ports that are taken.
    pub(crate) async fn taken_ports(&self) -> StatusResult<BTreeSet<u16>> {
        let start = *self.ports.0.start();
        let count = self.ports.count();
        self.change_ports(
            |bitmap| {
                Ok((0..count).filter(|offset| bitmap.has(*offset)).map(|offset| start + offset).collect())
            },
            true,
        )
        .await
    }

    /// Marks these node ports as taken and these as free.
    pub(crate) async fn correct_ports(&self, take: &BTreeSet<u16>, free: &BTreeSet<u16>) -> StatusResult<()> {
        let start = *self.ports.0.start();
        self.change_ports(
            |bitmap| {
                for port in take.iter().filter(|port| self.ports.0.contains(port)) {
                    bitmap.take(port - start);
                }
                for port in free.iter().filter(|port| self.ports.0.contains(port)) {
                    bitmap.free(port - start);
                }
                Ok(())
            },
            false,
        )
        .await
    }

    async fn allocate_ports(
        &self,
        new: &mut Object,
        old: Option<&Object>,
        dry_run: bool,
    ) -> StatusResult<()> {
        if !matches!(new.str_at(&["spec", "type"]), "NodePort" | "LoadBalancer") {
            return Ok(());
        }
        let change = |bitmap: &mut Bitmap| {
            let mut assigned = new.clone();
            ports::assign(&self.ports, bitmap, &mut assigned, old).map(|()| assigned)
        };
        let assigned = self.change_ports(change, dry_run).await?;
        *new = assigned;
        Ok(())
    }
}

#[async_trait]
impl Hook for ServiceAllocator {
    async fn allocate(&self, new: &mut Object, old: Option<&Object>, dry_run: bool) -> StatusResult<()> {
        self.allocate_ip(new, old, dry_run).await?;
        if let Err(e) = self.allocate_ports(new, old, dry_run).await {
            if !dry_run {
                let mut ips_only = new.clone();
                ips_only.remove(&["spec", "ports"]);
                ips_only.remove(&["spec", "healthCheckNodePort"]);
                self.release(&ips_only, old).await;
            }
            return Err(e);
        }
        Ok(())
    }

    async fn release(&self, dropped: &Object, kept: Option<&Object>) {
        let parent = parent(dropped);
        let (dropped, kept) = (held(dropped), kept.map(held).unwrap_or_default());
        let gone = dropped.ips.iter().filter(|ip| !kept.ips.contains(ip)).cloned().collect::<Vec<_>>();
        for ip in gone {
            if let Err(e) = self.give_back(&ip, &parent).await {
                tracing::warn!(ip, error = %e, "a cluster IP was not released");
            }
        }
        let ports: Vec<u16> = dropped.ports.into_iter().filter(|p| !kept.ports.contains(p)).collect();
        if ports.is_empty() {
            return;
        }
        let start = *self.ports.0.start();
        let freed = self
            .change_ports(
                |bitmap| {
                    for port in &ports {
                        bitmap.free(port.saturating_sub(start));
                    }
                    Ok(())
                },
                false,
            )
            .await;
        if let Err(e) = freed {
            tracing::warn!(error = %e, "node ports were not released");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator(dir: &std::path::Path) -> ServiceAllocator {
        let options = storage::Options { sync: false, ..storage::Options::default() };
        let storage = Arc::new(storage::Embedded::open(dir, options).unwrap());
        ServiceAllocator::new(storage, "10.96.0.0/28".parse().unwrap(), 30000..=30003).unwrap()
    }

    fn service(spec: Value) -> Object {
        Object::from_value(json!({"metadata": {"name": "s", "namespace": "d"}, "spec": spec})).unwrap()
    }

    #[tokio::test]
    async fn ips_are_given_once_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let a = allocator(dir.path());
        let mut seen = BTreeSet::new();
        let mut last = Object::default();
        for _ in 0..14 {
            last = service(json!({"type": "ClusterIP"}));
            a.allocate(&mut last, None, false).await.unwrap();
            assert!(seen.insert(last.str_at(&["spec", "clusterIP"]).to_owned()));
        }
        let mut more = service(json!({"type": "ClusterIP"}));
        assert_eq!(a.allocate(&mut more, None, false).await.unwrap_err().code(), 500);
        a.release(&last, None).await;
        a.allocate(&mut more, None, false).await.unwrap();
        assert_eq!(more.str_at(&["spec", "clusterIP"]), last.str_at(&["spec", "clusterIP"]));
        let mut fixed = service(json!({"clusterIP": more.str_at(&["spec", "clusterIP"])}));
        let e = a.allocate(&mut fixed, None, false).await.unwrap_err();
        assert!(e.to_string().contains("provided IP is already allocated"), "{e}");
    }

    #[tokio::test]
    async fn node_ports_are_given_once_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let a = allocator(dir.path());
        let mut old = service(json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}));
        a.allocate(&mut old, None, false).await.unwrap();
        let port = held(&old).ports[0];
        // What an update keeps is its own already.
        let mut new = old.clone();
        a.allocate(&mut new, Some(&old), false).await.unwrap();
        assert_eq!(held(&new), held(&old));
        let mut taken = service(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}));
        assert_eq!(a.allocate(&mut taken, None, false).await.unwrap_err().code(), 422);
        let plain = service(json!({"type": "ClusterIP", "ports": [{"port": 80}]}));
        a.release(&old, Some(&plain)).await;
        a.allocate(&mut taken, None, false).await.unwrap();
    }

    #[tokio::test]
    async fn more_networks_give_more_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let a = allocator(dir.path());
        let put = async |name: &str, cidr: &str, ready: &str| {
            let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                "metadata": {"name": name}, "spec": {"cidrs": [cidr]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}});
            let key = format!("{CIDRS_PREFIX}{name}");
            a.storage.put(&key, object.to_string().into(), Expect::Any, None).await.unwrap();
        };
        put("kubernetes", "10.96.0.0/28", "True").await;
        let mut out = service(json!({"type": "ClusterIP", "clusterIP": "10.97.0.1"}));
        let e = a.allocate(&mut out, None, false).await.unwrap_err();
        assert!(e.to_string().contains("the provided network does not match the current range"), "{e}");
        put("more", "10.97.0.0/28", "True").await;
        for _ in 0..28 {
            let mut one = service(json!({"type": "ClusterIP"}));
            a.allocate(&mut one, None, false).await.unwrap();
        }
        let mut full = service(json!({"type": "ClusterIP"}));
        assert_eq!(a.allocate(&mut full, None, false).await.unwrap_err().code(), 500);
        // One that is not ready gives none, but takes back.
        put("more", "10.97.0.0/28", "False").await;
        a.give_back("10.97.0.1", &parent(&full)).await.unwrap();
        assert_eq!(a.allocate(&mut full, None, false).await.unwrap_err().code(), 500);
        put("more", "10.97.0.0/28", "True").await;
        a.allocate(&mut full, None, false).await.unwrap();
        assert_eq!(full.str_at(&["spec", "clusterIP"]), "10.97.0.1");
    }

    #[tokio::test]
    async fn what_fails_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let a = allocator(dir.path());
        let mut balancer = service(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "ports": [{"port": 80}, {"port": 81}, {"port": 82}]}));
        a.allocate(&mut balancer, None, false).await.unwrap();
        assert_eq!(held(&balancer).ports.len(), 4, "with that of its health check");
        let mut more = service(json!({"type": "NodePort", "ports": [{"port": 80}]}));
        assert_eq!(a.allocate(&mut more, None, false).await.unwrap_err().code(), 500);
        assert!(!a.is_taken("10.96.0.1").await.unwrap() || held(&balancer).ips == ["10.96.0.1"]);
        let taken = a.storage.range(RangeRequest::prefix("/registry/ipaddresses/")).await.unwrap().kvs.len();
        assert_eq!(taken, 1, "the address of the one that failed is free again");
        a.release(&balancer, None).await;
        assert_eq!(a.taken_ports().await.unwrap(), BTreeSet::new());
    }
}
