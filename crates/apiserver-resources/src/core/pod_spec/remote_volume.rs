//! Checks of volumes that come over the network or from a cloud, of pods and of persistent volumes.
use machinery::FieldErrors;

use crate::checks;
use crate::tree::At;

/// What each of them has to have.
const REQUIRED: [(&str, &[&str]); 15] = [
    ("awsElasticBlockStore", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("azureFile", &["secretName", "shareName"]),
    ("cephfs", &["monitors"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("gcePersistentDisk", &["pdName"]),
    ("glusterfs", &["endpoints", "path"]),
    ("iscsi", &["targetPortal"]),
    ("nfs", &["server", "path"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("rbd", &["monitors", "image"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("vsphereVolume", &["volumePath"]),
];

const LAST_UNIT: i64 = 255;

/// Checks a source; `name` is its field.
pub(crate) fn validate(name: &str, source: &At, errors: &mut FieldErrors) {
    if let Some((_, fields)) = REQUIRED.iter().find(|(known, _)| *known == name) {
        for field in *fields {
            checks::required(&source.field(field), errors);
        }
    }
    match name {
        "awsElasticBlockStore" | "gcePersistentDisk" => unit(&source.field("partition"), errors),
        "azureDisk" => {
            let (caching, kind) = (source.field("cachingMode"), source.field("kind"));
            checks::one_of_or_empty(&caching, &["None", "ReadOnly", "ReadWrite"], errors);
            checks::one_of_or_empty(&kind, &["Dedicated", "Managed", "Shared"], errors);
        }
        "cinder" => secret(&source.field("secretRef"), errors),
        "fc" => validate_fibre_channel(source, errors),
        "flocker" => match (source.field("datasetName").is_empty(), source.field("datasetUUID").is_empty()) {
            (true, true) => {
                errors.push(source.required("one of datasetName and datasetUUID is required"));
            }
            (false, false) => errors.push(
                source.invalid_as("resource", "can not specify datasetName and datasetUUID simultaneously"),
            ),
            _ => {}
        },
        "iscsi" => validate_iscsi(source, errors),
        "nfs" => {
            let path = source.field("path");
            if !path.text().starts_with('/') {
                errors.push(path.invalid("must be an absolute path"));
            }
        }
        "quobyte" => validate_quobyte(source, errors),
        "storageos" => {
            checks::optional_text(&source.field("volumeName"), machinery::names::dns1123_label, errors);
        }
        _ => {}
    }
}

/// A number of a partition or a unit.
fn unit(at: &At, errors: &mut FieldErrors) {
    if !(0..=LAST_UNIT).contains(&at.number()) {
        errors.push(at.invalid(format!("must be between 0 and {LAST_UNIT}, inclusive")));
    }
}

fn secret(reference: &At, errors: &mut FieldErrors) {
    if reference.exists() {
        checks::required(&reference.field("name"), errors);
    }
}

fn validate_fibre_channel(source: &At, errors: &mut FieldErrors) {
    let (targets, ids, lun) = (source.field("targetWWNs"), source.field("wwids"), source.field("lun"));
    match (targets.is_empty(), ids.is_empty()) {
        (true, true) => errors.push(targets.required("must specify either targetWWNs or wwids")),
        (false, false) => {
            errors.push(targets.invalid("targetWWNs and wwids can not be specified simultaneously"));
        }
        _ => {}
    }
    if !targets.is_empty() {
        if lun.exists() {
            unit(&lun, errors);
        } else {
            errors.push(lun.required("lun is required if targetWWNs is specified"));
        }
    }
}

fn validate_iscsi(source: &At, errors: &mut FieldErrors) {
    let iqn = source.field("iqn");
    if iqn.text().is_empty() {
        errors.push(iqn.required(""));
    } else if !["iqn", "eui", "naa"].iter().any(|start| iqn.text().starts_with(start)) {
        errors.push(iqn.invalid("must be valid format starting with iqn, eui, or naa"));
    } else if !is_target(iqn.text()) {
        errors.push(iqn.invalid("must be valid format"));
    }
    unit(&source.field("lun"), errors);
    let chap = source.field("chapAuthDiscovery").is_true() || source.field("chapAuthSession").is_true();
    let reference = source.field("secretRef");
    if chap && !reference.exists() {
        errors.push(reference.required(""));
    }
    secret(&reference, errors);
}

/// Whether this is the name of a target, in one of the three forms.
fn is_target(name: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(rest) = name.strip_prefix("iqn.") {
        let (date, own) = rest.split_once('.').unwrap_or((rest, ""));
        let month = date.split_once('-').is_some_and(|(year, month)| {
            year.len() == 4
                && month.len() == 2
                && year.bytes().chain(month.bytes()).all(|b| b.is_ascii_digit())
        });
        let host = own.split(':').next().unwrap_or_default();
        return month && !host.is_empty() && !name.contains(char::is_whitespace);
    }
    if let Some(id) = name.strip_prefix("eui.") {
        return id.len() == 16 && hex(id);
    }
    name.strip_prefix("naa.").is_some_and(|id| matches!(id.len(), 16 | 32) && hex(id))
}

fn validate_quobyte(source: &At, errors: &mut FieldErrors) {
    let (registry, volume) = (source.field("registry"), source.field("volume"));
    if registry.text().is_empty() {
        errors.push(registry.required("must be a host:port pair or multiple pairs separated by commas"));
    } else if !registry.text().split(',').all(|pair| pair.contains(':')) {
        errors.push(registry.invalid("must be a host:port pair or multiple pairs separated by commas"));
    }
    checks::required(&volume, errors);
}
