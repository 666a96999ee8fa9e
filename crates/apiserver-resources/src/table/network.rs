//! Cells of services, endpoints, ingresses and network policies.
use std::collections::BTreeSet;

use jiff::Timestamp;
use machinery::Object;
use serde_json::Value;

use super::{age, labels, or, selector, text, with_more};

fn strings(values: &[Value]) -> Vec<&str> {
    values.iter().filter_map(Value::as_str).collect()
}

/// Addresses that a load balancer gave, each once, sorted.
fn load_balancer(object: &Object) -> String {
    let found: BTreeSet<&str> = object
        .list_at(&["status", "loadBalancer", "ingress"])
        .iter()
        .map(|i| match text(i, &["ip"]) {
            "" => text(i, &["hostname"]),
            ip => ip,
        })
        .filter(|address| !address.is_empty())
        .collect();
    found.into_iter().collect::<Vec<_>>().join(",")
}

fn external_ip(service: &Object) -> String {
    let external = strings(service.list_at(&["spec", "externalIPs"]));
    match service.str_at(&["spec", "type"]) {
        "ClusterIP" | "NodePort" if external.is_empty() => "<none>".into(),
        "ClusterIP" | "NodePort" => external.join(","),
        "LoadBalancer" => {
            let balancer = load_balancer(service);
            let all: Vec<&str> =
                Some(balancer.as_str()).filter(|b| !b.is_empty()).into_iter().chain(external).collect();
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        "ExternalName" => service.str_at(&["spec", "externalName"]).into(),
        _ => "<unknown>".into(),
    }
}

fn ports(service: &Object) -> String {
    let show = |port: &Value| {
        let number = |key: &str| port.get(key).and_then(Value::as_i64).unwrap_or(0);
        let protocol = text(port, &["protocol"]);
        match number("nodePort") {
            0 => format!("{}/{protocol}", number("port")),
            node_port => format!("{}:{node_port}/{protocol}", number("port")),
        }
    };
    let all: Vec<String> = service.list_at(&["spec", "ports"]).iter().map(show).collect();
    if all.is_empty() { "<none>".into() } else { all.join(",") }
}

pub(super) fn service(service: &Object, now: Timestamp) -> Vec<Value> {
    let ip = match service.list_at(&["spec", "clusterIPs"]).first().and_then(Value::as_str) {
        Some(ip) => ip,
        None => service.str_at(&["spec", "clusterIP"]),
    };
    vec![
        service.name().into(),
        service.str_at(&["spec", "type"]).into(),
        or(ip, "<none>"),
        external_ip(service).into(),
        ports(service).into(),
        age(service, now),
        labels(service.at(&["spec", "selector"])).into(),
    ]
}

/// Most addresses that are shown.
const SHOWN: usize = 3;

fn join_host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(super) fn endpoints(object: &Object, now: Timestamp) -> Vec<Value> {
    let subsets = object.list_at(&["subsets"]);
    let mut all = Vec::new();
    for subset in subsets {
        let list = |key: &str| subset.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let ips = || list("addresses").iter().map(|a| text(a, &["ip"]));
        if list("ports").is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for port in list("ports") {
            let number = port.get("port").and_then(Value::as_i64).unwrap_or(0);
            all.extend(ips().map(|ip| join_host_port(ip, number)));
        }
    }
    let shown = if subsets.is_empty() { "<none>".into() } else { with_more(&all, all.len(), SHOWN) };
    vec![object.name().into(), shown.into(), age(object, now)]
}

pub(super) fn endpoint_slice(object: &Object, now: Timestamp) -> Vec<Value> {
    let show_port = |port: &Value| match (port.get("port").and_then(Value::as_i64), text(port, &["name"])) {
        (Some(number), _) => number.to_string(),
        (None, "") => "*".to_owned(),
        (None, name) => name.to_owned(),
    };
    let ports: Vec<String> = object.list_at(&["ports"]).iter().map(show_port).collect();
    let addresses: Vec<String> = object
        .list_at(&["endpoints"])
        .iter()
        .filter_map(|e| e.get("addresses")?.as_array())
        .flatten()
        .filter_map(|a| Some(a.as_str()?.to_owned()))
        .collect();
    let show = |items: &[String]| {
        if items.is_empty() { "<unset>".to_owned() } else { with_more(items, items.len(), SHOWN) }
    };
    vec![
        object.name().into(),
        object.str_at(&["addressType"]).into(),
        show(&ports).into(),
        show(&addresses).into(),
        age(object, now),
    ]
}

pub(super) fn ingress(object: &Object, now: Timestamp) -> Vec<Value> {
    let rules = object.list_at(&["spec", "rules"]);
    let hosts: Vec<String> =
        rules.iter().map(|r| text(r, &["host"]).to_owned()).filter(|h| !h.is_empty()).collect();
    // A rule after the last host that is shown counts, whether or not it has a host.
    let full = rules.iter().scan(0, |n, r| {
        let before = *n;
        *n += usize::from(!text(r, &["host"]).is_empty());
        Some(before)
    });
    let more = full.into_iter().any(|hosts_before| hosts_before == SHOWN);
    let shown = match (hosts.is_empty(), more) {
        (true, _) => "*".to_owned(),
        (false, true) => with_more(&hosts, rules.len(), SHOWN),
        (false, false) => hosts.join(","),
    };
    let tls = !object.list_at(&["spec", "tls"]).is_empty();
    vec![
        object.name().into(),
        or(object.str_at(&["spec", "ingressClassName"]), "<none>"),
        shown.into(),
        load_balancer(object).into(),
        if tls { "80, 443".into() } else { "80".into() },
        age(object, now),
    ]
}

pub(super) fn ingress_class(object: &Object, now: Timestamp) -> Vec<Value> {
    let parameters = object.at(&["spec", "parameters"]).map(|p| {
        let kind = text(p, &["kind"]);
        let group = text(p, &["apiGroup"]);
        let dot = if group.is_empty() { "" } else { "." };
        format!("{kind}{dot}{group}/{}", text(p, &["name"]))
    });
    let default = object.annotation("ingressclass.kubernetes.io/is-default-class") == Some("true");
    let name = if default { format!("{} (default)", object.name()) } else { object.name().to_owned() };
    vec![
        name.into(),
        object.str_at(&["spec", "controller"]).into(),
        parameters.unwrap_or_else(|| "<none>".into()).into(),
        age(object, now),
    ]
}

pub(super) fn network_policy(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![object.name().into(), selector(object.at(&["spec", "podSelector"])).into(), age(object, now)]
}

pub(super) fn service_cidr(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![object.name().into(), strings(object.list_at(&["spec", "cidrs"])).join(",").into(), age(object, now)]
}

pub(super) fn ip_address(object: &Object, _now: Timestamp) -> Vec<Value> {
    let parent = object.at(&["spec", "parentRef"]).map_or_else(
        || "<none>".to_owned(),
        |p| {
            let parts = [text(p, &["resource"]), text(p, &["group"])];
            let resource: Vec<&str> = parts.into_iter().filter(|s| !s.is_empty()).collect();
            let path = [&resource.join("."), text(p, &["namespace"]), text(p, &["name"])];
            path.into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join("/")
        },
    );
    vec![object.name().into(), parent.into()]
}
