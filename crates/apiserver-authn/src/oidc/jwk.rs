//! Public keys as an issuer publishes them.
use aws_lc_rs::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// More keys than this are not kept.
const MOST_KEYS: usize = 100;

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Jwk {
    id: Option<String>,
    public: Public,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Public {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// The uncompressed point.
    Ec(Vec<u8>),
}

/// The keys of a JWKS document that can check signatures; others are left out, as standards want it.
pub(super) fn parse(document: &[u8]) -> Result<Vec<Jwk>, String> {
    let document: Value = serde_json::from_slice(document).map_err(|e| format!("keys are not JSON: {e}"))?;
    let keys = document.get("keys").and_then(Value::as_array).ok_or("the document has no keys")?;
    Ok(keys.iter().filter_map(key).take(MOST_KEYS).collect())
}

fn key(value: &Value) -> Option<Jwk> {
    if value.get("use").and_then(Value::as_str).is_some_and(|u| u != "sig") {
        return None;
    }
    let bytes = |name: &str| {
        let text = value.get(name)?.as_str()?.trim_end_matches('=');
        URL_SAFE_NO_PAD.decode(text).ok().filter(|b| !b.is_empty() && b.len() <= 2048)
    };
    let public = match value.get("kty")?.as_str()? {
        "RSA" => Public::Rsa { n: bytes("n")?, e: bytes("e")? },
        "EC" => {
            let size = match value.get("crv")?.as_str()? {
                "P-256" => 32,
                "P-384" => 48,
                "P-521" => 66,
                _ => return None,
            };
            let (x, y) = (bytes("x")?, bytes("y")?);
            if x.len() != size || y.len() != size {
                return None;
            }
            Public::Ec([&[4u8][..], &x, &y].concat())
        }
        _ => return None,
    };
    Some(Jwk { id: value.get("kid").and_then(Value::as_str).map(str::to_owned), public })
}

impl Jwk {
    /// Whether a token that names this key id may be signed with this key.
    pub(super) fn is_named(&self, id: Option<&str>) -> bool {
        match (&self.id, id) {
            (Some(own), Some(id)) => own == id,
            _ => true,
        }
    }

    /// Whether the signature was made with this key by this algorithm.
    pub(super) fn confirms(&self, algorithm: &str, message: &[u8], signed: &[u8]) -> bool {
        match &self.public {
            Public::Rsa { n, e } => {
                let parameters: &RsaParameters = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signed).is_ok()
            }
            Public::Ec(point) => {
                let algorithm: &dyn VerificationAlgorithm = match (algorithm, point.len()) {
                    ("ES256", 65) => &signature::ECDSA_P256_SHA256_FIXED,
                    ("ES384", 97) => &signature::ECDSA_P384_SHA384_FIXED,
                    ("ES512", 133) => &signature::ECDSA_P521_SHA512_FIXED,
                    _ => return false,
                };
                UnparsedPublicKey::new(algorithm, point).verify(message, signed).is_ok()
            }
        }
    }
}
