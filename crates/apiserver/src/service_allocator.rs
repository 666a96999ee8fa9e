//! Cluster IPs and node ports of Services. Upstream: pkg/registry/core/service/storage/alloc.go, 1.36.
//!
//! What is taken is written to the same store as the objects, with compare-and-swap: an `IPAddress` object for each
//! cluster IP, one `RangeAllocation` bitmap for node ports. So any number of servers share one truth.
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use apiserver_registry::encode::{self, Header};
use apiserver_registry::{Hook, storage_error, timestamp};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::Ipv4Net;
use jiff::Timestamp;
use machinery::gvk::GroupVersionKind;
use machinery::{FieldError, FieldPath, Object, StatusError, StatusResult};
use rand::Rng as _;
use serde_json::{Value, json};
use storage::{DeleteOutcome, Expect, Storage, WriteOutcome};

/// Where upstream keeps the bitmap of node ports.
const NODE_PORTS_KEY: &str = "/registry/ranges/servicenodeports";
/// How often the bitmap is read again when another server wrote it.
const ATTEMPTS: u32 = 32;

/// Allocates for Services. What an update keeps or drops, the Service's strategy has decided before.
pub struct ServiceAllocator {
    storage: Arc<dyn Storage>,
    cidr: Ipv4Net,
    ports: RangeInclusive<u16>,
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
    let ports = service
        .list_at(&["spec", "ports"])
        .iter()
        .filter_map(|p| p["nodePort"].as_u64().and_then(|n| u16::try_from(n).ok()))
        .filter(|&n| n != 0)
        .collect();
    Held { ips, ports }
}

fn needs_ip(service: &Object) -> bool {
    service.str_at(&["spec", "type"]) != "ExternalName"
}

fn needs_node_ports(service: &Object) -> bool {
    match service.str_at(&["spec", "type"]) {
        "NodePort" => true,
        "LoadBalancer" => service.bool_at(&["spec", "allocateLoadBalancerNodePorts"]).unwrap_or(true),
        _ => false,
    }
}

fn invalid(service: &Object, e: FieldError) -> StatusError {
    StatusError::invalid(&GroupVersionKind::new("", "v1", "Service"), service.name(), &[e])
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
        Ok(Self { storage, cidr, ports, address: Header::new(kind) })
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

    /// A free IP: from the upper part of the range first, as KEP-3070 keeps the lower part for fixed ones.
    async fn free_ip(&self, service: &Object, dry_run: bool) -> StatusResult<String> {
        let network = u32::from(self.cidr.network());
        let size = 1u64 << (32 - u32::from(self.cidr.prefix_len()));
        if size < 4 {
            return Err(StatusError::internal(format!("the service CIDR {} is too small", self.cidr)));
        }
        let usable = u32::try_from(size - 2).unwrap_or(u32::MAX);
        let offset = (size / 16).clamp(16, 256).min(u64::from(usable / 2)) as u32;
        for (first, count) in [(1 + offset, usable - offset), (1, offset)] {
            let start = rand::rng().random_range(0..count.max(1));
            for i in 0..count {
                let ip = Ipv4Addr::from(network + first + (start + i) % count).to_string();
                let free =
                    if dry_run { !self.is_taken(&ip).await? } else { self.take_ip(&ip, service).await? };
                if free {
                    return Ok(ip);
                }
            }
        }
        Err(StatusError::internal(format!("failed to allocate a serviceIP: range {} is full", self.cidr)))
    }

    async fn allocate_ip(&self, new: &mut Object, old: &Held, dry_run: bool) -> StatusResult<()> {
        if !needs_ip(new) {
            return Ok(());
        }
        if new.at(&["spec", "ipFamilyPolicy"]).is_none() {
            new.set(&["spec", "ipFamilyPolicy"], "SingleStack");
        }
        if new.list_at(&["spec", "ipFamilies"]).is_empty() {
            new.set(&["spec", "ipFamilies"], json!(["IPv4"]));
        }
        let mut ip = new.str_at(&["spec", "clusterIP"]).to_owned();
        if ip.is_empty() {
            ip =
                new.list_at(&["spec", "clusterIPs"]).first().and_then(Value::as_str).unwrap_or("").to_owned();
        }
        if ip.is_empty() {
            ip = self.free_ip(new, dry_run).await?;
        } else if ip != "None" && !old.ips.contains(&ip) {
            let path = FieldPath::new("spec").child("clusterIPs");
            let shown = json!([ip]);
            let refuse = |why: &str| {
                let detail = format!("failed to allocate IP {ip}: {why}");
                Err(invalid(new, FieldError::invalid(&path, shown.clone(), detail)))
            };
            match ip.parse::<Ipv4Addr>() {
                Ok(parsed) if self.cidr.contains(&parsed) => {}
                _ => {
                    return refuse(&format!(
                        "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
                        self.cidr
                    ));
                }
            }
            let free = if dry_run { !self.is_taken(&ip).await? } else { self.take_ip(&ip, new).await? };
            if !free {
                return refuse("provided IP is already allocated");
            }
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
        let range = format!("{}-{}", self.ports.start(), self.ports.end());
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

    /// The cluster IPs.
    pub(crate) fn contains(&self, ip: &str) -> bool {
        ip.parse::<Ipv4Addr>().is_ok_and(|ip| self.cidr.contains(&ip))
    }

    /// The node ports that are taken.
    pub(crate) async fn taken_ports(&self) -> StatusResult<BTreeSet<u16>> {
        let start = *self.ports.start();
        let count = self.ports.end() - start + 1;
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
        let start = *self.ports.start();
        self.change_ports(
            |bitmap| {
                for port in take.iter().filter(|port| self.ports.contains(port)) {
                    bitmap.take(port - start);
                }
                for port in free.iter().filter(|port| self.ports.contains(port)) {
                    bitmap.free(port - start);
                }
                Ok(())
            },
            false,
        )
        .await
    }

    async fn allocate_ports(&self, new: &mut Object, old: &Held, dry_run: bool) -> StatusResult<()> {
        if !needs_node_ports(new) {
            return Ok(());
        }
        let ports: Vec<Value> = new.list_at(&["spec", "ports"]).to_vec();
        let assigned = self
            .change_ports(
                |bitmap| assign(bitmap, &ports, old, &self.ports).map_err(|e| invalid(new, e)),
                dry_run,
            )
            .await?;
        new.set(&["spec", "ports"], assigned);
        Ok(())
    }
}

/// Gives every port a node port.
fn assign(
    bitmap: &mut Bitmap,
    ports: &[Value],
    old: &Held,
    range: &RangeInclusive<u16>,
) -> Result<Vec<Value>, FieldError> {
    let mut out = ports.to_vec();
    // A number may serve several protocols of one Service.
    let mut own: Vec<(u16, String)> = Vec::new();
    for (i, port) in out.iter_mut().enumerate() {
        let path = FieldPath::new("spec").child("ports").index(i).child("nodePort");
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        let asked = port["nodePort"].as_u64().and_then(|n| u16::try_from(n).ok()).filter(|&n| n != 0);
        if let Some(n) = asked {
            if !range.contains(&n) {
                let why = format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    range.start(),
                    range.end()
                );
                return Err(FieldError::invalid(&path, n, why));
            }
            let shared = own.iter().any(|(taken, p)| *taken == n && *p != protocol);
            if !shared && !old.ports.contains(&n) && !bitmap.take(n - range.start()) {
                return Err(FieldError::invalid(&path, n, "provided port is already allocated"));
            }
            own.push((n, protocol));
            continue;
        }
        let count = range.end() - range.start() + 1;
        let start = rand::rng().random_range(0..count);
        let free = (0..count).map(|k| (start + k) % count).find(|&k| bitmap.take(k));
        let Some(free) = free else {
            return Err(FieldError::invalid(&path, 0, "failed to allocate a nodePort: range is full"));
        };
        port["nodePort"] = (range.start() + free).into();
        own.push((range.start() + free, protocol));
    }
    Ok(out)
}

#[async_trait]
impl Hook for ServiceAllocator {
    async fn allocate(&self, new: &mut Object, old: Option<&Object>, dry_run: bool) -> StatusResult<()> {
        let before = old.map(held).unwrap_or_default();
        self.allocate_ip(new, &before, dry_run).await?;
        if let Err(e) = self.allocate_ports(new, &before, dry_run).await {
            if !dry_run {
                let mut ips_only = new.clone();
                ips_only.remove(&["spec", "ports"]);
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
        let start = *self.ports.start();
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

/// Which node ports are taken, by offset in the range.
#[derive(Debug, Clone, Default, PartialEq)]
struct Bitmap(Vec<u8>);

impl Bitmap {
    fn take(&mut self, offset: u16) -> bool {
        let (byte, bit) = (usize::from(offset / 8), 1u8 << (offset % 8));
        if self.0.len() <= byte {
            self.0.resize(byte + 1, 0);
        }
        let free = self.0[byte] & bit == 0;
        self.0[byte] |= bit;
        free
    }

    fn has(&self, offset: u16) -> bool {
        self.0.get(usize::from(offset / 8)).is_some_and(|byte| byte & (1 << (offset % 8)) != 0)
    }

    fn free(&mut self, offset: u16) {
        if let Some(byte) = self.0.get_mut(usize::from(offset / 8)) {
            *byte &= !(1u8 << (offset % 8));
        }
    }

    /// A `RangeAllocation`, whose data is a big-endian number as Go's `big.Int` writes it.
    fn encode(&self, range: &str) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.0.iter().rev().copied().collect();
        let zeros = bytes.iter().take_while(|b| **b == 0).count();
        bytes.drain(..zeros);
        json!({
            "kind": "RangeAllocation",
            "apiVersion": "v1",
            "metadata": {},
            "range": range,
            "data": STANDARD.encode(bytes),
        })
        .to_string()
        .into_bytes()
    }

    fn decode(value: &[u8], range: &str) -> StatusResult<Self> {
        let stored = Value::Object(encode::tree(value).map_err(StatusError::internal)?.0);
        if stored["range"] != range {
            return Err(StatusError::internal(format!(
                "node ports were allocated from {}, not {range}: --service-node-port-range may not change",
                stored["range"]
            )));
        }
        let data = STANDARD.decode(stored["data"].as_str().unwrap_or("")).map_err(StatusError::internal)?;
        Ok(Self(data.into_iter().rev().collect()))
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

    #[test]
    fn the_bitmap_reads_back() {
        let mut b = Bitmap::default();
        assert!(b.take(0) && b.take(9) && !b.take(9));
        let back = Bitmap::decode(&b.encode("1-2"), "1-2").unwrap();
        assert_eq!(back, b);
        assert!(Bitmap::decode(&b.encode("1-2"), "1-3").is_err());
    }
}
