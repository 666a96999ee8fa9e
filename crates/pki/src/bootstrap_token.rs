//! Bootstrap tokens, `id.secret`, and how who has one tells the real cluster from another.

use std::{fmt, str::FromStr};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest,
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::Zeroizing;

use crate::{CertificateFacts, Error, detached_signature};

/// Letters that tokens are made of.
const LETTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const ID: usize = 6;
const SECRET: usize = 16;

/// A bootstrap token. Prints its public half alone.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    id: String,
    secret: Zeroizing<String>,
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootstrapToken({})", self.id)
    }
}

impl FromStr for BootstrapToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |s: &str, length: usize| s.len() == length && s.bytes().all(|b| LETTERS.contains(&b));
        match text.split_once('.') {
            Some((id, secret)) if plain(id, ID) && plain(secret, SECRET) => {
                Ok(Self { id: id.to_owned(), secret: secret.to_owned().into() })
            }
            _ => {
                Err(r"a bootstrap token looks like abcdef.0123456789abcdef ([a-z0-9]{6}\.[a-z0-9]{16})"
                    .into())
            }
        }
    }
}

impl BootstrapToken {
    /// A new one.
    pub fn generate() -> Result<Self, Error> {
        Ok(Self { id: letters(ID)?, secret: letters(SECRET)?.into() })
    }

    /// Its public half.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its other half, for who keeps it.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// All of it, for who is to have it.
    pub fn expose(&self) -> Zeroizing<String> {
        format!("{}.{}", self.id, *self.secret).into()
    }

    /// Whether `signature` is this token's of `content`.
    pub fn signed(&self, content: &str, signature: &str) -> bool {
        let own = detached_signature(content, &self.id, &self.secret);
        verify_slices_are_equal(own.as_bytes(), signature.as_bytes()).is_ok()
    }
}

/// Random letters, each as likely as any other.
fn letters(count: usize) -> Result<String, Error> {
    // A byte beyond the last whole round of letters would favour the first ones.
    const ROUNDS: u8 = 252;
    let mut text = String::with_capacity(count);
    while text.len() < count {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        SystemRandom::new().fill(&mut *bytes).map_err(|_| Error::Crypto { step: "make a token" })?;
        let fair = bytes.iter().filter(|b| **b < ROUNDS);
        text.extend(
            fair.take(count - text.len()).map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()])),
        );
    }
    Ok(text)
}

/// What certificates are told apart by: `sha256:` and the digest of the public key of the first one of a PEM text.
pub fn public_key_pin(certificate_pem: &str) -> Result<String, Error> {
    let facts = CertificateFacts::from_pem(certificate_pem)?;
    let digest = digest::digest(&digest::SHA256, facts.public_key());
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_one_form() {
        let token: BootstrapToken = "abcdef.0123456789abcdef".parse().expect("a token");
        assert_eq!((token.id(), token.secret()), ("abcdef", "0123456789abcdef"));
        assert_eq!(format!("{token:?}"), "BootstrapToken(abcdef)");
        for bad in
            ["", "abcdef", "abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef "]
        {
            assert!(bad.parse::<BootstrapToken>().is_err(), "{bad:?}");
        }
        let new = BootstrapToken::generate().expect("random bytes");
        assert_eq!(new.expose().parse::<BootstrapToken>().expect("a token"), new);
        assert_ne!(BootstrapToken::generate().expect("random bytes"), new);
    }

    #[test]
    fn a_signature_is_that_of_one_content_and_one_token() {
        let token = BootstrapToken::generate().expect("random bytes");
        let signature = detached_signature("content", token.id(), token.secret());
        assert!(token.signed("content", &signature));
        assert!(!token.signed("another", &signature));
        let other = BootstrapToken { secret: "0123456789abcdef".to_owned().into(), ..token };
        assert!(!other.signed("content", &signature));
    }
}
