//! `AlwaysPullImages` (off unless asked for): every image is pulled, so that its pull secret is checked each time.
use std::collections::BTreeSet;

use async_trait::async_trait;
use machinery::field::{FieldError, FieldPath, aggregate};
use machinery::{Object, StatusResult};
use serde_json::Value;

use crate::{Attributes, Operation, Plugin};

/// The plugin.
#[derive(Debug, Clone, Copy)]
pub struct AlwaysPullImages;

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const ALWAYS: &str = "Always";

/// Images of a pod's containers and volumes.
fn images(pod: &Object) -> BTreeSet<&str> {
    let containers = LISTS.iter().flat_map(|list| pod.list_at(&["spec", list])).map(|c| &c["image"]);
    let volumes = pod.list_at(&["spec", "volumes"]).iter().filter_map(|v| v.pointer("/image/reference"));
    containers.chain(volumes).filter_map(Value::as_str).collect()
}

/// Pods, and what puts a container into one; updates that bring no new image are let be, so that pods from before the
/// plugin can still be changed.
fn concerns(a: &Attributes<'_>) -> bool {
    let is_pod = a.is("", "pods") || a.is_sub("", "pods", "ephemeralcontainers");
    let nothing_new =
        || matches!((a.object(), a.old), (Some(new), Some(old)) if images(new).is_subset(&images(old)));
    is_pod && !(a.operation == Operation::Update && nothing_new())
}

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        if !concerns(a) {
            return Ok(());
        }
        let Some(spec) = a.object_mut().and_then(|pod| pod.0.get_mut("spec")) else { return Ok(()) };
        for list in LISTS {
            let containers = spec.get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
                container.insert("imagePullPolicy".into(), ALWAYS.into());
            }
        }
        let volumes = spec.get_mut("volumes").and_then(Value::as_array_mut);
        let images = volumes.into_iter().flatten().filter_map(|v| v.get_mut("image")?.as_object_mut());
        for image in images {
            image.insert("pullPolicy".into(), ALWAYS.into());
        }
        Ok(())
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        let Some(pod) = a.object().filter(|_| concerns(a)) else { return Ok(()) };
        let mut errors = Vec::new();
        let mut check = |path: &FieldPath, policy: &Value| {
            if policy != ALWAYS {
                errors.push(FieldError::not_supported(path, policy.clone(), &[ALWAYS]));
            }
        };
        let spec = FieldPath::new("spec");
        for list in LISTS {
            for (i, container) in pod.list_at(&["spec", list]).iter().enumerate() {
                check(&spec.child(list).index(i).child("imagePullPolicy"), &container["imagePullPolicy"]);
            }
        }
        for (i, volume) in pod.list_at(&["spec", "volumes"]).iter().enumerate() {
            if let Some(image) = volume.get("image") {
                check(
                    &spec.child("volumes").index(i).child("image").child("pullPolicy"),
                    &image["pullPolicy"],
                );
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(a.forbidden(aggregate(&errors))) }
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
    #[tokio::test]
    async fn images_of_volumes_and_new_images_pull_too() {
        let pod = |image: &str| {
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"image": image, "imagePullPolicy": "Never"}],
                "volumes": [{"image": {"reference": "v"}}, {"emptyDir": {}}]}})
        };
        let made = Ask::create_pod(pod("a")).run(&AlwaysPullImages).await.unwrap();
        assert_eq!(made.list_at(&["spec", "volumes"])[0]["image"]["pullPolicy"], "Always");
        for (image, policy) in [("a", "Never"), ("b", "Always")] {
            let ask = Ask {
                operation: Operation::Update,
                old: Some(crate::testing::object(pod("a"))),
                ..Ask::create_pod(pod(image))
            };
            let pod = ask.run(&AlwaysPullImages).await.unwrap();
            assert_eq!(pod.list_at(&["spec", "containers"])[0]["imagePullPolicy"], policy, "{image}");
        }
    }
}
