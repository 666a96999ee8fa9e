//! Column definitions.
use super::Column;

/// A column of text.
pub(super) const fn text(name: &'static str, description: &'static str) -> Column {
    Column { name, ty: "string", format: "", description, priority: 0 }
}

/// A column of integers.
pub(super) const fn int(name: &'static str, description: &'static str) -> Column {
    Column { name, ty: "integer", format: "", description, priority: 0 }
}

/// A column of booleans.
pub(super) const fn flag(name: &'static str, description: &'static str) -> Column {
    Column { name, ty: "boolean", format: "", description, priority: 0 }
}

/// A column that only `-o wide` shows.
pub(super) const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { name, ty: "string", format: "", description, priority: 1 }
}

/// The name of the object.
pub(super) const NAME: Column = Column {
    name: "Name",
    ty: "string",
    format: "name",
    description: "Name must be unique within a namespace.",
    priority: 0,
};

/// The age of the object.
pub(super) const AGE: Column = text("Age", "Time since the server created this object.");

const CONTAINERS: Column = wide("Containers", "Names of each container in the template.");
const IMAGES: Column = wide("Images", "Images referenced by each container in the template.");
const SELECTOR: Column = wide("Selector", "Label query over pods that belong to this object.");

pub(super) const DEFAULT: &[Column] = &[
    NAME,
    Column {
        name: "Created At",
        ty: "date",
        format: "",
        description: "When the server created this object.",
        priority: 0,
    },
];

pub(super) const CUSTOM: &[Column] = &[
    NAME,
    Column {
        name: "Age",
        ty: "date",
        format: "",
        description: "Time since the server created this object.",
        priority: 0,
    },
];

pub(super) const NAME_AGE: &[Column] = &[NAME, AGE];

pub(super) const POD: &[Column] = &[
    NAME,
    text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
    text("Status", "The aggregate status of the containers in this pod."),
    text(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    AGE,
    wide("IP", "IP address of the pod."),
    wide("Node", "The node that the pod runs on."),
    wide("Nominated Node", "The node that the pod may run on once others have left it."),
    wide("Readiness Gates", "Readiness gates that hold, of all."),
];

pub(super) const POD_TEMPLATE: &[Column] = &[
    NAME,
    text("Containers", "Names of each container in the template."),
    text("Images", "Images referenced by each container in the template."),
    text("Pod Labels", "The labels for the pod template."),
];

pub(super) const REPLICAS: &[Column] = &[
    NAME,
    int("Desired", "Number of pods that should be there."),
    int("Current", "Number of pods that are there."),
    int("Ready", "Number of pods that are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const DAEMON_SET: &[Column] = &[
    NAME,
    int("Desired", "Number of nodes that should run the pod."),
    int("Current", "Number of nodes that run the pod and should."),
    int("Ready", "Number of nodes with a ready pod."),
    int("Up-to-date", "Number of nodes that run the newest pod."),
    int("Available", "Number of nodes with an available pod."),
    text("Node Selector", "Labels of nodes that the pod fits."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const STATEFUL_SET: &[Column] =
    &[NAME, text("Ready", "Number of the pod with ready state"), AGE, CONTAINERS, IMAGES];

pub(super) const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready", "Number of the pod with ready state"),
    int("Up-to-date", "Number of pods that have the newest template."),
    int("Available", "Number of available pods."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const CONTROLLER_REVISION: &[Column] =
    &[NAME, text("Controller", "Controller of the object"), int("Revision", "Number of the revision."), AGE];

pub(super) const JOB: &[Column] = &[
    NAME,
    text("Status", "Status of the job."),
    text("Completions", "Pods that succeeded, of those wanted."),
    text("Duration", "Time required to complete the job."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const CRON_JOB: &[Column] = &[
    NAME,
    text("Schedule", "The schedule in Cron format."),
    text("Timezone", "The time zone of the schedule."),
    flag("Suspend", "Whether no new jobs are made."),
    int("Active", "Number of running jobs."),
    text("Last Schedule", "Time since a job was last made."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const SERVICE: &[Column] = &[
    NAME,
    text("Type", "How the service is exposed."),
    text("Cluster-IP", "Address of the service inside the cluster."),
    text("External-IP", "Addresses of the service outside the cluster."),
    text("Port(s)", "Ports that the service exposes."),
    AGE,
    wide("Selector", "Labels of the pods that serve."),
];

pub(super) const ENDPOINTS: &[Column] = &[NAME, text("Endpoints", "Addresses that serve."), AGE];

pub(super) const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    text("AddressType", "Type of the addresses."),
    text("Ports", "Ports of each endpoint."),
    text("Endpoints", "Addresses of the endpoints."),
    AGE,
];

pub(super) const INGRESS: &[Column] = &[
    NAME,
    text("Class", "The name of the IngressClass resource that should be used for additional configuration"),
    text("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
    text("Address", "Address is a list containing ingress points for the load-balancer"),
    text("Ports", "Ports of TLS configurations that open"),
    AGE,
];

pub(super) const INGRESS_CLASS: &[Column] = &[
    NAME,
    text("Controller", "Controller that is responsible for handling this class"),
    text("Parameters", "A reference to a resource with additional parameters"),
    AGE,
];

pub(super) const NETWORK_POLICY: &[Column] =
    &[NAME, text("Pod-Selector", "Pods that the policy applies to."), AGE];

pub(super) const SERVICE_CIDR: &[Column] =
    &[NAME, text("CIDRs", "Networks that services get addresses of."), AGE];

pub(super) const IP_ADDRESS: &[Column] = &[NAME, text("ParentRef", "The object that has this address.")];

pub(super) const NODE: &[Column] = &[
    NAME,
    text("Status", "The status of the node"),
    text("Roles", "The roles of the node"),
    AGE,
    text("Version", "Version of the kubelet."),
    wide("Internal-IP", "Address of the node inside the cluster."),
    wide("External-IP", "Address of the node outside the cluster."),
    wide("OS-Image", "Operating system of the node."),
    wide("Kernel-Version", "Kernel of the node."),
    wide("Container-Runtime", "Container runtime of the node."),
];

pub(super) const EVENT: &[Column] = &[
    text("Last Seen", "Time since it last happened."),
    text("Type", "Normal or Warning."),
    text("Reason", "A word for why it happened."),
    text("Object", "What it happened to."),
    wide("Subobject", "The part of the object."),
    wide("Source", "Who reports it."),
    text("Message", "What happened."),
    wide("First Seen", "Time since it first happened."),
    wide("Count", "How often it happened."),
    Column {
        name: "Name",
        ty: "string",
        format: "name",
        description: "Name must be unique within a namespace.",
        priority: 1,
    },
];

pub(super) const NAMESPACE: &[Column] = &[NAME, text("Status", "The status of the namespace"), AGE];

pub(super) const SECRET: &[Column] =
    &[NAME, text("Type", "What the secret is for."), int("Data", "Number of entries."), AGE];

pub(super) const CONFIG_MAP: &[Column] = &[NAME, int("Data", "Number of entries."), AGE];

pub(super) const SERVICE_ACCOUNT: &[Column] = &[NAME, int("Secrets", "Number of secrets."), AGE];

pub(super) const COMPONENT_STATUS: &[Column] = &[
    NAME,
    text("Status", "Status of the component conditions"),
    text("Message", "Message of the component conditions"),
    text("Error", "Error of the component conditions"),
];

pub(super) const PERSISTENT_VOLUME: &[Column] = &[
    NAME,
    text("Capacity", "Size of the volume."),
    text("Access Modes", "Ways to mount the volume."),
    text("Reclaim Policy", "What happens to the volume once its claim is gone."),
    text("Status", "Phase of the volume."),
    text("Claim", "The claim that has the volume."),
    text("StorageClass", "StorageClass of the pv"),
    text("VolumeAttributesClass", "VolumeAttributesClass of the pv"),
    text("Reason", "Why the volume is in a failed state."),
    AGE,
    wide("VolumeMode", "Whether the volume is a file system or a device."),
];

pub(super) const PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    NAME,
    text("Status", "Phase of the claim."),
    text("Volume", "The volume of the claim."),
    text("Capacity", "Size of the volume."),
    text("Access Modes", "Ways to mount the volume."),
    text("StorageClass", "StorageClass of the pvc"),
    text("VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
    AGE,
    wide("VolumeMode", "Whether the volume is a file system or a device."),
];

pub(super) const STORAGE_CLASS: &[Column] = &[
    NAME,
    text("Provisioner", "Who makes the volumes."),
    text("ReclaimPolicy", "What happens to a volume once its claim is gone."),
    text("VolumeBindingMode", "When a claim gets its volume."),
    text("AllowVolumeExpansion", "Whether volumes may grow."),
    AGE,
];

pub(super) const VOLUME_ATTRIBUTES_CLASS: &[Column] =
    &[NAME, text("DriverName", "Name of the CSI driver."), AGE];

pub(super) const VOLUME_ATTACHMENT: &[Column] = &[
    NAME,
    text("Attacher", "Who attaches the volume."),
    text("PV", "The volume."),
    text("Node", "The node."),
    flag("Attached", "Whether the volume is attached."),
    AGE,
];

pub(super) const CSI_NODE: &[Column] =
    &[NAME, int("Drivers", "Drivers indicates the number of CSI drivers registered on the node"), AGE];

pub(super) const CSI_DRIVER: &[Column] = &[
    NAME,
    flag("AttachRequired", "Whether volumes need attaching."),
    flag("PodInfoOnMount", "Whether the driver learns of the pod."),
    flag("StorageCapacity", "Whether the driver publishes its capacity."),
    text("TokenRequests", "Audiences of the tokens that the driver gets."),
    flag("RequiresRepublish", "Whether volumes are published again and again."),
    text("Modes", "Lifecycles of volumes that the driver supports."),
    AGE,
];

pub(super) const CSI_STORAGE_CAPACITY: &[Column] = &[
    NAME,
    text("StorageClassName", "The class that the capacity is of."),
    text("Capacity", "Bytes that are left."),
];

pub(super) const AUTOSCALER: &[Column] = &[
    NAME,
    text("Reference", "What is scaled."),
    text("Targets", "Measured and wanted values of each metric."),
    text("MinPods", "Fewest replicas."),
    text("MaxPods", "Most replicas."),
    int("Replicas", "Replicas as last seen."),
    AGE,
];

pub(super) const DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    text("Min Available", "The minimum number of pods that must be available."),
    text("Max Unavailable", "The maximum number of pods that may be unavailable."),
    int("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."),
    AGE,
];

pub(super) const ROLE_BINDING: &[Column] = &[
    NAME,
    text("Role", "The role that is granted."),
    AGE,
    wide("Users", "Users in the roleBinding"),
    wide("Groups", "Groups in the roleBinding"),
    wide("ServiceAccounts", "ServiceAccounts in the roleBinding"),
];

pub(super) const SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    text("SignerName", "The signer that is asked."),
    text("Requestor", "Who asks."),
    text("RequestedDuration", "How long the certificate should hold."),
    text("Condition", "What became of the request."),
];

pub(super) const TRUST_BUNDLE: &[Column] =
    &[NAME, text("SignerName", "The signer that the bundle belongs to.")];

pub(super) const LEASE: &[Column] = &[NAME, text("Holder", "Who holds the lease."), AGE];

pub(super) const LEASE_CANDIDATE: &[Column] = &[
    NAME,
    text("LeaseName", "The lease that is stood for."),
    text("BinaryVersion", "Version of the binary."),
    text("EmulationVersion", "Version that the binary emulates."),
    AGE,
];

pub(super) const RESOURCE_QUOTA: &[Column] = &[
    NAME,
    text("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
    text(
        "Limit",
        "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
    ),
    AGE,
];

pub(super) const PRIORITY_CLASS: &[Column] = &[
    NAME,
    int("Value", "The priority of pods of this class."),
    flag("Global-Default", "Whether pods without a class have this one."),
    AGE,
    text("PreemptionPolicy", "Whether pods of this class drive others out."),
];

pub(super) const RUNTIME_CLASS: &[Column] =
    &[NAME, text("Handler", "What the runtime calls the class."), AGE];

pub(super) const WEBHOOKS: &[Column] = &[
    NAME,
    int("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration"),
    AGE,
];

pub(super) const VALIDATING_POLICY: &[Column] = &[
    NAME,
    int("Validations", "Validations indicates the number of validation rules defined in this configuration"),
    text("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"),
    AGE,
];

pub(super) const MUTATING_POLICY: &[Column] = &[
    NAME,
    int("Mutations", "Mutation indicates the number of mutations rules defined in this configuration"),
    text("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"),
    AGE,
];

pub(super) const POLICY_BINDING: &[Column] = &[
    NAME,
    text("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
    text("ParamRef", "ParamRef indicates the param resource which sets the configration param"),
    AGE,
];

pub(super) const FLOW_SCHEMA: &[Column] = &[
    NAME,
    text("PriorityLevel", "Name of the priority level."),
    int("MatchingPrecedence", "Lower ones are tried first."),
    text("DistinguisherMethod", "What tells flows apart."),
    AGE,
    text("MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
];

pub(super) const PRIORITY_LEVEL: &[Column] = &[
    NAME,
    text("Type", "Whether requests of this level are limited."),
    text("NominalConcurrencyShares", "Share of the server's seats."),
    text("Queues", "Number of queues."),
    text("HandSize", "Queues that one flow uses."),
    text("QueueLengthLimit", "Requests that one queue holds."),
    AGE,
];

pub(super) const API_SERVICE: &[Column] = &[
    NAME,
    text("Service", "The reference to the service that hosts this API endpoint."),
    text("Available", "Whether this service is available."),
    AGE,
];

pub(super) const RESOURCE_CLAIM: &[Column] =
    &[NAME, text("State", "A summary of the current state (allocated, pending, reserved, etc.)."), AGE];

pub(super) const RESOURCE_SLICE: &[Column] = &[
    NAME,
    text("Node", "The node of the devices."),
    text("Driver", "The driver of the devices."),
    text("Pool", "The pool of the devices."),
    AGE,
];
