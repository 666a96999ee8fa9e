//! `DefaultTolerationSeconds`: a pod survives five minutes on a node that is not ready or not reachable.
use async_trait::async_trait;
use machinery::{Object, StatusResult};
use serde_json::{Value, json};

use crate::{Attributes, Operation, Plugin};

/// The plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefaultTolerationSeconds {
    /// On a node that is not ready.
    pub not_ready: i64,
    /// On a node that is not reachable.
    pub unreachable: i64,
}

impl Default for DefaultTolerationSeconds {
    fn default() -> Self {
        Self { not_ready: 300, unreachable: 300 }
    }
}

/// Whether a toleration already says what happens under this taint.
fn speaks_of(toleration: &Value, key: &str) -> bool {
    let text = |field: &str| toleration.get(field).and_then(Value::as_str).unwrap_or("");
    (text("key") == key || text("key").is_empty()) && matches!(text("effect"), "NoExecute" | "")
}

fn add(pod: &mut Object, seconds: DefaultTolerationSeconds) {
    let mut tolerations = pod.list_at(&["spec", "tolerations"]).to_vec();
    let before = tolerations.len();
    for (key, seconds) in [
        ("node.kubernetes.io/not-ready", seconds.not_ready),
        ("node.kubernetes.io/unreachable", seconds.unreachable),
    ] {
        if !tolerations[..before].iter().any(|t| speaks_of(t, key)) {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
            }));
        }
    }
    if tolerations.len() != before {
        pod.set(&["spec", "tolerations"], tolerations);
    }
}

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        if a.is("", "pods")
            && let Some(pod) = a.object_mut()
        {
            add(pod, *self);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Ask;

    #[tokio::test]
    async fn adds_what_the_pod_does_not_speak_of() {
        let check = async |given: Value, added: &[&str]| {
            let ask = Ask::create_pod(json!({"spec": {"tolerations": given.clone()}}));
            let pod = ask.run(&DefaultTolerationSeconds::default()).await.unwrap();
            let after = pod.list_at(&["spec", "tolerations"]);
            let keys: Vec<_> =
                after[given.as_array().unwrap().len()..].iter().map(|t| t["key"].as_str().unwrap()).collect();
            assert_eq!(keys, added, "{given}");
        };
        check(json!([]), &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]).await;
        check(json!([{"operator": "Exists"}]), &[]).await;
        check(
            json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]),
            &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"],
        )
        .await;
        check(
            json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "tolerationSeconds": 1}]),
            &["node.kubernetes.io/not-ready"],
        )
        .await;
    }

    #[tokio::test]
    async fn the_times_are_those_of_the_flags() {
        let plugin = DefaultTolerationSeconds { not_ready: 1, unreachable: 2 };
        let pod = Ask::create_pod(json!({"spec": {}})).run(&plugin).await.unwrap();
        let seconds: Vec<i64> = pod
            .list_at(&["spec", "tolerations"])
            .iter()
            .filter_map(|t| t["tolerationSeconds"].as_i64())
            .collect();
        assert_eq!(seconds, [1, 2]);
    }
}
