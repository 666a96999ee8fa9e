//! `StorageObjectInUseProtection`: claims, volumes and volume classes carry a finalizer while they are in use.
use async_trait::async_trait;
use machinery::StatusResult;
use serde_json::Value;

use crate::{Attributes, Operation, Plugin};

/// The plugin.
#[derive(Debug, Clone, Copy)]
pub struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        let finalizer = match (a.gvr.group.as_str(), a.gvr.resource.as_str(), a.subresource) {
            ("", "persistentvolumeclaims", "") => "kubernetes.io/pvc-protection",
            ("", "persistentvolumes", "") => "kubernetes.io/pv-protection",
            ("storage.k8s.io", "volumeattributesclasses", "") => "kubernetes.io/vac-protection",
            _ => return Ok(()),
        };
        let Some(object) = a.object_mut() else { return Ok(()) };
        if !object.finalizers().any(|f| f == finalizer) {
            let mut finalizers = object.list_at(&["metadata", "finalizers"]).to_vec();
            finalizers.push(Value::from(finalizer));
            object.set(&["metadata", "finalizers"], finalizers);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Ask, object};

    #[tokio::test]
    async fn adds_the_finalizer_once() {
        for (given, want) in [
            (json!([]), json!(["kubernetes.io/pvc-protection"])),
            (json!(["x", "kubernetes.io/pvc-protection"]), json!(["x", "kubernetes.io/pvc-protection"])),
        ] {
            let claim = object(json!({"metadata": {"name": "c", "namespace": "a", "finalizers": given}}));
            let ask = Ask {
                object: Some(claim),
                ..Ask::new(Operation::Create, ("", "persistentvolumeclaims"), "PersistentVolumeClaim")
            };
            let claim = ask.run(&StorageObjectInUseProtection).await.unwrap();
            assert_eq!(claim.at(&["metadata", "finalizers"]), Some(&want));
        }
    }
}
