//! Annotations about seccomp and AppArmor, which fields have replaced.
use serde_json::{Value, json};

use crate::tree::At;

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The AppArmor profile that an annotation means.
fn profile(annotation: &str) -> Option<Value> {
    match annotation {
        "runtime/default" => Some(json!({"type": "RuntimeDefault"})),
        "unconfined" => Some(json!({"type": "Unconfined"})),
        other => other
            .strip_prefix("localhost/")
            .map(|name| json!({"type": "Localhost", "localhostProfile": name})),
    }
}

/// Finds those that are still there.
pub(super) fn annotations(
    spec: &At,
    annotations: &At,
    containers: &[At],
    template: bool,
    found: &mut Vec<String>,
) {
    let seccomp = |owner: &At, key: &str, found: &mut Vec<String>| {
        let at = annotations.key(key);
        if at.exists() && !owner.field("securityContext").field("seccompProfile").exists() {
            let path = at.path();
            found.push(format!("{path}: non-functional in v1.27+; use the \"seccompProfile\" field instead"));
        }
    };
    seccomp(spec, SECCOMP_POD, found);
    let of_pod = spec.field("securityContext").field("appArmorProfile");
    for container in containers {
        let name = container.field("name").text();
        seccomp(container, &format!("{SECCOMP_CONTAINER}{name}"), found);
        let at = annotations.key(&format!("{APPARMOR}{name}"));
        let own = container.field("securityContext").field("appArmorProfile");
        let same = of_pod.exists() && of_pod.get() == profile(at.text()).as_ref();
        // The annotation of a pod itself becomes the field.
        if template && at.exists() && !own.exists() && !same {
            let path = at.path();
            found.push(format!("{path}: deprecated since v1.30; use the \"appArmorProfile\" field instead"));
        }
    }
}
