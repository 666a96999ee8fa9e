//! Which columns and cells belong to which kind.
use super::{
    Printer, access, batch, columns as c, config, devices, event, network, node, pod, quota, scheduling,
    storage, workload,
};

const fn printer(
    columns: &'static [super::Column],
    row: fn(&machinery::Object, jiff::Timestamp) -> Vec<serde_json::Value>,
) -> Printer {
    Printer { columns, row }
}

/// The printer of a kind.
pub(super) fn find(group: &str, plural: &str) -> &'static Printer {
    match (group, plural) {
        ("", "componentstatuses") => &const { printer(c::COMPONENT_STATUS, config::component_status) },
        ("", "configmaps") => &const { printer(c::CONFIG_MAP, config::config_map) },
        ("", "endpoints") => &const { printer(c::ENDPOINTS, network::endpoints) },
        ("" | "events.k8s.io", "events") => &const { printer(c::EVENT, event::event) },
        ("", "namespaces") => &const { printer(c::NAMESPACE, config::namespace) },
        ("", "nodes") => &const { printer(c::NODE, node::node) },
        ("", "persistentvolumeclaims") => {
            &const { printer(c::PERSISTENT_VOLUME_CLAIM, storage::persistent_volume_claim) }
        }
        ("", "persistentvolumes") => &const { printer(c::PERSISTENT_VOLUME, storage::persistent_volume) },
        ("", "pods") => &const { printer(c::POD, pod::pod) },
        ("", "podtemplates") => &const { printer(c::POD_TEMPLATE, workload::pod_template) },
        ("", "replicationcontrollers") => {
            &const { printer(c::REPLICATION_CONTROLLER, workload::replication_controller) }
        }
        ("", "resourcequotas") => &const { printer(c::RESOURCE_QUOTA, quota::resource_quota) },
        ("", "secrets") => &const { printer(c::SECRET, config::secret) },
        ("", "serviceaccounts") => &const { printer(c::NAME_AGE, config::name_and_age) },
        ("", "services") => &const { printer(c::SERVICE, network::service) },
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations" | "validatingwebhookconfigurations",
        ) => &const { printer(c::WEBHOOKS, access::webhooks) },
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => {
            &const { printer(c::VALIDATING_POLICY, access::validating_policy) }
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => {
            &const { printer(c::MUTATING_POLICY, access::mutating_policy) }
        }
        ("admissionregistration.k8s.io", _) => &const { printer(c::POLICY_BINDING, access::policy_binding) },
        ("apiregistration.k8s.io", "apiservices") => &const { printer(c::API_SERVICE, access::api_service) },
        ("apps", "controllerrevisions") => {
            &const { printer(c::CONTROLLER_REVISION, workload::controller_revision) }
        }
        ("apps", "daemonsets") => &const { printer(c::DAEMON_SET, workload::daemon_set) },
        ("apps", "deployments") => &const { printer(c::DEPLOYMENT, workload::deployment) },
        ("apps", "replicasets") => &const { printer(c::REPLICA_SET, workload::replica_set) },
        ("apps", "statefulsets") => &const { printer(c::STATEFUL_SET, workload::stateful_set) },
        ("autoscaling", "scale") => &const { printer(c::SCALE, workload::scale) },
        ("autoscaling", "horizontalpodautoscalers") => &const { printer(c::AUTOSCALER, quota::autoscaler) },
        ("batch", "cronjobs") => &const { printer(c::CRON_JOB, batch::cron_job) },
        ("batch", "jobs") => &const { printer(c::JOB, batch::job) },
        ("certificates.k8s.io", "certificatesigningrequests") => {
            &const { printer(c::SIGNING_REQUEST, access::signing_request) }
        }
        ("certificates.k8s.io", "clustertrustbundles") => {
            &const { printer(c::TRUST_BUNDLE, access::trust_bundle) }
        }
        ("certificates.k8s.io", "podcertificaterequests") => {
            &const { printer(c::POD_CERTIFICATE, access::pod_certificate) }
        }
        ("coordination.k8s.io", "leases") => &const { printer(c::LEASE, config::lease) },
        ("coordination.k8s.io", "leasecandidates") => {
            &const { printer(c::LEASE_CANDIDATE, config::lease_candidate) }
        }
        ("discovery.k8s.io", "endpointslices") => {
            &const { printer(c::ENDPOINT_SLICE, network::endpoint_slice) }
        }
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => {
            &const { printer(c::FLOW_SCHEMA, quota::flow_schema) }
        }
        ("flowcontrol.apiserver.k8s.io", _) => &const { printer(c::PRIORITY_LEVEL, quota::priority_level) },
        ("internal.apiserver.k8s.io", "storageversions") => {
            &const { printer(c::STORAGE_VERSION, storage::storage_version) }
        }
        ("networking.k8s.io", "ingressclasses") => {
            &const { printer(c::INGRESS_CLASS, network::ingress_class) }
        }
        ("networking.k8s.io", "ingresses") => &const { printer(c::INGRESS, network::ingress) },
        ("networking.k8s.io", "ipaddresses") => &const { printer(c::IP_ADDRESS, network::ip_address) },
        ("networking.k8s.io", "networkpolicies") => {
            &const { printer(c::NETWORK_POLICY, network::network_policy) }
        }
        ("networking.k8s.io", "servicecidrs") => &const { printer(c::SERVICE_CIDR, network::service_cidr) },
        ("node.k8s.io", "runtimeclasses") => &const { printer(c::RUNTIME_CLASS, config::runtime_class) },
        ("policy", "poddisruptionbudgets") => {
            &const { printer(c::DISRUPTION_BUDGET, quota::disruption_budget) }
        }
        ("rbac.authorization.k8s.io", "clusterrolebindings") => {
            &const { printer(c::CLUSTER_ROLE_BINDING, access::role_binding) }
        }
        ("rbac.authorization.k8s.io", "rolebindings") => {
            &const { printer(c::ROLE_BINDING, access::role_binding) }
        }
        ("resource.k8s.io", "deviceclasses" | "resourceclaimtemplates") => {
            &const { printer(c::NAME_AGE, config::name_and_age) }
        }
        ("resource.k8s.io", "devicetaintrules") => {
            &const { printer(c::DEVICE_TAINT_RULE, devices::taint_rule) }
        }
        ("resource.k8s.io", "resourceclaims") => &const { printer(c::RESOURCE_CLAIM, devices::claim) },
        ("resource.k8s.io", "resourcepoolstatusrequests") => {
            &const { printer(c::POOL_STATUS, devices::pool_status) }
        }
        ("resource.k8s.io", "resourceslices") => &const { printer(c::RESOURCE_SLICE, devices::slice) },
        ("scheduling.k8s.io", "podgroups") => &const { printer(c::POD_GROUP, scheduling::pod_group) },
        ("scheduling.k8s.io", "priorityclasses") => {
            &const { printer(c::PRIORITY_CLASS, scheduling::priority_class) }
        }
        ("scheduling.k8s.io", "workloads") => &const { printer(c::NAME_AGE, config::name_and_age) },
        ("storage.k8s.io", "csidrivers") => &const { printer(c::CSI_DRIVER, storage::csi_driver) },
        ("storage.k8s.io", "csinodes") => &const { printer(c::CSI_NODE, storage::csi_node) },
        ("storage.k8s.io", "csistoragecapacities") => {
            &const { printer(c::CSI_STORAGE_CAPACITY, storage::csi_storage_capacity) }
        }
        ("storage.k8s.io", "storageclasses") => &const { printer(c::STORAGE_CLASS, storage::storage_class) },
        ("storage.k8s.io", "volumeattachments") => {
            &const { printer(c::VOLUME_ATTACHMENT, storage::volume_attachment) }
        }
        ("storage.k8s.io", "volumeattributesclasses") => {
            &const { printer(c::VOLUME_ATTRIBUTES_CLASS, storage::volume_attributes_class) }
        }
        ("storagemigration.k8s.io", "storageversionmigrations") => {
            &const { printer(c::STORAGE_MIGRATION, storage::storage_migration) }
        }
        _ if api::kinds::KINDS.iter().any(|k| k.group == group) => {
            &const { printer(c::DEFAULT, config::name_and_creation) }
        }
        _ => &const { printer(c::CUSTOM, config::name_and_age) },
    }
}
