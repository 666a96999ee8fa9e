//! `NamespaceExists` (off unless asked for): nothing happens in a namespace that is absent. `NamespaceLifecycle` says the
//! same of what is made, and more.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::gvk::GroupResource;
use machinery::{StatusError, StatusResult};

use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

/// The plugin.
pub struct NamespaceExists(pub Arc<dyn ClusterView>);

#[async_trait]
impl Plugin for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        let is_namespace = a.gvr.group.is_empty() && a.gvr.resource == "namespaces";
        if a.namespace.is_empty() || is_namespace {
            return Ok(());
        }
        if self.0.get(Resource::NAMESPACES, "", a.namespace).is_some()
            || self.0.get_live(Resource::NAMESPACES, "", a.namespace).await?.is_some()
        {
            return Ok(());
        }
        Err(StatusError::not_found(&GroupResource::new("", "namespaces"), a.namespace))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Ask, FakeCluster};

    #[tokio::test]
    async fn a_namespace_has_to_be_there() {
        let cluster = FakeCluster::default()
            .with(Resource::NAMESPACES, json!({"metadata": {"name": "a"}}))
            .with_live(Resource::NAMESPACES, json!({"metadata": {"name": "new"}}));
        let plugin = NamespaceExists(Arc::new(cluster));
        for (operation, namespace, good) in [
            (Operation::Create, "a", true),
            (Operation::Update, "new", true),
            (Operation::Delete, "none", false),
            (Operation::Create, "none", false),
        ] {
            let pod = json!({"metadata": {"name": "p", "namespace": namespace}});
            let got = Ask { operation, ..Ask::create_pod(pod) }.run(&plugin).await.err();
            assert_eq!(got.as_deref(), (!good).then_some("namespaces \"none\" not found"));
        }
    }
}
