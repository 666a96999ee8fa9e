//! JSON web signatures in their compact form, as service-account tokens and the cluster-info ConfigMap have them.

use aws_lc_rs::{
    digest,
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{Error, PrivateKey};

impl PrivateKey {
    /// Signs the JSON text of claims as a token: RS256 or ES256, as the key is. Its `kid` is the one under which API
    /// servers know the key.
    pub fn sign_token(&self, claims: &str) -> Result<String, Error> {
        let id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, self.public_der()));
        let algorithm = if self.is_rsa() { "RS256" } else { "ES256" };
        let header = format!(r#"{{"alg":"{algorithm}","kid":"{id}"}}"#);
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signed =
            if self.is_rsa() { self.sign(message.as_bytes())? } else { self.sign_fixed(message.as_bytes())? };
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed)))
    }

    /// ECDSA as two numbers of fixed length, which is how tokens have it; certificates have DER.
    fn sign_fixed(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = |_| Error::Crypto { step: "sign" };
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, self.pkcs8())
            .map_err(|_| Error::UnsupportedKey)?;
        Ok(key.sign(&SystemRandom::new(), message).map_err(failed)?.as_ref().to_vec())
    }
}

/// The signature of `content` with a shared secret (HS256), without the content: `header..signature`.
pub fn detached_signature(content: &str, key_id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{key_id}"}}"#));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let tag = hmac::sign(&key, message.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyAlgorithm;

    #[test]
    fn tokens_have_three_parts() {
        for (algorithm, length) in [(KeyAlgorithm::EcdsaP256, 64), (KeyAlgorithm::Rsa2048, 256)] {
            let key = PrivateKey::generate(algorithm).expect("a key");
            let token = key.sign_token("{}").expect("a token");
            let parts: Vec<&str> = token.split('.').collect();
            assert_eq!(parts.len(), 3);
            assert_eq!(URL_SAFE_NO_PAD.decode(parts[2]).expect("base64").len(), length);
        }
    }

    #[test]
    fn signatures_without_their_content() {
        let signed = detached_signature("hello", "abcdef", "0123456789abcdef");
        // {"alg":"HS256","kid":"abcdef"}; a live test has openssl make the rest.
        let (header, tag) = signed.split_once("..").expect("two parts");
        assert_eq!(header, "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9");
        assert_eq!(URL_SAFE_NO_PAD.decode(tag).expect("base64").len(), 32);
        assert_ne!(signed, detached_signature("hello", "abcdef", "another"));
    }
}
