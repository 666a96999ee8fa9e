//! v1 Service: rules on the way in. Addresses and node ports are given by the store between prepare and validate.
use machinery::{FieldErrors, Object};
use serde_json::{Value, json};

use crate::core::service_validation;
use crate::rules::{Facts, Rules};
use crate::tree::{At, default_text, default_value, drop_false, each, ensure, has, text_of};

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
            if let Some(balancer) = crate::tree::below(&mut object.0, &["status", "loadBalancer"]) {
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
