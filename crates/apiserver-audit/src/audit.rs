//! From the facts of a request to the events about it. Upstream: apiserver/pkg/endpoints/filters/audit.go and
//! apiserver/pkg/audit/request.go, 1.36.
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use machinery::request::{RequestInfo, UserInfo};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::event::{Event, Level, ObjectReference, Stage, User};
use crate::policy::{Policy, PolicyError, Verdict};
use crate::sink::{Encoded, LogConfig, Sink, WebhookConfig};
use crate::webhook::Webhook;

/// Characters of a `User-Agent` that are recorded.
const USER_AGENT: usize = 1024;
/// Characters of an `Audit-ID` that a client brings.
const AUDIT_ID: usize = 64;

/// `--audit-*`.
#[derive(Debug, Clone)]
pub struct Config {
    /// `--audit-policy-file`.
    pub policy: PathBuf,
    /// `--audit-log-*`.
    pub log: Option<LogConfig>,
    /// `--audit-webhook-*`.
    pub webhook: Option<WebhookConfig>,
}

/// Why audit cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The policy cannot be read.
    #[error("loading audit policy file: failed to read file path {path:?}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is none.
    #[error("loading audit policy file: {source}: from file {}", path.display())]
    Policy {
        /// The file.
        path: PathBuf,
        /// Why.
        source: PolicyError,
    },
    /// The log cannot be opened.
    #[error("ensureLogFile: cannot open audit log {path:?}: {source}")]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The webhook's file cannot be used.
    #[error("initializing audit webhook: {path:?}: {why}")]
    Webhook {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Records what is asked of the server.
pub struct Audit {
    policy: Policy,
    sinks: Vec<Sink>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What is known of a request once it is known who asks, or that nobody does.
#[derive(Debug)]
pub struct Begin<'a> {
    /// Path and query, as they came.
    pub uri: &'a str,
    /// What is asked.
    pub request: &'a RequestInfo,
    /// Who asks; nobody where authentication failed.
    pub user: Option<&'a UserInfo>,
    /// Where from, nearest last.
    pub source_ips: Vec<String>,
    /// `User-Agent`.
    pub user_agent: &'a str,
    /// `Audit-ID`, where the client brings one.
    pub audit_id: Option<&'a str>,
    /// When it was received.
    pub received: Timestamp,
}

/// One request that is recorded.
pub struct Record {
    audit: Arc<Audit>,
    verdict: Verdict,
    event: Event,
}

fn cut(text: &str, at: usize, mark: &str) -> String {
    match text.char_indices().nth(at) {
        Some((end, _)) => format!("{}{mark}", &text[..end]),
        None => text.to_owned(),
    }
}

impl Audit {
    /// Reads the policy and opens what events go to. Without a log and a webhook nothing is recorded.
    pub async fn start(config: &Config) -> Result<Option<Arc<Self>>, AuditError> {
        let path = || config.policy.clone();
        let text = tokio::fs::read(&config.policy)
            .await
            .map_err(|source| AuditError::Read { path: path(), source })?;
        let policy = Policy::parse(&text).map_err(|source| AuditError::Policy { path: path(), source })?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut sinks = Vec::new();
        if let Some(log) = &config.log {
            let unusable = |source| AuditError::Log { path: log.path.clone(), source };
            sinks.push(Sink::log(log, &stop, &tasks).map_err(unusable)?);
        }
        if let Some(webhook) = &config.webhook {
            let unusable = |why| AuditError::Webhook { path: webhook.kubeconfig.clone(), why };
            let client = Webhook::new(&webhook.kubeconfig, webhook.backoff).await.map_err(unusable)?;
            sinks.push(Sink::webhook(client, webhook, &stop, &tasks));
        }
        tasks.close();
        Ok((!sinks.is_empty()).then(|| Arc::new(Self { policy, sinks, stop, tasks })))
    }

    /// Ends recording, after the last request; returns when what is queued has gone.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    /// The record of a request; `None`: the policy wants none.
    pub fn begin(self: &Arc<Self>, begin: Begin<'_>) -> Option<Record> {
        let verdict = self.policy.verdict(begin.user, begin.request);
        if verdict.level == Level::None {
            return None;
        }
        let request = begin.request;
        let object_ref = request.is_resource.then(|| ObjectReference {
            resource: request.resource.clone(),
            namespace: request.namespace.clone(),
            name: request.name.clone(),
            api_group: request.api_group.clone(),
            api_version: request.api_version.clone(),
            subresource: request.subresource.clone(),
            ..ObjectReference::default()
        });
        let audit_id = match begin.audit_id.filter(|id| !id.is_empty()) {
            Some(id) => cut(id, AUDIT_ID, ""),
            None => uuid::Uuid::new_v4().to_string(),
        };
        let nobody = UserInfo::default();
        let event = Event {
            level: verdict.level,
            audit_id,
            stage: Stage::RequestReceived,
            request_uri: begin.uri.to_owned(),
            verb: request.verb.clone(),
            user: User::from(begin.user.unwrap_or(&nobody)),
            impersonated_user: None,
            source_ips: begin.source_ips,
            user_agent: cut(begin.user_agent, USER_AGENT, "...TRUNCATED"),
            object_ref,
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: begin.received,
            stage_timestamp: begin.received,
            annotations: BTreeMap::new(),
        };
        Some(Record { audit: self.clone(), verdict, event })
    }
}

/// The metadata that name an object; everything else is skipped over.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    metadata: HeadMetadata,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct HeadMetadata {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
}

impl Record {
    /// The id that events of this request share.
    pub fn id(&self) -> &str {
        &self.event.audit_id
    }

    /// How much is recorded.
    pub fn level(&self) -> Level {
        self.verdict.level
    }

    /// Whether the body of a request is wanted: at any level its metadata complete the reference.
    pub fn wants_request(&self) -> bool {
        self.verdict.level >= Level::Request || self.event.verb == "create"
    }

    /// Whether the body of an answer is wanted.
    pub fn wants_response(&self) -> bool {
        self.verdict.level >= Level::RequestResponse
    }

    /// Whom the user acts as.
    pub fn impersonated(&mut self, user: &UserInfo) {
        self.event.impersonated_user = Some(User::from(user));
    }

    /// A fact that a filter or a handler adds.
    pub fn annotate(&mut self, key: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        self.event.annotations.insert(key.into(), value.into());
    }

    /// What was sent, as JSON.
    pub fn request_object(&mut self, json: &[u8]) {
        if let (Some(reference), Ok(Head { metadata })) =
            (&mut self.event.object_ref, serde_json::from_slice::<Head>(json))
        {
            let fill = |field: &mut String, value: String| {
                if field.is_empty() {
                    *field = value;
                }
            };
            fill(&mut reference.name, metadata.name);
            fill(&mut reference.namespace, metadata.namespace);
            fill(&mut reference.uid, metadata.uid);
            fill(&mut reference.resource_version, metadata.resource_version);
        }
        if self.verdict.level >= Level::Request {
            self.event.request_object = self.object(json);
        }
    }

    /// What was answered, as JSON.
    pub fn response_object(&mut self, json: &[u8]) {
        if self.wants_response() {
            self.event.response_object = self.object(json);
        }
    }

    fn object(&self, json: &[u8]) -> Option<Box<RawValue>> {
        if !self.verdict.omit_managed_fields {
            return serde_json::from_slice(json).ok();
        }
        let mut value: Value = serde_json::from_slice(json).ok()?;
        without_managed_fields(&mut value);
        serde_json::value::to_raw_value(&value).ok()
    }

    /// How it was answered.
    pub fn response_status(&mut self, status: Status) {
        self.event.response_status = Some(status);
    }

    /// Writes the event of a stage, if the policy wants it. `false`: the request must not go on, since it is only
    /// served when it is recorded.
    pub async fn stage(&mut self, stage: Stage) -> bool {
        if !self.verdict.records(stage) {
            return true;
        }
        self.event.stage = stage;
        self.event.stage_timestamp = match stage {
            Stage::RequestReceived => self.event.request_received_timestamp,
            _ => Timestamp::now(),
        };
        let audit = self.audit.clone();
        let ready = self.ready(&audit);
        let mut served = true;
        for (sink, bytes) in audit.sinks.iter().zip(ready) {
            let taken = match bytes {
                Some(bytes) => sink.take(bytes).await,
                None => false,
            };
            served &= taken || !sink.is_strict() || stage != Stage::RequestReceived;
        }
        served
    }

    /// What each sink gets; nothing of this is held while a sink is waited for.
    fn ready(&mut self, audit: &Audit) -> Vec<Option<Arc<[u8]>>> {
        let mut encoded = Encoded::new(&mut self.event);
        audit.sinks.iter().map(|sink| sink.prepare(&mut encoded)).collect()
    }

    /// Writes the last event of a request that lasts, when nobody is there to wait for it.
    pub fn end(mut self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { self.stage(Stage::ResponseComplete).await });
        }
    }
}

fn without_managed_fields(value: &mut Value) {
    let forget = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    forget(value);
    for list in ["items", "rows"] {
        for item in value.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            forget(item);
            if let Some(object) = item.get_mut("object") {
                forget(object);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn managed_fields_are_left_out_everywhere() {
        let managed = json!({ "metadata": { "name": "a", "managedFields": [1] } });
        let plain = json!({ "metadata": { "name": "a" } });
        let mut value = json!({
            "metadata": { "managedFields": [] },
            "items": [managed],
            "rows": [{ "object": managed }],
            "spec": managed,
        });
        without_managed_fields(&mut value);
        let want =
            json!({ "metadata": {}, "items": [plain], "rows": [{ "object": plain }], "spec": managed });
        assert_eq!(value, want);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("äöü", 2, "..."), "äö...");
        assert_eq!(cut("äöü", 3, "..."), "äöü");
    }
}
