//! The table of kinds: one row for each resource and version.

use std::borrow::Cow;

use machinery::gvk::{GroupResource, GroupVersionKind, GroupVersionResource};

pub use crate::generated::kinds::KINDS;
use crate::schema::TypeId;

/// Text of a row: borrowed for built-in kinds, owned for custom resources.
pub type Text = Cow<'static, str>;

/// One served resource in one version.
#[derive(Debug, Clone)]
pub struct Kind {
    /// API group; empty for core.
    pub group: Text,
    /// Version, for example `v1`.
    pub version: Text,
    /// Kind, for example `Pod`.
    pub kind: Text,
    /// Plural resource name as in paths.
    pub plural: Text,
    /// Singular resource name.
    pub singular: Text,
    /// Short names of `kubectl`.
    pub short_names: Cow<'static, [Text]>,
    /// Categories, for example `all`.
    pub categories: Cow<'static, [Text]>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Verbs, sorted.
    pub verbs: Cow<'static, [Text]>,
    /// Storage prefix below `/registry/`.
    pub key: Text,
    /// The type in the schema table.
    pub schema: Option<TypeId>,
    /// Subresources, sorted by name.
    pub subresources: Cow<'static, [Subresource]>,
}

/// One subresource of a kind.
#[derive(Debug, Clone)]
pub struct Subresource {
    /// Name as in paths, for example `status`.
    pub name: Text,
    /// Group of the kind it speaks.
    pub group: Text,
    /// Version of the kind it speaks.
    pub version: Text,
    /// Kind it speaks, for example `Scale`.
    pub kind: Text,
    /// Verbs, sorted.
    pub verbs: Cow<'static, [Text]>,
    /// The type in the schema table.
    pub schema: Option<TypeId>,
}

impl Kind {
    /// `group/version`, or `version` for core.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Group, version and kind.
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind::new(&self.group, &self.version, &self.kind)
    }

    /// Group, version and plural resource.
    pub fn gvr(&self) -> GroupVersionResource {
        GroupVersionResource::new(&self.group, &self.version, &self.plural)
    }

    /// Group and plural resource.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.group, &self.plural)
    }

    /// Kind of the list, for example `PodList`.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// The subresource with this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether the resource has this verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// Whether a server without `--runtime-config` serves this version: stable ones only (KEP-3136).
    pub fn served_by_default(&self) -> bool {
        !self.version.contains("alpha") && !self.version.contains("beta")
    }
}

/// Finds a built-in row by group, version and plural.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS
        .binary_search_by(|k| (&*k.group, &*k.version, &*k.plural).cmp(&(group, version, plural)))
        .ok()
        .map(|i| &KINDS[i])
}

/// Finds a built-in row by group, version and kind.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.group == group && k.version == version && k.kind == kind)
}
