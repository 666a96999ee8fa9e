//! The flow schemas and priority levels that every cluster starts with. Upstream:
//! apiserver/pkg/apis/flowcontrol/bootstrap/default.go, 1.36.
mod upkeep;

use machinery::Object;
use serde_json::{Value, json};

pub use upkeep::keep;

/// Says that the server keeps a specification as it ships it.
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// One priority level: name, shares, lendable percent, queues, hand size, length of a queue.
type Level = (&'static str, i64, i64, i64, i64, i64);

const LEVELS: [Level; 6] = [
    ("system", 30, 33, 64, 6, 50),
    ("node-high", 40, 25, 64, 6, 50),
    ("leader-election", 10, 0, 16, 4, 50),
    ("workload-high", 40, 50, 128, 6, 50),
    ("workload-low", 100, 90, 128, 6, 50),
    ("global-default", 20, 50, 128, 6, 50),
];

fn object(kind: &str, name: &str, spec: Value) -> Option<Object> {
    Object::from_value(json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}},
        "spec": spec,
    }))
}

/// All priority levels.
pub fn priority_levels() -> Vec<Object> {
    let own = LEVELS.map(|(name, shares, lendable, queues, hand, length)| {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": length});
        let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable,
            "limitResponse": {"type": "Queue", "queuing": queuing}});
        (name, json!({"type": "Limited", "limited": limited}))
    });
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let catch_all = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
        "limitResponse": {"type": "Reject"}}});
    let all = own.into_iter().chain([("exempt", exempt), ("catch-all", catch_all)]);
    all.filter_map(|(name, spec)| object("PriorityLevelConfiguration", name, spec)).collect()
}

fn groups(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn users(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

fn system_accounts(names: &[&str]) -> Vec<Value> {
    let account = |name: &&str| json!({"kind": "ServiceAccount", "serviceAccount": {"name": name, "namespace": "kube-system"}});
    names.iter().map(account).collect()
}

fn resources(
    verbs: &[&str],
    group: &[&str],
    resources: &[&str],
    namespaces: &[&str],
    cluster: bool,
) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": group, "resources": resources});
    if !namespaces.is_empty() {
        rule["namespaces"] = json!(namespaces);
    }
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

/// A rule about everything.
fn everything(subjects: Vec<Value>) -> Value {
    json!({
        "subjects": subjects,
        "resourceRules": [resources(&["*"], &["*"], &["*"], &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    })
}

/// All flow schemas.
pub fn flow_schemas() -> Vec<Object> {
    let nodes = || groups(&["system:nodes"]);
    let managers = ["system:kube-controller-manager", "system:kube-scheduler"];
    let probes = json!({"subjects": groups(&["system:unauthenticated", "system:authenticated"]),
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]});
    let heartbeats = json!({"subjects": nodes(), "resourceRules": [
        resources(&["*"], &[""], &["nodes", "nodes/status"], &["*"], true),
        resources(&["*"], &["coordination.k8s.io"], &["leases"], &["*"], false),
    ]});
    let electing: Vec<Value> = users(&managers).into_iter().chain(system_accounts(&["*"])).collect();
    let verbs = ["get", "create", "update"];
    let elections = json!({"subjects": electing,
        "resourceRules": [resources(&verbs, &["coordination.k8s.io"], &["leases"], &["*"], false)]});
    let anybody = groups(&["system:unauthenticated", "system:authenticated"]);
    let rows: [(&str, &str, i64, Option<&str>, Value); 11] = [
        ("exempt", "exempt", 1, None, everything(groups(&["system:masters"]))),
        ("probes", "exempt", 2, None, probes),
        ("system-leader-election", "leader-election", 100, Some("ByUser"), elections),
        ("system-node-high", "node-high", 400, Some("ByUser"), heartbeats),
        ("system-nodes", "system", 500, Some("ByUser"), everything(nodes())),
        (
            "kube-controller-manager",
            "workload-high",
            800,
            Some("ByNamespace"),
            everything(users(&managers[..1])),
        ),
        ("kube-scheduler", "workload-high", 800, Some("ByNamespace"), everything(users(&managers[1..]))),
        (
            "kube-system-service-accounts",
            "workload-high",
            900,
            Some("ByNamespace"),
            everything(system_accounts(&["*"])),
        ),
        (
            "service-accounts",
            "workload-low",
            9000,
            Some("ByUser"),
            everything(groups(&["system:serviceaccounts"])),
        ),
        ("global-default", "global-default", 9900, Some("ByUser"), everything(anybody.clone())),
        ("catch-all", "catch-all", 10_000, Some("ByUser"), everything(anybody)),
    ];
    rows.into_iter()
        .filter_map(|(name, level, precedence, method, rule)| {
            let mut spec = json!({"matchingPrecedence": precedence,
                "priorityLevelConfiguration": {"name": level}, "rules": [rule]});
            if let Some(method) = method {
                spec["distinguisherMethod"] = json!({ "type": method });
            }
            object("FlowSchema", name, spec)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cluster_starts_with_is_valid() {
        for (plural, objects) in
            [("flowschemas", flow_schemas()), ("prioritylevelconfigurations", priority_levels())]
        {
            let strategy = apiserver_resources::strategy_for("flowcontrol.apiserver.k8s.io", plural, "");
            for mut object in objects {
                let spec = object.at(&["spec"]).cloned();
                strategy.fill_defaults(&mut object);
                assert_eq!(object.at(&["spec"]).cloned(), spec, "{} is complete", object.name());
                assert_eq!(strategy.admit_create(&mut object), [], "{}", object.name());
            }
        }
        assert_eq!((flow_schemas().len(), priority_levels().len()), (11, 8));
    }
}
