//! The baseline standard: no known way to take over the node.
use serde_json::Value;

use super::spec::{Container, PodSpec, at, containers, list, plural, quoted, set, setters};
use super::{Check, Violation, violation};

/// A check of this standard.
pub(super) struct Baseline {
    /// The first release that has it, by its minor number.
    pub since: u32,
    /// The first release whose restricted standard has a stricter one in its place.
    pub replaced: Option<u32>,
    pub check: Check,
}

const fn check(since: u32, replaced: Option<u32>, check: Check) -> Baseline {
    Baseline { since, replaced, check }
}

/// All checks, in the order of upstream's names for them.
pub(super) const CHECKS: [Baseline; 12] = [
    check(0, None, app_armor),
    check(0, Some(22), capabilities),
    check(0, None, host_namespaces),
    check(0, Some(0), host_path_volumes),
    check(0, None, host_ports),
    check(34, None, host_probes),
    check(0, None, privileged),
    check(0, Some(35), proc_mount),
    check(0, None, selinux),
    check(0, Some(19), seccomp),
    check(0, None, sysctls),
    check(0, None, windows_host_process),
];

fn app_armor(pod: &PodSpec<'_>) -> Option<Violation> {
    let forbidden = |v: Option<&Value>| {
        v.and_then(Value::as_str).is_some_and(|t| !matches!(t, "RuntimeDefault" | "Localhost"))
    };
    let path = ["appArmorProfile", "type"];
    let by_pod = forbidden(pod.security(&path));
    let names = pod.names_where(|c| forbidden(c.security(&path)));
    let annotated: Vec<String> = pod
        .annotations()
        .filter(|(key, value)| {
            key.starts_with("container.apparmor.security.beta.kubernetes.io/")
                && !(value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/"))
        })
        .map(|(key, value)| format!("{key:?}={value}"))
        .collect();
    if !by_pod && names.is_empty() && annotated.is_empty() {
        return None;
    }
    let values = set(pod
        .containers()
        .filter_map(|c| c.security(&path))
        .chain(pod.security(&path))
        .filter(|v| forbidden(Some(v)))
        .filter_map(Value::as_str));
    let mut details = Vec::new();
    if by_pod || !names.is_empty() {
        details.push(format!(
            "{} must not set AppArmor profile type to {}",
            setters(by_pod, &names),
            quoted(&values)
        ));
    }
    if !annotated.is_empty() {
        details.push(format!(
            "{} {}",
            plural(annotated.len(), "annotation", "annotations"),
            annotated.join(", ")
        ));
    }
    let count = values.len() + annotated.len();
    violation(plural(count, "forbidden AppArmor profile", "forbidden AppArmor profiles"), details.join(", "))
}

fn host_namespaces(pod: &PodSpec<'_>) -> Option<Violation> {
    let set: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|f| at(pod.spec, &[f]).and_then(Value::as_bool) == Some(true))
        .map(|f| format!("{f}=true"))
        .collect();
    if set.is_empty() { None } else { violation("host namespaces", set.join(", ")) }
}

fn host_ports(pod: &PodSpec<'_>) -> Option<Violation> {
    let ports = |c: Container<'_>| -> Vec<i64> {
        let ports = list(c.0, &["ports"]).filter_map(|p| at(p, &["hostPort"])?.as_i64());
        ports.filter(|p| *p != 0).collect()
    };
    let names = pod.names_where(|c| !ports(c).is_empty());
    if names.is_empty() {
        return None;
    }
    let all: Vec<String> = set(pod.containers().flat_map(ports)).iter().map(i64::to_string).collect();
    let uses = plural(names.len(), "uses", "use");
    let what = plural(all.len(), "hostPort", "hostPorts");
    violation("hostPort", format!("{} {uses} {what} {}", containers(&names), all.join(", ")))
}

fn host_probes(pod: &PodSpec<'_>) -> Option<Violation> {
    fn hosts(c: Container<'_>) -> Vec<&str> {
        let handlers = [
            &["livenessProbe"][..],
            &["readinessProbe"],
            &["startupProbe"],
            &["lifecycle", "postStart"],
            &["lifecycle", "preStop"],
        ];
        let of = |path: &&[&str]| at(c.0, path);
        let handlers = handlers.iter().filter_map(of);
        handlers
            .flat_map(|h| [at(h, &["httpGet", "host"]), at(h, &["tcpSocket", "host"])])
            .flatten()
            .filter_map(Value::as_str)
            .filter(|h| !h.is_empty())
            .collect()
    }
    let names = pod.names_where(|c| !hosts(c).is_empty());
    if names.is_empty() {
        return None;
    }
    let all = set(pod.containers().flat_map(hosts));
    let uses = plural(names.len(), "uses", "use");
    violation(
        "probe or lifecycle host",
        format!(
            "{} {uses} probe or lifecycle {} {}",
            containers(&names),
            plural(all.len(), "host", "hosts"),
            quoted(&all)
        ),
    )
}

fn privileged(pod: &PodSpec<'_>) -> Option<Violation> {
    let names = pod.names_where(|c| c.security(&["privileged"]).and_then(Value::as_bool) == Some(true));
    if names.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", containers(&names)))
}

fn proc_mount(pod: &PodSpec<'_>) -> Option<Violation> {
    // A pod in a user namespace of its own may see all of /proc.
    if pod.has_own_users() { None } else { unmasked_proc(pod) }
}

/// Containers that see more of `/proc` than the usual.
pub(super) fn unmasked_proc(pod: &PodSpec<'_>) -> Option<Violation> {
    fn forbidden(c: Container<'_>) -> Option<&str> {
        c.security(&["procMount"]).and_then(Value::as_str).filter(|m| *m != "Default")
    }
    let names = pod.names_where(|c| forbidden(c).is_some());
    if names.is_empty() {
        return None;
    }
    let values = set(pod.containers().filter_map(forbidden));
    violation(
        "procMount",
        format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(&values)),
    )
}

fn selinux(pod: &PodSpec<'_>) -> Option<Violation> {
    let old: &[&str] = &["", "container_t", "container_init_t", "container_kvm_t"];
    let new: &[&str] = if pod.version.since(31) { &["container_engine_t"] } else { &[] };
    let is_good = |kind: &str| old.contains(&kind) || new.contains(&kind);
    fn text<'a>(options: Option<&'a Value>, field: &str) -> &'a str {
        options.and_then(|o| at(o, &[field])).and_then(Value::as_str).unwrap_or("")
    }
    let bad = |options: Option<&Value>| {
        !is_good(text(options, "type"))
            || !text(options, "user").is_empty()
            || !text(options, "role").is_empty()
    };
    let of_pod = pod.security(&["seLinuxOptions"]);
    let names = pod.names_where(|c| bad(c.security(&["seLinuxOptions"])));
    if !bad(of_pod) && names.is_empty() {
        return None;
    }
    let all = || pod.containers().filter_map(|c| c.security(&["seLinuxOptions"])).chain(of_pod);
    let types = set(all().map(|o| text(Some(o), "type")).filter(|t| !is_good(t)));
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural(types.len(), "type", "types"), quoted(&types)));
    }
    for field in ["user", "role"] {
        if all().any(|o| !text(Some(o), field).is_empty()) {
            data.push(format!("{field} may not be set"));
        }
    }
    violation(
        "seLinuxOptions",
        format!(
            "{} set forbidden securityContext.seLinuxOptions: {}",
            setters(bad(of_pod), &names),
            data.join("; ")
        ),
    )
}

fn sysctls(pod: &PodSpec<'_>) -> Option<Violation> {
    const ALLOWED: [(u32, &str); 12] = [
        (0, "kernel.shm_rmid_forced"),
        (0, "net.ipv4.ip_local_port_range"),
        (0, "net.ipv4.tcp_syncookies"),
        (0, "net.ipv4.ping_group_range"),
        (0, "net.ipv4.ip_unprivileged_port_start"),
        (27, "net.ipv4.ip_local_reserved_ports"),
        (29, "net.ipv4.tcp_keepalive_time"),
        (29, "net.ipv4.tcp_fin_timeout"),
        (29, "net.ipv4.tcp_keepalive_intvl"),
        (29, "net.ipv4.tcp_keepalive_probes"),
        (32, "net.ipv4.tcp_rmem"),
        (32, "net.ipv4.tcp_wmem"),
    ];
    let is_good = |name: &str| ALLOWED.iter().any(|(since, n)| *n == name && pod.version.since(*since));
    let names = list(pod.spec, &["securityContext", "sysctls"]).filter_map(|s| at(s, &["name"])?.as_str());
    let forbidden: Vec<&str> = names.filter(|n| !is_good(n)).collect();
    if forbidden.is_empty() { None } else { violation("forbidden sysctls", forbidden.join(", ")) }
}

fn windows_host_process(pod: &PodSpec<'_>) -> Option<Violation> {
    let path = ["windowsOptions", "hostProcess"];
    let is_true = |v: Option<&Value>| v.and_then(Value::as_bool) == Some(true);
    let by_pod = is_true(pod.security(&path));
    let names = pod.names_where(|c| is_true(c.security(&path)));
    if !by_pod && names.is_empty() {
        return None;
    }
    let who = setters(by_pod, &names);
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn capabilities(pod: &PodSpec<'_>) -> Option<Violation> {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let bad = |c: Container<'_>| c.capabilities("add").iter().any(|x| !ALLOWED.contains(x));
    let names = pod.names_where(bad);
    if names.is_empty() {
        return None;
    }
    let added = set(pod.containers().flat_map(|c| c.capabilities("add")).filter(|x| !ALLOWED.contains(x)));
    violation(
        "non-default capabilities",
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&names),
            quoted(&added)
        ),
    )
}

fn host_path_volumes(pod: &PodSpec<'_>) -> Option<Violation> {
    let volumes = list(pod.spec, &["volumes"]).filter(|v| at(v, &["hostPath"]).is_some());
    let names: Vec<&str> = volumes.filter_map(|v| at(v, &["name"])?.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    violation("hostPath volumes", format!("{} {}", plural(names.len(), "volume", "volumes"), quoted(&names)))
}

fn seccomp(pod: &PodSpec<'_>) -> Option<Violation> {
    if !pod.version.since(19) {
        return seccomp_annotations(pod);
    }
    let path = ["seccompProfile", "type"];
    let bad = |v: Option<&Value>| v.and_then(Value::as_str) == Some("Unconfined");
    let by_pod = bad(pod.security(&path));
    let names = pod.names_where(|c| bad(c.security(&path)));
    if !by_pod && names.is_empty() {
        return None;
    }
    let who = setters(by_pod, &names);
    violation(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to \"Unconfined\""),
    )
}

/// Before there were fields, annotations said it.
fn seccomp_annotations(pod: &PodSpec<'_>) -> Option<Violation> {
    let names: Vec<&str> = pod.containers().map(Container::name).collect();
    let of_container = |key: &str| {
        key.strip_prefix("container.seccomp.security.alpha.kubernetes.io/")
            .is_some_and(|c| names.contains(&c))
    };
    let mut forbidden: Vec<String> = pod
        .annotations()
        .filter(|(key, _)| *key == "seccomp.security.alpha.kubernetes.io/pod" || of_container(key))
        .filter(|(_, value)| {
            !(matches!(*value, "runtime/default" | "docker/default") || value.starts_with("localhost/"))
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    forbidden.sort();
    if forbidden.is_empty() {
        return None;
    }
    let what = plural(forbidden.len(), "annotation", "annotations");
    violation("seccompProfile", format!("forbidden {what} {}", forbidden.join(", ")))
}
