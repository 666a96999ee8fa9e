//! networking.k8s.io/v1 Ingress and IngressClass: rules on the way in.
use machinery::{FieldErrors, Object, names};
use serde_json::{Value, json};

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::At;

/// Rules of ingresses.
pub(crate) struct Ingress;

impl Rules for Ingress {
    const FACTS: Facts = Facts::BOTH;

    fn status_at_birth(&self, _object: &Object) -> Option<Value> {
        Some(json!({"loadBalancer": {}}))
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        let (rules, backend) = (spec.field("rules"), spec.field("defaultBackend"));
        if rules.is_empty() && !backend.exists() {
            errors.push(spec.invalid("either `defaultBackend` or `rules` must be specified"));
        }
        if backend.exists() {
            validate_backend(&backend, errors);
        }
        for rule in rules.items() {
            validate_host(&rule.field("host"), errors);
            for path in rule.fields(&["http", "paths"]).items() {
                validate_path(&path, errors);
            }
            let paths = rule.fields(&["http", "paths"]);
            if rule.field("http").exists() && paths.is_empty() {
                errors.push(paths.required(""));
            }
        }
        for tls in spec.field("tls").items() {
            for host in tls.field("hosts").items() {
                validate_host(&host, errors);
            }
        }
        let class = spec.field("ingressClassName");
        if class.exists() {
            checks::text_rule(&class, names::dns1123_subdomain, errors);
        }
    }
}

fn validate_host(host: &At, errors: &mut FieldErrors) {
    let text = host.text();
    if text.is_empty() {
        return;
    }
    if text.parse::<std::net::IpAddr>().is_ok() {
        errors.push(host.invalid("must be a DNS name, not an IP address"));
    } else if text.contains('*') {
        checks::text_rule(host, names::wildcard_dns1123_subdomain, errors);
    } else {
        checks::text_rule(host, names::dns1123_subdomain, errors);
    }
}

fn validate_path(path: &At, errors: &mut FieldErrors) {
    let (ty, text) = (path.field("pathType"), path.field("path"));
    match ty.text() {
        "" => errors.push(ty.required("pathType must be specified")),
        "Exact" | "Prefix" => {
            if !text.text().starts_with('/') {
                errors.push(text.invalid("must be an absolute path"));
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if text.text().contains(bad) {
                    errors.push(text.invalid(format!("must not contain '{bad}'")));
                }
            }
            for bad in ["/..", "/."] {
                if text.text().ends_with(bad) {
                    errors.push(text.invalid(format!("cannot end with '{bad}'")));
                }
            }
        }
        "ImplementationSpecific" => {
            if !text.text().is_empty() && !text.text().starts_with('/') {
                errors.push(text.invalid("must be an absolute path"));
            }
        }
        _ => checks::one_of(&ty, &["Exact", "ImplementationSpecific", "Prefix"], errors),
    }
    validate_backend(&path.field("backend"), errors);
}

fn validate_backend(backend: &At, errors: &mut FieldErrors) {
    let (service, resource) = (backend.field("service"), backend.field("resource"));
    match (service.exists(), resource.exists()) {
        (true, true) => errors.push(backend.invalid("cannot set both resource and service backends")),
        (false, false) => errors.push(backend.required("port name or number is required")),
        (false, true) => {}
        (true, false) => {
            let name = service.field("name");
            if name.text().is_empty() {
                errors.push(name.required(""));
            } else {
                checks::text_rule(&name, names::dns1035_label, errors);
            }
            let port = service.field("port");
            let (port_name, number) = (port.field("name"), port.field("number"));
            match (port_name.text(), number.int().unwrap_or(0)) {
                ("", 0) => errors.push(port.required("port name or number is required")),
                ("", n) => errors.extend(names::port_number(n).into_iter().map(|p| number.invalid(p))),
                (_, 0) => checks::text_rule(&port_name, names::port_name, errors),
                _ => errors.push(port.invalid("cannot set both port name & port number")),
            }
        }
    }
}

/// Rules of ingress classes.
pub(crate) struct IngressClass;

impl Rules for IngressClass {
    const FACTS: Facts = Facts::GENERATION;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        checks::required(&object.fields(&["spec", "controller"]), errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        let path = ["spec", "controller"];
        checks::immutable(&new.fields(&path), &old.fields(&path), errors);
    }
}
