//! networking.k8s.io/v1 NetworkPolicy: rules on the way in.
use machinery::{FieldErrors, Object};
use serde_json::Value;

use crate::checks;
use crate::core::pod_spec::validate_port_or_name;
use crate::rules::{Facts, Rules};
use crate::spelling;
use crate::tree::{At, default_text, each, ensure, has};

/// Rules of network policies.
pub(crate) struct NetworkPolicy;

impl Rules for NetworkPolicy {
    const FACTS: Facts = Facts::GENERATION;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        let types = spec.get("policyTypes").and_then(Value::as_array).map_or(0, Vec::len);
        if types == 0 {
            let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|e| !e.is_empty());
            let types: Vec<Value> =
                ["Ingress"].into_iter().chain(egress.then_some("Egress")).map(Value::from).collect();
            spec.insert("policyTypes".into(), types.into());
        }
        for direction in ["ingress", "egress"] {
            for rule in each(spec, direction) {
                for port in each(rule, "ports") {
                    default_text(port, "protocol", "TCP");
                }
            }
        }
        if !has(spec, "podSelector") {
            ensure(spec, "podSelector");
        }
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut found = Vec::new();
        let spec = At::object(new).field("spec");
        for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
            for peer in
                spec.field(rules).items().flat_map(|rule| rule.field(peers).items().collect::<Vec<_>>())
            {
                let block = peer.field("ipBlock");
                spelling::cidr(&block.field("cidr"), &mut found);
                block.field("except").items().for_each(|net| spelling::cidr(&net, &mut found));
            }
        }
        found
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_spec(&object.field("spec"), &[], errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        let spec = old.field("spec");
        let mut known: Vec<&str> = Vec::new();
        for (direction, peers) in DIRECTIONS {
            for rule in spec.field(direction).items() {
                for block in rule.field(peers).items().map(|peer| peer.field("ipBlock")) {
                    known.push(block.field("cidr").text());
                    known.extend(block.field("except").items().map(|e| e.text()));
                }
            }
        }
        validate_spec(&new.field("spec"), &known, errors);
    }
}

const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

/// `known`: networks that the old object has, which stay good whatever they are.
fn validate_spec(spec: &At, known: &[&str], errors: &mut FieldErrors) {
    checks::label_selector(&spec.field("podSelector"), errors);
    for (direction, peers) in DIRECTIONS {
        for rule in spec.field(direction).items() {
            for port in rule.field("ports").items() {
                validate_port(&port, errors);
            }
            for peer in rule.field(peers).items() {
                validate_peer(&peer, known, errors);
            }
        }
    }
    let types = spec.field("policyTypes");
    if types.len() > 2 {
        errors.push(types.invalid("may not specify more than two policyTypes"));
        return;
    }
    for ty in types.items() {
        checks::one_of(&ty, &["Egress", "Ingress"], errors);
    }
}

fn validate_port(port: &At, errors: &mut FieldErrors) {
    checks::one_of_or_empty(&port.field("protocol"), &["TCP", "UDP", "SCTP"], errors);
    let (number, end) = (port.field("port"), port.field("endPort"));
    if number.exists() {
        validate_port_or_name(&number, errors);
    }
    let Some(last) = end.int() else { return };
    match number.get() {
        None => errors.push(end.invalid("may not be specified when `port` is not specified")),
        Some(Value::String(_)) => {
            errors.push(end.invalid("may not be specified when `port` is non-numeric"));
        }
        Some(first) => {
            if first.as_i64().is_some_and(|first| last < first) {
                errors.push(end.invalid("must be greater than or equal to `port`"));
            }
            errors.extend(machinery::names::port_number(last).into_iter().map(|p| end.invalid(p)));
        }
    }
}

fn validate_peer(peer: &At, known: &[&str], errors: &mut FieldErrors) {
    let (pods, namespaces, block) =
        (peer.field("podSelector"), peer.field("namespaceSelector"), peer.field("ipBlock"));
    for selector in [&pods, &namespaces] {
        if selector.exists() {
            checks::label_selector(selector, errors);
        }
    }
    if block.exists() {
        let network = |at: &At, errors: &mut FieldErrors| {
            if !known.contains(&at.text()) {
                checks::text_rule(at, checks::cidr, errors);
            }
        };
        let cidr = block.field("cidr");
        if cidr.text().is_empty() {
            errors.push(cidr.required(""));
        } else {
            network(&cidr, errors);
        }
        for except in block.field("except").items() {
            network(&except, errors);
            let nets = (cidr.text().parse::<ipnet::IpNet>(), except.text().parse::<ipnet::IpNet>());
            if let (Ok(whole), Ok(part)) = nets
                && (!whole.contains(&part) || whole == part)
            {
                errors.push(except.invalid("must be a strict subset of `cidr`"));
            }
        }
    }
    match (pods.exists() || namespaces.exists(), block.exists()) {
        (false, false) => errors.push(peer.required("must specify a peer")),
        (true, true) => {
            errors.push(peer.forbidden("may not specify both ipBlock and another peer"));
        }
        _ => {}
    }
}
