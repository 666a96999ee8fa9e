//! The restricted standard: current best practice of hardening.
use serde_json::Value;

use super::baseline::unmasked_proc;
use super::spec::{Container, PodSpec, at, containers, list, plural, quoted, set, setters};
use super::{Check, Violation, violation};

/// All checks with the first release that has each, in the order of upstream's names for them.
pub(super) const CHECKS: [(u32, Check); 7] = [
    (8, allow_privilege_escalation),
    (22, capabilities),
    (35, unmasked_proc),
    (0, volumes),
    (0, run_as_non_root),
    (23, run_as_user),
    (19, seccomp),
];

fn allow_privilege_escalation(pod: &PodSpec<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let names = pod
        .names_where(|c| c.security(&["allowPrivilegeEscalation"]).and_then(Value::as_bool) != Some(false));
    if names.is_empty() {
        return None;
    }
    violation(
        "allowPrivilegeEscalation != false",
        format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names)),
    )
}

fn capabilities(pod: &PodSpec<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let keeps = pod.names_where(|c| !c.capabilities("drop").contains(&"ALL"));
    let bad = |x: &&str| *x != "NET_BIND_SERVICE";
    let adds = pod.names_where(|c| c.capabilities("add").iter().any(bad));
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeps)));
    }
    if !adds.is_empty() {
        let added = set(pod.containers().flat_map(|c| c.capabilities("add")).filter(bad));
        let what = quoted(&added);
        details.push(format!(
            "{} must not include {what} in securityContext.capabilities.add",
            containers(&adds)
        ));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn volumes(pod: &PodSpec<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    fn kind(volume: &Value) -> Option<&str> {
        let keys = volume.as_object()?.iter().filter(|(k, v)| *k != "name" && !v.is_null());
        keys.map(|(k, _)| k.as_str()).find(|k| !ALLOWED.contains(k))
    }
    let bad: Vec<&Value> = list(pod.spec, &["volumes"]).filter(|v| kind(v).is_some()).collect();
    if bad.is_empty() {
        return None;
    }
    let names: Vec<&str> = bad.iter().filter_map(|v| at(v, &["name"])?.as_str()).collect();
    let kinds = set(bad.iter().filter_map(|v| kind(v)));
    violation(
        "restricted volume types",
        format!(
            "{} {} {} {} {}",
            plural(names.len(), "volume", "volumes"),
            quoted(&names),
            plural(names.len(), "uses", "use"),
            plural(kinds.len(), "restricted volume type", "restricted volume types"),
            quoted(&kinds)
        ),
    )
}

fn run_as_non_root(pod: &PodSpec<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if pod.has_own_users() {
        return None;
    }
    let said = |v: Option<&Value>| v.and_then(Value::as_bool);
    let of = |c: Container<'_>| said(c.security(&["runAsNonRoot"]));
    let by_pod = said(pod.security(&["runAsNonRoot"]));
    let refused = pod.names_where(|c| of(c) == Some(false));
    if by_pod == Some(false) || !refused.is_empty() {
        let who = setters(by_pod == Some(false), &refused);
        return violation(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    if by_pod == Some(true) {
        return None;
    }
    let silent = pod.names_where(|c| of(c).is_none());
    if silent.is_empty() {
        return None;
    }
    violation(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent)))
}

fn run_as_user(pod: &PodSpec<'_>) -> Option<Violation> {
    if pod.has_own_users() {
        return None;
    }
    let is_root = |v: Option<&Value>| v.and_then(Value::as_i64) == Some(0);
    let by_pod = is_root(pod.security(&["runAsUser"]));
    let names = pod.names_where(|c| is_root(c.security(&["runAsUser"])));
    if !by_pod && names.is_empty() {
        return None;
    }
    violation("runAsUser=0", format!("{} must not set runAsUser=0", setters(by_pod, &names)))
}

fn seccomp(pod: &PodSpec<'_>) -> Option<Violation> {
    if pod.is_windows() {
        return None;
    }
    let path = ["seccompProfile", "type"];
    fn text(v: Option<&Value>) -> Option<&str> {
        v.and_then(Value::as_str)
    }
    let bad = |t: Option<&str>| t.is_some_and(|t| !matches!(t, "RuntimeDefault" | "Localhost"));
    let of_pod = text(pod.security(&path));
    let refused = pod.names_where(|c| bad(text(c.security(&path))));
    if bad(of_pod) || !refused.is_empty() {
        let types = pod.containers().filter_map(|c| text(c.security(&path))).chain(of_pod);
        let types = set(types.filter(|t| bad(Some(t))));
        let who = setters(bad(of_pod), &refused);
        return violation(
            "seccompProfile",
            format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&types)),
        );
    }
    if of_pod.is_some() {
        return None;
    }
    let silent = pod.names_where(|c| text(c.security(&path)).is_none());
    if silent.is_empty() {
        return None;
    }
    violation(
        "seccompProfile",
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&silent)
        ),
    )
}
