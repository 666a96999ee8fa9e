//! flowcontrol.apiserver.k8s.io/v1 FlowSchema: rules on the way in.
use machinery::{FieldErrors, Object, names};

use crate::checks;
use crate::flowcontrol::mandatory;
use crate::rules::{Facts, Rules};
use crate::tree::{At, child, default_number, same};

/// Rules of flow schemas.
pub(crate) struct FlowSchema;

const MAX_PRECEDENCE: i64 = 10_000;
const DEFAULT_PRECEDENCE: i64 = 1000;
const VERBS: [&str; 9] =
    ["get", "list", "create", "update", "delete", "deletecollection", "patch", "watch", "proxy"];
const SUBJECTS: [(&str, &str); 3] =
    [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

impl Rules for FlowSchema {
    const FACTS: Facts = Facts::BOTH;

    fn fill_defaults(&self, object: &mut Object) {
        if let Some(spec) = child(&mut object.0, "spec") {
            default_number(spec, "matchingPrecedence", DEFAULT_PRECEDENCE);
        }
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let (spec, name) = (object.field("spec"), object.fields(&["metadata", "name"]));
        validate_precedence(&spec.field("matchingPrecedence"), name.text(), errors);
        let method = spec.field("distinguisherMethod");
        if method.exists() {
            checks::one_of(&method.field("type"), &["ByNamespace", "ByUser"], errors);
        }
        let level = spec.fields(&["priorityLevelConfiguration", "name"]);
        if level.text().is_empty() {
            errors.push(level.required("must reference a priority level"));
        } else {
            checks::text_rule(&level, names::dns1123_subdomain, errors);
        }
        for rule in spec.field("rules").items() {
            validate_rule(&rule, errors);
        }
        if let Some(fixed) = mandatory::flow_schema(name.text())
            && !same(spec.get(), Some(&fixed))
        {
            errors.push(spec.invalid(format!("spec of '{}' must equal the fixed value", name.text())));
        }
        validate_conditions(object, errors);
    }

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        validate_conditions(new, errors);
    }
}

/// Checks the conditions in the status of either kind of this group.
pub(crate) fn validate_conditions(object: &At, errors: &mut FieldErrors) {
    let mut seen: Vec<&str> = Vec::new();
    for condition in object.fields(&["status", "conditions"]).items() {
        let ty = condition.field("type");
        if seen.contains(&ty.text()) {
            errors.push(ty.duplicate());
        }
        seen.push(ty.text());
        if ty.text().is_empty() {
            errors.push(ty.required("must not be empty"));
        }
    }
}

fn validate_precedence(at: &At, schema: &str, errors: &mut FieldErrors) {
    match at.number() {
        n if n <= 0 => errors.push(at.invalid_as(n, "must be a positive value")),
        n if n > MAX_PRECEDENCE => {
            errors.push(at.invalid(format!("must not be greater than {MAX_PRECEDENCE}")));
        }
        1 if schema != "exempt" => {
            errors.push(at.invalid("only the schema named 'exempt' may have matchingPrecedence 1"));
        }
        _ => {}
    }
}

fn validate_rule(rule: &At, errors: &mut FieldErrors) {
    let subjects = rule.field("subjects");
    if subjects.is_empty() {
        errors.push(subjects.required("subjects must contain at least one value"));
    }
    for subject in subjects.items() {
        validate_subject(&subject, errors);
    }
    let (resources, others) = (rule.field("resourceRules"), rule.field("nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        errors.push(rule.required("at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    for rule in resources.items() {
        validate_resource_rule(&rule, errors);
    }
    for rule in others.items() {
        validate_verbs(&rule.field("verbs"), errors);
        validate_urls(&rule.field("nonResourceURLs"), errors);
    }
}

fn validate_subject(subject: &At, errors: &mut FieldErrors) {
    let kind = subject.field("kind");
    if !SUBJECTS.iter().any(|(known, _)| *known == kind.text()) {
        errors.push(kind.not_supported(&SUBJECTS.map(|(kind, _)| kind)));
        return;
    }
    for (of, field) in SUBJECTS {
        let at = subject.field(field);
        if of != kind.text() {
            if at.exists() {
                errors.push(at.forbidden(format!("{field} is forbidden when subject kind is not '{of}'")));
            }
            continue;
        }
        if !at.exists() {
            errors.push(at.required(format!("{field} is required when subject kind is '{of}'")));
            continue;
        }
        let name = at.field("name");
        if of != "ServiceAccount" {
            checks::required(&name, errors);
            continue;
        }
        if name.text() != "*" {
            checks::required_text(&name, names::dns1123_subdomain, errors);
        }
        let namespace = at.field("namespace");
        if namespace.text().is_empty() {
            errors.push(namespace.required("must specify namespace for service account"));
        } else {
            checks::text_rule(&namespace, names::dns1123_label, errors);
        }
    }
}

/// `*` stands alone.
fn validate_alone(list: &At, what: &str, errors: &mut FieldErrors) {
    if list.len() > 1 && list.lists("*") {
        errors.push(list.invalid(format!("if '*' is present, must not specify other {what}")));
    }
}

fn validate_verbs(verbs: &At, errors: &mut FieldErrors) {
    if verbs.is_empty() {
        errors.push(verbs.required("verbs must contain at least one value"));
    } else if verbs.lists("*") {
        validate_alone(verbs, "verbs", errors);
    } else if verbs.items().any(|v| !VERBS.contains(&v.text())) {
        errors.push(verbs.not_supported(&VERBS));
    }
}

fn validate_resource_rule(rule: &At, errors: &mut FieldErrors) {
    validate_verbs(&rule.field("verbs"), errors);
    for (field, one, many) in
        [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")]
    {
        let list = rule.field(field);
        if list.is_empty() {
            errors.push(list.required(format!("resource rules must supply at least one {one}")));
        }
        validate_alone(&list, many, errors);
    }
    let namespaces = rule.field("namespaces");
    if namespaces.is_empty() && !rule.field("clusterScope").is_true() {
        errors.push(
            namespaces
                .required("resource rules that are not cluster scoped must supply at least one namespace"),
        );
    } else if namespaces.lists("*") {
        validate_alone(&namespaces, "namespaces", errors);
    } else {
        for namespace in namespaces.items() {
            for problem in names::dns1123_label(namespace.text()) {
                errors.push(
                    namespace.invalid(format!(
                        "each member of this list must be '*' or a DNS-1123 label; {problem}"
                    )),
                );
            }
        }
    }
}

fn validate_urls(urls: &At, errors: &mut FieldErrors) {
    if urls.is_empty() {
        errors.push(urls.required("nonResourceURLs must contain at least one value"));
    } else if urls.lists("*") {
        validate_alone(urls, "non-resource URLs", errors);
    } else {
        for url in urls.items() {
            if let Some(problem) = url_problem(url.text()) {
                errors.push(url.invalid(problem));
            }
        }
    }
}

fn url_problem(path: &str) -> Option<&'static str> {
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !path.starts_with('/') => Some("must start with slash"),
        _ if path.contains(' ') => Some("must not contain white-space"),
        _ if path.contains("//") => Some("must not contain double slash"),
        _ => match path.matches('*').count() {
            0 => None,
            1 if path.ends_with("/*") => None,
            _ => Some("wildcard can only do suffix matching"),
        },
    }
}
