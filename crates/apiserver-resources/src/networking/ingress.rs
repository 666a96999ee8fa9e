//! networking.k8s.io/v1 Ingress: rules on the way in.
use machinery::{FieldError, FieldErrors, Object, names};
use serde_json::{Value, json};

use crate::checks;
use crate::core::service_validation::validate_load_balancer_points;
use crate::rules::{Facts, Rules};
use crate::spelling;
use crate::tree::{At, drop_empty_text, each};

/// Rules of ingresses.
pub(crate) struct Ingress;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// What is let through because the old object has it.
#[derive(Default)]
struct Known {
    bad_secret_name: bool,
    bad_wildcard_rule: bool,
}

impl Known {
    fn of(old: &At) -> Self {
        let spec = old.field("spec");
        let bad = |rule: &At| {
            let mut errors = FieldErrors::new();
            validate_paths(rule, &mut errors);
            rule.field("host").text().contains('*') && !errors.is_empty()
        };
        Self {
            bad_secret_name: spec
                .field("tls")
                .items()
                .any(|tls| !names_secret(tls.field("secretName").text()).is_empty()),
            bad_wildcard_rule: spec.field("rules").items().any(|rule| bad(&rule)),
        }
    }
}

impl Rules for Ingress {
    const FACTS: Facts = Facts::BOTH;

    fn fill_defaults(&self, object: &mut Object) {
        if let Some(spec) = crate::tree::child(&mut object.0, "spec") {
            for tls in each(spec, "tls") {
                drop_empty_text(tls, "secretName");
            }
        }
    }

    fn status_at_birth(&self, _object: &Object) -> Option<Value> {
        Some(json!({"loadBalancer": {}}))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let named = new.at(&["spec", "ingressClassName"]).is_some();
        let uses = new.annotation(CLASS_ANNOTATION).is_some() && !named;
        if old.is_none() && uses {
            vec![format!(
                "annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead"
            )]
        } else {
            Vec::new()
        }
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

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_spec(&object.field("spec"), &Known::default(), errors);
        let annotation = object.fields(&["metadata", "annotations"]).key(CLASS_ANNOTATION);
        let class = object.fields(&["spec", "ingressClassName"]);
        if annotation.exists() && class.exists() && annotation.text() != class.text() {
            let path = machinery::FieldPath::new("annotations").child(CLASS_ANNOTATION);
            errors.push(FieldError::invalid(
                &path,
                annotation.text(),
                "must match `ingressClassName` when both are specified",
            ));
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        validate_spec(&new.field("spec"), &Known::of(old), errors);
    }

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        validate_load_balancer_points(&new.fields(&["status", "loadBalancer", "ingress"]), errors);
    }
}

fn validate_spec(spec: &At, known: &Known, errors: &mut FieldErrors) {
    let (rules, backend) = (spec.field("rules"), spec.field("defaultBackend"));
    if rules.is_empty() && !backend.exists() {
        errors.push(spec.invalid_as(Value::Null, "either `defaultBackend` or `rules` must be specified"));
    }
    if backend.exists() {
        validate_backend(&backend, errors);
    }
    for rule in rules.items() {
        let host = rule.field("host");
        let wildcard = host.text().contains('*');
        if !host.text().is_empty() {
            if host.text().parse::<std::net::IpAddr>().is_ok() {
                errors.push(host.invalid("must be a DNS name, not an IP address"));
            }
            validate_host(&host, errors);
        }
        if !wildcard || !known.bad_wildcard_rule {
            validate_paths(&rule, errors);
        }
    }
    for tls in spec.field("tls").items() {
        for host in tls.field("hosts").items() {
            validate_host(&host, errors);
        }
        if !known.bad_secret_name {
            checks::text_rule(&tls.field("secretName"), names_secret, errors);
        }
    }
    let class = spec.field("ingressClassName");
    if class.exists() {
        checks::text_rule(&class, names::dns1123_subdomain, errors);
    }
}

fn names_secret(name: &str) -> Vec<String> {
    if name.is_empty() { Vec::new() } else { names::dns1123_subdomain(name) }
}

fn validate_host(host: &At, errors: &mut FieldErrors) {
    if host.text().contains('*') {
        checks::text_rule(host, names::wildcard_dns1123_subdomain, errors);
    } else {
        checks::text_rule(host, names::dns1123_subdomain, errors);
    }
}

fn validate_paths(rule: &At, errors: &mut FieldErrors) {
    let http = rule.field("http");
    if !http.exists() {
        return;
    }
    let paths = http.field("paths");
    if paths.is_empty() {
        errors.push(paths.required(""));
    }
    for path in paths.items() {
        validate_path(&path, errors);
    }
}

fn validate_path(path: &At, errors: &mut FieldErrors) {
    let (ty, text) = (path.field("pathType"), path.field("path"));
    if !ty.exists() {
        errors.push(ty.required("pathType must be specified"));
        return;
    }
    match ty.text() {
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
        (true, true) => {
            errors.push(backend.invalid_as("", "cannot set both resource and service backends"));
        }
        (false, false) => errors.push(backend.invalid_as("", "resource or service backend is required")),
        (false, true) => super::validate_typed_reference(&resource, errors),
        (true, false) => {
            checks::required_text(&service.field("name"), names::dns1035_label, errors);
            let port = service.field("port");
            let (port_name, number) = (port.field("name"), port.field("number"));
            match (port_name.text(), number.number()) {
                ("", 0) => errors.push(backend.required("port name or number is required")),
                ("", n) => errors.extend(names::port_number(n).into_iter().map(|p| number.invalid(p))),
                (_, 0) => checks::text_rule(&port_name, names::port_name, errors),
                _ => errors.push(backend.invalid_as("", "cannot set both port name & port number")),
            }
        }
    }
}
