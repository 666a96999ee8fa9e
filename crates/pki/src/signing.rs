//! Certificates for what others ask for: the permissive policy of upstream's signers
//! (pkg/controller/certificates/authority, 1.36).

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    Authority, CertificateRequest, Error,
    authority::{serial, sign},
    der,
    issue::{Kind, ToBeSigned},
};

/// Certificates that last less than this end when they were asked to; longer ones end [`BACKDATE`] earlier.
const SHORT: Duration = Duration::from_secs(8 * 3600);
/// How far certificates start in the past.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// Usages by the names that `spec.usages` of a CertificateSigningRequest has for them: bits of the key usage, and
/// purposes as the contents of their object identifiers.
const BITS: &[(&str, u8)] = &[
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

const PKIX: [u8; 7] = [0x2b, 6, 1, 5, 5, 7, 3];
const PURPOSES: &[(&str, u8)] = &[
    ("server auth", 1),
    ("client auth", 2),
    ("code signing", 3),
    ("email protection", 4),
    ("s/mime", 4),
    ("ipsec end system", 5),
    ("ipsec tunnel", 6),
    ("ipsec user", 7),
    ("timestamping", 8),
    ("ocsp signing", 9),
];
const OTHER_PURPOSES: &[(&str, &[u8])] = &[
    ("any", &[0x55, 0x1d, 0x25, 0]),
    ("microsoft sgc", &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3]),
    ("netscape sgc", &[0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1]),
];

/// Usages as the extensions that they become.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Usages {
    pub bits: Vec<u8>,
    /// Encoded object identifiers.
    pub purposes: Vec<Vec<u8>>,
}

impl Usages {
    fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self, Error> {
        let mut out = Self { bits: Vec::new(), purposes: Vec::new() };
        let mut unknown = Vec::new();
        for name in names.iter().map(AsRef::as_ref) {
            let purpose = PURPOSES
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, last)| [&PKIX[..], &[*last]].concat())
                .or_else(|| OTHER_PURPOSES.iter().find(|(n, _)| *n == name).map(|(_, o)| o.to_vec()));
            if let Some((_, bit)) = BITS.iter().find(|(n, _)| *n == name) {
                out.bits.push(*bit);
            } else if let Some(purpose) = purpose {
                out.purposes.push(der::oid(&purpose));
            } else {
                unknown.push(format!("{name:?}"));
            }
        }
        if !unknown.is_empty() {
            return Err(Error::UnknownUsages { names: unknown.join(" ") });
        }
        out.bits.sort_unstable();
        out.bits.dedup();
        out.purposes.sort();
        out.purposes.dedup();
        Ok(out)
    }
}

impl Authority {
    /// Signs what a request asks for: its subject and names as they are, these usages, for `validity` from now, but
    /// never longer than the authority itself lasts. Whether that is permitted, the caller has decided.
    pub fn sign_request<S: AsRef<str>>(
        &self,
        request: &CertificateRequest,
        usages: &[S],
        validity: Duration,
        now: Timestamp,
    ) -> Result<String, Error> {
        if self.not_after() <= now {
            return Err(Error::AuthorityExpired { at: self.not_after() });
        }
        let usages = Usages::parse(usages)?;
        let short = validity < SHORT;
        let validity = if short { validity } else { validity.saturating_sub(BACKDATE) };
        let whole = |at: Timestamp| Timestamp::from_second(at.as_second()).map_err(|_| Error::BadValidity);
        let not_after = whole(now.checked_add(validity).map_err(|_| Error::BadValidity)?)?;
        let tbs = ToBeSigned {
            serial: serial()?,
            algorithm: &self.key().signature_algorithm(),
            issuer: self.subject_der(),
            subject: request.subject_der(),
            not_before: now.checked_sub(BACKDATE).unwrap_or(now),
            not_after: not_after.min(self.not_after()),
            public_key: request.public_key(),
            authority_key_id: self.key_id(),
            kind: Kind::Requested { usages: &usages, names: request.general_names() },
        }
        .to_der()?;
        sign(self.key(), &tbs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CertificateFacts, KeyAlgorithm, PrivateKey, Subject, Usage};

    fn authority(days: u64) -> Authority {
        let validity = Duration::from_secs(days * 24 * 3600);
        Authority::create(&Subject::new("ca"), KeyAlgorithm::EcdsaP256, validity, now()).expect("an authority")
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    fn sign_for(authority: &Authority, validity: Duration) -> CertificateFacts {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let pem = key.request(&Subject::new("jane").in_group("devs"), &[]).expect("a request");
        let request = CertificateRequest::from_pem(&pem).expect("a request");
        let usages = ["digital signature", "client auth"];
        let signed = authority.sign_request(&request, &usages, validity, now()).expect("a certificate");
        assert!(authority.signed(&signed).expect("readable"));
        let facts = CertificateFacts::from_pem(&signed).expect("readable");
        assert!(facts.matches(&key));
        facts
    }

    #[test]
    fn dates_follow_the_policy() {
        let long = authority(1000);
        let facts = sign_for(&long, Duration::from_secs(24 * 3600));
        assert_eq!(facts.not_before.to_string(), "2025-12-31T23:55:00Z");
        assert_eq!(facts.not_after.to_string(), "2026-01-01T23:55:00Z");
        assert_eq!(facts.usages, [Usage::Client]);
        assert_eq!(facts.subject.organizations, ["devs"]);
        assert!(!facts.is_authority);
        let short = sign_for(&long, Duration::from_secs(600));
        assert_eq!(short.not_after.to_string(), "2026-01-01T00:10:00Z");
        let cut = sign_for(&authority(1), Duration::from_secs(900 * 24 * 3600));
        assert_eq!(cut.not_after.to_string(), "2026-01-02T00:00:00Z");
    }

    #[test]
    fn unknown_usages_are_named() {
        let error = Usages::parse(&["client auth", "flying", "x"]).expect_err("unknown");
        assert_eq!(error.to_string(), "unrecognized usage values: [\"flying\" \"x\"]");
        let all = Usages::parse(&["signing", "digital signature", "s/mime", "email protection", "any"]);
        let all = all.expect("known");
        assert_eq!((all.bits.as_slice(), all.purposes.len()), (&[0u8][..], 2));
    }
}
