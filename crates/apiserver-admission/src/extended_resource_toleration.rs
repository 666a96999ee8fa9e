//! `ExtendedResourceToleration` (off unless asked for): who asks for a device tolerates the taint of its nodes.
use std::collections::BTreeSet;

use async_trait::async_trait;
use machinery::StatusResult;
use serde_json::{Value, json};

use crate::{Attributes, Operation, Plugin};

/// The plugin.
#[derive(Debug, Clone, Copy)]
pub struct ExtendedResourceToleration;

/// Whether a resource is neither Kubernetes' own nor a quota's.
fn is_extended(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    !native && !name.starts_with("requests.")
}

#[async_trait]
impl Plugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        if !a.is("", "pods") {
            return Ok(());
        }
        let Some(pod) = a.object_mut() else { return Ok(()) };
        let containers = ["containers", "initContainers"].into_iter().flat_map(|l| pod.list_at(&["spec", l]));
        let requests = containers.filter_map(|c| c.pointer("/resources/requests")?.as_object());
        let names: BTreeSet<String> =
            requests.flat_map(|r| r.keys()).filter(|n| is_extended(n)).cloned().collect();
        let mut tolerations = pod.list_at(&["spec", "tolerations"]).to_vec();
        let before = tolerations.len();
        for name in names {
            let same = |t: &Value| {
                t["key"] == name.as_str()
                    && t["operator"] == "Exists"
                    && t["effect"].as_str().unwrap_or("").is_empty()
            };
            if !tolerations.iter().any(same) {
                tolerations.push(json!({"key": name, "operator": "Exists"}));
            }
        }
        if tolerations.len() != before {
            pod.set(&["spec", "tolerations"], tolerations);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Ask;

    #[tokio::test]
    async fn devices_bring_their_toleration_once() {
        let exists = json!({"key": "example.com/gpu", "operator": "Exists"});
        for (requests, tolerations, want) in [
            (json!({"cpu": "1", "hugepages-2Mi": "1"}), json!([]), json!([])),
            (json!({"example.com/gpu": "1"}), json!([]), json!([exists])),
            (json!({"example.com/gpu": "1"}), json!([exists]), json!([exists])),
            (json!({"requests.example.com/x": "1", "kubernetes.io/batch": "1"}), json!([]), json!([])),
        ] {
            let pod = json!({"metadata": {"name": "p", "namespace": "a"}, "spec": {"tolerations": tolerations,
                "containers": [{"name": "c", "resources": {"requests": requests}}]}});
            let pod = Ask::create_pod(pod).run(&ExtendedResourceToleration).await.unwrap();
            assert_eq!(json!(pod.list_at(&["spec", "tolerations"])), want, "{requests}");
        }
    }
}
