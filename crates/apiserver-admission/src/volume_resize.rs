//! `PersistentVolumeClaimResize`: only claims of classes that allow it may grow.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::StatusResult;

use crate::limit_ranger::storage_request;
use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

/// The plugin.
pub struct PersistentVolumeClaimResize(pub Arc<dyn ClusterView>);

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        let (Some(new), Some(old)) = (a.object(), a.old) else { return Ok(()) };
        if !a.is("", "persistentvolumeclaims") || storage_request(new) <= storage_request(old) {
            return Ok(());
        }
        if old.str_at(&["status", "phase"]) != "Bound" {
            return Err(a.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let class = match old.annotation("volume.beta.kubernetes.io/storage-class") {
            Some(class) => class,
            None => old.str_at(&["spec", "storageClassName"]),
        };
        let expands = self
            .0
            .get(Resource::STORAGE_CLASSES, "", class)
            .is_some_and(|c| c.bool_at(&["allowVolumeExpansion"]) == Some(true));
        if expands {
            return Ok(());
        }
        Err(a.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support \
             resize",
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Ask, FakeCluster, object};

    #[tokio::test]
    async fn only_growing_needs_leave() {
        let cluster = FakeCluster::default()
            .with(
                Resource::STORAGE_CLASSES,
                json!({"metadata": {"name": "grows"}, "allowVolumeExpansion": true}),
            )
            .with(Resource::STORAGE_CLASSES, json!({"metadata": {"name": "stays"}}));
        let plugin = PersistentVolumeClaimResize(Arc::new(cluster));
        let claim = |class: &str, phase: &str, storage: &str| {
            object(json!({"metadata": {"name": "c", "namespace": "a"}, "status": {"phase": phase},
                "spec": {"storageClassName": class, "resources": {"requests": {"storage": storage}}}}))
        };
        let no = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        for (class, phase, to, want) in [
            ("grows", "Bound", "2Gi", ""),
            ("grows", "Pending", "2Gi", "Only bound persistent volume claims can be expanded"),
            ("stays", "Bound", "2Gi", no),
            ("", "Bound", "2Gi", no),
            ("stays", "Bound", "1Gi", ""),
        ] {
            let ask = Ask {
                old: Some(claim(class, phase, "1Gi")),
                object: Some(claim(class, phase, to)),
                ..Ask::new(Operation::Update, ("", "persistentvolumeclaims"), "PersistentVolumeClaim")
            };
            let got = ask.run(&plugin).await.err().unwrap_or_default();
            assert!(got.ends_with(want) && got.is_empty() == want.is_empty(), "{class} {phase}: {got}");
        }
    }
}
