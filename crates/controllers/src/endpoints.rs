//! Lists a Service's pods in the Endpoints object of its name, for those who still read it.
//! Watches: Service (by key), Pod (by the Services that pick it), Endpoints (by key).  Writes: Endpoints.
//! Invariants: leaves Endpoints of Services without selector alone; at most 1000 addresses.
use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Cache, ObjectKey};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use crate::context::Context;
use crate::endpoint_slice::{picked_by, target_ref};
use crate::framework::{Controller, Error, Next, Wakes, code, is_namespace_terminating, unless_gone};
use crate::pods;
use crate::service_ports;

const HEADLESS: &str = "service.kubernetes.io/headless";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const US: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MOST_ADDRESSES: usize = 1000;

/// See the module.
pub struct EndpointsController {
    client: Client,
    services: Cache<Service>,
    pods: Cache<Pod>,
    endpoints: Cache<Endpoints>,
}

impl EndpointsController {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            services: context.informers.cache(),
            pods: context.pods.cache.clone(),
            endpoints: context.informers.cache(),
        }
    }
}

impl Controller for EndpointsController {
    const NAME: &'static str = "endpoints-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.services);
        wakes.own(&self.endpoints);
        let services = self.services.clone();
        wakes.on(&self.pods, move |change| picked_by(&services, change));
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        let seen = self.endpoints.get(&key);
        let Some(service) = self.services.get(&key) else {
            // Somebody's own Endpoints without a Service are not ours to take.
            let ours = seen.as_ref().and_then(|e| e.metadata.labels.as_ref()).and_then(|l| l.get(MANAGED_BY));
            if ours.is_some_and(|v| v == US) {
                let deleted = api.delete(&key.name, &DeleteParams::default()).await;
                unless_gone(deleted).map_err(Error::at("delete the endpoints"))?;
            }
            return Ok(Next::Rest);
        };
        if !service_ports::selects(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Rest);
        }
        let pods = self.pods.list_in(&key.namespace);
        let pods: Vec<_> = pods.into_iter().filter(|p| service_ports::picks(&service, p)).collect();
        let Some(next) = plan(&service, &pods, seen.as_deref()) else { return Ok(Next::Rest) };
        let params = PostParams::default();
        let result = match seen {
            None => api.create(&params, &next).await,
            Some(_) => api.replace(&key.name, &params, &next).await,
        };
        match result {
            Ok(_) => Ok(Next::Rest),
            Err(error) if is_namespace_terminating(&error) => Ok(Next::Rest),
            Err(error) if code(&error) == 404 => {
                Err(Error::Unfinished("endpoints went away meanwhile".into()))
            }
            Err(error) => Err(Error::at("write the endpoints")(error)),
        }
    }
}

/// The object to write, where it differs from what is seen.
fn plan(service: &Service, pods: &[Arc<Pod>], seen: Option<&Endpoints>) -> Option<Endpoints> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if service_ports::is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), US.into());
    let (subsets, truncated) = subsets(service, pods);
    let mut next = seen.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    next.metadata.labels = Some(labels);
    next.subsets = Some(subsets).filter(|s| !s.is_empty());
    let annotations = next.metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        next.metadata.annotations = None;
    }
    match seen {
        Some(seen) if *seen == next => None,
        _ => Some(next),
    }
}

fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    let has_ports = service.spec.as_ref().is_some_and(|s| s.ports.as_ref().is_some_and(|p| !p.is_empty()));
    let mut ready_left = MOST_ADDRESSES;
    let mut by_ports: BTreeMap<Vec<service_ports::Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> =
        BTreeMap::new();
    let mut truncated = false;
    let mut pods: Vec<&Pod> = pods.iter().map(|p| &**p).collect();
    // Those that serve are not crowded out by those that do not.
    pods.sort_by_key(|p| !(publish || pods::is_ready(p)));
    for pod in pods {
        if pods::is_terminal(pod) || (pods::is_terminating(pod) && !publish) {
            continue;
        }
        let Some(ip) = pod.status.as_ref().and_then(|s| s.pod_ip.clone()).filter(|ip| !ip.is_empty()) else {
            continue;
        };
        let ports = service_ports::of_pod(service, pod);
        if ports.is_empty() && has_ports {
            continue;
        }
        if ready_left == 0 {
            truncated = true;
            break;
        }
        ready_left -= 1;
        let address = EndpointAddress {
            ip,
            hostname: service_ports::hostname(service, pod),
            node_name: Some(pods::node_name(pod).to_owned()).filter(|n| !n.is_empty()),
            target_ref: Some(target_ref(pod)),
        };
        let (ready, not_ready) = by_ports.entry(ports).or_default();
        if publish || pods::is_ready(pod) { ready.push(address) } else { not_ready.push(address) }
    }
    let subset = |(ports, (mut ready, mut not_ready)): (Vec<service_ports::Port>, (Vec<_>, Vec<_>))| {
        let by_ip = |a: &EndpointAddress, b: &EndpointAddress| a.ip.cmp(&b.ip);
        ready.sort_by(by_ip);
        not_ready.sort_by(by_ip);
        let port = |p: service_ports::Port| EndpointPort {
            name: Some(p.name).filter(|n| !n.is_empty()),
            port: p.number,
            protocol: Some(p.protocol),
            app_protocol: p.app_protocol,
        };
        EndpointSubset {
            addresses: Some(ready).filter(|a| !a.is_empty()),
            not_ready_addresses: Some(not_ready).filter(|a| !a.is_empty()),
            ports: Some(ports.into_iter().map(port).collect::<Vec<_>>()).filter(|p| !p.is_empty()),
        }
    };
    (by_ports.into_iter().map(subset).collect(), truncated)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, ip: &str, ready: &str, port: u16) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "ns", "uid": name},
                "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "p", "containerPort": port}]}]},
                "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": ready}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn ready_and_not_ready_share_a_subset_for_each_set_of_ports() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "ns"},
            "spec": {"selector": {"a": "b"}, "ports": [{"port": 80, "targetPort": "p"}]}}))
        .unwrap();
        let pods = [
            pod("b", "10.0.0.2", "True", 80),
            pod("a", "10.0.0.1", "True", 80),
            pod("c", "10.0.0.3", "False", 80),
            pod("d", "10.0.0.4", "True", 81),
        ];
        let made = plan(&service, &pods, None).unwrap();
        let value = serde_json::to_value(&made).unwrap();
        let ips = |v: &serde_json::Value| {
            v.as_array().unwrap().iter().map(|a| a["ip"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(ips(&value["subsets"][0]["addresses"]), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(ips(&value["subsets"][0]["notReadyAddresses"]), ["10.0.0.3"]);
        assert_eq!(ips(&value["subsets"][1]["addresses"]), ["10.0.0.4"]);
        assert_eq!(value["subsets"][1]["ports"], json!([{"port": 81, "protocol": "TCP"}]));
        assert_eq!(value["metadata"]["labels"], json!({MANAGED_BY: US}));
        assert!(plan(&service, &pods, Some(&made)).is_none(), "the same again writes nothing");
        assert!(plan(&service, &[], Some(&made)).unwrap().subsets.is_none());
    }
}
