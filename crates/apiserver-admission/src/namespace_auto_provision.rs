//! `NamespaceAutoProvision` (off unless asked for): a namespace comes to be with the first thing that is made in it.
//! Upstream: plugin/pkg/admission/namespace/autoprovision, 1.36.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::StatusResult;

use crate::{Attributes, ClusterView, MakeNamespaces, Operation, Plugin, Resource};

/// The plugin.
pub struct NamespaceAutoProvision {
    /// Knows which namespaces there are.
    pub cluster: Arc<dyn ClusterView>,
    /// Makes more.
    pub namespaces: Arc<dyn MakeNamespaces>,
}

#[async_trait]
impl Plugin for NamespaceAutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        // A namespace has none, and what is tried on changes nothing.
        if a.namespace.is_empty() || a.is("", "namespaces") || a.dry_run {
            return Ok(());
        }
        if self.cluster.get(Resource::NAMESPACES, "", a.namespace).is_some() {
            return Ok(());
        }
        match self.namespaces.make(a.namespace).await {
            Err(e) if e.reason() != "AlreadyExists" => Err(a.forbidden(e.to_string())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use machinery::StatusError;
    use machinery::gvk::GroupResource;
    use serde_json::json;

    use super::*;
    use crate::testing::{Ask, FakeCluster, object};

    #[derive(Default)]
    struct Made(Mutex<Vec<String>>);

    #[async_trait]
    impl MakeNamespaces for Made {
        async fn make(&self, name: &str) -> StatusResult<()> {
            let gr = GroupResource::new("", "namespaces");
            match name {
                "there" => Err(StatusError::already_exists(&gr, name)),
                "never" => Err(StatusError::forbidden(&gr, name, "no")),
                _ => {
                    self.0.lock().unwrap().push(name.to_owned());
                    Ok(())
                }
            }
        }
    }

    #[tokio::test]
    async fn the_first_thing_makes_its_namespace() {
        let namespaces = Arc::new(Made::default());
        let cluster = FakeCluster::default().with(Resource::NAMESPACES, json!({"metadata": {"name": "a"}}));
        let plugin = NamespaceAutoProvision { cluster: Arc::new(cluster), namespaces: namespaces.clone() };
        let refused = r#"pods "p" is forbidden: namespaces "never" is forbidden: no"#;
        for (operation, namespace, made, want) in [
            (Operation::Create, "a", false, Ok(())),
            (Operation::Create, "new", true, Ok(())),
            (Operation::Create, "there", false, Ok(())),
            (Operation::Create, "never", false, Err(refused.to_owned())),
            (Operation::Update, "none", false, Ok(())),
        ] {
            let pod = json!({"metadata": {"name": "p", "namespace": namespace}});
            let got = Ask { operation, ..Ask::create_pod(pod) }.run(&plugin).await.map(drop);
            assert_eq!(got, want, "{namespace}");
            assert_eq!(
                !namespaces.0.lock().unwrap().drain(..).collect::<Vec<_>>().is_empty(),
                made,
                "{namespace}"
            );
        }
        let ask = Ask {
            object: Some(object(json!({"metadata": {"name": "b"}}))),
            ..Ask::new(Operation::Create, ("", "namespaces"), "Namespace")
        };
        ask.run(&plugin).await.unwrap();
        assert!(namespaces.0.lock().unwrap().is_empty());
    }
}
