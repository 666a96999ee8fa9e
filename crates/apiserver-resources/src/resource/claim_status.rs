//! Checks of the status of a claim: what was allocated, for whom, and how it is.
use machinery::{FieldErrors, names};
use serde_json::Value;

use crate::checks;
use crate::core::pod_spec::validate_node_selector;
use crate::resource::claim::Requests;
use crate::resource::parts::{self, MAX_ITEMS};
use crate::tree::{At, same};

const MAX_USERS: usize = 256;
const MAX_CONDITIONS: usize = 8;
const MAX_DATA: usize = 10 * 1024;
const MAX_IPS: usize = 16;

/// Checks a write of the status.
pub(crate) fn validate(new: &At, old: &At, errors: &mut FieldErrors) {
    let (status, before) = (new.field("status"), old.field("status"));
    let users = status.field("reservedFor");
    parts::set(
        &users,
        MAX_USERS,
        errors,
        |user, errors| {
            for field in ["resource", "name", "uid"] {
                checks::required(&user.field(field), errors);
            }
        },
        |user| user.field("uid").text().into(),
    );
    let (allocation, allocated) = (status.field("allocation"), before.field("allocation"));
    let devices: Vec<Value> = allocation.fields(&["devices", "results"]).items().map(|r| key(&r)).collect();
    parts::set(
        &status.field("devices"),
        usize::MAX,
        errors,
        |device, errors| validate_device(device, &devices, errors),
        key,
    );
    if !users.is_empty() {
        if !allocation.exists() {
            errors.push(users.forbidden("may not be specified when `allocated` is not set"));
        } else if new.fields(&["metadata", "deletionTimestamp"]).exists() {
            let known = before.field("reservedFor");
            if users.items().any(|user| !known.items().any(|k| same(k.get(), user.get()))) {
                errors.push(users.forbidden("new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"));
            }
        }
    }
    match (allocation.exists(), allocated.exists()) {
        (true, true) => checks::immutable(&allocation, &allocated, errors),
        (true, false) => {
            validate_allocation(&allocation, &Requests::of(&new.fields(&["spec", "devices"])), errors)
        }
        _ => {}
    }
}

/// What tells devices apart.
fn key(device: &At) -> Value {
    let part = |field| device.field(field).text();
    let name = format!("{}/{}/{}", part("driver"), part("pool"), part("device"));
    match part("shareID") {
        "" => name.into(),
        share => format!("{name}/{share}").into(),
    }
}

fn validate_place(device: &At, errors: &mut FieldErrors) {
    checks::csi_driver_name(&device.field("driver"), errors);
    parts::pool_name(&device.field("pool"), errors);
    checks::text_rule(&device.field("device"), names::dns1123_label, errors);
    let share = device.field("shareID");
    if share.exists() {
        parts::uid(&share, errors);
    }
}

fn validate_device(device: &At, allocated: &[Value], errors: &mut FieldErrors) {
    validate_place(device, errors);
    if !allocated.contains(&key(device)) {
        errors.push(device.invalid_as(key(device), "must be an allocated device in the claim"));
    }
    let conditions = device.field("conditions");
    if conditions.len() > MAX_CONDITIONS {
        errors.push(conditions.too_many(MAX_CONDITIONS));
    }
    checks::conditions(&conditions, errors);
    if device.field("data").exists() {
        parts::raw_object(&device.field("data"), false, MAX_DATA, errors);
    }
    let network = device.field("networkData");
    for (field, max) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if network.field(field).text().len() > max {
            errors.push(network.field(field).too_long(max));
        }
    }
    let interface = |ip: &At, errors: &mut FieldErrors| {
        let net = ip.text().parse::<ipnet::IpNet>();
        if !net.is_ok_and(|net| net.to_string() == ip.text()) {
            errors.push(
                ip.invalid("must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)"),
            );
        }
    };
    parts::set(&network.field("ips"), MAX_IPS, errors, interface, parts::by_text);
}

fn validate_allocation(allocation: &At, requests: &Requests, errors: &mut FieldErrors) {
    let devices = allocation.field("devices");
    parts::list(&devices.field("results"), MAX_ITEMS, errors, |result, errors| {
        requests.check(&result.field("request"), errors);
        validate_place(result, errors);
        parts::binding_conditions(result, errors);
        parts::tolerations(&result.field("tolerations"), errors);
    });
    // Those of the class and those of the claim.
    parts::list(&devices.field("config"), 2 * MAX_ITEMS, errors, |config, errors| {
        checks::required_one_of(&config.field("source"), &["FromClaim", "FromClass"], errors);
        requests.check_all(&config.field("requests"), errors);
        parts::configuration(config, false, errors);
    });
    if allocation.field("nodeSelector").exists() {
        validate_node_selector(&allocation.field("nodeSelector"), errors);
    }
}
