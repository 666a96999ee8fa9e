//! v1 LimitRange: rules on the way in.
use machinery::{FieldError, FieldErrors, Object};
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
        }
    }

    fn allows_create_on_update(&self) -> bool {
        true
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
