//! Who this kubelet is to others: its client certificate towards the API server, its serving certificate towards clients.
//!
//! [`bootstrap`] gets the first client certificate with a bootstrap kubeconfig; [`RotatingClient`] speaks with the current
//! one and replaces it before it ends; `serving` does the same for the server. All ask by CertificateSigningRequest, and
//! keep what they get in a [`CertificateStore`]. Work under way goes on over connections that exist; new ones use the new
//! certificate. Upstream: pkg/kubelet/certificate and client-go/util/certificate, 1.36.
mod bootstrap;
mod client;
mod request;
mod rotation;
pub(crate) mod serving;
mod store;

use std::path::PathBuf;
use std::time::Duration;

pub use bootstrap::{Bootstrap, bootstrap};
pub use client::RotatingClient;
pub use store::CertificateStore;

/// Why a certificate could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kubeconfig cannot be used.
    #[error("cannot use kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] pki::FileError),
    /// A directory or link cannot be made.
    #[error("cannot make {}", path.display())]
    Make {
        /// What was to be made.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A key or certificate cannot be made or read.
    #[error("cannot make or read a key or certificate")]
    Pki(#[from] pki::Error),
    /// The API server refused or did not answer.
    #[error("cannot {step}")]
    Api {
        /// What was tried.
        step: &'static str,
        /// What the server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The request was watched in vain.
    #[error("cannot watch the certificate request")]
    Watch(#[source] Box<kube::runtime::wait::Error>),
    /// Somebody said no.
    #[error("certificate signing request is {what}: {message}")]
    Refused {
        /// `denied` or `failed`.
        what: &'static str,
        /// What the condition says.
        message: String,
    },
    /// The request was deleted while we waited.
    #[error("certificate signing request was deleted before a certificate was issued")]
    Deleted,
    /// Nobody answered.
    #[error("no certificate was issued within {}s; does anyone approve requests for {signer}?", after.as_secs())]
    Unanswered {
        /// How long we waited.
        after: Duration,
        /// For whom the request was.
        signer: &'static str,
    },
    /// What was issued is not what was asked for.
    #[error("the certificate that was issued is not for our key")]
    NotOurs,
    /// We were asked to stop.
    #[error("stopped while waiting for a certificate")]
    Stopped,
}

/// The user of a kubelet.
pub(crate) fn subject(node_name: &str) -> pki::Subject {
    pki::Subject::new(format!("system:node:{node_name}")).in_group("system:nodes")
}
