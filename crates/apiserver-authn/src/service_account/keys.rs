//! Keys that sign and check tokens, and JSON web signatures in their compact form.
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _, ParsedPublicKey, RsaKeyPair,
    VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::sha256;

/// Why a key is no good.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not PEM, or nothing in it that we know.
    #[error("no key found: expected PEM with an RSA or ECDSA (P-256, P-384, P-521) key")]
    NotFound,
    /// A key of a kind or size that cannot sign tokens.
    #[error("unusable key: {0}")]
    Unusable(&'static str),
    /// Signing failed.
    #[error("signing failed")]
    Signing,
}

/// `RS256`, `ES256`, `ES384` or `ES512`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Es256,
    Es384,
    Es512,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
        }
    }
}

enum Private {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Box<EcdsaKeyPair>),
}

/// The key that signs tokens.
pub struct SigningKey {
    private: Private,
    public: VerifyKey,
}

struct VerifyKey {
    id: String,
    algorithm: Algorithm,
    parsed: ParsedPublicKey,
    jwk: Value,
}

/// Keys that check tokens: the signing key's own, and older ones.
#[derive(Default)]
pub struct VerifyKeys(Vec<VerifyKey>);

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl VerifyKey {
    /// From a `SubjectPublicKeyInfo`. The id is the hash of it, as upstream computes it.
    fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| KeyError::NotFound)?;
        let id = base64url(&sha256(&[der]));
        let public = info.parsed().map_err(|_| KeyError::Unusable("unknown kind of public key"))?;
        let strip = |bytes: &[u8]| -> String {
            let zeros = bytes.iter().take_while(|b| **b == 0).count();
            base64url(&bytes[zeros..])
        };
        let (algorithm, mut jwk) = match public {
            PublicKey::RSA(key) => {
                (Algorithm::Rs256, json!({"kty": "RSA", "n": strip(key.modulus), "e": strip(key.exponent)}))
            }
            PublicKey::EC(point) => {
                let data = point.data();
                let (algorithm, curve, size) = match data.len() {
                    65 => (Algorithm::Es256, "P-256", 32),
                    97 => (Algorithm::Es384, "P-384", 48),
                    133 => (Algorithm::Es512, "P-521", 66),
                    _ => return Err(KeyError::Unusable("unknown elliptic curve")),
                };
                let (x, y) = data[1..].split_at(size);
                (algorithm, json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)}))
            }
            _ => return Err(KeyError::Unusable("neither RSA nor ECDSA")),
        };
        if let Some(map) = jwk.as_object_mut() {
            map.insert("use".into(), "sig".into());
            map.insert("kid".into(), id.clone().into());
            map.insert("alg".into(), algorithm.name().into());
        }
        let parsed = ParsedPublicKey::new(algorithm.verification(), der)
            .map_err(|_| KeyError::Unusable("refused by the crypto library"))?;
        Ok(Self { id, algorithm, parsed, jwk })
    }
}

impl SigningKey {
    /// Reads a private key in PEM: PKCS#1, SEC1 or PKCS#8.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let blocks = pem::parse_many(text).map_err(|_| KeyError::NotFound)?;
        let block = blocks.iter().find(|b| b.tag().ends_with("PRIVATE KEY")).ok_or(KeyError::NotFound)?;
        let der = block.contents();
        let private = match block.tag() {
            "RSA PRIVATE KEY" => Private::Rsa(Box::new(
                RsaKeyPair::from_der(der)
                    .map_err(|_| KeyError::Unusable("not a private RSA key of 2048 bits or more"))?,
            )),
            "EC PRIVATE KEY" => Private::Ecdsa(Box::new(ecdsa(der, EcdsaKeyPair::from_private_key_der)?)),
            _ => match RsaKeyPair::from_pkcs8(der) {
                Ok(key) => Private::Rsa(Box::new(key)),
                Err(_) => Private::Ecdsa(Box::new(ecdsa(der, EcdsaKeyPair::from_pkcs8)?)),
            },
        };
        let spki: PublicKeyX509Der<'_> = match &private {
            Private::Rsa(key) => key.public_key().as_der(),
            Private::Ecdsa(key) => key.public_key().as_der(),
        }
        .map_err(|_| KeyError::Unusable("no public key"))?;
        let public = VerifyKey::from_spki(spki.as_ref())?;
        Ok(Self { private, public })
    }

    /// The `kid` of tokens it signs.
    pub fn id(&self) -> &str {
        &self.public.id
    }

    /// Signs claims: a token.
    pub fn sign(&self, claims: &Value) -> Result<String, KeyError> {
        let header = json!({"alg": self.public.algorithm.name(), "kid": self.public.id});
        let message = format!(
            "{}.{}",
            base64url(header.to_string().as_bytes()),
            base64url(claims.to_string().as_bytes())
        );
        let random = SystemRandom::new();
        let signature = match &self.private {
            Private::Rsa(key) => {
                let mut out = vec![0; key.public_modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut out)
                    .map_err(|_| KeyError::Signing)?;
                out
            }
            Private::Ecdsa(key) => {
                key.sign(&random, message.as_bytes()).map_err(|_| KeyError::Signing)?.as_ref().to_vec()
            }
        };
        Ok(format!("{message}.{}", base64url(&signature)))
    }
}

fn ecdsa(
    der: &[u8],
    read: impl Fn(&'static EcdsaSigningAlgorithm, &[u8]) -> Result<EcdsaKeyPair, aws_lc_rs::error::KeyRejected>,
) -> Result<EcdsaKeyPair, KeyError> {
    [
        &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
    ]
    .into_iter()
    .find_map(|algorithm| read(algorithm, der).ok())
    .ok_or(KeyError::Unusable("not a private key on P-256, P-384 or P-521"))
}

impl VerifyKeys {
    /// Adds every key of a PEM file: public keys, certificates, or private keys whose public half is taken.
    pub fn add_pem(&mut self, text: &str) -> Result<(), KeyError> {
        let before = self.0.len();
        for block in pem::parse_many(text).map_err(|_| KeyError::NotFound)? {
            let key = match block.tag() {
                "PUBLIC KEY" => VerifyKey::from_spki(block.contents())?,
                "RSA PUBLIC KEY" => {
                    let key = rsa::PublicKey::from_der(block.contents())
                        .map_err(|_| KeyError::Unusable("not a public RSA key"))?;
                    let spki: PublicKeyX509Der<'_> =
                        key.as_der().map_err(|_| KeyError::Unusable("not a public RSA key"))?;
                    VerifyKey::from_spki(spki.as_ref())?
                }
                "CERTIFICATE" => {
                    let (_, certificate) =
                        X509Certificate::from_der(block.contents()).map_err(|_| KeyError::NotFound)?;
                    VerifyKey::from_spki(certificate.public_key().raw)?
                }
                tag if tag.ends_with("PRIVATE KEY") => SigningKey::from_pem(&pem::encode(&block))?.public,
                _ => continue,
            };
            if !self.0.iter().any(|k| k.id == key.id) {
                self.0.push(key);
            }
        }
        if self.0.len() == before && before == 0 { Err(KeyError::NotFound) } else { Ok(()) }
    }

    /// Algorithms of the keys.
    pub(super) fn algorithms(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.0.iter().map(|k| k.algorithm.name()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The document at `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        json!({"keys": self.0.iter().map(|k| &k.jwk).collect::<Vec<_>>()})
    }

    /// The claims of a token whose signature one of the keys confirms.
    pub(super) fn verified_claims(&self, token: &str) -> Option<Value> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        // Critical extensions would have to be understood; we know none.
        if header.get("crit").is_some() {
            return None;
        }
        let algorithm = header.get("alg").and_then(Value::as_str)?;
        let id = header.get("kid").and_then(Value::as_str).filter(|id| !id.is_empty());
        let fits = |key: &&VerifyKey| key.algorithm.name() == algorithm && id.is_none_or(|id| id == key.id);
        let verified =
            self.0.iter().filter(fits).any(|k| k.parsed.verify_sig(message.as_bytes(), &signature).is_ok());
        if !verified {
            return None;
        }
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}

/// The issuer a token claims to have, unchecked: to tell our tokens from those of other methods.
pub(super) fn unverified_issuer(token: &str) -> Option<String> {
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    Some(claims.get("iss")?.as_str()?.to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use aws_lc_rs::rsa::KeySize;

    use super::*;

    pub(crate) fn rsa_pem() -> String {
        use aws_lc_rs::encoding::Pkcs8V1Der;
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
        pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_ref().to_vec()))
    }

    pub(crate) fn ec_pem() -> String {
        let der =
            EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .unwrap();
        pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_ref().to_vec()))
    }

    #[test]
    fn what_a_key_signs_its_public_half_confirms_and_no_other() {
        for (pem, algorithm) in [(rsa_pem(), "RS256"), (ec_pem(), "ES256")] {
            let key = SigningKey::from_pem(&pem).unwrap();
            let mut keys = VerifyKeys::default();
            keys.add_pem(&pem).unwrap();
            keys.add_pem(&pem).unwrap();
            assert_eq!(keys.algorithms(), [algorithm]);
            let jwks = keys.jwks();
            assert_eq!(jwks["keys"].as_array().unwrap().len(), 1);
            assert_eq!(
                (jwks["keys"][0]["kid"].as_str(), jwks["keys"][0]["alg"].as_str()),
                (Some(key.id()), Some(algorithm))
            );
            let token = key.sign(&json!({"iss": "me"})).unwrap();
            assert_eq!(keys.verified_claims(&token), Some(json!({"iss": "me"})));
            assert_eq!(unverified_issuer(&token).as_deref(), Some("me"));
            let mut others = VerifyKeys::default();
            others.add_pem(&rsa_pem()).unwrap();
            others.add_pem(&ec_pem()).unwrap();
            assert_eq!(others.verified_claims(&token), None);
            let (head, tail) = token.split_once('.').unwrap();
            let (_, signature) = tail.split_once('.').unwrap();
            let forged = format!("{head}.{}.{signature}", base64url(br#"{"iss":"you"}"#));
            assert_eq!(keys.verified_claims(&forged), None);
            let none = format!("{}.{}.", base64url(br#"{"alg":"none"}"#), base64url(br#"{"iss":"me"}"#));
            assert_eq!(keys.verified_claims(&none), None);
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert!(SigningKey::from_pem("garbage").is_err());
        assert!(VerifyKeys::default().add_pem("garbage").is_err());
        let keys = VerifyKeys::default();
        for token in ["", ".", "..", "a.b.c", "....", "é.é.é"] {
            assert_eq!(keys.verified_claims(token), None);
            assert_eq!(unverified_issuer(token), None);
        }
    }
}
