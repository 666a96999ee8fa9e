//! Makes and starts one container: image, environment, mounts, security; then its postStart hook.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use client::EventType;
use cri::v1;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod};

use super::{hooks, image, sandbox};
use crate::actual::Sandbox;
use crate::dns;
use crate::env;
use crate::labels;
use crate::objects::Reader;
use crate::pod::{PodExt, Role};
use crate::resources;
use crate::shared::Shared;
use crate::volumes::Mounted;

/// Why a container did not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason shown in `state.waiting`.
    pub reason: &'static str,
    /// What happened.
    pub message: String,
    /// Whether the image could not be had; that has a back-off of its own.
    pub image: bool,
}

/// All that starting a container takes.
pub struct Job {
    /// The pod.
    pub pod: std::sync::Arc<Pod>,
    /// The container in its spec.
    pub container: Container,
    /// Its role.
    pub role: Role,
    /// How many of this name ran before.
    pub restart_count: i32,
    /// The sandbox to start it in.
    pub sandbox: Sandbox,
    /// The pod's volumes on the node.
    pub mounted: Mounted,
    /// The objects that the pod refers to.
    pub reader: Reader,
}

/// The part of a pod that an event is about.
pub fn reference(pod: &Pod, container: &str) -> ObjectReference {
    let mut reference = pod_reference(pod);
    let list = match pod.container(container) {
        Some((Role::Init | Role::Sidecar, _)) => "initContainers",
        Some(_) => "containers",
        None => "ephemeralContainers",
    };
    reference.field_path = Some(format!("spec.{list}{{{container}}}"));
    reference
}

/// A pod as events name it; a static pod by its manifest's identity, as upstream.
pub fn pod_reference(pod: &Pod) -> ObjectReference {
    let mut reference = client::reference(pod);
    reference.api_version = Some("v1".into());
    reference.kind = Some("Pod".into());
    reference
}

fn config_error(message: impl ToString) -> Failure {
    Failure { reason: "CreateContainerConfigError", message: message.to_string(), image: false }
}

/// Starts the container; answers its id.
pub async fn start(shared: &Shared, job: &Job) -> Result<String, Failure> {
    let about = reference(&job.pod, &job.container.name);
    let failed = |failure: Failure| {
        shared.recorder.event(&about, EventType::Warning, "Failed", format!("Error: {}", failure.message));
        failure
    };
    let image = match image::ensure(shared, &job.pod, &job.container, &job.reader).await {
        Ok(image) => image,
        Err(failure) => {
            return Err(Failure { reason: failure.reason, message: failure.message, image: true });
        }
    };
    let config = config(shared, job, &image).await.map_err(failed)?;
    let resolv_conf = std::fs::read_to_string(&shared.config.resolv_conf).unwrap_or_default();
    let sandbox_config = sandbox::config(shared, &job.pod, job.sandbox.attempt, &resolv_conf);
    let id = shared.cri.create_container(&job.sandbox.id, config, sandbox_config).await.map_err(|error| {
        failed(Failure { reason: "CreateContainerError", message: error.message(), image: false })
    })?;
    shared.recorder.event(&about, EventType::Normal, "Created", "Container created");
    if let Err(error) = shared.cri.start_container(&id).await {
        return Err(failed(Failure { reason: "RunContainerError", message: error.message(), image: false }));
    }
    shared.recorder.event(&about, EventType::Normal, "Started", "Container started");
    tracing::info!(pod = %job.pod.printed(), container = job.container.name, restarts = job.restart_count, "container started");
    if let Some(hook) = job.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) {
        let ports = job.container.ports.as_deref().unwrap_or_default();
        if let Err(message) = hooks::run(shared, hook, &id, job.sandbox_ip(shared), ports).await {
            shared.recorder.event(
                &about,
                EventType::Warning,
                "FailedPostStartHook",
                "PostStartHook failed".to_owned(),
            );
            shared.recorder.event(&about, EventType::Normal, "Killing", "FailedPostStartHook".to_owned());
            tracing::debug!(pod = %job.pod.printed(), container = job.container.name, error = message, "postStart hook failed");
            let _ = shared.cri.stop_container(&id, job.pod.grace()).await;
            return Err(Failure { reason: "PostStartHookError", message, image: false });
        }
    }
    Ok(id)
}

impl Job {
    /// The address at which the pod's processes listen.
    fn sandbox_ip(&self, shared: &Shared) -> Option<String> {
        pod_ips(shared, &self.pod, Some(&self.sandbox)).into_iter().next()
    }
}

/// The pod's addresses: its sandbox's, or the node's.
pub fn pod_ips(shared: &Shared, pod: &Pod, sandbox: Option<&Sandbox>) -> Vec<String> {
    if pod.host_network() {
        return shared.host_ips.iter().map(ToString::to_string).collect();
    }
    sandbox.map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
}

async fn config(shared: &Shared, job: &Job, image: &str) -> Result<v1::ContainerConfig, Failure> {
    let (pod, container) = (&job.pod, &job.container);
    let mut sources = job.reader.environment(pod).await.map_err(config_error)?;
    sources.services = shared.known_services(!pod.is_static()).await;
    sources.allocatable.clone_from(&shared.allocatable);
    sources.host_ips = shared.host_ips.iter().map(ToString::to_string).collect();
    sources.pod_ips = pod_ips(shared, pod, Some(&job.sandbox));
    let variables = env::variables(pod, container, &sources).map_err(config_error)?;
    check_user(shared, pod, container, image).await?;

    let known: HashMap<&str, &str> =
        variables.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let lookup = |name: &str| known.get(name).map(|value| (*value).to_owned());
    let expanded =
        |list: &Option<Vec<String>>| list.iter().flatten().map(|text| env::expand(text, lookup)).collect();
    let mut mounts = volume_mounts(shared, job, &lookup).map_err(config_error)?;
    mounts.extend(own_mounts(shared, job, &sources.pod_ips).map_err(config_error)?);

    let log_dir = shared.log_dir(pod.namespace(), pod.name(), pod.uid()).join(&container.name);
    std::fs::create_dir_all(&log_dir)
        .map_err(|error| config_error(format!("failed to make log directory: {error}")))?;
    let spec_image = container.image.clone().unwrap_or_default();
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: container.name.clone(),
            attempt: u32::try_from(job.restart_count).unwrap_or(0),
        }),
        image: Some(v1::ImageSpec {
            image: image.to_owned(),
            user_specified_image: spec_image,
            ..Default::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: variables
            .into_iter()
            .map(|(key, value)| v1::KeyValue { key, value: value.into_bytes() })
            .collect(),
        mounts,
        labels: container_labels(pod, container),
        annotations: annotations(pod, container, job.restart_count),
        log_path: format!("{}/{}.log", container.name, job.restart_count),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(linux_resources(shared, pod, container)),
            security_context: Some(security(shared, pod, container)),
        }),
        ..Default::default()
    })
}

fn container_labels(pod: &Pod, container: &Container) -> HashMap<String, String> {
    let mut all = sandbox::pod_labels(pod);
    all.insert(labels::CONTAINER_NAME.to_owned(), container.name.clone());
    all
}

fn termination_path(container: &Container) -> &str {
    container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/dev/termination-log")
}

fn annotations(pod: &Pod, container: &Container, restart_count: i32) -> HashMap<String, String> {
    let mut all = HashMap::from([
        (
            labels::CONTAINER_HASH.to_owned(),
            labels::container_hash(&container.name, container.image.as_deref().unwrap_or_default()),
        ),
        (labels::RESTART_COUNT.to_owned(), restart_count.to_string()),
        (labels::TERMINATION_PATH.to_owned(), termination_path(container).to_owned()),
        (
            labels::TERMINATION_POLICY.to_owned(),
            container.termination_message_policy.clone().unwrap_or_else(|| "File".into()),
        ),
    ]);
    if let Some(grace) = pod.metadata.deletion_grace_period_seconds {
        all.insert(labels::DELETION_GRACE.to_owned(), grace.to_string());
    }
    if let Some(grace) = pod.spec().termination_grace_period_seconds {
        all.insert(labels::TERMINATION_GRACE.to_owned(), grace.to_string());
    }
    let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(json) = hook.and_then(|hook| serde_json::to_string(hook).ok()) {
        all.insert(labels::PRE_STOP.to_owned(), json);
    }
    let ports = container.ports.as_ref().filter(|ports| !ports.is_empty());
    if let Some(json) = ports.and_then(|ports| serde_json::to_string(ports).ok()) {
        all.insert(labels::CONTAINER_PORTS.to_owned(), json);
    }
    all
}

/// Refuses to run as root where the pod says not to.
async fn check_user(shared: &Shared, pod: &Pod, container: &Container, image: &str) -> Result<(), Failure> {
    let own = container.security_context.as_ref();
    let of_pod = pod.spec().security_context.as_ref();
    let non_root =
        own.and_then(|s| s.run_as_non_root).or(of_pod.and_then(|s| s.run_as_non_root)) == Some(true);
    if !non_root {
        return Ok(());
    }
    let printed = format!("(pod: \"{}\", container: {})", pod.printed(), container.name);
    let user = own.and_then(|s| s.run_as_user).or(of_pod.and_then(|s| s.run_as_user));
    match user {
        Some(0) => Err(config_error(format!("container's runAsUser breaks non-root policy {printed}"))),
        Some(_) => Ok(()),
        None => {
            let found = shared.cri.image_status(image).await.ok().flatten();
            match found.map(|image| (image.uid.map(|uid| uid.value), image.username)) {
                Some((Some(0), _)) => Err(config_error(format!(
                    "container has runAsNonRoot and image will run as root {printed}"
                ))),
                Some((None, name)) if name.is_empty() => Err(config_error(format!(
                    "container has runAsNonRoot and image will run as root {printed}"
                ))),
                Some((None, name)) => Err(config_error(format!(
                    "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {printed}"
                ))),
                _ => Ok(()),
            }
        }
    }
}

impl From<&Container> for resources::PodLimits {
    fn from(container: &Container) -> Self {
        resources::PodLimits {
            shares: resources::shares(resources::request(container, "cpu").unwrap_or(0)),
            quota: resources::limit(container, "cpu").map(resources::quota).filter(|quota| *quota > 0),
            memory: resources::limit(container, "memory").filter(|bytes| *bytes > 0),
        }
    }
}

fn linux_resources(shared: &Shared, pod: &Pod, container: &Container) -> v1::LinuxContainerResources {
    let limits = resources::PodLimits::from(container);
    let score = resources::oom_score_adj(pod, container, i64::try_from(shared.memory).unwrap_or(i64::MAX));
    v1::LinuxContainerResources {
        cpu_period: resources::PERIOD,
        cpu_quota: limits.quota.unwrap_or(0),
        cpu_shares: limits.shares,
        memory_limit_in_bytes: limits.memory.unwrap_or(0),
        oom_score_adj: score.max(shared.lowest_oom_score),
        ..Default::default()
    }
}

const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn security(shared: &Shared, pod: &Pod, container: &Container) -> v1::LinuxContainerSecurityContext {
    let own = container.security_context.as_ref();
    let of_pod = pod.spec().security_context.as_ref();
    let int = |value: Option<i64>| value.map(|value| v1::Int64Value { value });
    let privileged = own.and_then(|s| s.privileged) == Some(true);
    let unmasked = own.and_then(|s| s.proc_mount.as_deref()) == Some("Unmasked");
    let paths = |list: &[&str]| {
        if privileged || unmasked { vec![] } else { list.iter().map(|path| (*path).to_owned()).collect() }
    };
    let groups = of_pod.and_then(|s| s.fs_group).into_iter();
    let groups = groups.chain(of_pod.and_then(|s| s.supplemental_groups.clone()).into_iter().flatten());
    let capabilities = own.and_then(|s| s.capabilities.as_ref()).map(|capabilities| v1::Capability {
        add_capabilities: capabilities.add.clone().unwrap_or_default(),
        drop_capabilities: capabilities.drop.clone().unwrap_or_default(),
        ..Default::default()
    });
    let profile =
        own.and_then(|s| s.seccomp_profile.as_ref()).or(of_pod.and_then(|s| s.seccomp_profile.as_ref()));
    let user = own.and_then(|s| s.run_as_user).or(of_pod.and_then(|s| s.run_as_user));
    let group = own.and_then(|s| s.run_as_group).or(of_pod.and_then(|s| s.run_as_group));
    let strict = of_pod.and_then(|s| s.supplemental_groups_policy.as_deref()) == Some("Strict");
    v1::LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(sandbox::namespaces(pod)),
        run_as_user: int(user),
        run_as_group: int(group).filter(|_| user.is_some()),
        readonly_rootfs: own.and_then(|s| s.read_only_root_filesystem) == Some(true),
        supplemental_groups: groups.collect(),
        supplemental_groups_policy: if strict {
            v1::SupplementalGroupsPolicy::Strict as i32
        } else {
            v1::SupplementalGroupsPolicy::Merge as i32
        },
        no_new_privs: own.and_then(|s| s.allow_privilege_escalation) == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(sandbox::seccomp(profile, &shared.config.root_dir)),
        ..Default::default()
    }
}

fn volume_mounts(
    shared: &Shared,
    job: &Job,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<v1::Mount>, String> {
    let mut out = Vec::new();
    for (index, mount) in job.container.volume_mounts.iter().flatten().enumerate() {
        let volume = job.mounted.paths.get(&mount.name).ok_or_else(|| {
            format!(
                "cannot find volume \"{}\" to mount into container \"{}\"",
                mount.name, job.container.name
            )
        })?;
        let sub_path = match (&mount.sub_path_expr, &mount.sub_path) {
            (Some(template), _) if !template.is_empty() => {
                let text = env::expand(template, lookup);
                if let Some(unknown) = first_unresolved(&text) {
                    return Err(format!("missing value for \"{unknown}\""));
                }
                text
            }
            (_, Some(path)) => path.clone(),
            _ => String::new(),
        };
        let host_path = if sub_path.is_empty() {
            volume.path.clone()
        } else {
            if Path::new(&sub_path).is_absolute() {
                return Err(format!("error SubPath `{sub_path}` must not be an absolute path"));
            }
            if Path::new(&sub_path).components().any(|part| part == std::path::Component::ParentDir) {
                return Err(format!("unable to provision SubPath `{sub_path}`: must not contain '..'"));
            }
            let target = shared
                .pod_dir(job.pod.uid())
                .join("volume-subpaths")
                .join(&mount.name)
                .join(&job.container.name)
                .join(index.to_string());
            crate::volumes::sub_path::prepare(&volume.path, Path::new(&sub_path), &target).map_err(
                |error| {
                    format!(
                        "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {error}",
                        mount.name, job.container.name
                    )
                },
            )?;
            target
        };
        let propagation = match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
            Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
            _ => v1::MountPropagation::PropagationPrivate,
        };
        out.push(v1::Mount {
            container_path: absolute(&mount.mount_path),
            host_path: host_path.to_string_lossy().into_owned(),
            readonly: mount.read_only == Some(true) || volume.read_only,
            propagation: propagation as i32,
            ..Default::default()
        });
    }
    Ok(out)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// The name of a `$(NAME)` that no variable answers.
fn first_unresolved(text: &str) -> Option<&str> {
    let start = text.find("$(")? + 2;
    text[start..].find(')').map(|end| &text[start..start + end])
}

/// The files that every container gets: its hosts file and the place for its last words.
fn own_mounts(shared: &Shared, job: &Job, ips: &[String]) -> Result<Vec<v1::Mount>, String> {
    let (pod, container) = (&job.pod, &job.container);
    let taken = |path: &str| container.volume_mounts.iter().flatten().any(|mount| mount.mount_path == path);
    let dir = shared.pod_dir(pod.uid());
    std::fs::create_dir_all(&dir).map_err(|error| format!("failed to make {}: {error}", dir.display()))?;
    let mut out = Vec::new();
    if !taken("/etc/hosts") {
        let host_file = if pod.host_network() {
            std::fs::read_to_string("/etc/hosts").unwrap_or_default()
        } else {
            String::new()
        };
        let text = dns::hosts_file(pod, ips, &shared.config.cluster_domain, &host_file);
        let path = dir.join("etc-hosts");
        write_file(&path, text.as_bytes(), 0o644)?;
        out.push(mount("/etc/hosts", &path));
    }
    let target = termination_path(container);
    if !taken(target) {
        let folder = dir.join("containers").join(&container.name);
        std::fs::create_dir_all(&folder)
            .map_err(|error| format!("failed to make {}: {error}", folder.display()))?;
        let path = folder.join(format!(
            "{:08x}",
            labels::fnv32a(format!("{}/{}", job.sandbox.id, job.restart_count).as_bytes())
        ));
        write_file(&path, b"", 0o666)?;
        out.push(mount(target, &path));
    }
    Ok(out)
}

fn mount(container_path: &str, host_path: &Path) -> v1::Mount {
    v1::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

fn write_file(path: &PathBuf, bytes: &[u8], mode: u32) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, bytes)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)))
        .map_err(|error| format!("failed to write {}: {error}", path.display()))
}
