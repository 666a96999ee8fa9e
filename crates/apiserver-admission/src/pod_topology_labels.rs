//! `PodTopologyLabels`: a pod carries the zone and the region of its node. Upstream:
//! plugin/pkg/admission/podtopologylabels, 1.36.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::StatusResult;

use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

const LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

/// The plugin. What it sets on a binding goes to the pod with it.
pub struct PodTopologyLabels(pub Arc<dyn ClusterView>);

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        let is_binding = a.is_sub("", "pods", "binding");
        if !(is_binding || a.is("", "pods")) {
            return Ok(());
        }
        let Some(object) = a.object_mut() else { return Ok(()) };
        let node = match (is_binding, object.str_at(&["target", "kind"])) {
            (true, "Node") => object.str_at(&["target", "name"]),
            (true, _) => "",
            (false, _) => object.str_at(&["spec", "nodeName"]),
        };
        if node.is_empty() {
            return Ok(());
        }
        let Some(node) = self.0.get(Resource::NODES, "", node) else { return Ok(()) };
        for label in LABELS {
            if let Some(value) = node.label(label) {
                object.set(&["metadata", "labels", label], value);
            }
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
    async fn the_node_says_where_a_pod_is() {
        let labels =
            json!({"topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r", "other": "x"});
        let cluster = FakeCluster::default()
            .with(Resource::NODES, json!({"metadata": {"name": "n", "labels": labels}}))
            .with(Resource::NODES, json!({"metadata": {"name": "bare"}}));
        let plugin = PodTopologyLabels(Arc::new(cluster));
        let there = json!({"topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r"});
        let bound = |kind: &str, node: &str| json!({"metadata": {"name": "p"}, "target": {"kind": kind, "name": node}});
        let pod = |node: &str, labels: Value| json!({"metadata": {"name": "p", "labels": labels}, "spec": {"nodeName": node}});
        let lies = json!({"topology.kubernetes.io/zone": "mine"});
        for (subresource, sent, want) in [
            ("binding", bound("Node", "n"), there.clone()),
            ("binding", bound("", "n"), json!(null)),
            ("binding", bound("Node", "bare"), json!(null)),
            ("binding", bound("Node", "none"), json!(null)),
            ("", pod("n", json!({})), there.clone()),
            ("", pod("n", lies.clone()), there),
            ("", pod("", lies.clone()), lies),
        ] {
            let ask = Ask {
                subresource,
                object: Some(object(sent.clone())),
                ..Ask::new(Operation::Create, ("", "pods"), "Pod")
            };
            let got = ask.run(&plugin).await.unwrap();
            assert_eq!(got.at(&["metadata", "labels"]).cloned().unwrap_or_default(), want, "{sent}");
        }
    }
}
