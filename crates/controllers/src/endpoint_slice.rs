//! Lists a Service's pods in EndpointSlices.
//! Watches: Service (by key), Pod (by the Services that pick it), EndpointSlice (by its service-name label),
//! Node (zones).  Writes: EndpointSlice create/update/delete.
//! Invariants: touches only slices labelled as its own; an endpoint stays in its slice while it can.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use client::{Cache, ObjectKey};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};

use crate::context::Context;
use crate::expectations::{Expectations, UNSEEN};
use crate::framework::{Controller, Error, Next, Wakes, is_namespace_terminating, unless_gone};
use crate::ownership::controller_ref;
use crate::pods;
use crate::service_ports::{self, Port};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const US: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";
const MOST_ENDPOINTS: usize = 100;

/// See the module.
pub struct EndpointSliceController {
    client: Client,
    services: Cache<Service>,
    pods: Cache<Pod>,
    slices: Cache<EndpointSlice>,
    nodes: Cache<Node>,
    expectations: Expectations,
}

impl EndpointSliceController {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            services: context.informers.cache(),
            pods: context.pods.cache.clone(),
            slices: context.informers.cache(),
            nodes: context.informers.cache(),
            expectations: Expectations::default(),
        }
    }
}

/// The keys of the Services that pick a pod, as it was or is.
pub fn picked_by(services: &Cache<Service>, change: &client::Change<Pod>) -> Vec<ObjectKey> {
    services
        .list_in(&change.key.namespace)
        .iter()
        .filter(|service| change.old.iter().chain(&change.new).any(|pod| service_ports::picks(service, pod)))
        .map(|service| ObjectKey::of(&**service))
        .collect()
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_some_and(|v| v == US)
}

fn service_of(slice: &EndpointSlice) -> Option<&String> {
    slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME))
}

impl Controller for EndpointSliceController {
    const NAME: &'static str = "endpointslice-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.services);
        let services = self.services.clone();
        wakes.on(&self.pods, move |change| picked_by(&services, change));
        wakes.on(&self.slices, |change| {
            let ours = change.old.iter().chain(&change.new).filter(|s| is_ours(s));
            let names: BTreeSet<_> = ours.filter_map(|s| service_of(s)).collect();
            names.into_iter().map(|n| ObjectKey::new(change.key.namespace.clone(), n)).collect()
        });
        wakes.reads(&self.nodes);
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(service) = self.services.get(&key) else {
            self.expectations.forget(&key);
            return Ok(Next::Rest);
        };
        if !service_ports::selects(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Rest);
        }
        if !self.expectations.met(&key, &self.slices) {
            return Ok(UNSEEN);
        }
        let pods = self.pods.list_in(&key.namespace);
        let pods: Vec<_> = pods.into_iter().filter(|p| service_ports::picks(&service, p)).collect();
        let slices = self.slices.list_in(&key.namespace);
        let slices: Vec<_> = slices
            .into_iter()
            .filter(|s| {
                is_ours(s) && service_of(s) == Some(&key.name) && s.metadata.deletion_timestamp.is_none()
            })
            .collect();
        let zone = |node: &str| {
            let node = self.nodes.get(&ObjectKey::cluster(node))?;
            node.metadata.labels.as_ref()?.get(ZONE).cloned()
        };
        let plan = plan(&Seen { service: &service, pods: &pods, slices: &slices, zone: &zone });

        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PostParams::default();
        for slice in &plan.create {
            match api.create(&params, slice).await {
                Ok(made) => self.expectations.written(&key, &made),
                Err(error) if is_namespace_terminating(&error) => return Ok(Next::Rest),
                Err(error) => return Err(Error::at("create a slice")(error)),
            }
        }
        for slice in &plan.update {
            let name = slice.metadata.name.as_deref().unwrap_or("");
            let written = api.replace(name, &params, slice).await.map_err(Error::at("update a slice"))?;
            self.expectations.written(&key, &written);
        }
        for slice in &plan.delete {
            let name = slice.metadata.name.as_deref().unwrap_or("");
            let same = Preconditions { uid: slice.metadata.uid.clone(), resource_version: None };
            let deleted = api.delete(name, &DeleteParams::default().preconditions(same)).await;
            unless_gone(deleted).map_err(Error::at("delete a slice"))?;
            self.expectations.deleted(&key, &**slice);
        }
        Ok(Next::Rest)
    }
}

struct Seen<'a> {
    service: &'a Service,
    pods: &'a [Arc<Pod>],
    slices: &'a [Arc<EndpointSlice>],
    zone: &'a dyn Fn(&str) -> Option<String>,
}

#[derive(Debug, Default)]
struct Plan {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
}

fn plan(seen: &Seen<'_>) -> Plan {
    let mut plan = Plan::default();
    let families = seen.service.spec.as_ref().and_then(|s| s.ip_families.clone()).unwrap_or_default();
    let families = if families.is_empty() { vec!["IPv4".to_owned()] } else { families };
    for slice in seen.slices.iter().filter(|s| !families.contains(&s.address_type)) {
        plan.delete.push(slice.clone());
    }
    for family in &families {
        plan_family(seen, family, &mut plan);
    }
    plan
}

fn plan_family(seen: &Seen<'_>, family: &str, plan: &mut Plan) {
    let mut wanted: BTreeMap<Vec<Port>, Vec<Endpoint>> = BTreeMap::new();
    for pod in seen.pods {
        if let Some(endpoint) = endpoint(seen, pod, family) {
            wanted.entry(service_ports::of_pod(seen.service, pod)).or_default().push(endpoint);
        }
    }
    let mut existing: BTreeMap<Vec<Port>, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in seen.slices.iter().filter(|s| s.address_type == family) {
        existing.entry(ports_of(slice)).or_default().push(slice);
    }
    // One slice stays even for nobody, so that watchers know the Service was looked at.
    if wanted.is_empty() {
        let keep = existing.remove(&Vec::new()).unwrap_or_default();
        let spare = existing.into_values().flatten();
        plan.delete.extend(keep.iter().skip(1).copied().chain(spare).cloned());
        match keep.first() {
            None => plan.create.push(new_slice(seen.service, family, &[], Vec::new())),
            Some(slice) => plan.update.extend(updated(seen.service, slice, Vec::new())),
        }
        return;
    }
    for (ports, mut endpoints) in wanted {
        let slices = existing.remove(&ports).unwrap_or_default();
        let mut kept: Vec<(&Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
        for slice in slices {
            let mut stay = Vec::new();
            for old in slice.endpoints.iter().flatten() {
                if let Some(at) = endpoints.iter().position(|new| same_target(new, old)) {
                    stay.push(endpoints.swap_remove(at));
                }
            }
            kept.push((slice, stay));
        }
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        let mut left = endpoints.into_iter().peekable();
        // The fullest first: fewer slices change.
        kept.sort_by_key(|(_, stay)| std::cmp::Reverse(stay.len()));
        for (_, stay) in &mut kept {
            let room = MOST_ENDPOINTS.saturating_sub(stay.len());
            stay.extend(left.by_ref().take(room));
        }
        for (slice, stay) in kept {
            if stay.is_empty() {
                plan.delete.push(slice.clone());
            } else {
                plan.update.extend(updated(seen.service, slice, stay));
            }
        }
        while left.peek().is_some() {
            let chunk = left.by_ref().take(MOST_ENDPOINTS).collect();
            plan.create.push(new_slice(seen.service, family, &ports, chunk));
        }
    }
    plan.delete.extend(existing.into_values().flatten().cloned());
}

fn same_target(a: &Endpoint, b: &Endpoint) -> bool {
    let uid = |e: &Endpoint| e.target_ref.as_ref().and_then(|t| t.uid.clone());
    uid(a) == uid(b) && a.addresses == b.addresses
}

fn endpoint(seen: &Seen<'_>, pod: &Pod, family: &str) -> Option<Endpoint> {
    if pods::is_terminal(pod) {
        return None;
    }
    let status = pod.status.as_ref()?;
    let mut ips: Vec<String> = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    if ips.is_empty() {
        ips.extend(status.pod_ip.clone());
    }
    ips.retain(|ip| match ip.parse() {
        Ok(IpAddr::V4(_)) => family == "IPv4",
        Ok(IpAddr::V6(_)) => family == "IPv6",
        Err(_) => false,
    });
    if ips.is_empty() {
        return None;
    }
    let serving = pods::is_ready(pod);
    let terminating = pods::is_terminating(pod);
    let publish = seen.service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    let node = Some(pods::node_name(pod).to_owned()).filter(|n| !n.is_empty());
    Some(Endpoint {
        addresses: ips,
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        target_ref: Some(target_ref(pod)),
        zone: node.as_deref().and_then(seen.zone),
        node_name: node,
        hostname: service_ports::hostname(seen.service, pod),
        ..Endpoint::default()
    })
}

/// What an address stands for.
pub fn target_ref(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

fn ports_of(slice: &EndpointSlice) -> Vec<Port> {
    let mut ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .map(|p| Port {
            name: p.name.clone().unwrap_or_default(),
            protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
            number: p.port.unwrap_or(0),
            app_protocol: p.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    ports
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if service_ports::is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), US.into());
    labels
}

fn new_slice(service: &Service, family: &str, ports: &[Port], endpoints: Vec<Endpoint>) -> EndpointSlice {
    let port = |p: &Port| EndpointPort {
        name: Some(p.name.clone()),
        protocol: Some(p.protocol.clone()),
        port: Some(p.number),
        app_protocol: p.app_protocol.clone(),
    };
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.metadata.name.as_deref().unwrap_or(""))),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![controller_ref(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.iter().map(port).collect()),
    }
}

/// The slice with these endpoints, where that differs from what it is.
fn updated(service: &Service, slice: &EndpointSlice, endpoints: Vec<Endpoint>) -> Option<EndpointSlice> {
    let labels = Some(labels(service));
    if slice.endpoints.as_deref().unwrap_or(&[]) == endpoints && slice.metadata.labels == labels {
        return None;
    }
    let mut next = slice.clone();
    next.endpoints = Some(endpoints);
    next.metadata.labels = labels;
    Some(next)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Service {
        let mut service: Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "s", "labels": {"team": "x"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
                "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}}))
        .unwrap();
        let mut whole = serde_json::to_value(&service.spec).unwrap();
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        service.spec = serde_json::from_value(whole).unwrap();
        service
    }

    /// `r` ready, `u` unready, `t` terminating but ready, `f` failed, `n` without an address.
    fn pod(i: usize, kind: char, port: u16) -> Arc<Pod> {
        let ready = if matches!(kind, 'r' | 't') { "True" } else { "False" };
        let ips = if kind == 'n' {
            json!([])
        } else {
            json!([{"ip": format!("10.1.{}.{}", i / 250, i % 250)}, {"ip": format!("fd00::{i}")}])
        };
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": format!("p{i}"), "namespace": "ns", "uid": format!("u{i}"), "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "hostname": "h", "subdomain": "web",
                "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": port, "protocol": "TCP"}]}]},
            "status": {"phase": if kind == 'f' { "Failed" } else { "Running" }, "podIPs": ips,
                "conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap();
        if kind == 't' {
            pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        }
        Arc::new(pod)
    }

    fn run(service: &Service, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Plan {
        let zone = |node: &str| (node == "n1").then(|| "z1".to_owned());
        plan(&Seen { service, pods, slices, zone: &zone })
    }

    fn stored(slices: Vec<EndpointSlice>) -> Vec<Arc<EndpointSlice>> {
        let name = |(i, mut s): (usize, EndpointSlice)| {
            s.metadata.name = Some(format!("web-{i}"));
            Arc::new(s)
        };
        slices.into_iter().enumerate().map(name).collect()
    }

    #[test]
    fn conditions_follow_the_pod() {
        // pod, publishNotReadyAddresses: ready, serving, terminating; None: no endpoint
        for (kind, publish, expect) in [
            ('r', false, Some((true, true, false))),
            ('u', false, Some((false, false, false))),
            ('u', true, Some((true, false, false))),
            ('t', false, Some((false, true, true))),
            ('t', true, Some((true, true, true))),
            ('f', false, None),
            ('n', false, None),
        ] {
            let plan = run(&service(json!({"publishNotReadyAddresses": publish})), &[pod(1, kind, 80)], &[]);
            let [slice] = &plan.create[..] else { panic!("{plan:?}") };
            let seen = slice.endpoints.as_ref().unwrap().first().map(|e| {
                let c = e.conditions.as_ref().unwrap();
                (c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap())
            });
            assert_eq!(seen, expect, "{kind} {publish}");
        }
    }

    #[test]
    fn a_slice_tells_all_about_its_endpoints() {
        let plan = run(&service(json!({"clusterIP": "None"})), &[pod(1, 'r', 8080)], &[]);
        let slice = serde_json::to_value(&plan.create[0]).unwrap();
        assert_eq!(
            slice["metadata"]["labels"],
            json!({"team": "x", SERVICE_NAME: "web", MANAGED_BY: US, HEADLESS: ""})
        );
        assert_eq!(slice["metadata"]["generateName"], "web-");
        assert_eq!(slice["metadata"]["ownerReferences"][0]["kind"], "Service");
        assert_eq!(slice["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
        assert_eq!(slice["endpoints"][0]["addresses"], json!(["10.1.0.1"]));
        assert_eq!(slice["endpoints"][0]["zone"], "z1");
        assert_eq!(slice["endpoints"][0]["hostname"], "h");
        assert_eq!(
            slice["endpoints"][0]["targetRef"],
            json!({"kind": "Pod", "namespace": "ns", "name": "p1", "uid": "u1"})
        );
    }

    #[test]
    fn nobody_still_gives_one_empty_slice_and_then_rests() {
        let s = service(json!({}));
        let first = run(&s, &[], &[]);
        assert_eq!(first.create.len(), 1);
        let slices = stored(first.create);
        let again = run(&s, &[], &slices);
        assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
    }

    #[test]
    fn different_named_ports_go_to_different_slices_and_families_apart() {
        let plan =
            run(&service(json!({"ipFamilies": ["IPv4", "IPv6"]})), &[pod(1, 'r', 80), pod(2, 'r', 81)], &[]);
        let shape: Vec<_> = plan
            .create
            .iter()
            .map(|s| {
                (
                    s.address_type.as_str(),
                    s.ports.as_ref().unwrap()[0].port.unwrap(),
                    s.endpoints.as_ref().unwrap().len(),
                )
            })
            .collect();
        assert_eq!(shape, [("IPv4", 80, 1), ("IPv4", 81, 1), ("IPv6", 80, 1), ("IPv6", 81, 1)]);
    }

    #[test]
    fn endpoints_stay_where_they_are_and_slices_fill_up() {
        let s = service(json!({}));
        let pods: Vec<_> = (0..250).map(|i| pod(i, 'r', 80)).collect();
        let first = run(&s, &pods, &[]);
        let sizes: Vec<_> = first.create.iter().map(|s| s.endpoints.as_ref().unwrap().len()).collect();
        assert_eq!(sizes, [100, 100, 50]);
        let slices = stored(first.create);
        assert!(run(&s, &pods, &slices).update.is_empty());

        let more: Vec<_> = (0..251).filter(|i| *i != 3).map(|i| pod(i, 'r', 80)).collect();
        let next = run(&s, &more, &slices);
        assert!(next.create.is_empty() && next.delete.is_empty());
        assert_eq!(next.update.len(), 1, "the one that loses is the fullest with room and gains");

        let few: Vec<_> = slices[0]
            .endpoints
            .as_ref()
            .unwrap()
            .iter()
            .take(1)
            .map(|e| {
                let name = e.target_ref.as_ref().unwrap().name.as_ref().unwrap();
                pods.iter().find(|p| p.metadata.name.as_ref() == Some(name)).unwrap().clone()
            })
            .collect();
        let next = run(&s, &few, &slices);
        assert_eq!((next.create.len(), next.update.len(), next.delete.len()), (0, 1, 2));
    }
}
