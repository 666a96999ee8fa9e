//! v1 Endpoints: rules on the way in.
use machinery::{FieldErrors, Object, names};

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::spelling;
use crate::tree::{At, default_text, each};

/// Rules of endpoints.
pub(crate) struct Endpoints;

impl Rules for Endpoints {
    const FACTS: Facts = Facts::PLAIN;

    fn fill_defaults(&self, object: &mut Object) {
        for subset in each(&mut object.0, "subsets") {
            for port in each(subset, "ports") {
                default_text(port, "protocol", "TCP");
            }
        }
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut found = Vec::new();
        // The controller writes addresses as they should be.
        if new.labels().any(|label| label == ("endpoints.kubernetes.io/managed-by", "endpoint-controller")) {
            return found;
        }
        for subset in At::object(new).field("subsets").items() {
            for list in ["addresses", "notReadyAddresses"] {
                subset.field(list).items().for_each(|a| spelling::ip(&a.field("ip"), &mut found));
            }
        }
        found
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        for subset in object.field("subsets").items() {
            let (ready, not_ready) = (subset.field("addresses"), subset.field("notReadyAddresses"));
            if ready.is_empty() && not_ready.is_empty() {
                errors.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
            }
            for address in ready.items().chain(not_ready.items()) {
                let (ip, hostname) = (address.field("ip"), address.field("hostname"));
                let problems = checks::ip(ip.text());
                if problems.is_empty() {
                    checks::text_rule(&ip, checks::non_special_ip, errors);
                } else {
                    errors.extend(problems.into_iter().map(|p| ip.invalid(p)));
                }
                if !hostname.is_empty() {
                    checks::text_rule(&hostname, names::dns1123_label, errors);
                }
            }
            let ports = subset.field("ports");
            for port in ports.items() {
                let name = port.field("name");
                if name.is_empty() {
                    if ports.len() > 1 {
                        errors.push(name.required(""));
                    }
                } else {
                    checks::text_rule(&name, names::dns1123_label, errors);
                }
                port_number(&port.field("port"), errors);
                protocol(&port.field("protocol"), errors);
            }
        }
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

/// Checks a port number that has to be there.
pub(crate) fn port_number(at: &At, errors: &mut FieldErrors) {
    for problem in names::port_number(at.int().unwrap_or(0)) {
        errors.push(machinery::FieldError::invalid(&at.path(), at.int().unwrap_or(0), problem));
    }
}

/// Checks a protocol that has to be there.
pub(crate) fn protocol(at: &At, errors: &mut FieldErrors) {
    if at.text().is_empty() {
        errors.push(at.required(""));
    } else {
        checks::one_of(at, &["TCP", "UDP", "SCTP"], errors);
    }
}
