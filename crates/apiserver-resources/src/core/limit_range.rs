//! v1 LimitRange: rules on the way in.
use machinery::{FieldError, FieldErrors, Object, names};
use serde_json::Value;

use crate::core::resource_list;
use crate::rules::{Facts, Rules};
use crate::tree::{At, child, default_value, each, ensure, text_of};

/// Rules of limit ranges.
pub(crate) struct LimitRange;

impl Rules for LimitRange {
    const FACTS: Facts = Facts::PLAIN;

    fn fill_defaults(&self, object: &mut Object) {
        let Some(spec) = child(&mut object.0, "spec") else { return };
        for limit in each(spec, "limits") {
            for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                resource_list::fill(limit, list);
            }
            if text_of(limit, "type") == "Container" {
                let of = |limit: &crate::tree::Tree, key: &str| match limit.get(key) {
                    Some(Value::Object(list)) => list.clone(),
                    _ => serde_json::Map::new(),
                };
                for (name, quantity) in of(limit, "max") {
                    default_value(ensure(limit, "default"), &name, quantity);
                }
                for source in ["default", "min"] {
                    for (name, quantity) in of(limit, source) {
                        default_value(ensure(limit, "defaultRequest"), &name, quantity);
                    }
                }
            }
        }
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let mut types: Vec<&str> = Vec::new();
        for limit in object.fields(&["spec", "limits"]).items() {
            let ty = limit.field("type");
            if types.contains(&ty.text()) {
                errors.push(ty.duplicate());
            }
            types.push(ty.text());
            errors.extend(names::qualified_name(ty.text()).into_iter().map(|p| ty.invalid(p)));
            let known = ["Container", "PersistentVolumeClaim", "Pod"];
            if !ty.text().contains('/') && !known.contains(&ty.text()) {
                errors.push(ty.invalid("must be a standard limit type or fully qualified"));
            }
            if ty.text() == "Pod" {
                for list in ["default", "defaultRequest"] {
                    if !limit.field(list).is_empty() {
                        errors.push(limit.field(list).forbidden("may not be specified when `type` is 'Pod'"));
                    }
                }
            }
            for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                for (name, quantity) in limit.field(list).entries() {
                    resource_list::validate_name(&quantity, name, errors);
                    resource_list::validate_quantity(&quantity, errors);
                }
            }
            check_order(&limit, errors);
            check_ratio(&limit, errors);
            let bounded = ["min", "max"].iter().any(|list| limit.field(list).key("storage").exists());
            if ty.text() == "PersistentVolumeClaim" && !bounded {
                let mut error = limit.required(
                    "either minimum or maximum storage value is required, but neither was provided",
                );
                error.path = limit.path().child("limits");
                errors.push(error);
            }
        }
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

/// A ratio is at least one, and not above what the bounds make possible.
fn check_ratio(limit: &At, errors: &mut FieldErrors) {
    for (name, ratio) in limit.field("maxLimitRequestRatio").entries() {
        let Some(value) = resource_list::quantity(&ratio) else { continue };
        if value < machinery::Quantity::from_value(1) {
            errors.push(ratio.invalid_as(value.to_string(), format!("ratio {value} is less than 1")));
        }
        let bound = |list| resource_list::quantity(&limit.field(list).key(name)).map(|q| q.as_f64());
        if let (Some(min), Some(max)) = (bound("min"), bound("max"))
            && min > 0.0
            && value.as_f64() > max / min
        {
            let most = max / min;
            errors.push(
                ratio.invalid_as(
                    value.to_string(),
                    format!("ratio {value} is greater than max/min = {most:.6}"),
                ),
            );
        }
    }
}

/// min <= default request <= default <= max.
fn check_order(limit: &At, errors: &mut FieldErrors) {
    let steps =
        [("min", "min"), ("defaultRequest", "default request"), ("default", "default"), ("max", "max")];
    for (i, (low, low_word)) in steps.iter().enumerate() {
        for (high, high_word) in &steps[i + 1..] {
            for (name, quantity) in limit.field(low).entries() {
                let other = limit.field(high).key(name);
                if let (Some(a), Some(b)) =
                    (resource_list::quantity(&quantity), resource_list::quantity(&other))
                    && a > b
                {
                    errors.push(FieldError::invalid(
                        &quantity.path(),
                        a.to_string(),
                        format!("{low_word} value {a} is greater than {high_word} value {b}"),
                    ));
                }
            }
        }
    }
}
