//! Checks of a pod specification and of a pod template. Upstream rules: pkg/apis/core/validation/validation.go.
use machinery::{FieldError, FieldErrors, names};

use crate::checks;
use crate::core::pod_spec::{container, os, scheduling, security, volume};
use crate::core::{resource_list, taint};
use crate::tree::At;

/// Checks a pod template.
pub(crate) fn validate_template(template: &At, errors: &mut FieldErrors) {
    let metadata = template.field("metadata");
    let path = template.path();
    checks::labels_as(&path.child("labels"), &metadata.field("labels"), errors);
    checks::annotations_as(&path.child("annotations"), &metadata.field("annotations"), errors);
    let spec = template.field("spec");
    validate_pod_spec(&spec, errors);
    if !spec.field("ephemeralContainers").is_empty() {
        errors.push(
            spec.field("ephemeralContainers").forbidden("ephemeral containers not allowed in pod template"),
        );
    }
}

/// Pods of a workload that keeps them running restart always and have no deadline.
pub(crate) fn validate_restarts_always(template: &At, kind: &str, errors: &mut FieldErrors) {
    let spec = template.field("spec");
    let policy = spec.field("restartPolicy");
    if policy.text() != "Always" {
        errors.push(policy.not_supported(&["Always"]));
    }
    let deadline = spec.field("activeDeadlineSeconds");
    if deadline.exists() {
        errors.push(deadline.forbidden(format!("activeDeadlineSeconds in {kind} is not Supported")));
    }
}

/// Checks a pod specification.
pub(crate) fn validate_pod_spec(spec: &At, errors: &mut FieldErrors) {
    volume::validate_volumes(&spec.field("volumes"), errors);
    validate_resource_claims(&spec.field("resourceClaims"), errors);
    container::validate_all(spec, errors);

    let restart_policy = spec.field("restartPolicy");
    if restart_policy.text().is_empty() {
        errors.push(restart_policy.required(""));
    } else {
        checks::one_of(&restart_policy, &["Always", "OnFailure", "Never"], errors);
    }
    validate_dns(spec, errors);
    checks::labels(&spec.field("nodeSelector"), errors);
    security::validate_pod(spec, errors);
    for secret in spec.field("imagePullSecrets").items() {
        checks::required(&secret.field("name"), errors);
    }
    scheduling::validate_affinity(&spec.field("affinity"), errors);
    for gate in spec.field("readinessGates").items() {
        checks::text_rule(&gate.field("conditionType"), names::qualified_name, errors);
    }
    validate_scheduling_gates(&spec.field("schedulingGates"), errors);
    scheduling::validate_spread(&spec.field("topologySpreadConstraints"), errors);
    for (field, rule) in [
        ("serviceAccountName", names::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", names::dns1123_subdomain),
    ] {
        named(&spec.field(field), rule, errors);
    }
    let deadline = spec.field("activeDeadlineSeconds");
    if deadline.int().is_some_and(|n| !(1..=i64::from(u32::MAX)).contains(&n)) {
        errors.push(deadline.invalid("must be between 1 and 4294967295, inclusive"));
    }
    named(&spec.field("hostname"), names::dns1123_label, errors);
    named(&spec.field("subdomain"), names::dns1123_label, errors);
    taint::validate_tolerations(&spec.field("tolerations"), errors);
    for alias in spec.field("hostAliases").items() {
        checks::text_rule(&alias.field("ip"), checks::ip, errors);
        for hostname in alias.field("hostnames").items() {
            for problem in names::dns1123_subdomain(hostname.text()) {
                errors.push(FieldError::invalid(&alias.field("hostnames").path(), hostname.text(), problem));
            }
        }
    }
    named(&spec.field("priorityClassName"), names::dns1123_subdomain, errors);
    named(&spec.field("runtimeClassName"), names::dns1123_subdomain, errors);
    checks::one_of_or_empty(&spec.field("preemptionPolicy"), &["PreemptLowerPriority", "Never"], errors);
    for (_, quantity) in spec.field("overhead").entries() {
        resource_list::validate_quantity(&quantity, errors);
    }
    if spec.field("resources").exists() {
        resource_list::validate_requirements(&spec.field("resources"), &[], errors);
    }
    os::validate(spec, errors);
    os::validate_host_users(spec, errors);
}

fn validate_resource_claims(claims: &At, errors: &mut FieldErrors) {
    let mut seen: Vec<&str> = Vec::new();
    for claim in claims.items() {
        let name = claim.field("name");
        if !name.text().is_empty() && seen.contains(&name.text()) {
            errors.push(name.duplicate());
        }
        seen.push(name.text());
        checks::required_text(&name, names::dns1123_label, errors);
        let (own, template) = (claim.field("resourceClaimName"), claim.field("resourceClaimTemplateName"));
        match (own.exists(), template.exists()) {
            (true, true) => errors.push(claim.invalid(
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            )),
            (false, false) => errors
                .push(claim.invalid("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")),
            _ => {}
        }
        for reference in [&own, &template] {
            if reference.exists() {
                checks::text_rule(reference, names::dns1123_subdomain, errors);
            }
        }
    }
}

/// Checks a name that may be left out.
fn named(at: &At, rule: fn(&str) -> Vec<String>, errors: &mut FieldErrors) {
    if !at.text().is_empty() {
        checks::text_rule(at, rule, errors);
    }
}

fn validate_scheduling_gates(gates: &At, errors: &mut FieldErrors) {
    let mut seen: Vec<&str> = Vec::new();
    for gate in gates.items() {
        let name = gate.field("name");
        if name.text().is_empty() {
            errors.push(name.required("scheduling gate name is required"));
        } else {
            for problem in names::qualified_name(name.text()) {
                errors.push(FieldError::invalid(&gate.path(), name.text(), problem));
            }
        }
        if seen.contains(&name.text()) {
            errors.push(FieldError::duplicate(&gate.path(), name.text()));
        }
        seen.push(name.text());
    }
}

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

fn validate_dns(spec: &At, errors: &mut FieldErrors) {
    let (policy, config) = (spec.field("dnsPolicy"), spec.field("dnsConfig"));
    if policy.text().is_empty() {
        errors.push(policy.required(""));
    } else {
        checks::one_of(&policy, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], errors);
    }
    let nameservers = config.field("nameservers");
    if policy.text() == "None" {
        if !config.exists() {
            errors.push(config.required("must provide `dnsConfig` when `dnsPolicy` is None"));
        } else if nameservers.is_empty() {
            errors.push(
                nameservers.required("must provide at least one DNS nameserver when `dnsPolicy` is None"),
            );
        }
    }
    if nameservers.len() > MAX_NAMESERVERS {
        errors.push(nameservers.invalid(format!("must not have more than {MAX_NAMESERVERS} nameservers")));
    }
    for server in nameservers.items() {
        checks::text_rule(&server, checks::ip, errors);
    }
    let searches = config.field("searches");
    if searches.len() > MAX_SEARCHES {
        errors.push(searches.invalid(format!("must not have more than {MAX_SEARCHES} search paths")));
    }
    if searches.items().map(|s| s.text().len() + 1).sum::<usize>() > MAX_SEARCH_CHARS + 1 {
        errors.push(searches.invalid(format!(
            "must not have more than {MAX_SEARCH_CHARS} characters (including spaces) in the search list"
        )));
    }
    for search in searches.items() {
        let plain = search.text().strip_suffix('.').unwrap_or(search.text());
        if plain.is_empty() && search.text() == "." {
            continue;
        }
        errors.extend(
            names::dns1123_subdomain(&plain.replace('_', "-")).into_iter().map(|p| search.invalid(p)),
        );
    }
    for option in config.field("options").items() {
        if option.field("name").is_empty() {
            errors.push(FieldError::required(&option.path(), "must not be empty"));
        }
    }
}
