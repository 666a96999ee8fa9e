//! What is allowed in a pod specification but surely not meant (pkg/api/pod/warnings.go).
mod paths;
mod ports;
mod security;

use machinery::Object;

use crate::core::resource_list;
use crate::spelling;
use crate::tree::{At, same};

/// Labels of nodes that nobody should use any more.
const OLD_NODE_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// What there is to say of a label of nodes.
pub(crate) fn old_label(key: &str) -> Option<&'static str> {
    OLD_NODE_LABELS.iter().find(|(label, _)| *label == key).map(|(_, text)| *text)
}

/// Old labels in the expressions of a selector.
pub(crate) fn old_expressions(expressions: &At, found: &mut Vec<String>) {
    for at in expressions.items() {
        let key = at.field("key");
        if let Some(text) = old_label(key.text()) {
            found.push(format!("{}: {} is {text}", key.path(), key.text()));
        }
    }
}

/// Annotations of pods that have no effect any more.
const OLD_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];

/// Sources of volumes that are on their way out or gone: the field, its name in the warning, and how far it is.
pub(crate) const OLD_SOURCES: [(&str, &str, &str); 9] = [
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Warnings about a new pod. Nobody is warned of updates: people do not make them.
pub(crate) fn of_pod(new: &Object, old: Option<&Object>) -> Vec<String> {
    if old.is_some() {
        return Vec::new();
    }
    let mut found = name(new, "the Pod's hostname");
    all(&At::object(new), false, &mut found);
    found
}

/// Warnings about the template at a path of an object. Of an update, only if it changes what is wanted.
pub(crate) fn of_template(new: &Object, old: Option<&Object>, path: &[&'static str]) -> Vec<String> {
    let mut found = Vec::new();
    let place = |object| At::object(object).fields(path);
    if !old
        .is_some_and(|old| old.generation() == new.generation() || same(place(new).get(), place(old).get()))
    {
        all(&place(new), true, &mut found);
    }
    found
}

/// What makes pods should have a name that is a host name, since theirs begin with it.
pub(crate) fn of_name(new: &Object, old: Option<&Object>) -> Vec<String> {
    if old.is_some() { Vec::new() } else { name(new, "Pod names and hostnames") }
}

fn name(object: &Object, used_in: &str) -> Vec<String> {
    let problems = machinery::names::dns1123_label(object.name());
    if object.name().is_empty() || problems.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in {used_in}, which can result in surprising behavior; a DNS label is recommended: [{}]",
        problems.join(" ")
    )]
}

/// All about a pod or a template.
fn all(pod: &At, template: bool, found: &mut Vec<String>) {
    let (spec, annotations) = (pod.field("spec"), pod.field("metadata").field("annotations"));
    nodes(&spec, found);
    for (key, text) in OLD_ANNOTATIONS {
        let at = annotations.key(key);
        if at.exists() {
            found.push(format!("{}: {text}", at.path()));
        }
    }
    volumes(&spec.field("volumes"), found);
    paths::paths(&spec.field("volumes"), found);
    let aliases: Vec<At> = spec.field("hostAliases").items().map(|alias| alias.field("ip")).collect();
    twice(&aliases, "ip", found);
    let secrets: Vec<At> =
        spec.field("imagePullSecrets").items().map(|secret| secret.field("name")).collect();
    twice(&secrets, "name", found);
    for secret in secrets.iter().filter(|name| name.text().is_empty()) {
        found.push(format!("{}: invalid empty name \"\"", secret.path()));
    }
    whole(&spec.field("overhead"), &BYTES, found);
    let kinds = ["initContainers", "containers", "ephemeralContainers"];
    let containers: Vec<At> =
        kinds.into_iter().flat_map(|kind| spec.field(kind).items().collect::<Vec<_>>()).collect();
    security::annotations(&spec, &annotations, &containers, template, found);
    for container in &containers {
        for list in ["limits", "requests"] {
            whole(&container.field("resources").field(list), &BYTES, found);
        }
        variables(&container.field("env"), found);
    }
    ports::ports(&containers, found);
    let grace = spec.field("terminationGracePeriodSeconds");
    if grace.number() < 0 {
        let path = grace.path();
        found.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let kind = spec.field("affinity").field(kind);
        for term in kind.field("requiredDuringSchedulingIgnoredDuringExecution").items() {
            null_selector(&term, found);
        }
        for term in kind.field("preferredDuringSchedulingIgnoredDuringExecution").items() {
            null_selector(&term.field("podAffinityTerm"), found);
        }
    }
    for server in spec.field("dnsConfig").field("nameservers").items() {
        spelling::ip(&server, found);
    }
    aliases.iter().for_each(|ip| spelling::ip(ip, found));
}

/// Where the pod should run.
fn nodes(spec: &At, found: &mut Vec<String>) {
    for (key, at) in spec.field("nodeSelector").entries() {
        if let Some(text) = old_label(key) {
            found.push(format!("{}: {text}", at.path()));
        }
    }
    let affinity = spec.field("affinity").field("nodeAffinity");
    let required = affinity.field("requiredDuringSchedulingIgnoredDuringExecution");
    for term in required.field("nodeSelectorTerms").items() {
        old_expressions(&term.field("matchExpressions"), found);
    }
    for term in affinity.field("preferredDuringSchedulingIgnoredDuringExecution").items() {
        let expressions = term.field("preference").field("matchExpressions");
        old_expressions(&expressions, found);
        for value in expressions.items().flat_map(|e| e.field("values").items().collect::<Vec<_>>()) {
            for problem in machinery::names::label_value(value.text()) {
                found.push(format!("{}: {} is invalid, {problem}", value.path(), value.text()));
            }
        }
    }
    for spread in spec.field("topologySpreadConstraints").items() {
        let key = spread.field("topologyKey");
        if let Some(text) = old_label(key.text()) {
            found.push(format!("{}: {} is {text}", key.path(), key.text()));
        }
        null_selector(&spread, found);
    }
}

/// A selector that is not there selects nothing, where many mean everything.
fn null_selector(term: &At, found: &mut Vec<String>) {
    let selector = term.field("labelSelector");
    if !selector.exists() {
        found.push(format!("{}: a null labelSelector results in matching no pod", selector.path()));
    }
}

fn volumes(volumes: &At, found: &mut Vec<String>) {
    for volume in volumes.items() {
        for (source, shown, problem) in OLD_SOURCES {
            if volume.field(source).exists() {
                found.push(format!("{}: {problem}", volume.path().child(shown)));
            }
            // The order of upstream.
            if source == "glusterfs" {
                of_claim(&volume.field("ephemeral").field("volumeClaimTemplate").field("spec"), found);
            }
        }
    }
}

/// Warnings about the specification of a claim.
pub(crate) fn of_claim(spec: &At, found: &mut Vec<String>) {
    for list in ["requests", "limits"] {
        whole(&spec.field("resources").field(list), &["storage"], found);
    }
}

const BYTES: [&str; 2] = ["memory", "ephemeral-storage"];

/// There are no parts of bytes.
fn whole(amounts: &At, names: &[&str], found: &mut Vec<String>) {
    for name in names {
        let amount = amounts.key(name);
        if let Some(quantity) = resource_list::quantity(&amount).filter(|q| !q.is_integer()) {
            let (path, shown) = (amount.path(), quantity.to_string());
            found.push(format!("{path}: fractional byte value {shown:?} is invalid, must be an integer"));
        }
    }
}

fn twice(items: &[At], what: &str, found: &mut Vec<String>) {
    for (i, item) in items.iter().enumerate() {
        if items[..i].iter().any(|before| before.text() == item.text()) {
            found.push(format!("{}: duplicate {what} {:?}", item.path(), item.text()));
        }
    }
}

/// A variable that is defined again without use of what it was before.
fn variables(env: &At, found: &mut Vec<String>) {
    let mut names: Vec<&str> = Vec::new();
    for variable in env.items() {
        let (name, value) = (variable.field("name").text(), variable.field("value").text());
        let reference = format!("$({name})");
        let extends =
            value.contains(&reference) && value != reference && !variable.field("valueFrom").exists();
        if names.contains(&name) && !extends {
            let path = variable.path();
            found.push(format!(
                "{path}: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
        names.push(name);
    }
}

#[cfg(test)]
mod tests;
