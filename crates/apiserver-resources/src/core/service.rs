//! v1 Service: rules on the way in. Addresses and node ports are given by the store between prepare and validate.
use machinery::{FieldErrors, Object};
use serde_json::{Value, json};

use crate::core::service_validation;
use crate::rules::{Facts, Rules};
use crate::spelling;
use crate::tree::{
    At, below, child, default_text, default_value, drop_false, each, ensure, has, same, text_of,
};

/// Rules of services.
pub(crate) struct Service;

impl Rules for Service {
    const FACTS: Facts = Facts::STATUS;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        default_text(spec, "sessionAffinity", "None");
        if text_of(spec, "sessionAffinity") == "None" {
            spec.remove("sessionAffinityConfig");
        }
        if text_of(spec, "sessionAffinity") == "ClientIP" {
            let client_ip = ensure(ensure(spec, "sessionAffinityConfig"), "clientIP");
            default_value(client_ip, "timeoutSeconds", 10800);
        }
        default_text(spec, "type", "ClusterIP");
        drop_false(spec, &["publishNotReadyAddresses"]);
        for port in each(spec, "ports") {
            default_text(port, "protocol", "TCP");
            let blank = match port.get("targetPort") {
                None | Some(Value::Null) => true,
                Some(Value::String(s)) => s.is_empty(),
                Some(v) => v.as_i64() == Some(0),
            };
            if let (true, Some(number)) = (blank, port.get("port").cloned()) {
                port.insert("targetPort".into(), number);
            }
            if port.get("nodePort").and_then(Value::as_i64) == Some(0) {
                port.remove("nodePort");
            }
        }
        let ty = text_of(spec, "type").to_owned();
        let has_external_ips =
            spec.get("externalIPs").and_then(Value::as_array).is_some_and(|a| !a.is_empty());
        if matches!(ty.as_str(), "NodePort" | "LoadBalancer") || (ty == "ClusterIP" && has_external_ips) {
            default_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if matches!(ty.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            default_value(spec, "internalTrafficPolicy", "Cluster");
        }
        if ty == "LoadBalancer" {
            default_value(spec, "allocateLoadBalancerNodePorts", true);
            if let Some(balancer) = below(&mut object.0, &["status", "loadBalancer"]) {
                for ingress in each(balancer, "ingress") {
                    if has(ingress, "ip") {
                        default_value(ingress, "ipMode", "VIP");
                    }
                }
            }
        }
    }

    fn status_at_birth(&self, _object: &Object) -> Option<Value> {
        Some(json!({"loadBalancer": {}}))
    }

    fn prepare_for_create(&self, object: &mut Object) {
        one_ip_is_a_list(object);
    }

    fn prepare_for_update(&self, new: &mut Object, old: &Object) {
        keep_allocated(new, old);
        one_ip_is_a_list(new);
        drop_unused(new, old);
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        service_validation::validate(object, errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        service_validation::validate_change(new, old, errors);
        service_validation::validate(new, errors);
    }

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        service_validation::validate_status(new, errors);
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut found = Vec::new();
        let spec = At::object(new).field("spec");
        let text = |field| spec.field(field).text();
        if new.annotation("service.kubernetes.io/topology-aware-hints").is_some() {
            found.push("annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead".to_owned());
        }
        if !matches!(text("clusterIP"), "" | "None") {
            spec.field("clusterIPs").items().for_each(|ip| spelling::ip(&ip, &mut found));
        }
        let external = !spec.field("externalIPs").is_empty();
        let headless = text("type") == "ClusterIP" && text("clusterIP") == "None";
        let alias = text("type") == "ExternalName";
        if headless {
            let ignored = |field| format!("spec.{field} is ignored for headless services");
            if !text("loadBalancerIP").is_empty() {
                found.push(ignored("loadBalancerIP"));
            }
            if external {
                found.push(ignored("externalIPs"));
            }
            if !matches!(text("sessionAffinity"), "" | "None") {
                found.push(ignored("SessionAffinity"));
            }
        }
        spec.field("externalIPs").items().for_each(|ip| spelling::ip(&ip, &mut found));
        if external && !headless && !alias {
            found.push(
                "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
            );
        }
        if !text("loadBalancerIP").is_empty() {
            spelling::ip(&spec.field("loadBalancerIP"), &mut found);
        }
        spec.field("loadBalancerSourceRanges").items().for_each(|net| spelling::cidr(&net, &mut found));
        if alias && external {
            found.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
        }
        if !alias && !text("externalName").is_empty() {
            found.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
        }
        if text("trafficDistribution") == "PreferClose" {
            found.push(
                "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
            );
        }
        found
    }

    fn status_warnings(&self, new: &Object) -> Vec<String> {
        let mut found = Vec::new();
        for ingress in At::object(new).fields(&["status", "loadBalancer", "ingress"]).items() {
            let mut told = Vec::new();
            spelling::ip(&ingress.field("ip"), &mut told);
            // Upstream names the entry, not its field.
            found.extend(told.into_iter().map(|t| t.replacen("].ip:", "]:", 1)));
        }
        found
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![
            ("spec.clusterIP", object.str_at(&["spec", "clusterIP"]).to_owned()),
            ("spec.type", object.str_at(&["spec", "type"]).to_owned()),
        ]
    }
}

fn type_is(service: &Object, types: &[&str]) -> bool {
    types.contains(&service.str_at(&["spec", "type"]))
}

fn needs_ip(service: &Object) -> bool {
    type_is(service, &["ClusterIP", "NodePort", "LoadBalancer"])
}

fn needs_node_ports(service: &Object) -> bool {
    let allocates = service.bool_at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(false);
    type_is(service, &["NodePort"]) || (type_is(service, &["LoadBalancer"]) && allocates)
}

/// Old clients know only `clusterIP`.
fn one_ip_is_a_list(service: &mut Object) {
    let ip = service.str_at(&["spec", "clusterIP"]).to_owned();
    if service.list_at(&["spec", "clusterIPs"]).is_empty() && !ip.is_empty() {
        service.set(&["spec", "clusterIPs"], json!([ip]));
    }
}

/// A writer who leaves out what the server allocated keeps it.
fn keep_allocated(new: &mut Object, old: &Object) {
    if needs_ip(new) && needs_ip(old) {
        if new.str_at(&["spec", "clusterIP"]).is_empty() {
            new.copy_from(old, &["spec", "clusterIP"]);
        }
        let same_ip = new.str_at(&["spec", "clusterIP"]) == old.str_at(&["spec", "clusterIP"]);
        if new.list_at(&["spec", "clusterIPs"]).is_empty() && same_ip {
            new.copy_from(old, &["spec", "clusterIPs"]);
        } else if !same_ip && new.at(&["spec", "clusterIPs"]) == old.at(&["spec", "clusterIPs"]) {
            new.remove(&["spec", "clusterIPs"]);
        }
    }
    if needs_node_ports(new) && needs_node_ports(old) {
        let before = old.list_at(&["spec", "ports"]);
        let mut taken: Vec<i64> =
            new.list_at(&["spec", "ports"]).iter().filter_map(|p| p.get("nodePort")?.as_i64()).collect();
        let Some(spec) = child(&mut new.0, "spec") else { return };
        for port in each(spec, "ports").filter(|p| !has(p, "nodePort")) {
            let same = |b: &&Value| ["protocol", "port"].iter().all(|f| b.get(*f) == port.get(*f));
            let number = before.iter().find(same).and_then(|b| b.get("nodePort")?.as_i64());
            if let Some(number) = number.filter(|n| !taken.contains(n)) {
                taken.push(number);
                port.insert("nodePort".into(), number.into());
            }
        }
    }
    if type_is(new, &["LoadBalancer"]) && type_is(old, &["LoadBalancer"]) {
        let path = ["spec", "healthCheckNodePort"];
        let local = |s: &Object| s.str_at(&["spec", "externalTrafficPolicy"]) == "Local";
        if local(new) && local(old) && new.i64_at(&path).unwrap_or(0) == 0 {
            new.copy_from(old, &path);
        }
    }
}

/// Whether clients outside the cluster reach it, so that `externalTrafficPolicy` means something.
fn is_exposed(service: &Object) -> bool {
    let external = !service.list_at(&["spec", "externalIPs"]).is_empty();
    type_is(service, &["NodePort", "LoadBalancer"]) || (type_is(service, &["ClusterIP"]) && external)
}

/// What the new type has no use for goes, unless the writer changed it, which is an error then.
fn drop_unused(new: &mut Object, old: &Object) {
    let lost = |needs: fn(&Object) -> bool, new: &Object| needs(old) && !needs(new);
    let balances = |s: &Object| type_is(s, &["LoadBalancer"]);
    let mut unused: Vec<&str> = Vec::new();
    if lost(needs_ip, new) {
        unused.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
    }
    if lost(is_exposed, new) {
        unused.push("externalTrafficPolicy");
    }
    if lost(balances, new) {
        unused.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if lost(|s| type_is(s, &["LoadBalancer"]) && s.str_at(&["spec", "externalTrafficPolicy"]) == "Local", new)
    {
        unused.push("healthCheckNodePort");
    }
    for field in unused {
        let path = ["spec", field];
        if same(new.at(&path), old.at(&path)) {
            new.remove(&path);
        }
    }
    if lost(needs_node_ports, new) {
        let before: Vec<Value> =
            old.list_at(&["spec", "ports"]).iter().filter_map(|p| p.get("nodePort").cloned()).collect();
        let Some(spec) = child(&mut new.0, "spec") else { return };
        for port in each(spec, "ports") {
            if port.get("nodePort").is_some_and(|n| before.contains(n)) {
                port.remove("nodePort");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy_for;

    fn service(spec: Value) -> Object {
        let mut object = Object::from_value(json!({"metadata": {"name": "s"}, "spec": spec})).unwrap();
        object.set_type("v1", "Service");
        strategy_for("", "services", "").fill_defaults(&mut object);
        object
    }

    fn updated(old: Value, new: Value) -> Object {
        let mut new = service(new);
        let errors = strategy_for("", "services", "").admit_update(&mut new, &service(old));
        assert_eq!(errors, [], "{new:?}");
        new
    }

    #[test]
    fn a_headless_service_needs_only_the_old_field() {
        let mut s = service(json!({"clusterIP": "None"}));
        assert_eq!(strategy_for("", "services", "").admit_create(&mut s), []);
        assert_eq!(s.at(&["spec", "clusterIPs"]), Some(&json!(["None"])));
    }

    #[test]
    fn what_the_server_allocated_stays_when_left_out() {
        let old = json!({"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ports": [{"port": 80, "nodePort": 30000}]});
        let new = updated(old, json!({"type": "NodePort", "ports": [{"port": 80}]}));
        assert_eq!(new.at(&["spec", "clusterIPs"]), Some(&json!(["10.0.0.1"])));
        assert_eq!(new.list_at(&["spec", "ports"])[0]["nodePort"], 30000);
    }

    #[test]
    fn another_type_drops_what_it_has_no_use_for() {
        let old = json!({"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80, "nodePort": 30000}]});
        let mut inside = old.clone();
        inside["type"] = "ClusterIP".into();
        inside["externalTrafficPolicy"] = "Cluster".into();
        let new = updated(old.clone(), inside);
        assert_eq!(new.list_at(&["spec", "ports"])[0].get("nodePort"), None);
        assert_eq!(new.at(&["spec", "externalTrafficPolicy"]), None);
        let mut alias = old.clone();
        alias["type"] = "ExternalName".into();
        alias["externalName"] = "a.b".into();
        let new = updated(old, alias);
        assert_eq!((new.at(&["spec", "clusterIP"]), new.at(&["spec", "ipFamilies"])), (None, None));
    }
}
