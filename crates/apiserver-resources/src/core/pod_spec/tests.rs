//! Pods with one thing wrong each, and what upstream says of them.
use machinery::Object;
use serde_json::{Value, json};

use crate::strategy_for;

fn pod(spec: Value) -> Object {
    let mut object = Object::from_value(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}),
    )
    .unwrap();
    strategy_for("", "pods", "").fill_defaults(&mut object);
    object
}

fn problems(spec: Value) -> Vec<String> {
    strategy_for("", "pods", "").admit_create(&mut pod(spec)).iter().map(ToString::to_string).collect()
}

/// A pod of one container with these fields.
fn container(fields: Value) -> Value {
    let mut container = json!({"name": "c", "image": "i"});
    for (key, value) in fields.as_object().unwrap() {
        container[key] = value.clone();
    }
    json!({"containers": [container], "volumes": [{"name": "v"}]})
}

#[test]
fn good_pods_have_no_problem() {
    for spec in [
        container(json!({})),
        container(json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "a/b"}]})),
        container(
            json!({"env": [{"name": "A.b-c", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}}]}),
        ),
        container(
            json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}}}),
        ),
        container(
            json!({"livenessProbe": {"tcpSocket": {"port": "web"}}, "ports": [{"name": "web", "containerPort": 80}]}),
        ),
    ] {
        assert_eq!(problems(spec), [""; 0]);
    }
}

#[test]
fn containers_are_checked() {
    for (fields, expected) in [
        (json!({"name": ""}), "spec.containers[0].name: Required value"),
        (
            json!({"name": "A"}),
            "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
        (json!({"image": ""}), "spec.containers[0].image: Required value"),
        (
            json!({"image": "a "}),
            "spec.containers[0].image: Invalid value: \"a \": must not have leading or trailing whitespace",
        ),
        (
            json!({"imagePullPolicy": "Sometimes"}),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            json!({"ports": [{"containerPort": 0}]}),
            "spec.containers[0].ports[0].containerPort: Required value",
        ),
        (
            json!({"ports": [{"containerPort": 80, "protocol": "X"}]}),
            "spec.containers[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            json!({"ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]}),
            "spec.containers[0].ports[1].name: Duplicate value: \"a\"",
        ),
        (
            json!({"ports": [{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}]}),
            "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//9\"",
        ),
        (
            json!({"volumeMounts": [{"name": "w", "mountPath": "/w"}]}),
            "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/v"}]}),
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/v\": must be unique",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "../x"}]}),
            "spec.containers[0].volumeMounts[0].subPath: Invalid value: \"../x\": must not contain '..'",
        ),
        (json!({"env": [{"value": "x"}]}), "spec.containers[0].env[0].name: Required value"),
        (
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.hostname"}}}]}),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.hostname\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
        ),
        (
            json!({"env": [{"name": "A", "value": "x", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]}),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ),
        (
            json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            json!({"resources": {"limits": {"cpu": "-1"}, "requests": {"cpu": "-1"}}}),
            "spec.containers[0].resources.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            json!({"resources": {"limits": {"frob": "1"}, "requests": {}}}),
            "spec.containers[0].resources.limits[frob]: Invalid value: \"frob\": must be a standard resource for containers",
        ),
        (
            json!({"livenessProbe": {"exec": {"command": ["a"]}, "successThreshold": 2}}),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            json!({"readinessProbe": {}}),
            "spec.containers[0].readinessProbe: Required value: must specify a handler type",
        ),
        (
            json!({"readinessProbe": {"tcpSocket": {"port": 1}, "httpGet": {"port": 1}}}),
            "spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (
            json!({"lifecycle": {"preStop": {"exec": {}}}}),
            "spec.containers[0].lifecycle.preStop.exec.command: Required value",
        ),
    ] {
        let found = problems(container(fields));
        assert!(found.first().is_some_and(|first| first == expected), "{expected}\n{found:#?}");
    }
}

#[test]
fn the_rest_of_a_pod_is_checked() {
    let with = |fields: Value| {
        let mut spec = container(json!({}));
        for (key, value) in fields.as_object().unwrap() {
            spec[key] = value.clone();
        }
        spec
    };
    for (fields, expected) in [
        (json!({"containers": []}), "spec.containers: Required value"),
        (
            json!({"restartPolicy": "Maybe"}),
            "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ),
        (json!({"volumes": [{"name": "a"}, {"name": "a"}]}), "spec.volumes[1].name: Duplicate value: \"a\""),
        (
            json!({"volumes": [{"name": "a", "emptyDir": {}, "secret": {"secretName": "s"}}]}),
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
        ),
        (
            json!({"volumes": [{"name": "a", "secret": {}}]}),
            "spec.volumes[0].secret.secretName: Required value",
        ),
        (
            json!({"volumes": [{"name": "a", "hostPath": {"path": "/a/../b"}}]}),
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (
            json!({"volumes": [{"name": "a", "configMap": {"name": "c", "defaultMode": 512}}]}),
            "spec.volumes[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
        ),
        (
            json!({"activeDeadlineSeconds": 0}),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 4294967295, inclusive",
        ),
        (
            json!({"tolerations": [{"value": "x"}]}),
            "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        ),
        (
            json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]}),
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
        ),
        (
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
        ),
        (
            json!({"initContainers": [{"name": "c", "image": "i"}]}),
            "spec.initContainers[0].name: Duplicate value: \"c\"",
        ),
        (
            json!({"initContainers": [{"name": "i", "image": "i", "livenessProbe": {"tcpSocket": {"port": 1}}}]}),
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
        (
            json!({"ephemeralContainers": [{"name": "e", "image": "i"}]}),
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
        (
            json!({"dnsPolicy": "None"}),
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            json!({"securityContext": {"runAsUser": -1}}),
            "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
    ] {
        let found = problems(with(fields));
        assert!(found.iter().any(|p| p == expected), "{expected}\n{found:#?}");
    }
}

fn update(change: impl Fn(&mut Object)) -> (Object, Vec<String>) {
    let strategy = strategy_for("", "pods", "");
    let mut old = pod(container(json!({})));
    strategy.admit_create(&mut old);
    let mut new = old.clone();
    change(&mut new);
    let errors = strategy.admit_update(&mut new, &old).iter().map(ToString::to_string).collect();
    (new, errors)
}

#[test]
fn an_update_may_change_images_and_little_else() {
    let (new, errors) = update(|p| {
        p.0["spec"]["containers"][0]["image"] = "j".into();
        p.set(&["spec", "activeDeadlineSeconds"], 5);
        p.set(&["spec", "tolerations"], json!([{"operator": "Exists"}]));
    });
    assert_eq!((new.generation(), errors), (Some(2), Vec::new()));
    let (_, errors) = update(|p| p.set(&["spec", "hostname"], "h"));
    assert_eq!(
        errors,
        [
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n-\tspec.hostname: nil\n+\tspec.hostname: \"h\""
        ]
    );
    let (_, errors) = update(|p| p.set(&["spec", "initContainers"], json!([{"name": "i", "image": "i"}])));
    assert!(errors.contains(
        &"spec.initContainers: Forbidden: pod updates may not add or remove containers".to_owned()
    ));
}

#[test]
fn a_write_of_the_status_keeps_the_rest() {
    let strategy = strategy_for("", "pods", "status");
    let mut old = pod(container(json!({})));
    strategy_for("", "pods", "").admit_create(&mut old);
    old.set(&["metadata", "ownerReferences"], json!([{"name": "o"}]));
    let mut new = old.clone();
    new.set(&["metadata", "ownerReferences"], json!([]));
    new.set(&["metadata", "labels"], json!({"a": "b"}));
    new.set(&["spec", "hostname"], "h");
    new.set(&["status"], json!({"phase": "Running", "podIP": "10.0.0.1"}));
    strategy.fill_defaults(&mut new);
    assert_eq!(strategy.admit_update(&mut new, &old), []);
    assert_eq!(new.at(&["spec"]), old.at(&["spec"]));
    assert_eq!(new.at(&["metadata", "ownerReferences"]), old.at(&["metadata", "ownerReferences"]));
    assert_eq!(new.label("a"), Some("b"));
    assert_eq!(
        new.at(&["status"]),
        Some(
            &json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "qosClass": "BestEffort"})
        )
    );
}

#[test]
fn ephemeral_containers_have_their_own_way_in() {
    let strategy = strategy_for("", "pods", "ephemeralcontainers");
    let old = pod(container(json!({})));
    let mut new = old.clone();
    new.set(&["spec", "hostname"], "h");
    new.set(
        &["spec", "ephemeralContainers"],
        json!([{"name": "e", "image": "i", "targetContainerName": "c"}]),
    );
    strategy.fill_defaults(&mut new);
    assert_eq!(strategy.admit_update(&mut new, &old), []);
    assert_eq!(new.str_at(&["spec", "hostname"]), "");
    assert_eq!(new.list_at(&["spec", "ephemeralContainers"]).len(), 1);
    let mut gone = new.clone();
    gone.remove(&["spec", "ephemeralContainers"]);
    let errors = strategy.admit_update(&mut gone, &new);
    assert!(errors[0].to_string().contains("existing ephemeral containers \"e\" may not be removed"));
}
