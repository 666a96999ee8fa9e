//! Sets and their text form; what needs types is tested with those of `api`.
use proptest::prelude::*;
use serde_json::{Value, json};

use super::managed::{Managed, Operation, is_reset};
use super::*;
use crate::Object;

fn set(value: Value) -> FieldSet {
    FieldSet::from_value(&value).unwrap()
}

fn paths(set: &FieldSet) -> Vec<String> {
    let mut out = Vec::new();
    set.each(&mut |path| out.push(path.iter().map(ToString::to_string).collect()));
    out
}

#[test]
fn fields_v1_reads_and_writes() {
    let value = json!({
        "f:metadata": {"f:labels": {".": {}, "f:a/b.c": {}}},
        "f:spec": {
            "f:containers": {
                "k:{\"name\":\"a\"}": {".": {}, "f:image": {}},
            },
            "f:replicas": {},
        },
        "f:finalizers": {"v:\"x\"": {}},
    });
    let set = set(value.clone());
    assert_eq!(
        paths(&set),
        [
            ".finalizers[=\"x\"]",
            ".metadata.labels",
            ".metadata.labels.a/b.c",
            ".spec.containers[name=\"a\"]",
            ".spec.containers[name=\"a\"].image",
            ".spec.replicas",
        ]
    );
    assert_eq!(set.into_value(), value);
}

#[test]
fn keys_are_written_one_way() {
    let one = set(json!({"k:{ \"protocol\": \"TCP\", \"port\":80 }": {}}));
    assert_eq!(one, set(json!({"k:{\"port\":80,\"protocol\":\"TCP\"}": {}})));
    assert_eq!(paths(&one), ["[port=80,protocol=\"TCP\"]"]);
}

#[test]
fn bad_fields_are_refused_and_unknown_ones_skipped() {
    for bad in [
        json!({"f": {}}),
        json!({"fx": {}}),
        json!({"k:{": {}}),
        json!({"i:x": {}}),
        json!({"f:a": "text"}),
        json!([1]),
    ] {
        assert!(FieldSet::from_value(&bad).is_err(), "{bad}");
    }
    assert!(set(json!({"z:new": {"f:a": {}}})).is_empty());
    assert!(set(json!({})).is_empty());
    let mut deep = json!({});
    for _ in 0..200 {
        deep = json!({ "f:a": deep });
    }
    assert!(FieldSet::from_value(&deep).is_err());
}

#[test]
fn sets_are_joined_and_taken_apart() {
    let a = json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}});
    let b = json!({"f:a": {"f:b": {}, "f:d": {}}});
    let mut union = set(a.clone());
    union.union(set(b.clone()));
    assert_eq!(union, set(json!({"f:a": {".": {}, "f:b": {}, "f:d": {}}, "f:c": {}})));
    assert_eq!(set(a.clone()).intersection(&set(b.clone())), set(json!({"f:a": {"f:b": {}}})));
    let mut rest = set(a);
    assert!(rest.subtract(&set(b.clone())));
    assert_eq!(rest, set(json!({"f:a": {}, "f:c": {}})));
    assert!(!rest.subtract(&set(b)));
}

fn entry(manager: &str, operation: &str, time: &str) -> Value {
    json!({"apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {format!("f:{manager}"): {}},
        "manager": manager, "operation": operation, "time": time})
}

#[test]
fn managers_are_sorted_as_upstream_sorts_them() {
    let list = json!([
        entry("b", "Update", "2026-01-01T00:00:01Z"),
        entry("a", "Update", "2026-01-01T00:00:01Z"),
        entry("z", "Update", "2026-01-01T00:00:00Z"),
        entry("y", "Apply", "2026-01-01T00:00:09Z"),
    ]);
    let encoded = Managed::decode(Some(&list)).unwrap().encode().unwrap();
    let managers: Vec<&str> =
        encoded.as_array().unwrap().iter().filter_map(|e| e["manager"].as_str()).collect();
    assert_eq!(managers, ["y", "z", "a", "b"]);
    assert_eq!(Managed::decode(Some(&encoded)).unwrap().encode().unwrap(), encoded);
}

#[test]
fn broken_entries_are_refused() {
    for (field, value) in [("operation", "Merge"), ("apiVersion", ""), ("fieldsType", "FieldsV2")] {
        let mut one = entry("a", "Update", "2026-01-01T00:00:00Z");
        one[field] = value.into();
        assert!(Managed::decode(Some(&json!([one]))).is_err(), "{field}");
    }
    assert!(is_reset(&json!([])) && is_reset(&json!([{}])));
    assert!(!is_reset(&json!([entry("a", "Update", "")])));
}

#[test]
fn the_oldest_managers_become_one() {
    let list: Vec<Value> = (0..13)
        .map(|i| entry(&format!("m{i:02}"), "Update", &format!("2026-01-01T00:00:{i:02}Z")))
        .chain([entry("applier", "Apply", "2025-01-01T00:00:00Z")])
        .collect();
    let mut managed = Managed::decode(Some(&list.into())).unwrap();
    managed.cap();
    assert_eq!(managed.0.iter().filter(|e| e.operation == Operation::Update).count(), 10);
    let ancient = managed.0.iter().find(|e| e.manager == "ancient-changes").unwrap();
    assert_eq!(paths(&ancient.fields), [".m00", ".m01", ".m02", ".m03"]);
    assert_eq!(ancient.time.as_deref(), Some("2026-01-01T00:00:03Z"));
}

#[test]
fn only_times_may_differ() {
    let a =
        json!([entry("a", "Update", "2026-01-01T00:00:00Z"), entry("b", "Update", "2026-01-01T00:00:01Z")]);
    let b =
        json!([entry("b", "Update", "2026-01-01T00:00:00Z"), entry("a", "Update", "2026-01-01T00:00:05Z")]);
    assert!(same_but_times(&a, &b));
    assert!(!same_but_times(&a, &json!([entry("a", "Update", "")])));
}

/// One version, of which nothing is known.
struct Untyped;

impl Versions for Untyped {
    fn typed(&self, api_version: &str) -> Option<Typed<'_>> {
        (api_version == "x/v1").then_some(Typed { schema: &Deduced, at: Place(0) })
    }

    fn convert<'a>(&self, object: &'a Object, _api_version: &str) -> std::borrow::Cow<'a, Object> {
        std::borrow::Cow::Borrowed(object)
    }
}

fn scope(manager: &'static str, now: &'static str) -> Scope<'static> {
    Scope { manager, api_version: "x/v1", subresource: "", now, reset: Reset::Nothing }
}

fn fieldy() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({})),
        Just(json!(null)),
        Just(json!({".": {}})),
        any::<i32>().prop_map(Value::from)
    ];
    let key = prop_oneof![
        "f:[a-c]{0,2}",
        Just("k:{\"name\":\"a\"}".to_owned()),
        Just("k:{\"b\":1,\"a\":null}".to_owned()),
        Just("v:\"x\"".to_owned()),
        "[ifkv.]:?.{0,6}",
        ".{0,4}",
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop::collection::hash_map(key.clone(), inner, 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    })
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        (0..3).prop_map(Value::from),
        Just(json!("a")),
        Just(json!({})),
        Just(json!([])),
        prop::collection::vec(0..3, 0..3).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop::collection::hash_map("[a-d]", inner, 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    })
}

fn object(spec: Value) -> Object {
    Object::from_value(json!({"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "a"}, "spec": spec}))
        .unwrap()
}

proptest! {
    #[test]
    fn any_fields_are_read_or_refused(value in fieldy()) {
        if let Ok(set) = FieldSet::from_value(&value) {
            let written = set.clone().into_value();
            prop_assert_eq!(FieldSet::from_value(&written).unwrap(), set);
        }
    }

    #[test]
    fn set_algebra_holds(a in fieldy(), b in fieldy()) {
        let (Ok(a), Ok(b)) = (FieldSet::from_value(&a), FieldSet::from_value(&b)) else { return Ok(()) };
        let mut union = a.clone();
        union.union(b.clone());
        let mut other = b.clone();
        other.union(a.clone());
        prop_assert_eq!(&union, &other);
        let both = a.intersection(&b);
        prop_assert_eq!(&both, &b.intersection(&a));
        let mut only_a = a.clone();
        only_a.subtract(&b);
        prop_assert!(only_a.intersection(&b).is_empty());
        only_a.union(both);
        prop_assert_eq!(only_a, a.clone());
        union.subtract(&b);
        let mut rest = a;
        rest.subtract(&b);
        prop_assert_eq!(union, rest);
    }

    #[test]
    fn a_comparison_tells_all(old in tree(), new in tree()) {
        let (old, new) = (object(old), object(new));
        let ty = Typed { schema: &Deduced, at: Place(0) };
        prop_assert_eq!(compare(ty, &old.0, &new.0).is_empty(), old == new);
        let (there, back) = (compare(ty, &old.0, &new.0), compare(ty, &new.0, &old.0));
        prop_assert!(there.changed.intersection(&there.removed).is_empty());
        prop_assert!(there.removed.iter().count() <= back.changed.iter().count());
    }

    #[test]
    fn an_apply_is_idempotent_and_holds_what_it_applied(live in tree(), config in tree()) {
        let mut live = object(live);
        live.set(&["metadata", "uid"], "u");
        let config = object(config);
        let once = apply(&Untyped, &scope("me", "2026-01-01T00:00:00Z"), &live, &config, true).unwrap();
        let ty = Typed { schema: &Deduced, at: Place(0) };
        // Applying changes nothing that the configuration says.
        prop_assert_eq!(merge(ty, &once.0, &config.0), once.0.clone());
        let twice = apply(&Untyped, &scope("me", "2026-01-01T00:00:09Z"), &once, &config, false).unwrap();
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn what_is_applied_and_given_up_is_gone(live in tree(), config in tree()) {
        let mut live = object(live);
        live.set(&["metadata", "uid"], "u");
        let managed = Managed::decode(Some(&json!([entry("other", "Update", "2026-01-01T00:00:00Z")]))).unwrap();
        live.set(&["metadata", "managedFields"], managed.encode().unwrap());
        let first = scope("me", "2026-01-01T00:00:00Z");
        let mut config = object(config);
        config.set(&["spec", "mine"], json!({"x": 1}));
        let applied = apply(&Untyped, &first, &live, &config, true).unwrap();
        prop_assert_eq!(applied.i64_at(&["spec", "mine", "x"]), Some(1));
        let mut less = config.clone();
        less.remove(&["spec", "mine"]);
        let applied = apply(&Untyped, &first, &applied, &less, true).unwrap();
        prop_assert_eq!(applied.at(&["spec", "mine"]), live.at(&["spec", "mine"]));
    }
}
