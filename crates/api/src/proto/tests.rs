use serde_json::json;

use super::*;
use crate::kinds::by_kind;

fn target(group: &'static str, version: &'static str, kind: &'static str) -> Target<'static> {
    Target::of(by_kind(group, version, kind).expect("a row"))
}

/// What comes back of an object.
fn there_and_back(value: &Value) -> Value {
    let object = value.as_object().expect("an object");
    let bytes = encode_object(object).expect("it encodes");
    let gvk = GroupVersionKind::from_api_version(
        object["apiVersion"].as_str().unwrap(),
        object["kind"].as_str().unwrap(),
    );
    let row = by_kind(&gvk.group, &gvk.version, &gvk.kind).expect("a row");
    decode_protobuf(&bytes, &Target::of(row)).expect("it decodes").into_value()
}

#[test]
fn objects_come_back_as_they_were() {
    for value in [
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "namespace": "b", "labels": {"x": "y", "z": ""}, "creationTimestamp": "2024-01-02T03:04:05Z",
                "deletionGracePeriodSeconds": 0,
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true, "blockOwnerDeletion": false}],
                "managedFields": [{"manager": "m", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {}}, "time": "2024-01-02T03:04:05Z"}]},
            "spec": {
                "volumes": [{"name": "e", "emptyDir": {}}, {"name": "c", "configMap": {"name": "n", "optional": false, "defaultMode": 420}},
                    {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3607}}]}}],
                "containers": [{"name": "c", "image": "i",
                    "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                    "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                    "livenessProbe": {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 5},
                    "readinessProbe": {"tcpSocket": {"port": 80}},
                    "securityContext": {"privileged": false, "runAsUser": 0}}],
                "ephemeralContainers": [{"name": "d", "image": "j", "targetContainerName": "c"}],
                "securityContext": {"supplementalGroups": [1, 2]},
                "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": "2024-01-02T03:04:05Z"}]}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {"replicas": 0, "paused": true, "selector": {"matchLabels": {"a": "b"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}),
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "aGVsbG8=", "b": ""}, "type": "Opaque"}),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "p"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}}}),
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "p"},
            "spec": {"capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x", "type": ""}}}),
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
            "spec": {"holderIdentity": "h", "leaseDurationSeconds": 15, "renewTime": "2024-01-02T03:04:05.000123Z"}}),
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": "u", "extra": {"scopes": ["a", "b"]}, "resourceAttributes": {"verb": "get"}}, "status": {"allowed": false}}),
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "w"},
            "webhooks": [{"name": "a.b.c", "clientConfig": {"url": "u"}, "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]}),
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "foos.x.y"},
            "spec": {"group": "x.y", "names": {"plural": "foos", "kind": "Foo"}, "scope": "Namespaced",
                "versions": [{"name": "v1", "served": true, "storage": false, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": {"type": "object", "$ref": "r", "x-kubernetes-preserve-unknown-fields": true, "default": {"a": [1, null]}, "maximum": 1.5,
                        "properties": {"a": {"items": {"type": "string"}, "enum": ["x", 1]}, "b": {"additionalProperties": false}, "c": {"additionalProperties": {"type": "string"}}}}}}]}}),
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"},
            "spec": {"rules": [{"host": "h", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}}),
        json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "c"}, "revision": 1, "data": {"spec": {"a": [1]}}}),
    ] {
        assert_eq!(there_and_back(&value), value);
    }
}

#[test]
fn zeros_that_go_writes_unasked_are_dropped() {
    // Go's bytes for `kubectl create deployment`, abridged: spec{replicas: 0 (a pointer), minReadySeconds: 0,
    // paused: false, strategy: {type: ""}}, status{observedGeneration: 0}, metadata{name: "d", generateName: "",
    // creationTimestamp: zero}.
    let raw =
        b"\x0a\x07\x0a\x01d\x12\x00\x42\x00\x12\x0a\x08\x00\x28\x00\x38\x00\x22\x02\x0a\x00\x1a\x02\x08\x00";
    let bytes = Envelope::seal("apps/v1", "Deployment", raw);
    let got = decode_protobuf(&bytes, &target("apps", "v1", "Deployment")).expect("it decodes");
    assert_eq!(
        got.into_value(),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 0}})
    );
}

#[test]
fn a_blank_type_is_that_of_the_path() {
    let bytes = Envelope::seal("", "", b"\x0a\x03\x0a\x01a");
    let got = decode_protobuf(&bytes, &target("", "v1", "Pod")).expect("it decodes");
    assert_eq!(got.into_value(), json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}));
}

#[test]
fn lists_and_statuses_encode() {
    let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "5"}, "items": [{"metadata": {"name": "a"}}]});
    let bytes = encode_object(list.as_object().unwrap()).expect("it encodes");
    let envelope = Envelope::read(&bytes).expect("an envelope");
    assert_eq!((envelope.api_version.as_str(), envelope.kind.as_str()), ("v1", "PodList"));
    let id = table::by_kind("", "v1", "PodList").expect("a message");
    let got = decode::object(id, envelope.raw, 0).expect("a list");
    assert_eq!(
        Value::Object(got),
        json!({"metadata": {"resourceVersion": "5"}, "items": [{"metadata": {"name": "a"}}]})
    );
    let table = json!({"apiVersion": "meta.k8s.io/v1", "kind": "Table"});
    assert!(matches!(encode_object(table.as_object().unwrap()), Err(EncodeError::NoMessage(..))));
}

#[test]
fn events_are_framed_by_length() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
    let object = encode_object(pod.as_object().unwrap()).expect("it encodes");
    let frame = encode_watch_event("ADDED", pod.as_object().unwrap()).expect("it encodes");
    let (length, event) = frame.split_first_chunk::<4>().expect("a length");
    assert_eq!(u32::from_be_bytes(*length) as usize, event.len());
    let mut fields = wire::Reader::new(event);
    assert_eq!(fields.next(), Ok(Some((1, wire::Wire::Bytes(b"ADDED")))));
    let mut raw = Vec::new();
    wire::put_bytes(&mut raw, 1, &object);
    assert_eq!(fields.next(), Ok(Some((2, wire::Wire::Bytes(&raw)))));
    assert_eq!(fields.next(), Ok(None));
}

#[test]
fn raw_objects_are_json_or_messages() {
    let pod = Envelope::seal("v1", "Pod", b"\x0a\x03\x0a\x01a");
    for (raw, expect) in [
        (&br#"{"a":1}"#[..], json!({"a": 1})),
        (&pod, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}})),
    ] {
        let (mut extension, mut revision) = (Vec::new(), Vec::new());
        wire::put_bytes(&mut extension, 1, raw);
        wire::put_bytes(&mut revision, 2, &extension);
        let bytes = Envelope::seal("apps/v1", "ControllerRevision", &revision);
        let got = decode_protobuf(&bytes, &target("apps", "v1", "ControllerRevision")).expect("it decodes");
        assert_eq!(got.into_value()["data"], expect);
    }
}

#[test]
fn delete_options_of_any_version_decode() {
    let bytes = Envelope::seal("apps/v1", "DeleteOptions", b"\x08\x00\x22\x0aBackground");
    let got = decode_delete_options(&bytes).expect("it decodes");
    assert_eq!(
        got,
        json!({"kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Background"})
    );
}

#[test]
fn errors_are_those_of_upstream() {
    let pod = target("", "v1", "Pod");
    let error = |bytes: &[u8]| {
        let e = decode_protobuf(bytes, &pod).expect_err("it does not decode");
        assert_eq!(e.code(), 400);
        e.to_string()
    };
    assert_eq!(error(b""), "the object provided is unrecognized (must be of type Pod): empty data (<empty>)");
    assert_eq!(
        error(b"{}"),
        "the object provided is unrecognized (must be of type Pod): provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] ({})"
    );
    assert_eq!(
        error(&Envelope::seal("v1", "Pod", b"\x0a\x07")),
        "Pod in version \"v1\" cannot be handled as a Pod: unexpected EOF"
    );
    assert_eq!(
        error(&Envelope::seal("v1", "Pod", b"\x08\x07")),
        "Pod in version \"v1\" cannot be handled as a Pod: proto: wrong wireType = 0 for field metadata"
    );
    assert!(error(&Envelope::seal("v1", "Service", b"")).contains("unknown conversion"));
}

#[test]
fn depth_is_bounded() {
    let mut not = Vec::new();
    for _ in 0..200 {
        let mut outer = Vec::new();
        wire::put_bytes(&mut outer, 28, &not);
        not = outer;
    }
    let id =
        table::by_name("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
    assert_eq!(decode::object(id, &not, 0), Err(WireError::Depth));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(id in 0..u16::try_from(crate::generated::proto::MESSAGES.len()).unwrap(), bytes: Vec<u8>) {
        let _ = decode::object(id, &bytes, 0);
        let _ = Envelope::read(&bytes);
    }

    #[test]
    fn broken_pods_do_not_make_it_panic(at in 0usize..200, byte: u8) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "creationTimestamp": "2024-01-02T03:04:05Z"},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}, "livenessProbe": {"httpGet": {"port": 1}}}]}});
        let mut bytes = encode_object(pod.as_object().unwrap()).unwrap();
        if let Some(b) = bytes.get_mut(at) {
            *b = byte;
        }
        let _ = decode_protobuf(&bytes, &target("", "v1", "Pod"));
    }
}

/// Bodies that kubectl 1.32 sent, and what it prints for the same with `--dry-run=client -o json` less what is empty
/// or zero.
#[test]
fn bodies_of_kubectl_are_read_as_their_json() {
    for line in include_str!("kubectl.jsonl").lines() {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        let hex = line["protobuf"].as_str().expect("hex");
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex")).collect();
        let gvk = GroupVersionKind::from_api_version(
            line["json"]["apiVersion"].as_str().expect("text"),
            line["json"]["kind"].as_str().expect("text"),
        );
        let id = table::by_kind(&gvk.group, &gvk.version, &gvk.kind).expect("a message");
        let target = Target {
            group: &gvk.group,
            version: &gvk.version,
            kind: &gvk.kind,
            schema: crate::schema::by_name(table::get(id).name),
        };
        let json = line["json"].to_string();
        let expect = crate::decode::decode(
            json.as_bytes(),
            crate::decode::Media::Json,
            &target,
            crate::decode::FieldValidation::Strict,
        );
        let got = decode_protobuf(&bytes, &target).expect("it decodes");
        assert_eq!(got, expect.expect("it decodes").object);
        let again = encode_object(&got.0).expect("it encodes");
        assert_eq!(decode_protobuf(&again, &target).expect("it decodes"), got);
    }
}

#[test]
fn a_list_in_pieces_is_the_list() {
    let metadata = json!({"resourceVersion": "7", "continue": "x", "remainingItemCount": 300});
    let map = |name: &str| json!({"metadata": {"name": name}, "data": {"k": "v".repeat(100)}});
    for count in [0, 1, 3] {
        let items: Vec<Value> = (0..count).map(|n| map(&n.to_string())).collect();
        let whole =
            json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": metadata, "items": items});
        let whole = encode_object(whole.as_object().expect("an object")).expect("it encodes");
        let pieces: Vec<Vec<u8>> = items
            .into_iter()
            .map(|mut item| {
                item["apiVersion"] = json!("v1");
                item["kind"] = json!("ConfigMap");
                encode_list_item(item.as_object().expect("an object")).expect("it encodes")
            })
            .collect();
        let total = pieces.iter().map(Vec::len).sum();
        let (head, tail) = list_frame("v1", "ConfigMapList", metadata.clone(), total).expect("it encodes");
        assert_eq!([head, pieces.concat(), tail].concat(), whole, "{count}");
    }
}

#[test]
fn items_have_the_same_number_in_every_list() {
    let mut lists = 0;
    for kind in crate::kinds::KINDS.iter().filter(|k| k.has_verb("list") && k.schema.is_some()) {
        let id = table::by_kind(&kind.group, &kind.version, &kind.list_kind()).expect("a list has a message");
        let items = table::get(id).fields.iter().find(|f| f.name == "items").expect("a list has items");
        assert_eq!(items.number, LIST_ITEMS, "{}", kind.kind);
        lists += 1;
    }
    assert!(lists > 50, "{lists}");
}
