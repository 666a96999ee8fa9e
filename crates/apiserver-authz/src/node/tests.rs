use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::Decision;

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap()
}

fn pod() -> Object {
    object(json!({
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "a"},
        "spec": {
            "nodeName": "n1",
            "serviceAccountName": "bot",
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env-secret"}}}],
                            "envFrom": [{"configMapRef": {"name": "env-map"}}]}],
            "volumes": [
                {"name": "s", "secret": {"secretName": "vol-secret"}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "e", "ephemeral": {}},
                {"name": "p", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}},
                {"name": "csi", "csi": {"nodePublishSecretRef": {"name": "csi-secret"}}},
            ],
        },
    }))
}

fn cluster() -> NodeAuthorizer {
    let nodes = NodeAuthorizer::new();
    nodes.set(&pod());
    nodes.set(&object(json!({"kind": "PersistentVolume", "metadata": {"name": "pv"}, "spec": {
        "claimRef": {"namespace": "a", "name": "claim"},
        "csi": {"nodeStageSecretRef": {"namespace": "secrets", "name": "stage"}}}})));
    nodes.set(&object(
        json!({"kind": "VolumeAttachment", "metadata": {"name": "va"}, "spec": {"nodeName": "n1"}}),
    ));
    nodes
}

fn ask(nodes: &NodeAuthorizer, node: &str, question: &str) -> Answer {
    // verb group/resource[/subresource] namespace/name [field selector]
    let mut words = question.split(' ');
    let mut next = || words.next().unwrap_or("");
    let (verb, what, which, selector) = (next(), next(), next(), next());
    let mut parts = what.split('/');
    let mut part = || parts.next().unwrap_or("").to_owned();
    let (namespace, name) = which.split_once('/').unwrap_or(("", which));
    let request = RequestInfo {
        verb: verb.into(),
        is_resource: true,
        api_group: part(),
        resource: part(),
        subresource: part(),
        namespace: namespace.into(),
        name: name.into(),
        field_selector: selector.into(),
        ..RequestInfo::default()
    };
    let user = UserInfo::new(&format!("system:node:{node}"), &["system:nodes", "system:authenticated"]);
    nodes.decide(&Attributes { user: &user, request: &request })
}

#[test]
fn a_node_reads_what_its_pods_refer_to() {
    let nodes = cluster();
    let none = "no relationship found between node 'n2' and this object";
    for question in [
        "get /secrets a/pull",
        "get /secrets a/env-secret",
        "list /secrets a/vol-secret",
        "watch /secrets a/csi-secret",
        "get /secrets secrets/stage",
        "get /configmaps a/env-map",
        "watch /configmaps a/kube-root-ca.crt",
        "get /persistentvolumeclaims a/claim",
        "get /persistentvolumeclaims a/p-e",
        "patch /persistentvolumeclaims/status a/claim",
        "get /persistentvolumes pv",
        "get storage.k8s.io/volumeattachments va",
        "create /serviceaccounts/token a/bot",
        "get /pods a/p",
    ] {
        assert!(ask(&nodes, "n1", question).is_allowed(), "{question}");
        let other = ask(&nodes, "n2", question);
        assert_eq!((other.decision, other.reason()), (Decision::NoOpinion, none), "{question}");
    }
    nodes.remove("Pod", "a", "p");
    assert!(!ask(&nodes, "n1", "get /secrets a/pull").is_allowed());
    assert!(!ask(&nodes, "n1", "get /pods a/p").is_allowed());
}

#[test]
fn refusals_say_why() {
    let nodes = cluster();
    for (question, want) in [
        ("create /secrets a/pull", "can only read resources of this type"),
        ("list /secrets a/", "No Object name found"),
        ("list /secrets /pull", "can only read namespaced object of this type"),
        ("list /persistentvolumes ", "can only get individual resources of this type"),
        ("create /serviceaccounts a/bot", "can only create token subresource of serviceaccount"),
        (
            "list coordination.k8s.io/leases kube-node-lease/",
            "can only get, create, update, patch, or delete a node lease",
        ),
        (
            "get coordination.k8s.io/leases a/n1",
            r#"can only access leases in the "kube-node-lease" system namespace"#,
        ),
        (
            "get coordination.k8s.io/leases kube-node-lease/n2",
            "can only access node lease with the same name as the requesting node",
        ),
        (
            "get storage.k8s.io/csinodes n2",
            "can only access CSINode with the same name as the requesting node",
        ),
        ("list /nodes ", "node 'n1' cannot read all nodes, only its own Node object"),
        ("get /nodes n2", "node 'n1' cannot read 'n2', only its own Node object"),
        ("list /pods ", "can only list/watch pods with spec.nodeName field selector"),
        ("list /pods / spec.nodeName=n2", "can only list/watch pods with spec.nodeName field selector"),
        // An escaped comma is part of a value: this selects pods of all nodes.
        (
            "list /pods / status.phase!=x\\,spec.nodeName=n1",
            "can only list/watch pods with spec.nodeName field selector",
        ),
        ("list /pods / spec.nodeName!=n1", "can only list/watch pods with spec.nodeName field selector"),
        ("delete /nodes n1", ""),
        ("get apps/deployments a/x", ""),
    ] {
        let answer = ask(&nodes, "n1", question);
        assert_eq!((answer.decision, answer.reason()), (Decision::NoOpinion, want), "{question}");
    }
}

#[test]
fn what_every_node_may_do() {
    let nodes = cluster();
    for question in [
        "list /services ",
        "create /nodes ",
        "patch /nodes/status n1",
        "watch /nodes n1",
        "list /pods / spec.nodeName=n1",
        "watch /pods / status.phase!=Failed,spec.nodeName==n1",
        "patch /pods/status a/p",
        "create /pods/eviction a/p",
        "create /events default/",
        "create coordination.k8s.io/leases kube-node-lease/",
        "update coordination.k8s.io/leases kube-node-lease/n1",
        "create certificates.k8s.io/certificatesigningrequests ",
        "list node.k8s.io/runtimeclasses ",
        "create authentication.k8s.io/tokenreviews ",
    ] {
        assert!(ask(&nodes, "n1", question).is_allowed(), "{question}");
    }
    let request = RequestInfo {
        verb: "list".into(),
        is_resource: true,
        resource: "services".into(),
        ..RequestInfo::default()
    };
    let impostor = UserInfo::new("system:node:n1", &["system:authenticated"]);
    assert_eq!(nodes.decide(&Attributes { user: &impostor, request: &request }), Answer::NO_OPINION);
    let nameless = UserInfo::new("system:node:", &["system:nodes"]);
    let answer = nodes.decide(&Attributes { user: &nameless, request: &request });
    assert_eq!(answer.reason(), r#"unknown node for user "system:node:""#);
}

#[test]
fn a_mirror_pod_gives_its_node_nothing() {
    let nodes = NodeAuthorizer::new();
    let mut mirror = pod();
    mirror.set(&["metadata", "annotations", "kubernetes.io/config.mirror"], "x");
    nodes.set(&mirror);
    assert!(ask(&nodes, "n1", "get /pods a/p").is_allowed());
    assert!(!ask(&nodes, "n1", "get /secrets a/pull").is_allowed());
}

/// Prints what one decision costs; judges nothing.
#[test]
fn prints_the_cost_of_a_decision() {
    let nodes = cluster();
    for question in ["get /secrets a/pull", "patch /nodes/status n1", "list /services "] {
        let rounds = 20_000_u32;
        let start = Instant::now();
        let allowed = (0..rounds).filter(|_| ask(&nodes, "n1", question).is_allowed()).count();
        println!("system:node {question}: {:?} a decision, asking included", start.elapsed() / rounds);
        assert_eq!(allowed, rounds as usize);
    }
}
