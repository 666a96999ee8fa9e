//! Column definitions. Most descriptions are those of the fields that the columns show.
use super::{Column, Doc};

const fn column(name: &'static str, ty: &'static str, description: Doc, priority: i32) -> Column {
    Column { name, ty, format: "", description, priority }
}

/// A column of text.
const fn text(name: &'static str, description: Doc) -> Column {
    column(name, "string", description, 0)
}

/// A column of integers.
const fn int(name: &'static str, description: Doc) -> Column {
    column(name, "integer", description, 0)
}

/// A column of booleans.
const fn flag(name: &'static str, description: Doc) -> Column {
    column(name, "boolean", description, 0)
}

/// A column that only `-o wide` shows.
const fn wide(name: &'static str, description: Doc) -> Column {
    column(name, "string", description, 1)
}

/// What a column of its own says.
const fn says(text: &'static str) -> Doc {
    Doc::Says(text)
}

/// What the schema says of a field.
const fn of(ty: &'static str, field: &'static str) -> Doc {
    Doc::Field(ty, field)
}

const META_NAME: Doc = of("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "name");
const META_CREATED: Doc = of("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "creationTimestamp");

/// The name of the object.
pub(super) const NAME: Column = Column { format: "name", ..text("Name", META_NAME) };

/// The age of the object.
pub(super) const AGE: Column = text("Age", META_CREATED);

const CONTAINERS: Column = wide("Containers", says("Names of each container in the template."));
const IMAGES: Column = wide("Images", says("Images referenced by each container in the template."));

pub(super) const DEFAULT: &[Column] = &[NAME, column("Created At", "date", META_CREATED, 0)];

pub(super) const CUSTOM: &[Column] = &[NAME, column("Age", "date", META_CREATED, 0)];

pub(super) const NAME_AGE: &[Column] = &[NAME, AGE];

pub(super) const API_SERVICE: &[Column] = &[
    NAME,
    text("Service", says("The reference to the service that hosts this API endpoint.")),
    text("Available", says("Whether this service is available.")),
    AGE,
];

pub(super) const POD: &[Column] = &[
    NAME,
    text("Ready", says("The aggregate readiness state of this pod for accepting traffic.")),
    text("Status", says("The aggregate status of the containers in this pod.")),
    text(
        "Restarts",
        says(
            "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
        ),
    ),
    AGE,
    wide("IP", of("io.k8s.api.core.v1.PodStatus", "podIP")),
    wide("Node", of("io.k8s.api.core.v1.PodSpec", "nodeName")),
    wide("Nominated Node", of("io.k8s.api.core.v1.PodStatus", "nominatedNodeName")),
    wide("Readiness Gates", of("io.k8s.api.core.v1.PodSpec", "readinessGates")),
];

pub(super) const POD_TEMPLATE: &[Column] = &[
    NAME,
    text("Containers", says("Names of each container in the template.")),
    text("Images", says("Images referenced by each container in the template.")),
    text("Pod Labels", says("The labels for the pod template.")),
];

pub(super) const REPLICATION_CONTROLLER: &[Column] = &[
    NAME,
    int("Desired", of("io.k8s.api.core.v1.ReplicationControllerSpec", "replicas")),
    int("Current", of("io.k8s.api.core.v1.ReplicationControllerStatus", "replicas")),
    int("Ready", of("io.k8s.api.core.v1.ReplicationControllerStatus", "readyReplicas")),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", of("io.k8s.api.core.v1.ReplicationControllerSpec", "selector")),
];

pub(super) const REPLICA_SET: &[Column] = &[
    NAME,
    int("Desired", of("io.k8s.api.apps.v1.ReplicaSetSpec", "replicas")),
    int("Current", of("io.k8s.api.apps.v1.ReplicaSetStatus", "replicas")),
    int("Ready", of("io.k8s.api.apps.v1.ReplicaSetStatus", "readyReplicas")),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", of("io.k8s.api.apps.v1.ReplicaSetSpec", "selector")),
];

pub(super) const DAEMON_SET: &[Column] = &[
    NAME,
    int("Desired", of("io.k8s.api.apps.v1.DaemonSetStatus", "desiredNumberScheduled")),
    int("Current", of("io.k8s.api.apps.v1.DaemonSetStatus", "currentNumberScheduled")),
    int("Ready", of("io.k8s.api.apps.v1.DaemonSetStatus", "numberReady")),
    int("Up-to-date", of("io.k8s.api.apps.v1.DaemonSetStatus", "updatedNumberScheduled")),
    int("Available", of("io.k8s.api.apps.v1.DaemonSetStatus", "numberAvailable")),
    text("Node Selector", of("io.k8s.api.core.v1.PodSpec", "nodeSelector")),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", of("io.k8s.api.apps.v1.DaemonSetSpec", "selector")),
];

pub(super) const STATEFUL_SET: &[Column] =
    &[NAME, text("Ready", says("Number of the pod with ready state")), AGE, CONTAINERS, IMAGES];

pub(super) const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready", says("Number of the pod with ready state")),
    text("Up-to-date", of("io.k8s.api.apps.v1.DeploymentStatus", "updatedReplicas")),
    text("Available", of("io.k8s.api.apps.v1.DeploymentStatus", "availableReplicas")),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", of("io.k8s.api.apps.v1.DeploymentSpec", "selector")),
];

pub(super) const CONTROLLER_REVISION: &[Column] = &[
    NAME,
    text("Controller", says("Controller of the object")),
    text("Revision", of("io.k8s.api.apps.v1.ControllerRevision", "revision")),
    AGE,
];

pub(super) const JOB: &[Column] = &[
    NAME,
    text("Status", says("Status of the job.")),
    text("Completions", of("io.k8s.api.batch.v1.JobStatus", "succeeded")),
    text("Duration", says("Time required to complete the job.")),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", of("io.k8s.api.batch.v1.JobSpec", "selector")),
];

pub(super) const CRON_JOB: &[Column] = &[
    NAME,
    text("Schedule", of("io.k8s.api.batch.v1.CronJobSpec", "schedule")),
    text("Timezone", of("io.k8s.api.batch.v1.CronJobSpec", "timeZone")),
    flag("Suspend", of("io.k8s.api.batch.v1.CronJobSpec", "suspend")),
    int("Active", of("io.k8s.api.batch.v1.CronJobStatus", "active")),
    text("Last Schedule", of("io.k8s.api.batch.v1.CronJobStatus", "lastScheduleTime")),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", of("io.k8s.api.batch.v1.JobSpec", "selector")),
];

pub(super) const SERVICE: &[Column] = &[
    NAME,
    text("Type", of("io.k8s.api.core.v1.ServiceSpec", "type")),
    text("Cluster-IP", of("io.k8s.api.core.v1.ServiceSpec", "clusterIP")),
    text("External-IP", of("io.k8s.api.core.v1.ServiceSpec", "externalIPs")),
    text("Port(s)", of("io.k8s.api.core.v1.ServiceSpec", "ports")),
    AGE,
    wide("Selector", of("io.k8s.api.core.v1.ServiceSpec", "selector")),
];

pub(super) const ENDPOINTS: &[Column] =
    &[NAME, text("Endpoints", of("io.k8s.api.core.v1.Endpoints", "subsets")), AGE];

pub(super) const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    text("AddressType", of("io.k8s.api.discovery.v1.EndpointSlice", "addressType")),
    text("Ports", of("io.k8s.api.discovery.v1.EndpointSlice", "ports")),
    text("Endpoints", of("io.k8s.api.discovery.v1.EndpointSlice", "endpoints")),
    AGE,
];

pub(super) const INGRESS: &[Column] = &[
    NAME,
    text(
        "Class",
        says("The name of the IngressClass resource that should be used for additional configuration"),
    ),
    text("Hosts", says("Hosts that incoming requests are matched against before the ingress rule")),
    text("Address", says("Address is a list containing ingress points for the load-balancer")),
    text("Ports", says("Ports of TLS configurations that open")),
    AGE,
];

pub(super) const INGRESS_CLASS: &[Column] = &[
    NAME,
    text("Controller", says("Controller that is responsible for handling this class")),
    text("Parameters", says("A reference to a resource with additional parameters")),
    AGE,
];

pub(super) const NETWORK_POLICY: &[Column] =
    &[NAME, text("Pod-Selector", of("io.k8s.api.networking.v1.NetworkPolicySpec", "podSelector")), AGE];

pub(super) const SERVICE_CIDR: &[Column] =
    &[NAME, text("CIDRs", of("io.k8s.api.networking.v1.ServiceCIDRSpec", "cidrs")), AGE];

pub(super) const IP_ADDRESS: &[Column] =
    &[NAME, text("ParentRef", of("io.k8s.api.networking.v1.IPAddressSpec", "parentRef"))];

pub(super) const NODE: &[Column] = &[
    NAME,
    text("Status", says("The status of the node")),
    text("Roles", says("The roles of the node")),
    AGE,
    text("Version", of("io.k8s.api.core.v1.NodeSystemInfo", "kubeletVersion")),
    wide("Internal-IP", of("io.k8s.api.core.v1.NodeStatus", "addresses")),
    wide("External-IP", of("io.k8s.api.core.v1.NodeStatus", "addresses")),
    wide("OS-Image", of("io.k8s.api.core.v1.NodeSystemInfo", "osImage")),
    wide("Kernel-Version", of("io.k8s.api.core.v1.NodeSystemInfo", "kernelVersion")),
    wide("Container-Runtime", of("io.k8s.api.core.v1.NodeSystemInfo", "containerRuntimeVersion")),
];

pub(super) const EVENT: &[Column] = &[
    text("Last Seen", of("io.k8s.api.core.v1.Event", "lastTimestamp")),
    text("Type", of("io.k8s.api.core.v1.Event", "type")),
    text("Reason", of("io.k8s.api.core.v1.Event", "reason")),
    text("Object", of("io.k8s.api.core.v1.Event", "involvedObject")),
    wide("Subobject", of("io.k8s.api.core.v1.ObjectReference", "fieldPath")),
    wide("Source", of("io.k8s.api.core.v1.Event", "source")),
    text("Message", of("io.k8s.api.core.v1.Event", "message")),
    wide("First Seen", of("io.k8s.api.core.v1.Event", "firstTimestamp")),
    wide("Count", of("io.k8s.api.core.v1.Event", "count")),
    Column { format: "name", ..wide("Name", META_NAME) },
];

pub(super) const NAMESPACE: &[Column] = &[NAME, text("Status", says("The status of the namespace")), AGE];

pub(super) const SECRET: &[Column] = &[
    NAME,
    text("Type", of("io.k8s.api.core.v1.Secret", "type")),
    text("Data", of("io.k8s.api.core.v1.Secret", "data")),
    AGE,
];

pub(super) const CONFIG_MAP: &[Column] =
    &[NAME, text("Data", of("io.k8s.api.core.v1.ConfigMap", "data")), AGE];

pub(super) const COMPONENT_STATUS: &[Column] = &[
    NAME,
    text("Status", says("Status of the component conditions")),
    text("Message", says("Message of the component conditions")),
    text("Error", says("Error of the component conditions")),
];

pub(super) const PERSISTENT_VOLUME: &[Column] = &[
    NAME,
    text("Capacity", of("io.k8s.api.core.v1.PersistentVolumeSpec", "capacity")),
    text("Access Modes", of("io.k8s.api.core.v1.PersistentVolumeSpec", "accessModes")),
    text("Reclaim Policy", of("io.k8s.api.core.v1.PersistentVolumeSpec", "persistentVolumeReclaimPolicy")),
    text("Status", of("io.k8s.api.core.v1.PersistentVolumeStatus", "phase")),
    text("Claim", of("io.k8s.api.core.v1.PersistentVolumeSpec", "claimRef")),
    text("StorageClass", says("StorageClass of the pv")),
    text("VolumeAttributesClass", says("VolumeAttributesClass of the pv")),
    text("Reason", of("io.k8s.api.core.v1.PersistentVolumeStatus", "reason")),
    AGE,
    wide("VolumeMode", of("io.k8s.api.core.v1.PersistentVolumeSpec", "volumeMode")),
];

pub(super) const PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    NAME,
    text("Status", of("io.k8s.api.core.v1.PersistentVolumeClaimStatus", "phase")),
    text("Volume", of("io.k8s.api.core.v1.PersistentVolumeClaimSpec", "volumeName")),
    text("Capacity", of("io.k8s.api.core.v1.PersistentVolumeClaimStatus", "capacity")),
    text("Access Modes", of("io.k8s.api.core.v1.PersistentVolumeClaimStatus", "accessModes")),
    text("StorageClass", says("StorageClass of the pvc")),
    text("VolumeAttributesClass", says("VolumeAttributesClass of the pvc")),
    AGE,
    wide("VolumeMode", of("io.k8s.api.core.v1.PersistentVolumeClaimSpec", "volumeMode")),
];

pub(super) const STORAGE_CLASS: &[Column] = &[
    NAME,
    text("Provisioner", of("io.k8s.api.storage.v1.StorageClass", "provisioner")),
    text("ReclaimPolicy", of("io.k8s.api.storage.v1.StorageClass", "reclaimPolicy")),
    text("VolumeBindingMode", of("io.k8s.api.storage.v1.StorageClass", "volumeBindingMode")),
    text("AllowVolumeExpansion", of("io.k8s.api.storage.v1.StorageClass", "allowVolumeExpansion")),
    AGE,
];

pub(super) const VOLUME_ATTRIBUTES_CLASS: &[Column] =
    &[NAME, text("DriverName", of("io.k8s.api.storage.v1.VolumeAttributesClass", "driverName")), AGE];

pub(super) const VOLUME_ATTACHMENT: &[Column] = &[
    NAME,
    Column {
        format: "name",
        ..text("Attacher", of("io.k8s.api.storage.v1.VolumeAttachmentSpec", "attacher"))
    },
    text("PV", of("io.k8s.api.storage.v1.VolumeAttachmentSource", "persistentVolumeName")),
    text("Node", of("io.k8s.api.storage.v1.VolumeAttachmentSpec", "nodeName")),
    flag("Attached", of("io.k8s.api.storage.v1.VolumeAttachmentStatus", "attached")),
    AGE,
];

pub(super) const CSI_NODE: &[Column] =
    &[NAME, int("Drivers", says("Drivers indicates the number of CSI drivers registered on the node")), AGE];

pub(super) const CSI_DRIVER: &[Column] = &[
    NAME,
    flag("AttachRequired", of("io.k8s.api.storage.v1.CSIDriverSpec", "attachRequired")),
    flag("PodInfoOnMount", of("io.k8s.api.storage.v1.CSIDriverSpec", "podInfoOnMount")),
    flag("StorageCapacity", of("io.k8s.api.storage.v1.CSIDriverSpec", "storageCapacity")),
    text("TokenRequests", of("io.k8s.api.storage.v1.CSIDriverSpec", "tokenRequests")),
    flag("RequiresRepublish", of("io.k8s.api.storage.v1.CSIDriverSpec", "requiresRepublish")),
    text("Modes", of("io.k8s.api.storage.v1.CSIDriverSpec", "volumeLifecycleModes")),
    AGE,
];

pub(super) const CSI_STORAGE_CAPACITY: &[Column] = &[
    NAME,
    text("StorageClassName", of("io.k8s.api.storage.v1.CSIStorageCapacity", "storageClassName")),
    text("Capacity", of("io.k8s.api.storage.v1.CSIStorageCapacity", "capacity")),
];

pub(super) const AUTOSCALER: &[Column] = &[
    NAME,
    text("Reference", of("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec", "scaleTargetRef")),
    text("Targets", of("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec", "metrics")),
    text("MinPods", of("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec", "minReplicas")),
    text("MaxPods", of("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerSpec", "maxReplicas")),
    text("Replicas", of("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerStatus", "currentReplicas")),
    AGE,
];

pub(super) const SCALE: &[Column] = &[
    Column { format: "", ..text("Name", META_NAME) },
    int("Desired", of("io.k8s.api.autoscaling.v1.ScaleSpec", "replicas")),
    int("Available", of("io.k8s.api.autoscaling.v1.ScaleStatus", "replicas")),
    AGE,
];

pub(super) const DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    text("Min Available", says("The minimum number of pods that must be available.")),
    text("Max Unavailable", says("The maximum number of pods that may be unavailable.")),
    int("Allowed Disruptions", says("Calculated number of pods that may be disrupted at this time.")),
    AGE,
];

pub(super) const ROLE_BINDING: &[Column] = &[
    NAME,
    text("Role", of("io.k8s.api.rbac.v1.RoleBinding", "roleRef")),
    AGE,
    wide("Users", says("Users in the roleBinding")),
    wide("Groups", says("Groups in the roleBinding")),
    wide("ServiceAccounts", says("ServiceAccounts in the roleBinding")),
];

pub(super) const CLUSTER_ROLE_BINDING: &[Column] = &[
    NAME,
    text("Role", of("io.k8s.api.rbac.v1.ClusterRoleBinding", "roleRef")),
    AGE,
    wide("Users", says("Users in the clusterRoleBinding")),
    wide("Groups", says("Groups in the clusterRoleBinding")),
    wide("ServiceAccounts", says("ServiceAccounts in the clusterRoleBinding")),
];

pub(super) const SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    text("SignerName", of("io.k8s.api.certificates.v1.CertificateSigningRequestSpec", "signerName")),
    text("Requestor", of("io.k8s.api.certificates.v1.CertificateSigningRequestSpec", "request")),
    text(
        "RequestedDuration",
        of("io.k8s.api.certificates.v1.CertificateSigningRequestSpec", "expirationSeconds"),
    ),
    text("Condition", of("io.k8s.api.certificates.v1.CertificateSigningRequestStatus", "conditions")),
];

pub(super) const TRUST_BUNDLE: &[Column] =
    &[NAME, text("SignerName", of("io.k8s.api.certificates.v1beta1.ClusterTrustBundleSpec", "signerName"))];

pub(super) const POD_CERTIFICATE: &[Column] = &[
    NAME,
    text("PodName", of("io.k8s.api.certificates.v1beta1.PodCertificateRequestSpec", "podName")),
    text(
        "ServiceAccountName",
        of("io.k8s.api.certificates.v1beta1.PodCertificateRequestSpec", "serviceAccountName"),
    ),
    text("NodeName", of("io.k8s.api.certificates.v1beta1.PodCertificateRequestSpec", "nodeName")),
    text("SignerName", of("io.k8s.api.certificates.v1beta1.PodCertificateRequestSpec", "signerName")),
    text("State", says("Is the request Pending, Issued, Denied, or Failed?")),
    text(
        "UnverifiedUserAnnotations",
        of("io.k8s.api.certificates.v1beta1.PodCertificateRequestSpec", "unverifiedUserAnnotations"),
    ),
];

pub(super) const LEASE: &[Column] =
    &[NAME, text("Holder", of("io.k8s.api.coordination.v1.LeaseSpec", "holderIdentity")), AGE];

pub(super) const LEASE_CANDIDATE: &[Column] = &[
    NAME,
    text("LeaseName", of("io.k8s.api.coordination.v1alpha2.LeaseCandidateSpec", "leaseName")),
    text("BinaryVersion", says("")),
    text("EmulationVersion", says("")),
    AGE,
];

pub(super) const RESOURCE_QUOTA: &[Column] = &[
    NAME,
    text("Request", says("Request represents a minimum amount of cpu/memory that a container may consume.")),
    text(
        "Limit",
        says(
            "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
        ),
    ),
    AGE,
];

pub(super) const PRIORITY_CLASS: &[Column] = &[
    NAME,
    int("Value", of("io.k8s.api.scheduling.v1.PriorityClass", "value")),
    flag("Global-Default", of("io.k8s.api.scheduling.v1.PriorityClass", "globalDefault")),
    AGE,
    text("PreemptionPolicy", of("io.k8s.api.scheduling.v1.PriorityClass", "preemptionPolicy")),
];

pub(super) const POD_GROUP: &[Column] = &[
    NAME,
    text("Policy", of("io.k8s.api.scheduling.v1alpha2.PodGroupSpec", "schedulingPolicy")),
    text("Workload", says("Name of the referenced Workload object")),
    text("Status", says("Status of the PodGroup")),
    AGE,
];

pub(super) const RUNTIME_CLASS: &[Column] = &[NAME, text("Handler", says("")), AGE];

pub(super) const WEBHOOKS: &[Column] = &[
    NAME,
    int("Webhooks", says("Webhooks indicates the number of webhooks registered in this configuration")),
    AGE,
];

pub(super) const VALIDATING_POLICY: &[Column] = &[
    NAME,
    int(
        "Validations",
        says("Validations indicates the number of validation rules defined in this configuration"),
    ),
    text("ParamKind", says("ParamKind specifies the kind of resources used to parameterize this policy")),
    AGE,
];

pub(super) const MUTATING_POLICY: &[Column] = &[
    NAME,
    int("Mutations", says("Mutation indicates the number of mutations rules defined in this configuration")),
    text("ParamKind", says("ParamKind specifies the kind of resources used to parameterize this policy")),
    AGE,
];

pub(super) const POLICY_BINDING: &[Column] = &[
    NAME,
    text("PolicyName", says("PolicyName indicates the policy definition which the policy binding binded to")),
    text("ParamRef", says("ParamRef indicates the param resource which sets the configuration param")),
    AGE,
];

pub(super) const FLOW_SCHEMA: &[Column] = &[
    NAME,
    text("PriorityLevel", of("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationReference", "name")),
    text("MatchingPrecedence", of("io.k8s.api.flowcontrol.v1.FlowSchemaSpec", "matchingPrecedence")),
    text("DistinguisherMethod", of("io.k8s.api.flowcontrol.v1.FlowSchemaSpec", "distinguisherMethod")),
    AGE,
    text("MissingPL", says("references a broken or non-existent PriorityLevelConfiguration")),
];

pub(super) const PRIORITY_LEVEL: &[Column] = &[
    NAME,
    text("Type", of("io.k8s.api.flowcontrol.v1.PriorityLevelConfigurationSpec", "type")),
    text(
        "NominalConcurrencyShares",
        of("io.k8s.api.flowcontrol.v1.LimitedPriorityLevelConfiguration", "nominalConcurrencyShares"),
    ),
    text("Queues", of("io.k8s.api.flowcontrol.v1.QueuingConfiguration", "queues")),
    text("HandSize", of("io.k8s.api.flowcontrol.v1.QueuingConfiguration", "handSize")),
    text("QueueLengthLimit", of("io.k8s.api.flowcontrol.v1.QueuingConfiguration", "queueLengthLimit")),
    AGE,
];

pub(super) const STORAGE_VERSION: &[Column] = &[
    NAME,
    text(
        "CommonEncodingVersion",
        of("io.k8s.api.apiserverinternal.v1alpha1.StorageVersionStatus", "commonEncodingVersion"),
    ),
    text(
        "StorageVersions",
        of("io.k8s.api.apiserverinternal.v1alpha1.StorageVersionStatus", "storageVersions"),
    ),
    AGE,
];

pub(super) const STORAGE_MIGRATION: &[Column] = &[
    Column { format: "", ..text("Name", META_NAME) },
    text("Resource", says("GroupResource to migrate")),
    text("Status", says("Status of the migration")),
];

pub(super) const RESOURCE_CLAIM: &[Column] =
    &[NAME, text("State", says("A summary of the current state (allocated, pending, reserved, etc.).")), AGE];

pub(super) const RESOURCE_SLICE: &[Column] = &[
    NAME,
    text("Node", of("io.k8s.api.resource.v1.ResourceSliceSpec", "nodeName")),
    text("Driver", of("io.k8s.api.resource.v1.ResourceSliceSpec", "driver")),
    text("Pool", of("io.k8s.api.resource.v1.ResourcePool", "name")),
    AGE,
];

pub(super) const POOL_STATUS: &[Column] = &[
    NAME,
    text("Driver", says("The driver to query pools for.")),
    text("Total", says("Total number of devices across all pools.")),
    text("Available", says("Number of available devices across all pools.")),
    text("Allocated", says("Number of allocated devices across all pools.")),
    text("Unavailable", says("Number of unavailable devices across all pools.")),
    text("Errors", says("Number of pools with validation errors.")),
    int("Pools", says("Total number of matching pools.")),
    text("Status", says("Processing status.")),
    text("Completed", says("Time since the observation completed.")),
];

pub(super) const DEVICE_TAINT_RULE: &[Column] = &[
    NAME,
    text("Key", of("io.k8s.api.resource.v1.DeviceTaint", "key")),
    text("Value", of("io.k8s.api.resource.v1.DeviceTaint", "value")),
    text("Effect", of("io.k8s.api.resource.v1.DeviceTaint", "effect")),
    text("TimeAdded", of("io.k8s.api.resource.v1.DeviceTaint", "timeAdded")),
    AGE,
];
