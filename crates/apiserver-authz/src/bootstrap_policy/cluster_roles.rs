//! Default ClusterRoles for people and for the parts of the control plane and nodes, and their bindings.
use machinery::Object;
use serde_json::json;

use super::{EVENTS, Rule, Who, Words, binding, may, named, object, rules, urls};

const READ: Words = &["get", "list", "watch"];
const WRITE: Words = &["create", "update", "patch", "delete", "deletecollection"];
const READ_WRITE: Words =
    &["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
const READ_UPDATE: Words = &["get", "list", "watch", "update", "patch"];

const CORE: Words = &[""];
const APPS: Words = &["apps"];
const AUTHENTICATION: Words = &["authentication.k8s.io"];
const AUTHORIZATION: Words = &["authorization.k8s.io"];
const AUTOSCALING: Words = &["autoscaling"];
const BATCH: Words = &["batch"];
const CERTIFICATES: Words = &["certificates.k8s.io"];
const COORDINATION: Words = &["coordination.k8s.io"];
const DISCOVERY: Words = &["discovery.k8s.io"];
const EXTENSIONS: Words = &["extensions"];
const NETWORKING: Words = &["networking.k8s.io"];
const NODE: Words = &["node.k8s.io"];
const POLICY: Words = &["policy"];
const RBAC: Words = &["rbac.authorization.k8s.io"];
const RESOURCE: Words = &["resource.k8s.io"];
const STORAGE: Words = &["storage.k8s.io"];

const TO_ADMIN: &str = "rbac.authorization.k8s.io/aggregate-to-admin";
const TO_EDIT: &str = "rbac.authorization.k8s.io/aggregate-to-edit";
const TO_VIEW: &str = "rbac.authorization.k8s.io/aggregate-to-view";

struct Role {
    name: &'static str,
    /// The label that lets others gather this role.
    feeds: Option<&'static str>,
    /// The label whose bearers this role gathers.
    gathers: Option<&'static str>,
    rules: &'static [Rule],
}

const fn role(name: &'static str, rules: &'static [Rule]) -> Role {
    Role { name, feeds: None, gathers: None, rules }
}

/// What a kubelet may do.
pub(super) const NODE_RULES: &[Rule] = &[
    may(&["create"], AUTHENTICATION, &["tokenreviews"]),
    may(&["create"], AUTHORIZATION, &["subjectaccessreviews", "localsubjectaccessreviews"]),
    may(READ, CORE, &["services"]),
    may(&["create", "get", "list", "watch"], CORE, &["nodes"]),
    may(&["update", "patch"], CORE, &["nodes/status"]),
    may(&["update", "patch"], CORE, &["nodes"]),
    may(&["create", "update", "patch"], CORE, &["events"]),
    may(READ, CORE, &["pods"]),
    may(&["create", "delete"], CORE, &["pods"]),
    may(&["update", "patch"], CORE, &["pods/status"]),
    may(&["create"], CORE, &["pods/eviction"]),
    may(READ, CORE, &["secrets", "configmaps"]),
    may(&["get"], CORE, &["persistentvolumeclaims", "persistentvolumes"]),
    may(&["get"], CORE, &["endpoints"]),
    may(&["create", "get", "list", "watch"], CERTIFICATES, &["certificatesigningrequests"]),
    may(&["get", "create", "update", "patch", "delete"], COORDINATION, &["leases"]),
    may(&["get"], STORAGE, &["volumeattachments"]),
    may(&["create"], CORE, &["serviceaccounts/token"]),
    may(&["get", "update", "patch"], CORE, &["persistentvolumeclaims/status"]),
    may(READ, STORAGE, &["csidrivers"]),
    may(&["get", "create", "update", "patch", "delete"], STORAGE, &["csinodes"]),
    may(READ, NODE, &["runtimeclasses"]),
    may(&["get"], RESOURCE, &["resourceclaims"]),
    may(&["deletecollection"], RESOURCE, &["resourceslices"]),
    may(&["get"], CORE, &["serviceaccounts"]),
];

const ROLES: &[Role] = &[
    role("cluster-admin", &[may(&["*"], &["*"], &["*"]), urls(&["*"], &["*"])]),
    role(
        "system:discovery",
        &[urls(
            &["get"],
            &[
                "/livez",
                "/readyz",
                "/healthz",
                "/version",
                "/version/",
                "/openapi",
                "/openapi/*",
                "/api",
                "/api/*",
                "/apis",
                "/apis/*",
            ],
        )],
    ),
    role(
        "system:monitoring",
        &[urls(
            &["get"],
            &[
                "/metrics",
                "/metrics/slis",
                "/livez",
                "/readyz",
                "/healthz",
                "/livez/*",
                "/readyz/*",
                "/healthz/*",
            ],
        )],
    ),
    role(
        "system:basic-user",
        &[
            may(&["create"], AUTHORIZATION, &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
            may(&["create"], AUTHENTICATION, &["selfsubjectreviews"]),
        ],
    ),
    role(
        "system:public-info-viewer",
        &[urls(&["get"], &["/livez", "/readyz", "/healthz", "/version", "/version/"])],
    ),
    Role { name: "admin", feeds: None, gathers: Some(TO_ADMIN), rules: &[] },
    Role { name: "edit", feeds: Some(TO_ADMIN), gathers: Some(TO_EDIT), rules: &[] },
    Role { name: "view", feeds: Some(TO_EDIT), gathers: Some(TO_VIEW), rules: &[] },
    Role {
        name: "system:aggregate-to-admin",
        feeds: Some(TO_ADMIN),
        gathers: None,
        rules: &[
            may(&["create"], AUTHORIZATION, &["localsubjectaccessreviews"]),
            may(READ_WRITE, RBAC, &["roles", "rolebindings"]),
        ],
    },
    Role {
        name: "system:aggregate-to-edit",
        feeds: Some(TO_EDIT),
        gathers: None,
        rules: &[
            may(
                READ,
                CORE,
                &["pods/attach", "pods/proxy", "pods/exec", "pods/portforward", "secrets", "services/proxy"],
            ),
            may(&["impersonate"], CORE, &["serviceaccounts"]),
            may(WRITE, CORE, &["pods", "pods/attach", "pods/proxy", "pods/exec", "pods/portforward"]),
            may(&["create"], CORE, &["pods/eviction"]),
            may(
                WRITE,
                CORE,
                &[
                    "replicationcontrollers",
                    "replicationcontrollers/scale",
                    "serviceaccounts",
                    "services",
                    "services/proxy",
                    "persistentvolumeclaims",
                    "configmaps",
                    "secrets",
                    "events",
                ],
            ),
            may(&["create"], CORE, &["serviceaccounts/token"]),
            may(
                WRITE,
                APPS,
                &[
                    "statefulsets",
                    "statefulsets/scale",
                    "daemonsets",
                    "deployments",
                    "deployments/scale",
                    "deployments/rollback",
                    "replicasets",
                    "replicasets/scale",
                ],
            ),
            may(WRITE, AUTOSCALING, &["horizontalpodautoscalers"]),
            may(WRITE, BATCH, &["jobs", "cronjobs"]),
            may(
                WRITE,
                EXTENSIONS,
                &[
                    "daemonsets",
                    "deployments",
                    "deployments/scale",
                    "deployments/rollback",
                    "ingresses",
                    "replicasets",
                    "replicasets/scale",
                    "replicationcontrollers/scale",
                    "networkpolicies",
                ],
            ),
            may(WRITE, POLICY, &["poddisruptionbudgets"]),
            may(WRITE, NETWORKING, &["networkpolicies", "ingresses"]),
            may(READ_WRITE, COORDINATION, &["leases"]),
            may(WRITE, RESOURCE, &["resourceclaims", "resourceclaimtemplates"]),
        ],
    },
    Role {
        name: "system:aggregate-to-view",
        feeds: Some(TO_VIEW),
        gathers: None,
        rules: &[
            may(
                READ,
                CORE,
                &[
                    "pods",
                    "replicationcontrollers",
                    "replicationcontrollers/scale",
                    "serviceaccounts",
                    "services",
                    "services/status",
                    "endpoints",
                    "persistentvolumeclaims",
                    "persistentvolumeclaims/status",
                    "configmaps",
                ],
            ),
            may(
                READ,
                CORE,
                &[
                    "limitranges",
                    "resourcequotas",
                    "bindings",
                    "events",
                    "pods/status",
                    "resourcequotas/status",
                    "namespaces/status",
                    "replicationcontrollers/status",
                    "pods/log",
                ],
            ),
            may(READ, CORE, &["namespaces"]),
            may(READ, DISCOVERY, &["endpointslices"]),
            may(
                READ,
                APPS,
                &[
                    "controllerrevisions",
                    "statefulsets",
                    "statefulsets/status",
                    "statefulsets/scale",
                    "daemonsets",
                    "daemonsets/status",
                    "deployments",
                    "deployments/status",
                    "deployments/scale",
                    "replicasets",
                    "replicasets/status",
                    "replicasets/scale",
                ],
            ),
            may(READ, AUTOSCALING, &["horizontalpodautoscalers", "horizontalpodautoscalers/status"]),
            may(READ, BATCH, &["jobs", "cronjobs", "cronjobs/status", "jobs/status"]),
            may(
                READ,
                EXTENSIONS,
                &[
                    "daemonsets",
                    "daemonsets/status",
                    "deployments",
                    "deployments/scale",
                    "deployments/status",
                    "ingresses",
                    "ingresses/status",
                    "replicasets",
                    "replicasets/scale",
                    "replicasets/status",
                    "replicationcontrollers/scale",
                    "networkpolicies",
                ],
            ),
            may(READ, POLICY, &["poddisruptionbudgets", "poddisruptionbudgets/status"]),
            may(READ, NETWORKING, &["networkpolicies", "ingresses", "ingresses/status"]),
            may(READ, RESOURCE, &["resourceclaims", "resourceclaims/status", "resourceclaimtemplates"]),
        ],
    },
    role(
        "system:heapster",
        &[
            may(READ, CORE, &["events", "pods", "nodes", "namespaces"]),
            may(READ, EXTENSIONS, &["deployments"]),
        ],
    ),
    role("system:node", NODE_RULES),
    role(
        "system:node-problem-detector",
        &[may(&["get"], CORE, &["nodes"]), may(&["patch"], CORE, &["nodes/status"]), EVENTS],
    ),
    role(
        "system:node-bootstrapper",
        &[may(&["create", "get", "list", "watch"], CERTIFICATES, &["certificatesigningrequests"])],
    ),
    role(
        "system:auth-delegator",
        &[
            may(&["create"], AUTHENTICATION, &["tokenreviews"]),
            may(&["create"], AUTHORIZATION, &["subjectaccessreviews"]),
        ],
    ),
    role("system:kube-aggregator", &[may(READ, CORE, &["services", "endpoints"])]),
    role(
        "system:kube-controller-manager",
        &[
            EVENTS,
            may(&["create"], COORDINATION, &["leases"]),
            named(&["get", "update"], COORDINATION, &["leases"], &["kube-controller-manager"]),
            may(&["create"], CORE, &["secrets", "serviceaccounts"]),
            may(&["delete"], CORE, &["secrets"]),
            may(&["get"], CORE, &["namespaces", "secrets", "serviceaccounts", "configmaps"]),
            may(&["update"], CORE, &["secrets", "serviceaccounts"]),
            may(&["create"], AUTHENTICATION, &["tokenreviews"]),
            may(&["create"], AUTHORIZATION, &["subjectaccessreviews"]),
            may(&["list", "watch"], &["*"], &["*"]),
            may(&["create"], CORE, &["serviceaccounts/token"]),
        ],
    ),
    role("system:kube-dns", &[may(&["list", "watch"], CORE, &["endpoints", "services"])]),
    role(
        "system:persistent-volume-provisioner",
        &[
            may(&["get", "list", "watch", "create", "delete"], CORE, &["persistentvolumes"]),
            may(&["get", "list", "watch", "update"], CORE, &["persistentvolumeclaims"]),
            may(READ, STORAGE, &["storageclasses"]),
            may(&["watch"], CORE, &["events"]),
            EVENTS,
        ],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[may(&["create"], CERTIFICATES, &["certificatesigningrequests/nodeclient"])],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[may(&["create"], CERTIFICATES, &["certificatesigningrequests/selfnodeclient"])],
    ),
    role(
        "system:volume-scheduler",
        &[
            may(READ_UPDATE, CORE, &["persistentvolumes"]),
            may(READ, STORAGE, &["storageclasses"]),
            may(READ_UPDATE, CORE, &["persistentvolumeclaims"]),
        ],
    ),
    role(
        "system:certificates.k8s.io:legacy-unknown-approver",
        &[named(&["approve"], CERTIFICATES, &["signers"], &["kubernetes.io/legacy-unknown"])],
    ),
    role(
        "system:certificates.k8s.io:kubelet-serving-approver",
        &[named(&["approve"], CERTIFICATES, &["signers"], &["kubernetes.io/kubelet-serving"])],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &[named(&["approve"], CERTIFICATES, &["signers"], &["kubernetes.io/kube-apiserver-client"])],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &[named(&["approve"], CERTIFICATES, &["signers"], &["kubernetes.io/kube-apiserver-client-kubelet"])],
    ),
    role(
        "system:service-account-issuer-discovery",
        &[urls(
            &["get"],
            &[
                "/.well-known/openid-configuration",
                "/.well-known/openid-configuration/",
                "/openid/v1/jwks",
                "/openid/v1/jwks/",
            ],
        )],
    ),
    role(
        "system:kubelet-api-admin",
        &[
            may(READ, CORE, &["nodes"]),
            may(&["proxy"], CORE, &["nodes"]),
            may(
                &["*"],
                CORE,
                &[
                    "nodes/proxy",
                    "nodes/metrics",
                    "nodes/stats",
                    "nodes/log",
                    "nodes/pods",
                    "nodes/healthz",
                    "nodes/configz",
                ],
            ),
        ],
    ),
    role(
        "system:node-proxier",
        &[
            may(&["list", "watch"], CORE, &["services", "endpoints"]),
            may(READ, CORE, &["nodes"]),
            EVENTS,
            may(&["list", "watch"], NETWORKING, &["servicecidrs"]),
            may(&["list", "watch"], DISCOVERY, &["endpointslices"]),
        ],
    ),
    role(
        "system:kube-scheduler",
        &[
            EVENTS,
            may(&["create"], COORDINATION, &["leases"]),
            named(&["get", "update", "list", "watch"], COORDINATION, &["leases"], &["kube-scheduler"]),
            may(READ_WRITE, COORDINATION, &["leasecandidates"]),
            may(READ, CORE, &["nodes"]),
            may(&["get", "list", "watch", "delete"], CORE, &["pods"]),
            may(&["create"], CORE, &["pods/binding", "bindings"]),
            may(&["patch", "update"], CORE, &["pods/status"]),
            may(READ, CORE, &["services", "replicationcontrollers"]),
            may(READ, &["apps", "extensions"], &["replicasets"]),
            may(READ, APPS, &["statefulsets"]),
            may(READ, POLICY, &["poddisruptionbudgets"]),
            may(READ, CORE, &["persistentvolumeclaims", "persistentvolumes"]),
            may(&["create"], AUTHENTICATION, &["tokenreviews"]),
            may(&["create"], AUTHORIZATION, &["subjectaccessreviews"]),
            may(READ, STORAGE, &["csinodes"]),
            may(READ, STORAGE, &["volumeattachments"]),
            may(READ, CORE, &["namespaces"]),
            may(READ, STORAGE, &["csidrivers"]),
            may(READ, STORAGE, &["csistoragecapacities"]),
            may(READ, RESOURCE, &["deviceclasses"]),
            may(READ_UPDATE, RESOURCE, &["resourceclaims"]),
            may(READ_UPDATE, RESOURCE, &["resourceclaims/status"]),
            may(&["update", "patch"], RESOURCE, &["resourceclaims/binding"]),
            may(READ_UPDATE, CORE, &["pods/finalizers"]),
            may(READ, RESOURCE, &["resourceslices"]),
        ],
    ),
];

const AUTHENTICATED: Who = Who::Group("system:authenticated");
const UNAUTHENTICATED: Who = Who::Group("system:unauthenticated");

/// Bindings named after their role. The one for `system:node` is empty: kubelets go through the Node authorizer.
const BINDINGS: &[(&str, &[Who])] = &[
    ("cluster-admin", &[Who::Group("system:masters")]),
    ("system:monitoring", &[Who::Group("system:monitoring")]),
    ("system:discovery", &[AUTHENTICATED]),
    ("system:basic-user", &[AUTHENTICATED]),
    ("system:public-info-viewer", &[AUTHENTICATED, UNAUTHENTICATED]),
    ("system:node-proxier", &[Who::User("system:kube-proxy")]),
    ("system:kube-controller-manager", &[Who::User("system:kube-controller-manager")]),
    ("system:kube-dns", &[Who::Account("kube-dns")]),
    ("system:kube-scheduler", &[Who::User("system:kube-scheduler")]),
    ("system:volume-scheduler", &[Who::User("system:kube-scheduler")]),
    ("system:node", &[]),
    ("system:service-account-issuer-discovery", &[Who::Group("system:serviceaccounts")]),
];

pub(super) fn roles() -> Vec<Object> {
    ROLES
        .iter()
        .map(|role| {
            let mut object = object("ClusterRole", "", role.name);
            if let Some(label) = role.feeds {
                object.set(&["metadata", "labels", label], "true");
            }
            if let Some(label) = role.gathers {
                object.set(
                    &["aggregationRule", "clusterRoleSelectors"],
                    json!([{"matchLabels": {label: "true"}}]),
                );
            }
            object.set(&["rules"], rules(role.rules));
            object
        })
        .collect()
}

pub(super) fn bindings() -> Vec<Object> {
    let bind =
        |(role, who): &(&str, &[Who])| binding("ClusterRoleBinding", "", role, ("ClusterRole", role), who);
    BINDINGS.iter().map(bind).collect()
}
