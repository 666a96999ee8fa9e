//! `PodResizeValidator`: a running pod does not ask for more than its node has to give. Upstream:
//! plugin/pkg/admission/podresize, 1.36.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::{Object, Quantity, StatusResult};
use quota::{Amounts, add, amounts, pod_amounts};

use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

/// The plugin.
pub struct PodResizeValidator(pub Arc<dyn ClusterView>);

/// What a pod asks for beyond what a node has.
fn beyond(pod: &Object, node: &Object) -> Vec<String> {
    let mut wanted: Amounts = pod_amounts(pod, "requests");
    add(&mut wanted, &amounts(pod.at(&["spec", "overhead"])));
    let has = amounts(node.at(&["status", "allocatable"]));
    let compare = |name: &str, count: fn(&Quantity) -> i64| {
        let of = |amounts: &Amounts| amounts.get(name).map_or(0, count);
        let (requested, allocatable) = (of(&wanted), of(&has));
        (requested > allocatable)
            .then(|| format!("{name}, requested: {requested}, allocatable: {allocatable}"))
    };
    [compare("cpu", Quantity::milli_value), compare("memory", Quantity::value)]
        .into_iter()
        .flatten()
        .collect()
}

#[async_trait]
impl Plugin for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        if !a.is_sub("", "pods", "resize") {
            return Ok(());
        }
        let (Some(pod), Some(old)) = (a.object(), a.old) else { return Ok(()) };
        let name = pod.str_at(&["spec", "nodeName"]);
        if name.is_empty() || pod.generation() == old.generation() {
            return Ok(());
        }
        let Some(node) = self.0.get(Resource::NODES, "", name) else {
            return Err(a.forbidden(format!("node {name:?} not found")));
        };
        let beyond = beyond(pod, &node);
        if !beyond.is_empty() {
            let why = format!("Node didn't have enough allocatable resources: {}", beyond.join("; "));
            return Err(a.forbidden(why));
        }
        match node.label("kubernetes.io/os") {
            Some("linux") => Ok(()),
            other => Err(a.forbidden(format!(
                "pod resize is only supported on linux nodes, node {name:?} is {:?}",
                other.unwrap_or("")
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Ask, FakeCluster, object};

    #[tokio::test]
    async fn a_pod_grows_within_its_node() {
        let node = |name: &str, os: &str| {
            json!({"metadata": {"name": name, "labels": {"kubernetes.io/os": os}},
                "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}})
        };
        let cluster = FakeCluster::default()
            .with(Resource::NODES, node("n", "linux"))
            .with(Resource::NODES, node("w", "windows"));
        let plugin = PodResizeValidator(Arc::new(cluster));
        let told = |why: &str| Some(format!("pods \"p\" is forbidden: {why}"));
        for (node, subresource, cpu, memory, generation, want) in [
            ("n", "resize", "2", "1Gi", 2, None),
            (
                "n",
                "resize",
                "2500m",
                "2Gi",
                2,
                told(
                    "Node didn't have enough allocatable resources: cpu, requested: 2500, allocatable: 2000; memory, \
                      requested: 2147483648, allocatable: 1073741824",
                ),
            ),
            ("n", "", "3", "1Gi", 2, None),
            ("n", "resize", "3", "1Gi", 1, None),
            ("", "resize", "3", "1Gi", 2, None),
            (
                "w",
                "resize",
                "1",
                "1Gi",
                2,
                told("pod resize is only supported on linux nodes, node \"w\" is \"windows\""),
            ),
            ("none", "resize", "1", "1Gi", 2, told("node \"none\" not found")),
        ] {
            let pod = |generation: i64, cpu: &str| {
                object(json!({"metadata": {"name": "p", "generation": generation}, "spec": {"nodeName": node,
                    "containers": [{"resources": {"requests": {"cpu": cpu, "memory": memory}}}]}}))
            };
            let ask = Ask {
                subresource,
                object: Some(pod(generation, cpu)),
                old: Some(pod(1, "1")),
                ..Ask::new(Operation::Update, ("", "pods"), "Pod")
            };
            assert_eq!(ask.run(&plugin).await.err(), want, "{node} {cpu}");
        }
    }
}
