use serde_json::json;

use super::*;
use crate::kinds::by_kind;

fn deployment() -> Target<'static> {
    Target::of(by_kind("apps", "v1", "Deployment").expect("a row"))
}

fn pod() -> Target<'static> {
    Target::of(by_kind("", "v1", "Pod").expect("a row"))
}

fn run(body: &str, target: &Target<'_>, validation: FieldValidation) -> Result<Decoded, String> {
    decode(body.as_bytes(), Media::Json, target, validation).map_err(|e| {
        assert_eq!((e.code(), e.reason()), (400, "BadRequest"));
        e.to_string()
    })
}

fn object(body: Value, target: &Target<'_>) -> Value {
    run(&body.to_string(), target, FieldValidation::Strict).expect("it decodes").object.into_value()
}

fn error(body: &str, target: &Target<'_>) -> String {
    run(body, target, FieldValidation::Strict).expect_err("it does not decode")
}

#[test]
fn keeps_known_fields_and_fills_in_the_type() {
    let got = object(
        json!({"metadata": {"name": "a", "creationTimestamp": null}, "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}]}, "status": {}}),
        &pod(),
    );
    assert_eq!(
        got,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}]}, "status": {}})
    );
}

#[test]
fn reports_unknown_and_duplicate_fields_in_order() {
    let body = r#"{"metadata":{"name":"a","labels":{"x":"1","x":"2"}},"spec":{"foo":1,"replicas":1,"replicas":2,"template":{"spec":{"containers":[{"name":"c","bar":{}}]}}},"frob":[]}"#;
    let problems = r#"duplicate field "metadata.labels.x", unknown field "spec.foo", duplicate field "spec.replicas", unknown field "spec.template.spec.containers[0].bar", unknown field "frob""#;
    assert_eq!(
        error(body, &deployment()),
        format!(
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: {problems}"
        )
    );
    let warned = run(body, &deployment(), FieldValidation::Warn).expect("only warnings");
    assert_eq!(warned.warnings.join(", "), problems);
    assert_eq!(warned.object.at(&["spec", "replicas"]), Some(&json!(2)));
    assert_eq!(warned.object.at(&["spec", "foo"]), None);
    let ignored = run(body, &deployment(), FieldValidation::Ignore).expect("nothing is said");
    assert!(ignored.warnings.is_empty());
}

#[test]
fn speaks_gos_words_about_types() {
    let prefix = "Deployment in version \"v1\" cannot be handled as a Deployment: ";
    for (body, expect) in [
        (
            r#"{"spec":{"replicas":"1"}}"#,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"replicas":3000000000}}"#,
            "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"replicas":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"paused":"x"}}"#,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.paused of type bool",
        ),
        (
            r#"{"spec":[]}"#,
            "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec",
        ),
        (
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"strategy":{"rollingUpdate":{"maxSurge":true}}}}"#,
            "json: cannot unmarshal bool into Go value of type int32",
        ),
        (
            r#"{"spec":{"template":{"spec":{"overhead":{"cpu":"x"}}}}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ] {
        assert_eq!(error(body, &deployment()), format!("{prefix}{expect}"));
    }
}

#[test]
fn null_is_absent_or_zero() {
    let got = object(
        json!({"metadata": null, "spec": {"nodeName": null, "nodeSelector": {"a": null}, "containers": [null]}}),
        &pod(),
    );
    assert_eq!(
        got,
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeSelector": {"a": ""}, "containers": [{}]}})
    );
}

#[test]
fn another_kind_is_refused() {
    assert_eq!(
        error(r#"{"apiVersion":"v1","kind":"Service","spec":{"ports":[]}}"#, &pod()),
        "Service in version \"v1\" cannot be handled as a Pod: converting (v1.Service) to (core.Pod): unknown conversion"
    );
    assert_eq!(
        error(r#"{"apiVersion":"v1","kind":"Frob"}"#, &pod()),
        "Frob in version \"v1\" cannot be handled as a Pod: no kind \"Frob\" is registered for version \"v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
    );
    assert_eq!(
        error("", &pod()),
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)"
    );
}

#[test]
fn depth_is_bounded() {
    let deep = format!(r#"{{"spec":{{"x":{}1{}}}}}"#, "[".repeat(5000), "]".repeat(5000));
    assert!(!error(&deep, &pod()).is_empty());
    let custom = Target { group: "x.y", version: "v1", kind: "Foo", schema: None };
    let deep =
        format!(r#"{{"apiVersion":"x.y/v1","kind":"Foo","spec":{}1{}}}"#, "[".repeat(110), "]".repeat(110));
    assert!(error(&deep, &custom).contains("exceeded max depth"));
    let mut value = Value::Null;
    for _ in 0..110 {
        value = json!([value]);
    }
    assert_eq!(check(None, &mut json!({"spec": value})), Err("exceeded max depth".into()));
}

#[test]
fn custom_resources_have_known_metadata_alone() {
    let custom = Target { group: "x.y", version: "v1", kind: "Foo", schema: None };
    let body = r#"{"apiVersion":"x.y/v1","kind":"Foo","metadata":{"name":"a","frob":1},"spec":{"a":null,"b":1,"b":2,"metadata":{"frob":1}}}"#;
    let got = run(body, &custom, FieldValidation::Warn).expect("only warnings");
    assert_eq!(got.warnings, ["unknown field \"metadata.frob\"", "duplicate field \"spec.b\""]);
    assert_eq!(
        got.object.into_value(),
        json!({"apiVersion": "x.y/v1", "kind": "Foo", "metadata": {"name": "a"}, "spec": {"a": null, "b": 2, "metadata": {"frob": 1}}})
    );
}

#[test]
fn reads_yaml_and_names_the_line_of_a_duplicate() {
    let body = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  replicas: 1\n  foo: 1\n  replicas: 2\n";
    let e = decode(body.as_bytes(), Media::Yaml, &deployment(), FieldValidation::Strict).expect_err("strict");
    assert_eq!(
        e.to_string(),
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: yaml: unmarshal errors:\n  line 7: key \"replicas\" already set in map, unknown field \"spec.foo\""
    );
    let got = decode(body.as_bytes(), Media::Yaml, &deployment(), FieldValidation::Ignore).expect("lenient");
    assert_eq!(got.object.at(&["spec", "replicas"]), Some(&json!(2)));
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
    let custom = Target { group: "x.y", version: "v1", kind: "Foo", schema: None };
    assert!(decode(bomb.as_bytes(), Media::Yaml, &custom, FieldValidation::Ignore).is_err());
}

#[test]
fn checks_what_a_patch_made() {
    let mut value = json!({"metadata": {"name": "a"}, "spec": {"replicas": 1, "foo": null}});
    assert_eq!(check(deployment().schema, &mut value), Ok(vec!["unknown field \"spec.foo\"".into()]));
    assert_eq!(value, json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}}));
    let mut value = json!({"spec": {"replicas": {}}});
    assert!(check(deployment().schema, &mut value).is_err());
}

#[test]
fn an_applied_configuration_is_read_as_it_is() {
    let body = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, creationTimestamp: null}\nspec:\n  replicas: 1\n  foo: 1\n  replicas: 2\n";
    let got = decode_applied(body.as_bytes(), &deployment(), FieldValidation::Warn).expect("lenient");
    assert_eq!(got.object.at(&["spec", "foo"]), Some(&json!(1)));
    assert_eq!(got.warnings, ["yaml: unmarshal errors:\n  line 7: key \"replicas\" already set in map"]);
    let e = decode_applied(body.as_bytes(), &deployment(), FieldValidation::Strict).expect_err("strict");
    assert!(e.to_string().starts_with("error strict decoding YAML: "), "{e}");
    let e = decode_applied(b"a: [", &deployment(), FieldValidation::Warn).expect_err("broken");
    assert!(e.to_string().starts_with("error decoding YAML: "), "{e}");
    let json = br#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a","nope":1}}"#;
    let e = decode_applied(json, &deployment(), FieldValidation::Ignore).expect_err("unknown");
    assert!(e.to_string().ends_with(".metadata.nope: field not declared in schema"), "{e}");
}

#[test]
fn an_applied_configuration_is_written_one_way() {
    let object = json!({"metadata": {"creationTimestamp": null}, "spec": {"template": {"spec": {"containers": [
        {"name": "a", "resources": {"limits": {"cpu": 1}}}]}}}});
    let object = Object::from_value(object).unwrap();
    let got = normalize_applied(object, &deployment()).unwrap().into_value();
    assert_eq!(got["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"], "1");
    assert_eq!(got["metadata"], json!({}));
}
