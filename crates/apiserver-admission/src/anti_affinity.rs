//! `LimitPodHardAntiAffinityTopology` (off unless asked for): a pod keeps others off its node, not off a whole zone.
use async_trait::async_trait;
use machinery::StatusResult;
use serde_json::Value;

use crate::{Attributes, Operation, Plugin};

/// The plugin.
#[derive(Debug, Clone, Copy)]
pub struct LimitPodHardAntiAffinityTopology;

const HARD: [&str; 4] =
    ["spec", "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];

#[async_trait]
impl Plugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        let Some(pod) = a.object().filter(|_| a.is("", "pods")) else { return Ok(()) };
        let key = |term: &Value| term["topologyKey"].as_str().unwrap_or_default().to_owned();
        let wide = pod.list_at(&HARD).iter().map(key).find(|key| key != "kubernetes.io/hostname");
        match wide {
            None => Ok(()),
            Some(key) => Err(a.forbidden(format!(
                "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key \
                 kubernetes.io/hostname is allowed"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::Ask;

    #[tokio::test]
    async fn only_the_node_is_hard() {
        for (key, good) in [("kubernetes.io/hostname", true), ("topology.kubernetes.io/zone", false)] {
            let mut pod = crate::testing::object(json!({"metadata": {"name": "p", "namespace": "a"}}));
            pod.set(&HARD, json!([{"topologyKey": key}]));
            let got = Ask::create_pod(pod.into_value()).run(&LimitPodHardAntiAffinityTopology).await;
            assert_eq!(got.is_ok(), good, "{key}");
        }
        let none = Ask::create_pod(json!({"metadata": {"name": "p", "namespace": "a"}}));
        assert!(none.run(&LimitPodHardAntiAffinityTopology).await.is_ok());
    }
}
