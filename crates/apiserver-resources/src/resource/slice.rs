//! resource.k8s.io/v1 ResourceSlice: rules on the way in.
use jiff::{Timestamp, Unit};
use machinery::{FieldErrors, Object, names};
use serde_json::Value;

use crate::checks;
use crate::core::pod_spec::validate_node_selector;
use crate::resource::device::{self, validate_counters};
use crate::resource::parts;
use crate::rules::{Facts, Rules};
use crate::tree::{At, child, default_value, each};

/// Rules of slices.
pub(crate) struct ResourceSlice;

const MAX_DEVICES: usize = 128;
/// Taints, counters and lists cost more.
const MAX_COSTLY_DEVICES: usize = 64;
const MAX_COUNTER_SETS: usize = 8;

impl Rules for ResourceSlice {
    const FACTS: Facts = Facts::GENERATION;

    fn fill_defaults(&self, object: &mut Object) {
        let Some(spec) = child(&mut object.0, "spec") else { return };
        for taint in each(spec, "devices").flat_map(|device| each(device, "taints")) {
            let now = Timestamp::now().round(Unit::Second).unwrap_or_default();
            default_value(taint, "timeAdded", now.to_string());
        }
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let driver = new.str_at(&["spec", "driver"]);
        let told = format!(
            "spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters"
        );
        if driver == driver.to_lowercase() { Vec::new() } else { vec![told] }
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_spec(&object.field("spec"), None, errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        validate_spec(&new.field("spec"), Some(&old.field("spec")), errors);
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![
            ("spec.nodeName", object.str_at(&["spec", "nodeName"]).to_owned()),
            ("spec.driver", object.str_at(&["spec", "driver"]).to_owned()),
        ]
    }
}

fn validate_spec(spec: &At, old: Option<&At>, errors: &mut FieldErrors) {
    checks::csi_driver_name(&spec.field("driver"), errors);
    let pool = spec.field("pool");
    parts::pool_name(&pool.field("name"), errors);
    let (count, generation) = (pool.field("resourceSliceCount"), pool.field("generation"));
    if count.number() <= 0 {
        errors.push(count.invalid_as(count.number(), "must be greater than zero"));
    }
    if generation.number() < 0 {
        errors.push(generation.invalid("must be greater than or equal to zero"));
    }
    if let Some(old) = old {
        for path in [&["pool", "name"][..], &["driver"], &["nodeName"]] {
            checks::immutable(&spec.fields(path), &old.fields(path), errors);
        }
    }
    validate_nodes(spec, errors);
    let (devices, counters) = (spec.field("devices"), spec.field("sharedCounters"));
    if devices.exists() && counters.exists() {
        errors.push(spec.invalid_as("", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let costly = devices.items().any(|d| device::is_costly(&d));
    let max = if costly { MAX_COSTLY_DEVICES } else { MAX_DEVICES };
    let per_device = spec.field("perDeviceNodeSelection").is_true();
    parts::set(
        &devices,
        max,
        errors,
        |device, errors| {
            let name = device.field("name").text();
            let before =
                old.and_then(|o| o.field("devices").items().find(|d| d.field("name").text() == name));
            device::validate(device, before.as_ref(), per_device, errors);
        },
        parts::by_name,
    );
    parts::set(
        &counters,
        MAX_COUNTER_SETS,
        errors,
        |set, errors| {
            checks::required_text(&set.field("name"), names::dns1123_label, errors);
            validate_counters(&set.field("counters"), errors);
        },
        parts::by_name,
    );
}

/// A flag that is either `true` or not there.
fn validate_flag(at: &At, errors: &mut FieldErrors) {
    if at.bool() == Some(false) {
        errors.push(at.invalid("must be either unset or set to true"));
    }
}

/// Where the devices are: exactly one way of saying it.
fn validate_nodes(spec: &At, errors: &mut FieldErrors) {
    let (node, selector) = (spec.field("nodeName"), spec.field("nodeSelector"));
    let (all, each) = (spec.field("allNodes"), spec.field("perDeviceNodeSelection"));
    if node.exists() && node.text().is_empty() {
        errors.push(node.invalid("must be either unset or set to a non-empty string"));
    }
    checks::optional_text(&node, names::dns1123_subdomain, errors);
    if selector.exists() {
        validate_node_selector(&selector, errors);
        let terms = selector.field("nodeSelectorTerms");
        if terms.len() != 1 {
            errors.push(terms.invalid_as(
                terms.get().cloned().unwrap_or(Value::Null),
                "must have exactly one node selector term",
            ));
        }
    }
    validate_flag(&all, errors);
    validate_flag(&each, errors);
    let ways = [
        (!node.text().is_empty(), "`nodeName`"),
        (selector.exists(), "`nodeSelector`"),
        (all.is_true(), "`allNodes`"),
        (each.is_true(), "`perDeviceNodeSelection`"),
    ];
    let used: Vec<&str> = ways.iter().filter(|(used, _)| *used).map(|(_, name)| *name).collect();
    let problem =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match used.len() {
        0 => errors.push(spec.required(problem)),
        1 => {}
        _ => errors.push(spec.invalid_as(
            format!("{{{}}}", used.join(", ")),
            format!("{problem}, but multiple fields are set"),
        )),
    }
}
