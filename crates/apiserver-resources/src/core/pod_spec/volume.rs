//! Checks of the volumes of a pod.
use std::collections::BTreeSet;

use machinery::{FieldErrors, names};

use crate::checks;
use crate::core::persistent_volume_claim::validate_claim_spec;
use crate::core::pod_spec::defaults::VOLUME_SOURCES;
use crate::core::pod_spec::{env, projected, remote_volume};
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
            "emptyDir" => {
                let size = source.field("sizeLimit");
                if resource_list::quantity(&size).is_some_and(|q| q.is_negative()) {
                    errors.push(size.forbidden("SizeLimit field must be a valid resource quantity"));
                }
            }
            "secret" => validate_key_files(&source, "secretName", true, errors),
            "configMap" => validate_key_files(&source, "name", true, errors),
            "downwardAPI" => validate_downward(&source, true, errors),
            "projected" => projected::validate(&source, errors),
            "persistentVolumeClaim" => checks::required(&source.field("claimName"), errors),
            "csi" => {
                checks::csi_driver_name(&source.field("driver"), errors);
                let secret = source.field("nodePublishSecretRef");
                if secret.exists() {
                    checks::required(&secret.field("name"), errors);
                }
            }
            "ephemeral" => {
                let template = source.field("volumeClaimTemplate");
                if template.exists() {
                    let metadata = template.field("metadata");
                    checks::labels(&metadata.field("labels"), errors);
                    checks::annotations(&metadata.field("annotations"), errors);
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
            "gitRepo" => {
                checks::required(&source.field("repository"), errors);
                validate_descending(&source.field("directory"), errors);
            }
            _ => remote_volume::validate(name, &source, errors),
        }
    }
    if found == 0 {
        errors.push(volume.required("must specify a volume type"));
    }
}

/// Checks a path on the node.
pub(crate) fn validate_host_path(source: &At, errors: &mut FieldErrors) {
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
pub(super) fn validate_mode(at: &At, errors: &mut FieldErrors) {
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
pub(super) fn validate_file_path(at: &At, errors: &mut FieldErrors) {
    validate_descending(at, errors);
    if at.text().starts_with("..") && !at.text().split('/').any(|step| step == "..") {
        errors.push(at.invalid("must not start with '..'"));
    }
}

/// Checks the files of a secret or a config map.
pub(super) fn validate_key_files(
    source: &At,
    name: &'static str,
    whole_volume: bool,
    errors: &mut FieldErrors,
) {
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

/// Checks the files of the downward API.
pub(super) fn validate_downward(source: &At, whole_volume: bool, errors: &mut FieldErrors) {
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
