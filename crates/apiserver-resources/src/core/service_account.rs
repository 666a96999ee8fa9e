//! v1 ServiceAccount: rules on the way in.
use machinery::Object;
use serde_json::Value;

use crate::rules::{Facts, Rules};

/// Rules of service accounts.
pub(crate) struct ServiceAccount;

impl Rules for ServiceAccount {
    const FACTS: Facts = Facts::PLAIN;

    fn prepare_for_create(&self, object: &mut Object) {
        keep_only_names(object);
    }

    fn prepare_for_update(&self, new: &mut Object, _old: &Object) {
        keep_only_names(new);
    }
}

/// Of a reference to a secret only the name means anything.
fn keep_only_names(object: &mut Object) {
    let names: Vec<Value> = object
        .list_at(&["secrets"])
        .iter()
        .map(|secret| serde_json::json!({"name": secret.get("name").cloned().unwrap_or_default()}))
        .collect();
    if !names.is_empty() {
        object.set(&["secrets"], names);
    }
}
