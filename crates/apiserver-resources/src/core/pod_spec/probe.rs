//! Checks of probes and lifecycle hooks.
use machinery::{FieldErrors, names};

use crate::checks;
use crate::core::pod_spec::container::validate_port_or_name;
use crate::tree::At;

/// Checks the three probes of a container.
pub(crate) fn validate_probes(container: &At, errors: &mut FieldErrors) {
    let (liveness, readiness, startup) = (
        container.field("livenessProbe"),
        container.field("readinessProbe"),
        container.field("startupProbe"),
    );
    for probe in [&liveness, &readiness, &startup] {
        if probe.exists() {
            validate_probe(probe, errors);
        }
    }
    for probe in [&liveness, &startup] {
        let threshold = probe.field("successThreshold");
        if probe.exists() && threshold.int().unwrap_or(1) != 1 {
            errors.push(threshold.invalid("must be 1"));
        }
    }
    let grace = readiness.field("terminationGracePeriodSeconds");
    if grace.exists() {
        errors.push(grace.invalid("must not be set for readinessProbes"));
    }
}

fn validate_probe(probe: &At, errors: &mut FieldErrors) {
    validate_handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], errors);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        checks::non_negative(&probe.field(field), errors);
    }
    checks::positive(&probe.field("terminationGracePeriodSeconds"), errors);
}

/// Checks the hooks of a container.
pub(crate) fn validate_lifecycle(lifecycle: &At, grace: i64, errors: &mut FieldErrors) {
    for hook in ["postStart", "preStop"] {
        let hook = lifecycle.field(hook);
        if hook.exists() {
            validate_handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"], errors);
            let sleep = hook.fields(&["sleep", "seconds"]);
            if sleep.int().is_some_and(|n| n < 0 || n > grace) {
                errors.push(sleep.invalid(format!(
                    "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                )));
            }
        }
    }
}

fn validate_handler(handler: &At, kinds: &[&'static str], errors: &mut FieldErrors) {
    let mut found = 0;
    for kind in kinds {
        let action = handler.field(kind);
        if !action.exists() {
            continue;
        }
        found += 1;
        if found > 1 {
            errors.push(action.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        match *kind {
            "exec" => checks::required(&action.field("command"), errors),
            "httpGet" => validate_http(&action, errors),
            "tcpSocket" | "grpc" => validate_port_or_name(&action.field("port"), errors),
            _ => {}
        }
    }
    if found == 0 {
        errors.push(handler.required("must specify a handler type"));
    }
}

fn validate_http(http: &At, errors: &mut FieldErrors) {
    checks::required(&http.field("path"), errors);
    validate_port_or_name(&http.field("port"), errors);
    checks::one_of(&http.field("scheme"), &["HTTP", "HTTPS"], errors);
    for header in http.field("httpHeaders").items() {
        let name = header.field("name");
        for problem in names::http_header_name(name.text()) {
            errors.push(machinery::FieldError::invalid(
                &http.field("httpHeaders").path(),
                name.text(),
                problem,
            ));
        }
    }
}
