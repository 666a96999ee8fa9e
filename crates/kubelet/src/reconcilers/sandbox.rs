//! Makes and stops pod sandboxes.

use std::collections::HashMap;

use cri::v1;
use k8s_openapi::api::core::v1::{Pod, SeccompProfile};

use crate::dns;
use crate::labels;
use crate::pod::PodExt;
use crate::resources;
use crate::shared::Shared;

/// The namespaces that a pod's containers share with each other or with the node.
pub fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    let spec = pod.spec();
    let node_or = |node: Option<bool>, other: v1::NamespaceMode| {
        if node == Some(true) { v1::NamespaceMode::Node as i32 } else { other as i32 }
    };
    let pid = if spec.share_process_namespace == Some(true) {
        v1::NamespaceMode::Pod
    } else {
        v1::NamespaceMode::Container
    };
    v1::NamespaceOption {
        network: node_or(spec.host_network, v1::NamespaceMode::Pod),
        ipc: node_or(spec.host_ipc, v1::NamespaceMode::Pod),
        pid: node_or(spec.host_pid, pid),
        ..Default::default()
    }
}

/// A seccomp profile in the runtime's words.
pub fn seccomp(profile: Option<&SeccompProfile>, root: &std::path::Path) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    match profile.map(|profile| (profile.type_.as_str(), profile.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) => v1::SecurityProfile {
            profile_type: ProfileType::RuntimeDefault as i32,
            localhost_ref: String::new(),
        },
        Some(("Localhost", Some(file))) => v1::SecurityProfile {
            profile_type: ProfileType::Localhost as i32,
            localhost_ref: root.join("seccomp").join(file).to_string_lossy().into_owned(),
        },
        _ => {
            v1::SecurityProfile { profile_type: ProfileType::Unconfined as i32, localhost_ref: String::new() }
        }
    }
}

fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    if pod.host_network() {
        return Vec::new();
    }
    let ports = pod.containers().into_iter().flat_map(|(_, container)| container.ports.iter().flatten());
    ports
        .filter(|port| port.host_port.is_some_and(|port| port > 0))
        .map(|port| v1::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp as i32,
                Some("SCTP") => v1::Protocol::Sctp as i32,
                _ => v1::Protocol::Tcp as i32,
            },
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

/// The labels that every sandbox and container of a pod carries.
pub fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    HashMap::from([
        (labels::POD_NAME.to_owned(), pod.name().to_owned()),
        (labels::POD_NAMESPACE.to_owned(), pod.namespace().to_owned()),
        (labels::POD_UID.to_owned(), pod.uid().to_owned()),
    ])
}

/// What the runtime is told about a pod's sandbox.
pub fn config(shared: &Shared, pod: &Pod, attempt: u32, resolv_conf: &str) -> v1::PodSandboxConfig {
    let spec = pod.spec();
    let security = spec.security_context.as_ref();
    let int = |value: Option<i64>| value.map(|value| v1::Int64Value { value });
    let privileged = pod.containers().iter().any(|(_, container)| {
        container.security_context.as_ref().is_some_and(|security| security.privileged == Some(true))
    });
    let mut all_labels = pod_labels(pod);
    for (key, value) in pod.metadata.labels.iter().flatten() {
        all_labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let groups = security.and_then(|security| security.fs_group).into_iter();
    let groups = groups
        .chain(security.and_then(|security| security.supplemental_groups.clone()).into_iter().flatten());
    let limits = resources::pod_limits(pod);
    let fqdn = spec
        .set_hostname_as_fqdn
        .filter(|on| *on)
        .and_then(|_| dns::fqdn(pod, &shared.config.cluster_domain));
    let hostname = if pod.host_network() {
        shared.config.node_name.clone()
    } else {
        fqdn.unwrap_or_else(|| dns::hostname(pod))
    };
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            namespace: pod.namespace().to_owned(),
            attempt,
        }),
        hostname,
        log_directory: shared.log_dir(pod.namespace(), pod.name(), pod.uid()).to_string_lossy().into_owned(),
        dns_config: Some(dns::config(
            pod,
            &shared.config.cluster_dns,
            &shared.config.cluster_domain,
            &dns::parse(resolv_conf),
        )),
        port_mappings: port_mappings(pod),
        labels: all_labels,
        annotations: pod.metadata.annotations.clone().into_iter().flatten().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: shared.cgroup(pod),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(pod)),
                run_as_user: int(security.and_then(|security| security.run_as_user)),
                run_as_group: int(security
                    .filter(|security| security.run_as_user.is_some())
                    .and_then(|security| security.run_as_group)),
                supplemental_groups: groups.collect(),
                privileged,
                seccomp: Some(seccomp(
                    Some(&SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
                    &shared.config.root_dir,
                )),
                ..Default::default()
            }),
            sysctls: security
                .and_then(|security| security.sysctls.as_ref())
                .into_iter()
                .flatten()
                .map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone()))
                .collect(),
            resources: Some(v1::LinuxContainerResources {
                cpu_period: resources::PERIOD,
                cpu_quota: limits.quota.unwrap_or(0),
                cpu_shares: limits.shares,
                memory_limit_in_bytes: limits.memory.unwrap_or(0),
                ..Default::default()
            }),
            overhead: None,
        }),
        windows: None,
    }
}

/// Makes the pod's cgroup, log directory and sandbox; answers the sandbox's id.
pub async fn create(shared: &Shared, pod: &Pod, attempt: u32) -> Result<String, String> {
    let limits = resources::pod_limits(pod);
    shared.cgroups.prepare_pod(&shared.cgroup(pod), &limits).map_err(|error| {
        format!(
            "failed to ensure that the pod: {} cgroups exist and are correctly applied: {error}",
            pod.uid()
        )
    })?;
    let logs = shared.log_dir(pod.namespace(), pod.name(), pod.uid());
    std::fs::create_dir_all(&logs)
        .map_err(|error| format!("failed to make log directory {}: {error}", logs.display()))?;
    let resolv_conf = std::fs::read_to_string(&shared.config.resolv_conf).unwrap_or_default();
    let config = config(shared, pod, attempt, &resolv_conf);
    shared.cri.run_pod_sandbox(config, runtime_handler(pod)).await.map_err(|error| error.to_string())
}

/// The runtime's handler for a RuntimeClass; without one, its default.
pub fn runtime_handler(pod: &Pod) -> &str {
    pod.spec().runtime_class_name.as_deref().unwrap_or_default()
}
