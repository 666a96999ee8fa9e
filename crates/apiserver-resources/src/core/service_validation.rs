//! Checks of a service. Upstream rules: pkg/apis/core/validation/validation.go, ValidateService.
use machinery::{FieldError, FieldErrors, names};

use crate::checks;
use crate::core::pod_spec::validate_port_or_name;
use crate::tree::{At, same};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const MAX_AFFINITY_SECONDS: i64 = 86_400;
const KUBELET_PORT: i64 = 10_250;

/// Checks a service.
pub(crate) fn validate(service: &At, errors: &mut FieldErrors) {
    let spec = service.field("spec");
    let ty = spec.field("type").text();
    let headless = is_headless(&spec);
    let ports = spec.field("ports");
    if ports.is_empty() && !headless && ty != "ExternalName" {
        errors.push(ports.required(""));
    }
    if ty == "LoadBalancer" {
        for port in ports.items().filter(|port| port.field("port").int() == Some(KUBELET_PORT)) {
            errors.push(port.invalid_as(
                KUBELET_PORT,
                format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet"),
            ));
        }
    }
    match ty {
        "LoadBalancer" if headless => {
            errors.push(cluster_ip(&spec).invalid("may not be set to 'None' for LoadBalancer services"))
        }
        "NodePort" if headless => {
            errors.push(cluster_ip(&spec).invalid("may not be set to 'None' for NodePort services"))
        }
        "ExternalName" => validate_external_name(&spec, errors),
        _ => {}
    }
    let mut port_names: Vec<&str> = Vec::new();
    for port in ports.items() {
        validate_port(&port, ports.len() > 1, &mut port_names, errors);
    }
    checks::labels(&spec.field("selector"), errors);
    validate_affinity(&spec, errors);
    validate_addresses(&spec, ty, errors);
    let type_field = spec.field("type");
    if ty.is_empty() {
        errors.push(type_field.required(""));
    } else {
        checks::one_of(&type_field, &TYPES, errors);
    }
    validate_repeats(&spec, ty, errors);
    let allocate = spec.field("allocateLoadBalancerNodePorts");
    if ty == "LoadBalancer" {
        if !allocate.exists() {
            errors.push(allocate.required(""));
        }
    } else if allocate.exists() {
        errors.push(allocate.forbidden("may only be used when `type` is 'LoadBalancer'"));
    }
    let class = spec.field("loadBalancerClass");
    if class.exists() {
        if ty == "LoadBalancer" {
            checks::text_rule(&class, names::qualified_name, errors);
        } else {
            errors.push(class.forbidden("may only be used when `type` is 'LoadBalancer'"));
        }
    }
    validate_policies(&spec, ty, errors);
}

fn cluster_ip<'v>(spec: &At<'v>) -> At<'v> {
    spec.field("clusterIP")
}

fn is_headless(spec: &At) -> bool {
    match spec.field("clusterIPs").items().next() {
        Some(first) => first.text() == "None",
        None => cluster_ip(spec).text() == "None",
    }
}

fn validate_external_name(spec: &At, errors: &mut FieldErrors) {
    for field in ["clusterIPs", "ipFamilies"] {
        if !spec.field(field).is_empty() {
            errors.push(spec.field(field).forbidden("may not be set for ExternalName services"));
        }
    }
    if spec.field("ipFamilyPolicy").exists() {
        errors.push(spec.field("ipFamilyPolicy").forbidden("may not be set for ExternalName services"));
    }
    let name = spec.field("externalName");
    let plain = name.text().strip_suffix('.').unwrap_or(name.text());
    if plain.is_empty() {
        errors.push(name.required(""));
    } else {
        errors.extend(names::dns1123_subdomain(plain).into_iter().map(|p| name.invalid(p)));
    }
}

fn validate_port<'v>(port: &At<'v>, needs_name: bool, seen: &mut Vec<&'v str>, errors: &mut FieldErrors) {
    let name = port.field("name");
    if name.text().is_empty() {
        if needs_name {
            errors.push(name.required(""));
        }
    } else {
        checks::text_rule(&name, names::dns1123_label, errors);
        if seen.contains(&name.text()) {
            errors.push(name.duplicate());
        } else {
            seen.push(name.text());
        }
    }
    crate::core::endpoints::port_number(&port.field("port"), errors);
    crate::core::endpoints::protocol(&port.field("protocol"), errors);
    let target = port.field("targetPort");
    validate_port_or_name(&target, errors);
    let app = port.field("appProtocol");
    if app.exists() {
        checks::text_rule(&app, names::qualified_name, errors);
    }
}

fn validate_affinity(spec: &At, errors: &mut FieldErrors) {
    let affinity = spec.field("sessionAffinity");
    let config = spec.field("sessionAffinityConfig");
    if affinity.text().is_empty() {
        errors.push(affinity.required(""));
    } else {
        checks::one_of(&affinity, &["ClientIP", "None"], errors);
    }
    match affinity.text() {
        "ClientIP" => {
            let seconds = config.field("clientIP").field("timeoutSeconds");
            match seconds.int() {
                None => errors
                    .push(seconds.required(format!("when session affinity type is {}", affinity.text()))),
                Some(n) if n <= 0 || n > MAX_AFFINITY_SECONDS => errors.push(
                    seconds.invalid(format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}")),
                ),
                Some(_) => {}
            }
        }
        "None" if config.exists() => {
            errors.push(config.forbidden("must not be set when session affinity is None"));
        }
        _ => {}
    }
}

fn validate_addresses(spec: &At, ty: &str, errors: &mut FieldErrors) {
    let (one, all) = (cluster_ip(spec), spec.field("clusterIPs"));
    if let Some(first) = all.items().next() {
        if first.text() != one.text() {
            errors.push(all.invalid("first value must match `clusterIP`"));
        }
        if all.len() > 1 && all.items().any(|ip| ip.text() == "None") {
            errors.push(first.invalid("'None' must be the first and only value"));
        }
    } else if !one.text().is_empty() && ty != "ExternalName" {
        errors.push(all.required(""));
    }
    for ip in all.items().filter(|ip| !ip.text().is_empty() && ip.text() != "None") {
        checks::text_rule(&ip, checks::ip, errors);
    }
    if all.len() > 2 {
        errors.push(all.invalid("may only hold up to 2 values"));
    }
    let families = spec.field("ipFamilies");
    let mut seen: Vec<&str> = Vec::new();
    for family in families.items() {
        if !matches!(family.text(), "IPv4" | "IPv6") {
            errors.push(family.not_supported(&["IPv4", "IPv6"]));
        }
        if seen.contains(&family.text()) {
            errors.push(family.duplicate());
        }
        seen.push(family.text());
    }
    checks::one_of_or_empty(
        &spec.field("ipFamilyPolicy"),
        &["SingleStack", "PreferDualStack", "RequireDualStack"],
        errors,
    );
    for ip in spec.field("externalIPs").items() {
        let problems = checks::ip(ip.text());
        if problems.is_empty() {
            checks::text_rule(&ip, checks::non_special_ip, errors);
        } else {
            errors.extend(problems.into_iter().map(|p| ip.invalid(p)));
        }
    }
    let ranges = spec.field("loadBalancerSourceRanges");
    if !ranges.is_empty() && ty != "LoadBalancer" {
        errors.push(ranges.forbidden("may only be used when `type` is 'LoadBalancer'"));
    }
    for range in ranges.items() {
        errors.extend(checks::cidr(range.text().trim()).into_iter().map(|p| range.invalid(p)));
    }
}

/// Ports may not repeat, neither inside nor on the nodes.
fn validate_repeats(spec: &At, ty: &str, errors: &mut FieldErrors) {
    let mut inside: Vec<(&str, i64)> = Vec::new();
    let mut on_nodes: Vec<(&str, i64)> = Vec::new();
    for port in spec.field("ports").items() {
        let protocol = port.field("protocol").text();
        let node_port = port.field("nodePort");
        if let Some(n) = node_port.int().filter(|n| *n != 0) {
            if ty == "ClusterIP" {
                errors.push(node_port.forbidden(format!("may not be used when `type` is '{ty}'")));
            }
            if on_nodes.contains(&(protocol, n)) {
                errors.push(node_port.duplicate());
            }
            on_nodes.push((protocol, n));
        }
        let key = (protocol, port.field("port").int().unwrap_or(0));
        if inside.contains(&key) {
            let shown = serde_json::json!({"port": key.1, "protocol": key.0});
            errors.push(FieldError::duplicate(&port.path(), shown));
        }
        inside.push(key);
    }
}

fn validate_policies(spec: &At, ty: &str, errors: &mut FieldErrors) {
    let external = spec.field("externalTrafficPolicy");
    let exposed = matches!(ty, "LoadBalancer" | "NodePort")
        || (ty == "ClusterIP" && !spec.field("externalIPs").is_empty());
    if exposed {
        if external.text().is_empty() {
            errors.push(external.required(""));
        } else {
            checks::one_of(&external, &["Cluster", "Local"], errors);
        }
    } else if !external.text().is_empty() {
        errors.push(external.invalid("may only be set for externally-accessible services"));
    }
    let health = spec.field("healthCheckNodePort");
    let needs_health = ty == "LoadBalancer" && external.text() == "Local";
    if health.int().unwrap_or(0) != 0 && !needs_health {
        errors.push(
            health.invalid(
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ),
        );
    }
    let internal = spec.field("internalTrafficPolicy");
    if matches!(ty, "ClusterIP" | "NodePort" | "LoadBalancer") && !internal.exists() {
        errors.push(internal.required(""));
    }
    checks::one_of_or_empty(&internal, &["Cluster", "Local"], errors);
    let distribution = spec.field("trafficDistribution");
    if distribution.exists() {
        checks::one_of(&distribution, &["PreferClose", "PreferSameNode", "PreferSameZone"], errors);
    }
}

/// What an update may not change: the addresses, as long as the type needs them.
pub(crate) fn validate_change(new: &At, old: &At, errors: &mut FieldErrors) {
    let (spec, before) = (new.field("spec"), old.field("spec"));
    validate_health_port(&spec, &before, errors);
    let needs_ip = |ty: &str| matches!(ty, "ClusterIP" | "NodePort" | "LoadBalancer");
    if !needs_ip(before.field("type").text()) || !needs_ip(spec.field("type").text()) {
        return;
    }
    let (ips, old_ips) = (spec.field("clusterIPs"), before.field("clusterIPs"));
    let first = |ips: &At| ips.items().next().map(|ip| ip.text().to_owned()).unwrap_or_default();
    if !first(&old_ips).is_empty() && first(&ips) != first(&old_ips) {
        let problem = if first(&ips).is_empty() {
            "primary clusterIP can not be unset"
        } else {
            "may not change once set"
        };
        errors.push(ips.invalid(problem));
    }
    let (families, old_families) = (spec.field("ipFamilies"), before.field("ipFamilies"));
    let (family, old_family) = (families.items().next(), old_families.items().next());
    if let (Some(family), Some(old_family)) = (family, old_family)
        && !same(family.get(), old_family.get())
    {
        errors.push(family.invalid("may not change once set"));
    }
    let (class, old_class) = (spec.field("loadBalancerClass"), before.field("loadBalancerClass"));
    let stays = [&spec, &before].iter().all(|s| s.field("type").text() == "LoadBalancer");
    if stays && !same(class.get(), old_class.get()) {
        errors.push(class.invalid("may not change once set"));
    }
}

/// Where the nodes say whether they have endpoints does not change.
fn validate_health_port(spec: &At, before: &At, errors: &mut FieldErrors) {
    let needs = |spec: &At| {
        spec.field("type").text() == "LoadBalancer" && spec.field("externalTrafficPolicy").text() == "Local"
    };
    let (port, was) = (spec.field("healthCheckNodePort"), before.field("healthCheckNodePort"));
    if needs(spec) && needs(before) && port.number() != was.number() {
        errors.push(port.forbidden("field is immutable"));
    }
}

/// Checks the status of a service.
pub(crate) fn validate_status(service: &At, errors: &mut FieldErrors) {
    let balancer = service.field("spec").field("type").text() == "LoadBalancer";
    let ingress = service.fields(&["status", "loadBalancer", "ingress"]);
    if !ingress.is_empty() && !balancer {
        errors.push(ingress.forbidden("may only be used when `spec.type` is \"LoadBalancer\""));
        return;
    }
    validate_load_balancer_points(&ingress, errors);
    for point in ingress.items() {
        let (ip, mode) = (point.field("ip"), point.field("ipMode"));
        match (ip.text().is_empty(), mode.exists()) {
            (false, true) => checks::one_of(&mode, &["Proxy", "VIP"], errors),
            (false, false) => errors.push(mode.required("must be specified when `ip` is set")),
            (true, true) => errors.push(mode.forbidden("may not be specified when `ip` is not set")),
            (true, false) => {}
        }
    }
}

/// Checks where a load balancer takes traffic.
pub(crate) fn validate_load_balancer_points(points: &At, errors: &mut FieldErrors) {
    for point in points.items() {
        let (ip, hostname) = (point.field("ip"), point.field("hostname"));
        checks::optional_text(&ip, checks::ip, errors);
        if !hostname.text().is_empty() {
            checks::text_rule(&hostname, names::dns1123_subdomain, errors);
            if hostname.text().parse::<std::net::IpAddr>().is_ok() {
                errors.push(hostname.invalid("must be a DNS name, not an IP address"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use machinery::Object;
    use serde_json::{Value, json};

    use crate::strategy_for;

    fn service(spec: Value) -> Object {
        let mut object = Object::from_value(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec}),
        )
        .unwrap();
        strategy_for("", "services", "").fill_defaults(&mut object);
        object
    }

    fn problems(spec: Value) -> Vec<String> {
        let mut object = service(spec);
        strategy_for("", "services", "").admit_create(&mut object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_follow_the_type() {
        let s = service(json!({"ports": [{"port": 80}]}));
        assert_eq!(
            s.at(&["spec"]),
            Some(&json!({"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]}))
        );
        let s = service(json!({"type": "LoadBalancer", "ports": [{"port": 80}]}));
        assert_eq!(s.str_at(&["spec", "externalTrafficPolicy"]), "Cluster");
        assert_eq!(s.bool_at(&["spec", "allocateLoadBalancerNodePorts"]), Some(true));
    }

    #[test]
    fn errors_have_upstreams_words() {
        for (spec, expected) in [
            (json!({"ports": [{"port": 80}]}), &[][..]),
            (json!({"clusterIP": "None", "clusterIPs": ["None"]}), &[]),
            (json!({}), &["spec.ports: Required value"]),
            (
                json!({"ports": [{"port": 80}, {"port": 81, "name": "a"}]}),
                &["spec.ports[0].name: Required value"],
            ),
            (
                json!({"ports": [{"port": 70000}]}),
                &[
                    "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
                    "spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                ],
            ),
            (
                json!({"ports": [{"port": 80, "nodePort": 30000}]}),
                &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
            ),
            (json!({"type": "ExternalName"}), &["spec.externalName: Required value"]),
            (
                json!({"type": "X", "ports": [{"port": 80}]}),
                &[
                    "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
                ],
            ),
        ] {
            assert_eq!(problems(spec), expected);
        }
    }

    #[test]
    fn the_address_stays() {
        let old =
            service(json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}));
        let mut new =
            service(json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}));
        let errors = strategy_for("", "services", "").admit_update(&mut new, &old);
        assert_eq!(
            errors[0].to_string(),
            "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: may not change once set"
        );
    }
}
