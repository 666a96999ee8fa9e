//! Owners of fields of real kinds: what upstream's server writes, and how configurations merge.
use std::borrow::Cow;

use machinery::fields::{self, ApplyError, FieldSet, Managed, Reset, Scope, Versions};
use machinery::{Object, StatusError};
use serde_json::json;

use super::*;

struct Kinds(&'static crate::kinds::Kind);

impl Versions for Kinds {
    fn typed(&self, api_version: &str) -> Option<Typed<'_>> {
        (api_version == self.0.api_version()).then(|| typed(self.0.schema))
    }

    fn convert<'a>(&self, object: &'a Object, _api_version: &str) -> Cow<'a, Object> {
        Cow::Borrowed(object)
    }
}

struct Server {
    kinds: Kinds,
    api_version: String,
    live: Object,
    second: u32,
}

impl Server {
    fn new(group: &str, kind: &str) -> Self {
        let kind = crate::kinds::by_kind(group, "v1", kind).unwrap();
        Self { kinds: Kinds(kind), api_version: kind.api_version(), live: Object::default(), second: 0 }
    }

    fn write<T>(&mut self, manager: &str, write: impl FnOnce(&Self, &Scope<'_>) -> T) -> T {
        self.second += 1;
        let now = format!("2026-01-01T00:00:{:02}Z", self.second);
        let reset = Reset::Below(&[&["status"]]);
        let scope = Scope { manager, api_version: &self.api_version, subresource: "", now: &now, reset };
        write(self, &scope)
    }

    fn object(&self, mut value: Value) -> Object {
        value["apiVersion"] = self.api_version.clone().into();
        value["kind"] = (*self.kinds.0.kind).into();
        value["metadata"]["name"] = "a".into();
        Object::from_value(value).unwrap()
    }

    fn update(&mut self, manager: &str, value: Value) {
        let mut new = self.object(value);
        if new.at(&["metadata", "managedFields"]).is_none() {
            new.copy_from(&self.live, &["metadata", "managedFields"]);
        }
        self.write(manager, |s, scope| fields::update(&s.kinds, scope, &s.live, &mut new));
        new.set(&["metadata", "uid"], "u");
        self.live = new;
    }

    fn try_apply(&mut self, manager: &str, value: Value, force: bool) -> Result<(), ApplyError> {
        let config = self.object(value);
        fields::fits(typed(self.kinds.0.schema), &config)?;
        let applied = self.write(manager, |s, scope| fields::apply(&s.kinds, scope, &s.live, &config, force));
        self.live = applied?;
        self.live.set(&["metadata", "uid"], "u");
        Ok(())
    }

    fn apply(&mut self, manager: &str, value: Value) {
        self.try_apply(manager, value, false).unwrap();
    }

    fn fields(&self, manager: &str) -> Value {
        let list = self.live.list_at(&["metadata", "managedFields"]);
        list.iter().find(|e| e["manager"] == manager).map(|e| e["fieldsV1"].clone()).unwrap_or_default()
    }

    fn time(&self, manager: &str) -> String {
        let list = self.live.list_at(&["metadata", "managedFields"]);
        let entry = list.iter().find(|e| e["manager"] == manager).unwrap();
        entry["time"].as_str().unwrap().to_owned()
    }

    fn spec(&self) -> Value {
        self.live.at(&["spec"]).cloned().unwrap_or_default()
    }
}

fn pod(spec: Value) -> Value {
    json!({ "spec": spec })
}

#[test]
fn a_created_deployment_is_owned_as_upstream_writes_it() {
    let mut server = Server::new("apps", "Deployment");
    server.update(
        "kubectl-create",
        json!({
            "metadata": {"labels": {"app": "a"}, "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"app": "a"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
                "template": {
                    "metadata": {"labels": {"app": "a"}},
                    "spec": {
                        "containers": [{
                            "name": "n", "image": "nginx", "resources": {},
                            "ports": [{"containerPort": 80, "protocol": "TCP"}],
                        }],
                        "securityContext": {},
                    },
                },
            },
            "status": {"replicas": 1},
        }),
    );
    assert_eq!(
        server.fields("kubectl-create"),
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:replicas": {},
                "f:selector": {},
                "f:strategy": {
                    "f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}},
                    "f:type": {},
                },
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {
                        "f:containers": {
                            "k:{\"name\":\"n\"}": {
                                ".": {}, "f:name": {}, "f:image": {}, "f:resources": {},
                                "f:ports": {
                                    ".": {},
                                    "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                                        ".": {}, "f:containerPort": {}, "f:protocol": {},
                                    },
                                },
                            },
                        },
                        "f:securityContext": {},
                    },
                },
            },
        })
    );
}

#[test]
fn an_update_takes_what_it_changes_and_drops_what_it_removes() {
    let mut server = Server::new("", "ConfigMap");
    server.update("one", json!({"data": {"a": "1", "b": "1", "c": "1"}}));
    server.update("two", json!({"data": {"a": "2", "b": "1"}}));
    assert_eq!(server.fields("one"), json!({"f:data": {".": {}, "f:b": {}}}));
    assert_eq!(server.fields("two"), json!({"f:data": {"f:a": {}}}));
    let before = server.live.clone();
    server.update("three", json!({"data": {"a": "2", "b": "1"}}));
    assert_eq!(server.live, before, "a write that changes nothing leaves no trace");
    server.update("two", json!({"data": {"a": "3", "b": "1"}}));
    assert_eq!(server.fields("two"), json!({"f:data": {"f:a": {}}}));
    assert_eq!(server.time("two"), "2026-01-01T00:00:04Z");
    assert_eq!(server.time("one"), "2026-01-01T00:00:01Z");
}

#[test]
fn managed_fields_can_be_given_and_reset_but_not_lost() {
    let mut server = Server::new("", "ConfigMap");
    server.update("one", json!({"data": {"a": "1"}}));
    let before = server.live.clone();
    let given = |managed: Value| json!({"metadata": {"managedFields": managed}, "data": {"a": "1"}});
    server.update("two", given(Value::Null));
    assert_eq!(server.live, before);
    server.update("two", given(json!([{"manager": "x", "operation": "Nonsense", "apiVersion": "v1"}])));
    assert_eq!(server.live, before, "what cannot be read is as good as absent");
    let mine = json!([{"manager": "me", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": {"f:a": {}}}, "time": "2025-01-01T00:00:00Z"}]);
    server.update("two", given(mine.clone()));
    assert_eq!(server.live.at(&["metadata", "managedFields"]), Some(&mine));
    for reset in [json!([]), json!([{}])] {
        server.live = before.clone();
        server.update("two", given(reset));
        assert_eq!(server.live.at(&["metadata", "managedFields"]), None);
    }
    // Owners are not tracked until somebody applies.
    server.update("three", json!({"data": {"a": "2"}}));
    assert_eq!(server.live.at(&["metadata", "managedFields"]), None);
    server.try_apply("me", json!({"data": {"a": "2"}}), false).unwrap();
    assert_eq!(server.fields("before-first-apply"), json!({"f:data": {".": {}, "f:a": {}}}));
}

#[test]
fn lists_of_named_items_merge() {
    let mut server = Server::new("", "Pod");
    server.apply(
        "one",
        pod(json!({"containers": [{"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "b:1"}]})),
    );
    server.apply(
        "two",
        pod(json!({"containers": [{"name": "c", "image": "c:1"}, {"name": "a", "env": [{"name": "Y", "value": "2"}]}]})),
    );
    assert_eq!(
        server.spec(),
        json!({"containers": [
            {"name": "c", "image": "c:1"},
            {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b", "image": "b:1"},
        ]})
    );
    // `one` gives up b and the variable of a; what `two` put into a stays.
    server.apply("one", pod(json!({"containers": [{"name": "a", "image": "a:1"}]})));
    assert_eq!(
        server.spec(),
        json!({"containers": [
            {"name": "c", "image": "c:1"},
            {"name": "a", "image": "a:1", "env": [{"name": "Y", "value": "2"}]},
        ]})
    );
    // Nobody but `one` wants an image, but the container has another owner.
    server.apply("one", pod(json!({})));
    assert_eq!(
        server.spec(),
        json!({"containers": [
            {"name": "c", "image": "c:1"},
            {"name": "a", "env": [{"name": "Y", "value": "2"}]},
        ]})
    );
}

#[test]
fn a_key_that_is_left_out_has_its_default() {
    let mut server = Server::new("", "Service");
    let ports = |ports: Value| json!({"spec": {"ports": ports}});
    server.apply(
        "one",
        ports(json!([{"port": 53, "name": "tcp"}, {"port": 53, "protocol": "UDP", "name": "udp"}])),
    );
    assert_eq!(server.spec()["ports"].as_array().unwrap().len(), 2);
    server.apply("one", ports(json!([{"port": 53, "protocol": "TCP", "name": "tcp"}])));
    assert_eq!(server.spec(), json!({"ports": [{"port": 53, "protocol": "TCP", "name": "tcp"}]}));
    assert_eq!(
        server.fields("one"),
        json!({"f:spec": {"f:ports": {"k:{\"port\":53,\"protocol\":\"TCP\"}":
            {".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}}}}})
    );
}

#[test]
fn sets_and_units() {
    let mut server = Server::new("", "Pod");
    let meta = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    server.apply("one", meta(json!(["x/a", "x/b"])));
    server.apply("two", meta(json!(["x/c", "x/b"])));
    assert_eq!(server.live.at(&["metadata", "finalizers"]), Some(&json!(["x/a", "x/c", "x/b"])));
    server.apply("one", meta(json!([])));
    assert_eq!(server.live.at(&["metadata", "finalizers"]), Some(&json!(["x/c", "x/b"])));
    // A selector is one unit.
    let mut server = Server::new("", "Service");
    server.apply("one", json!({"spec": {"selector": {"a": "1", "b": "1"}}}));
    let conflict = server.try_apply("two", json!({"spec": {"selector": {"c": "1"}}}), false).unwrap_err();
    assert_eq!(conflict.to_string(), "Apply failed with 1 conflict: conflict with \"one\": .spec.selector");
    server.try_apply("two", json!({"spec": {"selector": {"c": "1"}}}), true).unwrap();
    assert_eq!(server.spec(), json!({"selector": {"c": "1"}}));
    assert_eq!(server.fields("one"), Value::Null);
    // So is a list of arguments.
    let mut server = Server::new("", "Pod");
    server.apply("one", pod(json!({"containers": [{"name": "a", "args": ["x", "y"]}]})));
    server.apply("one", pod(json!({"containers": [{"name": "a", "args": ["z"]}]})));
    assert_eq!(server.spec(), json!({"containers": [{"name": "a", "args": ["z"]}]}));
}

#[test]
fn shared_fields_go_with_their_last_owner() {
    let mut server = Server::new("", "ConfigMap");
    server.apply("one", json!({"data": {"a": "1", "b": "1"}}));
    server.apply("two", json!({"data": {"a": "1"}}));
    server.apply("one", json!({}));
    assert_eq!(server.live.at(&["data"]), Some(&json!({"a": "1"})));
    assert_eq!(server.fields("one"), Value::Null);
    server.apply("two", json!({}));
    assert_eq!(server.live.at(&["data"]), None);
    assert_eq!(server.live.at(&["metadata", "managedFields"]), None);
}

#[test]
fn conflicts_name_their_managers() {
    let mut server = Server::new("apps", "Deployment");
    server.update("kubectl-client-side-apply", json!({"spec": {"replicas": 1, "paused": true}}));
    server.apply("other", json!({"spec": {"minReadySeconds": 5}}));
    let e = server.try_apply("me", json!({"spec": {"replicas": 2}}), false).unwrap_err();
    let text = "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas";
    assert_eq!(e.to_string(), text);
    let config = json!({"spec": {"replicas": 2, "paused": false, "minReadySeconds": 6}});
    let e = server.try_apply("me", config.clone(), false).unwrap_err();
    assert_eq!(
        e.to_string(),
        "Apply failed with 3 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n- .spec.paused\n- .spec.replicas\nconflicts with \"other\":\n- .spec.minReadySeconds"
    );
    let status = StatusError::from(e);
    assert_eq!((status.code(), status.reason()), (409, "Conflict"));
    let causes = status.0.details.and_then(|d| d.causes).unwrap();
    assert_eq!(causes.len(), 3);
    assert_eq!(causes[1].field.as_deref(), Some(".spec.replicas"));
    assert_eq!(causes[1].reason.as_deref(), Some("FieldManagerConflict"));
    assert_eq!(
        causes[1].message.as_deref(),
        Some("conflict with \"kubectl-client-side-apply\" using apps/v1")
    );
    server.try_apply("me", config, true).unwrap();
    assert_eq!(server.fields("other"), Value::Null);
    assert_eq!(server.spec(), json!({"replicas": 2, "paused": false, "minReadySeconds": 6}));
    // The same value is no conflict.
    server.apply("third", json!({"spec": {"replicas": 2}}));
    assert_eq!(server.fields("third"), json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn applying_again_changes_nothing() {
    let mut server = Server::new("apps", "Deployment");
    let config = json!({"spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "a"}]}}}});
    server.apply("me", config.clone());
    let before = server.live.clone();
    server.apply("me", config);
    assert_eq!(server.live, before);
}

#[test]
fn kubectl_takes_over_from_client_side_apply() {
    let mut server = Server::new("apps", "Deployment");
    let config = server.object(json!({"spec": {"replicas": 3, "paused": true}}));
    let mut live = json!({"spec": {"replicas": 3, "paused": false}});
    live["metadata"]["annotations"][fields::LAST_APPLIED] = serde_json::to_string(&config).unwrap().into();
    server.update("kubectl-client-side-apply", live);
    // What client-side apply set and nobody changed since is taken over; the rest is a conflict.
    let wanted = json!({"spec": {"replicas": 4, "paused": true}});
    let e = server.try_apply("kubectl", wanted.clone(), false).unwrap_err();
    assert!(e.to_string().ends_with("using apps/v1: .spec.paused"), "{e}");
    assert!(server.try_apply("me", wanted, false).is_err());
    server.apply("kubectl", json!({"spec": {"replicas": 4}}));
    assert_eq!(server.spec(), json!({"replicas": 4, "paused": false}));
    let last = server.live.annotation(fields::LAST_APPLIED).unwrap();
    assert!(last.ends_with("\"spec\":{\"replicas\":4}}\n"), "{last}");
}

#[test]
fn what_does_not_fit_is_refused_in_upstreams_words() {
    let mut server = Server::new("", "Pod");
    let mut problem = |config: Value| server.try_apply("me", config, false).unwrap_err().to_string();
    let container = |c: Value| pod(json!({ "containers": c }));
    for (config, expected) in [
        (pod(json!({"nope": 1})), ".spec.nope: field not declared in schema"),
        (
            container(json!([{"name": "a", "nope": 1}])),
            ".spec.containers[name=\"a\"].nope: field not declared in schema",
        ),
        (
            container(json!([{"name": "a"}, {"name": "a"}])),
            ".spec.containers: duplicate entries for key [name=\"a\"]",
        ),
        (
            container(json!([{"image": "a"}])),
            ".spec.containers: element 0: associative list with keys has an element that omits all key fields [\"name\"] (and doesn't have default values for any key fields)",
        ),
        (pod(json!({"hostNetwork": "yes"})), ".spec.hostNetwork: expected boolean, got &{yes}"),
        (
            pod(json!({"nodeName": 1})),
            ".spec.nodeName: expected string, got &value.valueUnstructured{Value:1}",
        ),
    ] {
        let problem = problem(config);
        assert_eq!(problem, format!("failed to create typed patch object (/a; /v1, Kind=Pod): {expected}"));
    }
    let managed = json!({"metadata": {"managedFields": []}});
    assert_eq!(problem(managed), "metadata.managedFields must be nil");
}

#[test]
fn a_list_with_repetitions_is_compared_still() {
    let mut server = Server::new("", "Pod");
    let env = |values: &[(&str, &str)]| {
        let env: Vec<Value> = values.iter().map(|(n, v)| json!({"name": n, "value": v})).collect();
        pod(json!({"containers": [{"name": "a", "env": env}]}))
    };
    server.update("one", env(&[("X", "1"), ("X", "2"), ("Y", "1")]));
    server.update("two", env(&[("X", "1"), ("X", "3"), ("Y", "1")]));
    assert_eq!(
        server.fields("two"),
        json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {"f:env": {"k:{\"name\":\"X\"}": {}}}}}})
    );
    server.apply("three", env(&[("Z", "1")]));
    assert_eq!(server.spec()["containers"][0]["env"].as_array().unwrap().len(), 4);
}

#[test]
fn a_resource_without_schema_has_atomic_lists() {
    let ty = typed(None);
    let config = json!({"metadata": {"finalizers": ["x/a"]}, "spec": {"list": [1], "map": {"a": {}}}});
    let set: FieldSet = fields::extract(ty, config.as_object().unwrap());
    assert_eq!(
        set.into_value(),
        json!({
            "f:metadata": {"f:finalizers": {"v:\"x/a\"": {}}},
            "f:spec": {".": {}, "f:list": {}, "f:map": {".": {}, "f:a": {}}},
        })
    );
}

#[test]
fn every_list_map_of_every_kind_has_keys() {
    let mut seen = 0;
    for kind in crate::kinds::KINDS {
        let Some(id) = kind.schema else { continue };
        for field in schema::get(id).fields() {
            let child = BuiltIn.child(of_type(id), field.name).unwrap();
            if BuiltIn.form(child.place) == Form::Keyed {
                assert!(BuiltIn.key(child.place, 0).is_some(), "{} {}", kind.kind, field.name);
                seen += 1;
            }
        }
        let metadata = BuiltIn.child(of_type(id), "metadata");
        assert!(metadata.is_some_and(|m| m.always), "{}", kind.kind);
    }
    assert!(seen > 0);
}

#[test]
fn scales_and_statuses_own_their_part() {
    let mut server = Server::new("apps", "Deployment");
    server.update("one", json!({"spec": {"replicas": 1, "paused": true}}));
    let mut new = server.live.clone();
    new.set(&["spec", "replicas"], 5);
    new.set(&["spec", "paused"], false);
    let scope = Scope {
        manager: "kubectl",
        api_version: "apps/v1",
        subresource: "scale",
        now: "2026-01-01T00:01:00Z",
        reset: Reset::AllBut(&[&["spec", "replicas"]]),
    };
    fields::update(&server.kinds, &scope, &server.live, &mut new);
    let managed = Managed::decode(new.at(&["metadata", "managedFields"])).unwrap();
    let scaled = managed.0.iter().find(|e| e.subresource == "scale").unwrap();
    assert_eq!(scaled.fields.clone().into_value(), json!({"f:spec": {"f:replicas": {}}}));
    server.live = new;
    let e = server.try_apply("me", json!({"spec": {"replicas": 2}}), false).unwrap_err();
    let text = "Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas";
    assert_eq!(e.to_string(), text);
}
