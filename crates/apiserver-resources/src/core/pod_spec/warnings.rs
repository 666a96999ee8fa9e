//! What is allowed in a pod specification but surely not meant (pkg/api/pod/warnings.go).
use machinery::Object;

use crate::core::resource_list;
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
    if old.is_none() {
        found.extend(host_name(new));
    }
    old_labels(&spec.field("nodeSelector"), &mut found);
    volumes(&spec.field("volumes"), &mut found);
    null_selectors(&spec, &mut found);
    let mut addresses: Vec<&str> = Vec::new();
    for alias in spec.field("hostAliases").items() {
        let ip = alias.field("ip");
        if addresses.contains(&ip.text()) {
            found.push(format!("{}: duplicate ip {:?}", ip.path(), ip.text()));
        }
        addresses.push(ip.text());
    }
    for secret in spec.field("imagePullSecrets").items() {
        if secret.field("name").text().is_empty() {
            found.push(format!("{}: invalid empty name \"\"", secret.path()));
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
            for list in ["limits", "requests"] {
                for (name, amount) in container.field("resources").field(list).entries() {
                    let whole = resource_list::quantity(&amount).is_none_or(|q| q.is_integer());
                    if matches!(name, "memory" | "ephemeral-storage") && !whole {
                        found.push(format!(
                            "{}: fractional byte value {:?} is invalid, must be an integer",
                            amount.path(),
                            amount.text()
                        ));
                    }
                }
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

/// Labels of nodes that have newer names, at a selector.
pub(crate) fn old_labels(selector: &At, found: &mut Vec<String>) {
    for (label, since, now) in OLD_NODE_LABELS {
        let at = selector.key(label);
        if at.exists() {
            found.push(format!("{}: deprecated since {since}; use \"{now}\" instead", at.path()));
        }
    }
}

/// What makes pods should have a name that is a host name, since theirs begin with it.
fn host_name(object: &Object) -> Option<String> {
    let problems = machinery::names::dns1123_label(object.name());
    (!object.name().is_empty() && !problems.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
            problems.join(" ")
        )
    })
}

/// Sources of volumes that are on their way out or gone.
pub(crate) const OLD_SOURCES: [(&str, &str); 9] = [
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
];

fn volumes(volumes: &At, found: &mut Vec<String>) {
    for volume in volumes.items() {
        for (source, problem) in OLD_SOURCES {
            if volume.field(source).exists() {
                found.push(format!("{}: {problem}", volume.field(source).path()));
            }
        }
    }
}

/// A selector that is not there selects nothing, where many mean everything.
fn null_selectors(spec: &At, found: &mut Vec<String>) {
    let mut check = |term: &At| {
        let selector = term.field("labelSelector");
        if !selector.exists() {
            found.push(format!("{}: a null labelSelector results in matching no pod", selector.path()));
        }
    };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let kind = spec.field("affinity").field(kind);
        kind.field("requiredDuringSchedulingIgnoredDuringExecution").items().for_each(|term| check(&term));
        for term in kind.field("preferredDuringSchedulingIgnoredDuringExecution").items() {
            check(&term.field("podAffinityTerm"));
        }
    }
    spec.field("topologySpreadConstraints").items().for_each(|term| check(&term));
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
