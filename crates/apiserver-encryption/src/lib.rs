//! Encryption at rest: what the API server writes to its storage is sealed, and opened when it is read.
//!
//! Read [`Encryption`] first: it reads an `EncryptionConfiguration`, follows changes of the file, and wraps a storage so
//! that everything above it sees plain values. Below it, [`Transformers`] finds the providers of a resource, a
//! `Provider` is one of `identity`, `aescbc`, `aesgcm`, `secretbox` and `kms`, and the ciphers are pure. The bytes are
//! exactly upstream's, so a store can be handed over either way.
//!
//! What it is not: it never knows what an object is, only the storage key it lies under, and it makes no keys.
mod aes;
mod config;
mod encrypted;
mod kms;
mod provider;
mod reload;
mod secretbox;
mod transformers;

pub use config::{ConfigError, Configuration};
pub use encrypted::Encrypted;
pub use kms::v2 as kms_v2;
pub use provider::{Opened, TransformError};
pub use reload::{Encryption, LoadError};
pub use transformers::{Resources, Transformers};
