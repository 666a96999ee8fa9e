//! storage.k8s.io/v1 VolumeAttachment: rules on the way in.
use machinery::{FieldErrors, Object, names};
use serde_json::{Value, json};

use crate::checks;
use crate::core::persistent_volume;
use crate::rules::{Facts, Rules};
use crate::tree::At;

/// Rules of attachments.
pub(crate) struct VolumeAttachment;

const MAX_METADATA: usize = 256 * 1024;
const MAX_MESSAGE: usize = 1024;

impl Rules for VolumeAttachment {
    const FACTS: Facts = Facts::STATUS;

    fn status_at_birth(&self, _object: &Object) -> Option<Value> {
        Some(json!({"attached": false}))
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        let (attacher, source) = (spec.field("attacher"), spec.field("source"));
        let (volume, inline) = (source.field("persistentVolumeName"), source.field("inlineVolumeSpec"));
        let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
        match (volume.exists(), inline.exists()) {
            (false, false) => errors.push(source.required(one)),
            (true, true) => errors.push(source.forbidden(one)),
            (true, false) if volume.text().is_empty() => {
                errors.push(volume.required("must specify non empty persistentVolumeName"));
            }
            (true, false) => {}
            (false, true) => persistent_volume::validate_inline(&inline, errors),
        }
        checks::text_rule(&spec.field("nodeName"), names::dns1123_subdomain, errors);
        validate_status(object, errors);
        checks::csi_driver_name(&attacher, errors);
        checks::optional_text(&volume, names::dns1123_subdomain, errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        checks::immutable(&new.field("spec"), &old.field("spec"), errors);
    }

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        validate_status(new, errors);
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

fn validate_status(object: &At, errors: &mut FieldErrors) {
    let status = object.field("status");
    let metadata = status.field("attachmentMetadata");
    if metadata.entries().map(|(k, v)| k.len() + v.text().len()).sum::<usize>() > MAX_METADATA {
        errors.push(metadata.too_long(MAX_METADATA));
    }
    for problem in ["attachError", "detachError"] {
        let (message, code) =
            (status.field(problem).field("message"), status.field(problem).field("errorCode"));
        if message.text().len() > MAX_MESSAGE {
            errors.push(message.too_long(MAX_METADATA));
        }
        if code.number() < 0 {
            errors.push(code.invalid(format!("must be between 0 and {}, inclusive", i32::MAX)));
        }
    }
}
