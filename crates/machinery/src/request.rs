//! Who asks for what: the facts that authentication, authorization, admission and audit share.
use std::collections::BTreeMap;

/// An authenticated user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// For example `system:node:a`.
    pub name: String,
    /// Empty where the authenticator knows none.
    pub uid: String,
    /// Groups, `system:authenticated` or `system:unauthenticated` included.
    pub groups: Vec<String>,
    /// Further facts, for example the pod a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user with these groups and no more.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        Self { name: name.into(), groups: groups.iter().map(|&g| g.into()).collect(), ..Self::default() }
    }

    /// `system:anonymous`, who belongs to `system:unauthenticated`.
    pub fn anonymous() -> Self {
        Self::new("system:anonymous", &["system:unauthenticated"])
    }

    /// Whether the user belongs to a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What a request is about, as upstream's `RequestInfo` (apiserver/pkg/endpoints/request/requestinfo.go).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// The whole path without the query.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `proxy`; for other paths
    /// the HTTP method in lower case.
    pub verb: String,
    /// Whether the path names a resource of the API.
    pub is_resource: bool,
    /// Empty for core.
    pub api_group: String,
    /// For example `v1`.
    pub api_version: String,
    /// Empty for cluster-scoped requests and lists over all namespaces.
    pub namespace: String,
    /// Plural resource.
    pub resource: String,
    /// Empty where none.
    pub subresource: String,
    /// Empty for requests about a collection, unless a field selector `metadata.name=x` names one object.
    pub name: String,
    /// The query's `fieldSelector` of a list, watch or deletecollection as it came; the Node authorizer reads it.
    pub field_selector: String,
    /// The query's `labelSelector` of the same verbs as it came; authorization webhooks are shown it.
    pub label_selector: String,
    /// What follows the subresource, for `proxy`.
    pub rest: String,
}

/// One question to an authorizer.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// What for.
    pub request: &'a RequestInfo,
}
