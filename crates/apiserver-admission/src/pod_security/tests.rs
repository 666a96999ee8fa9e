use serde_json::json;

use super::*;
use crate::testing::{Ask, FakeCluster};

fn plugin(labels: Value) -> PodSecurity {
    let labels: serde_json::Map<String, Value> = labels
        .as_object()
        .unwrap()
        .iter()
        .map(|(k, v)| (format!("pod-security.kubernetes.io/{k}"), v.clone()))
        .collect();
    let namespace = json!({"metadata": {"name": "a", "labels": labels}});
    PodSecurity(Arc::new(FakeCluster::default().with(Resource::NAMESPACES, namespace)))
}

async fn check(level: &str, spec: Value, want: &str) {
    let ask = Ask::create_pod(json!({"metadata": {"name": "p", "namespace": "a"}, "spec": spec}));
    let got = ask.run(&plugin(json!({"enforce": level}))).await.err().unwrap_or_default();
    let head = format!("pods \"p\" is forbidden: violates PodSecurity \"{level}:latest\": ");
    assert_eq!(got.strip_prefix(&head).unwrap_or(&got), want);
}

fn hardened() -> Value {
    json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext":
            {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "t", "projected": {"sources": []}}],
    })
}

#[tokio::test]
async fn a_plain_pod_is_baseline_but_not_restricted() {
    let plain = json!({"containers": [{"name": "c", "image": "nginx"}]});
    check("baseline", plain.clone(), "").await;
    check(
        "restricted",
        plain,
        "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != \
         true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" \
         must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
    )
    .await;
    check("restricted", hardened(), "").await;
}

#[tokio::test]
async fn what_baseline_refuses() {
    let with = |container: Value| json!({"containers": [container]});
    for (spec, want) in [
        (json!({"hostNetwork": true, "hostIPC": true}), "host namespaces (hostNetwork=true, hostIPC=true)"),
        (
            json!({"containers": [{"name": "a", "securityContext": {"privileged": true}}], "initContainers":
                [{"name": "i", "securityContext": {"privileged": true}}]}),
            "privileged (containers \"i\", \"a\" must not set securityContext.privileged=true)",
        ),
        (
            with(
                json!({"name": "a", "securityContext": {"capabilities": {"add": ["SYS_ADMIN", "CHOWN", "NET_RAW"]}}}),
            ),
            "non-default capabilities (container \"a\" must not include \"NET_RAW\", \"SYS_ADMIN\" in \
             securityContext.capabilities.add)",
        ),
        (json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), "hostPath volumes (volume \"v\")"),
        (
            with(json!({"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 0}, {"hostPort": 443}]})),
            "hostPort (container \"a\" uses hostPorts 80, 443)",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_syncookies"}]}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"securityContext": {"seLinuxOptions": {"type": "spc_t", "user": "u"}}}),
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
        ),
        (
            with(json!({"name": "a", "securityContext": {"procMount": "Unmasked"}})),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
    ] {
        check("baseline", spec.clone(), want).await;
        check("privileged", spec, "").await;
    }
}

#[tokio::test]
async fn what_restricted_refuses_on_top() {
    let changed = |path: &[&str], value: Value| {
        let mut spec = crate::testing::object(hardened());
        spec.set(path, value);
        spec.into_value()
    };
    check(
        "restricted",
        changed(&["volumes"], json!([{"name": "v", "hostPath": {}}, {"name": "n", "nfs": {}}])),
        "restricted volume types (volumes \"v\", \"n\" use restricted volume types \"hostPath\", \"nfs\")",
    )
    .await;
    check(
        "restricted",
        changed(&["securityContext", "runAsNonRoot"], json!(false)),
        "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
    )
    .await;
    check(
        "restricted",
        changed(&["securityContext", "runAsUser"], json!(0)),
        "runAsUser=0 (pod must not set runAsUser=0)",
    )
    .await;
}

#[tokio::test]
async fn workloads_are_warned_not_refused() {
    let mut deployment = crate::testing::object(json!({"metadata": {"name": "d", "namespace": "a"}}));
    deployment.set(&["spec", "template", "spec"], json!({"hostPID": true}));
    let gvk = machinery::gvk::GroupVersionKind::new("apps", "v1", "Deployment");
    let gvr = machinery::gvk::GroupVersionResource::new("apps", "v1", "deployments");
    let user = machinery::request::UserInfo::new("jane", &[]);
    let mut a = Attributes {
        operation: Operation::Create,
        gvk: &gvk,
        gvr: &gvr,
        subresource: "",
        namespace: "a",
        name: "d",
        object: Some(&mut deployment),
        old: None,
        options: None,
        user: &user,
        dry_run: false,
        warnings: Vec::new(),
    };
    let plugin = plugin(json!({"enforce": "restricted", "warn": "baseline"}));
    plugin.mutate(&mut a).await.unwrap();
    plugin.validate(&a).await.unwrap();
    assert_eq!(a.warnings, ["would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"]);
}
