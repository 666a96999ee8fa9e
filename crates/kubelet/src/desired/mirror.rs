//! Keeps the API's picture of a static pod: made when missing, made anew when the manifest changed or someone deleted it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::labels;
use crate::pod::PodExt;
use crate::shared::Shared;

/// What to do about a mirror pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// Make it.
    Create,
    /// Take it away; it shows another manifest, or was deleted by someone.
    Delete,
}

/// Compares a static pod with its picture: pure.
pub fn step(pod: &Pod, mirror: Option<&Pod>) -> Step {
    let Some(mirror) = mirror else { return Step::Create };
    let shows = mirror.annotation(labels::CONFIG_MIRROR) == pod.annotation(labels::CONFIG_HASH);
    if shows && mirror.metadata.deletion_timestamp.is_none() { Step::Keep } else { Step::Delete }
}

/// The picture of a static pod, owned by the node.
pub fn picture(pod: &Pod, node: Option<&Node>) -> Pod {
    let mut picture = pod.clone();
    picture.metadata.uid = None;
    picture.metadata.resource_version = None;
    picture.metadata.creation_timestamp = None;
    picture.status = None;
    let hash = pod.annotation(labels::CONFIG_HASH).unwrap_or_default().to_owned();
    picture.metadata.annotations.get_or_insert_default().insert(labels::CONFIG_MIRROR.to_owned(), hash);
    picture.metadata.owner_references = node.and_then(|node| {
        Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node.metadata.name.clone()?,
            uid: node.metadata.uid.clone()?,
            controller: Some(true),
            block_owner_deletion: None,
        }])
    });
    picture
}

/// Makes the picture.
pub async fn create(shared: &Shared, pod: &Pod) -> Result<(), String> {
    let nodes: Api<Node> = Api::all(shared.client.clone());
    let node = nodes.get_opt(&shared.config.node_name).await.map_err(|error| error.to_string())?;
    if node.is_none() {
        return Err("the node is not registered yet".into());
    }
    let api: Api<Pod> = Api::namespaced(shared.client.clone(), pod.namespace());
    match api.create(&PostParams::default(), &picture(pod, node.as_ref())).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(error)) if error.code == 409 => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Takes the picture away.
pub async fn delete(shared: &Shared, mirror: &Arc<Pod>) -> bool {
    let api: Api<Pod> = Api::namespaced(shared.client.clone(), mirror.namespace());
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: mirror.metadata.uid.clone(), resource_version: None }),
        ..Default::default()
    };
    match api.delete(mirror.name(), &params).await {
        Ok(_) => true,
        Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409) => true,
        Err(error) => {
            tracing::debug!(pod = %mirror.printed(), error = %error, "mirror pod not deleted yet");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_mirror_follows_its_manifest() {
        let pod = |annotations: serde_json::Value, deleted: bool| -> Pod {
            let stamp = deleted.then_some("2026-01-01T00:00:00Z");
            serde_json::from_value(
                json!({"metadata": {"name": "p", "annotations": annotations, "deletionTimestamp": stamp}}),
            )
            .expect("pod")
        };
        let own = pod(json!({labels::CONFIG_HASH: "1", labels::CONFIG_SOURCE: "file"}), false);
        assert_eq!(step(&own, None), Step::Create);
        assert_eq!(step(&own, Some(&pod(json!({labels::CONFIG_MIRROR: "1"}), false))), Step::Keep);
        assert_eq!(step(&own, Some(&pod(json!({labels::CONFIG_MIRROR: "2"}), false))), Step::Delete);
        assert_eq!(step(&own, Some(&pod(json!({labels::CONFIG_MIRROR: "1"}), true))), Step::Delete);
        assert_eq!(picture(&own, None).annotation(labels::CONFIG_MIRROR), Some("1"));
    }
}
