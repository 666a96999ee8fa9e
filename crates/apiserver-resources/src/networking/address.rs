//! networking.k8s.io/v1 IPAddress and ServiceCIDR: rules on the way in.
use ipnet::IpNet;
use machinery::{FieldErrors, names};
use serde_json::Value;

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::At;

/// Rules of addresses.
pub(crate) struct IpAddress;

impl Rules for IpAddress {
    const FACTS: Facts = Facts::PLAIN;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let parent = object.fields(&["spec", "parentRef"]);
        if !parent.exists() {
            errors.push(parent.required(""));
            return;
        }
        checks::optional_text(&parent.field("group"), names::dns1123_subdomain, errors);
        checks::required_text(&parent.field("resource"), names::path_segment, errors);
        checks::required_text(&parent.field("name"), names::path_segment, errors);
        checks::optional_text(&parent.field("namespace"), names::path_segment, errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        let path = ["spec", "parentRef"];
        checks::immutable(&new.fields(&path), &old.fields(&path), errors);
    }
}

/// Rules of networks for services.
pub(crate) struct ServiceCidr;

impl Rules for ServiceCidr {
    const FACTS: Facts = Facts::STATUS;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let cidrs = object.fields(&["spec", "cidrs"]);
        if cidrs.is_empty() {
            errors.push(cidrs.required("at least one CIDR required"));
            return;
        }
        if cidrs.len() > 2 {
            let spec = object.field("spec").get().cloned().unwrap_or(Value::Null);
            errors.push(cidrs.invalid_as(spec, "may only hold up to 2 values"));
            return;
        }
        for cidr in cidrs.items() {
            checks::text_rule(&cidr, checks::canonical_cidr, errors);
        }
        let families: Vec<bool> = cidrs
            .items()
            .filter_map(|cidr| cidr.text().parse().ok())
            .map(|net| matches!(net, IpNet::V6(_)))
            .collect();
        if let [a, b] = families[..]
            && a == b
        {
            errors.push(cidrs.invalid(
                "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
            ));
        }
    }

    /// A second family may come, and that is all.
    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        let path = ["spec", "cidrs"];
        let (cidrs, before) = (new.fields(&path), old.fields(&path));
        let grows = (before.len(), cidrs.len()) == (1, 2);
        if cidrs.len() != before.len() && !grows {
            errors.push(cidrs.invalid("field is immutable"));
            return;
        }
        for (cidr, before) in cidrs.items().zip(before.items()) {
            if cidr.text() != before.text() {
                errors.push(cidr.invalid("field is immutable"));
            }
        }
        if grows {
            self.validate(new, errors);
        }
    }
}
