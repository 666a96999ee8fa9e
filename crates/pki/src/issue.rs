//! What a certificate shall say, and its encoding as a to-be-signed certificate. Pure.

use std::{net::IpAddr, time::Duration};

use jiff::Timestamp;

use crate::{Error, der, signing::Usages};

/// Who a certificate speaks for: Kubernetes reads the user from the common name and the groups from the organizations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// CN: the user.
    pub common_name: String,
    /// O, any number: the groups.
    pub organizations: Vec<String>,
}

impl Subject {
    /// A subject with no group.
    pub fn new(common_name: impl Into<String>) -> Self {
        Self { common_name: common_name.into(), organizations: Vec::new() }
    }

    /// The same subject, in one more group.
    pub fn in_group(mut self, organization: impl Into<String>) -> Self {
        self.organizations.push(organization.into());
        self
    }

    /// Organizations first, in one set, then the common name: the shape Go's library writes and upstream reads.
    pub(crate) fn to_der(&self) -> Vec<u8> {
        let attribute =
            |kind: u8, value: &str| der::sequence(&[&der::oid(&[0x55, 0x04, kind]), &der::string(value)]);
        let mut names = Vec::new();
        if !self.organizations.is_empty() {
            names.extend(der::set(self.organizations.iter().map(|o| attribute(10, o)).collect()));
        }
        names.extend(der::set(vec![attribute(3, &self.common_name)]));
        der::tlv(der::SEQUENCE, &names)
    }
}

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Usage {
    /// `serverAuth`.
    Server,
    /// `clientAuth`.
    Client,
}

/// A name a server answers to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AlternativeName {
    /// A DNS name, maybe with a leading `*.`.
    Dns(String),
    /// An IP address.
    Ip(IpAddr),
}

impl AlternativeName {
    /// An address if it reads as one, else a DNS name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let bare = text.strip_prefix("*.").unwrap_or(text);
        let label = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if text.len() > 253 || !bare.split('.').all(label) {
            return Err(Error::BadName { name: text.to_owned() });
        }
        Ok(Self::Dns(text.to_ascii_lowercase()))
    }

    pub(crate) fn to_der(&self) -> Vec<u8> {
        match self {
            Self::Dns(name) => der::tlv(0x82, name.as_bytes()),
            Self::Ip(IpAddr::V4(address)) => der::tlv(0x87, &address.octets()),
            Self::Ip(IpAddr::V6(address)) => der::tlv(0x87, &address.octets()),
        }
    }
}

impl std::fmt::Display for AlternativeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

/// What to put in a certificate that is not an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSpec {
    /// Who it speaks for.
    pub subject: Subject,
    /// Names and addresses it serves.
    pub names: Vec<AlternativeName>,
    /// Extended key usages.
    pub usages: Vec<Usage>,
    /// How long it lasts from now; cut to the authority's own end.
    pub validity: Duration,
}

pub(crate) struct ToBeSigned<'a> {
    pub serial: [u8; 16],
    /// AlgorithmIdentifier of the signature to come.
    pub algorithm: &'a [u8],
    pub issuer: &'a [u8],
    pub subject: &'a [u8],
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// SubjectPublicKeyInfo of the holder.
    pub public_key: &'a [u8],
    pub authority_key_id: &'a [u8],
    pub kind: Kind<'a>,
}

pub(crate) enum Kind<'a> {
    /// Its subject key identifier.
    Authority(&'a [u8]),
    /// The same, of an authority that another one vouches for.
    Subordinate(&'a [u8]),
    Leaf {
        usages: &'a [Usage],
        names: &'a [AlternativeName],
        rsa: bool,
    },
    /// What somebody asked for; its GeneralNames, encoded.
    Requested {
        usages: &'a Usages,
        names: Vec<u8>,
    },
}

impl ToBeSigned<'_> {
    pub(crate) fn to_der(&self) -> Result<Vec<u8>, Error> {
        let time = |at| der::time(at).ok_or(Error::BadValidity);
        let extensions = der::tlv(der::SEQUENCE, &self.extensions().concat());
        Ok(der::sequence(&[
            &der::tlv(0xa0, &der::unsigned(&[2])), // version 3
            &der::unsigned(&self.serial),
            self.algorithm,
            self.issuer,
            &der::sequence(&[&time(self.not_before)?, &time(self.not_after)?]),
            self.subject,
            self.public_key,
            &der::tlv(0xa3, &extensions),
        ]))
    }

    fn extensions(&self) -> Vec<Vec<u8>> {
        const CRITICAL: bool = true;
        let mut out = Vec::new();
        match &self.kind {
            Kind::Authority(key_id) | Kind::Subordinate(key_id) => {
                // digitalSignature, keyEncipherment, keyCertSign: kubeadm's set.
                out.push(extension(15, CRITICAL, &der::named_bits(&[0, 2, 5])));
                out.push(extension(19, CRITICAL, &der::sequence(&[&der::boolean(true)])));
                out.push(extension(14, false, &der::octets(key_id)));
                if matches!(self.kind, Kind::Subordinate(_)) {
                    let issuer = der::sequence(&[&der::tlv(0x80, self.authority_key_id)]);
                    out.push(extension(35, false, &issuer));
                }
            }
            Kind::Leaf { usages, names, rsa } => {
                // keyEncipherment means something for RSA key exchange alone.
                let bits: &[u8] = if *rsa { &[0, 2] } else { &[0] };
                out.push(extension(15, CRITICAL, &der::named_bits(bits)));
                if !usages.is_empty() {
                    let purposes: Vec<u8> = usages
                        .iter()
                        .flat_map(|u| {
                            der::oid(&[0x2b, 6, 1, 5, 5, 7, 3, if *u == Usage::Server { 1 } else { 2 }])
                        })
                        .collect();
                    out.push(extension(37, false, &der::tlv(der::SEQUENCE, &purposes)));
                }
                out.push(extension(19, CRITICAL, &der::sequence(&[])));
                out.push(extension(35, false, &der::sequence(&[&der::tlv(0x80, self.authority_key_id)])));
                if !names.is_empty() {
                    let names: Vec<u8> = names.iter().flat_map(AlternativeName::to_der).collect();
                    out.push(extension(17, false, &der::tlv(der::SEQUENCE, &names)));
                }
            }
            Kind::Requested { usages, names } => {
                if !usages.bits.is_empty() {
                    out.push(extension(15, CRITICAL, &der::named_bits(&usages.bits)));
                }
                if !usages.purposes.is_empty() {
                    out.push(extension(37, false, &der::tlv(der::SEQUENCE, &usages.purposes.concat())));
                }
                out.push(extension(19, CRITICAL, &der::sequence(&[])));
                out.push(extension(35, false, &der::sequence(&[&der::tlv(0x80, self.authority_key_id)])));
                if !names.is_empty() {
                    out.push(extension(17, false, &der::tlv(der::SEQUENCE, names)));
                }
            }
        }
        out
    }
}

/// One extension of the arc 2.5.29.
fn extension(id: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { der::boolean(true) } else { Vec::new() };
    der::sequence(&[&der::oid(&[0x55, 0x1d, id]), &critical, &der::octets(value)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_addresses() {
        let check = |text: &str, want: Option<AlternativeName>| {
            assert_eq!(AlternativeName::parse(text).ok(), want, "{text}");
        };
        let dns = |s: &str| Some(AlternativeName::Dns(s.into()));
        check("10.96.0.1", Some(AlternativeName::Ip([10, 96, 0, 1].into())));
        check("::1", Some(AlternativeName::Ip(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST))));
        check("Node-1.Example.org", dns("node-1.example.org"));
        check("*.example.org", dns("*.example.org"));
        for bad in ["", "a..b", "-a", "a b", "bücher.de", "https://a", "a/24"] {
            check(bad, None);
        }
    }
}
