//! A cluster in memory and requests in one line, for the plugins' tests.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::gvk::{GroupVersionKind, GroupVersionResource};
use machinery::request::UserInfo;
use machinery::{Object, StatusResult};
use serde_json::Value;

use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

/// Objects with the resource they belong to; the cache has heard of all but those marked `live`.
#[derive(Default)]
pub(crate) struct FakeCluster(pub Vec<(Resource, Arc<Object>, bool)>);

impl FakeCluster {
    pub(crate) fn with(mut self, resource: Resource, value: Value) -> Self {
        self.0.push((resource, Arc::new(object(value)), true));
        self
    }

    /// An object that only a live read finds.
    pub(crate) fn with_live(mut self, resource: Resource, value: Value) -> Self {
        self.0.push((resource, Arc::new(object(value)), false));
        self
    }

    fn find(&self, resource: Resource, namespace: &str, name: &str, cached: bool) -> Option<Arc<Object>> {
        self.0
            .iter()
            .find(|(r, o, c)| {
                *r == resource && o.namespace() == namespace && o.name() == name && (*c || !cached)
            })
            .map(|(_, o, _)| o.clone())
    }
}

#[async_trait]
impl ClusterView for FakeCluster {
    fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.find(resource, namespace, name, true)
    }

    fn list(&self, resource: Resource, namespace: &str) -> Vec<Arc<Object>> {
        let all = self
            .0
            .iter()
            .filter(|(r, o, _)| *r == resource && (namespace.is_empty() || o.namespace() == namespace));
        all.map(|(_, o, _)| o.clone()).collect()
    }

    async fn get_live(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
    ) -> StatusResult<Option<Arc<Object>>> {
        Ok(self.find(resource, namespace, name, false))
    }
}

pub(crate) fn object(value: Value) -> Object {
    Object::from_value(value).unwrap()
}

/// One request to run through a plugin.
pub(crate) struct Ask {
    pub operation: Operation,
    pub resource: (&'static str, &'static str),
    pub kind: &'static str,
    pub subresource: &'static str,
    pub object: Option<Object>,
    pub old: Option<Object>,
    pub user: UserInfo,
    /// Where it differs from the object's.
    pub name: Option<&'static str>,
    pub namespace: Option<&'static str>,
}

impl Ask {
    pub(crate) fn new(
        operation: Operation,
        resource: (&'static str, &'static str),
        kind: &'static str,
    ) -> Self {
        Self {
            operation,
            resource,
            kind,
            subresource: "",
            object: None,
            old: None,
            user: UserInfo::new("jane", &[]),
            name: None,
            namespace: None,
        }
    }

    pub(crate) fn create_pod(pod: Value) -> Self {
        Self { object: Some(object(pod)), ..Self::new(Operation::Create, ("", "pods"), "Pod") }
    }

    /// Runs both halves of a plugin; gives the object as it became.
    pub(crate) async fn run(mut self, plugin: &dyn Plugin) -> Result<Object, String> {
        if !plugin.handles(self.operation) {
            return Ok(self.object.unwrap_or_default());
        }
        let gvk = GroupVersionKind::new(self.resource.0, "v1", self.kind);
        let gvr = GroupVersionResource::new(self.resource.0, "v1", self.resource.1);
        let shown = self.object.clone().or_else(|| self.old.clone()).unwrap_or_default();
        let mut attributes = Attributes {
            operation: self.operation,
            gvk: &gvk,
            gvr: &gvr,
            subresource: self.subresource,
            namespace: self.namespace.unwrap_or(shown.namespace()),
            name: self.name.unwrap_or(shown.name()),
            object: self.object.as_mut(),
            old: self.old.as_ref(),
            options: None,
            user: &self.user,
            dry_run: false,
            warnings: Vec::new(),
            annotations: Vec::new(),
        };
        plugin.mutate(&mut attributes).await.map_err(|e| e.to_string())?;
        plugin.conclude(&mut attributes).await.map_err(|e| e.to_string())?;
        Ok(self.object.unwrap_or_default())
    }
}
