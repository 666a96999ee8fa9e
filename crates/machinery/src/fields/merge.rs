//! An applied configuration laid over an object.
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::element::Element;
use super::lists;
use super::schema::{Typed, Walk};

/// Merges a configuration into an object: what the configuration leaves out stays.
pub fn merge(ty: Typed<'_>, live: &Map<String, Value>, config: &Map<String, Value>) -> Map<String, Value> {
    let mut out = live.clone();
    for (name, config) in config {
        let merged = match live.get(name) {
            Some(live) => values(ty.child(name).0, live, config),
            None => config.clone(),
        };
        out.insert(name.clone(), merged);
    }
    out
}

fn values(ty: Typed<'_>, live: &Value, config: &Value) -> Value {
    match (ty.walk(live), ty.walk(config), live, config) {
        (Walk::Entries, Walk::Entries, Value::Object(live), Value::Object(config)) => {
            Value::Object(merge(ty, live, config))
        }
        (Walk::Items, Walk::Items, Value::Array(live), Value::Array(config)) => {
            match (lists::names(ty, live), lists::names(ty, config)) {
                (Ok(live_names), Ok(config_names)) => {
                    Value::Array(items(ty, &live_names, live, &config_names, config))
                }
                _ => Value::Array(config.clone()),
            }
        }
        _ => config.clone(),
    }
}

/// Merges two lists of named items. Items of both come in the order of the configuration; what only the object has
/// stays where it was between them.
fn items(
    ty: Typed<'_>,
    live_names: &[Element],
    live: &[Value],
    config_names: &[Element],
    config: &[Value],
) -> Vec<Value> {
    // `None`: the name is there more than once, so none of the items is the one that is meant.
    let mut in_live: BTreeMap<&Element, Option<&Value>> = BTreeMap::new();
    for (name, item) in live_names.iter().zip(live) {
        in_live.entry(name).and_modify(|found| *found = None).or_insert(Some(item));
    }
    let in_config: BTreeSet<&Element> = config_names.iter().collect();
    let merged = |i: usize| match in_live.get(&config_names[i]) {
        Some(Some(live)) => values(ty.item(), live, &config[i]),
        _ => config[i].clone(),
    };
    let mut shared = config_names.iter().filter(|name| in_live.contains_key(name));
    let mut next = shared.next();
    let mut done: BTreeSet<&Element> = BTreeSet::new();
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let (mut l, mut c) = (0, 0);
    while l < live.len() || c < config.len() {
        if let (Some(name), Some(wanted)) = (live_names.get(l), config_names.get(c)) {
            if name == wanted {
                done.insert(name);
                out.push(merged(c));
                l += 1;
                c += 1;
                next = shared.next();
                continue;
            }
            if in_config.contains(name) && next.is_some_and(|next| next != name) {
                // Its turn comes later, in the order of the configuration.
                l += 1;
                continue;
            }
        }
        if let Some(name) = live_names.get(l) {
            if !in_config.contains(name) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            if done.contains(name) {
                l += 1;
            }
        }
        if let Some(wanted) = config_names.get(c) {
            done.insert(wanted);
            out.push(merged(c));
            c += 1;
            if next == Some(wanted) {
                next = shared.next();
            }
        }
    }
    out
}
