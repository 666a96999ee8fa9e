//! What some plugins ask of the server besides the cluster: permissions, kinds, new namespaces, others' opinions.
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use machinery::StatusResult;
use machinery::request::{RequestInfo, UserInfo};

/// Answers what a user may do.
#[async_trait]
pub trait Authorize: Send + Sync {
    /// Whether the user may do this; the authorizer's reason where not.
    async fn decide(&self, user: &UserInfo, request: &RequestInfo) -> Result<(), String>;

    /// Whether the user has this verb on `signers.certificates.k8s.io` with this name.
    async fn may(&self, user: &UserInfo, verb: &str, signer: &str) -> bool {
        let request = RequestInfo {
            verb: verb.into(),
            is_resource: true,
            api_group: "certificates.k8s.io".into(),
            api_version: "*".into(),
            resource: "signers".into(),
            name: signer.into(),
            ..RequestInfo::default()
        };
        self.decide(user, &request).await.is_ok()
    }
}

/// The resource that objects of a kind are served as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Plural.
    pub plural: String,
    /// Whether its objects belong to namespaces.
    pub namespaced: bool,
}

/// Knows which resource serves a kind.
pub trait ServedKinds: Send + Sync {
    /// The resource of a kind; `None` where no version of it is served.
    fn served(&self, group: &str, version: &str, kind: &str) -> Option<Served>;
}

/// Makes namespaces, as the server itself.
#[async_trait]
pub trait MakeNamespaces: Send + Sync {
    /// Makes one; 409 where it is there.
    async fn make(&self, name: &str) -> StatusResult<()>;
}

/// What became of a review.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoReview {
    /// What happened.
    pub why: String,
    /// Whether the same question may be answered in a moment.
    pub again: bool,
}

/// A server that is asked about images. Implementations bound an exchange in size and time, and check the server's
/// certificate.
#[async_trait]
pub trait ImageReviewer: Send + Sync {
    /// The body of the answer to an ImageReview.
    async fn review(&self, question: &[u8]) -> Result<Vec<u8>, NoReview>;
}

/// Finds a server by the kubeconfig file that leads to it; the error says what is wrong with the file.
pub type FindReviewer = Box<dyn Fn(&Path) -> Result<Arc<dyn ImageReviewer>, String> + Send + Sync>;
