//! What a pod of one operating system may not have.
use machinery::FieldErrors;

use crate::checks;
use crate::tree::At;

const ALL_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// Checks the operating system, and what goes with it.
pub(crate) fn validate(spec: &At, errors: &mut FieldErrors) {
    let os = spec.field("os");
    if !os.exists() {
        return;
    }
    let name = os.field("name");
    match name.text() {
        "" => errors.push(name.required("cannot be empty")),
        "linux" => {
            let problem = "windows options cannot be set for a linux pod";
            forbid(&spec.field("securityContext"), &["windowsOptions"], problem, errors);
            for list in ALL_LISTS {
                for container in spec.field(list).items() {
                    forbid(&container.field("securityContext"), &["windowsOptions"], problem, errors);
                }
            }
        }
        "windows" => validate_windows(spec, errors),
        _ => checks::one_of(&name, &["linux", "windows"], errors),
    }
}

fn forbid(parent: &At, fields: &[&'static str], problem: &str, errors: &mut FieldErrors) {
    for field in fields {
        let at = parent.field(field);
        if at.exists() && at.bool() != Some(false) {
            errors.push(at.forbidden(problem));
        }
    }
}

fn validate_windows(spec: &At, errors: &mut FieldErrors) {
    let problem = "cannot be set for a windows pod";
    if spec.field("hostUsers").exists() {
        errors.push(spec.field("hostUsers").forbidden(problem));
    }
    forbid(spec, &["hostPID", "hostIPC", "shareProcessNamespace"], problem, errors);
    forbid(
        &spec.field("securityContext"),
        &[
            "appArmorProfile",
            "seLinuxOptions",
            "seccompProfile",
            "fsGroup",
            "fsGroupChangePolicy",
            "sysctls",
            "runAsUser",
            "runAsGroup",
            "supplementalGroups",
            "supplementalGroupsPolicy",
        ],
        problem,
        errors,
    );
    for list in ALL_LISTS {
        for container in spec.field(list).items() {
            let context = container.field("securityContext");
            for field in [
                "appArmorProfile",
                "seLinuxOptions",
                "seccompProfile",
                "capabilities",
                "readOnlyRootFilesystem",
                "privileged",
                "allowPrivilegeEscalation",
                "procMount",
                "runAsUser",
                "runAsGroup",
            ] {
                if context.field(field).exists() {
                    errors.push(context.field(field).forbidden(problem));
                }
            }
        }
    }
}

/// A pod that has users of its own has no other namespaces of the host.
pub(crate) fn validate_host_users(spec: &At, errors: &mut FieldErrors) {
    if spec.field("hostUsers").bool() != Some(false) {
        return;
    }
    let problem = "when `hostUsers` is false";
    forbid(spec, &["hostNetwork", "hostPID", "hostIPC"], problem, errors);
    for list in ALL_LISTS {
        for container in spec.field(list).items() {
            if !container.field("volumeDevices").is_empty() {
                errors.push(container.field("volumeDevices").forbidden(problem));
            }
        }
    }
}
