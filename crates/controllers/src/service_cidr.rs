//! Says of each ServiceCIDR whether Services get addresses of it, and lets one go once no address needs it.
//! Watches: ServiceCIDR (by key, and those that overlap), IPAddress.  Writes: ServiceCIDR finalizer and condition.
//! Invariants: one that goes away keeps its finalizer as long as an address lies in it and in no other.
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use client::{Cache, ObjectKey};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::context::Context;
use crate::framework::{Controller, Error, Next, Wakes, unless_gone};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// What still allocates has this long to learn that the network goes away.
const GRACE: SignedDuration = SignedDuration::from_secs(10);

/// See the module.
pub struct ServiceCidrController {
    client: Client,
    cidrs: Cache<ServiceCIDR>,
    addresses: Cache<IPAddress>,
}

impl ServiceCidrController {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            cidrs: context.informers.cache(),
            addresses: context.informers.cache(),
        }
    }

    async fn apply(&self, name: &str, act: &Act) -> Result<Next, Error> {
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        let result = match act {
            Act::Rest => return Ok(Next::Rest),
            Act::Wait(left) => return Ok(Next::After(*left)),
            Act::Guard => {
                let patch = json!({ "metadata": { "finalizers": [FINALIZER] } });
                api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await
            }
            Act::LetGo => {
                let patch = json!({ "metadata": { "$deleteFromPrimitiveList/finalizers": [FINALIZER] } });
                api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await
            }
            Act::Say(condition) => {
                let status = json!({
                    "apiVersion": "networking.k8s.io/v1",
                    "kind": "ServiceCIDR",
                    "metadata": { "name": name },
                    "status": { "conditions": [{
                        "type": "Ready",
                        "status": condition.status,
                        "reason": condition.reason,
                        "message": condition.message,
                        "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                    }] },
                });
                let params = PatchParams::apply("service-cidr-controller").force();
                api.patch_status(name, &params, &Patch::Apply(status)).await
            }
        };
        unless_gone(result).map_err(Error::at("update a ServiceCIDR"))?;
        tracing::debug!("a network of services was brought up to date");
        // What is left to do shows when the change comes back.
        Ok(Next::Rest)
    }
}

impl Controller for ServiceCidrController {
    const NAME: &'static str = "service-cidr-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        let all = self.cidrs.clone();
        wakes.on(&self.cidrs, move |change| {
            let mut keys = vec![change.key.clone()];
            // One that comes may take over the addresses of another that goes away.
            if let Some(object) = change.object() {
                let nets = networks(object);
                let others = all.list().into_iter();
                let near =
                    others.filter(|other| networks(other).iter().any(|a| nets.iter().any(|b| overlap(a, b))));
                keys.extend(near.map(|other| ObjectKey::cluster(other.name_any())));
            }
            keys
        });
        let all = self.cidrs.clone();
        wakes.on(&self.addresses, move |change| {
            let Ok(ip) = change.key.name.parse::<IpAddr>() else { return Vec::new() };
            let holding = all.list().into_iter().filter(|cidr| holds(cidr, ip));
            holding.map(|cidr| ObjectKey::cluster(cidr.name_any())).collect()
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(seen) = self.cidrs.get(&key) else { return Ok(Next::Rest) };
        let others: Vec<_> = self.cidrs.list().into_iter().filter(|o| o.name_any() != key.name).collect();
        let others: Vec<&ServiceCIDR> = others.iter().map(|o| &**o).collect();
        let addresses: BTreeSet<IpAddr> = self.addresses.list().iter().filter_map(|a| allocated(a)).collect();
        self.apply(&key.name, &plan(&seen, &others, &addresses, Timestamp::now())).await
    }
}

/// An address that was given to a Service.
fn allocated(address: &IPAddress) -> Option<IpAddr> {
    let ours = address.labels().get(MANAGED_BY).is_some_and(|by| by == ALLOCATOR);
    address.name_any().parse().ok().filter(|_| ours)
}

fn networks(cidr: &ServiceCIDR) -> Vec<IpNet> {
    let texts = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn holds(cidr: &ServiceCIDR, ip: IpAddr) -> bool {
    networks(cidr).iter().any(|net| net.contains(&ip))
}

/// The condition `Ready`.
#[derive(Debug, PartialEq)]
struct Ready {
    status: &'static str,
    reason: &'static str,
    message: &'static str,
}

const READY: Ready = Ready { status: "True", reason: "", message: "Kubernetes Service CIDR is ready" };
const TERMINATING: Ready = Ready {
    status: "False",
    reason: "Terminating",
    message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
};

/// What to do next.
#[derive(Debug, PartialEq)]
enum Act {
    Rest,
    Wait(Duration),
    /// Sets the finalizer.
    Guard,
    /// Takes it away.
    LetGo,
    Say(Ready),
}

fn say(seen: &ServiceCIDR, wanted: Ready) -> Act {
    let conditions = seen.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let found = conditions.iter().find(|c| c.type_ == "Ready");
    let same = found.is_some_and(|c| {
        c.status == wanted.status && c.reason == wanted.reason && c.message == wanted.message
    });
    if same { Act::Rest } else { Act::Say(wanted) }
}

/// `others`: all other networks; `addresses`: all that Services have.
fn plan(seen: &ServiceCIDR, others: &[&ServiceCIDR], addresses: &BTreeSet<IpAddr>, now: Timestamp) -> Act {
    let guarded = seen.finalizers().iter().any(|f| f == FINALIZER);
    let Some(deleted) = &seen.metadata.deletion_timestamp else {
        return if guarded { say(seen, READY) } else { Act::Guard };
    };
    let within_other =
        |net: &IpNet| others.iter().any(|other| networks(other).iter().any(|outer| outer.contains(net)));
    let needed = |ip: &&IpAddr| holds(seen, **ip) && !others.iter().any(|other| holds(other, **ip));
    if !networks(seen).iter().all(within_other) && addresses.iter().any(|ip| needed(&ip)) {
        return say(seen, TERMINATING);
    }
    match GRACE - now.duration_since(deleted.0) {
        left if left.is_positive() => Act::Wait(left.unsigned_abs()),
        _ if guarded => Act::LetGo,
        _ => Act::Rest,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::networking::v1::{ServiceCIDRSpec, ServiceCIDRStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn cidr(net: &str) -> ServiceCIDR {
        ServiceCIDR {
            metadata: ObjectMeta { finalizers: Some(vec![FINALIZER.into()]), ..ObjectMeta::default() },
            spec: Some(ServiceCIDRSpec { cidrs: Some(vec![net.into()]) }),
            status: None,
        }
    }

    fn with(mut cidr: ServiceCIDR, ready: &Ready) -> ServiceCIDR {
        let condition = Condition {
            type_: "Ready".into(),
            status: ready.status.into(),
            reason: ready.reason.into(),
            message: ready.message.into(),
            last_transition_time: Time(at(0)),
            observed_generation: None,
        };
        cidr.status = Some(ServiceCIDRStatus { conditions: Some(vec![condition]) });
        cidr
    }

    #[test]
    fn a_network_is_guarded_then_ready() {
        let none = BTreeSet::new();
        let fresh = ServiceCIDR { metadata: ObjectMeta::default(), ..cidr("10.0.0.0/24") };
        assert_eq!(plan(&fresh, &[], &none, at(0)), Act::Guard);
        assert_eq!(plan(&cidr("10.0.0.0/24"), &[], &none, at(0)), Act::Say(READY));
        assert_eq!(plan(&with(cidr("10.0.0.0/24"), &READY), &[], &none, at(0)), Act::Rest);
    }

    #[test]
    fn one_that_goes_away_waits_for_its_addresses() {
        let mut going = with(cidr("10.0.0.0/24"), &READY);
        going.metadata.deletion_timestamp = Some(Time(at(0)));
        let used: BTreeSet<IpAddr> = ["10.0.0.7".parse().unwrap()].into();
        assert_eq!(plan(&going, &[], &used, at(60)), Act::Say(TERMINATING));
        assert_eq!(plan(&with(going.clone(), &TERMINATING), &[], &used, at(60)), Act::Rest);
        // Another that has the address too, or all of the network, takes over.
        for other in ["10.0.0.0/28", "10.0.0.0/16"] {
            assert_eq!(plan(&going, &[&cidr(other)], &used, at(60)), Act::LetGo, "{other}");
        }
        assert_eq!(plan(&going, &[&cidr("10.0.1.0/24")], &used, at(60)), Act::Say(TERMINATING));
        assert_eq!(plan(&going, &[], &BTreeSet::new(), at(4)), Act::Wait(Duration::from_secs(6)));
        assert_eq!(plan(&going, &[], &BTreeSet::new(), at(60)), Act::LetGo);
        going.metadata.finalizers = None;
        assert_eq!(plan(&going, &[], &BTreeSet::new(), at(60)), Act::Rest);
    }
}
