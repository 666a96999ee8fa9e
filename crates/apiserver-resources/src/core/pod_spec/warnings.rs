//! What is allowed in a pod specification but surely not meant (pkg/api/pod/warnings.go).
use machinery::Object;

use crate::tree::At;

/// Labels of nodes that have newer names.
const OLD_NODE_LABELS: [(&str, &str, &str); 5] = [
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
];

/// Warnings about the pod specification at a path of an object. An update warns only of a changed one.
pub(crate) fn warnings(new: &Object, old: Option<&Object>, path: &[&'static str]) -> Vec<String> {
    let spec = At::object(new).fields(path);
    if old.is_some_and(|old| crate::tree::same(spec.get(), At::object(old).fields(path).get())) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (label, since, now) in OLD_NODE_LABELS {
        let at = spec.field("nodeSelector").key(label);
        if at.exists() {
            found.push(format!("{}: deprecated since {since}; use \"{now}\" instead", at.path()));
        }
    }
    for list in ["initContainers", "containers"] {
        for container in spec.field(list).items() {
            let mut names: Vec<&str> = Vec::new();
            for variable in container.field("env").items() {
                let name = variable.field("name").text();
                if names.contains(&name) {
                    found.push(format!(
                        "{}: hides previous definition of \"{name}\", which may be dropped when using apply",
                        variable.path()
                    ));
                }
                names.push(name);
            }
            let mut ports: Vec<(&str, Option<i64>)> = Vec::new();
            for port in container.field("ports").items() {
                let key = (port.field("protocol").text(), port.field("containerPort").int());
                if let Some(first) = ports.iter().position(|p| *p == key) {
                    let before = container.field("ports").path().index(first);
                    found.push(format!("{}: duplicate port definition with {before}", port.path()));
                }
                ports.push(key);
            }
        }
    }
    let grace = spec.field("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|n| n < 0) {
        found.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            grace.path()
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::strategy_for;

    #[test]
    fn a_variable_that_hides_another_is_warned_of_once() {
        let deployment =
            Object::from_value(json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template":
            {"spec": {"nodeSelector": {"beta.kubernetes.io/os": "linux"},
            "containers": [{"env": [{"name": "A"}, {"name": "A"}]}]}}}}))
            .unwrap();
        let strategy = strategy_for("apps", "deployments", "");
        assert_eq!(
            strategy.warnings(&deployment, None),
            [
                "spec.template.spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.template.spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            ]
        );
        assert_eq!(strategy.warnings(&deployment, Some(&deployment)), [""; 0]);
    }
}
