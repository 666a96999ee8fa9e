//! A certificate authority: made, loaded, asked for certificates.

use std::time::Duration;

use aws_lc_rs::rand;
use jiff::Timestamp;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    CertificateSpec, Error, KeyAlgorithm, PrivateKey, Subject, der,
    facts::{certificate_der, certificates_der, public_key_bits},
    issue::{Kind, ToBeSigned},
    key::{key_identifier, to_pem},
};

/// How far certificates start in the past, so that a host whose clock is a little behind accepts them.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// A certificate and its key, both as PEM.
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// The key that belongs to it.
    pub key: PrivateKey,
}

/// A certificate authority: its certificate and its key.
#[derive(Debug)]
pub struct Authority {
    key: PrivateKey,
    certificate_pem: String,
    subject: Vec<u8>,
    key_id: Vec<u8>,
    not_after: Timestamp,
}

impl Authority {
    /// Makes a self-signed authority with a new key.
    pub fn create(
        subject: &Subject,
        algorithm: KeyAlgorithm,
        validity: Duration,
        now: Timestamp,
    ) -> Result<Self, Error> {
        Self::create_with_key(subject, PrivateKey::generate(algorithm)?, validity, now)
    }

    /// Makes a self-signed authority around a key that exists.
    pub fn create_with_key(
        subject: &Subject,
        key: PrivateKey,
        validity: Duration,
        now: Timestamp,
    ) -> Result<Self, Error> {
        check_common_name(&subject.common_name)?;
        let name = subject.to_der();
        let key_id = key_identifier(&public_key_bits(key.public_der())?);
        let tbs = ToBeSigned {
            serial: serial()?,
            algorithm: &key.signature_algorithm(),
            issuer: &name,
            subject: &name,
            not_before: before(now),
            not_after: after(now, validity)?,
            public_key: key.public_der(),
            authority_key_id: &key_id,
            kind: Kind::Authority(&key_id),
        }
        .to_der()?;
        let certificate_pem = sign(&key, &tbs)?;
        Self::load(&certificate_pem, key)
    }

    /// Takes an authority from its PEM certificate and its key, whoever made it. Of several certificates, as a bundle of
    /// those to trust has them, it is the one that the key belongs to.
    pub fn load(certificate_pem: &str, key: PrivateKey) -> Result<Self, Error> {
        let all = certificates_der(certificate_pem)?;
        let parse = |der| match X509Certificate::from_der(der) {
            Ok((_, certificate)) => Ok(certificate),
            Err(_) => Err(Error::Unreadable { what: "certificate" }),
        };
        let mut chosen = all.first().ok_or(Error::NotPem { wanted: "certificate" })?;
        for der in &all {
            if parse(der)?.public_key().raw == key.public_der() {
                chosen = der;
                break;
            }
        }
        let der = chosen.clone();
        let certificate = parse(&der)?;
        if !certificate.is_ca() {
            return Err(Error::NotAnAuthority);
        }
        if certificate.public_key().raw != key.public_der() {
            return Err(Error::KeyMismatch);
        }
        let key_id = certificate
            .iter_extensions()
            .find_map(|e| match e.parsed_extension() {
                x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            })
            .unwrap_or_else(|| key_identifier(&certificate.public_key().subject_public_key.data));
        let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp())
            .map_err(|_| Error::Unreadable { what: "certificate" })?;
        Ok(Self {
            subject: certificate.subject().as_raw().to_vec(),
            key_id,
            not_after,
            certificate_pem: to_pem("CERTIFICATE", &der),
            key,
        })
    }

    /// Makes a new key and a certificate for it.
    pub fn issue(
        &self,
        spec: &CertificateSpec,
        algorithm: KeyAlgorithm,
        now: Timestamp,
    ) -> Result<Issued, Error> {
        let key = PrivateKey::generate(algorithm)?;
        let certificate_pem = self.certify(spec, &key, now)?;
        Ok(Issued { certificate_pem, key })
    }

    /// Makes a certificate for a key that exists, as PEM.
    pub fn certify(&self, spec: &CertificateSpec, key: &PrivateKey, now: Timestamp) -> Result<String, Error> {
        check_common_name(&spec.subject.common_name)?;
        if self.not_after <= now {
            return Err(Error::AuthorityExpired { at: self.not_after });
        }
        let tbs = ToBeSigned {
            serial: serial()?,
            algorithm: &self.key.signature_algorithm(),
            issuer: &self.subject,
            subject: &spec.subject.to_der(),
            not_before: before(now),
            not_after: after(now, spec.validity)?.min(self.not_after),
            public_key: key.public_der(),
            authority_key_id: &self.key_id,
            kind: Kind::Leaf { usages: &spec.usages, names: &spec.names, rsa: key.is_rsa() },
        }
        .to_der()?;
        sign(&self.key, &tbs)
    }

    /// A certificate for another authority, signed by this one: sent along with what that one signed, it leads those who
    /// trust this one alone to it.
    pub fn certify_authority(&self, other: &Self, now: Timestamp) -> Result<String, Error> {
        if self.not_after <= now {
            return Err(Error::AuthorityExpired { at: self.not_after });
        }
        let tbs = ToBeSigned {
            serial: serial()?,
            algorithm: &self.key.signature_algorithm(),
            issuer: &self.subject,
            subject: &other.subject,
            not_before: before(now),
            not_after: self.not_after.min(other.not_after),
            public_key: other.key.public_der(),
            authority_key_id: &self.key_id,
            kind: Kind::Subordinate(&other.key_id),
        }
        .to_der()?;
        sign(&self.key, &tbs)
    }

    /// Whether the PEM certificate was signed by this authority.
    pub fn signed(&self, certificate_pem: &str) -> Result<bool, Error> {
        let der = certificate_der(certificate_pem)?;
        let (_, certificate) =
            X509Certificate::from_der(&der).map_err(|_| Error::Unreadable { what: "certificate" })?;
        Ok(certificate.issuer().as_raw() == self.subject.as_slice()
            && self.key.made(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data))
    }

    /// The authority's certificate, for those who have to trust it.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's key.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    pub(crate) fn subject_der(&self) -> &[u8] {
        &self.subject
    }

    pub(crate) fn key_id(&self) -> &[u8] {
        &self.key_id
    }

    /// When it expires.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

fn check_common_name(name: &str) -> Result<(), Error> {
    // RFC 5280 says 64, but `system:node:` before a host name of 253 characters is a user upstream accepts.
    if name.is_empty() || name.chars().count() > 256 { Err(Error::BadCommonName) } else { Ok(()) }
}

pub(crate) fn sign(key: &PrivateKey, tbs: &[u8]) -> Result<String, Error> {
    let signed = key.sign(tbs)?;
    let der = der::sequence(&[tbs, &key.signature_algorithm(), &der::bits(0, &signed)]);
    Ok(to_pem("CERTIFICATE", &der))
}

pub(crate) fn serial() -> Result<[u8; 16], Error> {
    let mut serial = [0; 16];
    rand::fill(&mut serial).map_err(|_| Error::Crypto { step: "draw a serial number" })?;
    serial[0] = serial[0] & 0x7f | 0x40; // positive, and of full length
    Ok(serial)
}

fn before(now: Timestamp) -> Timestamp {
    now.checked_sub(BACKDATE).unwrap_or(now)
}

fn after(now: Timestamp, validity: Duration) -> Result<Timestamp, Error> {
    let at = now.checked_add(validity).map_err(|_| Error::BadValidity)?;
    Timestamp::from_second(at.as_second()).map_err(|_| Error::BadValidity)
}
