//! admissionregistration.k8s.io/v1 webhook configurations: rules on the way in.
use machinery::{FieldErrors, Object, names};

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::{At, child, default_struct, default_value, each};

/// Rules of configurations; `mutating` ones may be called again.
pub(crate) struct WebhookConfiguration {
    /// Whether the webhooks may change objects.
    pub(crate) mutating: bool,
}

const MAX_TIMEOUT: i64 = 30;

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
        let mut seen: Vec<&str> = Vec::new();
        for webhook in object.field("webhooks").items() {
            let name = webhook.field("name");
            checks::text_rule(&name, names::fully_qualified_name, errors);
            if seen.contains(&name.text()) {
                errors.push(name.duplicate());
            }
            seen.push(name.text());
            validate_webhook(&webhook, errors);
        }
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

fn validate_webhook(webhook: &At, errors: &mut FieldErrors) {
    let versions = webhook.field("admissionReviewVersions");
    if versions.is_empty() {
        errors.push(versions.required("must specify one of v1, v1beta1"));
    } else if !versions.items().any(|v| matches!(v.text(), "v1" | "v1beta1")) {
        errors.push(versions.invalid("must include at least one of v1, v1beta1"));
    }
    for rule in webhook.field("rules").items() {
        validate_rule(&rule, errors);
    }
    checks::one_of_or_empty(&webhook.field("failurePolicy"), &["Ignore", "Fail"], errors);
    checks::one_of_or_empty(&webhook.field("matchPolicy"), &["Equivalent", "Exact"], errors);
    let effects = webhook.field("sideEffects");
    if effects.exists() {
        checks::one_of(&effects, &["None", "NoneOnDryRun"], errors);
    } else {
        errors.push(effects.required("must specify one of None, NoneOnDryRun"));
    }
    let timeout = webhook.field("timeoutSeconds");
    if timeout.int().is_some_and(|n| !(1..=MAX_TIMEOUT).contains(&n)) {
        errors.push(timeout.invalid("the timeout value must be between 1 and 30 seconds"));
    }
    for selector in ["namespaceSelector", "objectSelector"] {
        checks::label_selector(&webhook.field(selector), errors);
    }
    let config = webhook.field("clientConfig");
    let (url, service) = (config.field("url"), config.field("service"));
    if url.exists() == service.exists() {
        errors.push(config.required("exactly one of url or service is required"));
    } else if url.exists() {
        if !url.text().starts_with("https://") {
            errors.push(
                url.invalid("'https' is the only allowed URL scheme; desired format: https://host[/path]"),
            );
        }
    } else {
        checks::required(&service.field("name"), errors);
        checks::required(&service.field("namespace"), errors);
    }
}

/// Checks what a rule of a webhook or a policy is about.
pub(crate) fn validate_rule(rule: &At, errors: &mut FieldErrors) {
    let operations = rule.field("operations");
    if operations.is_empty() {
        errors.push(operations.required(""));
    }
    for operation in operations.items() {
        checks::one_of(&operation, &["CREATE", "UPDATE", "DELETE", "CONNECT", "*"], errors);
        if operation.text() == "*" && operations.len() > 1 {
            errors.push(operations.invalid("if '*' is present, must not specify other operations"));
        }
    }
    for field in ["apiGroups", "apiVersions", "resources"] {
        let list = rule.field(field);
        if list.is_empty() {
            errors.push(list.required(""));
        }
        if field != "resources" && list.len() > 1 && list.items().any(|v| v.text() == "*") {
            errors.push(list.invalid("if '*' is present, must not specify other values"));
        }
    }
    checks::one_of_or_empty(&rule.field("scope"), &["*", "Cluster", "Namespaced"], errors);
}
