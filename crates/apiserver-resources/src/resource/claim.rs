//! resource.k8s.io/v1 ResourceClaim and ResourceClaimTemplate: rules on the way in.
use std::collections::{BTreeMap, BTreeSet};

use machinery::{FieldErrors, Object, names};
use serde_json::Value;

use crate::checks;
use crate::resource::claim_status;
use crate::resource::parts::{self, MAX_ITEMS};
use crate::rules::{Facts, Rules};
use crate::tree::{At, Tree, below, child, default_number, default_text, each, text_of};

/// Rules of claims.
pub(crate) struct ResourceClaim;

/// Rules of templates of claims.
pub(crate) struct ResourceClaimTemplate;

/// Most alternatives of one request.
const MAX_ALTERNATIVES: usize = 8;

fn fill_claim(spec: &mut Tree) {
    let Some(devices) = child(spec, "devices") else { return };
    for request in each(devices, "requests") {
        if let Some(exactly) = child(request, "exactly") {
            fill_request(exactly);
        }
        each(request, "firstAvailable").for_each(fill_request);
    }
}

fn fill_request(request: &mut Tree) {
    default_text(request, "allocationMode", "ExactCount");
    if text_of(request, "allocationMode") == "ExactCount" {
        default_number(request, "count", 1);
    }
    parts::fill_tolerations(request);
}

impl Rules for ResourceClaim {
    const FACTS: Facts = Facts::STATUS;

    fn fill_defaults(&self, object: &mut Object) {
        if let Some(spec) = child(&mut object.0, "spec") {
            fill_claim(spec);
        }
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_claim(&object.field("spec"), errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        checks::immutable(&new.field("spec"), &old.field("spec"), errors);
    }

    fn validate_status(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        claim_status::validate(new, old, errors);
    }
}

impl Rules for ResourceClaimTemplate {
    const FACTS: Facts = Facts::PLAIN;

    fn fill_defaults(&self, object: &mut Object) {
        if let Some(spec) = below(&mut object.0, &["spec", "spec"]) {
            fill_claim(spec);
        }
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        checks::labels(&spec.fields(&["metadata", "labels"]), errors);
        checks::annotations(&spec.fields(&["metadata", "annotations"]), errors);
        validate_claim(&spec.field("spec"), errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        checks::immutable(&new.field("spec"), &old.field("spec"), errors);
    }
}

/// The requests of a claim, each with the names of its alternatives.
pub(crate) struct Requests<'v>(BTreeMap<&'v str, BTreeSet<&'v str>>);

impl<'v> Requests<'v> {
    pub(crate) fn of(devices: &At<'v>) -> Self {
        let named = |request: At<'v>| {
            let alternatives = request.field("firstAvailable");
            (request.field("name").text(), alternatives.items().map(|a| a.field("name").text()).collect())
        };
        Self(devices.field("requests").items().map(named).collect())
    }

    fn has(&self, name: &str) -> bool {
        match name.split_once('/') {
            None => self.0.contains_key(name),
            Some((request, alternative)) => self.0.get(request).is_some_and(|a| a.contains(alternative)),
        }
    }

    /// Checks that a text names one of them.
    pub(crate) fn check(&self, at: &At, errors: &mut FieldErrors) {
        let problem = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        let segments: Vec<&str> = at.text().split('/').collect();
        if segments.len() <= 2 {
            for segment in segments {
                errors.extend(names::dns1123_label(segment).into_iter().map(|p| at.invalid_as(segment, p)));
            }
            if self.has(at.text()) {
                return;
            }
        }
        errors.push(at.invalid(problem));
    }

    /// Checks a list of their names.
    pub(crate) fn check_all(&self, at: &At, errors: &mut FieldErrors) {
        parts::set(at, MAX_ITEMS, errors, |name, errors| self.check(name, errors), parts::by_text);
    }
}

fn validate_claim(spec: &At, errors: &mut FieldErrors) {
    let devices = spec.field("devices");
    let names = Requests::of(&devices);
    parts::set(&devices.field("requests"), MAX_ITEMS, errors, validate_request, parts::by_name);
    parts::list(&devices.field("constraints"), MAX_ITEMS, errors, |constraint, errors| {
        names.check_all(&constraint.field("requests"), errors);
        let (same, distinct) = (constraint.field("matchAttribute"), constraint.field("distinctAttribute"));
        if same.exists() {
            parts::fully_qualified(&same, errors);
        } else if distinct.exists() {
            parts::fully_qualified(&distinct, errors);
        } else {
            errors.push(constraint.required("exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set"));
        }
    });
    parts::list(&devices.field("config"), MAX_ITEMS, errors, |config, errors| {
        names.check_all(&config.field("requests"), errors);
        parts::configuration(config, false, errors);
    });
}

fn validate_name(at: &At, errors: &mut FieldErrors) {
    checks::required_text(at, names::dns1123_label, errors);
}

fn validate_request(request: &At, errors: &mut FieldErrors) {
    validate_name(&request.field("name"), errors);
    let (exactly, alternatives) = (request.field("exactly"), request.field("firstAvailable"));
    let problem = "exactly one of `exactly` or `firstAvailable` is required";
    match (exactly.exists(), !alternatives.is_empty()) {
        (false, false) => errors.push(request.required(problem)),
        (true, true) => {
            errors.push(request.invalid_as(Value::Null, format!("{problem}, but multiple fields are set")))
        }
        (true, false) => validate_devices(&exactly, errors),
        (false, true) => parts::set(
            &alternatives,
            MAX_ALTERNATIVES,
            errors,
            |alternative, errors| {
                validate_name(&alternative.field("name"), errors);
                validate_devices(alternative, errors);
            },
            parts::by_name,
        ),
    }
}

/// Which devices, and how many.
fn validate_devices(request: &At, errors: &mut FieldErrors) {
    checks::required_text(&request.field("deviceClassName"), names::dns1123_subdomain, errors);
    parts::selectors(&request.field("selectors"), false, errors);
    let (mode, count) = (request.field("allocationMode"), request.field("count"));
    match mode.text() {
        "All" if count.number() != 0 => {
            errors.push(count.invalid("must not be specified when allocationMode is 'All'"));
        }
        "All" => {}
        "ExactCount" if count.number() <= 0 => {
            errors.push(count.invalid_as(count.number(), "must be greater than zero"));
        }
        "ExactCount" => {}
        _ => checks::one_of(&mode, &["All", "ExactCount"], errors),
    }
    parts::tolerations(&request.field("tolerations"), errors);
}
