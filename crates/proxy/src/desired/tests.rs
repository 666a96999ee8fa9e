use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> Service {
    let mut base = json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "type": "ClusterIP",
        "ports": [{"port": 80, "protocol": "TCP"}]});
    for (key, value) in spec.as_object().expect("an object") {
        base[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "s"}, "spec": base}))
        .expect("a Service")
}

/// `address node ready serving terminating`, `-` for absent.
fn slice(port: Value, endpoints: &[&str]) -> std::sync::Arc<EndpointSlice> {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|e| {
            let words: Vec<_> = e.split(' ').collect();
            let flag = |i: usize| words.get(i).and_then(|w| w.parse::<bool>().ok());
            json!({"addresses": [words[0]], "nodeName": words.get(1).copied().unwrap_or("other"),
                "conditions": {"ready": flag(2), "serving": flag(3), "terminating": flag(4)}})
        })
        .collect();
    let slice = json!({"addressType": "IPv4", "ports": [port], "endpoints": endpoints,
        "metadata": {"namespace": "ns", "name": "x", "labels": {SERVICE_NAME_LABEL: "s"}}});
    serde_json::from_value::<EndpointSlice>(slice).expect("an EndpointSlice").into()
}

fn check(spec: Value, endpoints: &[&str], cluster: &[&str], local: &[&str]) {
    let ports =
        ports(&service(spec.clone()), &[slice(json!({"port": 8080, "protocol": "TCP"}), endpoints)], "here");
    let texts = |targets: &[Target]| targets.iter().map(|t| t.address.to_string()).collect::<Vec<_>>();
    assert_eq!(ports.len(), 1);
    assert_eq!(texts(&ports[0].cluster), cluster, "cluster endpoints of {spec} with {endpoints:?}");
    assert_eq!(texts(&ports[0].local), local, "local endpoints of {spec} with {endpoints:?}");
}

#[test]
fn ready_endpoints_are_used_wherever_they_are() {
    check(json!({}), &["10.0.0.2 other true true false", "10.0.0.1 here"], &["10.0.0.1", "10.0.0.2"], &[]);
    check(json!({}), &["10.0.0.2 other false false false", "10.0.0.1 here false"], &[], &[]);
    // Twice in two slices, or in one, is once.
    check(json!({}), &["10.0.0.2", "10.0.0.2", "10.0.0.2 here"], &["10.0.0.2"], &[]);
}

#[test]
fn terminating_endpoints_serve_only_when_no_ready_one_is_left() {
    let leaving = "10.0.0.3 other false true true";
    check(json!({}), &[leaving, "10.0.0.1 here"], &["10.0.0.1"], &[]);
    check(json!({}), &[leaving, "10.0.0.4 other false false true"], &["10.0.0.3"], &[]);
    // Serving, but not ready and not terminating: it never was ready.
    check(json!({}), &["10.0.0.3 other false true false"], &[], &[]);
}

#[test]
fn local_policies_keep_to_this_node() {
    let endpoints = ["10.0.0.1 here", "10.0.0.2 other"];
    check(json!({"internalTrafficPolicy": "Local"}), &endpoints, &[], &["10.0.0.1"]);
    // Without a way in from outside the external policy says nothing.
    check(json!({"externalTrafficPolicy": "Local"}), &endpoints, &["10.0.0.1", "10.0.0.2"], &[]);
    let node_port = json!({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": [{"port": 80, "nodePort": 30080}]});
    check(node_port.clone(), &endpoints, &["10.0.0.1", "10.0.0.2"], &["10.0.0.1"]);
    let leaving = ["10.0.0.1 here false true true", "10.0.0.2 other"];
    check(node_port, &leaving, &["10.0.0.2"], &["10.0.0.1"]);
}

#[test]
fn services_that_are_not_ours_have_no_ports() {
    let none: &[std::sync::Arc<EndpointSlice>] = &[];
    for spec in [
        json!({"clusterIP": "None"}),
        json!({"clusterIP": ""}),
        json!({"type": "ExternalName", "externalName": "example.org"}),
    ] {
        assert_eq!(ports(&service(spec.clone()), none, "here"), [], "{spec}");
    }
    let mut foreign = service(json!({}));
    foreign.metadata.labels = Some([(PROXY_NAME_LABEL.to_owned(), "other".to_owned())].into());
    assert_eq!(ports(&foreign, none, "here"), []);
}

#[test]
fn ports_meet_endpoints_by_name_and_protocol() {
    let spec = json!({"ports": [
        {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        {"name": "odd", "port": 70, "protocol": "XTP"}, {"name": "zero", "port": 0}]});
    let slices = [
        slice(json!({"name": "dns", "port": 5353, "protocol": "UDP"}), &["10.0.0.1"]),
        slice(json!({"name": "dns-tcp", "port": 5354, "protocol": "UDP"}), &["10.0.0.1"]),
    ];
    let ports = ports(&service(spec), &slices, "here");
    assert_eq!(ports.len(), 2);
    assert_eq!(ports[0].cluster, [Target { address: [10, 0, 0, 1].into(), port: 5353 }]);
    assert_eq!((ports[1].protocol, ports[1].cluster.as_slice()), (Protocol::Tcp, &[][..]));
}

#[test]
fn addresses_that_make_no_sense_are_left_out() {
    let mut service = service(
        json!({"clusterIPs": ["10.96.0.7", "fd00::7", "x"], "externalIPs": ["198.51.100.1", ""],
        "type": "LoadBalancer", "sessionAffinity": "ClientIP", "loadBalancerSourceRanges": [" 192.0.2.1/24", "y"]}),
    );
    service.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [
        {"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}, {"hostname": "lb"}]}}))
    .expect("a status");
    let port = &ports(&service, &[slice(json!({"port": 1}), &["fd00::1", "10.0.0.1", "z"])], "here")[0];
    assert_eq!(port.cluster_ips, [Ipv4Addr::new(10, 96, 0, 7)]);
    assert_eq!(port.external_ips, [Ipv4Addr::new(198, 51, 100, 1)]);
    assert_eq!(port.load_balancer_ips, [Ipv4Addr::new(203, 0, 113, 1)]);
    assert_eq!(port.source_ranges, ["192.0.2.0/24".parse().expect("a range")]);
    assert_eq!(port.affinity, Some(10_800));
    assert_eq!(port.cluster.len(), 1);
}
