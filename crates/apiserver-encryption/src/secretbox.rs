//! XSalsa20 and Poly1305, as NaCl's `secretbox`. Upstream: apiserver/pkg/storage/value/encrypt/secretbox, 1.36.
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use crypto_secretbox::{Nonce, XSalsa20Poly1305};

use crate::provider::{CipherError, random};

/// Bytes of the nonce before the data: so many that random ones never meet.
const NONCE: usize = 24;

/// `secretbox`: hides and authenticates; it knows nothing of the storage key.
pub(crate) struct Secretbox(XSalsa20Poly1305);

impl Secretbox {
    /// With a key of 32 bytes.
    pub(crate) fn new(key: &[u8]) -> Result<Self, CipherError> {
        let key: [u8; 32] =
            key.try_into().map_err(|_| CipherError("expected key size 32 for secretbox provider"))?;
        Ok(Self(XSalsa20Poly1305::new(&key.into())))
    }

    /// Appends nonce, tag and ciphertext.
    pub(crate) fn seal(&self, data: &[u8], out: &mut Vec<u8>) -> Result<(), CipherError> {
        let nonce: [u8; NONCE] = random()?;
        let sealed = self
            .0
            .encrypt(Nonce::from_slice(&nonce), data)
            .map_err(|_| CipherError("the value cannot be encrypted"))?;
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(())
    }

    /// Decrypts what [`Secretbox::seal`] appended.
    pub(crate) fn open(&self, data: &[u8]) -> Result<Vec<u8>, CipherError> {
        let (nonce, text) = data
            .split_first_chunk::<NONCE>()
            .ok_or(CipherError("the stored data was shorter than the required size"))?;
        self.0
            .decrypt(Nonce::from_slice(nonce), text)
            .map_err(|_| CipherError("output array was not large enough for encryption"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of NaCl's own tests (tests/secretbox.c): key, nonce, message, box.
    #[test]
    fn it_opens_nacls_own_vector() {
        let unhex = |t: &str| -> Vec<u8> {
            (0..t.len()).step_by(2).map(|i| u8::from_str_radix(&t[i..i + 2], 16).unwrap()).collect()
        };
        let key = unhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = unhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        let message = unhex(concat!(
            "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffc",
            "e5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb31",
            "0e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde",
            "048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f93776384864",
            "5e0705"
        ));
        let sealed = unhex(concat!(
            "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce",
            "48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c972",
            "71d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae",
            "90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b3",
            "7973f622a43d14a6599b1f654cb45a74e355a5"
        ));
        let data = [nonce, sealed].concat();
        assert_eq!(Secretbox::new(&key).unwrap().open(&data).unwrap(), message);
    }

    #[test]
    fn what_was_tampered_with_is_refused() {
        let secretbox = Secretbox::new(&[3; 32]).unwrap();
        let mut sealed = Vec::new();
        secretbox.seal(b"value", &mut sealed).unwrap();
        assert_eq!(secretbox.open(&sealed).unwrap(), b"value");
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 0x80;
            assert!(secretbox.open(&bad).is_err(), "byte {at}");
            assert!(secretbox.open(&sealed[..at]).is_err(), "cut at {at}");
        }
    }
}
