//! Makes the `kube-dns` Service lead to the DNS server of this node.

use std::net::IpAddr;

use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";

/// Why the Service could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The API server did not do it.
    #[error("cannot {verb} {kind} {NAMESPACE}/{name}")]
    Api {
        /// What was to be done.
        verb: &'static str,
        /// The kind.
        kind: &'static str,
        /// The object.
        name: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// The Service is there with another address, which every pod's `/etc/resolv.conf` would miss.
    #[error(
        "Service {NAMESPACE}/{NAME} has the cluster address {found}, not {wanted}; delete it to have it made anew"
    )]
    Address {
        /// What it has.
        found: String,
        /// What it should have.
        wanted: IpAddr,
    },
}

/// Ensures the `kube-dns` Service at `service_ip`, and an EndpointSlice of this node that points to
/// `node_ip:port`. Writes only what is not as it should be.
pub async fn publish(
    client: &Client,
    node_name: &str,
    node_ip: IpAddr,
    port: u16,
    service_ip: IpAddr,
) -> Result<(), PublishError> {
    ensure_namespace(client).await?;
    let service = ensure_service(client, service_ip).await?;
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), NAMESPACE);
    let name = slice_name(node_name);
    let failed = |verb| failed(verb, "EndpointSlice", &name);
    let wanted = slice(&name, node_name, node_ip, port, &service);
    if let Some(found) = slices.get_opt(&name).await.map_err(failed("read"))? {
        let found = serde_json::to_value(&found).unwrap_or_default();
        if includes(&found, &wanted) {
            return Ok(());
        }
        if found["addressType"] == wanted["addressType"] {
            let patch = Patch::Merge(&wanted);
            slices.patch(&name, &PatchParams::default(), &patch).await.map_err(failed("change"))?;
            return Ok(());
        }
        // All but the type can be changed.
        slices.delete(&name, &DeleteParams::default()).await.map_err(failed("delete"))?;
    }
    let wanted: EndpointSlice = decode(wanted).map_err(|e| failed("make")(e))?;
    slices.create(&PostParams::default(), &wanted).await.map_err(failed("create"))?;
    tracing::info!(address = %node_ip, port, service = %service_ip, "cluster DNS is published");
    Ok(())
}

async fn ensure_namespace(client: &Client) -> Result<(), PublishError> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let failed = |verb| failed(verb, "Namespace", NAMESPACE);
    if namespaces.get_opt(NAMESPACE).await.map_err(failed("read"))?.is_some() {
        return Ok(());
    }
    let wanted = decode(json!({"metadata": {"name": NAMESPACE}})).map_err(|e| failed("make")(e))?;
    match namespaces.create(&PostParams::default(), &wanted).await {
        Ok(_) => Ok(()),
        Err(error) if is_conflict(&error) => Ok(()),
        Err(error) => Err(failed("create")(error)),
    }
}

async fn ensure_service(client: &Client, ip: IpAddr) -> Result<Service, PublishError> {
    let services = Api::<Service>::namespaced(client.clone(), NAMESPACE);
    let failed = |verb| failed(verb, "Service", NAME);
    let wanted = service(ip);
    let mut found = services.get_opt(NAME).await.map_err(failed("read"))?;
    if found.is_none() {
        let new: Service = decode(wanted.clone()).map_err(|e| failed("make")(e))?;
        match services.create(&PostParams::default(), &new).await {
            Ok(made) => return Ok(made),
            // Another node was faster.
            Err(error) if is_conflict(&error) => {
                found = Some(services.get(NAME).await.map_err(failed("read"))?);
            }
            Err(error) => return Err(failed("create")(error)),
        }
    }
    let found = found.unwrap_or_default();
    let spec = found.spec.clone().unwrap_or_default();
    let has = spec.cluster_ip.unwrap_or_default();
    if has != ip.to_string() {
        return Err(PublishError::Address { found: has, wanted: ip });
    }
    // With a selector another controller would make endpoints of its own.
    let selects = spec.selector.is_some_and(|s| !s.is_empty());
    if !selects && includes(&serde_json::to_value(&found).unwrap_or_default(), &wanted) {
        return Ok(found);
    }
    let mut patch = wanted;
    patch["spec"]["selector"] = Value::Null;
    services.patch(NAME, &PatchParams::default(), &Patch::Merge(&patch)).await.map_err(failed("change"))
}

fn service(ip: IpAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {
            "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}},
        "spec": {"type": "ClusterIP", "clusterIP": ip.to_string(), "clusterIPs": [ip.to_string()], "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53}]},
    })
}

fn slice(name: &str, node: &str, ip: IpAddr, port: u16, service: &Service) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": NAME, "endpointslice.kubernetes.io/managed-by": "coxswain"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": NAME,
                "uid": service.uid().unwrap_or_default()}]},
        "addressType": if ip.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [ip.to_string()], "nodeName": node, "conditions": {"ready": true}}],
        "ports": [{"name": "dns", "port": port, "protocol": "UDP"}, {"name": "dns-tcp", "port": port, "protocol": "TCP"}],
    })
}

/// `kube-dns-NODE`, within the length of a name.
fn slice_name(node: &str) -> String {
    let mut name = format!("{NAME}-{node}");
    name.truncate(253);
    name.trim_end_matches(['-', '.']).to_owned()
}

/// Whether everything that is wanted is there; what defaults added does not count.
fn includes(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| found.get(key).is_some_and(|f| includes(f, value)))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(f, w)| includes(f, w))
        }
        (found, wanted) => found == wanted,
    }
}

fn decode<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, kube::Error> {
    serde_json::from_value(value).map_err(kube::Error::SerdeError)
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn failed(verb: &'static str, kind: &'static str, name: &str) -> impl Fn(kube::Error) -> PublishError {
    let name = name.to_owned();
    move |source| PublishError::Api { verb, kind, name: name.clone(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_defaults_add_is_no_difference() {
        let wanted = json!({"spec": {"ports": [{"port": 53}]}});
        assert!(includes(&json!({"spec": {"ports": [{"port": 53, "nodePort": null}], "x": 1}}), &wanted));
        assert!(!includes(&json!({"spec": {"ports": [{"port": 53}, {"port": 54}]}}), &wanted));
        assert!(!includes(&json!({"spec": {"ports": [{"port": 54}]}}), &wanted));
        assert!(!includes(&json!({"spec": {}}), &wanted));
    }

    #[test]
    fn slices_are_named_after_nodes() {
        assert_eq!(slice_name("a"), "kube-dns-a");
        let long = slice_name(&format!("{}.b", "a".repeat(243)));
        assert!(long.len() <= 253 && !long.ends_with('.'), "{long}");
    }
}
