//! RBAC: an index from subjects to the rules they are bound to.
//!
//! Whoever watches Roles, ClusterRoles, RoleBindings and ClusterRoleBindings calls [`Rbac::set`] and [`Rbac::remove`].
//! A question is answered under a read lock by looking only at the bindings of its user and groups.
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use machinery::Object;
use machinery::request::{Attributes, UserInfo};

use crate::rule::PolicyRule;
use crate::{Answer, Authorizer, NonResourceRule, ResourceRule, Rules};

type Text = Box<str>;
/// Namespace (empty for the cluster), then name.
type ByName<T> = HashMap<Text, HashMap<Text, T>>;

/// The RBAC authorizer.
#[derive(Default)]
pub struct Rbac {
    index: RwLock<Index>,
}

/// A binding as one subject sees it.
#[derive(Debug, Clone)]
struct Grant {
    binding: Text,
    /// Namespace of the role; empty for a ClusterRole.
    role_namespace: Text,
    role: Text,
    /// Made once, shown with every yes.
    reason: Arc<str>,
}

/// All grants of one subject.
#[derive(Debug, Default)]
struct Grants {
    cluster: Vec<Grant>,
    namespaces: HashMap<Text, Vec<Grant>>,
}

#[derive(Debug, Default)]
struct Index {
    roles: ByName<Vec<PolicyRule>>,
    /// Subjects of each binding, to find its grants again.
    bindings: ByName<Vec<Subject>>,
    users: HashMap<Text, Grants>,
    groups: HashMap<Text, Grants>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    User(Text),
    Group(Text),
}

/// The user name of a service account.
pub fn service_account_user_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

impl Rbac {
    /// An index without any rule.
    pub fn new() -> Self {
        Self::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a Role, ClusterRole, RoleBinding or ClusterRoleBinding, new or changed; ignores other kinds.
    pub fn set(&self, object: &Object) {
        let (namespace, name) = (object.namespace(), object.name());
        match object.kind() {
            "Role" | "ClusterRole" => {
                let rules = PolicyRule::all_of(object);
                self.write().roles.entry(namespace.into()).or_default().insert(name.into(), rules);
            }
            "RoleBinding" | "ClusterRoleBinding" => self.write().bind(object),
            _ => {}
        }
    }

    /// Forgets an object of one of the four kinds.
    pub fn remove(&self, kind: &str, namespace: &str, name: &str) {
        let mut index = self.write();
        match kind {
            "Role" | "ClusterRole" => {
                if let Some(roles) = index.roles.get_mut(namespace) {
                    roles.remove(name);
                }
            }
            "RoleBinding" | "ClusterRoleBinding" => index.unbind(namespace, name),
            _ => {}
        }
    }

    /// Decides without waiting.
    pub fn decide(&self, attributes: &Attributes<'_>) -> Answer {
        let request = attributes.request;
        let index = self.read();
        let allowed = index.grants(attributes.user, &request.namespace).find(|grant| {
            index.rules(grant).is_some_and(|rules| rules.iter().any(|rule| rule.allows(request)))
        });
        match allowed {
            Some(grant) => Answer { reason: Some(grant.reason.clone()), ..Answer::ALLOW },
            None => Answer::NO_OPINION,
        }
    }

    /// All rules of a user in a namespace (in the whole cluster, where it is empty).
    pub fn rules_of(&self, user: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
        let index = self.read();
        index.grants(user, namespace).filter_map(|grant| index.rules(grant)).flatten().cloned().collect()
    }

    /// The rules of one role; `namespace` is empty for a ClusterRole.
    pub fn rules_of_role(&self, namespace: &str, name: &str) -> Option<Vec<PolicyRule>> {
        self.read().roles.get(namespace)?.get(name).cloned()
    }
}

impl Index {
    /// Grants over the cluster first, then those of the namespace.
    fn grants<'a>(&'a self, user: &'a UserInfo, namespace: &'a str) -> impl Iterator<Item = &'a Grant> {
        let subjects = move || {
            let by_user = self.users.get(user.name.as_str());
            by_user.into_iter().chain(user.groups.iter().filter_map(|g| self.groups.get(g.as_str())))
        };
        let cluster = subjects().flat_map(|grants| &grants.cluster);
        let local = subjects()
            .filter(move |_| !namespace.is_empty())
            .filter_map(move |grants| grants.namespaces.get(namespace))
            .flatten();
        cluster.chain(local)
    }

    fn rules(&self, grant: &Grant) -> Option<&Vec<PolicyRule>> {
        self.roles.get(&grant.role_namespace)?.get(&grant.role)
    }

    fn bind(&mut self, binding: &Object) {
        let (namespace, name) = (binding.namespace(), binding.name());
        self.unbind(namespace, name);
        let role_kind = binding.str_at(&["roleRef", "kind"]);
        let role = binding.str_at(&["roleRef", "name"]);
        let role_namespace = if role_kind == "Role" { namespace } else { "" };
        if (role_kind == "Role" && namespace.is_empty()) || !matches!(role_kind, "Role" | "ClusterRole") {
            return;
        }
        let mut subjects = Vec::new();
        for value in binding.list_at(&["subjects"]) {
            let text = |key: &str| value.get(key).and_then(serde_json::Value::as_str).unwrap_or("");
            let subject_name = text("name");
            let (subject, shown) = match text("kind") {
                "User" => (Subject::User(subject_name.into()), format!("User {subject_name:?}")),
                "Group" => (Subject::Group(subject_name.into()), format!("Group {subject_name:?}")),
                "ServiceAccount" => {
                    let of = if text("namespace").is_empty() { namespace } else { text("namespace") };
                    (
                        Subject::User(service_account_user_name(of, subject_name).into()),
                        format!("ServiceAccount {:?}", format!("{subject_name}/{of}")),
                    )
                }
                _ => continue,
            };
            if subjects.contains(&subject) {
                continue;
            }
            let shown_binding = if namespace.is_empty() {
                format!("ClusterRoleBinding {name:?}")
            } else {
                format!("RoleBinding {:?}", format!("{name}/{namespace}"))
            };
            let grant = Grant {
                binding: name.into(),
                role_namespace: role_namespace.into(),
                role: role.into(),
                reason: format!("RBAC: allowed by {shown_binding} of {role_kind} {role:?} to {shown}").into(),
            };
            let grants = match &subject {
                Subject::User(user) => self.users.entry(user.clone()).or_default(),
                Subject::Group(group) => self.groups.entry(group.clone()).or_default(),
            };
            if namespace.is_empty() {
                grants.cluster.push(grant);
            } else {
                grants.namespaces.entry(namespace.into()).or_default().push(grant);
            }
            subjects.push(subject);
        }
        self.bindings.entry(namespace.into()).or_default().insert(name.into(), subjects);
    }

    fn unbind(&mut self, namespace: &str, name: &str) {
        let Some(bindings) = self.bindings.get_mut(namespace) else { return };
        let Some(subjects) = bindings.remove(name) else { return };
        if bindings.is_empty() {
            self.bindings.remove(namespace);
        }
        for subject in subjects {
            let (map, key) = match &subject {
                Subject::User(user) => (&mut self.users, user),
                Subject::Group(group) => (&mut self.groups, group),
            };
            let Some(grants) = map.get_mut(key) else { continue };
            if namespace.is_empty() {
                grants.cluster.retain(|g| *g.binding != *name);
            } else if let Some(local) = grants.namespaces.get_mut(namespace) {
                local.retain(|g| *g.binding != *name);
                if local.is_empty() {
                    grants.namespaces.remove(namespace);
                }
            }
            if grants.cluster.is_empty() && grants.namespaces.is_empty() {
                map.remove(key);
            }
        }
    }
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Answer {
        self.decide(attributes)
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules {
        let mut out = Rules::default();
        for rule in self.rules_of(user, namespace) {
            if !rule.resources.is_empty() {
                out.resource_rules.push(ResourceRule {
                    verbs: rule.verbs.clone(),
                    api_groups: rule.api_groups,
                    resources: rule.resources,
                    resource_names: rule.resource_names,
                });
            }
            if !rule.non_resource_urls.is_empty() {
                out.non_resource_rules
                    .push(NonResourceRule { verbs: rule.verbs, non_resource_urls: rule.non_resource_urls });
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use machinery::request::RequestInfo;
    use serde_json::{Value, json};

    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn binding(kind: &str, namespace: &str, name: &str, role: (&str, &str), subjects: Value) -> Object {
        object(json!({
            "kind": kind,
            "metadata": {"name": name, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1},
            "subjects": subjects,
        }))
    }

    fn reader() -> Rbac {
        let rbac = Rbac::new();
        rbac.set(&object(json!({
            "kind": "ClusterRole", "metadata": {"name": "reader"},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}],
        })));
        rbac
    }

    fn list_pods(rbac: &Rbac, user: &UserInfo, namespace: &str) -> String {
        let request = RequestInfo {
            verb: "list".into(),
            is_resource: true,
            resource: "pods".into(),
            namespace: namespace.into(),
            ..RequestInfo::default()
        };
        let answer = rbac.decide(&Attributes { user, request: &request });
        format!("{:?} {}", answer.decision, answer.reason())
    }

    #[test]
    fn a_role_binding_counts_only_in_its_namespace() {
        let rbac = reader();
        rbac.set(&binding(
            "RoleBinding",
            "a",
            "b",
            ("ClusterRole", "reader"),
            json!([{"kind": "User", "name": "jane"}]),
        ));
        let jane = UserInfo::new("jane", &["devs"]);
        assert_eq!(
            list_pods(&rbac, &jane, "a"),
            r#"Allow RBAC: allowed by RoleBinding "b/a" of ClusterRole "reader" to User "jane""#
        );
        assert_eq!(list_pods(&rbac, &jane, "other"), "NoOpinion ");
        assert_eq!(list_pods(&rbac, &jane, ""), "NoOpinion ");
        assert_eq!(list_pods(&rbac, &UserInfo::new("joe", &[]), "a"), "NoOpinion ");
    }

    #[test]
    fn groups_and_service_accounts_are_subjects() {
        let rbac = reader();
        rbac.set(&binding(
            "ClusterRoleBinding",
            "",
            "all",
            ("ClusterRole", "reader"),
            json!([{"kind": "Group", "name": "devs"}]),
        ));
        rbac.set(&binding(
            "RoleBinding",
            "a",
            "sa",
            ("ClusterRole", "reader"),
            json!([{"kind": "ServiceAccount", "name": "bot", "namespace": "b"}]),
        ));
        assert_eq!(
            list_pods(&rbac, &UserInfo::new("jane", &["devs"]), ""),
            r#"Allow RBAC: allowed by ClusterRoleBinding "all" of ClusterRole "reader" to Group "devs""#
        );
        assert_eq!(
            list_pods(&rbac, &UserInfo::new("system:serviceaccount:b:bot", &[]), "a"),
            r#"Allow RBAC: allowed by RoleBinding "sa/a" of ClusterRole "reader" to ServiceAccount "bot/b""#
        );
    }

    #[test]
    fn changed_and_removed_bindings_and_roles_count_at_once() {
        let rbac = reader();
        let bind = |who: &str| {
            binding(
                "ClusterRoleBinding",
                "",
                "b",
                ("ClusterRole", "reader"),
                json!([{"kind": "User", "name": who}]),
            )
        };
        let (jane, joe) = (UserInfo::new("jane", &[]), UserInfo::new("joe", &[]));
        rbac.set(&bind("jane"));
        rbac.set(&bind("joe"));
        assert_eq!(list_pods(&rbac, &jane, ""), "NoOpinion ");
        assert!(list_pods(&rbac, &joe, "").starts_with("Allow"));
        rbac.remove("ClusterRole", "", "reader");
        assert_eq!(list_pods(&rbac, &joe, ""), "NoOpinion ");
        rbac.set(&object(json!({"kind": "ClusterRole", "metadata": {"name": "reader"},
            "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]})));
        assert!(list_pods(&rbac, &joe, "").starts_with("Allow"));
        rbac.remove("ClusterRoleBinding", "", "b");
        assert_eq!(list_pods(&rbac, &joe, ""), "NoOpinion ");
        assert!(rbac.read().users.is_empty() && rbac.read().bindings.is_empty());
    }
}
