//! What is changed or refused on the way in: one file a plugin.
//!
//! Read [`Plugin`] and [`Attributes`] first; [`Chain`] runs plugins in upstream's order, [`PluginFlags`] and [`Settings`]
//! say which of them and how. Plugins see the cluster only through [`ClusterView`]; they never write.
mod always;
mod always_pull_images;
mod anti_affinity;
mod attributes;
mod certificates;
mod chain;
pub mod cluster;
mod default_class;
mod default_toleration_seconds;
mod deny_service_external_ips;
mod event_rate_limit;
mod extended_resource_toleration;
mod image_policy;
mod in_use_protection;
mod limit_ranger;
mod namespace_auto_provision;
mod namespace_exists;
mod namespace_lifecycle;
mod needs;
mod node_declared_features;
mod node_restriction;
mod owner_references;
mod plugins;
mod pod_node_selector;
pub mod pod_refs;
mod pod_resize;
mod pod_security;
mod pod_toleration_restriction;
mod pod_topology_labels;
pub mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod settings;
mod taint_nodes;
#[cfg(test)]
mod testing;
mod volume_resize;

pub use always::{AlwaysAdmit, AlwaysDeny};
pub use always_pull_images::AlwaysPullImages;
pub use anti_affinity::LimitPodHardAntiAffinityTopology;
pub use attributes::{Attributes, Operation};
pub use certificates::{
    CertificateApproval, CertificateSigning, CertificateSubjectRestriction, ClusterTrustBundleAttest,
};
pub use chain::{Chain, Plugin};
pub use cluster::{ClusterView, Resource};
pub use default_class::{DefaultIngressClass, DefaultStorageClass};
pub use default_toleration_seconds::DefaultTolerationSeconds;
pub use deny_service_external_ips::DenyServiceExternalIps;
pub use event_rate_limit::EventRateLimit;
pub use extended_resource_toleration::ExtendedResourceToleration;
pub use image_policy::ImagePolicyWebhook;
pub use in_use_protection::StorageObjectInUseProtection;
pub use limit_ranger::LimitRanger;
pub use namespace_auto_provision::NamespaceAutoProvision;
pub use namespace_exists::NamespaceExists;
pub use namespace_lifecycle::NamespaceLifecycle;
pub use needs::{Authorize, FindReviewer, ImageReviewer, MakeNamespaces, NoReview, Served, ServedKinds};
pub use node_declared_features::NodeDeclaredFeatureValidator;
pub use node_restriction::NodeRestriction;
pub use owner_references::OwnerReferences;
pub use plugins::{Needs, PluginFlags, Selection};
pub use pod_node_selector::PodNodeSelector;
pub use pod_resize::PodResizeValidator;
pub use pod_security::PodSecurity;
pub use pod_toleration_restriction::PodTolerationRestriction;
pub use pod_topology_labels::PodTopologyLabels;
pub use priority::Priority;
pub use resource_quota::{QuotaWriter, ResourceQuota};
pub use runtime_class::RuntimeClass;
pub use service_account::ServiceAccount;
pub use settings::{ConfigError, Settings};
pub use taint_nodes::TaintNodesByCondition;
pub use volume_resize::PersistentVolumeClaimResize;
