//! discovery.k8s.io/v1 EndpointSlice: rules on the way in.
use std::net::IpAddr;

use machinery::{FieldError, FieldErrors, Object, names};

use crate::checks;
use crate::rules::{Facts, Rules, differs_outside};
use crate::spelling;
use crate::tree::{At, default_text, default_value, each, same};

/// Rules of endpoint slices.
pub(crate) struct EndpointSlice;

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_HINTS: usize = 8;

impl Rules for EndpointSlice {
    const FACTS: Facts = Facts::GENERATION;

    fn fill_defaults(&self, object: &mut Object) {
        for port in each(&mut object.0, "ports") {
            default_value(port, "name", "");
            default_text(port, "protocol", "TCP");
        }
    }

    /// Labels tell whose slice it is, so they count.
    fn changes_generation(&self, new: &Object, old: &Object) -> bool {
        let labels = ["metadata", "labels"];
        differs_outside(new, old, &["metadata"]) || !same(new.at(&labels), old.at(&labels))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut found = Vec::new();
        if old.is_none() && new.str_at(&["addressType"]) == "FQDN" {
            found.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        // The controllers write addresses as they should be.
        let ours = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
        if new.labels().any(|(k, v)| k == "endpointslice.kubernetes.io/managed-by" && ours.contains(&v)) {
            return found;
        }
        for endpoint in At::object(new).field("endpoints").items() {
            endpoint.field("addresses").items().for_each(|address| spelling::ip(&address, &mut found));
        }
        found
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let (ty, endpoints, ports) =
            (object.field("addressType"), object.field("endpoints"), object.field("ports"));
        if ty.text().is_empty() {
            errors.push(ty.required(""));
        } else {
            checks::one_of(&ty, &["FQDN", "IPv4", "IPv6"], errors);
        }
        validate_endpoints(&endpoints, ty.text(), errors);
        if ports.len() > MAX_PORTS {
            errors.push(FieldError::too_many(&ports.path(), ports.len(), MAX_PORTS));
            return;
        }
        let mut seen: Vec<&str> = Vec::new();
        for port in ports.items() {
            let name = port.field("name");
            if !name.text().is_empty() {
                checks::text_rule(&name, names::dns1123_label, errors);
            }
            if seen.contains(&name.text()) {
                errors.push(name.duplicate());
            }
            seen.push(name.text());
            crate::core::endpoints::protocol(&port.field("protocol"), errors);
            let number = port.field("port");
            if number.exists() {
                crate::core::endpoints::port_number(&number, errors);
            }
            let app = port.field("appProtocol");
            if !app.text().is_empty() {
                checks::text_rule(&app, names::qualified_name, errors);
            }
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        checks::immutable(&new.field("addressType"), &old.field("addressType"), errors);
    }
}

fn validate_endpoints(endpoints: &At, ty: &str, errors: &mut FieldErrors) {
    if endpoints.len() > MAX_ENDPOINTS {
        errors.push(FieldError::too_many(&endpoints.path(), endpoints.len(), MAX_ENDPOINTS));
        return;
    }
    for endpoint in endpoints.items() {
        let addresses = endpoint.field("addresses");
        if addresses.is_empty() {
            errors.push(addresses.required("must contain at least 1 address"));
        } else if addresses.len() > MAX_ADDRESSES {
            errors.push(FieldError::too_many(&addresses.path(), addresses.len(), MAX_ADDRESSES));
        }
        for address in addresses.items() {
            let ip = address.text().parse::<IpAddr>();
            match (ty, ip) {
                ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => {
                    checks::text_rule(&address, checks::non_special_ip, errors);
                }
                ("IPv4", _) => errors.push(address.invalid("must be an IPv4 address")),
                ("IPv6", _) => errors.push(address.invalid("must be an IPv6 address")),
                ("FQDN", _) => checks::text_rule(&address, names::fully_qualified_name, errors),
                _ => {}
            }
        }
        let hostname = endpoint.field("hostname");
        if !hostname.text().is_empty() {
            checks::text_rule(&hostname, names::dns1123_label, errors);
        }
        let node = endpoint.field("nodeName");
        if node.exists() {
            checks::text_rule(&node, names::dns1123_subdomain, errors);
        }
        validate_hints(&endpoint.field("hints"), errors);
    }
}

/// Which zones and nodes an endpoint is for.
fn validate_hints(hints: &At, errors: &mut FieldErrors) {
    for (field, rule) in
        [("forZones", names::label_value as fn(&str) -> Vec<String>), ("forNodes", names::dns1123_subdomain)]
    {
        let list = hints.field(field);
        if list.len() > MAX_HINTS {
            errors.push(list.too_many(MAX_HINTS));
            continue;
        }
        for (i, hint) in list.items().enumerate() {
            let name = hint.field("name");
            if list.items().take(i).any(|h| h.field("name").text() == name.text()) {
                errors.push(FieldError::duplicate(&hint.path(), name.text()));
            }
            checks::text_rule(&name, rule, errors);
        }
    }
}
