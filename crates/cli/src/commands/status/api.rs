//! What the API says: components, nodes, system pods, add-ons.
use std::collections::BTreeSet;

use client::Remote;
use http::Request;
use k8s_openapi::api::core::v1::{ComponentStatus, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use provision::spec::{ClusterSpec, Role};
use serde_json::json;

use super::{Line, PATIENCE, Seen, State};
use crate::commands::join::said;
use crate::parts::VERSION;

/// Everything that the API says of a cluster; `spec` where it is one of several hosts.
pub async fn lines(cluster: &Seen, spec: Option<&ClusterSpec>) -> Vec<Line> {
    let ill =
        |why: String| vec![Line::new("API server", "readyz", false, format!("{}: {why}", cluster.server))];
    match tokio::time::timeout(PATIENCE, ask(cluster, spec)).await {
        Ok(Ok(found)) => found,
        Ok(Err(why)) => ill(why),
        Err(_) => ill(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

async fn ask(cluster: &Seen, spec: Option<&ClusterSpec>) -> Result<Vec<Line>, String> {
    let client: Client = Remote::from_kubeconfig_file(&cluster.kubeconfig, &format!("cox/{VERSION}"))
        .await
        .and_then(|remote| remote.client())
        .map_err(|e| base::Chain(&e).to_string())?;
    let text = |e: kube::Error| said(&e);
    let all = ListParams::default();
    let request = Request::get("/readyz").body(Vec::new()).map_err(|e| e.to_string())?;
    let ready = client.request_text(request).await.map_err(text)?;
    let mut lines = vec![Line::new("API server", "readyz", ready == "ok", cluster.server.clone())];
    for component in Api::<ComponentStatus>::all(client.clone()).list(&all).await.map_err(text)? {
        let condition = component.conditions.iter().flatten().find(|c| c.type_ == "Healthy");
        let message = condition.and_then(|c| c.message.clone()).unwrap_or_default();
        let healthy = condition.is_some_and(|c| c.status == "True");
        lines.push(Line::new("component", component.name_any(), healthy, message));
    }
    let nodes: Vec<Node> = Api::<Node>::all(client.clone()).list(&all).await.map_err(text)?.items;
    lines.extend(nodes.iter().map(|n| node(n, spec)));
    let there: BTreeSet<String> = nodes.iter().map(kube::ResourceExt::name_any).collect();
    let missing =
        spec.into_iter().flat_map(|s| s.hosts_with(Role::Worker)).filter(|h| !there.contains(&h.name));
    lines.extend(missing.map(|h| {
        Line::new("node", &h.name, false, "there is no such Node; see the log of the kubelet on that host")
    }));
    let pods = Api::<Pod>::namespaced(client.clone(), "kube-system").list(&all).await.map_err(text)?;
    lines.extend(pods.iter().map(pod));
    if spec.is_some() {
        lines.push(dns(&client).await.map_err(text)?);
    }
    Ok(lines)
}

fn node(node: &Node, spec: Option<&ClusterSpec>) -> Line {
    let status = node.status.as_ref();
    let condition =
        status.and_then(|s| s.conditions.as_ref()).into_iter().flatten().find(|c| c.type_ == "Ready");
    let ready = condition.is_some_and(|c| c.status == "True");
    let mut detail = condition.and_then(|c| c.message.clone()).unwrap_or_default();
    let name = node.name_any();
    let cordoned = node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
    if node.spec.as_ref().is_none_or(|s| s.pod_cidr.is_none()) && spec.is_some() {
        detail += "; it has no part of the pod network (see network.podCIDR and nodeCIDRMaskSize)";
    }
    if cordoned {
        detail += "; cordoned: no new pods";
    }
    if spec.is_some_and(|s| s.host(&name).is_none()) {
        detail += "; joined by itself, not in cluster.yaml";
    }
    let state = match (ready, cordoned) {
        (false, _) => State::Ill,
        (true, true) => State::Doubtful,
        (true, false) => State::Well,
    };
    let version = status.and_then(|s| s.node_info.as_ref()).map(|i| i.kubelet_version.clone());
    Line::new("node", name, state, detail.trim_start_matches("; ")).with(json!({ "kubeletVersion": version }))
}

fn pod(pod: &Pod) -> Line {
    let status = pod.status.as_ref();
    let phase = status.and_then(|s| s.phase.clone()).unwrap_or_default();
    let restarts: i32 = status
        .and_then(|s| s.container_statuses.as_ref())
        .into_iter()
        .flatten()
        .map(|c| c.restart_count)
        .sum();
    let detail = match restarts {
        0 => phase.clone(),
        n => format!("{phase}, containers started again {n} times"),
    };
    let healthy = matches!(phase.as_str(), "Running" | "Succeeded");
    Line::new("system pod", pod.name_any(), healthy, detail)
}

/// The cluster DNS: its Service, and how many servers it leads to.
async fn dns(client: &Client) -> Result<Line, kube::Error> {
    let services: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    let line = |well: bool, detail: String| Line::new("add-on", "DNS", well, detail);
    let Some(service) = services.get_opt("kube-dns").await? else {
        return Ok(line(false, "there is no Service kube-dns; `cox up` makes it".into()));
    };
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "kube-system");
    let of_dns = ListParams::default().labels("kubernetes.io/service-name=kube-dns");
    let servers = slices.list(&of_dns).await?.iter().flat_map(|s| s.endpoints.iter().flatten()).count();
    let ip = service.spec.and_then(|s| s.cluster_ip).unwrap_or_default();
    Ok(line(servers > 0, format!("{ip}, leads to {servers} servers")))
}
