//! `AlwaysPullImages` (off unless asked for): every image is pulled, so that its pull secret is checked each time.
use async_trait::async_trait;
use machinery::StatusResult;
use serde_json::Value;

use crate::{Attributes, Operation, Plugin};

/// The plugin.
#[derive(Debug, Clone, Copy)]
pub struct AlwaysPullImages;

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        if !a.is("", "pods") && !a.is_sub("", "pods", "ephemeralcontainers") {
            return Ok(());
        }
        let Some(spec) = a.object_mut().and_then(|pod| pod.0.get_mut("spec")) else { return Ok(()) };
        for list in ["initContainers", "containers", "ephemeralContainers"] {
            let containers = spec.get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
                container.insert("imagePullPolicy".into(), "Always".into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::Ask;

    #[tokio::test]
    async fn every_container_pulls() {
        let ask = Ask::create_pod(
            json!({"spec": {"containers": [{"imagePullPolicy": "Never"}], "initContainers": [{}]}}),
        );
        let pod = ask.run(&AlwaysPullImages).await.unwrap();
        let want = json!({"containers": [{"imagePullPolicy": "Always"}], "initContainers": [{"imagePullPolicy": "Always"}]});
        assert_eq!(pod.at(&["spec"]), Some(&want));
    }
}
