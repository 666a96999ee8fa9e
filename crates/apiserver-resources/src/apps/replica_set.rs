//! apps/v1 ReplicaSet: rules on the way in.
use machinery::Object;

use crate::core::pod_spec::defaults::fill_template;
use crate::rules::{Facts, Rules};
use crate::tree::{default_value, ensure};

/// Rules of replica sets.
pub(crate) struct ReplicaSet;

impl Rules for ReplicaSet {
    const FACTS: Facts = Facts::BOTH;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        default_value(spec, "replicas", 1);
        fill_template(spec);
    }

    fn prepare_for_create(&self, object: &mut Object) {
        object.set(&["status", "replicas"], 0);
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![("status.replicas", object.i64_at(&["status", "replicas"]).unwrap_or(0).to_string())]
    }
}
