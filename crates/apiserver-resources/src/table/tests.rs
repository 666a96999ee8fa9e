//! Golden rows: an object and the cells that upstream prints.
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

/// Cells, all as text; the object was created five minutes ago.
fn cells(group: &str, plural: &str, mut object: Value) -> String {
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:55:00Z".into();
    let object = Object::from_value(object).unwrap();
    let row = row(group, plural, &object, now());
    assert_eq!(row.len(), columns(group, plural).len(), "one cell for each column of {plural}");
    let texts: Vec<String> = row
        .iter()
        .map(|cell| match cell {
            Value::String(s) => s.clone(),
            cell => cell.to_string(),
        })
        .collect();
    texts.join(" | ")
}

fn pod(spec: Value, status: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": spec, "status": status})
}

#[test]
fn pods() {
    let one = json!({"containers": [{"name": "a"}], "nodeName": "n"});
    let sidecar = json!({"containers": [{"name": "a"}], "initContainers": [
        {"name": "s", "restartPolicy": "Always"}, {"name": "i"}]});
    let running = json!({"name": "a", "ready": true, "state": {"running": {}}});
    for (spec, status, expected) in [
        (
            one.clone(),
            json!({"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [running]}),
            "p | 1/1 | Running | 0 | 5m | 10.0.0.1 | n | <none> | <none>",
        ),
        (
            one.clone(),
            json!({"phase": "Running", "containerStatuses": [{"restartCount": 3, "ready": true,
                "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2026-01-01T00:58:30Z"}}}]}),
            "p | 1/1 | Running | 3 (90s ago) | 5m | <none> | n | <none> | <none>",
        ),
        (
            one.clone(),
            json!({"phase": "Running", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            "p | 0/1 | CrashLoopBackOff | 0 | 5m | <none> | n | <none> | <none>",
        ),
        (
            one.clone(),
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
            "p | 0/1 | ExitCode:3 | 0 | 5m | <none> | n | <none> | <none>",
        ),
        (
            one.clone(),
            json!({"phase": "Failed", "reason": "Evicted"}),
            "p | 0/1 | Evicted | 0 | 5m | <none> | n | <none> | <none>",
        ),
        (
            json!({"containers": [{}, {}]}),
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [
                {"state": {"terminated": {"reason": "Completed"}}}, running]}),
            "p | 1/2 | Running | 0 | 5m | <none> | <none> | <none> | <none>",
        ),
        (
            sidecar.clone(),
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}},
                {"name": "i", "state": {"running": {}}}]}),
            "p | 1/2 | Init:1/2 | 1 | 5m | <none> | <none> | <none> | <none>",
        ),
        (
            sidecar,
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "s", "started": true, "ready": true},
                {"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
            "p | 1/2 | Init:Error | 0 | 5m | <none> | <none> | <none> | <none>",
        ),
        (
            json!({"containers": [{}], "readinessGates": [{"conditionType": "x/y"}]}),
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
            "p | 0/1 | SchedulingGated | 0 | 5m | <none> | <none> | <none> | 0/1",
        ),
    ] {
        assert_eq!(cells("", "pods", pod(spec, status)), expected);
    }
    let mut dying = pod(one, json!({"phase": "Running"}));
    dying["metadata"]["deletionTimestamp"] = "2026-01-01T00:59:00Z".into();
    assert_eq!(cells("", "pods", dying), "p | 0/1 | Terminating | 0 | 5m | <none> | n | <none> | <none>");
}

#[test]
fn workloads() {
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "x"},
        "matchExpressions": [{"key": "t", "operator": "In", "values": ["b", "a"]}]},
        "template": {"spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j"}]}}});
    let object = |status: Value| json!({"metadata": {"name": "w"}, "spec": spec, "status": status});
    for (plural, status, expected) in [
        (
            "deployments",
            json!({"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1}),
            "w | 2/3 | 3 | 1 | 5m | a,b | i:1,j | app=x,t in (a,b)",
        ),
        ("replicasets", json!({"replicas": 3}), "w | 3 | 3 | 0 | 5m | a,b | i:1,j | app=x,t in (a,b)"),
        ("statefulsets", json!({"readyReplicas": 1}), "w | 1/3 | 5m | a,b | i:1,j"),
        (
            "daemonsets",
            json!({"desiredNumberScheduled": 2, "numberReady": 1}),
            "w | 2 | 0 | 1 | 0 | 0 | <none> | 5m | a,b | i:1,j | app=x,t in (a,b)",
        ),
    ] {
        assert_eq!(cells("apps", plural, object(status)), expected);
    }
}

#[test]
fn jobs() {
    let job =
        |status: Value| json!({"metadata": {"name": "j"}, "spec": {"completions": 2}, "status": status});
    assert_eq!(cells("batch", "jobs", job(json!({}))), "j | Running | 0/2 |  | 5m |  |  | <none>");
    let done = json!({"succeeded": 2, "startTime": "2026-01-01T00:56:00Z", "completionTime": "2026-01-01T00:56:07Z",
        "conditions": [{"type": "Complete", "status": "True"}]});
    assert_eq!(cells("batch", "jobs", job(done)), "j | Complete | 2/2 | 7s | 5m |  |  | <none>");
    let cron = json!({"metadata": {"name": "c"}, "spec": {"schedule": "* * * * *", "suspend": false},
        "status": {"active": [{}], "lastScheduleTime": "2026-01-01T00:59:30Z"}});
    assert_eq!(
        cells("batch", "cronjobs", cron),
        "c | * * * * * | <none> | False | 1 | 30s | 5m |  |  | <none>"
    );
}

#[test]
fn services_and_endpoints() {
    let service = |spec: Value| json!({"metadata": {"name": "s"}, "spec": spec});
    for (spec, expected) in [
        (
            json!({"type": "ClusterIP", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 443, "protocol": "TCP"}]}),
            "s | ClusterIP | 10.96.0.1 | <none> | 443/TCP | 5m | <none>",
        ),
        (
            json!({"type": "NodePort", "clusterIP": "10.96.0.2", "selector": {"a": "b"},
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
            "s | NodePort | 10.96.0.2 | <none> | 80:30080/TCP,53/UDP | 5m | a=b",
        ),
        (json!({"type": "LoadBalancer"}), "s | LoadBalancer | <none> | <pending> | <none> | 5m | <none>"),
        (
            json!({"type": "ExternalName", "externalName": "x.y"}),
            "s | ExternalName | <none> | x.y | <none> | 5m | <none>",
        ),
    ] {
        assert_eq!(cells("", "services", service(spec)), expected);
    }
    let endpoints = json!({"metadata": {"name": "e"}, "subsets": [{"ports": [{"port": 80}],
        "addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}, {"ip": "1.1.1.3"}, {"ip": "1.1.1.4"}]}]});
    assert_eq!(cells("", "endpoints", endpoints), "e | 1.1.1.1:80,1.1.1.2:80,1.1.1.3:80 + 1 more... | 5m");
    assert_eq!(cells("", "endpoints", json!({"metadata": {"name": "e"}})), "e | <none> | 5m");
    let slice = json!({"metadata": {"name": "e"}, "addressType": "IPv4", "ports": [{"port": 80}],
        "endpoints": [{"addresses": ["1.1.1.1"]}, {"addresses": ["1.1.1.2"]}]});
    assert_eq!(cells("discovery.k8s.io", "endpointslices", slice), "e | IPv4 | 80 | 1.1.1.1,1.1.1.2 | 5m");
}

#[test]
fn nodes_and_namespaces() {
    let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": "",
        "kubernetes.io/role": "a"}}, "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}],
        "addresses": [{"type": "InternalIP", "address": "10.0.0.5"}], "nodeInfo": {"kubeletVersion": "v1.36.0"}}});
    assert_eq!(
        cells("", "nodes", node),
        "n | Ready,SchedulingDisabled | a,control-plane | 5m | v1.36.0 | 10.0.0.5 | <none> | <unknown> | <unknown> | <unknown>"
    );
    let ns = json!({"metadata": {"name": "n"}, "status": {"phase": "Active"}});
    assert_eq!(cells("", "namespaces", ns), "n | Active | 5m");
}

#[test]
fn events_of_both_groups_read_the_same() {
    let core = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "f"},
        "type": "Normal", "reason": "R", "message": " m\n", "source": {"component": "kubelet", "host": "h"},
        "firstTimestamp": "2026-01-01T00:59:00Z", "lastTimestamp": "2026-01-01T00:59:50Z", "count": 4});
    let own = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p", "fieldPath": "f"},
        "type": "Normal", "reason": "R", "note": " m\n", "deprecatedSource": {"component": "kubelet", "host": "h"},
        "deprecatedFirstTimestamp": "2026-01-01T00:59:00Z", "deprecatedLastTimestamp": "2026-01-01T00:59:50Z",
        "deprecatedCount": 4});
    let expected = "10s | Normal | R | pod/p | f | kubelet, h | m | 60s | 4 | e";
    assert_eq!(cells("", "events", core), expected);
    assert_eq!(cells("events.k8s.io", "events", own), expected);
    let series = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Node", "name": "n"},
        "eventTime": "2026-01-01T00:59:00.000000Z", "reportingController": "c", "reportingInstance": "i",
        "series": {"count": 7, "lastObservedTime": "2026-01-01T00:59:58.000000Z"}});
    assert_eq!(cells("events.k8s.io", "events", series), "2s |  |  | node/n |  | c, i |  | 60s | 7 | e");
}

#[test]
fn settings_and_access() {
    for (group, plural, object, expected) in [
        ("", "configmaps", json!({"data": {"a": ""}, "binaryData": {"b": ""}}), " | 2 | 5m"),
        ("", "secrets", json!({"type": "Opaque", "data": {"a": ""}}), " | Opaque | 1 | 5m"),
        ("", "serviceaccounts", json!({}), " | 5m"),
        (
            "",
            "componentstatuses",
            json!({"conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]}),
            " | Healthy | ok | ",
        ),
        ("coordination.k8s.io", "leases", json!({"spec": {"holderIdentity": "me"}}), " | me | 5m"),
        (
            "rbac.authorization.k8s.io",
            "rolebindings",
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"},
                {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]}),
            " | Role/r | 5m | u |  | n/s",
        ),
        ("rbac.authorization.k8s.io", "roles", json!({}), " | 2026-01-01T00:55:00Z"),
        (
            "scheduling.k8s.io",
            "priorityclasses",
            json!({"value": 7, "preemptionPolicy": "Never"}),
            " | 7 | false | 5m | Never",
        ),
        (
            "certificates.k8s.io",
            "certificatesigningrequests",
            json!({"spec": {"signerName": "s", "username": "u", "expirationSeconds": 3600},
                "status": {"conditions": [{"type": "Approved"}], "certificate": "eA=="}}),
            " | 5m | s | u | 60m | Approved,Issued",
        ),
        (
            "storage.k8s.io",
            "storageclasses",
            json!({"provisioner": "p", "metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}),
            " (default) | p | Delete | Immediate | false | 5m",
        ),
        (
            "policy",
            "poddisruptionbudgets",
            json!({"spec": {"minAvailable": "50%"}, "status": {"disruptionsAllowed": 1}}),
            " | 50% | N/A | 1 | 5m",
        ),
        (
            "autoscaling",
            "horizontalpodautoscalers",
            json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 9,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}}]}}),
            " | Deployment/d | cpu: <unknown>/80% | 1 | 9 | 0 | 5m",
        ),
        (
            "",
            "persistentvolumeclaims",
            json!({"spec": {"volumeName": "v", "storageClassName": "c", "volumeMode": "Filesystem"}, "status": {"phase": "Bound",
                "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}}),
            " | Bound | v | 1Gi | RWO | c | <unset> | 5m | Filesystem",
        ),
        (
            "networking.k8s.io",
            "ingressclasses",
            json!({"metadata": {"annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}}),
            " (default) |  | <none> | 5m",
        ),
        (
            "networking.k8s.io",
            "ingresses",
            json!({"spec": {"rules": [{"host": "a"}, {"host": "b"}, {"host": "c"}, {}]}}),
            " | <none> | a,b,c + 1 more... |  | 80 | 5m",
        ),
        (
            "admissionregistration.k8s.io",
            "validatingadmissionpolicybindings",
            json!({"spec": {"policyName": "p", "paramRef": {"name": "x"}}}),
            " | p | */x | 5m",
        ),
        (
            "admissionregistration.k8s.io",
            "mutatingadmissionpolicybindings",
            json!({"spec": {"policyName": "p", "paramRef": {"selector": {"matchLabels": {"a": "b"}}}}}),
            " | p | &LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},} | 5m",
        ),
        (
            "flowcontrol.apiserver.k8s.io",
            "prioritylevelconfigurations",
            json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}}}}),
            " | Limited | 5 | <none> | <none> | <none> | 5m",
        ),
        (
            "flowcontrol.apiserver.k8s.io",
            "prioritylevelconfigurations",
            json!({"spec": {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 5}}}),
            " | Exempt | <none> | <none> | <none> | <none> | 5m",
        ),
        (
            "resource.k8s.io",
            "resourceclaims",
            json!({"status": {"allocation": {}, "reservedFor": [{}]}}),
            " | allocated,reserved | 5m",
        ),
        ("resource.k8s.io", "resourceclaims", json!({}), " | pending | 5m"),
        (
            "resource.k8s.io",
            "resourcepoolstatusrequests",
            json!({"spec": {"driver": "d"}, "status": {"poolCount": 3, "pools": [{"totalDevices": 2}, {"validationError": "e"}],
                "conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:59:00Z"}]}}),
            " | d | 2 | 0 | 0 | 0 | 1 | 3 | Complete (2/3 pools) | 60s",
        ),
        (
            "scheduling.k8s.io",
            "podgroups",
            json!({"spec": {"schedulingPolicy": {"gang": {}}}, "status": {"conditions": [{"type": "PodGroupScheduled", "status": "False"}]}}),
            " | Gang | <none> | Unschedulable | 5m",
        ),
        (
            "storagemigration.k8s.io",
            "storageversionmigrations",
            json!({"spec": {"resource": {"group": "apps", "resource": "deployments"}},
                "status": {"conditions": [{"type": "Running", "status": "True"}]}}),
            " | deployments.apps | Running",
        ),
        (
            "autoscaling",
            "scale",
            json!({"spec": {"replicas": 3}, "status": {"replicas": 2}}),
            " | 3 | 2 | 5m",
        ),
        (
            "autoscaling",
            "horizontalpodautoscalers",
            json!({"spec": {"scaleTargetRef": {"kind": "D", "name": "d"}, "maxReplicas": 9, "metrics": [
                {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"averageValue": "5"}}},
                {"type": "External", "external": {"metric": {"name": "q"}, "target": {"averageValue": "30"}}},
                {"type": "Object", "object": {"target": {"value": "1"}}}]},
                "status": {"currentMetrics": [{"type": "Pods", "pods": {"current": {"averageValue": "4"}}},
                {"type": "External", "external": {"current": {"value": "3"}}}]}}),
            " | D/d | 4/5, <unknown>/30 (avg) + 1 more... | <unset> | 9 | 0 | 5m",
        ),
        ("example.com", "foos", json!({}), " | 5m"),
    ] {
        assert_eq!(cells(group, plural, object), expected, "{plural}");
    }
}

#[test]
fn every_kind_has_one_cell_for_each_column() {
    for kind in api::kinds::KINDS {
        cells(&kind.group, &kind.plural, json!({}));
    }
}

/// Names, types, formats and priorities of upstream's columns, 1.36: group, resource, then one column after the other.
const FACTS: &str = include_str!("columns.tsv");

#[test]
fn columns_are_those_of_upstream() {
    for line in FACTS.lines() {
        let mut parts = line.split('\t');
        let (group, plural) = (parts.next().unwrap(), parts.next().unwrap());
        let ours = columns(group, plural)
            .iter()
            .map(|c| format!("{},{},{},{}", c.name, c.ty, c.format, c.priority))
            .collect::<Vec<_>>();
        assert_eq!(ours, parts.collect::<Vec<_>>(), "{group} {plural}");
    }
    assert!(FACTS.lines().count() > 60);
}

#[test]
fn columns_are_described_by_the_schema() {
    for kind in api::kinds::KINDS {
        for column in columns(&kind.group, &kind.plural) {
            let text = column.description.text();
            let none = matches!(column.description, Doc::Says(""));
            assert!(none || !text.is_empty(), "{} {}: {:?}", kind.plural, column.name, column.description);
        }
    }
    let pod = columns("", "pods").iter().find(|c| c.name == "IP").unwrap();
    assert!(pod.description.text().starts_with("podIP address allocated to the pod."));
}

#[test]
fn pods_that_have_ended_say_so() {
    let ended = |phase: &str| {
        let pod = Object::from_value(json!({"status": {"phase": phase}})).unwrap();
        row_conditions("", "pods", &pod).map(|c| c[0]["reason"].clone())
    };
    assert_eq!(ended("Succeeded"), Some("Succeeded".into()));
    assert_eq!(ended("Failed"), Some("Failed".into()));
    assert_eq!(ended("Running"), None);
}
