//! certificates.k8s.io kinds that are not stable: no rules of their own, but fields to select by.
use machinery::{FieldErrors, Object};

use crate::strategy::{Generic, Strategy};

/// [`Generic`] rules, with fields to select by.
pub(crate) struct Selectable {
    rules: Generic,
    fields: &'static [(&'static str, [&'static str; 2])],
}

const SIGNER: (&str, [&str; 2]) = ("spec.signerName", ["spec", "signerName"]);

/// Rules of trust bundles.
pub(crate) static CLUSTER_TRUST_BUNDLE: Selectable = Selectable { rules: rules(false), fields: &[SIGNER] };

/// Rules of requests for certificates of pods.
pub(crate) static POD_CERTIFICATE_REQUEST: Selectable = Selectable {
    rules: rules(true),
    fields: &[SIGNER, ("spec.podName", ["spec", "podName"]), ("spec.nodeName", ["spec", "nodeName"])],
};

const fn rules(has_status: bool) -> Generic {
    Generic { has_status, has_generation: false, is_status: false }
}

impl Strategy for Selectable {
    fn fill_defaults(&self, object: &mut Object) {
        self.rules.fill_defaults(object);
    }

    fn admit_create(&self, object: &mut Object) -> FieldErrors {
        self.rules.admit_create(object)
    }

    fn admit_update(&self, new: &mut Object, old: &Object) -> FieldErrors {
        self.rules.admit_update(new, old)
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        self.fields.iter().map(|(name, path)| (*name, object.str_at(path).to_owned())).collect()
    }
}
