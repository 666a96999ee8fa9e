//! Checks of the volumes of a pod.
use std::collections::BTreeSet;

use machinery::{FieldError, FieldErrors, names};

use crate::checks;
use crate::core::persistent_volume_claim::validate_claim_spec;
use crate::core::pod_spec::defaults::VOLUME_SOURCES;
use crate::core::pod_spec::env;
use crate::core::resource_list;
use crate::tree::At;

/// Checks all volumes.
pub(crate) fn validate_volumes(volumes: &At, errors: &mut FieldErrors) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for volume in volumes.items() {
        let name = volume.field("name");
        if name.text().is_empty() {
            errors.push(name.required(""));
        } else {
            checks::text_rule(&name, names::dns1123_label, errors);
        }
        if !seen.insert(name.text()) {
            errors.push(name.duplicate());
        }
        validate_source(&volume, errors);
    }
}

fn validate_source(volume: &At, errors: &mut FieldErrors) {
    let mut found = 0;
    for name in VOLUME_SOURCES {
        let source = volume.field(name);
        if !source.exists() {
            continue;
        }
        found += 1;
        if found > 1 {
            errors.push(source.forbidden("may not specify more than 1 volume type"));
            continue;
        }
        match name {
            "hostPath" => validate_host_path(&source, errors),
            "emptyDir" if source.field("sizeLimit").exists() => {
                resource_list::validate_quantity(&source.field("sizeLimit"), errors);
            }
            "secret" => validate_key_files(&source, "secretName", true, errors),
            "configMap" => validate_key_files(&source, "name", true, errors),
            "downwardAPI" => validate_downward(&source, true, errors),
            "projected" => validate_projected(&source, errors),
            "persistentVolumeClaim" => checks::required(&source.field("claimName"), errors),
            "nfs" => {
                checks::required(&source.field("server"), errors);
                let path = source.field("path");
                checks::required(&path, errors);
                if !path.text().starts_with('/') {
                    errors.push(path.invalid("must be an absolute path"));
                }
            }
            "csi" => checks::required(&source.field("driver"), errors),
            "ephemeral" => {
                let template = source.field("volumeClaimTemplate");
                if template.exists() {
                    validate_claim_spec(&template.field("spec"), errors);
                } else {
                    errors.push(template.required(""));
                }
            }
            "image" => checks::one_of_or_empty(
                &source.field("pullPolicy"),
                &["Always", "IfNotPresent", "Never"],
                errors,
            ),
            "iscsi" => {
                for field in ["targetPortal", "iqn"] {
                    checks::required(&source.field(field), errors);
                }
            }
            _ => {}
        }
    }
    if found == 0 {
        errors.push(volume.required("must specify a volume type"));
    }
}

fn validate_host_path(source: &At, errors: &mut FieldErrors) {
    let path = source.field("path");
    if path.text().is_empty() {
        errors.push(path.required(""));
        return;
    }
    if path.text().split('/').any(|step| step == "..") {
        errors.push(path.invalid("must not contain '..'"));
    }
    checks::one_of_or_empty(
        &source.field("type"),
        &["BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"],
        errors,
    );
}

/// Mode bits of a file.
fn validate_mode(at: &At, errors: &mut FieldErrors) {
    if at.int().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        errors.push(at.invalid("must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

/// A path that stays where it starts.
pub(crate) fn validate_descending(at: &At, errors: &mut FieldErrors) {
    if at.text().starts_with('/') {
        errors.push(at.invalid("must be a relative path"));
    }
    if at.text().split('/').any(|step| step == "..") {
        errors.push(at.invalid("must not contain '..'"));
    }
}

/// A path for a file that the kubelet writes, which keeps `..` names for itself.
fn validate_file_path(at: &At, errors: &mut FieldErrors) {
    validate_descending(at, errors);
    if at.text().starts_with("..") && !at.text().split('/').any(|step| step == "..") {
        errors.push(at.invalid("must not start with '..'"));
    }
}

fn validate_key_files(source: &At, name: &'static str, whole_volume: bool, errors: &mut FieldErrors) {
    checks::required(&source.field(name), errors);
    if whole_volume {
        validate_mode(&source.field("defaultMode"), errors);
    }
    for item in source.field("items").items() {
        let (key, path) = (item.field("key"), item.field("path"));
        checks::required(&key, errors);
        checks::required(&path, errors);
        validate_file_path(&path, errors);
        validate_mode(&item.field("mode"), errors);
    }
}

fn validate_downward(source: &At, whole_volume: bool, errors: &mut FieldErrors) {
    if whole_volume {
        validate_mode(&source.field("defaultMode"), errors);
    }
    for item in source.field("items").items() {
        checks::required(&item.field("path"), errors);
        validate_file_path(&item.field("path"), errors);
        env::validate_downward_file(&item, errors);
        validate_mode(&item.field("mode"), errors);
    }
}

const PROJECTED: [&str; 6] =
    ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
const MIN_TOKEN_SECONDS: i64 = 10 * 60;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;

fn validate_projected(projected: &At, errors: &mut FieldErrors) {
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
                _ => {}
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
    let (seconds, path) = (token.field("expirationSeconds"), token.field("path"));
    if seconds.int().is_some_and(|n| n < MIN_TOKEN_SECONDS) {
        errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
    }
    if seconds.int().is_some_and(|n| n > MAX_TOKEN_SECONDS) {
        errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
    }
    if path.text().is_empty() {
        errors.push(path.required(""));
    } else {
        validate_file_path(&path, errors);
    }
}
