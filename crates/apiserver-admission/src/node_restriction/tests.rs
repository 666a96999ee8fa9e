use serde_json::json;

use super::*;
use crate::testing::{Ask, FakeCluster, object};

fn plugin() -> NodeRestriction {
    let pod = |name: &str, node: &str| json!({"metadata": {"name": name, "namespace": "a", "uid": "u"}, "spec": {"nodeName": node}});
    let mut mine = object(pod("mine", "n1"));
    mine.set(
        &["spec", "volumes"],
        json!([
            {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}},
                {"serviceAccountToken": {"path": "v", "audience": "vault"}}]}},
            {"name": "d", "csi": {"driver": "wants.example"}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}},
        ]),
    );
    let wants = |audience: &str| json!([{"audience": audience}]);
    let driver =
        |name: &str, tokens: Value| json!({"metadata": {"name": name}, "spec": {"tokenRequests": tokens}});
    NodeRestriction(Arc::new(
        FakeCluster::default()
            .with(Resource::NODES, json!({"metadata": {"name": "n1", "uid": "node-uid"}}))
            .with(Resource::PODS, mine.into_value())
            .with(Resource::CSI_DRIVERS, driver("wants.example", wants("inline")))
            .with(Resource::CSI_DRIVERS, driver("other.example", wants("claimed")))
            .with(
                Resource::VOLUME_CLAIMS,
                json!({"metadata": {"name": "claim", "namespace": "a"}, "spec": {"volumeName": "pv"}}),
            )
            .with(
                Resource::VOLUMES,
                json!({"metadata": {"name": "pv"}, "spec": {"csi": {"driver": "other.example"}}}),
            )
            .with(Resource::PODS, pod("other", "n2")),
    ))
}

fn node() -> UserInfo {
    UserInfo::new("system:node:n1", &["system:nodes"])
}

fn mirror() -> Value {
    json!({
        "metadata": {"name": "p", "namespace": "a", "annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences":
            [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "node-uid", "controller": true}]},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
    })
}

async fn check(ask: Ask, want: &str) {
    let got = Ask { user: node(), ..ask }.run(&plugin()).await.err().unwrap_or_default();
    let got = got.split_once(" is forbidden: ").map_or(got.as_str(), |(_, why)| why);
    assert_eq!(got, want);
}

#[tokio::test]
async fn a_node_makes_only_its_own_mirror_pods() {
    let changed = |path: &[&str], value: Value| {
        let mut pod = object(mirror());
        pod.set(path, value);
        Ask::create_pod(pod.into_value())
    };
    check(Ask::create_pod(mirror()), "").await;
    check(
        changed(&["metadata", "annotations"], json!({})),
        r#"pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods"#,
    )
    .await;
    for (path, value, why) in [
        (&["spec", "nodeName"][..], json!("n2"), "only create pods with spec.nodeName set to itself"),
        (
            &["metadata", "ownerReferences"],
            json!([]),
            "only create pods with an owner reference set to itself",
        ),
        (
            &["metadata", "ownerReferences"],
            json!([{}, {}]),
            "only create pods with a single owner reference set to itself",
        ),
        (
            &["metadata", "ownerReferences"],
            json!([{"apiVersion": "v1", "kind": "Node", "name": "n1"}]),
            "only create pods with a controller owner reference set to itself",
        ),
        (&["spec", "serviceAccountName"], json!("x"), "not create pods that reference a service account"),
        (
            &["spec", "volumes"],
            json!([{"secret": {"secretName": "s"}}]),
            "not create pods that reference secrets",
        ),
        (
            &["spec", "volumes"],
            json!([{"configMap": {"name": "s"}}]),
            "not create pods that reference configmaps",
        ),
        (
            &["spec", "volumes"],
            json!([{"persistentVolumeClaim": {"claimName": "s"}}]),
            "not create pods that reference persistentvolumeclaims",
        ),
    ] {
        check(changed(path, value), &format!("node \"n1\" can {why}")).await;
    }
    let mut stale = object(mirror());
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "old", "controller": true}]);
    stale.set(&["metadata", "ownerReferences"], owner);
    check(Ask::create_pod(stale.into_value()), "node n1 UID mismatch: expected old got node-uid").await;
}

#[tokio::test]
async fn a_node_touches_only_its_own_pods() {
    let on = |operation: Operation, name: &'static str, subresource: &'static str| Ask {
        operation,
        subresource,
        name: Some(name),
        namespace: Some("a"),
        object: None,
        ..Ask::create_pod(json!({}))
    };
    check(on(Operation::Delete, "mine", ""), "").await;
    check(
        on(Operation::Delete, "other", ""),
        r#"node "n1" can only delete pods with spec.nodeName set to itself"#,
    )
    .await;
    check(on(Operation::Delete, "gone", ""), r#"pods "gone" not found"#).await;
    check(
        on(Operation::Update, "mine", ""),
        r#"unexpected operation "UPDATE", node "n1" can only create and delete mirror pods"#,
    )
    .await;
    check(on(Operation::Create, "mine", "eviction"), "").await;
    check(
        on(Operation::Create, "other", "eviction"),
        "node n1 can only evict pods with spec.nodeName set to itself",
    )
    .await;
    check(
        on(Operation::Update, "mine", "resize"),
        r#"unexpected pod subresource "resize", only 'status' and 'eviction' are allowed"#,
    )
    .await;
    let pod = |labels: Value, node: &str| {
        object(json!({"metadata": {"name": "p", "labels": labels}, "spec": {"nodeName": node}}))
    };
    let status = |old: Object, new: Object| Ask {
        operation: Operation::Update,
        subresource: "status",
        old: Some(old),
        object: Some(new),
        ..Ask::create_pod(json!({}))
    };
    check(status(pod(json!({}), "n1"), pod(json!({}), "n1")), "").await;
    check(
        status(pod(json!({}), "n2"), pod(json!({}), "n2")),
        r#"node "n1" can only update pod status for pods with spec.nodeName set to itself"#,
    )
    .await;
    check(
        status(pod(json!({}), "n1"), pod(json!({"a": "b"}), "n1")),
        r#"node "n1" cannot update labels through pod status"#,
    )
    .await;
}

#[tokio::test]
async fn a_node_shapes_only_itself() {
    let value = |labels: Value| json!({"metadata": {"name": "n1", "labels": labels}, "spec": {}});
    let create = |labels: Value| Ask {
        object: Some(object(value(labels))),
        ..Ask::new(Operation::Create, ("", "nodes"), "Node")
    };
    let own = json!({"kubernetes.io/hostname": "n1", "node.kubernetes.io/x": "y", "example.com/role": "z"});
    check(create(own.clone()), "").await;
    let role = json!({"node-role.kubernetes.io/control-plane": "", "node-restriction.kubernetes.io/x": ""});
    check(
        create(role.clone()),
        "node \"n1\" is not allowed to set the following labels: node-restriction.kubernetes.io/x, \
         node-role.kubernetes.io/control-plane",
    )
    .await;
    let update = |old: Value, new: Value| Ask {
        old: Some(object(old)),
        object: Some(object(new)),
        ..Ask::new(Operation::Update, ("", "nodes"), "Node")
    };
    check(update(value(role.clone()), value(role.clone())), "").await;
    check(
        update(value(role), value(own)),
        "is not allowed to modify labels: node-restriction.kubernetes.io/x, node-role.kubernetes.io/control-plane",
    )
    .await;
    let mut tainted = value(json!({}));
    tainted["spec"]["taints"] = json!([{"key": "x"}]);
    check(update(value(json!({})), tainted), r#"node "n1" is not allowed to modify taints"#).await;
    let other = Ask { name: Some("n2"), ..create(json!({})) };
    check(other, r#"node "n1" is not allowed to modify node "n2""#).await;
}

#[tokio::test]
async fn leases_and_tokens() {
    let lease = |namespace: &str, name: &str| Ask {
        object: Some(object(json!({"metadata": {"namespace": namespace, "name": name}}))),
        ..Ask::new(Operation::Create, ("coordination.k8s.io", "leases"), "Lease")
    };
    check(lease("kube-node-lease", "n1"), "").await;
    check(lease("a", "n1"), r#"can only access leases in the "kube-node-lease" system namespace"#).await;
    check(
        lease("kube-node-lease", "n2"),
        "can only access node lease with the same name as the requesting node",
    )
    .await;
    let token = |bound: Value| Ask {
        subresource: "token",
        object: Some(object(
            json!({"metadata": {"namespace": "a", "name": "bot"}, "spec": {"boundObjectRef": bound}}),
        )),
        ..Ask::new(Operation::Create, ("", "serviceaccounts"), "TokenRequest")
    };
    let pod = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
    check(token(pod("mine", "u")), "").await;
    check(token(json!(null)), "node requested token not bound to a pod").await;
    check(token(pod("mine", "")), "node requested token with a pod binding without a uid").await;
    check(token(pod("other", "u")), "node requested token bound to a pod scheduled on a different node")
        .await;
    let aimed = |audiences: Value| {
        let mut ask = token(pod("mine", "u"));
        if let Some(object) = &mut ask.object {
            object.set(&["spec", "audiences"], audiences);
        }
        ask
    };
    for audience in ["", "vault", "inline", "claimed"] {
        check(aimed(json!([audience])), "").await;
    }
    check(aimed(json!(["elsewhere"])), "audience \"elsewhere\" not found in pod spec volume").await;
    check(aimed(json!(["vault", "inline"])), "node may only request 0 or 1 audiences").await;
}

#[tokio::test]
async fn others_are_not_concerned() {
    let ask = Ask {
        user: UserInfo::new("jane", &["system:nodes"]),
        ..Ask::create_pod(json!({"metadata": {"name": "p"}}))
    };
    assert!(ask.run(&plugin()).await.is_ok());
}

#[tokio::test]
async fn certificates_of_its_own_name_only() {
    let ask = |name: &str, signer: &str| {
        let key = pki::PrivateKey::generate(pki::KeyAlgorithm::EcdsaP256).unwrap();
        let pem = key.request(&pki::Subject::new(name).in_group("system:nodes"), &[]).unwrap();
        let csr = json!({"metadata": {"name": "r"}, "spec": {"signerName": signer, "request": STANDARD.encode(pem)}});
        Ask {
            object: Some(object(csr)),
            ..Ask::new(
                Operation::Create,
                ("certificates.k8s.io", "certificatesigningrequests"),
                "CertificateSigningRequest",
            )
        }
    };
    let refused = "can only create a node CSR with CN=system:node:n1";
    check(ask("system:node:n1", "kubernetes.io/kubelet-serving"), "").await;
    check(ask("system:node:n1", "kubernetes.io/kube-apiserver-client-kubelet"), "").await;
    check(ask("system:node:n2", "kubernetes.io/kubelet-serving"), refused).await;
    check(ask("root", "kubernetes.io/kube-apiserver-client-kubelet"), refused).await;
    check(ask("some-other-identity", "kubernetes.io/kube-apiserver-client"), "").await;
}
