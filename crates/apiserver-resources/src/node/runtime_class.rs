//! node.k8s.io/v1 RuntimeClass: rules on the way in.
use machinery::{FieldErrors, Object, names};

use crate::checks;
use crate::core::pod_spec::warnings::old_label;
use crate::core::{resource_list, taint};
use crate::rules::{Facts, Rules};
use crate::tree::{At, child};

/// Rules of runtime classes.
pub(crate) struct RuntimeClass;

impl Rules for RuntimeClass {
    const FACTS: Facts = Facts::PLAIN;

    fn fill_defaults(&self, object: &mut Object) {
        if let Some(overhead) = child(&mut object.0, "overhead") {
            resource_list::fill(overhead, "podFixed");
        }
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let selector = At::object(new).fields(&["scheduling", "nodeSelector"]);
        let old = selector.entries().filter_map(|(label, _)| old_label(label));
        old.map(|text| format!("scheduling.nodeSelector: {text}")).collect()
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        checks::text_rule(&object.field("handler"), names::dns1123_label, errors);
        for (_, quantity) in object.fields(&["overhead", "podFixed"]).entries() {
            resource_list::validate_quantity(&quantity, errors);
        }
        let scheduling = object.field("scheduling");
        checks::labels(&scheduling.field("nodeSelector"), errors);
        taint::validate_tolerations(&scheduling.field("tolerations"), errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        checks::immutable(&new.field("handler"), &old.field("handler"), errors);
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}
