//! Checks of what an autoscaler measures.
use machinery::{FieldErrors, names};

use crate::autoscaling::horizontal_pod_autoscaler::validate_reference;
use crate::checks;
use crate::core::resource_list;
use crate::tree::At;

/// The types of metrics, each with the field that holds it.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

/// Checks one metric.
pub(super) fn validate(metric: &At, errors: &mut FieldErrors) {
    let ty = metric.field("type");
    let expected = SOURCES.iter().find(|(known, _)| *known == ty.text()).map(|(_, field)| *field);
    if ty.text().is_empty() {
        errors.push(ty.required("must specify a metric source type"));
    }
    if expected.is_none() {
        errors.push(ty.not_supported(&SOURCES.map(|(ty, _)| ty)));
    }
    let present: Vec<&'static str> =
        SOURCES.iter().map(|(_, field)| *field).filter(|field| metric.field(field).exists()).collect();
    if let Some(first) = present.first() {
        validate_source(first, &metric.field(first), errors);
    }
    if let Some(expected) = expected
        && !present.contains(&expected)
    {
        errors.push(metric.field(expected).required("must populate information for the given metric source"));
    }
    if present.len() != 1 {
        for other in present.into_iter().filter(|field| Some(*field) != expected) {
            errors.push(metric.field(other).forbidden("must populate the given metric source only"));
        }
    }
}

fn validate_source(field: &str, source: &At, errors: &mut FieldErrors) {
    let target = source.field("target");
    let (value, average) = (target.field("value"), target.field("averageValue"));
    match field {
        "object" => {
            validate_reference(&source.field("describedObject"), errors);
            validate_identifier(&source.field("metric"), errors);
            validate_target(&target, errors);
            if !value.exists() && !average.exists() {
                errors.push(average.required("must set either a target value or averageValue"));
            }
        }
        "external" => {
            validate_identifier(&source.field("metric"), errors);
            validate_target(&target, errors);
            match (value.exists(), average.exists()) {
                (false, false) => errors
                    .push(average.required("must set either a target value for metric or a per-pod target")),
                (true, true) => errors
                    .push(value.forbidden("may not set both a target value for metric and a per-pod target")),
                _ => {}
            }
        }
        "pods" => {
            validate_identifier(&source.field("metric"), errors);
            validate_target(&target, errors);
            if !is_positive(&average) {
                errors.push(average.required("must specify a positive target averageValue"));
            }
        }
        _ => {
            let name = source.field("name");
            if name.text().is_empty() {
                errors.push(name.required("must specify a resource name"));
            }
            if field == "containerResource" && source.field("container").is_empty() {
                errors.push(source.field("container").required("must specify a container"));
            }
            validate_target(&target, errors);
            let utilization = target.field("averageUtilization");
            match (utilization.exists(), average.exists()) {
                (false, false) => errors
                    .push(utilization.required("must set either a target raw value or a target utilization")),
                (true, true) => errors
                    .push(average.forbidden("may not set both a target raw value and a target utilization")),
                _ => {}
            }
        }
    }
}

fn is_positive(at: &At) -> bool {
    resource_list::quantity(at).is_some_and(|q| !q.is_zero() && !q.is_negative())
}

fn validate_identifier(metric: &At, errors: &mut FieldErrors) {
    let name = metric.field("name");
    if name.text().is_empty() {
        errors.push(name.required("must specify a metric name"));
    } else {
        checks::text_rule(&name, names::path_segment, errors);
    }
}

fn validate_target(target: &At, errors: &mut FieldErrors) {
    let ty = target.field("type");
    if ty.text().is_empty() {
        errors.push(ty.required("must specify a metric target type"));
    }
    if !matches!(ty.text(), "Utilization" | "Value" | "AverageValue") {
        errors.push(ty.invalid("must be either Utilization, Value, or AverageValue"));
    }
    for amount in ["value", "averageValue"] {
        let amount = target.field(amount);
        if amount.exists() && !is_positive(&amount) {
            errors.push(amount.invalid("must be positive"));
        }
    }
    let utilization = target.field("averageUtilization");
    if utilization.int().is_some_and(|n| n < 1) {
        errors.push(utilization.invalid("must be greater than 0"));
    }
}
