//! One provider of the configuration: how it marks what it stores, and how a stored value finds its key.
//! Upstream: apiserver/pkg/storage/value/transformer.go, 1.36.
use std::sync::Arc;

use crate::aes::{Cbc, Gcm};
use crate::kms::Kms;
use crate::secretbox::Secretbox;

/// What every sealed value begins with.
pub(crate) const SEALED: &[u8] = b"k8s:enc:";

/// Why a cipher refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct CipherError(pub(crate) &'static str);

/// Why a value cannot be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransformError {
    /// The value was tampered with, cut, or sealed with a key that is not configured.
    #[error("{0}")]
    Refused(String),
    /// A key server does not answer; the same call may succeed later.
    #[error("{0}")]
    Unavailable(String),
}

impl From<CipherError> for TransformError {
    fn from(e: CipherError) -> Self {
        Self::Refused(e.0.into())
    }
}

/// A value as it was before it was sealed.
#[derive(Clone, PartialEq, Eq)]
pub struct Opened {
    /// The value; `None`: it is stored as it is.
    pub value: Option<Vec<u8>>,
    /// Whether a write of the same value would store other bytes: another provider or key comes first by now.
    pub stale: bool,
}

/// Fresh random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], CipherError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CipherError("unable to read sufficient random bytes"))?;
    Ok(bytes)
}

/// A cipher that needs nobody else.
pub(crate) enum Cipher {
    Cbc(Box<Cbc>),
    Gcm(Gcm),
    Secretbox(Secretbox),
}

/// A cipher under the name of its key.
pub(crate) struct Named {
    /// `NAME:`, as it is stored.
    pub(crate) mark: String,
    pub(crate) cipher: Cipher,
}

/// One element of `providers`.
pub(crate) enum Provider {
    /// Values as they are.
    Identity,
    /// Keys in the configuration; the first one seals.
    Keys {
        /// For example `k8s:enc:aescbc:v1:`.
        mark: &'static str,
        /// How its errors call it: `AES` or `Secretbox`.
        name: &'static str,
        keys: Vec<Named>,
    },
    /// A key server.
    Kms(Arc<Kms>),
}

impl Cipher {
    fn seal(&self, path: &str, data: &[u8], out: &mut Vec<u8>) -> Result<(), CipherError> {
        match self {
            Self::Cbc(cipher) => cipher.seal(data, out),
            Self::Gcm(cipher) => cipher.seal(path, data, out),
            Self::Secretbox(cipher) => cipher.seal(data, out),
        }
    }

    fn open(&self, path: &str, data: &[u8]) -> Result<Vec<u8>, CipherError> {
        match self {
            Self::Cbc(cipher) => cipher.open(data),
            Self::Gcm(cipher) => cipher.open(path, data),
            Self::Secretbox(cipher) => cipher.open(data),
        }
    }
}

impl Provider {
    /// What is stored for a value under a key; `None`: the value itself.
    pub(crate) fn seal(&self, path: &str, data: &[u8]) -> Result<Option<Vec<u8>>, TransformError> {
        match self {
            Self::Identity if data.starts_with(SEALED) => {
                // It could never be read again.
                Err(TransformError::Refused("identity transformer tried to write encrypted data".into()))
            }
            Self::Identity => Ok(None),
            Self::Keys { mark, keys, .. } => {
                let Some(first) = keys.first() else {
                    return Err(TransformError::Refused("the provider has no valid keys".into()));
                };
                let mut out = Vec::with_capacity(mark.len() + first.mark.len() + data.len() + 64);
                out.extend_from_slice(mark.as_bytes());
                out.extend_from_slice(first.mark.as_bytes());
                first.cipher.seal(path, data, &mut out)?;
                Ok(Some(out))
            }
            Self::Kms(kms) => kms.seal(path, data).map(Some),
        }
    }

    /// What lies behind a stored value; `None`: the provider did not write it.
    async fn open(&self, path: &str, data: &[u8]) -> Option<Result<Opened, TransformError>> {
        match self {
            // An encrypted value is another provider's.
            Self::Identity if data.starts_with(SEALED) => None,
            Self::Identity => Some(Ok(Opened { value: None, stale: false })),
            Self::Keys { mark, name, keys } => {
                let data = data.strip_prefix(mark.as_bytes())?;
                Some(open_keyed(name, keys, path, data))
            }
            Self::Kms(kms) => {
                let data = data.strip_prefix(kms.mark())?;
                Some(kms.open(path, data).await)
            }
        }
    }
}

fn open_keyed(name: &str, keys: &[Named], path: &str, data: &[u8]) -> Result<Opened, TransformError> {
    let mut failed: Vec<String> = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        let Some(data) = data.strip_prefix(key.mark.as_bytes()) else { continue };
        match key.cipher.open(path, data) {
            Ok(value) => return Ok(Opened { value: Some(value), stale: at != 0 }),
            Err(e) => failed.push(e.to_string()),
        }
    }
    if failed.is_empty() {
        failed.push(format!("no matching key was found for the provided {name} transformer"));
    }
    Err(TransformError::Refused(together(failed)))
}

/// Opens with the first provider that can. One that wrote the value but cannot open it does not keep others from
/// trying: the same provider may be configured again with another key of the same name.
pub(crate) async fn open(
    providers: &[Arc<Provider>],
    path: &str,
    data: &[u8],
) -> Result<Opened, TransformError> {
    let mut failed: Vec<String> = Vec::new();
    let mut unavailable = false;
    for (at, provider) in providers.iter().enumerate() {
        match provider.open(path, data).await {
            None => {}
            Some(Ok(opened)) => return Ok(Opened { stale: opened.stale || at != 0, ..opened }),
            Some(Err(e)) => {
                unavailable |= matches!(e, TransformError::Unavailable(_));
                failed.push(e.to_string());
            }
        }
    }
    if failed.is_empty() {
        return Err(TransformError::Refused("no matching prefix found".into()));
    }
    let text = together(failed);
    Err(if unavailable { TransformError::Unavailable(text) } else { TransformError::Refused(text) })
}

fn together(mut failed: Vec<String>) -> String {
    failed.dedup();
    match failed.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}
