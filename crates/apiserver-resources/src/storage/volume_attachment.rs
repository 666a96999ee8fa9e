//! storage.k8s.io/v1 VolumeAttachment: rules on the way in.
use machinery::FieldErrors;

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::At;

/// Rules of attachments.
pub(crate) struct VolumeAttachment;

impl Rules for VolumeAttachment {
    const FACTS: Facts = Facts::STATUS;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        for field in ["attacher", "nodeName"] {
            checks::required(&spec.field(field), errors);
        }
        let source = spec.field("source");
        let named = source.field("persistentVolumeName").exists();
        match (named, source.field("inlineVolumeSpec").exists()) {
            (false, false) => {
                errors.push(
                    source.required("must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
                );
            }
            (true, true) => {
                errors.push(
                    source.invalid("must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
                );
            }
            _ => {}
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        checks::immutable(&new.field("spec"), &old.field("spec"), errors);
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}
