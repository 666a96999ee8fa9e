//! `NamespaceLifecycle`: nothing is made in a namespace that is absent or going away; some namespaces stay for good.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::gvk::GroupResource;
use machinery::{StatusError, StatusResult};

use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The plugin.
pub struct NamespaceLifecycle(pub Arc<dyn ClusterView>);

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        let is_namespace = a.gvr.group.is_empty() && a.gvr.resource == "namespaces";
        if is_namespace {
            if a.operation == Operation::Delete && IMMORTAL.contains(&a.name) {
                return Err(a.forbidden("this namespace may not be deleted"));
            }
            return Ok(());
        }
        let is_access_review =
            a.gvr.group == "authorization.k8s.io" && a.gvr.resource == "localsubjectaccessreviews";
        if a.namespace.is_empty() || a.operation == Operation::Delete || is_access_review {
            return Ok(());
        }
        let found = match self.0.get(Resource::NAMESPACES, "", a.namespace) {
            Some(namespace) => Some(namespace),
            // The cache may not have heard of a namespace made a moment ago.
            None => self.0.get_live(Resource::NAMESPACES, "", a.namespace).await?,
        };
        let Some(namespace) = found else {
            return Err(StatusError::not_found(&GroupResource::new("", "namespaces"), a.namespace));
        };
        if a.operation == Operation::Create && namespace.str_at(&["status", "phase"]) == "Terminating" {
            let why = format!(
                "unable to create new content in namespace {} because it is being terminated",
                a.namespace
            );
            return Err(a.forbidden(why).with_cause(
                "NamespaceTerminating",
                "metadata.namespace",
                format!("namespace {} is being terminated", a.namespace),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Ask, FakeCluster, object};

    fn plugin() -> NamespaceLifecycle {
        let namespace =
            |name: &str, phase: &str| json!({"metadata": {"name": name}, "status": {"phase": phase}});
        NamespaceLifecycle(Arc::new(
            FakeCluster::default()
                .with(Resource::NAMESPACES, namespace("a", "Active"))
                .with_live(Resource::NAMESPACES, namespace("new", "Active"))
                .with(Resource::NAMESPACES, namespace("leaving", "Terminating")),
        ))
    }

    #[tokio::test]
    async fn content_needs_a_living_namespace() {
        let pod = |namespace: &str| json!({"metadata": {"name": "p", "namespace": namespace}});
        let check = async |operation: Operation, pod: Value, want: Result<(), &str>| {
            let ask = Ask { operation, ..Ask::create_pod(pod) };
            assert_eq!(ask.run(&plugin()).await.map(drop), want.map_err(str::to_owned));
        };
        check(Operation::Create, pod("a"), Ok(())).await;
        check(Operation::Create, pod("new"), Ok(())).await;
        check(Operation::Create, pod("none"), Err(r#"namespaces "none" not found"#)).await;
        let terminating = r#"pods "p" is forbidden: unable to create new content in namespace leaving because it is being terminated"#;
        check(Operation::Create, pod("leaving"), Err(terminating)).await;
        let generated = json!({"metadata": {"generateName": "p-", "namespace": "leaving"}});
        check(Operation::Create, generated, Err(&terminating.replace("\"p\"", "\"p-\""))).await;
        check(Operation::Update, pod("leaving"), Ok(())).await;
        check(Operation::Delete, pod("none"), Ok(())).await;
    }

    #[tokio::test]
    async fn some_namespaces_stay() {
        for (name, want) in [
            (
                "kube-system",
                Err(r#"namespaces "kube-system" is forbidden: this namespace may not be deleted"#.to_owned()),
            ),
            ("a", Ok(())),
        ] {
            let old = object(json!({"metadata": {"name": name}}));
            let ask = Ask { old: Some(old), ..Ask::new(Operation::Delete, ("", "namespaces"), "Namespace") };
            assert_eq!(ask.run(&plugin()).await.map(drop), want);
        }
    }
}
