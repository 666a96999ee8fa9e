//! An event as it is written. Upstream: apiserver/pkg/apis/audit/v1/types.go, 1.36.
use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use machinery::request::UserInfo;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// How much is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Nothing.
    None,
    /// Who asked for what, and how it was answered.
    Metadata,
    /// And what was sent.
    Request,
    /// And what was answered.
    RequestResponse,
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// It was received, before a handler saw it.
    RequestReceived,
    /// The answer begins; for requests that last.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// The handler panicked.
    Panic,
}

impl Stage {
    /// One bit for each.
    pub(crate) fn bit(self) -> u8 {
        1 << self as u8
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct User {
    #[serde(skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<String, Vec<String>>,
}

impl From<&UserInfo> for User {
    fn from(user: &UserInfo) -> Self {
        Self {
            username: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
        }
    }
}

/// What a request is about.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectReference {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) subresource: String,
}

/// One event; type and version are put before it where it is written.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event {
    pub(crate) level: Level,
    #[serde(rename = "auditID")]
    pub(crate) audit_id: String,
    pub(crate) stage: Stage,
    #[serde(rename = "requestURI")]
    pub(crate) request_uri: String,
    pub(crate) verb: String,
    pub(crate) user: User,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) impersonated_user: Option<User>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub(crate) source_ips: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) object_ref: Option<ObjectReference>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "status")]
    pub(crate) response_status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_object: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_object: Option<Box<RawValue>>,
    #[serde(serialize_with = "micros")]
    pub(crate) request_received_timestamp: Timestamp,
    #[serde(serialize_with = "micros")]
    pub(crate) stage_timestamp: Timestamp,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<Cow<'static, str>, String>,
}

/// Six digits after the point, as `metav1.MicroTime` prints.
fn micros<S: serde::Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ"))
}

/// As Go writes it inside an event: its metadata are there even when they are empty, its type is not.
fn status<S: serde::Serializer>(status: &Option<Status>, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Empty {}
    #[derive(Serialize)]
    struct Inner<'a> {
        metadata: Empty,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: &'a Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: &'a Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: &'a Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        details: &'a Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusDetails>,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: &'a Option<i32>,
    }
    let Some(s) = status else { return to.serialize_none() };
    Inner {
        metadata: Empty {},
        status: &s.status,
        message: &s.message,
        reason: &s.reason,
        details: &s.details,
        code: &s.code,
    }
    .serialize(to)
}

impl Event {
    /// The event without type and version: `"level":...}`.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self).ok()?;
        bytes.remove(0);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_laid_out_as_upstreams() {
        let at: Timestamp = "2026-01-02T03:04:05.006007Z".parse().unwrap();
        let event = Event {
            level: Level::Request,
            audit_id: "a".into(),
            stage: Stage::ResponseComplete,
            request_uri: "/api/v1/namespaces/x/secrets?limit=1".into(),
            verb: "list".into(),
            user: User::from(&UserInfo::new("u", &["g"])),
            impersonated_user: None,
            source_ips: vec!["127.0.0.1".into()],
            user_agent: "kubectl".into(),
            object_ref: Some(ObjectReference {
                resource: "secrets".into(),
                namespace: "x".into(),
                api_version: "v1".into(),
                ..ObjectReference::default()
            }),
            response_status: Some(Status { code: Some(200), ..Status::default() }),
            request_object: Some(RawValue::from_string(r#"{"a":1}"#.into()).unwrap()),
            response_object: None,
            request_received_timestamp: at,
            stage_timestamp: at,
            annotations: [("authorization.k8s.io/decision".into(), "allow".to_owned())].into(),
        };
        let text = String::from_utf8(event.encode().unwrap()).unwrap();
        let want = concat!(
            r#""level":"Request","auditID":"a","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/x/secrets?limit=1","#,
            r#""verb":"list","user":{"username":"u","groups":["g"]},"sourceIPs":["127.0.0.1"],"userAgent":"kubectl","#,
            r#""objectRef":{"resource":"secrets","namespace":"x","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":200},"#,
            r#""requestObject":{"a":1},"requestReceivedTimestamp":"2026-01-02T03:04:05.006007Z","#,
            r#""stageTimestamp":"2026-01-02T03:04:05.006007Z","annotations":{"authorization.k8s.io/decision":"allow"}}"#
        );
        assert_eq!(text, want);
    }
}
