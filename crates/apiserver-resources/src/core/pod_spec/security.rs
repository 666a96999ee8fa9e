//! Checks of security contexts.
use machinery::{FieldError, FieldErrors};

use crate::checks;
use crate::tree::At;

/// Largest user and group id.
const MAX_ID: i64 = i32::MAX as i64;

fn validate_id(at: &At, errors: &mut FieldErrors) {
    if at.int().is_some_and(|id| !(0..=MAX_ID).contains(&id)) {
        errors.push(at.invalid(format!("must be between 0 and {MAX_ID}, inclusive")));
    }
}

/// Checks the security context of a pod.
pub(crate) fn validate_pod(spec: &At, errors: &mut FieldErrors) {
    let context = spec.field("securityContext");
    for id in ["fsGroup", "runAsUser", "runAsGroup"] {
        validate_id(&context.field(id), errors);
    }
    for group in context.field("supplementalGroups").items() {
        validate_id(&group, errors);
    }
    let share = spec.field("shareProcessNamespace");
    if share.is_true() && spec.field("hostPID").is_true() {
        errors.push(share.invalid("ShareProcessNamespace and HostPID cannot both be enabled"));
    }
    let mut seen: Vec<&str> = Vec::new();
    for sysctl in context.field("sysctls").items() {
        let name = sysctl.field("name");
        if name.text().is_empty() {
            errors.push(name.required(""));
        } else if !is_sysctl(name.text()) {
            errors.push(name.invalid(
                "must have at most 253 characters and match regex ^([a-z0-9][-_a-z0-9]*[./])*[a-z0-9][-_a-z0-9]*$",
            ));
        } else if seen.contains(&name.text()) {
            errors.push(name.duplicate());
        }
        seen.push(name.text());
    }
    checks::one_of_or_empty(&context.field("fsGroupChangePolicy"), &["Always", "OnRootMismatch"], errors);
    checks::one_of_or_empty(&context.field("supplementalGroupsPolicy"), &["Merge", "Strict"], errors);
    validate_profiles(&context, errors);
}

fn is_sysctl(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            part.bytes().next().is_some_and(ok) && part.bytes().all(|b| ok(b) || matches!(b, b'-' | b'_'))
        })
}

fn validate_profiles(context: &At, errors: &mut FieldErrors) {
    for profile in ["seccompProfile", "appArmorProfile"] {
        let profile = context.field(profile);
        if !profile.exists() {
            continue;
        }
        let (ty, local) = (profile.field("type"), profile.field("localhostProfile"));
        match ty.text() {
            "" => errors.push(ty.required("")),
            "Localhost" if !local.exists() => {
                errors.push(local.required("must be set when type is Localhost"));
            }
            "Localhost" => {}
            "RuntimeDefault" | "Unconfined" if local.exists() => errors.push(FieldError::invalid(
                &local.path(),
                local.text(),
                "can only be set when type is Localhost",
            )),
            _ => checks::one_of(&ty, &["Localhost", "RuntimeDefault", "Unconfined"], errors),
        }
    }
}

/// Checks the security context of a container.
pub(crate) fn validate_container(context: &At, errors: &mut FieldErrors) {
    if !context.exists() {
        return;
    }
    validate_id(&context.field("runAsUser"), errors);
    validate_id(&context.field("runAsGroup"), errors);
    if let Some(mount) = Some(context.field("procMount")).filter(At::exists) {
        checks::one_of(&mount, &["Default", "Unmasked"], errors);
    }
    if context.field("allowPrivilegeEscalation").bool() == Some(false) {
        if context.field("privileged").is_true() {
            errors.push(
                context.invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"),
            );
        }
        let adds = context.fields(&["capabilities", "add"]);
        if adds.items().any(|c| c.text() == "CAP_SYS_ADMIN") {
            errors.push(context.invalid(
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            ));
        }
    }
    validate_profiles(context, errors);
}
