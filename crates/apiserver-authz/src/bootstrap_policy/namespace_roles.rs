//! Default Roles and RoleBindings in `kube-system` and `kube-public`.
use machinery::Object;

use super::{EVENTS, Rule, Who, Words, binding, may, named, object, rules};

const READ: Words = &["get", "list", "watch"];
const CORE: Words = &[""];
const SYSTEM: &str = "kube-system";
const PUBLIC: &str = "kube-public";

const ROLES: &[(&str, &str, &[Rule])] = &[
    (
        SYSTEM,
        "extension-apiserver-authentication-reader",
        &[named(READ, CORE, &["configmaps"], &["extension-apiserver-authentication"])],
    ),
    (SYSTEM, "system:controller:bootstrap-signer", &[may(READ, CORE, &["secrets"])]),
    (
        SYSTEM,
        "system:controller:cloud-provider",
        &[may(&["create", "get", "list", "watch"], CORE, &["configmaps"])],
    ),
    (
        SYSTEM,
        "system:controller:token-cleaner",
        &[may(&["get", "list", "watch", "delete"], CORE, &["secrets"]), EVENTS],
    ),
    (
        SYSTEM,
        "system::leader-locking-kube-controller-manager",
        &[
            may(&["watch"], CORE, &["configmaps"]),
            named(&["get", "update"], CORE, &["configmaps"], &["kube-controller-manager"]),
        ],
    ),
    (
        SYSTEM,
        "system::leader-locking-kube-scheduler",
        &[
            may(&["watch"], CORE, &["configmaps"]),
            named(&["get", "update"], CORE, &["configmaps"], &["kube-scheduler"]),
        ],
    ),
    (
        PUBLIC,
        "system:controller:bootstrap-signer",
        &[
            may(READ, CORE, &["configmaps"]),
            named(&["update"], CORE, &["configmaps"], &["cluster-info"]),
            EVENTS,
        ],
    ),
];

/// Namespace, name, role, subjects.
const BINDINGS: &[(&str, &str, &str, &[Who])] = &[
    (
        SYSTEM,
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &[Who::User("system:kube-controller-manager"), Who::User("system:kube-scheduler")],
    ),
    (
        SYSTEM,
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        &[Who::User("system:kube-controller-manager"), Who::Account("kube-controller-manager")],
    ),
    (
        SYSTEM,
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        &[Who::User("system:kube-scheduler"), Who::Account("kube-scheduler")],
    ),
    (
        SYSTEM,
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &[Who::Account("bootstrap-signer")],
    ),
    (
        SYSTEM,
        "system:controller:cloud-provider",
        "system:controller:cloud-provider",
        &[Who::Account("cloud-provider")],
    ),
    (
        SYSTEM,
        "system:controller:token-cleaner",
        "system:controller:token-cleaner",
        &[Who::Account("token-cleaner")],
    ),
    (
        PUBLIC,
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &[Who::Account("bootstrap-signer")],
    ),
];

pub(super) fn objects() -> Vec<Object> {
    let roles = ROLES.iter().map(|(namespace, name, table)| {
        let mut role = object("Role", namespace, name);
        role.set(&["rules"], rules(table));
        role
    });
    let bindings = BINDINGS
        .iter()
        .map(|(namespace, name, role, who)| binding("RoleBinding", namespace, name, ("Role", role), who));
    roles.chain(bindings).collect()
}
