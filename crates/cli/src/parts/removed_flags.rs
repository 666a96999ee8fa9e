//! Flags that upstream's parts had once: what happened to each, and what to write in its place. Guides live longer than
//! flags do, and "unknown flag" helps nobody who follows one.
use crate::output::Failure;

/// A flag that no part takes any more.
struct Removed {
    /// Name without dashes.
    flag: &'static str,
    /// With values that are not for this one it is another, living flag.
    value: Value,
    /// What became of it, and when.
    fate: &'static str,
    /// What to do.
    instead: &'static str,
}

/// Which values of a flag are gone.
enum Value {
    Any,
    Except(&'static str),
}

const fn gone(flag: &'static str, fate: &'static str, instead: &'static str) -> Removed {
    Removed { flag, value: Value::Any, fate, instead }
}

const INSECURE: &str =
    "nothing is served without TLS: clients use --bind-address and --secure-port with a kubeconfig";
const HEALTH: &str = "use --bind-address and --secure-port; /healthz is served there over HTTPS";
const LOGS: &str = "logs go to standard error; leave it out";
const CLOUD: &str = "leave it out; a cloud controller manager of its own talks to the cloud";
const CNI: &str =
    "leave it out; the container runtime calls CNI plugins, its configuration names their directories";
const DOCKER: &str = "leave it out; name the runtime's socket with --container-runtime-endpoint";

const API_SERVER: &[Removed] = &[
    gone("address", "removed in v1.24", INSECURE),
    gone("insecure-bind-address", "removed in v1.24", INSECURE),
    gone("insecure-port", "removed in v1.24", INSECURE),
    gone("port", "removed in v1.24", INSECURE),
    gone(
        "basic-auth-file",
        "removed in v1.19",
        "use client certificates, --token-auth-file or an OIDC issuer",
    ),
    gone("cloud-config", "removed in v1.33", CLOUD),
    gone("cloud-provider", "removed in v1.33", CLOUD),
    gone(
        "enable-swagger-ui",
        "removed in v1.24",
        "leave it out; the API's description is served at /openapi/v3",
    ),
    gone(
        "experimental-bootstrap-token-auth",
        "replaced in v1.8, then removed",
        "use --enable-bootstrap-token-auth",
    ),
    gone("experimental-encryption-provider-config", "removed in v1.24", "use --encryption-provider-config"),
    gone("kubelet-https", "removed in v1.22", "leave it out; kubelets are always spoken to over HTTPS"),
];

const CONTROLLER_MANAGER: &[Removed] = &[
    gone("address", "removed in v1.24", HEALTH),
    gone("port", "removed in v1.24", HEALTH),
    gone("cloud-config", "gone since v1.31, as clouds are", CLOUD),
    Removed {
        flag: "cloud-provider",
        value: Value::Except("external"),
        fate: "gone since v1.31 for clouds by name",
        instead: CLOUD,
    },
    gone("experimental-cluster-signing-duration", "removed in v1.25", "use --cluster-signing-duration"),
    gone(
        "pod-eviction-timeout",
        "removed in v1.27",
        "set tolerationSeconds of the pods, or --default-unreachable-toleration-seconds of the API server",
    ),
    gone("enable-taint-manager", "removed in v1.27", "leave it out; taints always evict"),
];

const SCHEDULER: &[Removed] = &[
    gone("address", "removed in v1.24", HEALTH),
    gone("port", "removed in v1.24", HEALTH),
    gone("policy-config-file", "removed in v1.23", "use --config with profiles"),
    gone("policy-configmap", "removed in v1.23", "use --config with profiles"),
    gone("use-legacy-policy-config", "removed in v1.23", "use --config with profiles"),
];

const KUBELET: &[Removed] = &[
    gone(
        "allow-privileged",
        "removed in v1.15",
        "leave it out; --allow-privileged of the API server decides",
    ),
    gone("api-servers", "removed in v1.8", "use --kubeconfig, which names the server and the credentials"),
    gone("cadvisor-port", "removed in v1.12", "leave it out"),
    gone("cloud-config", "removed in v1.34", CLOUD),
    Removed {
        flag: "cloud-provider",
        value: Value::Except("external"),
        fate: "gone since v1.31 for clouds by name",
        instead: CLOUD,
    },
    gone("cni-cache-dir", "removed in v1.24", CNI),
    gone("container-runtime", "removed in v1.27", DOCKER),
    gone("docker-endpoint", "removed in v1.24", DOCKER),
    gone(
        "image-pull-progress-deadline",
        "removed in v1.24",
        "leave it out; the container runtime has a setting of its own",
    ),
    gone("keep-terminated-pod-volumes", "removed in v1.31", "leave it out"),
    gone("network-plugin", "removed in v1.24", CNI),
    gone("network-plugin-dir", "gone with Docker since v1.24", CNI),
    gone(
        "pod-infra-container-image",
        "removed in v1.35",
        "leave it out; the container runtime's configuration names the pause image",
    ),
    gone(
        "register-schedulable",
        "removed in v1.34",
        "use --register-with-taints, for example node-role.kubernetes.io/control-plane=:NoSchedule",
    ),
    gone("require-kubeconfig", "deprecated since v1.8, then removed", "leave it out; --kubeconfig is enough"),
];

/// What klog's flags were for all parts.
const ALL: &[Removed] = &[
    gone("add-dir-header", "removed in v1.26", LOGS),
    gone("alsologtostderr", "removed in v1.26", LOGS),
    gone("log-backtrace-at", "removed in v1.26", LOGS),
    gone("log-dir", "removed in v1.26", LOGS),
    gone("log-file", "removed in v1.26", LOGS),
    gone("log-file-max-size", "removed in v1.26", LOGS),
    gone("logtostderr", "removed in v1.26", LOGS),
    gone("one-output", "removed in v1.26", LOGS),
    gone("skip-headers", "removed in v1.26", LOGS),
    gone("skip-log-headers", "removed in v1.26", LOGS),
    gone("stderrthreshold", "removed in v1.26", LOGS),
];

/// What is gone of one part.
const fn table(part: &str) -> &'static [Removed] {
    match part.as_bytes() {
        b"kube-apiserver" => API_SERVER,
        b"kube-controller-manager" => CONTROLLER_MANAGER,
        b"kube-scheduler" => SCHEDULER,
        b"kubelet" => KUBELET,
        _ => &[],
    }
}

/// Looks for such flags on a part's command line; all that there are stand in the answer.
pub fn check(part: &str, arguments: &[String]) -> Result<(), Failure> {
    let mut found: Vec<String> = Vec::new();
    for (i, argument) in arguments.iter().enumerate() {
        if argument == "--" {
            break;
        }
        let Some(flag) = argument.strip_prefix("--") else { continue };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value),
            None => {
                (flag, arguments.get(i + 1).map_or("", |next| if next.starts_with('-') { "" } else { next }))
            }
        };
        // Upstream takes either.
        let name = name.replace('_', "-");
        let fits = |r: &&Removed| {
            r.flag == name
                && match r.value {
                    Value::Any => true,
                    Value::Except(good) => value != good,
                }
        };
        if let Some(removed) = table(part).iter().chain(ALL).find(fits) {
            let line = format!("--{}: {}; {}", removed.flag, removed.fate, removed.instead);
            if !found.contains(&line) {
                found.push(line);
            }
        }
    }
    match found.len() {
        0 => Ok(()),
        1 => Err(Failure::new(format!("{part} has no such flag any more\n  {}", found[0]), "")),
        n => {
            Err(Failure::new(format!("{part} has {n} of these flags no more\n  {}", found.join("\n  ")), ""))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::args::Cli;

    const PARTS: [&str; 5] =
        ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"];

    fn said(part: &str, line: &str) -> String {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        check(part, &arguments).err().map(|f| f.to_string()).unwrap_or_default()
    }

    #[test]
    fn all_flags_that_are_gone_are_named_at_once() {
        let text = said(
            "kube-apiserver",
            "--allow-privileged=true --enable-swagger-ui=true --kubelet-https=true --v=2 \
             --experimental-encryption-provider-config=/x --insecure-bind-address 0.0.0.0",
        );
        for flag in [
            "enable-swagger-ui",
            "kubelet-https",
            "experimental-encryption-provider-config",
            "insecure-bind-address",
        ] {
            assert!(text.contains(&format!("--{flag}: removed in v1.")), "{flag}: {text}");
        }
        assert!(
            text.contains("use --encryption-provider-config") && !text.contains("--allow-privileged"),
            "{text}"
        );
        let text =
            said("kubelet", "--allow-privileged=true --network-plugin=cni --image_pull_progress_deadline=2m");
        assert!(
            text.contains("has 3 of these flags no more") && text.contains("--image-pull-progress-deadline"),
            "{text}"
        );
    }

    #[test]
    fn what_lives_is_let_through() {
        for (part, line) in [
            ("kube-apiserver", "--bind-address=0.0.0.0 --secure-port 6443 -- --insecure-port=0"),
            ("kube-controller-manager", "--cloud-provider=external --bind-address=0.0.0.0"),
            ("kubelet", "--cloud-provider external --address=0.0.0.0 --port=10250 --register-node=true"),
            ("cox", "--address=1"),
        ] {
            assert_eq!(said(part, line), "", "{part}");
        }
        assert!(said("kubelet", "--cloud-provider=openstack").contains("gone since v1.31"));
        assert!(said("kube-controller-manager", "--cloud-provider aws").contains("leave it out"));
        assert!(said("kube-scheduler", "--logtostderr=true").contains("standard error"));
    }

    #[test]
    fn no_flag_is_both_gone_and_there() {
        for part in PARTS {
            let mut whole = Cli::command();
            let verb = whole.find_subcommand_mut(part).unwrap();
            let there: Vec<String> = verb
                .get_arguments()
                .flat_map(|a| {
                    a.get_long_and_visible_aliases().unwrap_or_default().into_iter().map(str::to_owned)
                })
                .collect();
            for removed in table(part).iter().chain(ALL) {
                assert!(!there.iter().any(|t| t == removed.flag), "{part} --{}", removed.flag);
                assert!(
                    !removed.instead.is_empty() && removed.fate.contains("v1."),
                    "{part} --{}",
                    removed.flag
                );
                // What is to be written instead is there.
                let named = removed.instead.split(' ').find_map(|word| {
                    removed.instead.starts_with("use --").then(|| word.strip_prefix("--")).flatten()
                });
                if let Some(flag) = named {
                    let flag = flag.trim_end_matches([',', ':', ';']);
                    assert!(
                        there.iter().any(|t| t == flag),
                        "{part} has no --{flag} to use instead of --{}",
                        removed.flag
                    );
                }
            }
        }
    }
}
