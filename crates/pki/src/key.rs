//! Private keys of the two algorithms clusters use, made or read from any of the usual PEM forms.

use std::fmt;

use aws_lc_rs::{
    digest,
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rand::SystemRandom,
    rsa,
    signature::{self, EcdsaKeyPair, KeyPair as _, RsaKeyPair, UnparsedPublicKey},
};

use crate::{Error, der};

/// Which kind of key to make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256: made in microseconds, small, the default.
    #[default]
    EcdsaP256,
    /// RSA of 2048 bits, for clients that know nothing else.
    Rsa2048,
}

impl std::str::FromStr for KeyAlgorithm {
    type Err = String;

    /// The names of kubeadm's `encryptionAlgorithm`, in any case.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "ecdsa-p256" => Ok(Self::EcdsaP256),
            "rsa-2048" => Ok(Self::Rsa2048),
            _ => Err(format!("unknown key algorithm {text:?}; use ECDSA-P256 or RSA-2048")),
        }
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaP256 => "ECDSA-P256",
            Self::Rsa2048 => "RSA-2048",
        })
    }
}

enum Inner {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// A private key. Prints as its algorithm only.
pub struct PrivateKey {
    inner: Inner,
    pkcs8: Vec<u8>,
    spki: Vec<u8>,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.inner {
            Inner::Ecdsa(_) => "PrivateKey(ECDSA, secret)",
            Inner::Rsa(_) => "PrivateKey(RSA, secret)",
        })
    }
}

impl PrivateKey {
    /// Makes a new random key.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, Error> {
        let failed = |_| Error::Crypto { step: "generate a key" };
        let inner = match algorithm {
            KeyAlgorithm::EcdsaP256 => Inner::Ecdsa(
                EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?,
            ),
            KeyAlgorithm::Rsa2048 => Inner::Rsa(RsaKeyPair::generate(rsa::KeySize::Rsa2048).map_err(failed)?),
        };
        Self::new(inner)
    }

    fn new(inner: Inner) -> Result<Self, Error> {
        let failed = |_| Error::Crypto { step: "encode a key" };
        let (pkcs8, spki) = match &inner {
            Inner::Ecdsa(key) => {
                let spki: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(failed)?;
                (key.to_pkcs8v1().map_err(failed)?.as_ref().to_vec(), spki.as_ref().to_vec())
            }
            Inner::Rsa(key) => {
                let pkcs8: Pkcs8V1Der<'_> = key.as_der().map_err(failed)?;
                let spki: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(failed)?;
                (pkcs8.as_ref().to_vec(), spki.as_ref().to_vec())
            }
        };
        Ok(Self { inner, pkcs8, spki })
    }

    /// Reads a PEM of PKCS#8 (`PRIVATE KEY`), PKCS#1 (`RSA PRIVATE KEY`) or SEC 1 (`EC PRIVATE KEY`).
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let blocks = pem::parse_many(text).map_err(|_| Error::NotPem { wanted: "private key" })?;
        let block = blocks
            .iter()
            .find(|b| b.tag().ends_with("PRIVATE KEY"))
            .ok_or(Error::NotPem { wanted: "private key" })?;
        let der = block.contents();
        let ecdsa = || EcdsaKeyPair::from_private_key_der(&signature::ECDSA_P256_SHA256_ASN1_SIGNING, der);
        let inner = match block.tag() {
            "EC PRIVATE KEY" => ecdsa().map(Inner::Ecdsa),
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(der).map(Inner::Rsa),
            "PRIVATE KEY" => {
                RsaKeyPair::from_pkcs8(der).map(Inner::Rsa).or_else(|_| ecdsa().map(Inner::Ecdsa))
            }
            _ => return Err(Error::UnsupportedKey),
        };
        Self::new(inner.map_err(|_| Error::UnsupportedKey)?)
    }

    /// The key as a PKCS#8 PEM. A secret: goes to a file of mode 0600 and nowhere else.
    pub fn to_pem(&self) -> String {
        to_pem("PRIVATE KEY", &self.pkcs8)
    }

    /// The public half as a PEM of a SubjectPublicKeyInfo (`PUBLIC KEY`).
    pub fn public_pem(&self) -> String {
        to_pem("PUBLIC KEY", &self.spki)
    }

    /// The public half as DER of a SubjectPublicKeyInfo.
    pub fn public_der(&self) -> &[u8] {
        &self.spki
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    pub(crate) fn is_rsa(&self) -> bool {
        matches!(self.inner, Inner::Rsa(_))
    }

    /// The AlgorithmIdentifier of this key's signatures.
    pub(crate) fn signature_algorithm(&self) -> Vec<u8> {
        match self.inner {
            // ecdsa-with-SHA256, 1.2.840.10045.4.3.2: no parameters.
            Inner::Ecdsa(_) => der::sequence(&[&der::oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02])]),
            // sha256WithRSAEncryption, 1.2.840.113549.1.1.11: a NULL.
            Inner::Rsa(_) => der::sequence(&[
                &der::oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b]),
                &der::null(),
            ]),
        }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = |_| Error::Crypto { step: "sign" };
        let random = SystemRandom::new();
        match &self.inner {
            Inner::Ecdsa(key) => Ok(key.sign(&random, message).map_err(failed)?.as_ref().to_vec()),
            Inner::Rsa(key) => {
                let mut out = vec![0; key.public_modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut out).map_err(failed)?;
                Ok(out)
            }
        }
    }

    /// Whether `signature` over `message` was made with this key.
    pub(crate) fn made(&self, message: &[u8], signed: &[u8]) -> bool {
        match &self.inner {
            Inner::Ecdsa(key) => UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, key.public_key())
                .verify(message, signed),
            Inner::Rsa(key) => {
                UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, key.public_key())
                    .verify(message, signed)
            }
        }
        .is_ok()
    }
}

/// The identifier of a public key: SHA-256 cut to 20 bytes (RFC 7093, method 1), over the bits of the key.
pub(crate) fn key_identifier(public_key_bits: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, public_key_bits).as_ref()[..20].to_vec()
}

pub(crate) fn to_pem(tag: &str, der: &[u8]) -> String {
    pem::encode_config(
        &pem::Pem::new(tag, der),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_own_pem() {
        for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::Rsa2048] {
            let key = PrivateKey::generate(algorithm).expect("a key");
            let read = PrivateKey::from_pem(&key.to_pem()).expect("the same key");
            assert_eq!(read.public_der(), key.public_der());
            let signed = read.sign(b"hello").expect("a signature");
            assert!(key.made(b"hello", &signed));
            assert!(!key.made(b"hell0", &signed));
        }
    }

    #[test]
    fn a_key_never_prints_itself() {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        assert_eq!(format!("{key:?}"), "PrivateKey(ECDSA, secret)");
    }

    #[test]
    fn rubbish_is_refused() {
        assert!(matches!(PrivateKey::from_pem("hello"), Err(Error::NotPem { .. })));
        let cut = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n";
        assert!(matches!(PrivateKey::from_pem(cut), Err(Error::UnsupportedKey)));
    }
}
