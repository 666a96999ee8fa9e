//! `NodeDeclaredFeatureValidator`: a running pod is not changed into something that its node has not declared it can do.
//! Upstream: plugin/pkg/admission/nodedeclaredfeatures, 1.36.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::{Object, StatusResult};
use serde_json::Value;

use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

/// The plugin.
pub struct NodeDeclaredFeatureValidator(pub Arc<dyn ClusterView>);

fn is_sidecar(container: &Value) -> bool {
    container.get("restartPolicy").and_then(Value::as_str) == Some("Always")
}

/// Nothing and an empty map are the same to Go.
fn resources(of: Option<&Value>) -> Option<&Value> {
    of.filter(|v| !v.is_null() && v.as_object().is_none_or(|map| !map.is_empty()))
}

/// What a node must have declared for this change, in order.
fn required(old: &Object, new: &Object) -> Vec<&'static str> {
    let mut features = Vec::new();
    let whole = |pod: &Object| resources(pod.at(&["spec", "resources"])).cloned();
    if whole(old) != whole(new) {
        features.push("InPlacePodLevelResourcesVerticalScaling");
    }
    let (before, after) =
        (old.list_at(&["spec", "initContainers"]), new.list_at(&["spec", "initContainers"]));
    let differs = |(old, new): (&Value, &Value)| {
        !is_sidecar(old) && resources(old.get("resources")) != resources(new.get("resources"))
    };
    if before.iter().zip(after).any(differs) {
        features.push("InPlacePodVerticalScalingInitContainers");
    }
    features
}

#[async_trait]
impl Plugin for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        if !(a.is("", "pods") || a.is_sub("", "pods", "resize")) {
            return Ok(());
        }
        let (Some(pod), Some(old)) = (a.object(), a.old) else { return Ok(()) };
        let name = pod.str_at(&["spec", "nodeName"]);
        if name.is_empty() || pod.generation() == old.generation() {
            return Ok(());
        }
        let mut missing = required(old, pod);
        if missing.is_empty() {
            return Ok(());
        }
        let Some(node) = self.0.get(Resource::NODES, "", name) else {
            return Err(a.forbidden(format!("node {name:?} not found")));
        };
        let declared = node.list_at(&["status", "declaredFeatures"]);
        missing.retain(|feature| !declared.iter().any(|d| d.as_str() == Some(feature)));
        if missing.is_empty() {
            return Ok(());
        }
        Err(a.forbidden(format!(
            "pod update requires features {} which are not available on node {name:?}",
            missing.join(", ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Ask, FakeCluster, object};

    #[tokio::test]
    async fn a_change_needs_a_node_that_can() {
        let cluster =
            FakeCluster::default().with(Resource::NODES, json!({"metadata": {"name": "old"}})).with(
                Resource::NODES,
                json!({"metadata": {"name": "able"}, "status": {"declaredFeatures":
                ["InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers"]}}),
            );
        let plugin = NodeDeclaredFeatureValidator(Arc::new(cluster));
        let cpu = |n: &str| json!({"requests": {"cpu": n}});
        let init = |policy: Value, n: &str| json!({"initContainers": [{"name": "i", "restartPolicy": policy, "resources": cpu(n)}]});
        let whole = |n: &str| json!({"resources": cpu(n)});
        let main = |n: &str| json!({"containers": [{"name": "c", "resources": cpu(n)}]});
        let lacks = |what: &str| {
            Some(format!(
                "pods \"p\" is forbidden: pod update requires features {what} which are not available on node \"old\""
            ))
        };
        let pods = "InPlacePodLevelResourcesVerticalScaling";
        let inits = "InPlacePodVerticalScalingInitContainers";
        for (node, before, after, generations, want) in [
            ("old", main("1"), main("2"), (1, 2), None),
            ("old", whole("1"), whole("2"), (1, 2), lacks(pods)),
            ("old", whole("1"), whole("2"), (1, 1), None),
            ("old", json!({"resources": {}}), json!({}), (1, 2), None),
            ("able", whole("1"), whole("2"), (1, 2), None),
            ("old", init(json!(null), "1"), init(json!(null), "2"), (1, 2), lacks(inits)),
            ("old", init(json!("Always"), "1"), init(json!("Always"), "2"), (1, 2), None),
            ("", whole("1"), whole("2"), (1, 2), None),
            (
                "none",
                whole("1"),
                whole("2"),
                (1, 2),
                Some("pods \"p\" is forbidden: node \"none\" not found".into()),
            ),
        ] {
            let pod = |spec: &Value, generation: i64| {
                let mut pod =
                    object(json!({"metadata": {"name": "p", "generation": generation}, "spec": spec}));
                pod.set(&["spec", "nodeName"], node);
                pod
            };
            for subresource in ["", "resize"] {
                let ask = Ask {
                    subresource,
                    object: Some(pod(&after, generations.1)),
                    old: Some(pod(&before, generations.0)),
                    ..Ask::new(Operation::Update, ("", "pods"), "Pod")
                };
                assert_eq!(ask.run(&plugin).await.err(), want, "{node} {before} {after}");
            }
        }
    }
}
