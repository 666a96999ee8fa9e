//! What a pod's spec says, asked in the kubelet's words.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

use crate::labels;

/// The four ways a container can be part of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion before the pod's containers start.
    Init,
    /// An init container that keeps running (`restartPolicy: Always`).
    Sidecar,
    /// A regular container.
    App,
    /// Added to a running pod to look at it.
    Ephemeral,
}

/// Questions that several reconcilers ask of a pod.
pub trait PodExt {
    /// The pod's UID, empty only for objects that never came from a source.
    fn uid(&self) -> &str;
    /// The pod's name.
    fn name(&self) -> &str;
    /// The pod's namespace.
    fn namespace(&self) -> &str;
    /// `name_namespace(uid)`, as upstream prints pods in messages.
    fn printed(&self) -> String;
    /// The spec; an object without one has an empty spec.
    fn spec(&self) -> &PodSpec;
    /// An annotation's value.
    fn annotation(&self, key: &str) -> Option<&str>;
    /// Whether this pod comes from a manifest on this node.
    fn is_static(&self) -> bool;
    /// Whether this is the API's picture of a static pod.
    fn is_mirror(&self) -> bool;
    /// Whether the pod uses the node's network.
    fn host_network(&self) -> bool;
    /// `spec.restartPolicy`, with upstream's default.
    fn restart_policy(&self) -> &str;
    /// How long containers may take to stop.
    fn grace(&self) -> Duration;
    /// Whether the API has recorded a final phase.
    fn is_terminal(&self) -> bool;
    /// Every container with its role: init containers first, then the regular ones.
    fn containers(&self) -> Vec<(Role, &Container)>;
    /// One container by name.
    fn container(&self, name: &str) -> Option<(Role, &Container)>;
    /// The QoS class: `Guaranteed`, `Burstable` or `BestEffort`.
    fn qos_class(&self) -> &'static str;
}

fn role_of_init(container: &Container) -> Role {
    if container.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init }
}

/// An ephemeral container in the form that all others have.
pub fn as_container(ephemeral: &EphemeralContainer) -> Option<Container> {
    serde_json::to_value(ephemeral).ok().and_then(|value| serde_json::from_value(value).ok())
}

static NO_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

impl PodExt for Pod {
    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn printed(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }

    fn spec(&self) -> &PodSpec {
        self.spec.as_ref().unwrap_or(&NO_SPEC)
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    fn is_static(&self) -> bool {
        !self.is_mirror() && self.annotation(labels::CONFIG_SOURCE).is_some_and(|source| source != "api")
    }

    fn is_mirror(&self) -> bool {
        self.annotation(labels::CONFIG_MIRROR).is_some()
    }

    fn host_network(&self) -> bool {
        PodExt::spec(self).host_network == Some(true)
    }

    fn restart_policy(&self) -> &str {
        PodExt::spec(self).restart_policy.as_deref().unwrap_or("Always")
    }

    fn grace(&self) -> Duration {
        let seconds = self
            .metadata
            .deletion_grace_period_seconds
            .or(PodExt::spec(self).termination_grace_period_seconds)
            .unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1))
    }

    fn is_terminal(&self) -> bool {
        matches!(
            self.status.as_ref().and_then(|status| status.phase.as_deref()),
            Some("Succeeded" | "Failed")
        )
    }

    fn containers(&self) -> Vec<(Role, &Container)> {
        let spec = PodExt::spec(self);
        let inits =
            spec.init_containers.iter().flatten().map(|container| (role_of_init(container), container));
        inits.chain(spec.containers.iter().map(|container| (Role::App, container))).collect()
    }

    fn container(&self, name: &str) -> Option<(Role, &Container)> {
        self.containers().into_iter().find(|(_, container)| container.name == name)
    }

    fn qos_class(&self) -> &'static str {
        crate::resources::qos_class(self)
    }
}
