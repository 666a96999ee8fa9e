//! Certificate signing requests (PKCS #10): made for a key of ours, read from anyone.

use std::net::IpAddr;

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer as _,
    x509::AttributeTypeAndValue,
};

use crate::{
    AlternativeName, Error, PrivateKey, Subject,
    der::{self, tlv},
    key::to_pem,
};

/// Larger requests are not looked at.
const LARGEST: usize = 64 * 1024;

/// What a certificate signing request says. Its signature has been checked: who made it has the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRequest {
    /// Who it asks to speak for.
    pub subject: Subject,
    /// DNS names asked for.
    pub dns_names: Vec<String>,
    /// Addresses asked for.
    pub addresses: Vec<IpAddr>,
    /// Mail addresses asked for.
    pub emails: Vec<String>,
    /// URIs asked for.
    pub uris: Vec<String>,
    subject_der: Vec<u8>,
    public_key: Vec<u8>,
}

impl CertificateRequest {
    /// Reads the first block of a PEM text and checks its signature.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let wanted = "certificate request";
        if text.len() > LARGEST {
            return Err(Error::NotPem { wanted });
        }
        let blocks = pem::parse_many(text).map_err(|_| Error::NotPem { wanted })?;
        let block = blocks.first().ok_or(Error::NotPem { wanted })?;
        if block.tag() != "CERTIFICATE REQUEST" {
            return Err(Error::NotPem { wanted });
        }
        Self::from_der(block.contents())
    }

    fn from_der(bytes: &[u8]) -> Result<Self, Error> {
        let broken = || Error::Unreadable { what: "certificate request" };
        let (rest, request) = X509CertificationRequest::from_der(bytes).map_err(|_| broken())?;
        if !rest.is_empty() {
            return Err(broken());
        }
        check_signature(&request)?;
        let info = &request.certification_request_info;
        let text = |a: &AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
        let mut out = Self {
            subject: Subject {
                // As Go reads a name, the last common name counts.
                common_name: info.subject.iter_common_name().filter_map(text).last().unwrap_or_default(),
                organizations: info.subject.iter_organization().filter_map(text).collect(),
            },
            dns_names: Vec::new(),
            addresses: Vec::new(),
            emails: Vec::new(),
            uris: Vec::new(),
            subject_der: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                for name in &names.general_names {
                    out.add_name(name)?;
                }
            }
        }
        Ok(out)
    }

    fn add_name(&mut self, name: &GeneralName<'_>) -> Result<(), Error> {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let address = <[u8; 4]>::try_from(*bytes)
                    .map(IpAddr::from)
                    .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                self.addresses
                    .push(address.map_err(|_| Error::Unreadable { what: "certificate request" })?);
            }
            // As upstream's library, which drops names of other kinds.
            _ => {}
        }
        Ok(())
    }

    /// Whether this request is about the public half of `key`.
    pub fn matches(&self, key: &PrivateKey) -> bool {
        self.public_key == key.public_der()
    }

    pub(crate) fn subject_der(&self) -> &[u8] {
        &self.subject_der
    }

    pub(crate) fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// GeneralNames, in the order Go's library writes them.
    pub(crate) fn general_names(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(self.dns_names.iter().flat_map(|n| tlv(0x82, n.as_bytes())));
        out.extend(self.emails.iter().flat_map(|n| tlv(0x81, n.as_bytes())));
        out.extend(self.addresses.iter().flat_map(|a| AlternativeName::Ip(*a).to_der()));
        out.extend(self.uris.iter().flat_map(|n| tlv(0x86, n.as_bytes())));
        out
    }
}

/// Whether the request was signed with the key it is about.
fn check_signature(request: &X509CertificationRequest<'_>) -> Result<(), Error> {
    let algorithm: &dyn VerificationAlgorithm =
        match request.signature_algorithm.algorithm.to_id_string().as_str() {
            "1.2.840.113549.1.1.11" => &signature::RSA_PKCS1_2048_8192_SHA256,
            "1.2.840.113549.1.1.12" => &signature::RSA_PKCS1_2048_8192_SHA384,
            "1.2.840.113549.1.1.13" => &signature::RSA_PKCS1_2048_8192_SHA512,
            "1.2.840.10045.4.3.2" => match curve(request) {
                "1.3.132.0.34" => &signature::ECDSA_P384_SHA256_ASN1,
                "1.3.132.0.35" => &signature::ECDSA_P521_SHA256_ASN1,
                _ => &signature::ECDSA_P256_SHA256_ASN1,
            },
            "1.2.840.10045.4.3.3" => match curve(request) {
                "1.2.840.10045.3.1.7" => &signature::ECDSA_P256_SHA384_ASN1,
                "1.3.132.0.35" => &signature::ECDSA_P521_SHA384_ASN1,
                _ => &signature::ECDSA_P384_SHA384_ASN1,
            },
            "1.2.840.10045.4.3.4" => &signature::ECDSA_P521_SHA512_ASN1,
            "1.3.101.112" => &signature::ED25519,
            _ => return Err(Error::UnsupportedRequest),
        };
    let info = &request.certification_request_info;
    UnparsedPublicKey::new(algorithm, info.subject_pki.subject_public_key.data.as_ref())
        .verify(info.raw, request.signature_value.data.as_ref())
        .map_err(|_| Error::RequestSignature)
}

/// The object identifier of the curve of the request's key; empty where it has none.
fn curve<'a>(request: &X509CertificationRequest<'_>) -> &'a str {
    let named = &request.certification_request_info.subject_pki.algorithm.parameters;
    let id = named.as_ref().and_then(|p| p.as_oid().ok()).map(|o| o.to_id_string()).unwrap_or_default();
    ["1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"].into_iter().find(|c| *c == id).unwrap_or("")
}

impl PrivateKey {
    /// Asks for a certificate for this key, as PEM.
    pub fn request(&self, subject: &Subject, names: &[AlternativeName]) -> Result<String, Error> {
        let mut attributes = Vec::new();
        if !names.is_empty() {
            let list: Vec<u8> = names.iter().flat_map(AlternativeName::to_der).collect();
            let extension =
                der::sequence(&[&der::oid(&[0x55, 0x1d, 17]), &der::octets(&tlv(der::SEQUENCE, &list))]);
            // extensionRequest, 1.2.840.113549.1.9.14
            let kind = der::oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e]);
            attributes = der::sequence(&[&kind, &der::set(vec![der::sequence(&[&extension])])]);
        }
        let info = der::sequence(&[
            &der::unsigned(&[0]),
            &subject.to_der(),
            self.public_der(),
            &tlv(0xa0, &attributes),
        ]);
        let signed = self.sign(&info)?;
        let request = der::sequence(&[&info, &self.signature_algorithm(), &der::bits(0, &signed)]);
        Ok(to_pem("CERTIFICATE REQUEST", &request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyAlgorithm;

    #[test]
    fn what_is_asked_for_is_read_back() {
        for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::Rsa2048] {
            let key = PrivateKey::generate(algorithm).expect("a key");
            let subject = Subject::new("system:node:n1").in_group("system:nodes").in_group("b");
            let names = ["n1.example.org", "10.0.0.1", "::1"].map(|n| AlternativeName::parse(n).expect(n));
            let pem = key.request(&subject, &names).expect("a request");
            let read = CertificateRequest::from_pem(&pem).expect("the same request");
            assert_eq!(read.subject.common_name, "system:node:n1");
            assert_eq!(read.subject.organizations, ["b", "system:nodes"], "DER sorts what is a set");
            assert_eq!(read.dns_names, ["n1.example.org"]);
            assert_eq!(read.addresses.len(), 2);
            assert!(read.matches(&key));
        }
    }

    #[test]
    fn a_forged_request_is_refused() {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let pem = key.request(&Subject::new("jane"), &[]).expect("a request");
        let mut bytes = pem::parse(&pem).expect("PEM").into_contents();
        let at = bytes.windows(4).position(|w| w == b"jane").expect("the name");
        bytes[at] = b'k';
        assert!(matches!(CertificateRequest::from_der(&bytes), Err(Error::RequestSignature)));
        for bad in ["", "hello", &"x".repeat(LARGEST + 1), &pem.replace("REQUEST", "")] {
            assert!(matches!(CertificateRequest::from_pem(bad), Err(Error::NotPem { .. })));
        }
    }
}
