//! One ClusterRole for each controller, `system:controller:NAME`, bound to its service account in `kube-system`.
use machinery::Object;

use super::{EVENTS, Rule, Who, Words, binding, may, named, object, rules};

const READ: Words = &["get", "list", "watch"];
const READ_UPDATE: Words = &["get", "list", "watch", "update"];
const UPDATE: Words = &["update"];
const PATCH_UPDATE: Words = &["patch", "update"];
const LIST_WATCH: Words = &["list", "watch"];
const CORE: Words = &[""];
const ADMISSION: Words = &["admissionregistration.k8s.io"];
const APPS: Words = &["apps"];
const APPS_AND_EXTENSIONS: Words = &["apps", "extensions"];
const BATCH: Words = &["batch"];
const CERTIFICATES: Words = &["certificates.k8s.io"];
const DISCOVERY: Words = &["discovery.k8s.io"];
const NETWORKING: Words = &["networking.k8s.io"];
const POLICY: Words = &["policy"];
const RESOURCE: Words = &["resource.k8s.io"];
const STORAGE: Words = &["storage.k8s.io"];
const ANY: Words = &["*"];

const ROLES: &[(&str, &[Rule])] = &[
    (
        "attachdetach-controller",
        &[
            may(LIST_WATCH, CORE, &["persistentvolumes", "persistentvolumeclaims"]),
            may(READ, CORE, &["nodes"]),
            may(PATCH_UPDATE, CORE, &["nodes/status"]),
            may(LIST_WATCH, CORE, &["pods"]),
            EVENTS,
            may(&["get", "create", "delete", "list", "watch"], STORAGE, &["volumeattachments"]),
            may(READ, STORAGE, &["csidrivers"]),
            may(READ, STORAGE, &["csinodes"]),
        ],
    ),
    (
        "clusterrole-aggregation-controller",
        &[may(
            &["escalate", "get", "list", "watch", "update", "patch"],
            &["rbac.authorization.k8s.io"],
            &["clusterroles"],
        )],
    ),
    (
        "cronjob-controller",
        &[
            may(READ_UPDATE, BATCH, &["cronjobs"]),
            may(&["get", "list", "watch", "create", "update", "delete", "patch"], BATCH, &["jobs"]),
            may(UPDATE, BATCH, &["cronjobs/status"]),
            may(UPDATE, BATCH, &["cronjobs/finalizers"]),
            may(&["list", "watch", "delete"], CORE, &["pods"]),
            EVENTS,
        ],
    ),
    (
        "daemon-set-controller",
        &[
            may(READ, APPS_AND_EXTENSIONS, &["daemonsets"]),
            may(UPDATE, APPS_AND_EXTENSIONS, &["daemonsets/status"]),
            may(UPDATE, APPS_AND_EXTENSIONS, &["daemonsets/finalizers"]),
            may(LIST_WATCH, CORE, &["nodes"]),
            may(&["list", "watch", "create", "delete", "patch"], CORE, &["pods"]),
            may(&["create"], CORE, &["pods/binding"]),
            may(
                &["get", "list", "watch", "create", "delete", "update", "patch"],
                APPS,
                &["controllerrevisions"],
            ),
            EVENTS,
        ],
    ),
    (
        "deployment-controller",
        &[
            may(READ_UPDATE, APPS_AND_EXTENSIONS, &["deployments"]),
            may(UPDATE, APPS_AND_EXTENSIONS, &["deployments/status"]),
            may(UPDATE, APPS_AND_EXTENSIONS, &["deployments/finalizers"]),
            may(
                &["get", "list", "watch", "create", "update", "patch", "delete"],
                APPS_AND_EXTENSIONS,
                &["replicasets"],
            ),
            may(READ_UPDATE, CORE, &["pods"]),
            EVENTS,
        ],
    ),
    (
        "device-taint-eviction-controller",
        &[
            may(&["get", "list", "watch", "update", "patch", "delete"], CORE, &["pods"]),
            may(PATCH_UPDATE, CORE, &["pods/status"]),
            may(READ, RESOURCE, &["resourceclaims"]),
            may(READ, RESOURCE, &["resourceslices"]),
            may(READ, RESOURCE, &["deviceclasses"]),
            EVENTS,
        ],
    ),
    (
        "disruption-controller",
        &[
            may(READ, APPS_AND_EXTENSIONS, &["deployments"]),
            may(READ, APPS_AND_EXTENSIONS, &["replicasets"]),
            may(READ, CORE, &["replicationcontrollers"]),
            may(READ, POLICY, &["poddisruptionbudgets"]),
            may(READ, APPS, &["statefulsets"]),
            may(UPDATE, POLICY, &["poddisruptionbudgets/status"]),
            may(PATCH_UPDATE, CORE, &["pods/status"]),
            may(&["get"], ANY, &["*/scale"]),
            EVENTS,
        ],
    ),
    (
        "endpoint-controller",
        &[
            may(READ, CORE, &["services", "pods"]),
            may(&["get", "list", "watch", "create", "update", "delete"], CORE, &["endpoints"]),
            may(&["create"], CORE, &["endpoints/restricted"]),
            EVENTS,
        ],
    ),
    (
        "endpointslice-controller",
        &[
            may(READ, CORE, &["services", "pods", "nodes"]),
            may(UPDATE, CORE, &["services/finalizers"]),
            may(&["get", "list", "watch", "create", "update", "delete"], DISCOVERY, &["endpointslices"]),
            EVENTS,
        ],
    ),
    (
        "endpointslicemirroring-controller",
        &[
            may(READ, CORE, &["services", "endpoints"]),
            may(UPDATE, CORE, &["services/finalizers"]),
            may(UPDATE, CORE, &["endpoints/finalizers"]),
            may(&["get", "list", "watch", "create", "update", "delete"], DISCOVERY, &["endpointslices"]),
            EVENTS,
        ],
    ),
    (
        "ephemeral-volume-controller",
        &[
            may(READ, CORE, &["pods"]),
            may(UPDATE, CORE, &["pods/finalizers"]),
            may(&["get", "list", "watch", "create"], CORE, &["persistentvolumeclaims"]),
            EVENTS,
        ],
    ),
    (
        "expand-controller",
        &[
            may(&["get", "list", "watch", "update", "patch"], CORE, &["persistentvolumes"]),
            may(PATCH_UPDATE, CORE, &["persistentvolumeclaims/status"]),
            may(READ, CORE, &["persistentvolumeclaims"]),
            EVENTS,
        ],
    ),
    (
        "generic-garbage-collector",
        &[may(&["get", "list", "watch", "patch", "update", "delete"], ANY, &["*"]), EVENTS],
    ),
    (
        "horizontal-pod-autoscaler",
        &[
            may(READ, &["autoscaling"], &["horizontalpodautoscalers"]),
            may(UPDATE, &["autoscaling"], &["horizontalpodautoscalers/status"]),
            may(&["get", "update"], ANY, &["*/scale"]),
            may(LIST_WATCH, CORE, &["pods"]),
            may(LIST_WATCH, &["metrics.k8s.io"], &["pods"]),
            may(READ, &["custom.metrics.k8s.io"], &["*"]),
            may(READ, &["external.metrics.k8s.io"], &["*"]),
            EVENTS,
        ],
    ),
    (
        "job-controller",
        &[
            may(&["get", "list", "watch", "update", "patch"], BATCH, &["jobs"]),
            may(UPDATE, BATCH, &["jobs/status"]),
            may(UPDATE, BATCH, &["jobs/finalizers"]),
            may(&["list", "watch", "create", "delete", "patch"], CORE, &["pods"]),
            EVENTS,
        ],
    ),
    (
        "namespace-controller",
        &[
            may(&["get", "list", "watch", "delete"], CORE, &["namespaces"]),
            may(UPDATE, CORE, &["namespaces/finalize", "namespaces/status"]),
            may(&["get", "list", "watch", "delete", "deletecollection"], ANY, &["*"]),
        ],
    ),
    (
        "node-controller",
        &[
            may(&["get", "list", "watch", "update", "delete", "patch"], CORE, &["nodes"]),
            may(PATCH_UPDATE, CORE, &["nodes/status"]),
            may(PATCH_UPDATE, CORE, &["pods/status"]),
            may(&["list", "watch", "get", "delete"], CORE, &["pods"]),
            EVENTS,
        ],
    ),
    (
        "persistent-volume-binder",
        &[
            may(&["get", "list", "watch", "update", "create", "delete"], CORE, &["persistentvolumes"]),
            may(UPDATE, CORE, &["persistentvolumes/status"]),
            may(READ_UPDATE, CORE, &["persistentvolumeclaims"]),
            may(UPDATE, CORE, &["persistentvolumeclaims/status"]),
            may(&["list", "watch", "get", "create", "delete"], CORE, &["pods"]),
            may(READ, STORAGE, &["storageclasses"]),
            may(LIST_WATCH, CORE, &["nodes"]),
            EVENTS,
            may(&["watch"], CORE, &["events"]),
        ],
    ),
    (
        "pod-garbage-collector",
        &[
            may(&["list", "watch", "delete"], CORE, &["pods"]),
            may(READ, CORE, &["nodes"]),
            may(&["patch"], CORE, &["pods/status"]),
        ],
    ),
    (
        "replicaset-controller",
        &[
            may(READ_UPDATE, APPS_AND_EXTENSIONS, &["replicasets"]),
            may(UPDATE, APPS_AND_EXTENSIONS, &["replicasets/status"]),
            may(UPDATE, APPS_AND_EXTENSIONS, &["replicasets/finalizers"]),
            may(&["list", "watch", "patch", "create", "delete"], CORE, &["pods"]),
            EVENTS,
        ],
    ),
    (
        "replication-controller",
        &[
            may(READ_UPDATE, CORE, &["replicationcontrollers"]),
            may(UPDATE, CORE, &["replicationcontrollers/status"]),
            may(UPDATE, CORE, &["replicationcontrollers/finalizers"]),
            may(&["list", "watch", "patch", "create", "delete"], CORE, &["pods"]),
            EVENTS,
        ],
    ),
    (
        "resource-claim-controller",
        &[
            may(READ, CORE, &["pods"]),
            may(UPDATE, CORE, &["pods/finalizers"]),
            may(&["get", "list", "watch", "create", "delete"], RESOURCE, &["resourceclaims"]),
            may(PATCH_UPDATE, RESOURCE, &["resourceclaims", "resourceclaims/status"]),
            may(PATCH_UPDATE, CORE, &["pods/status"]),
            EVENTS,
            may(PATCH_UPDATE, RESOURCE, &["resourceclaims/binding"]),
        ],
    ),
    (
        "resourcequota-controller",
        &[may(LIST_WATCH, ANY, &["*"]), may(UPDATE, CORE, &["resourcequotas/status"]), EVENTS],
    ),
    (
        "route-controller",
        &[may(LIST_WATCH, CORE, &["nodes"]), may(&["patch"], CORE, &["nodes/status"]), EVENTS],
    ),
    (
        "selinux-warning-controller",
        &[
            EVENTS,
            may(READ, CORE, &["persistentvolumes"]),
            may(READ, CORE, &["persistentvolumeclaims"]),
            may(READ, CORE, &["pods"]),
            may(READ, STORAGE, &["csidrivers"]),
        ],
    ),
    ("service-account-controller", &[may(&["create"], CORE, &["serviceaccounts"]), EVENTS]),
    (
        "service-cidrs-controller",
        &[
            may(&["get", "list", "watch", "patch", "update"], NETWORKING, &["servicecidrs"]),
            may(PATCH_UPDATE, NETWORKING, &["servicecidrs/finalizers"]),
            may(PATCH_UPDATE, NETWORKING, &["servicecidrs/status"]),
            may(READ, NETWORKING, &["ipaddresses"]),
            EVENTS,
        ],
    ),
    (
        "service-controller",
        &[
            may(READ, CORE, &["services"]),
            may(PATCH_UPDATE, CORE, &["services/status"]),
            may(LIST_WATCH, CORE, &["nodes"]),
            EVENTS,
        ],
    ),
    (
        "statefulset-controller",
        &[
            may(LIST_WATCH, CORE, &["pods"]),
            may(READ, APPS, &["statefulsets"]),
            may(UPDATE, APPS, &["statefulsets/status"]),
            may(UPDATE, APPS, &["statefulsets/finalizers"]),
            may(&["get", "create", "delete", "update", "patch"], CORE, &["pods"]),
            may(
                &["get", "create", "delete", "update", "patch", "list", "watch"],
                APPS,
                &["controllerrevisions"],
            ),
            may(&["get", "create", "list", "watch"], CORE, &["persistentvolumeclaims"]),
            may(&["update", "delete"], CORE, &["persistentvolumeclaims"]),
            may(UPDATE, CORE, &["pods/finalizers"]),
            EVENTS,
        ],
    ),
    ("ttl-controller", &[may(&["update", "patch", "list", "watch"], CORE, &["nodes"]), EVENTS]),
    (
        "certificate-controller",
        &[
            may(&["get", "list", "watch", "delete"], CERTIFICATES, &["certificatesigningrequests"]),
            may(
                UPDATE,
                CERTIFICATES,
                &["certificatesigningrequests/status", "certificatesigningrequests/approval"],
            ),
            named(&["approve"], CERTIFICATES, &["signers"], &["kubernetes.io/kube-apiserver-client-kubelet"]),
            named(
                &["sign"],
                CERTIFICATES,
                &["signers"],
                &[
                    "kubernetes.io/legacy-unknown",
                    "kubernetes.io/kube-apiserver-client",
                    "kubernetes.io/kube-apiserver-client-kubelet",
                    "kubernetes.io/kubelet-serving",
                ],
            ),
            may(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews"]),
            EVENTS,
        ],
    ),
    (
        "pvc-protection-controller",
        &[may(READ_UPDATE, CORE, &["persistentvolumeclaims"]), may(READ, CORE, &["pods"]), EVENTS],
    ),
    ("pv-protection-controller", &[may(READ_UPDATE, CORE, &["persistentvolumes"]), EVENTS]),
    (
        "volumeattributesclass-protection-controller",
        &[
            may(READ, CORE, &["persistentvolumeclaims"]),
            may(READ, CORE, &["persistentvolumes"]),
            may(READ_UPDATE, STORAGE, &["volumeattributesclasses"]),
            EVENTS,
        ],
    ),
    ("ttl-after-finished-controller", &[may(&["get", "list", "watch", "delete"], BATCH, &["jobs"]), EVENTS]),
    ("root-ca-cert-publisher", &[may(&["create", "update"], CORE, &["configmaps"]), EVENTS]),
    (
        "validatingadmissionpolicy-status-controller",
        &[
            may(READ, ADMISSION, &["validatingadmissionpolicies"]),
            may(&["get", "patch", "update"], ADMISSION, &["validatingadmissionpolicies/status"]),
            EVENTS,
        ],
    ),
    (
        "legacy-service-account-token-cleaner",
        &[
            named(&["get"], CORE, &["configmaps"], &["kube-apiserver-legacy-service-account-token-tracking"]),
            may(&["patch", "delete"], CORE, &["secrets"]),
        ],
    ),
];

pub(super) fn roles() -> Vec<Object> {
    ROLES
        .iter()
        .map(|(name, table)| {
            let mut role = object("ClusterRole", "", &format!("system:controller:{name}"));
            role.set(&["rules"], rules(table));
            role
        })
        .collect()
}

pub(super) fn bindings() -> Vec<Object> {
    ROLES
        .iter()
        .map(|(name, _)| {
            let role = format!("system:controller:{name}");
            binding("ClusterRoleBinding", "", &role, ("ClusterRole", &role), &[Who::Account(name)])
        })
        .collect()
}
