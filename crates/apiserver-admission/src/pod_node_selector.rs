//! `PodNodeSelector` (off unless asked for): which nodes the pods of a namespace may run on. Upstream:
//! plugin/pkg/admission/podnodeselector, 1.36.
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use machinery::gvk::GroupResource;
use machinery::{Object, StatusError, StatusResult, names};
use serde_json::Value;

use crate::settings::ConfigError;
use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
const DEFAULT: &str = "clusterDefaultNodeSelector";

type Labels = BTreeMap<String, String>;

/// The plugin.
pub struct PodNodeSelector {
    cluster: Arc<dyn ClusterView>,
    /// By namespace, what its pods may ask for; under one more name, what holds where a namespace says nothing.
    selectors: BTreeMap<String, String>,
}

impl PodNodeSelector {
    /// Reads `podNodeSelectorPluginConfig`, which has no kind and no version.
    pub fn from_config(cluster: Arc<dyn ClusterView>, config: Option<&Value>) -> Result<Self, ConfigError> {
        let fields = config.and_then(Value::as_object).into_iter().flatten();
        let ours = fields.filter(|(key, _)| key.eq_ignore_ascii_case("podNodeSelectorPluginConfig"));
        let mut selectors = BTreeMap::new();
        for (_, value) in ours.filter(|(_, value)| !value.is_null()) {
            let given: BTreeMap<String, Option<String>> = serde_json::from_value(value.clone())
                .map_err(|e| ConfigError(format!("podNodeSelectorPluginConfig: {e}")))?;
            selectors.extend(given.into_iter().map(|(name, labels)| (name, labels.unwrap_or_default())));
        }
        Ok(Self { cluster, selectors })
    }

    fn configured(&self, name: &str) -> StatusResult<Labels> {
        labels(self.selectors.get(name).map_or("", String::as_str))
    }

    /// What all pods of a namespace ask for.
    async fn of_namespace(&self, name: &str) -> StatusResult<Labels> {
        let namespace = match self.cluster.get(Resource::NAMESPACES, "", name) {
            Some(namespace) => Some(namespace),
            None => self.cluster.get_live(Resource::NAMESPACES, "", name).await?,
        };
        let Some(namespace) = namespace else {
            return Err(StatusError::internal(format!("namespace {name} does not exist")));
        };
        match namespace.annotation(ANNOTATION) {
            Some(text) => labels(text),
            None => self.configured(DEFAULT),
        }
    }

    async fn check(&self, a: &Attributes<'_>, pod: &Object) -> StatusResult<()> {
        let own = selector_of(pod);
        if conflict(&self.of_namespace(a.namespace).await?, &own) {
            return Err(refused(
                pod,
                "pod node label selector conflicts with its namespace node label selector",
            ));
        }
        let allowed = self.configured(a.namespace)?;
        if !allowed.is_empty() && own.iter().any(|(key, value)| allowed.get(key) != Some(value)) {
            return Err(refused(pod, "pod node label selector labels conflict with its namespace whitelist"));
        }
        Ok(())
    }
}

fn refused(pod: &Object, why: &str) -> StatusError {
    StatusError::forbidden(&GroupResource::new("", "pods"), pod.name(), why)
}

fn selector_of(pod: &Object) -> Labels {
    let pairs = pod.strings_at(&["spec", "nodeSelector"]);
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Whether two want different values of one label.
fn conflict(one: &Labels, other: &Labels) -> bool {
    one.iter().any(|(key, value)| other.get(key).is_some_and(|o| o != value))
}

/// Labels as `a=b,c=d`.
fn labels(text: &str) -> StatusResult<Labels> {
    let unusable = |why: String| StatusError::new(500, "", why);
    let mut out = Labels::new();
    if text.is_empty() {
        return Ok(out);
    }
    for part in text.split(',') {
        let sides: Vec<&str> = part.split('=').collect();
        let [key, value] = sides[..] else {
            return Err(unusable(format!("invalid selector: [{}]", sides.join(" "))));
        };
        let (key, value) = (key.trim(), value.trim());
        let problems = [names::qualified_name(key), names::label_value(value)].concat();
        if !problems.is_empty() {
            return Err(unusable(format!("invalid selector: {part}: {}", problems.join("; "))));
        }
        out.insert(key.to_owned(), value.to_owned());
    }
    Ok(out)
}

#[async_trait]
impl Plugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        if !a.is("", "pods") {
            return Ok(());
        }
        let wanted = self.of_namespace(a.namespace).await?;
        let Some(pod) = a.object_mut() else { return Ok(()) };
        if conflict(&wanted, &selector_of(pod)) {
            return Err(refused(
                pod,
                "pod node label selector conflicts with its namespace node label selector",
            ));
        }
        for (key, value) in wanted {
            pod.set(&["spec", "nodeSelector", &key], value);
        }
        match a.object() {
            Some(pod) => self.check(a, pod).await,
            None => Ok(()),
        }
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        match a.object().filter(|_| a.is("", "pods")) {
            Some(pod) => self.check(a, pod).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Ask, FakeCluster};

    fn plugin(config: Value) -> PodNodeSelector {
        let namespace =
            |name: &str, annotations: Value| json!({"metadata": {"name": name, "annotations": annotations}});
        let cluster = FakeCluster::default()
            .with(Resource::NAMESPACES, namespace("plain", json!({})))
            .with(Resource::NAMESPACES, namespace("held", json!({})))
            .with(Resource::NAMESPACES, namespace("infra", json!({ANNOTATION: "infra=true, zone=a"})))
            .with(Resource::NAMESPACES, namespace("free", json!({ANNOTATION: ""})))
            .with(Resource::NAMESPACES, namespace("broken", json!({ANNOTATION: "a=b=c"})))
            .with_live(Resource::NAMESPACES, namespace("new", json!({ANNOTATION: "infra=true"})));
        PodNodeSelector::from_config(Arc::new(cluster), Some(&config)).unwrap()
    }

    #[tokio::test]
    async fn pods_run_where_their_namespace_says() {
        let plugin = plugin(
            json!({"podNodeSelectorPluginConfig": {DEFAULT: "env=test", "held": "env=test,disk=ssd"}}),
        );
        let conflicts = "pods \"p\" is forbidden: pod node label selector conflicts with its namespace node label selector";
        let outside =
            "pods \"p\" is forbidden: pod node label selector labels conflict with its namespace whitelist";
        for (namespace, asks, want) in [
            ("plain", json!({}), Ok(json!({"env": "test"}))),
            ("plain", json!({"disk": "ssd"}), Ok(json!({"env": "test", "disk": "ssd"}))),
            ("plain", json!({"env": "test"}), Ok(json!({"env": "test"}))),
            ("plain", json!({"env": "live"}), Err(conflicts)),
            ("infra", json!({"disk": "ssd"}), Ok(json!({"disk": "ssd", "infra": "true", "zone": "a"}))),
            ("infra", json!({"zone": "b"}), Err(conflicts)),
            ("new", json!({}), Ok(json!({"infra": "true"}))),
            ("free", json!({"x": "y"}), Ok(json!({"x": "y"}))),
            ("held", json!({"disk": "ssd"}), Ok(json!({"disk": "ssd", "env": "test"}))),
            ("held", json!({"disk": "hdd"}), Err(outside)),
            ("held", json!({"gpu": "yes"}), Err(outside)),
            ("broken", json!({}), Err("invalid selector: [a b c]")),
            ("none", json!({}), Err("Internal error occurred: namespace none does not exist")),
        ] {
            let pod =
                json!({"metadata": {"name": "p", "namespace": namespace}, "spec": {"nodeSelector": asks}});
            let got = Ask::create_pod(pod).run(&plugin).await;
            let got = got.map(|pod| pod.at(&["spec", "nodeSelector"]).cloned().unwrap_or_default());
            assert_eq!(got, want.map_err(str::to_owned), "{namespace} {asks}");
        }
    }

    #[test]
    fn the_configuration_needs_no_version() {
        let cluster = || Arc::new(FakeCluster::default());
        assert!(PodNodeSelector::from_config(cluster(), None).unwrap().selectors.is_empty());
        let config = json!({"PodNodeSelectorPluginConfig": {"a": "b=c"}, "other": 1});
        assert_eq!(PodNodeSelector::from_config(cluster(), Some(&config)).unwrap().selectors["a"], "b=c");
        let wrong = json!({"podNodeSelectorPluginConfig": ["a"]});
        assert!(PodNodeSelector::from_config(cluster(), Some(&wrong)).is_err());
    }
}
