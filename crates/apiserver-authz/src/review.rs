//! The access-review kinds as questions and answers. They are never stored: the server calls these on create.
use std::collections::BTreeMap;

use machinery::gvk::GroupVersionKind;
use machinery::request::{RequestInfo, UserInfo};
use machinery::{FieldError, FieldErrors, FieldPath, Object, StatusError, StatusResult};
use serde_json::{Map, Value, json};

use crate::{Answer, Decision, Rules};

/// What a SubjectAccessReview, LocalSubjectAccessReview or SelfSubjectAccessReview asks.
///
/// `namespace` is that of the request, for LocalSubjectAccessReview.
pub fn access_review_request(review: &Object, namespace: &str) -> StatusResult<RequestInfo> {
    let spec = FieldPath::new("spec");
    let mut errors: FieldErrors = Vec::new();
    let present = |field: &str| review.at(&["spec", field]).filter(|v| !v.is_null());
    let (resource, path) = (present("resourceAttributes"), present("nonResourceAttributes"));
    match (resource, path) {
        (Some(_), Some(p)) => errors.push(FieldError::invalid(
            &spec.child("nonResourceAttributes"),
            p.clone(),
            "cannot be specified in combination with resourceAttributes",
        )),
        (None, None) => errors.push(FieldError::invalid(
            &spec.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    if review.kind() != "SelfSubjectAccessReview"
        && review.str_at(&["spec", "user"]).is_empty()
        && review.list_at(&["spec", "groups"]).is_empty()
    {
        errors.push(FieldError::invalid(
            &spec.child("user"),
            "",
            "at least one of user or group must be specified",
        ));
    }
    if review.kind() == "LocalSubjectAccessReview" {
        let asked = review.str_at(&["spec", "resourceAttributes", "namespace"]);
        if resource.is_some() && asked != namespace {
            errors.push(FieldError::invalid(
                &spec.child("resourceAttributes").child("namespace"),
                asked,
                "must match metadata.namespace",
            ));
        }
        if let Some(p) = path {
            errors.push(FieldError::invalid(
                &spec.child("nonResourceAttributes"),
                p.clone(),
                "disallowed on this kind of request",
            ));
        }
    }
    if !errors.is_empty() {
        let gvk = GroupVersionKind::new("authorization.k8s.io", "v1", review.kind());
        return Err(StatusError::invalid(&gvk, "", &errors));
    }
    Ok(match (resource, path) {
        (Some(r), _) => resource_request(r),
        (None, p) => {
            let text =
                |key: &str| p.and_then(|p| p.get(key)).and_then(Value::as_str).unwrap_or("").to_owned();
            RequestInfo { path: text("path"), verb: text("verb"), ..RequestInfo::default() }
        }
    })
}

fn resource_request(r: &Value) -> RequestInfo {
    let text = |key: &str| r.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let version = text("version");
    RequestInfo {
        verb: text("verb"),
        is_resource: true,
        api_group: text("group"),
        api_version: if version.is_empty() { "*".into() } else { version },
        namespace: text("namespace"),
        resource: text("resource"),
        subresource: text("subresource"),
        name: text("name"),
        field_selector: r.get("fieldSelector").map(field_selector).unwrap_or_default(),
        label_selector: r.get("labelSelector").map(label_selector).unwrap_or_default(),
        ..RequestInfo::default()
    }
}

/// The selector as text; requirements that text cannot say are left out, which only ever asks for more.
fn field_selector(selector: &Value) -> String {
    if let Some(raw) = selector.get("rawSelector").and_then(Value::as_str).filter(|s| !s.is_empty()) {
        return raw.to_owned();
    }
    let requirements = selector.get("requirements").and_then(Value::as_array);
    let terms = requirements.into_iter().flatten().filter_map(|r| {
        let text = |key: &str| r.get(key).and_then(Value::as_str).unwrap_or("");
        let values = r.get("values").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        match (text("operator"), values) {
            ("In", [one]) => Some(format!("{}={}", text("key"), one.as_str()?)),
            ("NotIn", [one]) => Some(format!("{}!={}", text("key"), one.as_str()?)),
            _ => None,
        }
    });
    terms.collect::<Vec<_>>().join(",")
}

/// The same of a selector of labels.
fn label_selector(selector: &Value) -> String {
    if let Some(raw) = selector.get("rawSelector").and_then(Value::as_str).filter(|s| !s.is_empty()) {
        return raw.to_owned();
    }
    let requirements = selector.get("requirements").and_then(Value::as_array);
    let terms = requirements.into_iter().flatten().filter_map(|r| {
        let text = |key: &str| r.get(key).and_then(Value::as_str).unwrap_or("");
        let values = r.get("values").and_then(Value::as_array).into_iter().flatten();
        let values: Vec<&str> = values.filter_map(Value::as_str).collect();
        let (key, list) = (text("key"), values.join(","));
        match text("operator") {
            "In" => Some(format!("{key} in ({list})")),
            "NotIn" => Some(format!("{key} notin ({list})")),
            "Exists" => Some(key.to_owned()),
            "DoesNotExist" => Some(format!("!{key}")),
            _ => None,
        }
    });
    terms.collect::<Vec<_>>().join(",")
}

/// Whom a SubjectAccessReview or LocalSubjectAccessReview asks about.
pub fn access_review_user(review: &Object) -> UserInfo {
    let strings = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let extra: BTreeMap<String, Vec<String>> = review
        .at(&["spec", "extra"])
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.to_lowercase(), strings(v)))
        .collect();
    UserInfo {
        name: review.str_at(&["spec", "user"]).to_owned(),
        uid: review.str_at(&["spec", "uid"]).to_owned(),
        groups: review.at(&["spec", "groups"]).map(strings).unwrap_or_default(),
        extra,
    }
}

/// Writes the answer into `status`.
pub fn set_access_review_status(review: &mut Object, answer: &Answer) {
    let mut status = Map::new();
    status.insert("allowed".into(), (answer.decision == Decision::Allow).into());
    if answer.decision == Decision::Deny {
        status.insert("denied".into(), true.into());
    }
    if !answer.reason().is_empty() {
        status.insert("reason".into(), answer.reason().into());
    }
    if !answer.error().is_empty() {
        status.insert("evaluationError".into(), answer.error().into());
    }
    review.set(&["status"], Value::Object(status));
}

/// The namespace a SelfSubjectRulesReview asks about.
pub fn rules_review_namespace(review: &Object) -> StatusResult<&str> {
    match review.str_at(&["spec", "namespace"]) {
        "" => Err(StatusError::bad_request("no namespace on request")),
        namespace => Ok(namespace),
    }
}

/// Writes the rules into `status`.
pub fn set_rules_review_status(review: &mut Object, rules: &Rules) {
    let resource_rules: Vec<Value> = rules
        .resource_rules
        .iter()
        .map(|r| {
            let mut rule = json!({"verbs": r.verbs, "apiGroups": r.api_groups, "resources": r.resources});
            if let (Some(map), false) = (rule.as_object_mut(), r.resource_names.is_empty()) {
                map.insert("resourceNames".into(), r.resource_names.clone().into());
            }
            rule
        })
        .collect();
    let paths: Vec<Value> = rules
        .non_resource_rules
        .iter()
        .map(|r| json!({"verbs": r.verbs, "nonResourceURLs": r.non_resource_urls}))
        .collect();
    let mut status =
        json!({"resourceRules": resource_rules, "nonResourceRules": paths, "incomplete": rules.incomplete});
    if let (Some(map), false) = (status.as_object_mut(), rules.evaluation_error.is_empty()) {
        map.insert("evaluationError".into(), rules.evaluation_error.clone().into());
    }
    review.set(&["status"], status);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(kind: &str, spec: Value) -> Object {
        Object::from_value(json!({"kind": kind, "spec": spec})).unwrap()
    }

    #[test]
    fn reads_the_question() {
        let r = review(
            "SubjectAccessReview",
            json!({"user": "jane", "groups": ["a"], "extra": {"Scopes": ["x"]},
                   "resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "n", "fieldSelector":
                       {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["m"]}]}}}),
        );
        let request = access_review_request(&r, "").unwrap();
        assert_eq!(
            (
                &*request.verb,
                &*request.resource,
                &*request.namespace,
                &*request.field_selector,
                request.is_resource
            ),
            ("list", "pods", "n", "spec.nodeName=m", true)
        );
        let user = access_review_user(&r);
        assert_eq!((&*user.name, user.extra["scopes"].as_slice()), ("jane", &["x".to_owned()][..]));
        let own = review(
            "SelfSubjectAccessReview",
            json!({"nonResourceAttributes": {"path": "/metrics", "verb": "get"}}),
        );
        let request = access_review_request(&own, "").unwrap();
        assert_eq!((&*request.path, request.is_resource), ("/metrics", false));
    }

    #[test]
    fn refuses_half_a_question() {
        let check = |r: Object, want: &str| {
            let got = access_review_request(&r, "here").unwrap_err().to_string();
            assert_eq!(got, want);
        };
        check(
            review("SelfSubjectAccessReview", json!({})),
            "SelfSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: Invalid value: null: \
             exactly one of nonResourceAttributes or resourceAttributes must be specified",
        );
        check(
            review(
                "LocalSubjectAccessReview",
                json!({"user": "x", "resourceAttributes": {"namespace": "there"}}),
            ),
            "LocalSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes.namespace: Invalid \
             value: \"there\": must match metadata.namespace",
        );
        check(
            review("SubjectAccessReview", json!({"resourceAttributes": {}})),
            "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.user: Invalid value: \"\": at least one of user \
             or group must be specified",
        );
    }

    #[test]
    fn writes_the_answer() {
        let mut r = review("SelfSubjectAccessReview", json!({}));
        set_access_review_status(&mut r, &Answer::no_opinion("because"));
        assert_eq!(r.at(&["status"]), Some(&json!({"allowed": false, "reason": "because"})));
        set_access_review_status(&mut r, &Answer::ALLOW);
        assert_eq!(r.at(&["status"]), Some(&json!({"allowed": true})));
    }
}
