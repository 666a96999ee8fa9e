//! apps/v1 StatefulSet: rules on the way in.
use machinery::{FieldErrors, Object};
use serde_json::{Value, json};

use crate::apps::workload;
use crate::checks;
use crate::core::pod_spec::defaults::{fill_claim_spec, fill_template};
use crate::core::pod_spec::warnings;
use crate::rules::{Facts, Rules};
use crate::tree::{At, default_text, default_value, each, ensure, same, text_of};

/// Rules of stateful sets.
pub(crate) struct StatefulSet;

/// What an update may change.
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

impl Rules for StatefulSet {
    const FACTS: Facts = Facts::BOTH;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        default_text(spec, "podManagementPolicy", "OrderedReady");
        let strategy = ensure(spec, "updateStrategy");
        default_text(strategy, "type", "RollingUpdate");
        if text_of(strategy, "type") == "RollingUpdate" {
            default_value(ensure(strategy, "rollingUpdate"), "partition", 0);
        }
        let retention = ensure(spec, "persistentVolumeClaimRetentionPolicy");
        default_text(retention, "whenDeleted", "Retain");
        default_text(retention, "whenScaled", "Retain");
        default_value(spec, "replicas", 1);
        default_value(spec, "revisionHistoryLimit", 10);
        for claim in each(spec, "volumeClaimTemplates") {
            default_text(claim, "apiVersion", "v1");
            default_text(claim, "kind", "PersistentVolumeClaim");
            fill_claim_spec(ensure(claim, "spec"));
            default_text(ensure(claim, "status"), "phase", "Pending");
        }
        fill_template(spec);
    }

    fn status_at_birth(&self, _object: &Object) -> Option<Value> {
        Some(json!({"replicas": 0, "availableReplicas": 0}))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut found = warnings::of_template(new, old, &["spec", "template"]);
        let spec = At::object(new).field("spec");
        for claim in spec.field("volumeClaimTemplates").items() {
            // Upstream's path leaves out the field here.
            let mut told = Vec::new();
            warnings::of_claim(&claim.field("spec"), &mut told);
            found.extend(told.into_iter().map(|t| t.replacen("].spec.", "].", 1)));
        }
        if spec.field("revisionHistoryLimit").number() < 0 {
            let why = "a negative value retains all historical revisions; a value >= 0 is recommended";
            found.push(format!("spec.revisionHistoryLimit: {why}"));
        }
        found
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        let policy = spec.field("podManagementPolicy");
        match policy.text() {
            "" => errors.push(policy.required("")),
            "OrderedReady" | "Parallel" => {}
            _ => errors.push(policy.invalid("must be 'OrderedReady' or 'Parallel'")),
        }
        validate_strategy(&spec.field("updateStrategy"), errors);
        let retention = spec.field("persistentVolumeClaimRetentionPolicy");
        for when in ["whenDeleted", "whenScaled"] {
            checks::one_of(&retention.field(when), &["Retain", "Delete"], errors);
        }
        checks::non_negative(&spec.field("replicas"), errors);
        checks::non_negative(&spec.field("minReadySeconds"), errors);
        checks::non_negative(&spec.fields(&["ordinals", "start"]), errors);
        checks::non_negative(&spec.field("revisionHistoryLimit"), errors);
        workload::validate(&spec, "statefulset", "StatefulSet", errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        let (spec, old_spec) = (new.field("spec"), old.field("spec"));
        let (Some(spec_tree), Some(old_tree)) = (spec.tree(), old_spec.tree()) else { return };
        let changed = spec_tree
            .keys()
            .chain(old_tree.keys())
            .filter(|key| !MUTABLE.contains(&key.as_str()))
            .any(|key| !same(spec_tree.get(key), old_tree.get(key)));
        if changed {
            errors.push(spec.forbidden("updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"));
        }
    }

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        let status = new.field("status");
        let fields = [
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
        ];
        for field in fields {
            checks::non_negative(&status.field(field), errors);
        }
        let replicas = status.field("replicas").int().unwrap_or(0);
        for field in &fields[1..5] {
            if status.field(field).int().unwrap_or(0) > replicas {
                errors.push(status.field(field).invalid("cannot be greater than status.replicas"));
            }
        }
    }
}

fn validate_strategy(strategy: &At, errors: &mut FieldErrors) {
    let (ty, rolling) = (strategy.field("type"), strategy.field("rollingUpdate"));
    match ty.text() {
        "" => errors.push(ty.required("")),
        "OnDelete" => {
            if rolling.exists() {
                errors.push(rolling.invalid("only allowed for updateStrategy 'RollingUpdate'"));
            }
        }
        "RollingUpdate" => {
            checks::non_negative(&rolling.field("partition"), errors);
            let unavailable = rolling.field("maxUnavailable");
            if unavailable.exists() {
                checks::int_or_percent(&unavailable, errors);
                checks::not_above_100_percent(&unavailable, errors);
                if crate::apps::deployment::is_zero(&unavailable) {
                    errors.push(unavailable.invalid("cannot be 0"));
                }
            }
        }
        _ => errors.push(strategy.invalid("must be 'RollingUpdate' or 'OnDelete'")),
    }
}
