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
    PodSecurity::new(Arc::new(FakeCluster::default().with(Resource::NAMESPACES, namespace)))
}

async fn check_at(level: &str, version: &str, spec: Value, want: &str) {
    let ask = Ask::create_pod(json!({"metadata": {"name": "p", "namespace": "a"}, "spec": spec}));
    let labels = json!({"enforce": level, "enforce-version": version});
    let got = ask.run(&plugin(labels)).await.err().unwrap_or_default();
    let head = format!("pods \"p\" is forbidden: violates PodSecurity \"{level}:{version}\": ");
    assert_eq!(got.strip_prefix(&head).unwrap_or(&got), want);
}

async fn check(level: &str, spec: Value, want: &str) {
    check_at(level, "latest", spec, want).await;
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
        annotations: Vec::new(),
    };
    let plugin = plugin(json!({"enforce": "restricted", "warn": "baseline"}));
    plugin.mutate(&mut a).await.unwrap();
    plugin.validate(&a).await.unwrap();
    assert_eq!(a.warnings, ["would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"]);
}

#[tokio::test]
async fn old_releases_have_their_own_rules() {
    let with = |security: Value| json!({"containers": [{"name": "c", "securityContext": security}]});
    let changed = |path: &[&str], value: Value| {
        let mut spec = crate::testing::object(hardened());
        spec.set(path, value);
        spec.into_value()
    };
    let probe = json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "1.2.3.4"}}}]});
    check_at("baseline", "v1.33", probe.clone(), "").await;
    let host = "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"1.2.3.4\")";
    check_at("baseline", "v1.34", probe, host).await;
    let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
    check_at("baseline", "v1.31", sysctl.clone(), "forbidden sysctls (net.ipv4.tcp_rmem)").await;
    check_at("baseline", "v1.32", sysctl, "").await;
    let engine = with(json!({"seLinuxOptions": {"type": "container_engine_t"}}));
    let refused = "seLinuxOptions (container \"c\" set forbidden securityContext.seLinuxOptions: type \"container_engine_t\")";
    check_at("baseline", "v1.30", engine.clone(), refused).await;
    check_at("baseline", "v1.31", engine, "").await;
    check_at("restricted", "v1.7", with(json!({"runAsNonRoot": true})), "").await;
    let escalates = "allowPrivilegeEscalation != false (container \"c\" must set \
                     securityContext.allowPrivilegeEscalation=false)";
    check_at("restricted", "v1.8", with(json!({"runAsNonRoot": true})), escalates).await;
    check_at("restricted", "v1.22", changed(&["securityContext", "runAsUser"], json!(0)), "").await;
    let own_users = |mut spec: Value| {
        spec["hostUsers"] = false.into();
        spec
    };
    let root = own_users(changed(&["securityContext", "runAsUser"], json!(0)));
    check_at("restricted", "v1.34", root.clone(), "runAsUser=0 (pod must not set runAsUser=0)").await;
    check_at("restricted", "v1.35", root, "").await;
    let unmasked = own_users(with(json!({"procMount": "Unmasked"})));
    check_at("baseline", "v1.35", unmasked.clone(), "").await;
    let refused = "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")";
    check_at("baseline", "v1.34", unmasked, refused).await;
    // What no release has yet is judged as by the latest.
    check_at("restricted", "v1.99", hardened(), "").await;
}

#[tokio::test]
async fn the_configuration_sets_defaults_and_exempts() {
    let config = json!({"apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
        "defaults": {"enforce": "baseline"},
        "exemptions": {"usernames": ["root"], "namespaces": ["free"], "runtimeClasses": ["kata"]}});
    let namespace = |name: &str| json!({"metadata": {"name": name}});
    let cluster =
        ["a", "free"].iter().fold(FakeCluster::default(), |c, n| c.with(Resource::NAMESPACES, namespace(n)));
    let plugin = PodSecurity::from_config(Arc::new(cluster), Some(&config)).unwrap();
    for (user, namespace, class, good) in [
        ("jane", "a", "", false),
        ("root", "a", "", true),
        ("jane", "free", "", true),
        ("jane", "a", "kata", true),
        ("jane", "a", "runc", false),
    ] {
        let spec = json!({"hostPID": true, "runtimeClassName": class});
        let pod = json!({"metadata": {"name": "p", "namespace": namespace}, "spec": spec});
        let ask = Ask { user: machinery::request::UserInfo::new(user, &[]), ..Ask::create_pod(pod) };
        let got = ask.run(&plugin).await;
        assert_eq!(got.is_ok(), good, "{user} {namespace} {class}: {got:?}");
    }
}

#[tokio::test]
async fn updates_are_judged_where_they_matter() {
    let spec = |image: &str, ephemeral: Value| json!({"hostPID": true, "containers": [{"name": "c", "image": image}], "ephemeralContainers": ephemeral});
    let pod = |spec: Value| {
        crate::testing::object(json!({"metadata": {"name": "p", "namespace": "a"}, "spec": spec}))
    };
    let none = || spec("x", json!([]));
    for (subresource, new, good) in [
        ("", none(), true),
        ("", spec("y", json!([])), false),
        ("status", spec("y", json!([])), true),
        ("ephemeralcontainers", spec("x", json!([{"name": "e", "image": "z"}])), false),
        ("resize", none(), true),
    ] {
        let ask = Ask {
            subresource,
            old: Some(pod(none())),
            object: Some(pod(new)),
            ..Ask::new(Operation::Update, ("", "pods"), "Pod")
        };
        let got = ask.run(&plugin(json!({"enforce": "baseline"}))).await;
        assert_eq!(got.is_ok(), good, "{subresource}: {got:?}");
    }
}

#[tokio::test]
async fn labels_of_namespaces_are_checked_and_old_pods_told_of() {
    let pod = |name: &str, spec: Value| json!({"metadata": {"name": name, "namespace": "a"}, "spec": spec});
    let cluster = FakeCluster::default()
        .with(Resource::PODS, pod("c", json!({"hostPID": true})))
        .with(Resource::PODS, pod("b", json!({"hostIPC": true})))
        .with(
            Resource::PODS,
            pod("d", json!({"containers": [{"name": "x", "securityContext": {"privileged": true}}]})),
        )
        .with(Resource::PODS, pod("fine", json!({})));
    let plugin = PodSecurity::new(Arc::new(cluster));
    let namespace = |level: &str| {
        let labels = json!({"pod-security.kubernetes.io/enforce": level});
        crate::testing::object(json!({"metadata": {"name": "a", "labels": labels}}))
    };
    let update = async |old: &str, new: &str| {
        let (mut object, old) = (namespace(new), namespace(old));
        let gvk = machinery::gvk::GroupVersionKind::new("", "v1", "Namespace");
        let gvr = machinery::gvk::GroupVersionResource::new("", "v1", "namespaces");
        let user = machinery::request::UserInfo::new("jane", &[]);
        let mut a = Attributes {
            operation: Operation::Update,
            gvk: &gvk,
            gvr: &gvr,
            subresource: "",
            namespace: "a",
            name: "a",
            object: Some(&mut object),
            old: Some(&old),
            options: None,
            user: &user,
            dry_run: false,
            warnings: Vec::new(),
            annotations: Vec::new(),
        };
        plugin.mutate(&mut a).await.map_err(|e| e.to_string())?;
        plugin.validate(&a).await.map_err(|e| e.to_string())?;
        Ok::<_, String>(a.warnings)
    };
    assert_eq!(
        update("privileged", "baseline").await.unwrap(),
        [
            "existing pods in namespace \"a\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "b (and 1 other pod): host namespaces",
            "d: privileged",
        ]
    );
    assert_eq!(update("restricted", "baseline").await, Ok(Vec::new()));
    assert_eq!(update("nonsense", "nonsense").await, Ok(Vec::new()));
    assert_eq!(
        update("baseline", "nonsense").await.unwrap_err(),
        "Namespace \"a\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \
         \"nonsense\": must be one of privileged, baseline, restricted"
    );
}

#[tokio::test]
async fn the_audit_trail_is_told() {
    let check = async |labels: Value, user: &str, want: &[(&str, &str)]| {
        let config = json!({"apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
            "exemptions": {"usernames": ["root"]}});
        let labels: serde_json::Map<String, Value> = labels
            .as_object()
            .unwrap()
            .iter()
            .map(|(k, v)| (format!("pod-security.kubernetes.io/{k}"), v.clone()))
            .collect();
        let namespace = json!({"metadata": {"name": "a", "labels": labels}});
        let cluster = FakeCluster::default().with(Resource::NAMESPACES, namespace);
        let plugin = PodSecurity::from_config(Arc::new(cluster), Some(&config)).unwrap();
        let pod = json!({"metadata": {"name": "p", "namespace": "a"}, "spec": {"hostPID": true}});
        let mut pod = crate::testing::object(pod);
        let gvk = machinery::gvk::GroupVersionKind::new("", "v1", "Pod");
        let gvr = machinery::gvk::GroupVersionResource::new("", "v1", "pods");
        let user = machinery::request::UserInfo::new(user, &[]);
        let mut a = Attributes {
            operation: Operation::Create,
            gvk: &gvk,
            gvr: &gvr,
            subresource: "",
            namespace: "a",
            name: "p",
            object: Some(&mut pod),
            old: None,
            options: None,
            user: &user,
            dry_run: false,
            warnings: Vec::new(),
            annotations: Vec::new(),
        };
        plugin.mutate(&mut a).await.unwrap();
        let told: Vec<(&str, &str)> = a
            .annotations
            .iter()
            .map(|(k, v)| (k.strip_prefix("pod-security.kubernetes.io/").unwrap(), v.as_str()))
            .collect();
        assert_eq!(told, want);
    };
    let violates = "would violate PodSecurity \"baseline:v1.30\": host namespaces (hostPID=true)";
    check(json!({}), "jane", &[("enforce-policy", "privileged:latest")]).await;
    check(
        json!({"audit": "baseline", "audit-version": "v1.30"}),
        "jane",
        &[("enforce-policy", "privileged:latest"), ("audit-violations", violates)],
    )
    .await;
    check(json!({"enforce": "baseline"}), "root", &[("exempt", "user")]).await;
    let wrong = "Failed to parse policy: metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"x\": must be \
                 one of privileged, baseline, restricted";
    check(json!({"warn": "x"}), "jane", &[("error", wrong), ("enforce-policy", "privileged:latest")]).await;
}
