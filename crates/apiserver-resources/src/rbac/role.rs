//! rbac.authorization.k8s.io/v1 Role and ClusterRole: rules on the way in. Escalation is the authorizer's to judge.
use machinery::FieldErrors;

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::At;

/// Rules of roles.
pub(crate) struct Role;

/// Rules of cluster roles.
pub(crate) struct ClusterRole;

fn validate_rules(rules: &At, namespaced: bool, errors: &mut FieldErrors) {
    for rule in rules.items() {
        let (verbs, urls) = (rule.field("verbs"), rule.field("nonResourceURLs"));
        let (groups, resources) = (rule.field("apiGroups"), rule.field("resources"));
        if verbs.is_empty() {
            errors.push(verbs.required("verbs must contain at least one value"));
        }
        if !urls.is_empty() {
            if namespaced {
                errors.push(urls.invalid("namespaced rules cannot apply to non-resource URLs"));
            }
            if !groups.is_empty() || !resources.is_empty() || !rule.field("resourceNames").is_empty() {
                errors
                    .push(urls.invalid("rules cannot apply to both regular resources and non-resource URLs"));
            }
            continue;
        }
        if groups.is_empty() {
            errors.push(groups.required("resource rules must supply at least one api group"));
        }
        if resources.is_empty() {
            errors.push(resources.required("resource rules must supply at least one resource"));
        }
    }
}

impl Rules for Role {
    const FACTS: Facts = Facts::PLAIN;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_rules(&object.field("rules"), true, errors);
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

impl Rules for ClusterRole {
    const FACTS: Facts = Facts::PLAIN;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_rules(&object.field("rules"), false, errors);
        let aggregation = object.field("aggregationRule");
        if aggregation.exists() {
            let selectors = aggregation.field("clusterRoleSelectors");
            if selectors.is_empty() {
                errors.push(
                    selectors
                        .required("at least one clusterRoleSelector required if aggregationRule is non-nil"),
                );
            }
            for selector in selectors.items() {
                checks::label_selector(&selector, errors);
            }
        }
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use machinery::Object;
    use serde_json::{Value, json};

    use crate::strategy_for;

    fn problems(plural: &str, kind: &str, rule: Value) -> Vec<String> {
        let mut object = Object::from_value(json!({"metadata": {"name": "r"}, "rules": [rule]})).unwrap();
        object.set_type("rbac.authorization.k8s.io/v1", kind);
        let errors = strategy_for("rbac.authorization.k8s.io", plural, "").admit_create(&mut object);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rule_names_verbs_and_what_they_apply_to() {
        assert_eq!(
            problems("roles", "Role", json!({})),
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ]
        );
        let urls = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz"]});
        assert_eq!(
            problems("roles", "Role", urls.clone()),
            [
                "rules[0].nonResourceURLs: Invalid value: [\"/healthz\"]: namespaced rules cannot apply to non-resource URLs"
            ]
        );
        assert!(problems("clusterroles", "ClusterRole", urls).is_empty());
    }
}
