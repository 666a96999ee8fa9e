//! Nobody may grant what they do not have: the check on writes of roles and bindings.
use machinery::gvk::GroupResource;
use machinery::request::{Attributes, RequestInfo, UserInfo};
use machinery::{Object, StatusError, StatusResult};

use crate::always::SYSTEM_MASTERS;
use crate::rbac::Rbac;
use crate::rule::{PolicyRule, go_quoted, join_verbs, missing};
use crate::{Authorizer, aggregation};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Says what of `wanted` the user may not grant, given what the user may do.
pub fn confirm_no_escalation(
    user: &UserInfo,
    owned: &[PolicyRule],
    wanted: &[PolicyRule],
) -> Result<(), String> {
    let missing = missing(owned, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut texts: Vec<String> = join_verbs(missing).iter().map(PolicyRule::compact).collect();
    texts.sort_unstable();
    texts.dedup();
    Err(format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        go_quoted(&user.groups),
        texts.join("\n")
    ))
}

/// Checks a write of one of the four kinds before it is stored; other kinds pass. `old` on update.
///
/// The rules of the writer come from `rbac`; `authorizer` (all modes) answers for the verbs `escalate` and `bind`.
pub async fn check_write(
    rbac: &Rbac,
    authorizer: &dyn Authorizer,
    user: &UserInfo,
    new: &Object,
    old: Option<&Object>,
) -> StatusResult<()> {
    let resource = match new.kind() {
        "Role" => "roles",
        "ClusterRole" => "clusterroles",
        "RoleBinding" => "rolebindings",
        "ClusterRoleBinding" => "clusterrolebindings",
        _ => return Ok(()),
    };
    if user.in_group(SYSTEM_MASTERS) {
        return Ok(());
    }
    let same = |path: &str| old.is_some_and(|old| old.at(&[path]) == new.at(&[path]));
    let asks = |verb: &str, resource: &str, namespace: &str, name: &str| RequestInfo {
        verb: verb.into(),
        is_resource: true,
        api_group: GROUP.into(),
        api_version: "*".into(),
        namespace: namespace.into(),
        resource: resource.into(),
        name: name.into(),
        ..RequestInfo::default()
    };
    let refuse =
        |why: &str| Err(StatusError::forbidden(&GroupResource::new(GROUP, resource), new.name(), why));
    let namespace = new.namespace();
    let owned = || rbac.rules_of(user, namespace);

    if matches!(new.kind(), "Role" | "ClusterRole") {
        if same("rules") && same("aggregationRule") {
            return Ok(());
        }
        let request = asks("escalate", resource, namespace, new.name());
        if authorizer.authorize(&Attributes { user, request: &request }).await.is_allowed() {
            return Ok(());
        }
        let owned = owned();
        if let Err(why) = confirm_no_escalation(user, &owned, &PolicyRule::all_of(new)) {
            return refuse(&why);
        }
        if aggregation::is_aggregated(new) && !missing(&owned, &full_authority()).is_empty() {
            return refuse("must have cluster-admin privileges to use the aggregationRule");
        }
        return Ok(());
    }

    if same("subjects") && same("roleRef") {
        return Ok(());
    }
    let role = new.str_at(&["roleRef", "name"]);
    let (role_resource, role_namespace) = match new.str_at(&["roleRef", "kind"]) {
        "Role" => ("roles", namespace),
        _ => ("clusterroles", ""),
    };
    let request = asks("bind", role_resource, namespace, role);
    if authorizer.authorize(&Attributes { user, request: &request }).await.is_allowed() {
        return Ok(());
    }
    let Some(wanted) = rbac.rules_of_role(role_namespace, role) else {
        return Err(StatusError::not_found(&GroupResource::new(GROUP, role_resource), role));
    };
    confirm_no_escalation(user, &owned(), &wanted).or_else(|why| refuse(&why))
}

fn full_authority() -> [PolicyRule; 2] {
    let star = || vec!["*".to_owned()];
    [
        PolicyRule { verbs: star(), api_groups: star(), resources: star(), ..PolicyRule::default() },
        PolicyRule { verbs: star(), non_resource_urls: star(), ..PolicyRule::default() },
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    /// `jane` may read pods, and bind the role `bindable`.
    fn rbac() -> Rbac {
        let rbac = Rbac::new();
        for o in [
            json!({"kind": "ClusterRole", "metadata": {"name": "reader"}, "rules": [
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
                {"apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["bindable"], "verbs": ["bind"]},
            ]}),
            json!({"kind": "ClusterRole", "metadata": {"name": "bindable"}, "rules": [
                {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]}),
            json!({"kind": "ClusterRole", "metadata": {"name": "other"}, "rules": [
                {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]}),
            json!({"kind": "ClusterRoleBinding", "metadata": {"name": "b"},
                "roleRef": {"kind": "ClusterRole", "name": "reader"}, "subjects": [{"kind": "User", "name": "jane"}]}),
        ] {
            rbac.set(&object(o));
        }
        rbac
    }

    async fn check(new: Value, old: Option<Value>, want: &str) {
        let rbac = rbac();
        let jane = UserInfo::new("jane", &["devs", "system:authenticated"]);
        let old = old.map(object);
        let got = check_write(&rbac, &rbac, &jane, &object(new), old.as_ref()).await;
        assert_eq!(got.err().map(|e| e.to_string()).unwrap_or_default(), want);
    }

    #[tokio::test]
    async fn a_role_may_hold_only_what_its_writer_holds() {
        let role = |verbs: Value| {
            json!({"kind": "Role", "metadata": {"name": "r", "namespace": "a"},
                "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]})
        };
        let refused = "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"jane\" (groups=[\"devs\" \
            \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
            {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}";
        check(role(json!(["get"])), None, "").await;
        check(role(json!(["get", "delete"])), None, refused).await;
        check(role(json!(["get", "delete"])), Some(role(json!(["get"]))), refused).await;
        check(role(json!(["delete"])), Some(role(json!(["delete"]))), "").await;
        check(
            json!({"kind": "ClusterRole", "metadata": {"name": "agg"}, "aggregationRule": {"clusterRoleSelectors": []}}),
            None,
            "clusterroles.rbac.authorization.k8s.io \"agg\" is forbidden: must have cluster-admin privileges to use the \
             aggregationRule",
        )
        .await;
    }

    #[tokio::test]
    async fn a_binding_needs_the_rules_or_the_verb_bind() {
        let binding = |role: &str| {
            json!({"kind": "ClusterRoleBinding", "metadata": {"name": "n"},
                "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": []})
        };
        check(binding("bindable"), None, "").await;
        check(binding("absent"), None, "clusterroles.rbac.authorization.k8s.io \"absent\" not found").await;
        check(
            binding("other"),
            None,
            "clusterrolebindings.rbac.authorization.k8s.io \"n\" is forbidden: user \"jane\" (groups=[\"devs\" \
             \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
             {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}",
        )
        .await;
    }
}
