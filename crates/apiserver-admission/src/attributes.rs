//! What a plugin may look at and change.
use std::borrow::Cow;

use machinery::gvk::{GroupResource, GroupVersionKind, GroupVersionResource};
use machinery::request::UserInfo;
use machinery::{Object, StatusError};

/// What is done to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `CREATE`.
    Create,
    /// `UPDATE`, patches included.
    Update,
    /// `DELETE`.
    Delete,
    /// `CONNECT`: exec, attach, port-forward, proxy.
    Connect,
}

impl Operation {
    /// As upstream writes it, for example `CREATE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// One request, as admission sees it.
#[derive(Debug)]
pub struct Attributes<'a> {
    /// What is done.
    pub operation: Operation,
    /// Kind of the object in the body (of the subresource, where there is one).
    pub gvk: &'a GroupVersionKind,
    /// The resource in the path.
    pub gvr: &'a GroupVersionResource,
    /// Empty where none.
    pub subresource: &'a str,
    /// Empty for cluster-scoped resources.
    pub namespace: &'a str,
    /// Empty on create with `generateName`.
    pub name: &'a str,
    /// The object as it will be; absent on delete. On connect, the options.
    pub object: Option<&'a mut Object>,
    /// The object as it is, on update and delete.
    pub old: Option<&'a Object>,
    /// The options of the request (`DeleteOptions` on delete), where it has any.
    pub options: Option<&'a Object>,
    /// Who asks.
    pub user: &'a UserInfo,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// Warnings for the client; plugins add to them in `mutate`.
    pub warnings: Vec<String>,
    /// Facts for the audit trail; plugins add to them in `mutate` and `conclude`.
    pub annotations: Vec<(Cow<'static, str>, String)>,
}

impl Attributes<'_> {
    /// The object as it will be.
    pub fn object(&self) -> Option<&Object> {
        self.object.as_deref()
    }

    /// Group and plural of the resource in the path.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.gvr.group, &self.gvr.resource)
    }

    /// Whether the request is about this resource itself, no subresource.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.is_sub(group, resource, "")
    }

    /// Whether the request is about this subresource.
    pub fn is_sub(&self, group: &str, resource: &str, subresource: &str) -> bool {
        self.gvr.group == group && self.gvr.resource == resource && self.subresource == subresource
    }

    /// The object as it will be, for plugins that change it.
    pub fn object_mut(&mut self) -> Option<&mut Object> {
        self.object.as_deref_mut()
    }

    /// The 403 with which a plugin refuses the request.
    pub fn forbidden(&self, why: impl AsRef<str>) -> StatusError {
        let object = |field: fn(&Object) -> &str| self.object().map(field).filter(|s| !s.is_empty());
        let name = Some(self.name)
            .filter(|s| !s.is_empty())
            .or_else(|| object(Object::name))
            .or_else(|| object(Object::generate_name))
            .unwrap_or("Unknown");
        StatusError::forbidden(&self.group_resource(), name, why.as_ref())
    }
}
