//! How a command ended, as the `metav1.Status` the error channel carries.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The largest status read from a peer.
pub(crate) const MAX_STATUS: u64 = 64 * 1024;

/// The outcome of an exec or attach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecStatus {
    #[serde(default)]
    metadata: Value,
    #[serde(default)]
    status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    details: Value,
    #[serde(default, skip_serializing_if = "is_zero")]
    code: i32,
}

fn is_zero(code: &i32) -> bool {
    *code == 0
}

impl ExecStatus {
    /// The command ended with exit code 0, or the attachment was left.
    pub fn success() -> Self {
        Self {
            metadata: json!({}),
            status: "Success".into(),
            message: String::new(),
            reason: String::new(),
            details: Value::Null,
            code: 0,
        }
    }

    /// The command ran and ended with another exit code.
    pub fn exited(code: i32) -> Self {
        if code == 0 {
            return Self::success();
        }
        Self {
            metadata: json!({}),
            status: "Failure".into(),
            message: format!("command terminated with non-zero exit code: exit status {code}"),
            reason: "NonZeroExitCode".into(),
            details: json!({ "causes": [{ "reason": "ExitCode", "message": code.to_string() }] }),
            code: 0,
        }
    }

    /// The command could not be run or watched.
    pub fn internal_error(message: impl AsRef<str>) -> Self {
        let message = message.as_ref();
        Self {
            metadata: json!({}),
            status: "Failure".into(),
            message: format!("Internal error occurred: {message}"),
            reason: "InternalError".into(),
            details: json!({ "causes": [{ "message": message }] }),
            code: 500,
        }
    }

    /// Reads what a v4 or v5 server sent on its error channel; an unreadable one is itself a failure.
    pub fn parse(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(bytes);
            Self::internal_error(format!("error stream protocol error: unknown error: {text}"))
        })
    }

    /// Whether it is a success.
    pub fn is_success(&self) -> bool {
        self.status == "Success"
    }

    /// The exit code, if the command got as far as having one.
    pub fn exit_code(&self) -> Option<i32> {
        if self.is_success() {
            return Some(0);
        }
        let causes = self.details.get("causes")?.as_array()?;
        let cause =
            causes.iter().find(|cause| cause.get("reason").is_some_and(|reason| reason == "ExitCode"))?;
        cause.get("message")?.as_str()?.parse().ok()
    }

    /// What went wrong, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The JSON of v4 and v5, for success too.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a status of strings and numbers serializes")
    }

    /// The text of older protocols: only for failures.
    pub(crate) fn to_legacy_text(&self) -> Option<&str> {
        (!self.is_success()).then_some(self.message.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_statuses() {
        let text = |status: ExecStatus| String::from_utf8(status.to_json()).expect("text");
        assert_eq!(text(ExecStatus::success()), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(
            text(ExecStatus::exited(3)),
            concat!(
                r#"{"metadata":{},"status":"Failure","#,
                r#""message":"command terminated with non-zero exit code: exit status 3","#,
                r#""reason":"NonZeroExitCode","details":{"causes":[{"message":"3","reason":"ExitCode"}]}}"#
            )
        );
        assert_eq!(ExecStatus::exited(3).exit_code(), Some(3));
        assert_eq!(ExecStatus::internal_error("x").exit_code(), None);
        assert_eq!(ExecStatus::success().to_legacy_text(), None);
    }

    #[test]
    fn statuses_of_others_pass_unchanged() {
        let theirs = ExecStatus::parse(
            br#"{"metadata":{},"status":"Failure","message":"m","reason":"NonZeroExitCode",
                "details":{"causes":[{"reason":"ExitCode","message":"137"}]}}"#,
        );
        assert_eq!(theirs.exit_code(), Some(137));
        assert_eq!(ExecStatus::parse(&theirs.to_json()), theirs);
        assert!(!ExecStatus::parse(b"no json").is_success());
    }
}
