//! What a certificate says.

use std::net::IpAddr;

use jiff::Timestamp;
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer as _, X509Certificate},
    x509::SubjectPublicKeyInfo,
};

use crate::{AlternativeName, Error, PrivateKey, Subject, Usage};

/// How much longer a certificate lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It is over.
    Expired,
    /// It is over within the given margin.
    Soon,
    /// Neither.
    Fine,
}

/// What a certificate says: read from its first PEM block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Who it speaks for.
    pub subject: Subject,
    /// Who signed it, as text (`CN=kubernetes-ca`).
    pub issuer: String,
    /// Names it serves, in the order they stand.
    pub names: Vec<AlternativeName>,
    /// Client, server, both.
    pub usages: Vec<Usage>,
    /// Start of its life.
    pub not_before: Timestamp,
    /// End of its life.
    pub not_after: Timestamp,
    /// Whether it may sign others.
    pub is_authority: bool,
    /// Serial number in hexadecimal.
    pub serial: String,
    public_key: Vec<u8>,
}

impl CertificateFacts {
    /// Reads the first certificate of a PEM text.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        Self::from_der(&certificate_der(text)?)
    }

    /// Reads the first certificate of a PEM text that is encoded once more, as kubeconfigs have it.
    pub fn from_base64(text: &str) -> Result<Self, Error> {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let wanted = "certificate";
        let bytes = STANDARD.decode(text.trim()).map_err(|_| Error::NotPem { wanted })?;
        Self::from_pem(&String::from_utf8_lossy(&bytes))
    }

    /// Reads all certificates of a PEM text, as a bundle of authorities has several.
    pub fn all_from_pem(text: &str) -> Result<Vec<Self>, Error> {
        certificates_der(text)?.iter().map(|der| Self::from_der(der)).collect()
    }

    /// Reads a certificate from DER.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let broken = Error::Unreadable { what: "certificate" };
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return Err(broken);
        };
        let validity = certificate.validity();
        let (Ok(not_before), Ok(not_after)) = (
            Timestamp::from_second(validity.not_before.timestamp()),
            Timestamp::from_second(validity.not_after.timestamp()),
        ) else {
            return Err(broken);
        };
        let mut names = Vec::new();
        let mut usages = Vec::new();
        for extension in certificate.iter_extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(list) => {
                    names.extend(list.general_names.iter().filter_map(alternative_name));
                }
                ParsedExtension::ExtendedKeyUsage(eku) => {
                    usages.extend(eku.server_auth.then_some(Usage::Server));
                    usages.extend(eku.client_auth.then_some(Usage::Client));
                }
                _ => {}
            }
        }
        let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
        Ok(Self {
            subject: Subject {
                common_name: certificate.subject().iter_common_name().find_map(text).unwrap_or_default(),
                organizations: certificate.subject().iter_organization().filter_map(text).collect(),
            },
            issuer: certificate.issuer().to_string(),
            names,
            usages,
            not_before,
            not_after,
            is_authority: certificate.is_ca(),
            serial: certificate.raw_serial_as_string().replace(':', ""),
            public_key: certificate.public_key().raw.to_vec(),
        })
    }

    /// The public key, as certificates have it: a SubjectPublicKeyInfo in DER.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Whether `key` is the one this certificate is about.
    pub fn matches(&self, key: &PrivateKey) -> bool {
        self.public_key == key.public_der()
    }

    /// Whether its life has not begun: the clock that says `now` is behind that of whoever issued it.
    pub fn is_early(&self, now: Timestamp) -> bool {
        now < self.not_before
    }

    /// How this certificate stands at `now`, with `margin` counting as soon.
    pub fn expiry(&self, now: Timestamp, margin: std::time::Duration) -> Expiry {
        if self.not_after <= now {
            Expiry::Expired
        } else if now.checked_add(margin).is_ok_and(|edge| self.not_after <= edge) {
            Expiry::Soon
        } else {
            Expiry::Fine
        }
    }
}

fn alternative_name(name: &GeneralName<'_>) -> Option<AlternativeName> {
    match name {
        GeneralName::DNSName(name) => Some(AlternativeName::Dns((*name).to_owned())),
        GeneralName::IPAddress(bytes) => {
            if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                Some(AlternativeName::Ip(IpAddr::from(v4)))
            } else {
                <[u8; 16]>::try_from(*bytes).ok().map(|v6| AlternativeName::Ip(IpAddr::from(v6)))
            }
        }
        _ => None,
    }
}

/// Whether a PEM text holds certificates and nothing else; the error says what is wrong, in upstream's words.
pub fn check_certificates(text: &str) -> Result<(), String> {
    let blocks = pem::parse_many(text).map_err(|e| e.to_string())?;
    if blocks.is_empty() {
        return Err("must contain at least one CERTIFICATE PEM block".into());
    }
    for block in blocks {
        if block.tag() != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.tag()));
        }
        if block.headers().iter().next().is_some() {
            return Err("no PEM block headers are permitted".into());
        }
        X509Certificate::from_der(block.contents())
            .map_err(|e| format!("x509: malformed certificate: {e}"))?;
    }
    Ok(())
}

/// The first certificate of a PEM text, as DER.
pub(crate) fn certificate_der(text: &str) -> Result<Vec<u8>, Error> {
    certificates_der(text)?.into_iter().next().ok_or(Error::NotPem { wanted: "certificate" })
}

/// All certificates of a PEM text, as DER; one at least.
pub(crate) fn certificates_der(text: &str) -> Result<Vec<Vec<u8>>, Error> {
    let wanted = "certificate";
    let blocks = pem::parse_many(text).map_err(|_| Error::NotPem { wanted })?;
    let all: Vec<Vec<u8>> =
        blocks.into_iter().filter(|b| b.tag() == "CERTIFICATE").map(pem::Pem::into_contents).collect();
    if all.is_empty() { Err(Error::NotPem { wanted }) } else { Ok(all) }
}

/// The bits of the key inside a SubjectPublicKeyInfo.
pub(crate) fn public_key_bits(spki: &[u8]) -> Result<Vec<u8>, Error> {
    let (_, info) =
        SubjectPublicKeyInfo::from_der(spki).map_err(|_| Error::Unreadable { what: "public key" })?;
    Ok(info.subject_public_key.data.to_vec())
}
