//! Checks of containers: regular, init and ephemeral.
use std::collections::BTreeSet;

use machinery::{FieldError, FieldErrors, names};
use serde_json::Value;

use crate::checks;
use crate::core::endpoints::protocol;
use crate::core::pod_spec::{env, probe, security, volume};
use crate::core::resource_list;
use crate::tree::At;

/// What containers of a pod may refer to.
struct Pod<'v> {
    volumes: Vec<(&'v str, bool)>,
    claims: Vec<&'v str>,
    host_network: bool,
    never_restarts: bool,
    grace: i64,
}

/// Checks all containers of a pod specification.
pub(crate) fn validate_all(spec: &At, errors: &mut FieldErrors) {
    let pod = Pod {
        // Of a volume from a claim, nobody knows here whether it is a device.
        volumes: spec
            .field("volumes")
            .items()
            .map(|v| {
                (
                    v.field("name").text(),
                    v.field("persistentVolumeClaim").exists() || v.field("ephemeral").exists(),
                )
            })
            .collect(),
        claims: spec.field("resourceClaims").items().map(|c| c.field("name").text()).collect(),
        host_network: spec.field("hostNetwork").is_true(),
        never_restarts: spec.field("restartPolicy").text() == "Never",
        grace: spec.field("terminationGracePeriodSeconds").int().unwrap_or(30),
    };
    let (regular, init, ephemeral) =
        (spec.field("containers"), spec.field("initContainers"), spec.field("ephemeralContainers"));
    if regular.is_empty() {
        errors.push(regular.required(""));
    }
    let mut names_seen: BTreeSet<&str> = BTreeSet::new();
    let mut host_ports: BTreeSet<String> = BTreeSet::new();
    for container in regular.items() {
        validate_common(&container, &pod, errors);
        validate_unique(&container, &mut names_seen, errors);
        validate_host_ports(&container, &mut host_ports, errors);
        probe::validate_lifecycle(&container.field("lifecycle"), pod.grace, errors);
        probe::validate_probes(&container, errors);
    }
    for container in init.items() {
        validate_common(&container, &pod, errors);
        validate_unique(&container, &mut names_seen, errors);
        let restarts = container.field("restartPolicy").text() == "Always";
        if restarts {
            // A sidecar runs beside the others, so its ports may clash with theirs.
            validate_host_ports(&container, &mut host_ports, errors);
            probe::validate_lifecycle(&container.field("lifecycle"), pod.grace, errors);
            probe::validate_probes(&container, errors);
        } else {
            validate_host_ports(&container, &mut BTreeSet::new(), errors);
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if container.field(field).exists() {
                    errors.push(
                        container
                            .field(field)
                            .forbidden("may not be set for init containers without restartPolicy=Always"),
                    );
                }
            }
        }
    }
    for container in ephemeral.items() {
        validate_common(&container, &pod, errors);
        validate_unique(&container, &mut names_seen, errors);
        for field in [
            "ports",
            "resources",
            "resizePolicy",
            "restartPolicy",
            "restartPolicyRules",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
        ] {
            if !container.field(field).is_empty() {
                errors.push(container.field(field).forbidden("cannot be set for an Ephemeral Container"));
            }
        }
        let target = container.field("targetContainerName");
        let exists = regular.items().chain(init.items()).any(|c| c.field("name").text() == target.text());
        if !target.text().is_empty() && !exists {
            errors.push(target.not_found());
        }
        for mount in container.field("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"] {
                if !mount.field(field).text().is_empty() {
                    errors.push(mount.field(field).forbidden("cannot be set for an Ephemeral Container"));
                }
            }
        }
    }
}

fn validate_unique<'v>(container: &At<'v>, seen: &mut BTreeSet<&'v str>, errors: &mut FieldErrors) {
    let name = container.field("name");
    if !name.text().is_empty() && !seen.insert(name.text()) {
        errors.push(name.duplicate());
    }
}

fn validate_host_ports(container: &At, seen: &mut BTreeSet<String>, errors: &mut FieldErrors) {
    for port in container.field("ports").items() {
        let Some(number) = port.field("hostPort").int().filter(|n| *n != 0) else { continue };
        let text = format!("{}/{}/{number}", port.field("protocol").text(), port.field("hostIP").text());
        if seen.contains(&text) {
            errors.push(FieldError::duplicate(&port.field("hostPort").path(), text));
        } else {
            seen.insert(text);
        }
    }
}

fn validate_common(container: &At, pod: &Pod, errors: &mut FieldErrors) {
    let (name, image) = (container.field("name"), container.field("image"));
    if name.text().is_empty() {
        errors.push(name.required(""));
    } else {
        checks::text_rule(&name, names::dns1123_label, errors);
    }
    if image.text().is_empty() {
        errors.push(image.required(""));
    } else if image.text().trim() != image.text() {
        errors.push(image.invalid("must not have leading or trailing whitespace"));
    }
    required_one_of(&container.field("terminationMessagePolicy"), &["File", "FallbackToLogsOnError"], errors);
    validate_ports(&container.field("ports"), pod.host_network, errors);
    env::validate_env(&container.field("env"), errors);
    env::validate_env_from(&container.field("envFrom"), errors);
    validate_mounts(container, pod, errors);
    validate_devices(container, pod, errors);
    required_one_of(&container.field("imagePullPolicy"), &["Always", "IfNotPresent", "Never"], errors);
    resource_list::validate_requirements(&container.field("resources"), &pod.claims, errors);
    security::validate_container(&container.field("securityContext"), errors);
    checks::one_of_or_empty(&container.field("restartPolicy"), &["Always", "Never", "OnFailure"], errors);
    validate_resize_policy(container, pod.never_restarts, errors);
    validate_restart_rules(container, errors);
}

fn validate_resize_policy(container: &At, never_restarts: bool, errors: &mut FieldErrors) {
    let policies = container.field("resizePolicy");
    let mut seen: Vec<&str> = Vec::new();
    // Errors name the list, not its items.
    let mut of_list = |mut error: FieldError| {
        error.path = policies.path();
        errors.push(error);
    };
    for policy in policies.items() {
        let (name, restart) = (policy.field("resourceName"), policy.field("restartPolicy"));
        if seen.contains(&name.text()) {
            of_list(name.duplicate());
        }
        seen.push(name.text());
        match name.text() {
            "cpu" | "memory" => {}
            "" => of_list(name.required("")),
            _ => of_list(name.not_supported(&["cpu", "memory"])),
        }
        match restart.text() {
            "NotRequired" => {}
            "RestartContainer" if never_restarts => {
                of_list(restart.invalid("must be 'NotRequired' when `restartPolicy` is 'Never'"));
            }
            "RestartContainer" => {}
            "" => of_list(restart.required("")),
            _ => of_list(restart.not_supported(&["NotRequired", "RestartContainer"])),
        }
    }
}

const MAX_RESTART_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;

fn validate_restart_rules(container: &At, errors: &mut FieldErrors) {
    let rules = container.field("restartPolicyRules");
    if rules.is_empty() {
        return;
    }
    let policy = container.field("restartPolicy");
    if !policy.exists() {
        errors.push(policy.required("must specify restartPolicy when restart rules are used"));
    }
    if rules.len() > MAX_RESTART_RULES {
        errors.push(rules.too_many(MAX_RESTART_RULES));
    }
    for rule in rules.items() {
        required_one_of(&rule.field("action"), &["Restart"], errors);
        let codes = rule.field("exitCodes");
        if !codes.exists() {
            errors.push(codes.required("must be specified"));
            continue;
        }
        required_one_of(&codes.field("operator"), &["In", "NotIn"], errors);
        if codes.field("values").len() > MAX_EXIT_CODES {
            errors.push(codes.field("values").too_many(MAX_EXIT_CODES));
        }
    }
}

fn required_one_of(at: &At, supported: &[&str], errors: &mut FieldErrors) {
    if at.text().is_empty() {
        errors.push(at.required(""));
    } else {
        checks::one_of(at, supported, errors);
    }
}

fn validate_ports(ports: &At, host_network: bool, errors: &mut FieldErrors) {
    let mut names_seen: BTreeSet<&str> = BTreeSet::new();
    for port in ports.items() {
        let (name, number, host) = (port.field("name"), port.field("containerPort"), port.field("hostPort"));
        if !name.text().is_empty() {
            let problems = names::port_name(name.text());
            if problems.is_empty() {
                if !names_seen.insert(name.text()) {
                    errors.push(name.duplicate());
                }
            } else {
                errors.extend(problems.into_iter().map(|p| name.invalid(p)));
            }
        }
        match number.int().unwrap_or(0) {
            0 => errors.push(number.required("")),
            n => errors.extend(names::port_number(n).into_iter().map(|p| number.invalid(p))),
        }
        match host.int().unwrap_or(0) {
            0 => {}
            n => errors.extend(names::port_number(n).into_iter().map(|p| host.invalid(p))),
        }
        // Of a template it may be left out: its pods get it.
        if host_network && host.int().is_some_and(|n| n != 0 && Some(n) != number.int()) {
            errors.push(host.invalid("must match `containerPort` when `hostNetwork` is true"));
        }
        protocol(&port.field("protocol"), errors);
        let host_ip = port.field("hostIP");
        if !host_ip.text().is_empty() {
            checks::text_rule(&host_ip, checks::ip, errors);
        }
    }
}

fn validate_mounts(container: &At, pod: &Pod, errors: &mut FieldErrors) {
    let mut paths: BTreeSet<&str> = BTreeSet::new();
    let privileged = container.fields(&["securityContext", "privileged"]).is_true();
    for mount in container.field("volumeMounts").items() {
        let (name, path) = (mount.field("name"), mount.field("mountPath"));
        if name.text().is_empty() {
            errors.push(name.required(""));
        }
        if !pod.volumes.iter().any(|(volume, _)| *volume == name.text()) {
            errors.push(name.not_found());
        }
        if path.text().is_empty() {
            errors.push(path.required(""));
        }
        if !paths.insert(path.text()) {
            errors.push(path.invalid("must be unique"));
        }
        let (sub, expression) = (mount.field("subPath"), mount.field("subPathExpr"));
        if !sub.text().is_empty() {
            volume::validate_descending(&sub, errors);
        }
        if !expression.text().is_empty() {
            if !sub.text().is_empty() {
                errors.push(expression.invalid("subPathExpr and subPath are mutually exclusive"));
            }
            volume::validate_descending(&expression, errors);
        }
        let propagation = mount.field("mountPropagation");
        if propagation.exists() {
            checks::one_of(&propagation, &["Bidirectional", "HostToContainer", "None"], errors);
            if propagation.text() == "Bidirectional" && !privileged {
                errors.push(
                    propagation.forbidden(
                        "Bidirectional mount propagation is available only to privileged containers",
                    ),
                );
            }
        }
        validate_recursive_read_only(&mount, errors);
    }
    for device in container.field("volumeDevices").items() {
        if paths.contains(device.field("devicePath").text()) {
            errors
                .push(device.field("devicePath").invalid("must not already exist as a path in volumeMounts"));
        }
    }
}

fn validate_recursive_read_only(mount: &At, errors: &mut FieldErrors) {
    let at = mount.field("recursiveReadOnly");
    if !at.exists() || at.text() == "Disabled" {
        return;
    }
    checks::one_of(&at, &["Disabled", "Enabled", "IfPossible"], errors);
    if !mount.field("readOnly").is_true() {
        errors.push(at.forbidden("may only be specified when readOnly is true"));
    }
    if !matches!(mount.field("mountPropagation").text(), "" | "None") {
        errors.push(at.forbidden("may only be specified when mountPropagation is None or not specified"));
    }
}

fn validate_devices(container: &At, pod: &Pod, errors: &mut FieldErrors) {
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for device in container.field("volumeDevices").items() {
        let (name, path) = (device.field("name"), device.field("devicePath"));
        if name.text().is_empty() {
            errors.push(name.required(""));
        }
        if seen.iter().any(|(n, _)| *n == name.text()) {
            errors.push(name.invalid("must be unique"));
        }
        if path.text().is_empty() {
            errors.push(path.required(""));
        }
        if seen.iter().any(|(_, p)| *p == path.text()) {
            errors.push(path.invalid("must be unique"));
        }
        if path.text().split('/').any(|step| step == "..") {
            errors.push(path.invalid("can not contain backsteps ('..')"));
        }
        match pod.volumes.iter().find(|(volume, _)| *volume == name.text()) {
            None => errors.push(name.not_found()),
            Some((_, false)) => {
                errors.push(name.invalid(
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                ));
            }
            Some(_) => {}
        }
        seen.insert((name.text(), path.text()));
    }
}

/// Whether this is a number or a name.
pub(crate) fn validate_port_or_name(at: &At, errors: &mut FieldErrors) {
    match at.get() {
        Some(Value::String(text)) => errors.extend(names::port_name(text).into_iter().map(|p| at.invalid(p))),
        Some(Value::Number(n)) => {
            let number = n.as_i64().unwrap_or(0);
            errors.extend(names::port_number(number).into_iter().map(|p| at.invalid(p)));
        }
        _ => errors.extend(names::port_number(0).into_iter().map(|p| FieldError::invalid(&at.path(), 0, p))),
    }
}
