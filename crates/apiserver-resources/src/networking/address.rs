//! networking.k8s.io/v1 IPAddress and ServiceCIDR: rules on the way in.
use machinery::FieldErrors;

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
        for field in ["resource", "name"] {
            checks::required(&parent.field(field), errors);
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
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
        }
        if cidrs.len() > 2 {
            errors.push(cidrs.invalid("may only hold up to 2 values"));
        }
        for cidr in cidrs.items() {
            checks::text_rule(&cidr, checks::cidr, errors);
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        let path = ["spec", "cidrs"];
        checks::immutable(&new.fields(&path), &old.fields(&path), errors);
    }
}
