//! Node ports of one Service, out of those that are free. Upstream: pkg/registry/core/service/portallocator and
//! pkg/registry/core/service/storage/alloc.go, 1.36.
use std::ops::RangeInclusive;

use apiserver_registry::encode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::gvk::GroupVersionKind;
use machinery::{FieldError, FieldPath, Object, StatusError, StatusResult};
use rand::Rng as _;
use serde_json::{Value, json};

const TAKEN: &str = "provided port is already allocated";

/// The ports that Services may have on every node.
#[derive(Debug, Clone)]
pub(super) struct Ports(pub(super) RangeInclusive<u16>);

impl Ports {
    pub(super) fn count(&self) -> u16 {
        // All of 0-65535 is one more than there are numbers for; port 0 is none.
        (self.0.end() - self.0.start()).saturating_add(1)
    }

    /// How many of the lower ports are left to those who ask for one as long as there are others (KEP-3668).
    fn reserved(&self) -> u16 {
        match self.count() {
            0..=16 => 0,
            count => (count / 32).clamp(16, 128),
        }
    }

    /// Takes a port that is asked for.
    fn take(&self, bitmap: &mut Bitmap, port: u16) -> Result<(), String> {
        if !self.0.contains(&port) {
            let (start, end) = (self.0.start(), self.0.end());
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {start}-{end}"
            ));
        }
        if bitmap.take(port - self.0.start()) { Ok(()) } else { Err(TAKEN.to_owned()) }
    }

    /// Takes any port.
    fn take_any(&self, bitmap: &mut Bitmap) -> Option<u16> {
        let (lower, count) = (self.reserved(), self.count());
        [(lower, count - lower), (0, lower)].into_iter().filter(|(_, count)| *count > 0).find_map(
            |(first, count)| {
                let start = rand::rng().random_range(0..count);
                let mut offsets = (0..count).map(|k| first + (start + k) % count);
                offsets.find(|offset| bitmap.take(*offset)).map(|offset| self.0.start() + offset)
            },
        )
    }
}

/// Whether load balancers ask the nodes on a port of its own.
pub(super) fn needs_health_check(service: &Object) -> bool {
    service.str_at(&["spec", "type"]) == "LoadBalancer"
        && service.str_at(&["spec", "externalTrafficPolicy"]) == "Local"
}

pub(super) fn health_check_port(service: &Object) -> Option<u16> {
    let port = service.i64_at(&["spec", "healthCheckNodePort"])?;
    u16::try_from(port).ok().filter(|port| *port != 0 && needs_health_check(service))
}

fn number(port: &Value, field: &str) -> u16 {
    port[field].as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or(0)
}

/// The node ports of a Service, without that of its health check.
pub(super) fn node_ports(service: &Object) -> Vec<u16> {
    let ports = service.list_at(&["spec", "ports"]).iter();
    ports.map(|port| number(port, "nodePort")).filter(|&n| n != 0).collect()
}

fn gets_all(service: &Object) -> Option<bool> {
    match service.str_at(&["spec", "type"]) {
        "NodePort" => Some(true),
        "LoadBalancer" => Some(service.bool_at(&["spec", "allocateLoadBalancerNodePorts"]).unwrap_or(true)),
        _ => None,
    }
}

/// Gives a Service what it asks for and what it lacks.
pub(super) fn assign(
    ports: &Ports,
    bitmap: &mut Bitmap,
    new: &mut Object,
    old: Option<&Object>,
) -> StatusResult<()> {
    if let Some(all) = gets_all(new) {
        let mut list = new.list_at(&["spec", "ports"]).to_vec();
        match old {
            None => first(ports, bitmap, &mut list, all),
            Some(old) => changed(ports, bitmap, &mut list, &node_ports(old), all),
        }
        .map_err(|e| e.about(new))?;
        if !list.is_empty() {
            new.set(&["spec", "ports"], list);
        }
    }
    if needs_health_check(new) && !old.is_some_and(needs_health_check) {
        let asked = new.i64_at(&["spec", "healthCheckNodePort"]).unwrap_or(0);
        let port = match u16::try_from(asked).unwrap_or(u16::MAX) {
            0 => ports
                .take_any(bitmap)
                .ok_or("failed to allocate a HealthCheck NodePort 0: range is full".to_owned()),
            port => ports
                .take(bitmap, port)
                .map(|()| port)
                .map_err(|why| format!("failed to allocate requested HealthCheck NodePort {asked}: {why}")),
        };
        new.set(&["spec", "healthCheckNodePort"], port.map_err(StatusError::internal)?);
    }
    Ok(())
}

/// Why a Service does not get its ports.
enum Refused {
    Asked(usize, u16, String),
    Full,
}

impl Refused {
    fn about(self, service: &Object) -> StatusError {
        match self {
            Self::Asked(i, port, why) => {
                let path = FieldPath::new("spec").child("ports").index(i).child("nodePort");
                let gvk = GroupVersionKind::new("", "v1", "Service");
                StatusError::invalid(&gvk, service.name(), &[FieldError::invalid(&path, port, why)])
            }
            Self::Full => StatusError::internal("failed to allocate a nodePort: range is full"),
        }
    }
}

/// A new Service: ports of one number, of several protocols, share a node port.
fn first(ports: &Ports, bitmap: &mut Bitmap, list: &mut [Value], all: bool) -> Result<(), Refused> {
    let mut shared: Vec<(u16, u16)> = Vec::new();
    for i in 0..list.len() {
        let (port, asked) = (number(&list[i], "port"), number(&list[i], "nodePort"));
        if asked == 0 && !all {
            continue;
        }
        let given = match shared.iter().find(|(p, _)| *p == port) {
            Some((_, given)) if asked == 0 || asked == *given => *given,
            Some(_) => ports.take(bitmap, asked).map(|()| asked).map_err(|e| Refused::Asked(i, asked, e))?,
            None => {
                let same = list.iter().filter(|other| number(other, "port") == port);
                let asked = same.map(|other| number(other, "nodePort")).find(|n| *n != 0);
                let given = match asked {
                    Some(n) => ports.take(bitmap, n).map(|()| n).map_err(|e| Refused::Asked(i, n, e))?,
                    None => ports.take_any(bitmap).ok_or(Refused::Full)?,
                };
                shared.push((port, given));
                given
            }
        };
        list[i]["nodePort"] = given.into();
    }
    Ok(())
}

/// A Service that has some already.
fn changed(
    ports: &Ports,
    bitmap: &mut Bitmap,
    list: &mut [Value],
    had: &[u16],
    all: bool,
) -> Result<(), Refused> {
    let mut taken = Vec::new();
    for (i, entry) in list.iter_mut().enumerate() {
        match number(entry, "nodePort") {
            0 if !all => {}
            0 => entry["nodePort"] = ports.take_any(bitmap).ok_or(Refused::Full)?.into(),
            asked if had.contains(&asked) || taken.contains(&asked) => {}
            asked => {
                ports.take(bitmap, asked).map_err(|e| Refused::Asked(i, asked, e))?;
                taken.push(asked);
            }
        }
    }
    Ok(())
}

/// Which node ports are taken, by offset in the range.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Bitmap(Vec<u8>);

impl Bitmap {
    pub(super) fn take(&mut self, offset: u16) -> bool {
        let (byte, bit) = (usize::from(offset / 8), 1u8 << (offset % 8));
        if self.0.len() <= byte {
            self.0.resize(byte + 1, 0);
        }
        let free = self.0[byte] & bit == 0;
        self.0[byte] |= bit;
        free
    }

    pub(super) fn has(&self, offset: u16) -> bool {
        self.0.get(usize::from(offset / 8)).is_some_and(|byte| byte & (1 << (offset % 8)) != 0)
    }

    pub(super) fn free(&mut self, offset: u16) {
        if let Some(byte) = self.0.get_mut(usize::from(offset / 8)) {
            *byte &= !(1u8 << (offset % 8));
        }
    }

    /// A `RangeAllocation`, whose data is a big-endian number as Go's `big.Int` writes it.
    pub(super) fn encode(&self, range: &str) -> Vec<u8> {
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

    pub(super) fn decode(value: &[u8], range: &str) -> StatusResult<Self> {
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

    fn service(spec: Value) -> Object {
        Object::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap()
    }

    #[test]
    fn the_bitmap_reads_back() {
        let mut b = Bitmap::default();
        assert!(b.take(0) && b.take(9) && !b.take(9));
        let back = Bitmap::decode(&b.encode("1-2"), "1-2").unwrap();
        assert_eq!(back, b);
        assert!(Bitmap::decode(&b.encode("1-2"), "1-3").is_err());
    }

    #[test]
    fn the_lower_ports_come_last() {
        let ports = Ports(30000..=32767);
        assert_eq!(ports.reserved(), 86);
        assert_eq!(Ports(30000..=30015).reserved(), 0);
        let ports = Ports(30000..=30039);
        let mut bitmap = Bitmap::default();
        let given: Vec<u16> = std::iter::from_fn(|| ports.take_any(&mut bitmap)).collect();
        assert_eq!(given.len(), 40);
        assert!(given[..24].iter().all(|p| *p >= 30016), "{given:?}");
        assert!(given[24..].iter().all(|p| *p < 30016), "{given:?}");
    }

    #[test]
    fn protocols_of_one_port_share_a_node_port() {
        let ports = Ports(30000..=30003);
        let mut bitmap = Bitmap::default();
        let mut dns = service(json!({"type": "NodePort", "ports": [
            {"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}, {"port": 80, "protocol": "TCP"}]}));
        assign(&ports, &mut bitmap, &mut dns, None).unwrap();
        let given = node_ports(&dns);
        assert!(given[0] == given[1] && given[1] != given[2], "{given:?}");
        let mut asked = service(json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": given[2]}]}));
        let e = assign(&ports, &mut bitmap, &mut asked, None).unwrap_err();
        assert!(e.to_string().contains("provided port is already allocated"), "{e}");
        let mut outside = service(json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]}));
        let e = assign(&ports, &mut bitmap, &mut outside, None).unwrap_err();
        assert!(e.to_string().contains("The range of valid ports is 30000-30003"), "{e}");
    }

    #[test]
    fn a_balancer_may_go_without_node_ports_and_ask_for_its_health() {
        let ports = Ports(30000..=30003);
        let mut bitmap = Bitmap::default();
        let mut balancer = service(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}, {"port": 81, "nodePort": 30001}]}));
        assign(&ports, &mut bitmap, &mut balancer, None).unwrap();
        assert_eq!(node_ports(&balancer), [30001]);
        let health = health_check_port(&balancer).unwrap();
        assert!(bitmap.has(health - 30000) && bitmap.has(1) && health != 30001);
        // An update that needs the same asks for nothing.
        let (mut same, before) = (balancer.clone(), bitmap.clone());
        assign(&ports, &mut bitmap, &mut same, Some(&balancer)).unwrap();
        assert_eq!((same, bitmap), (balancer, before));
    }
}
