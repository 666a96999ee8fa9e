//! `PodTolerationRestriction` (off unless asked for): which taints the pods of a namespace tolerate, and may tolerate.
//! Upstream: plugin/pkg/admission/podtolerationrestriction, 1.36.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::field::{FieldError, FieldPath};
use machinery::{Object, StatusError, StatusResult};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::settings::{ConfigError, typed};
use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The plugin.
pub struct PodTolerationRestriction {
    cluster: Arc<dyn ClusterView>,
    config: File,
}

/// For namespaces that say nothing themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    default: Vec<Toleration>,
    #[serde(default)]
    whitelist: Vec<Toleration>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Toleration {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    key: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    operator: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    value: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    effect: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    toleration_seconds: Option<i64>,
}

impl Toleration {
    /// Whether it tolerates all that another one does.
    fn covers(&self, other: &Self) -> bool {
        if self == other {
            return true;
        }
        if self.key != other.key && !(self.key.is_empty() && self.operator == "Exists") {
            return false;
        }
        if self.effect != other.effect && !self.effect.is_empty() {
            return false;
        }
        if self.effect == "NoExecute"
            && let Some(most) = self.toleration_seconds
            && other.toleration_seconds.is_none_or(|seconds| seconds > most)
        {
            return false;
        }
        match self.operator.as_str() {
            "Exists" => true,
            "Equal" | "" => other.operator == "Equal" && other.value == self.value,
            _ => false,
        }
    }

    fn problems(&self, path: &FieldPath) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if self.key.is_empty() && self.operator != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&path.child("operator"), self.operator.as_str(), why));
        }
        if self.toleration_seconds.is_some() && self.effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&path.child("effect"), self.effect.as_str(), why));
        }
        match self.operator.as_str() {
            "Exists" if !self.value.is_empty() => {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(&path.child("operator"), self.value.as_str(), why));
            }
            "Exists" | "Equal" | "" => {}
            other => {
                errors.push(FieldError::not_supported(&path.child("operator"), other, &["Equal", "Exists"]));
            }
        }
        if !self.effect.is_empty() && !EFFECTS.contains(&self.effect.as_str()) {
            errors.push(FieldError::not_supported(&path.child("effect"), self.effect.as_str(), &EFFECTS));
        }
        errors
    }
}

impl PodTolerationRestriction {
    /// Reads `Configuration` of `podtolerationrestriction.admission.k8s.io`.
    pub fn from_config(cluster: Arc<dyn ClusterView>, config: Option<&Value>) -> Result<Self, ConfigError> {
        let Some(config) = config else { return Ok(Self { cluster, config: File::default() }) };
        let versions = ["podtolerationrestriction.admission.k8s.io/v1alpha1"];
        let file: File = typed(config, "Configuration", &versions)?;
        let root = FieldPath::new("podtolerationrestriction");
        let mut errors = Vec::new();
        for (list, name) in [(&file.default, "default"), (&file.whitelist, "whitelist")] {
            let path = root.child(name);
            errors.extend(list.iter().enumerate().flat_map(|(i, t)| t.problems(&path.index(i))));
        }
        if errors.is_empty() {
            return Ok(Self { cluster, config: file });
        }
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Err(ConfigError(format!("invalid config: [{}]", all.join(", "))))
    }

    async fn namespace(&self, name: &str) -> StatusResult<Arc<Object>> {
        if let Some(namespace) = self.cluster.get(Resource::NAMESPACES, "", name) {
            return Ok(namespace);
        }
        let live = self.cluster.get_live(Resource::NAMESPACES, "", name).await?;
        live.ok_or_else(|| StatusError::internal(format!("namespace {name} does not exist")))
    }

    async fn check(&self, namespace: &str, pod: &Object) -> StatusResult<()> {
        let tolerations = of_pod(pod)?;
        if tolerations.is_empty() {
            return Ok(());
        }
        let own = annotated(&*self.namespace(namespace).await?, ALLOWED)?;
        let (allowed, whose) = match &own {
            Some(own) => (own, "namespace"),
            None => (&self.config.whitelist, "cluster"),
        };
        if allowed.is_empty() || tolerations.iter().all(|t| allowed.iter().any(|a| a.covers(t))) {
            return Ok(());
        }
        Err(StatusError::new(
            500,
            "",
            format!(
                "pod tolerations (possibly merged with namespace default tolerations) conflict with its {whose} \
                 whitelist"
            ),
        ))
    }
}

/// What an annotation of a namespace says; nothing where it is not there, which is not the same as an empty one.
fn annotated(namespace: &Object, key: &str) -> StatusResult<Option<Vec<Toleration>>> {
    match namespace.annotation(key) {
        None => Ok(None),
        Some("") => Ok(Some(Vec::new())),
        Some(text) => {
            serde_json::from_str(text).map(Some).map_err(|e| StatusError::new(500, "", e.to_string()))
        }
    }
}

fn of_pod(pod: &Object) -> StatusResult<Vec<Toleration>> {
    let list = pod.list_at(&["spec", "tolerations"]).iter();
    let read = list.map(|t| serde_json::from_value(t.clone()));
    read.collect::<Result<_, _>>().map_err(|e| StatusError::bad_request(e.to_string()))
}

/// Both, without those that others cover; of equal ones the first stays.
fn merged(first: Vec<Toleration>, second: Vec<Toleration>) -> Vec<Toleration> {
    let all: Vec<Toleration> = first.into_iter().chain(second).collect();
    let mut kept: Vec<Toleration> = Vec::new();
    for (i, toleration) in all.iter().enumerate() {
        let covered = kept.iter().any(|k| k.covers(toleration))
            || all[i + 1..].iter().any(|later| later != toleration && later.covers(toleration));
        if !covered {
            kept.push(toleration.clone());
        }
    }
    kept
}

#[async_trait]
impl Plugin for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        if !a.is("", "pods") {
            return Ok(());
        }
        let mut extra = Vec::new();
        if a.operation == Operation::Create {
            let own = annotated(&*self.namespace(a.namespace).await?, DEFAULTS)?;
            extra = own.unwrap_or_else(|| self.config.default.clone());
        }
        let namespace = a.namespace;
        let Some(pod) = a.object_mut() else { return Ok(()) };
        if !quota::is_best_effort(pod) {
            extra.push(Toleration {
                key: "node.kubernetes.io/memory-pressure".into(),
                operator: "Exists".into(),
                effect: "NoSchedule".into(),
                ..Toleration::default()
            });
        }
        if !extra.is_empty() {
            let all = merged(of_pod(pod)?, extra);
            let all = serde_json::to_value(all).map_err(StatusError::internal)?;
            pod.set(&["spec", "tolerations"], all);
        }
        self.check(namespace, pod).await
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        match a.object().filter(|_| a.is("", "pods")) {
            Some(pod) => self.check(a.namespace, pod).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Ask, FakeCluster};

    fn plugin(config: Value) -> Result<PodTolerationRestriction, ConfigError> {
        let namespace =
            |name: &str, annotations: Value| json!({"metadata": {"name": name, "annotations": annotations}});
        let cluster = FakeCluster::default()
            .with(Resource::NAMESPACES, namespace("plain", json!({})))
            .with(Resource::NAMESPACES, namespace("own", json!({
                DEFAULTS: r#"[{"key":"team","operator":"Equal","value":"own"}]"#,
                ALLOWED: r#"[{"key":"team","operator":"Exists"},{"key":"gone","operator":"Exists","effect":"NoExecute","tolerationSeconds":60}]"#})))
            .with(Resource::NAMESPACES, namespace("free", json!({DEFAULTS: "", ALLOWED: ""})))
            .with(Resource::NAMESPACES, namespace("broken", json!({DEFAULTS: "["})));
        let mut file = json!({"apiVersion": "podtolerationrestriction.admission.k8s.io/v1alpha1", "kind": "Configuration"});
        for (key, value) in config.as_object().unwrap() {
            file[key] = value.clone();
        }
        PodTolerationRestriction::from_config(Arc::new(cluster), Some(&file))
    }

    #[tokio::test]
    async fn namespaces_say_what_is_tolerated() {
        let plugin = plugin(json!({
            "default": [{"key": "shared", "operator": "Exists"}],
            "whitelist": [{"key": "shared", "operator": "Exists"}, {"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]
        }))
        .unwrap();
        let shared = json!({"key": "shared", "operator": "Exists"});
        let team = json!({"key": "team", "operator": "Equal", "value": "own"});
        let pressure = json!({"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"});
        let gone = |seconds: i64| json!({"key": "gone", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let narrow = json!({"key": "shared", "operator": "Equal", "value": "x", "effect": "NoSchedule"});
        let outside = |whose: &str| {
            Err(format!(
                "pod tolerations (possibly merged with namespace default tolerations) conflict with its {whose} whitelist"
            ))
        };
        for (operation, namespace, cpu, given, want) in [
            (Operation::Create, "plain", "0", json!([]), Ok(json!([shared]))),
            (Operation::Create, "plain", "1", json!([]), Ok(json!([shared, pressure]))),
            (Operation::Update, "plain", "0", json!([]), Ok(json!([]))),
            (Operation::Create, "plain", "0", json!([narrow]), Ok(json!([shared]))),
            (Operation::Create, "plain", "0", json!([team]), outside("cluster")),
            (Operation::Create, "own", "0", json!([]), Ok(json!([team]))),
            (Operation::Create, "own", "0", json!([gone(30)]), Ok(json!([gone(30), team]))),
            (Operation::Create, "own", "0", json!([gone(90)]), outside("namespace")),
            (Operation::Create, "own", "1", json!([]), outside("namespace")),
            (Operation::Update, "own", "0", json!([shared]), outside("namespace")),
            (Operation::Create, "free", "0", json!([team]), Ok(json!([team]))),
            (
                Operation::Create,
                "broken",
                "0",
                json!([]),
                Err("EOF while parsing a list at line 1 column 1".into()),
            ),
        ] {
            let pod = json!({"metadata": {"name": "p", "namespace": namespace}, "spec": {"tolerations": given,
                "containers": [{"resources": {"requests": {"cpu": cpu}}}]}});
            let got = Ask { operation, ..Ask::create_pod(pod) }.run(&plugin).await;
            let got = got.map(|pod| json!(pod.list_at(&["spec", "tolerations"])));
            assert_eq!(got, want, "{namespace} {given}");
        }
    }

    #[test]
    fn one_toleration_covers_another() {
        let read = |value: Value| serde_json::from_value::<Toleration>(value).unwrap();
        for (one, other, covers) in [
            (json!({"operator": "Exists"}), json!({"key": "a", "operator": "Equal", "value": "b"}), true),
            (json!({"key": "a", "operator": "Exists"}), json!({"key": "b", "operator": "Exists"}), false),
            (
                json!({"key": "a", "operator": "Exists", "effect": "NoSchedule"}),
                json!({"key": "a", "operator": "Exists"}),
                false,
            ),
            (
                json!({"key": "a", "operator": "Equal", "value": "b"}),
                json!({"key": "a", "operator": "Equal", "value": "c"}),
                false,
            ),
            (json!({"key": "a", "value": "b"}), json!({"key": "a", "operator": "Equal", "value": "b"}), true),
            (json!({"key": "a", "operator": "Equal"}), json!({"key": "a", "operator": "Exists"}), false),
        ] {
            assert_eq!(read(one.clone()).covers(&read(other.clone())), covers, "{one} {other}");
        }
    }

    #[test]
    fn a_configuration_is_checked() {
        let why = plugin(
            json!({"default": [{"value": "x"}], "whitelist": [{"key": "a", "operator": "Is", "effect": "No"}]}),
        );
        let why = why.err().unwrap().0;
        for want in [
            "invalid config: [podtolerationrestriction.default[0].operator: Invalid value: \"\": operator must be Exists",
            "podtolerationrestriction.whitelist[0].operator: Unsupported value: \"Is\"",
            "podtolerationrestriction.whitelist[0].effect: Unsupported value: \"No\"",
        ] {
            assert!(why.contains(want), "{why}");
        }
        assert!(plugin(json!({"deny": []})).is_err());
    }
}
