//! Whether a kubelet asks for a serving certificate of its own name and addresses, and of nobody else's.
//!
//! Nodes say themselves which addresses they have. So what others are known by is never signed: other nodes' addresses,
//! those of Services, those of API servers, and the name at which clients reach them.
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use pki::CertificateRequest;

/// What is known of others.
#[derive(Default)]
pub(super) struct Others {
    /// Addresses of other nodes and of API servers.
    pub addresses: Vec<IpAddr>,
    /// Networks of Services.
    pub services: Vec<IpNet>,
    /// The name or address at which clients reach the API servers.
    pub endpoint: Option<String>,
}

/// The addresses that a node says it has.
fn addresses(node: &Node) -> Vec<IpAddr> {
    let all = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    all.filter(|a| a.type_ != "Hostname").filter_map(|a| a.address.parse().ok()).collect()
}

impl Others {
    /// All but the node of this name, out of what is in the caches.
    pub fn than(
        name: &str,
        nodes: &[impl AsRef<Node>],
        slices: &[impl AsRef<EndpointSlice>],
        services: &[IpNet],
        info: Option<&ConfigMap>,
    ) -> Self {
        let others = nodes.iter().map(AsRef::as_ref).filter(|n| n.name_any() != name);
        let mut all: Vec<IpAddr> = others.flat_map(addresses).collect();
        let servers = slices.iter().map(AsRef::as_ref).filter(|s| {
            s.namespace().as_deref() == Some("default")
                && s.labels().get("kubernetes.io/service-name").is_some_and(|name| name == "kubernetes")
        });
        let servers = servers.flat_map(|s| s.endpoints.iter().flatten()).flat_map(|e| &e.addresses);
        all.extend(servers.filter_map(|a| a.parse::<IpAddr>().ok()));
        Self { addresses: all, services: services.to_vec(), endpoint: info.and_then(endpoint) }
    }
}

/// The host in the kubeconfig of `cluster-info`.
fn endpoint(info: &ConfigMap) -> Option<String> {
    let text = info.data.as_ref()?.get("kubeconfig")?;
    let server = text.lines().find_map(|l| l.trim().trim_start_matches("- ").strip_prefix("server:"))?;
    let uri = server.trim().trim_matches(['"', '\'']).strip_prefix("https://")?;
    let host = uri.split('/').next()?.rsplit_once(':').map_or(uri, |(host, _)| host);
    Some(host.trim_matches(['[', ']']).to_lowercase())
}

/// Whether the request of this node names the node alone; the error says what else it names.
pub(super) fn only_itself(request: &CertificateRequest, node: &Node, others: &Others) -> Result<(), String> {
    let name = node.name_any();
    if others.endpoint.as_deref() == Some(&name) {
        return Err(format!("{name} is where clients reach the API servers"));
    }
    if let Some(other) = request.dns_names.iter().find(|n| !n.eq_ignore_ascii_case(&name)) {
        return Err(format!("{other} is not the name of the node"));
    }
    let own = addresses(node);
    for address in &request.addresses {
        let taken = others.addresses.contains(address)
            || others.services.iter().any(|net| net.contains(address))
            || others.endpoint.as_ref().is_some_and(|e| *e == address.to_string())
            || address.is_loopback()
            || address.is_unspecified();
        if taken {
            return Err(format!("{address} is an address of others"));
        }
        if !own.contains(address) {
            return Err(format!("{address} is not an address of the node"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use pki::{AlternativeName, KeyAlgorithm, PrivateKey, Subject};
    use serde_json::json;

    use super::*;

    fn node(name: &str, address: &str) -> Arc<Node> {
        let object = json!({
            "metadata": { "name": name },
            "status": { "addresses": [
                { "type": "InternalIP", "address": address }, { "type": "Hostname", "address": name },
            ] },
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn request(names: &[&str]) -> CertificateRequest {
        let names: Vec<AlternativeName> = names.iter().map(|n| AlternativeName::parse(n).unwrap()).collect();
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let subject = Subject::new("system:node:a").in_group("system:nodes");
        CertificateRequest::from_pem(&key.request(&subject, &names).unwrap()).unwrap()
    }

    #[test]
    fn nobody_gets_a_certificate_of_others() {
        let nodes = [node("a", "192.0.2.1"), node("b", "192.0.2.2")];
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": "kubernetes", "labels": { "kubernetes.io/service-name": "kubernetes" } },
            "addressType": "IPv4", "ports": [], "endpoints": [{ "addresses": ["192.0.2.9"] }],
        }))
        .unwrap();
        let info: ConfigMap = serde_json::from_value(json!({ "data": { "kubeconfig":
            "clusters:\n- cluster:\n    server: https://k8s.example.org:6443\n  name: ''\n" } }))
        .unwrap();
        let services = ["10.96.0.0/12".parse().unwrap()];
        let others = Others::than("a", &nodes, &[Arc::new(slice)], &services, Some(&info));
        assert_eq!(others.endpoint.as_deref(), Some("k8s.example.org"));
        let check = |names: &[&str], node: &Node, want: &str| {
            let got = only_itself(&request(names), node, &others).err().unwrap_or_default();
            assert!(if want.is_empty() { got.is_empty() } else { got.contains(want) }, "{names:?}: {got}");
        };
        check(&["a", "192.0.2.1"], &nodes[0], "");
        check(&["kubernetes.default.svc", "192.0.2.1"], &nodes[0], "not the name of the node");
        check(&["a", "192.0.2.3"], &nodes[0], "not an address of the node");
        // What it says of itself does not make it its own.
        for other in ["192.0.2.2", "192.0.2.9", "10.96.0.1", "127.0.0.1"] {
            check(&["a", other], &node("a", other), "address of others");
        }
        check(&["k8s.example.org"], &node("k8s.example.org", "192.0.2.1"), "where clients reach");
    }
}
