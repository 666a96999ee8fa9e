//! `Priority`: a pod's priority is that of its PriorityClass, and there is at most one default class.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::{Object, StatusResult};

use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

/// The plugin.
pub struct Priority(pub Arc<dyn ClusterView>);

/// The classes every cluster has.
pub fn system_classes() -> Vec<Object> {
    let class = |name: &str, value: i64, description: &str| {
        let mut object = Object::default();
        object.set_type("scheduling.k8s.io/v1", "PriorityClass");
        object.set(&["metadata", "name"], name);
        object.set(&["value"], value);
        object.set(&["description"], description);
        object
    };
    vec![
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
}

impl Priority {
    /// The class of pods that name none: of several defaults the lowest.
    fn default_class(&self) -> Option<Arc<Object>> {
        let classes = self.0.list(Resource::PRIORITY_CLASSES, "");
        classes
            .into_iter()
            .filter(|c| c.bool_at(&["globalDefault"]) == Some(true))
            .min_by_key(|c| c.i64_at(&["value"]).unwrap_or(0))
    }

    async fn admit_pod(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        if a.operation == Operation::Update {
            // A client that does not know the fields must not clear them.
            let old = a.old;
            if let (Some(pod), Some(old)) = (a.object_mut(), old) {
                for field in ["priority", "preemptionPolicy"] {
                    if pod.at(&["spec", field]).is_none() && old.at(&["spec", field]).is_some() {
                        pod.copy_from(old, &["spec", field]);
                    }
                }
            }
            return Ok(());
        }
        let Some(pod) = a.object() else { return Ok(()) };
        let name = pod.str_at(&["spec", "priorityClassName"]).to_owned();
        let class = if name.is_empty() {
            self.default_class()
        } else {
            let cached = self.0.get(Resource::PRIORITY_CLASSES, "", &name);
            let found = match cached {
                Some(class) => Some(class),
                None => self.0.get_live(Resource::PRIORITY_CLASSES, "", &name).await?,
            };
            if found.is_none() {
                return Err(a.forbidden(format!("no PriorityClass with name {name} was found")));
            }
            found
        };
        let computed = class.as_ref().and_then(|c| c.i64_at(&["value"])).unwrap_or(0);
        if let Some(given) = pod.i64_at(&["spec", "priority"])
            && given != computed
        {
            return Err(a.forbidden(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
                 computed {computed} from the given PriorityClass name"
            )));
        }
        // A class that says nothing preempts, as pods without a class do.
        let policy = match class.as_ref().map(|c| c.str_at(&["preemptionPolicy"])) {
            None | Some("") => "PreemptLowerPriority".to_owned(),
            Some(policy) => policy.to_owned(),
        };
        let given = pod.str_at(&["spec", "preemptionPolicy"]);
        if !given.is_empty() && given != policy {
            return Err(a.forbidden(format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
                 controller computed {policy} from the given PriorityClass name"
            )));
        }
        let Some(pod) = a.object_mut() else { return Ok(()) };
        if let (true, Some(class)) = (name.is_empty(), &class) {
            pod.set(&["spec", "priorityClassName"], class.name());
        }
        pod.set(&["spec", "priority"], computed);
        pod.set(&["spec", "preemptionPolicy"], policy);
        Ok(())
    }
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        if a.is("", "pods") { self.admit_pod(a).await } else { Ok(()) }
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        let Some(class) = a.object().filter(|_| a.is("scheduling.k8s.io", "priorityclasses")) else {
            return Ok(());
        };
        if class.bool_at(&["globalDefault"]) != Some(true) {
            return Ok(());
        }
        match self.default_class() {
            Some(other) if a.operation == Operation::Create || other.name() != class.name() => Err(a
                .forbidden(format!(
                    "PriorityClass {} is already marked as default. Only one default can exist",
                    other.name()
                ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Ask, FakeCluster, object};

    fn plugin(with_default: bool) -> Priority {
        let mut cluster = FakeCluster::default()
            .with(
                Resource::PRIORITY_CLASSES,
                json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"}),
            )
            .with(Resource::PRIORITY_CLASSES, system_classes()[0].clone().into_value());
        if with_default {
            let class = json!({"metadata": {"name": "usual"}, "value": 10, "globalDefault": true});
            cluster = cluster.with(Resource::PRIORITY_CLASSES, class);
        }
        Priority(Arc::new(cluster))
    }

    #[tokio::test]
    async fn the_class_decides() {
        let check = async |with_default: bool, spec: Value, want: Result<Value, &str>| {
            let ask = Ask::create_pod(json!({"metadata": {"name": "p", "namespace": "a"}, "spec": spec}));
            let got = ask.run(&plugin(with_default)).await.map(|pod| pod.at(&["spec"]).cloned().unwrap());
            assert_eq!(got, want.map_err(|e| format!("pods \"p\" is forbidden: {e}")));
        };
        check(false, json!({}), Ok(json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}))).await;
        let usual =
            json!({"priority": 10, "preemptionPolicy": "PreemptLowerPriority", "priorityClassName": "usual"});
        check(true, json!({}), Ok(usual)).await;
        let high = json!({"priority": 1000, "preemptionPolicy": "Never", "priorityClassName": "high"});
        check(true, json!({"priorityClassName": "high"}), Ok(high)).await;
        let critical = json!({"priority": 2_000_001_000, "preemptionPolicy": "PreemptLowerPriority", "priorityClassName": "system-node-critical"});
        check(true, json!({"priorityClassName": "system-node-critical"}), Ok(critical)).await;
        check(false, json!({"priorityClassName": "x"}), Err("no PriorityClass with name x was found")).await;
        check(
            false,
            json!({"priorityClassName": "high", "priority": 7}),
            Err("the integer value of priority (7) must not be provided in pod spec; priority admission controller \
                computed 1000 from the given PriorityClass name"),
        )
        .await;
        check(
            false,
            json!({"preemptionPolicy": "Never"}),
            Err("the string value of PreemptionPolicy (Never) must not be provided in pod spec; priority admission \
                controller computed PreemptLowerPriority from the given PriorityClass name"),
        )
        .await;
    }

    #[tokio::test]
    async fn an_update_that_forgets_the_priority_keeps_it() {
        let pod = |spec: Value| object(json!({"metadata": {"name": "p", "namespace": "a"}, "spec": spec}));
        let ask = Ask {
            operation: Operation::Update,
            object: Some(pod(json!({}))),
            old: Some(pod(json!({"priority": 5}))),
            ..Ask::create_pod(json!({}))
        };
        assert_eq!(ask.run(&plugin(false)).await.unwrap().at(&["spec"]), Some(&json!({"priority": 5})));
    }

    #[tokio::test]
    async fn only_one_default() {
        let check = async |operation: Operation, name: &str, want: Result<(), &str>| {
            let class = object(json!({"metadata": {"name": name}, "globalDefault": true}));
            let ask = Ask {
                object: Some(class),
                ..Ask::new(operation, ("scheduling.k8s.io", "priorityclasses"), "PriorityClass")
            };
            assert_eq!(ask.run(&plugin(true)).await.map(drop), want.map_err(str::to_owned));
        };
        let refused = "priorityclasses.scheduling.k8s.io \"new\" is forbidden: PriorityClass usual is already marked as \
                       default. Only one default can exist";
        check(Operation::Create, "new", Err(refused)).await;
        check(Operation::Update, "usual", Ok(())).await;
    }
}
