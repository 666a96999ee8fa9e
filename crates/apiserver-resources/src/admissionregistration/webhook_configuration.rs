//! admissionregistration.k8s.io/v1 webhook configurations: rules on the way in.
use machinery::{FieldErrors, Object, names};

use crate::admissionregistration::{expressions, rule};
use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::{At, child, default_struct, default_value, each, same};

/// Rules of configurations; `mutating` ones may be called again.
pub(crate) struct WebhookConfiguration {
    /// Whether the webhooks may change objects.
    pub(crate) mutating: bool,
}

const MAX_TIMEOUT: i64 = 30;
const NO_SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];

/// What is asked of webhooks: less, where the old configuration has less.
struct Demands {
    no_side_effects: bool,
    known_review_version: bool,
    unique_names: bool,
    match_conditions: bool,
}

impl Demands {
    const ALL: Self = Self {
        no_side_effects: true,
        known_review_version: true,
        unique_names: true,
        match_conditions: true,
    };

    fn after(old: &At, new: &At) -> Self {
        let (webhooks, now) = (old.field("webhooks"), new.field("webhooks"));
        let mut seen: Vec<&str> = Vec::new();
        let mut unique = true;
        for name in webhooks.items().map(|w| w.field("name").text()) {
            unique &= !seen.contains(&name);
            seen.push(name);
        }
        let known = |webhook: &At| {
            let versions = webhook.field("admissionReviewVersions");
            versions.is_empty() || versions.items().any(|v| is_known(v.text()))
        };
        let conditions = |webhook: At| webhook.field("matchConditions").get().cloned();
        let same_conditions = webhooks.len() == now.len()
            && webhooks
                .items()
                .zip(now.items())
                .all(|(a, b)| same(conditions(a).as_ref(), conditions(b).as_ref()));
        Self {
            no_side_effects: webhooks
                .items()
                .all(|w| NO_SIDE_EFFECTS.contains(&w.field("sideEffects").text())),
            known_review_version: webhooks.items().all(|w| known(&w)),
            unique_names: unique,
            match_conditions: !same_conditions,
        }
    }
}

fn is_known(version: &str) -> bool {
    matches!(version, "v1" | "v1beta1")
}

impl Rules for WebhookConfiguration {
    const FACTS: Facts = Facts::GENERATION;

    fn fill_defaults(&self, object: &mut Object) {
        for webhook in each(&mut object.0, "webhooks") {
            default_value(webhook, "failurePolicy", "Fail");
            default_value(webhook, "matchPolicy", "Equivalent");
            default_struct(webhook, "namespaceSelector");
            default_struct(webhook, "objectSelector");
            default_value(webhook, "timeoutSeconds", 10);
            if self.mutating {
                default_value(webhook, "reinvocationPolicy", "Never");
            }
            for rule in each(webhook, "rules") {
                default_value(rule, "scope", "*");
            }
            if let Some(service) = child(webhook, "clientConfig").and_then(|c| child(c, "service")) {
                default_value(service, "port", 443);
            }
        }
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        self.validate_webhooks(object, &Demands::ALL, errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate_webhooks(new, &Demands::after(old, new), errors);
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

impl WebhookConfiguration {
    fn validate_webhooks(&self, object: &At, demands: &Demands, errors: &mut FieldErrors) {
        let mut seen: Vec<&str> = Vec::new();
        for webhook in object.field("webhooks").items() {
            self.validate_webhook(&webhook, demands, errors);
            let name = webhook.field("name");
            if demands.unique_names && !name.text().is_empty() {
                if seen.contains(&name.text()) {
                    errors.push(name.duplicate());
                }
                seen.push(name.text());
            }
        }
    }

    fn validate_webhook(&self, webhook: &At, demands: &Demands, errors: &mut FieldErrors) {
        fully_qualified_name(&webhook.field("name"), errors);
        for rule in webhook.field("rules").items() {
            rule::validate(&rule, errors);
        }
        for (field, supported) in
            [("failurePolicy", ["Fail", "Ignore"]), ("matchPolicy", ["Equivalent", "Exact"])]
        {
            if webhook.field(field).exists() {
                checks::one_of(&webhook.field(field), &supported, errors);
            }
        }
        let effects = webhook.field("sideEffects");
        if !effects.exists() {
            errors.push(effects.required("must specify one of None, NoneOnDryRun"));
        } else if demands.no_side_effects {
            checks::one_of(&effects, &NO_SIDE_EFFECTS, errors);
        } else {
            checks::one_of(&effects, &["None", "NoneOnDryRun", "Some", "Unknown"], errors);
        }
        let timeout = webhook.field("timeoutSeconds");
        if timeout.int().is_some_and(|n| !(1..=MAX_TIMEOUT).contains(&n)) {
            errors.push(timeout.invalid("the timeout value must be between 1 and 30 seconds"));
        }
        for selector in ["namespaceSelector", "objectSelector"] {
            checks::label_selector(&webhook.field(selector), errors);
        }
        if self.mutating && webhook.field("reinvocationPolicy").exists() {
            checks::one_of(&webhook.field("reinvocationPolicy"), &["IfNeeded", "Never"], errors);
        }
        validate_client_config(&webhook.field("clientConfig"), errors);
        if demands.match_conditions {
            expressions::validate_match_conditions(&webhook.field("matchConditions"), errors);
        }
        validate_review_versions(
            &webhook.field("admissionReviewVersions"),
            demands.known_review_version,
            errors,
        );
    }
}

fn validate_review_versions(versions: &At, demand_known: bool, errors: &mut FieldErrors) {
    if versions.is_empty() {
        errors.push(versions.required("must specify one of v1, v1beta1"));
        return;
    }
    for (i, version) in versions.items().enumerate() {
        if versions.items().take(i).any(|v| v.text() == version.text()) {
            errors.push(version.invalid("duplicate version"));
            continue;
        }
        checks::text_rule(&version, names::dns1035_label, errors);
    }
    if demand_known && !versions.items().any(|v| is_known(v.text())) {
        errors.push(versions.invalid("must include at least one of v1, v1beta1"));
    }
}

/// A name with a domain of its own.
fn fully_qualified_name(at: &At, errors: &mut FieldErrors) {
    if at.text().is_empty() {
        errors.push(at.required(""));
    } else {
        checks::text_rule(at, names::fully_qualified_name, errors);
    }
}

/// Checks where a webhook is, of a conversion too.
pub(crate) fn validate_client_config(config: &At, errors: &mut FieldErrors) {
    let (url, service) = (config.field("url"), config.field("service"));
    if url.exists() == service.exists() {
        errors.push(config.required("exactly one of url or service is required"));
    } else if url.exists() {
        validate_url(&url, errors);
    } else {
        validate_service(&service, errors);
    }
}

fn validate_url(url: &At, errors: &mut FieldErrors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let text = url.text();
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let rest_of = |from: &str| from.find(['/', '?', '#']).unwrap_or(from.len());
    let (authority, tail) = rest.split_at(rest_of(rest));
    if scheme != "https" {
        errors.push(url.invalid_as(scheme, format!("'https' is the only allowed URL scheme{FORM}")));
    }
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(u, h)| (Some(u), h));
    if host.is_empty() || scheme.is_empty() {
        errors.push(url.invalid_as("", format!("host must be specified{FORM}")));
    }
    if let Some(user) = user {
        errors.push(url.invalid_as(user, "user information is not permitted in the URL"));
    }
    if let Some((_, fragment)) = tail.split_once('#') {
        errors.push(url.invalid_as(fragment, "fragments are not permitted in the URL"));
    }
    if let Some((_, query)) = tail.split_once('#').map_or(tail, |(t, _)| t).split_once('?') {
        errors.push(url.invalid_as(query, "query parameters are not permitted in the URL"));
    }
}

fn validate_service(service: &At, errors: &mut FieldErrors) {
    if service.field("name").text().is_empty() {
        errors.push(service.field("name").required("service name is required"));
    }
    if service.field("namespace").text().is_empty() {
        errors.push(service.field("namespace").required("service namespace is required"));
    }
    let port = service.field("port");
    if port.exists() && !names::port_number(port.number()).is_empty() {
        errors.push(port.invalid("port is not valid: must be between 1 and 65535, inclusive"));
    }
    let path = service.field("path");
    if !path.exists() || path.text() == "/" {
        return;
    }
    if path.text().is_empty() {
        return;
    }
    if path.text().contains("//") {
        errors.push(path.invalid("segment[0] may not be empty"));
    }
    if !path.text().starts_with('/') {
        errors.push(path.invalid("must start with a '/'"));
    }
    let steps: Vec<&str> = path.text().trim_start_matches('/').split('/').collect();
    for (i, step) in steps.iter().enumerate() {
        if step.is_empty() {
            // A slash may end it.
            if i + 1 != steps.len() && !path.text().contains("//") {
                errors.push(path.invalid(format!("segment[{i}] may not be empty")));
            }
            continue;
        }
        for problem in names::dns1123_subdomain(step) {
            errors.push(path.invalid(format!("segment[{i}]: {problem}")));
        }
    }
}
