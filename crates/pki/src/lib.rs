//! Certificate authority, certificates, service-account keys, kubeconfigs: the trust of a cluster, as files.
//!
//! Read [`ClusterPki`] first: one call, [`ClusterPki::ensure`], makes or repairs everything a cluster needs in one
//! directory and says what it did. Below it are the parts: [`Authority`] signs, [`PrivateKey`] is a key of either
//! algorithm, [`CertificateFacts`] is what a certificate says, [`Kubeconfig`] is the file a client reads.
//!
//! Certificates are encoded here rather than by a crate: the crates at hand keep one value per subject attribute, while
//! Kubernetes reads groups from *repeated* organizations, and an authority made elsewhere must be named in its leaves by
//! its own subject bytes, whatever their shape.
//!
//! What it is not: it never asks who wants a certificate (that is an API server's approval), opens no socket, and
//! reads no clock: the time is an argument.

mod authority;
mod bootstrap_token;
mod cluster;
mod der;
mod facts;
mod files;
mod fresh;
mod issue;
mod jws;
mod key;
mod kubeconfig;
mod plan;
mod request;
mod rotation;
mod signing;

pub use authority::{Authority, Issued};
pub use bootstrap_token::{BootstrapToken, public_key_pin};
pub use cluster::{CertificatePaths, ClusterPki, EnsureError, Inspected};
pub use facts::{CertificateFacts, Expiry, check_certificates};
pub use files::{FileError, read, write_private, write_public};
pub use fresh::{Fresh, FreshError};
pub use issue::{AlternativeName, CertificateSpec, Subject, Usage};
pub use jws::detached_signature;
pub use key::{KeyAlgorithm, PrivateKey};
pub use kubeconfig::{Credentials, Kubeconfig, kubeconfig_yaml};
pub use plan::{Action, NodeIdentity, PkiSpec, Reason, Report, ReportItem, first_service_address};
pub use request::CertificateRequest;
pub use rotation::{Phase, Rotated, Rotation};

/// Why a key or a certificate cannot be read or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not PEM, or has no block of the kind wanted.
    #[error("not a PEM {wanted}")]
    NotPem {
        /// What was looked for: `certificate`, `private key`.
        wanted: &'static str,
    },
    /// The PEM block is fine, its content is not.
    #[error("the {what} inside the PEM block cannot be parsed")]
    Unreadable {
        /// What was being parsed.
        what: &'static str,
    },
    /// The key is neither RSA of 2048 bits or more nor ECDSA on P-256.
    #[error("unsupported private key; RSA of 2048 to 8192 bits and ECDSA P-256 are supported")]
    UnsupportedKey,
    /// The certificate may not sign others.
    #[error("this certificate is not a certificate authority (no CA:TRUE)")]
    NotAnAuthority,
    /// Certificate and key are not a pair.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// A name that cannot stand in a certificate.
    #[error("{name:?} cannot be an alternative name of a certificate: not a DNS name or an IP address")]
    BadName {
        /// The name.
        name: String,
    },
    /// A subject that Kubernetes could not use.
    #[error("a certificate needs a common name of 1 to 256 characters")]
    BadCommonName,
    /// The authority has expired, so nothing it signs would be valid.
    #[error("the certificate authority expired at {at}")]
    AuthorityExpired {
        /// When it did.
        at: jiff::Timestamp,
    },
    /// A request signed in a way that is not supported.
    #[error("x509: cannot verify signature: algorithm unimplemented")]
    UnsupportedRequest,
    /// A request that was not signed with the key it is about.
    #[error("x509: certificate request signature is not that of its key")]
    RequestSignature,
    /// Usages that certificates have no word for.
    #[error("unrecognized usage values: [{names}]")]
    UnknownUsages {
        /// The names, quoted.
        names: String,
    },
    /// A date outside of what certificates can hold.
    #[error("the validity reaches beyond the year 9999")]
    BadValidity,
    /// The cryptographic library refused.
    #[error("the cryptographic library failed to {step}")]
    Crypto {
        /// What was asked of it.
        step: &'static str,
    },
}
