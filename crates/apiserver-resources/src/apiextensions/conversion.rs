//! Checks of how versions of a custom resource become each other.
use machinery::{FieldErrors, names};

use crate::admissionregistration::webhook_configuration::validate_client_config;
use crate::checks;
use crate::tree::At;

/// Checks the conversion; errors name fields as upstream's internal type does.
pub(super) fn validate(conversion: &At, errors: &mut FieldErrors) {
    if !conversion.exists() {
        return;
    }
    let (strategy, webhook) = (conversion.field("strategy"), conversion.field("webhook"));
    checks::required_one_of(&strategy, &["None", "Webhook"], errors);
    let (config, versions) = (webhook.field("clientConfig"), webhook.field("conversionReviewVersions"));
    let config_path = conversion.path().child("webhookClientConfig");
    if strategy.text() != "Webhook" {
        if config.exists() {
            let mut error = config.forbidden("should not be set when strategy is not set to Webhook");
            error.path = config_path;
            errors.push(error);
        }
        if !versions.is_empty() {
            let mut error = versions.forbidden("should not be set when strategy is not set to Webhook");
            error.path = conversion.path().child("conversionReviewVersions");
            errors.push(error);
        }
        return;
    }
    if config.exists() {
        validate_client_config(&config, errors);
    } else {
        let mut error = config.required("required when strategy is set to Webhook");
        error.path = config_path;
        errors.push(error);
    }
    if versions.is_empty() {
        let mut error = versions.required("");
        error.path = conversion.path().child("conversionReviewVersions");
        errors.push(error);
        return;
    }
    for (i, version) in versions.items().enumerate() {
        if versions.items().take(i).any(|v| v.text() == version.text()) {
            errors.push(version.invalid("duplicate version"));
        } else {
            checks::text_rule(&version, names::dns1035_label, errors);
        }
    }
    if !versions.items().any(|v| matches!(v.text(), "v1" | "v1beta1")) {
        errors.push(versions.invalid("must include at least one of v1, v1beta1"));
    }
}
