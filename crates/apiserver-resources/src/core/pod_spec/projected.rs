//! Checks of projected volumes.
use std::collections::BTreeSet;

use machinery::{FieldError, FieldErrors, names};

use crate::certificates::signing_request::validate_signer;
use crate::checks;
use crate::core::pod_spec::volume::{
    validate_downward, validate_file_path, validate_key_files, validate_mode,
};
use crate::tree::At;

const PROJECTED: [&str; 6] =
    ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
const MIN_TOKEN_SECONDS: i64 = 10 * 60;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;

/// Checks the sources of a projected volume.
pub(super) fn validate(projected: &At, errors: &mut FieldErrors) {
    validate_mode(&projected.field("defaultMode"), errors);
    let mut paths: BTreeSet<&str> = BTreeSet::new();
    for source in projected.field("sources").items() {
        let mut found = 0;
        for name in PROJECTED {
            let part = source.field(name);
            if !part.exists() {
                continue;
            }
            found += 1;
            if found > 1 {
                errors.push(part.forbidden("may not specify more than 1 volume type"));
                continue;
            }
            match name {
                "secret" | "configMap" => validate_key_files(&part, "name", false, errors),
                "downwardAPI" => validate_downward(&part, false, errors),
                "serviceAccountToken" => validate_token(&part, errors),
                "clusterTrustBundle" => validate_trust_bundle(&part, errors),
                _ => validate_certificate(&part, errors),
            }
            let items = part.tree().and_then(|t| t.get("items")).and_then(|i| i.as_array());
            let own = part.tree().and_then(|t| t.get("path")).and_then(|p| p.as_str());
            let listed = items.into_iter().flatten().filter_map(|item| item.get("path")?.as_str());
            for path in listed.chain(own).filter(|p| !p.is_empty()) {
                if !paths.insert(path) {
                    errors.push(FieldError::invalid(&source.path(), path, "conflicting duplicate paths"));
                }
            }
        }
        if found == 0 {
            errors.push(source.required("must specify a volume type"));
        }
    }
}

fn validate_token(token: &At, errors: &mut FieldErrors) {
    validate_token_seconds(&token.field("expirationSeconds"), errors);
    required_path(&token.field("path"), errors);
}

fn required_path(path: &At, errors: &mut FieldErrors) {
    if path.text().is_empty() {
        errors.push(path.required(""));
    } else {
        validate_file_path(path, errors);
    }
}

/// How long a token lives.
pub(crate) fn validate_token_seconds(seconds: &At, errors: &mut FieldErrors) {
    if seconds.int().is_some_and(|n| n < MIN_TOKEN_SECONDS) {
        errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
    }
    if seconds.int().is_some_and(|n| n > MAX_TOKEN_SECONDS) {
        errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
    }
}

fn validate_trust_bundle(bundle: &At, errors: &mut FieldErrors) {
    let (name, signer, selector) =
        (bundle.field("name"), bundle.field("signerName"), bundle.field("labelSelector"));
    match (name.exists(), signer.exists()) {
        (true, true) => errors.push(bundle.invalid("only one of name and signerName may be used")),
        (false, false) => errors.push(bundle.required("either name or signerName must be specified")),
        (true, false) => {
            if name.text().is_empty() {
                errors.push(name.required("must be a valid object name"));
            } else {
                let own = name.text().rsplit(':').next().unwrap_or_default();
                errors.extend(names::dns1123_subdomain(own).into_iter().map(|p| name.invalid(p)));
            }
            if selector.exists() {
                errors.push(selector.invalid("labelSelector must be unset if name is specified"));
            }
        }
        (false, true) => {
            validate_signer(&signer, errors);
            checks::label_selector(&selector, errors);
        }
    }
    required_path(&bundle.field("path"), errors);
}

const KEY_TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
const MIN_CERTIFICATE_SECONDS: i64 = 3600;
const MAX_CERTIFICATE_SECONDS: i64 = 91 * 86_400;

fn validate_certificate(certificate: &At, errors: &mut FieldErrors) {
    validate_signer(&certificate.field("signerName"), errors);
    checks::one_of(&certificate.field("keyType"), &KEY_TYPES, errors);
    let seconds = certificate.field("maxExpirationSeconds");
    if seconds.int().is_some_and(|n| n < MIN_CERTIFICATE_SECONDS) {
        errors.push(seconds.invalid("if provided, maxExpirationSeconds must be >= 3600"));
    }
    if seconds.int().is_some_and(|n| n > MAX_CERTIFICATE_SECONDS) {
        errors.push(seconds.invalid("if provided, maxExpirationSeconds must be <= 7862400"));
    }
    let paths = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    let mut used = 0;
    for path in paths {
        let path = certificate.field(path);
        if !path.text().is_empty() {
            used += 1;
            validate_file_path(&path, errors);
        }
    }
    if used == 0 {
        errors.push(
            certificate
                .required("specify at least one of credentialBundlePath, keyPath, and certificateChainPath"),
        );
    }
}
