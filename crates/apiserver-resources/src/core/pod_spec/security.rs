//! Checks of security contexts.
use machinery::FieldErrors;

use crate::checks;
use crate::core::pod_spec::volume::validate_descending;
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
    checks::one_of_or_empty(&context.field("seLinuxChangePolicy"), &["MountOption", "Recursive"], errors);
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
    const MAX_PROFILE: usize = 4095;
    for (profile, word) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let at = context.field(profile);
        if !at.exists() {
            continue;
        }
        let (ty, local) = (at.field("type"), at.field("localhostProfile"));
        match ty.text() {
            "" => errors.push(ty.required(format!("type is required when {profile} is set"))),
            "Localhost" | "RuntimeDefault" | "Unconfined" => {}
            _ => checks::one_of(&ty, &["Localhost", "RuntimeDefault", "Unconfined"], errors),
        }
        if ty.text() != "Localhost" {
            if local.exists() {
                errors.push(local.invalid(format!("can only be set when {word} type is Localhost")));
            }
            continue;
        }
        let missing = format!("must be set when {word} type is Localhost");
        if !local.exists() {
            errors.push(local.required(missing));
        } else if word == "seccomp" {
            validate_descending(&local, errors);
        } else if local.text().trim() != local.text() {
            errors.push(local.invalid("must not be padded with whitespace"));
        } else if local.text().is_empty() {
            errors.push(local.required(missing));
        } else if local.text().len() > MAX_PROFILE {
            errors.push(local.too_long(MAX_PROFILE));
        }
    }
    validate_windows_options(&context.field("windowsOptions"), errors);
}

fn validate_windows_options(options: &At, errors: &mut FieldErrors) {
    const MAX_CREDENTIAL: usize = 64 * 1024;
    let (name, credential, user) = (
        options.field("gmsaCredentialSpecName"),
        options.field("gmsaCredentialSpec"),
        options.field("runAsUserName"),
    );
    if name.exists() {
        checks::text_rule(&name, machinery::names::dns1123_subdomain, errors);
    }
    if credential.exists() {
        if credential.text().is_empty() {
            errors.push(credential.invalid("gmsaCredentialSpec cannot be an empty string"));
        } else if credential.text().len() > MAX_CREDENTIAL {
            errors.push(credential.invalid("gmsaCredentialSpec size must be under 64 KiB"));
        }
    }
    if user.exists() {
        if user.text().is_empty() {
            errors.push(user.invalid("runAsUserName cannot be an empty string"));
        } else if user.text().chars().any(char::is_control) {
            errors.push(user.invalid("runAsUserName cannot contain control characters"));
        } else if user.text().matches('\\').count() > 1 {
            errors.push(user.invalid("runAsUserName cannot contain more than one backslash"));
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
    let privileged = context.field("privileged");
    if privileged.is_true() && !crate::capabilities::privileged_is_allowed() {
        errors.push(privileged.forbidden("disallowed by cluster policy"));
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
