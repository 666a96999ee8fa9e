//! storage.k8s.io/v1 CSIDriver, CSINode and CSIStorageCapacity: rules on the way in.
use machinery::{FieldErrors, Object, names};
use serde_json::{Value, json};

use crate::checks;
use crate::core::pod_spec::validate_token_seconds;
use crate::core::pod_spec::warnings::{old_expressions, old_label};
use crate::core::resource_list;
use crate::rules::{Facts, Rules};
use crate::tree::{At, default_value, ensure, same};

/// Rules of drivers.
pub(crate) struct CsiDriver;

const MIN_UPDATE_PERIOD: i64 = 10;

impl Rules for CsiDriver {
    const FACTS: Facts = Facts::PLAIN;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        default_value(spec, "attachRequired", true);
        for flag in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            default_value(spec, flag, false);
        }
        default_value(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        let modes = spec.get("volumeLifecycleModes").and_then(Value::as_array);
        if modes.is_none_or(Vec::is_empty) {
            spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
        }
    }

    /// A new driver has no generation; what nodes have to know of counts from then on.
    fn prepare_for_update(&self, new: &mut Object, old: &Object) {
        const COUNTING: [&str; 7] = [
            "tokenRequests",
            "requiresRepublish",
            "seLinuxMount",
            "podInfoOnMount",
            "fsGroupPolicy",
            "storageCapacity",
            "nodeAllocatableUpdatePeriodSeconds",
        ];
        if COUNTING.iter().any(|field| !same(new.at(&["spec", field]), old.at(&["spec", field]))) {
            new.set(&["metadata", "generation"], old.generation().unwrap_or(0) + 1);
        }
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let requests = |object: &Object| object.list_at(&["spec", "tokenRequests"]).to_vec();
        let unsaid = new.at(&["spec", "serviceAccountTokenInSecrets"]).is_none();
        let changed = !requests(new).is_empty() && !old.is_some_and(|old| requests(old) == requests(new));
        if !unsaid || !changed {
            return Vec::new();
        }
        vec!["spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".to_owned()]
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        let policy = spec.field("fsGroupPolicy");
        if policy.exists() {
            checks::one_of(&policy, &["File", "None", "ReadWriteOnceWithFSType"], errors);
        }
        let tokens = spec.field("tokenRequests");
        for (i, token) in tokens.items().enumerate() {
            let audience = token.field("audience");
            if tokens.items().take(i).any(|t| t.field("audience").text() == audience.text()) {
                errors.push(audience.duplicate());
                continue;
            }
            validate_token_seconds(&token.field("expirationSeconds"), errors);
        }
        let modes = spec.field("volumeLifecycleModes");
        for mode in modes.items().filter(|m| !matches!(m.text(), "Persistent" | "Ephemeral")) {
            let mut error = mode.not_supported(&["Ephemeral", "Persistent"]);
            error.path = modes.path();
            errors.push(error);
        }
        let period = spec.field("nodeAllocatableUpdatePeriodSeconds");
        if period.int().is_some_and(|n| n < MIN_UPDATE_PERIOD) {
            errors.push(period.invalid("must be greater than or equal to 10 seconds"));
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        let (spec, before) = (new.field("spec"), old.field("spec"));
        if !same(spec.field("attachRequired").get(), before.field("attachRequired").get()) {
            let mut error = spec.field("attachRequired").invalid("field is immutable");
            // Upstream's word for the field.
            error.path = spec.path().child("attachedRequired");
            errors.push(error);
        }
        checks::immutable(&spec.field("volumeLifecycleModes"), &before.field("volumeLifecycleModes"), errors);
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

/// Rules of the drivers of one node.
pub(crate) struct CsiNode;

const MAX_NODE_ID: usize = 256;

impl Rules for CsiNode {
    const FACTS: Facts = Facts::PLAIN;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let mut seen: Vec<&str> = Vec::new();
        for driver in object.fields(&["spec", "drivers"]).items() {
            let (name, id) = (driver.field("name"), driver.field("nodeID"));
            checks::csi_driver_name(&name, errors);
            checks::required(&id, errors);
            if id.text().len() > MAX_NODE_ID {
                errors.push(id.invalid(format!("must be {MAX_NODE_ID} characters or less")));
            }
            checks::non_negative(&driver.fields(&["allocatable", "count"]), errors);
            if seen.contains(&name.text()) {
                errors.push(name.duplicate());
            }
            seen.push(name.text());
            validate_topology_keys(&driver, errors);
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        let drivers = new.fields(&["spec", "drivers"]);
        for before in old.fields(&["spec", "drivers"]).items() {
            let name = before.field("name").text();
            let Some(now) = drivers.items().find(|d| d.field("name").text() == name) else { continue };
            // How many volumes fit may change as devices come and go.
            let changed = ["nodeID", "topologyKeys"]
                .iter()
                .any(|field| !same(now.field(field).get(), before.field(field).get()));
            if changed {
                let value = now.get().cloned().unwrap_or(Value::Null);
                errors.push(drivers.invalid_as(value, "field is immutable"));
            }
        }
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

/// Errors name the driver, not the key.
fn validate_topology_keys(driver: &At, errors: &mut FieldErrors) {
    let mut seen: Vec<&str> = Vec::new();
    for key in driver.field("topologyKeys").items().map(|k| k.text()) {
        if key.is_empty() {
            errors.push(driver.required(""));
        }
        if seen.contains(&key) {
            errors.push(machinery::FieldError::duplicate(&driver.path(), key));
        }
        seen.push(key);
        errors.extend(names::qualified_name(key).into_iter().map(|p| driver.invalid_as(key, p)));
    }
}

/// Rules of published capacities.
pub(crate) struct CsiStorageCapacity;

impl Rules for CsiStorageCapacity {
    const FACTS: Facts = Facts::PLAIN;

    fn fill_defaults(&self, object: &mut Object) {
        resource_list::fill_one(&mut object.0, "capacity");
        resource_list::fill_one(&mut object.0, "maximumVolumeSize");
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let topology = At::object(new).field("nodeTopology");
        let mut found = Vec::new();
        old_expressions(&topology.field("matchExpressions"), &mut found);
        for (label, _) in topology.field("matchLabels").entries() {
            if let Some(text) = old_label(label) {
                found.push(format!("nodeTopology.matchLabels.{label}: {text}"));
            }
        }
        found
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        if object.field("nodeTopology").exists() {
            checks::label_selector(&object.field("nodeTopology"), errors);
        }
        checks::text_rule(&object.field("storageClassName"), names::dns1123_subdomain, errors);
        if object.field("capacity").exists() {
            resource_list::validate_quantity(&object.field("capacity"), errors);
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        for field in ["nodeTopology", "storageClassName"] {
            checks::immutable(&new.field(field), &old.field(field), errors);
        }
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}
