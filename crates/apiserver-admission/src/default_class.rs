//! `DefaultStorageClass` and `DefaultIngressClass`: claims and ingresses that name no class get the default one.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::{Object, StatusResult};

use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

/// The storage plugin.
pub struct DefaultStorageClass(pub Arc<dyn ClusterView>);
/// The ingress plugin.
pub struct DefaultIngressClass(pub Arc<dyn ClusterView>);

/// The newest of the classes with one of these annotations set to `true`; of equally new ones the first by name.
fn default_class(cluster: &dyn ClusterView, resource: Resource, annotations: &[&str]) -> Option<Arc<Object>> {
    let is_default = |c: &Arc<Object>| annotations.iter().any(|a| c.annotation(a) == Some("true"));
    let created = |c: &Arc<Object>| c.str_at(&["metadata", "creationTimestamp"]).to_owned();
    cluster
        .list(resource, "")
        .into_iter()
        .filter(is_default)
        .min_by(|a, b| created(b).cmp(&created(a)).then_with(|| a.name().cmp(b.name())))
}

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        if !a.is("", "persistentvolumeclaims") {
            return Ok(());
        }
        let Some(claim) = a.object_mut() else { return Ok(()) };
        // An empty class is a choice: no dynamic provisioning.
        if claim.at(&["spec", "storageClassName"]).is_some_and(|v| !v.is_null())
            || claim.annotation("volume.beta.kubernetes.io/storage-class").is_some()
        {
            return Ok(());
        }
        let annotations = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ];
        if let Some(class) = default_class(&*self.0, Resource::STORAGE_CLASSES, &annotations) {
            claim.set(&["spec", "storageClassName"], class.name());
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        if !a.is("networking.k8s.io", "ingresses") {
            return Ok(());
        }
        let Some(ingress) = a.object_mut() else { return Ok(()) };
        if ingress.at(&["spec", "ingressClassName"]).is_some_and(|v| !v.is_null())
            || ingress.annotation("kubernetes.io/ingress.class").is_some()
        {
            return Ok(());
        }
        let annotations = ["ingressclass.kubernetes.io/is-default-class"];
        if let Some(class) = default_class(&*self.0, Resource::INGRESS_CLASSES, &annotations) {
            ingress.set(&["spec", "ingressClassName"], class.name());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Ask, FakeCluster, object};

    #[tokio::test]
    async fn the_newest_default_counts_unless_one_was_chosen() {
        let class = |name: &str, created: &str, default: &str| {
            json!({"metadata": {"name": name, "creationTimestamp": created,
                "annotations": {"storageclass.kubernetes.io/is-default-class": default}}})
        };
        let cluster = FakeCluster::default()
            .with(Resource::STORAGE_CLASSES, class("old", "2026-01-01T00:00:00Z", "true"))
            .with(Resource::STORAGE_CLASSES, class("b", "2026-02-01T00:00:00Z", "true"))
            .with(Resource::STORAGE_CLASSES, class("a", "2026-02-01T00:00:00Z", "true"))
            .with(Resource::STORAGE_CLASSES, class("newer", "2026-03-01T00:00:00Z", "false"));
        let plugin = DefaultStorageClass(Arc::new(cluster));
        for (spec, want) in [
            (json!({}), Some(json!("a"))),
            (json!({"storageClassName": ""}), Some(json!(""))),
            (json!({"storageClassName": "x"}), Some(json!("x"))),
        ] {
            let claim = object(json!({"metadata": {"name": "c"}, "spec": spec}));
            let ask = Ask {
                object: Some(claim),
                ..Ask::new(Operation::Create, ("", "persistentvolumeclaims"), "PersistentVolumeClaim")
            };
            let claim = ask.run(&plugin).await.unwrap();
            assert_eq!(claim.at(&["spec", "storageClassName"]), want.as_ref());
        }
    }

    #[tokio::test]
    async fn an_ingress_gets_the_default_class() {
        let class = json!({"metadata": {"name": "nginx", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}});
        let plugin =
            DefaultIngressClass(Arc::new(FakeCluster::default().with(Resource::INGRESS_CLASSES, class)));
        for (ingress, want) in [
            (json!({"metadata": {"name": "i"}}), Some("nginx")),
            (json!({"metadata": {"name": "i", "annotations": {"kubernetes.io/ingress.class": "x"}}}), None),
        ] {
            let ask = Ask {
                object: Some(object(ingress)),
                ..Ask::new(Operation::Create, ("networking.k8s.io", "ingresses"), "Ingress")
            };
            let got = ask.run(&plugin).await.unwrap();
            assert_eq!(got.at(&["spec", "ingressClassName"]).and_then(Value::as_str), want);
        }
    }
}
