//! v1 Node: rules on the way in.
use machinery::{FieldErrors, Object};
use serde_json::Value;

use crate::checks;
use crate::core::{resource_list, taint};
use crate::rules::{Facts, Rules};
use crate::spelling;
use crate::tree::{At, child, drop_false, sync_first};

/// Rules of nodes.
pub(crate) struct Node;

impl Rules for Node {
    const FACTS: Facts = Facts::STATUS;

    fn fill_defaults(&self, object: &mut Object) {
        if let Some(spec) = child(&mut object.0, "spec") {
            drop_false(spec, &["unschedulable"]);
            sync_first(spec, "podCIDR", "podCIDRs", |one| one.clone(), |item| Some(item.clone()));
        }
        if let Some(status) = child(&mut object.0, "status") {
            resource_list::fill(status, "capacity");
            resource_list::fill(status, "allocatable");
            if let (None, Some(capacity)) = (status.get("allocatable"), status.get("capacity").cloned()) {
                status.insert("allocatable".into(), capacity);
            }
        }
    }

    /// A kubelet registers its node together with its status.
    fn status_at_birth(&self, object: &Object) -> Option<Value> {
        object.at(&["status"]).cloned()
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut found = Vec::new();
        if new.at(&["spec", "configSource"]).is_some() {
            found.push("spec.configSource: the feature is removed".to_owned());
        }
        if !new.str_at(&["spec", "externalID"]).is_empty() {
            found.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        for cidr in At::object(new).fields(&["spec", "podCIDRs"]).items() {
            spelling::cidr(&cidr, &mut found);
        }
        found
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        taint::validate_taints(&spec.field("taints"), errors);
        validate_pod_cidrs(&spec, errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        let (spec, old_spec) = (new.field("spec"), old.field("spec"));
        let before = old_spec.field("podCIDRs");
        let same_cidrs = crate::tree::same(spec.field("podCIDRs").get(), before.get());
        if !before.is_empty() && !same_cidrs {
            errors.push(machinery::FieldError::forbidden(
                &spec.field("podCIDRs").path(),
                "node updates may not change podCIDR except from \"\" to valid",
            ));
        }
        let (id, old_id) = (spec.field("providerID"), old_spec.field("providerID"));
        if !old_id.text().is_empty() && old_id.text() != id.text() {
            errors.push(id.forbidden("node updates may not change providerID except from \"\" to valid"));
        }
        self.validate(new, errors);
    }

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        let status = new.field("status");
        for (i, address) in status.field("addresses").items().enumerate() {
            let repeated =
                status.field("addresses").items().take(i).any(|before| before.get() == address.get());
            if repeated {
                errors.push(address.duplicate());
            }
        }
        for list in ["capacity", "allocatable"] {
            for (name, quantity) in status.field(list).entries() {
                resource_list::validate_name(&quantity, name, errors);
                resource_list::validate_quantity(&quantity, errors);
            }
        }
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![("spec.unschedulable", object.bool_at(&["spec", "unschedulable"]).unwrap_or(false).to_string())]
    }
}

fn validate_pod_cidrs(spec: &At, errors: &mut FieldErrors) {
    let cidrs = spec.field("podCIDRs");
    for cidr in cidrs.items() {
        checks::text_rule(&cidr, checks::cidr, errors);
    }
    let families: Vec<bool> = cidrs.items().map(|cidr| cidr.text().contains(':')).collect();
    if families.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
        errors.push(cidrs.invalid("may specify no more than one CIDR for each IP family"));
    }
}
