//! `TaintNodesByCondition`: a new node takes no pods until it is known to be ready.
use async_trait::async_trait;
use machinery::StatusResult;
use serde_json::{Value, json};

use crate::{Attributes, Operation, Plugin};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// The plugin.
#[derive(Debug, Clone, Copy)]
pub struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        if !a.is("", "nodes") {
            return Ok(());
        }
        let Some(node) = a.object_mut() else { return Ok(()) };
        let mut taints = node.list_at(&["spec", "taints"]).to_vec();
        let is_there = |t: &Value| {
            t.get("key").and_then(Value::as_str) == Some(NOT_READY)
                && t.get("effect").and_then(Value::as_str) == Some("NoSchedule")
        };
        if !taints.iter().any(is_there) {
            taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
            node.set(&["spec", "taints"], taints);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ask, object};

    #[tokio::test]
    async fn taints_once() {
        let want = json!([{"key": NOT_READY, "effect": "NoSchedule"}]);
        for node in [
            json!({"metadata": {"name": "n"}}),
            json!({"metadata": {"name": "n"}, "spec": {"taints": want.clone()}}),
        ] {
            let ask =
                Ask { object: Some(object(node)), ..Ask::new(Operation::Create, ("", "nodes"), "Node") };
            let node = ask.run(&TaintNodesByCondition).await.unwrap();
            assert_eq!(node.at(&["spec", "taints"]), Some(&want));
        }
    }
}
