//! What one may: RBAC, Node, ABAC, a webhook, AlwaysAllow, AlwaysDeny; and the bootstrap policy.
//!
//! Read [`Authorizer`] first; [`Union`] asks several in turn, [`config::Mode`] names them. [`rbac::Rbac`] and
//! [`node::NodeAuthorizer`] own their indexes: whoever watches the cluster feeds them objects. No I/O here:
//! [`webhook::Webhook`] is given somebody who asks.
pub mod abac;
pub mod aggregation;
pub mod always;
pub mod bootstrap_policy;
pub mod config;
pub mod escalation;
mod forbidden;
pub mod node;
mod node_graph;
pub mod rbac;
pub mod review;
pub mod rule;
mod union;
pub mod webhook;

use std::sync::Arc;

use async_trait::async_trait;
use machinery::request::{Attributes, UserInfo};

pub use forbidden::{forbidden, forbidden_message};
pub use union::Union;

/// What an authorizer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Yes; nobody else is asked.
    Allow,
    /// No; nobody else is asked.
    Deny,
    /// Ask the next one; no, where there is none.
    NoOpinion,
}

/// A decision and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What was decided.
    pub decision: Decision,
    /// Why, as the audit log and `SubjectAccessReview` show it.
    pub reason: Option<Arc<str>>,
    /// What kept somebody from deciding. Without a yes, the request fails with it rather than as forbidden.
    pub error: Option<Arc<str>>,
}

impl Answer {
    /// No opinion, and no reason for it.
    pub const NO_OPINION: Self = Self { decision: Decision::NoOpinion, reason: None, error: None };
    /// Yes, and no reason for it.
    pub const ALLOW: Self = Self { decision: Decision::Allow, reason: None, error: None };

    /// No opinion because of something.
    pub fn no_opinion(reason: impl Into<Arc<str>>) -> Self {
        Self { decision: Decision::NoOpinion, reason: Some(reason.into()), error: None }
    }

    /// A decision that was taken since another one could not be.
    pub fn failed(decision: Decision, error: impl Into<Arc<str>>) -> Self {
        Self { decision, reason: None, error: Some(error.into()) }
    }

    /// Whether this is a yes.
    pub fn is_allowed(&self) -> bool {
        self.decision == Decision::Allow
    }

    /// Why; empty where nothing is known.
    pub fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or("")
    }

    /// What kept somebody from deciding; empty where nothing did.
    pub fn error(&self) -> &str {
        self.error.as_deref().unwrap_or("")
    }
}

/// One way to decide what a user may do.
#[async_trait]
pub trait Authorizer: Send + Sync {
    /// Decides one question.
    async fn authorize(&self, attributes: &Attributes<'_>) -> Answer;

    /// What a user may do in a namespace, as `SelfSubjectRulesReview` shows it.
    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules;
}

#[async_trait]
impl<T: Authorizer + ?Sized> Authorizer for Arc<T> {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Answer {
        (**self).authorize(attributes).await
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules {
        (**self).rules_for(user, namespace)
    }
}

/// What a user may do in a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Rules about resources.
    pub resource_rules: Vec<ResourceRule>,
    /// Rules about other paths.
    pub non_resource_rules: Vec<NonResourceRule>,
    /// Whether there may be more that cannot be listed.
    pub incomplete: bool,
    /// Why it is incomplete.
    pub evaluation_error: String,
}

/// A rule about resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceRule {
    /// Verbs.
    pub verbs: Vec<String>,
    /// API groups.
    pub api_groups: Vec<String>,
    /// Resources, with subresources.
    pub resources: Vec<String>,
    /// Names; empty means all.
    pub resource_names: Vec<String>,
}

/// A rule about paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NonResourceRule {
    /// Verbs.
    pub verbs: Vec<String>,
    /// Paths.
    pub non_resource_urls: Vec<String>,
}
