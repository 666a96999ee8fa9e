//! `RuntimeClass`: a pod takes its class's overhead, node selector and tolerations.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::{Object, StatusResult};
use quota::amounts;
use serde_json::Value;

use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

/// The plugin.
pub struct RuntimeClass(pub Arc<dyn ClusterView>);

fn overhead(of: &Object, path: &[&str]) -> Option<Value> {
    of.at(path).filter(|v| v.as_object().is_some_and(|m| !m.is_empty())).cloned()
}

impl RuntimeClass {
    async fn class(&self, a: &Attributes<'_>, pod: &Object) -> StatusResult<Option<Arc<Object>>> {
        let name = pod.str_at(&["spec", "runtimeClassName"]);
        if name.is_empty() {
            return Ok(None);
        }
        let found = match self.0.get(Resource::RUNTIME_CLASSES, "", name) {
            Some(class) => Some(class),
            None => self.0.get_live(Resource::RUNTIME_CLASSES, "", name).await?,
        };
        found.map(Some).ok_or_else(|| a.forbidden(format!("pod rejected: RuntimeClass {name:?} not found")))
    }
}

/// Takes the class's node selector and tolerations into the pod.
fn schedule(pod: &mut Object, class: &Object) -> Result<(), String> {
    for (key, value) in class.strings_at(&["scheduling", "nodeSelector"]) {
        let own = pod.at(&["spec", "nodeSelector", key]).and_then(Value::as_str);
        if own.is_some_and(|own| own != value) {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {}",
                own.unwrap_or("")
            ));
        }
        pod.set(&["spec", "nodeSelector", key], value);
    }
    let mut tolerations = pod.list_at(&["spec", "tolerations"]).to_vec();
    let before = tolerations.len();
    for toleration in class.list_at(&["scheduling", "tolerations"]) {
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    if tolerations.len() != before {
        pod.set(&["spec", "tolerations"], tolerations);
    }
    Ok(())
}

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        let Some(pod) = a.object().filter(|_| a.is("", "pods")) else { return Ok(()) };
        let Some(class) = self.class(a, pod).await? else { return Ok(()) };
        if let Some(fixed) = overhead(&class, &["overhead", "podFixed"]) {
            let own = overhead(pod, &["spec", "overhead"]);
            if own.is_some_and(|own| amounts(Some(&own)) != amounts(Some(&fixed))) {
                return Err(a.forbidden(
                    "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
                ));
            }
            if let Some(pod) = a.object_mut() {
                pod.set(&["spec", "overhead"], fixed);
            }
        }
        let scheduled = a.object_mut().map_or(Ok(()), |pod| schedule(pod, &class));
        scheduled.map_err(|why| a.forbidden(why))
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        let Some(pod) = a.object().filter(|_| a.is("", "pods")) else { return Ok(()) };
        let class = self.class(a, pod).await?;
        let fixed = class.and_then(|c| overhead(&c, &["overhead", "podFixed"]));
        if overhead(pod, &["spec", "overhead"]).is_some() && fixed.is_none() {
            return Err(a.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Ask, FakeCluster};

    #[tokio::test]
    async fn takes_what_the_class_says() {
        let kata = json!({"metadata": {"name": "kata"}, "overhead": {"podFixed": {"cpu": "250m"}},
            "scheduling": {"nodeSelector": {"kata": "yes"}, "tolerations": [{"key": "kata"}]}});
        let plugin = RuntimeClass(Arc::new(FakeCluster::default().with(Resource::RUNTIME_CLASSES, kata)));
        let check = async |spec: Value, want: Result<Value, &str>| {
            let ask = Ask::create_pod(json!({"metadata": {"name": "p", "namespace": "a"}, "spec": spec}));
            let got = ask.run(&plugin).await.map(|pod| pod.at(&["spec"]).cloned().unwrap());
            assert_eq!(got, want.map_err(|e| format!("pods \"p\" is forbidden: {e}")));
        };
        check(json!({}), Ok(json!({}))).await;
        let full = json!({"runtimeClassName": "kata", "overhead": {"cpu": "250m"}, "nodeSelector": {"kata": "yes"},
            "tolerations": [{"key": "kata"}]});
        check(json!({"runtimeClassName": "kata"}), Ok(full.clone())).await;
        check(full.clone(), Ok(full)).await;
        check(json!({"runtimeClassName": "x"}), Err("pod rejected: RuntimeClass \"x\" not found")).await;
        check(
            json!({"overhead": {"cpu": "1"}}),
            Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"),
        )
        .await;
        check(
            json!({"runtimeClassName": "kata", "overhead": {"cpu": "1"}}),
            Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"),
        )
        .await;
        check(
            json!({"runtimeClassName": "kata", "nodeSelector": {"kata": "no"}}),
            Err("conflict: runtimeClass.scheduling.nodeSelector[kata] = yes; pod.spec.nodeSelector[kata] = no"),
        )
        .await;
    }
}
