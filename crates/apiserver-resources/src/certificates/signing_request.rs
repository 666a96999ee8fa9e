//! certificates.k8s.io/v1 CertificateSigningRequest: rules on the way in. Who asks is the store's to write.
use base64::Engine as _;
use jiff::{Timestamp, Unit};
use machinery::{FieldError, FieldErrors, Object, names};
use serde_json::Value;

use crate::checks;
use crate::rules::{Facts, Rules, keep_all_but};
use crate::strategy::Strategy;
use crate::tree::{At, child, default_value, each, same};

/// Rules of requests.
pub(crate) struct SigningRequest;

const DECISIONS: [&str; 2] = ["Approved", "Denied"];
const MIN_SECONDS: i64 = 600;
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

impl Rules for SigningRequest {
    const FACTS: Facts = Facts::STATUS;

    /// A condition that says nothing of when has just come.
    fn fill_defaults(&self, object: &mut Object) {
        let now = Timestamp::now().round(Unit::Second).unwrap_or_default().to_string();
        let Some(status) = child(&mut object.0, "status") else { return };
        for condition in each(status, "conditions") {
            for time in ["lastUpdateTime", "lastTransitionTime"] {
                default_value(condition, time, now.as_str());
            }
        }
    }

    /// What is asked for stays; only metadata may change.
    fn prepare_for_update(&self, new: &mut Object, old: &Object) {
        new.copy_from(old, &["spec"]);
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        let (request, usages) = (spec.field("request"), spec.field("usages"));
        let bytes = base64::engine::general_purpose::STANDARD.decode(request.text()).unwrap_or_default();
        match pki::CertificateRequest::from_pem(&String::from_utf8_lossy(&bytes)) {
            Ok(_) => {}
            Err(pki::Error::NotPem { .. }) => {
                errors.push(request.invalid("PEM block type must be CERTIFICATE REQUEST"));
            }
            Err(error) => errors.push(request.invalid(error.to_string())),
        }
        if usages.is_empty() {
            errors.push(usages.required("usages must be provided"));
        }
        for (i, usage) in usages.items().enumerate() {
            if !USAGES.contains(&usage.text()) {
                checks::one_of(&usage, USAGES, errors);
            } else if usages.items().take(i).any(|u| u.text() == usage.text()) {
                errors.push(usage.duplicate());
            }
        }
        let signer = spec.field("signerName");
        if signer.text() == "kubernetes.io/legacy-unknown" {
            errors.push(signer.invalid("the legacy signerName is not allowed via this API version"));
        } else {
            validate_signer(&signer, errors);
        }
        let seconds = spec.field("expirationSeconds");
        if seconds.int().is_some_and(|n| n < MIN_SECONDS) {
            errors.push(seconds.invalid("may not specify a duration less than 600 seconds (10 minutes)"));
        }
    }

    fn validate_update(&self, _new: &At, _old: &At, _errors: &mut FieldErrors) {}

    /// A decision is only made by way of the `approval` subresource.
    fn prepare_for_status(&self, new: &mut Object, old: &Object) {
        let is_decision =
            |c: &Value| c.get("type").and_then(Value::as_str).is_some_and(|t| DECISIONS.contains(&t));
        let of = |o: &Object| o.list_at(&["status", "conditions"]).to_vec();
        let mut all: Vec<Value> = of(old).into_iter().filter(is_decision).collect();
        all.extend(of(new).into_iter().filter(|c| !is_decision(c)));
        if all.is_empty() {
            new.remove(&["status", "conditions"]);
        } else {
            new.set(&["status", "conditions"], all);
        }
    }

    fn validate_status(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        let (certificate, before) =
            (new.fields(&["status", "certificate"]), old.fields(&["status", "certificate"]));
        if !before.is_empty() && !same(certificate.get(), before.get()) {
            errors.push(certificate.forbidden("updates may not modify existing certificate content"));
        }
        if before.is_empty() && !certificate.is_empty() {
            let bytes =
                base64::engine::general_purpose::STANDARD.decode(certificate.text()).unwrap_or_default();
            if let Err(why) = pki::check_certificates(&String::from_utf8_lossy(&bytes)) {
                errors.push(FieldError::invalid(&certificate.path(), "<certificate data>", &why));
            }
        }
        validate_conditions(new, errors);
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", object.str_at(&["spec", "signerName"]).to_owned())]
    }
}

/// A signer's name: a domain of at least two labels, and a path.
pub(crate) fn validate_signer(signer: &At, errors: &mut FieldErrors) {
    let text = signer.text();
    if text.is_empty() {
        errors.push(signer.required(""));
        return;
    }
    let Some((domain, path)) = text.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        errors.push(
            signer.invalid("must be a fully qualified domain and path of the form 'example.com/signer-name'"),
        );
        return;
    };
    if domain.len() > names::MAX_SUBDOMAIN {
        errors.push(signer.too_long(names::MAX_SUBDOMAIN));
    }
    for label in domain.split('.') {
        for problem in names::dns1123_label(label) {
            errors.push(signer.invalid_as(domain, format!("validating label {label:?}: {problem}")));
        }
    }
    if !domain.contains('.') {
        errors.push(
            signer.invalid_as(domain, "should be a domain with at least two segments separated by dots"),
        );
    }
    for label in path.split('.') {
        for problem in names::dns1123_subdomain(label) {
            errors.push(signer.invalid_as(path, format!("validating label {label:?}: {problem}")));
        }
    }
}

fn validate_conditions(object: &At, errors: &mut FieldErrors) {
    let conditions = object.fields(&["status", "conditions"]);
    let mut seen: Vec<&str> = Vec::new();
    for condition in conditions.items() {
        let (ty, status) = (condition.field("type"), condition.field("status"));
        checks::required(&ty, errors);
        if status.text().is_empty() {
            errors.push(status.required(""));
        } else if DECISIONS.contains(&ty.text()) || ty.text() == "Failed" {
            checks::one_of(&status, &["True"], errors);
        } else {
            checks::one_of(&status, &["True", "False", "Unknown"], errors);
        }
        if seen.contains(&ty.text()) {
            errors.push(ty.duplicate());
        }
        if DECISIONS.iter().all(|d| *d == ty.text() || seen.contains(d)) && DECISIONS.contains(&ty.text()) {
            errors.push(FieldError::invalid(
                &ty.path(),
                ty.text(),
                "Approved and Denied conditions are mutually exclusive",
            ));
        }
        seen.push(ty.text());
    }
}

/// Rules of the `approval` subresource: conditions, and nothing else.
pub(crate) struct Approval;

impl Strategy for Approval {
    fn fill_defaults(&self, object: &mut Object) {
        SigningRequest.fill_defaults(object);
    }

    fn admit_create(&self, _object: &mut Object) -> FieldErrors {
        FieldErrors::new()
    }

    fn admit_update(&self, new: &mut Object, old: &Object) -> FieldErrors {
        let conditions = new.at(&["status", "conditions"]).cloned();
        keep_all_but("status", new, old);
        new.copy_from(old, &["status"]);
        match conditions {
            Some(conditions) => new.set(&["status", "conditions"], conditions),
            None => {
                new.remove(&["status", "conditions"]);
            }
        }
        let mut errors = FieldErrors::new();
        let (at, before) = (At::object(new), At::object(old));
        validate_conditions(&at, &mut errors);
        let list = at.fields(&["status", "conditions"]);
        for was in before.fields(&["status", "conditions"]).items() {
            let ty = was.field("type").text();
            let kept = list.items().any(|c| c.field("type").text() == ty);
            if !kept && (DECISIONS.contains(&ty) || ty == "Failed") {
                errors.push(list.forbidden(format!("updates may not remove a condition of type {ty:?}")));
            }
        }
        errors
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        SigningRequest.selectable_fields(object)
    }
}
