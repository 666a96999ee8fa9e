//! Pods and templates, and what is said of them.
use serde_json::{Value, json};

use super::*;
use crate::strategy_for;

fn of(spec: Value) -> String {
    let pod = Object::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
    strategy_for("", "pods", "").warnings(&pod, None).join("\n")
}

#[test]
fn each_oddity_is_told() {
    let container = |more: Value| {
        let mut container = json!({"name": "c"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"containers": [container]})
    };
    let port = |port: Value| {
        let one = json!({"containerPort": 80, "protocol": "TCP", "hostPort": 80});
        container(json!({"ports": [one, port]}))
    };
    let old = json!({"key": "beta.kubernetes.io/os", "operator": "In", "values": ["a b"]});
    for (spec, expected) in [
        (json!({}), ""),
        (
            json!({"nodeSelector": {"node-role.kubernetes.io/master": ""}}),
            "spec.nodeSelector[node-role.kubernetes.io/master]: use \"node-role.kubernetes.io/control-plane\" instead",
        ),
        (
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [old]}]}}}}),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/os is deprecated since v1.14; use \"kubernetes.io/os\" instead",
        ),
        (
            json!({"topologySpreadConstraints": [{"topologyKey": "zone"}]}),
            "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
        ),
        (
            json!({"volumes": [{"name": "v", "storageos": {}}]}),
            "spec.volumes[0].storageOS: deprecated in v1.22, non-functional in v1.25+",
        ),
        (
            json!({"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec":
                {"resources": {"requests": {"storage": "1500m"}}}}}}]}),
            "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]: fractional byte value \"1500m\" is invalid, must be an integer",
        ),
        (
            json!({"volumes": [{"name": "v", "configMap": {"name": "m", "items": [{"key": "a", "path": "x/y"}, {"key": "b", "path": "x/"}]}}]}),
            "volume \"v\" (ConfigMap \"m\"): overlapping paths: \"x\" with \"x/y\"",
        ),
        (
            json!({"volumes": [{"name": "v", "projected": {"sources": [{},
                {"secret": {"name": "s", "items": [{"key": "a", "path": "t"}]}}, {"serviceAccountToken": {"path": "t"}}]}}]}),
            "volume \"v\" (Projected) has no sources provided\nvolume \"v\" (Projected): overlapping paths: \"t\" (ServiceAccountToken) with \"t\" (Secret \"s\")",
        ),
        (
            json!({"hostAliases": [{"ip": "1.2.3.4"}, {"ip": "1.2.3.4"}]}),
            "spec.hostAliases[1].ip: duplicate ip \"1.2.3.4\"",
        ),
        (
            json!({"imagePullSecrets": [{"name": "a"}, {"name": "a"}, {}]}),
            "spec.imagePullSecrets[1].name: duplicate name \"a\"\nspec.imagePullSecrets[2].name: invalid empty name \"\"",
        ),
        (
            container(json!({"resources": {"limits": {"memory": "100m"}}})),
            "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
        ),
        (container(json!({"env": [{"name": "A", "value": "x"}, {"name": "A", "value": "y$(A)"}]})), ""),
        (
            container(json!({"env": [{"name": "A"}, {"name": "A", "value": "$(A)"}]})),
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
        ),
        (
            port(json!({"containerPort": 80, "protocol": "TCP", "hostPort": 80})),
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
        ),
        (
            port(json!({"containerPort": 80, "protocol": "TCP"})),
            "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
        ),
        (
            port(json!({"containerPort": 80, "protocol": "TCP", "hostPort": 80, "hostIP": "1.2.3.4"})),
            "spec.containers[0].ports[1]: dangerously ambiguous port definition with spec.containers[0].ports[0]",
        ),
        (port(json!({"containerPort": 80, "protocol": "UDP"})), ""),
        (
            container(
                json!({"ports": [{"name": "a", "containerPort": 1, "protocol": "TCP"}, {"name": "a", "containerPort": 2, "protocol": "TCP"}]}),
            ),
            "spec.containers[0].ports[1]: duplicate port name \"a\" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]",
        ),
        (
            container(json!({"ports": [{"containerPort": 1, "protocol": "TCP", "hostIP": "2.2.2.2"}]})),
            "spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:1 Protocol:TCP HostIP:2.2.2.2}",
        ),
        (
            json!({"terminationGracePeriodSeconds": -1}),
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
        ),
        (
            json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": {}}]}}}),
            "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod",
        ),
        (
            json!({"dnsConfig": {"nameservers": ["010.0.0.1"]}}),
            "spec.dnsConfig.nameservers[0]: non-standard IP address \"010.0.0.1\" is invalid: use \"10.0.0.1\"",
        ),
    ] {
        assert_eq!(of(spec.clone()), expected, "{spec}");
    }
}

#[test]
fn annotations_that_became_fields() {
    let pod =
        |annotations: Value, spec: Value| json!({"metadata": {"annotations": annotations}, "spec": spec});
    let told = |template: Value| {
        let set = json!({"metadata": {"name": "d"}, "spec": {"template": template}});
        of_template(&Object::from_value(set).unwrap(), None, &["spec", "template"]).join("\n")
    };
    let apparmor = json!({"container.apparmor.security.beta.kubernetes.io/c": "localhost/x"});
    let c = json!([{"name": "c"}]);
    assert_eq!(
        told(pod(apparmor.clone(), json!({"containers": c}))),
        "spec.template.metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the \"appArmorProfile\" field instead"
    );
    let same = json!({"type": "Localhost", "localhostProfile": "x"});
    assert_eq!(
        told(pod(apparmor, json!({"containers": c, "securityContext": {"appArmorProfile": same}}))),
        ""
    );
    assert_eq!(
        told(pod(json!({"seccomp.security.alpha.kubernetes.io/pod": "x"}), json!({}))),
        "spec.template.metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the \"seccompProfile\" field instead"
    );
    assert_eq!(
        told(pod(json!({"security.alpha.kubernetes.io/sysctls": "x"}), json!({}))),
        "spec.template.metadata.annotations[security.alpha.kubernetes.io/sysctls]: non-functional in v1.11+; use the \"sysctls\" field instead"
    );
}

#[test]
fn names_that_are_no_host_names_are_told_once() {
    let named = |plural: &str, group: &str| {
        let object = Object::from_value(json!({"metadata": {"name": "a.b"}})).unwrap();
        let told = strategy_for(group, plural, "").warnings(&object, None);
        (told.len(), strategy_for(group, plural, "").warnings(&object, Some(&object)).len())
    };
    for (group, plural) in
        [("apps", "deployments"), ("apps", "replicasets"), ("batch", "jobs"), ("batch", "cronjobs")]
    {
        assert_eq!(named(plural, group), (1, 0), "{plural}");
    }
    assert_eq!(named("pods", ""), (1, 0));
    assert_eq!(named("daemonsets", "apps"), (0, 0));
}
