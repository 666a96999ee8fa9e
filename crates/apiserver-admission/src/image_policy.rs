//! `ImagePolicyWebhook` (off unless asked for): another server says which images may run. Upstream:
//! plugin/pkg/admission/imagepolicy, 1.36.
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base::Lru;
use machinery::{Object, StatusError, StatusResult};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::settings::ConfigError;
use crate::{Attributes, FindReviewer, ImageReviewer, Operation, Plugin};

mod settings;
#[cfg(test)]
mod tests;

use settings::Options;

/// How often a question is asked before it counts as failed; each pause is half as long again.
const TRIES: u32 = 5;
/// Answers that are kept.
const KEPT: usize = 1024;
/// Begins the names of what the audit trail is told.
const AUDIT: &str = "imagepolicywebhook.image-policy.k8s.io/";
/// Tells on a pod that nobody could be asked.
const FAILED_OPEN: &str = "alpha.image-policy.k8s.io/failed-open";

/// The plugin.
pub struct ImagePolicyWebhook {
    server: Arc<dyn ImageReviewer>,
    options: Options,
    kept: Mutex<Lru<String, (Instant, Status)>>,
}

/// What the server said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    allowed: bool,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    audit_annotations: Option<std::collections::BTreeMap<String, String>>,
}

impl ImagePolicyWebhook {
    /// Reads `imagePolicy`, which has no kind and no version.
    pub fn from_config(find: &FindReviewer, config: Option<&Value>) -> Result<Self, ConfigError> {
        let Some(config) = config else { return Err(ConfigError("no config specified".into())) };
        let (kubeconfig, options) = settings::read(config)?;
        let server =
            find(Path::new(&kubeconfig)).map_err(|why| ConfigError(format!("{kubeconfig}: {why}")))?;
        Ok(Self { server, options, kept: Mutex::new(Lru::new(KEPT)) })
    }

    fn remembered(&self, question: &str) -> Option<Status> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, status) = kept.get_mut(question)?;
        if Instant::now() < *until {
            return Some(status.clone());
        }
        kept.remove(question);
        None
    }

    fn remember(&self, question: String, status: &Status) {
        let ttl = if status.allowed { self.options.allow_ttl } else { self.options.deny_ttl };
        if !ttl.is_zero() {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.insert(question, (Instant::now() + ttl, status.clone()));
        }
    }

    async fn ask(&self, spec: &Value) -> Result<Status, String> {
        let question = json!({
            "kind": "ImageReview",
            "apiVersion": "imagepolicy.k8s.io/v1alpha1",
            "metadata": {},
            "spec": spec,
            "status": {"allowed": false},
        });
        let question = question.to_string();
        let mut pause: Duration = self.options.retry_backoff;
        let mut tries = 1;
        let body = loop {
            let failed = match self.server.review(question.as_bytes()).await {
                Ok(body) => break body,
                Err(failed) => failed,
            };
            if !failed.again || tries == TRIES {
                return Err(failed.why);
            }
            tokio::time::sleep(pause).await;
            pause = pause * 3 / 2;
            tries += 1;
        };
        read(&body)
    }
}

fn read(body: &[u8]) -> Result<Status, String> {
    let answer: Value = serde_json::from_slice(body).map_err(|e| format!("the answer is not JSON: {e}"))?;
    let (kind, version) = (answer["kind"].as_str(), answer["apiVersion"].as_str());
    if (kind, version) != (Some("ImageReview"), Some("imagepolicy.k8s.io/v1alpha1")) {
        return Err(format!(
            "the answer is no ImageReview of imagepolicy.k8s.io/v1alpha1: {kind:?} {version:?}"
        ));
    }
    serde_json::from_value(answer["status"].clone()).map_err(|e| format!("the answer's status: {e}"))
}

/// The `spec` of a question: images in order, and what the pod tells image policies.
fn spec(pod: &Object, lists: &[&str], namespace: &str) -> Value {
    let containers = lists.iter().flat_map(|list| pod.list_at(&["spec", list]));
    let images: Vec<Value> = containers
        .map(|c| match c.get("image").and_then(Value::as_str).unwrap_or("") {
            "" => json!({}),
            image => json!({"image": image}),
        })
        .collect();
    let told = pod.strings_at(&["metadata", "annotations"]);
    let told: Map<String, Value> = told
        .filter(|(key, _)| key.contains(".image-policy.k8s.io/"))
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    let mut spec = json!({"namespace": namespace});
    if !images.is_empty() {
        spec["containers"] = images.into();
    }
    if !told.is_empty() {
        spec["annotations"] = told.into();
    }
    spec
}

#[async_trait]
impl Plugin for ImagePolicyWebhook {
    fn name(&self) -> &'static str {
        "ImagePolicyWebhook"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn conclude(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        let lists: &[&str] = if a.is("", "pods") {
            &["containers", "initContainers"]
        } else if a.is_sub("", "pods", "ephemeralcontainers") {
            &["ephemeralContainers"]
        } else {
            return Ok(());
        };
        let Some(pod) = a.object() else { return Ok(()) };
        let spec = spec(pod, lists, a.namespace);
        let key = spec.to_string();
        let status = match self.remembered(&key) {
            Some(status) => status,
            None => match self.ask(&spec).await {
                Ok(status) => {
                    self.remember(key, &status);
                    status
                }
                Err(error) if self.options.default_allow => {
                    tracing::warn!(error, "the image policy webhook was asked in vain, the pod is let in");
                    a.annotations.push((format!("{AUDIT}failed-open").into(), "true".into()));
                    if let Some(pod) = a.object_mut() {
                        pod.set(&["metadata", "annotations", FAILED_OPEN], "true");
                    }
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(error, "the image policy webhook was asked in vain, the pod is refused");
                    return Err(refused(a, &error));
                }
            },
        };
        let told = status.audit_annotations.into_iter().flatten();
        a.annotations.extend(told.map(|(key, value)| (format!("{AUDIT}{key}").into(), value)));
        match (status.allowed, status.reason.filter(|reason| !reason.is_empty())) {
            (true, _) => Ok(()),
            (false, Some(reason)) => {
                Err(refused(a, &format!("image policy webhook backend denied one or more images: {reason}")))
            }
            (false, None) => Err(refused(a, "one or more images rejected by webhook backend")),
        }
    }
}

fn refused(a: &Attributes<'_>, why: &str) -> StatusError {
    a.forbidden(why)
}
