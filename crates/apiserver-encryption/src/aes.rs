//! AES as upstream stores it: CBC with PKCS#7, GCM bound to the storage key, and GCM under derived keys.
//! Upstream: apiserver/pkg/storage/value/encrypt/aes, 1.36.
use aws_lc_rs::aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    self, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use aws_lc_rs::iv::FixedLength;

use crate::provider::{CipherError, random};

/// Bytes of a block, and of the initialization vector before the data.
const BLOCK: usize = 16;
/// Bytes of the nonce before the data.
const NONCE: usize = 12;
/// Bytes of the tag behind the data.
const TAG: usize = 16;
/// Bytes of what a key is derived from, of that key, and the fewest bytes of a seed.
const DERIVED: usize = 32;

const SHORT: CipherError = CipherError("the stored data was shorter than the required size");
const REFUSED: CipherError = CipherError("cipher: message authentication failed");

/// `aescbc`: it hides, but does not authenticate.
pub(crate) struct Cbc {
    seal: PaddedBlockEncryptingKey,
    open: PaddedBlockDecryptingKey,
}

impl Cbc {
    /// With a key of 16, 24 or 32 bytes.
    pub(crate) fn new(key: &[u8]) -> Result<Self, CipherError> {
        let algorithm = match key.len() {
            16 => &cipher::AES_128,
            24 => &cipher::AES_192,
            32 => &cipher::AES_256,
            _ => return Err(CipherError("crypto/aes: invalid key size")),
        };
        let unusable = |_| CipherError("the key cannot be used");
        let unbound = || UnboundCipherKey::new(algorithm, key).map_err(unusable);
        Ok(Self {
            seal: PaddedBlockEncryptingKey::cbc_pkcs7(unbound()?).map_err(unusable)?,
            open: PaddedBlockDecryptingKey::cbc_pkcs7(unbound()?).map_err(unusable)?,
        })
    }

    /// Appends vector and ciphertext.
    pub(crate) fn seal(&self, data: &[u8], out: &mut Vec<u8>) -> Result<(), CipherError> {
        let iv: [u8; BLOCK] = random()?;
        let mut text = Vec::with_capacity(data.len() + BLOCK);
        text.extend_from_slice(data);
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        self.seal
            .less_safe_encrypt(&mut text, context)
            .map_err(|_| CipherError("the value cannot be encrypted"))?;
        out.extend_from_slice(&iv);
        out.extend_from_slice(&text);
        Ok(())
    }

    /// Decrypts what [`Cbc::seal`] appended.
    pub(crate) fn open(&self, data: &[u8]) -> Result<Vec<u8>, CipherError> {
        let (iv, text) = data.split_first_chunk::<BLOCK>().ok_or(SHORT)?;
        if text.is_empty() || !text.len().is_multiple_of(BLOCK) {
            return Err(CipherError("the stored data is not a multiple of the block size"));
        }
        let mut text = text.to_vec();
        let context = DecryptionContext::Iv128(FixedLength::from(*iv));
        let plain =
            self.open.decrypt(&mut text, context).map_err(|_| CipherError("invalid padding on input"))?;
        let len = plain.len();
        text.truncate(len);
        Ok(text)
    }
}

/// `aesgcm`: the storage key is authenticated too, so a value opens only where it was put.
pub(crate) struct Gcm(LessSafeKey);

impl Gcm {
    /// With a key of 16, 24 or 32 bytes.
    pub(crate) fn new(key: &[u8]) -> Result<Self, CipherError> {
        let algorithm = match key.len() {
            16 => &AES_128_GCM,
            24 => &AES_192_GCM,
            32 => &AES_256_GCM,
            _ => return Err(CipherError("crypto/aes: invalid key size")),
        };
        let key = UnboundKey::new(algorithm, key).map_err(|_| CipherError("the key cannot be used"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Appends nonce, ciphertext and tag.
    pub(crate) fn seal(&self, path: &str, data: &[u8], out: &mut Vec<u8>) -> Result<(), CipherError> {
        let nonce: [u8; NONCE] = random()?;
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(data);
        let tag = self
            .0
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(path.as_bytes()),
                &mut out[start..],
            )
            .map_err(|_| CipherError("the value cannot be encrypted"))?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Decrypts what [`Gcm::seal`] appended.
    pub(crate) fn open(&self, path: &str, data: &[u8]) -> Result<Vec<u8>, CipherError> {
        let (nonce, text) = data.split_first_chunk::<NONCE>().ok_or(SHORT)?;
        if text.len() < TAG {
            return Err(REFUSED);
        }
        let mut text = text.to_vec();
        let len = self
            .0
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(path.as_bytes()), &mut text)
            .map_err(|_| REFUSED)?
            .len();
        text.truncate(len);
        Ok(text)
    }
}

struct Derived;

impl KeyType for Derived {
    fn len(&self) -> usize {
        DERIVED
    }
}

/// What a KMS v2 provider seals with: each value gets a key of its own, derived from a seed and random bytes that are
/// stored before it. So one seed may be used without end.
pub(crate) struct ExtendedGcm(Prk);

impl ExtendedGcm {
    /// With a seed of 32 bytes or more.
    pub(crate) fn new(seed: &[u8]) -> Result<Self, CipherError> {
        if seed.len() < DERIVED {
            return Err(CipherError("invalid seed length used for key generation"));
        }
        // The seed is used as the pseudo-random key itself: it is as random as one.
        Ok(Self(Prk::new_less_safe(HKDF_SHA256, seed)))
    }

    fn derive(&self, info: &[u8]) -> Result<Gcm, CipherError> {
        let mut key = [0; DERIVED];
        self.0
            .expand(&[info], Derived)
            .and_then(|okm| okm.fill(&mut key))
            .map_err(|_| CipherError("failed to derive a key from KDF"))?;
        Gcm::new(&key)
    }

    /// Appends what the key was derived from, and what [`Gcm::seal`] appends.
    pub(crate) fn seal(&self, path: &str, data: &[u8], out: &mut Vec<u8>) -> Result<(), CipherError> {
        let info: [u8; DERIVED] = random()?;
        let key = self.derive(&info)?;
        out.extend_from_slice(&info);
        key.seal(path, data, out)
    }

    /// Decrypts what [`ExtendedGcm::seal`] appended.
    pub(crate) fn open(&self, path: &str, data: &[u8]) -> Result<Vec<u8>, CipherError> {
        let (info, text) = data.split_first_chunk::<DERIVED>().ok_or(SHORT)?;
        self.derive(info)?.open(path, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    #[test]
    fn cbc_opens_what_openssl_sealed() {
        // printf 'attack at dawn' | openssl enc -aes-256-cbc -K 00..1f -iv 0f0e..00
        let key: Vec<u8> = (0..32).collect();
        let iv: Vec<u8> = (0..16).rev().collect();
        let sealed = [iv, unhex(CBC_VECTOR)].concat();
        assert_eq!(Cbc::new(&key).unwrap().open(&sealed).unwrap(), b"attack at dawn");
    }

    /// Made by `openssl enc`.
    const CBC_VECTOR: &str = "e72b0e9007cfc22c704feec8c65d9bba";

    #[test]
    fn cbc_takes_all_key_sizes_and_lengths() {
        for size in [16, 24, 32] {
            let cbc = Cbc::new(&vec![7; size]).unwrap();
            for len in [0, 1, 15, 16, 17, 4096] {
                let mut sealed = Vec::new();
                cbc.seal(&vec![b'x'; len], &mut sealed).unwrap();
                assert_eq!(sealed.len(), BLOCK + (len / BLOCK + 1) * BLOCK);
                assert_eq!(cbc.open(&sealed).unwrap(), vec![b'x'; len]);
            }
        }
        assert!(Cbc::new(&[0; 20]).is_err());
    }

    #[test]
    fn cbc_refuses_what_is_cut() {
        let cbc = Cbc::new(&[7; 32]).unwrap();
        for len in [0, 1, 15, 16, 17, 31, 33] {
            assert!(cbc.open(&vec![0; len]).is_err(), "{len}");
        }
    }

    #[test]
    fn gcm_opens_a_known_vector_only_under_its_path() {
        // Python's cryptography: AESGCM(bytes(range(32))).encrypt(bytes(12), b"attack at dawn", b"/registry/x").
        let gcm = Gcm::new(&(0..32).collect::<Vec<u8>>()).unwrap();
        let sealed = [vec![0; 12], unhex(GCM_VECTOR)].concat();
        assert_eq!(gcm.open("/registry/x", &sealed).unwrap(), b"attack at dawn");
        assert!(gcm.open("/registry/y", &sealed).is_err());
    }

    const GCM_VECTOR: &str = "6fc8c1bfd647a3dc7c88cd546f420b7a83fc51ff928f0dcf8dc5e0c9282f";

    #[test]
    fn a_flipped_bit_is_refused() {
        let gcm = Gcm::new(&[1; 16]).unwrap();
        let extended = ExtendedGcm::new(&[1; 32]).unwrap();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        gcm.seal("/k", b"value", &mut a).unwrap();
        extended.seal("/k", b"value", &mut b).unwrap();
        assert_eq!(gcm.open("/k", &a).unwrap(), b"value");
        assert_eq!(extended.open("/k", &b).unwrap(), b"value");
        for at in 0..a.len() {
            let mut bad = a.clone();
            bad[at] ^= 1;
            assert!(gcm.open("/k", &bad).is_err(), "byte {at}");
        }
        for at in 0..b.len() {
            let mut bad = b.clone();
            bad[at] ^= 1;
            assert!(extended.open("/k", &bad).is_err(), "byte {at}");
            assert!(extended.open("/k", &b[..at]).is_err(), "cut at {at}");
        }
        assert!(extended.open("/other", &b).is_err());
    }

    #[test]
    fn derived_keys_are_those_of_hkdf_expand() {
        // RFC 5869, test case 1: PRK and the first 32 bytes of OKM for its info.
        let prk = unhex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
        let mut okm = [0; 32];
        let info = unhex("f0f1f2f3f4f5f6f7f8f9");
        let seed = ExtendedGcm::new(&prk).unwrap();
        seed.0.expand(&[&info], Derived).unwrap().fill(&mut okm).unwrap();
        assert_eq!(okm[..], unhex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"));
    }
}
