//! Client certificates: the common name is the user, organizations are groups.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use machinery::request::UserInfo;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Version};

use crate::{AuthRequest, Authenticator, AuthnError, CREDENTIAL_ID, Now, sha256, with_authenticated_group};

/// How long a checked chain counts as checked; the leaf's own dates are looked at every time.
const RECHECK: Duration = Duration::from_secs(60);
const MAX_ENTRIES: usize = 1024;

/// Checks client certificates against a bundle of CAs.
pub struct ClientCertificate {
    verifier: Arc<dyn ClientCertVerifier>,
    authorities: Vec<CertificateDer<'static>>,
    now: Now,
    checked: Mutex<HashMap<[u8; 32], Checked>>,
}

struct Checked {
    until: SystemTime,
    user: Arc<UserInfo>,
}

/// Why a CA bundle is no good.
#[derive(Debug, thiserror::Error)]
pub enum ClientCertificateError {
    /// Not PEM, or no certificate in it.
    #[error("the client CA bundle holds no readable certificate")]
    NoCertificates,
    /// A certificate that cannot be a trust anchor.
    #[error("the client CA bundle is not usable: {0}")]
    Unusable(String),
}

impl ClientCertificate {
    /// Trusts the CAs of a PEM bundle.
    pub fn new(ca_bundle: &[u8], now: Now) -> Result<Self, ClientCertificateError> {
        let mut roots = RootCertStore::empty();
        let mut authorities = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(ca_bundle) {
            let certificate = certificate.map_err(|_| ClientCertificateError::NoCertificates)?;
            authorities.push(certificate.clone());
            roots.add(certificate).map_err(|e| ClientCertificateError::Unusable(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(ClientCertificateError::NoCertificates);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|e| ClientCertificateError::Unusable(e.to_string()))?;
        Ok(Self { verifier, authorities, now, checked: Mutex::default() })
    }

    /// The user of a chain, leaf first; `None` for an empty one.
    pub fn user(&self, chain: &[CertificateDer<'_>]) -> Result<Option<Arc<UserInfo>>, AuthnError> {
        let Some((leaf, intermediates)) = chain.split_first() else { return Ok(None) };
        let now = (self.now)();
        let key = sha256(&[leaf]);
        {
            let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(hit) = checked.get(&key)
                && now < hit.until
            {
                return Ok(Some(hit.user.clone()));
            }
        }
        let (_, parsed) =
            X509Certificate::from_der(leaf).map_err(|_| AuthnError("x509: malformed certificate".into()))?;
        let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let good = if parsed.version() == X509Version::V1 {
            self.verify_first_version(&parsed, since)
        } else {
            let time = UnixTime::since_unix_epoch(since);
            self.verifier.verify_client_cert(leaf, intermediates, time).map(drop)
        };
        good.map_err(|e| refusal(&parsed, &e, now))?;
        let user = subject(&parsed, &key);
        // A certificate without a name names nobody.
        if user.name.is_empty() {
            return Ok(None);
        }
        let user = Arc::new(with_authenticated_group(user));
        let not_after = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let until = (now + RECHECK).min(UNIX_EPOCH + Duration::from_secs(not_after));
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.len() >= MAX_ENTRIES {
            checked.retain(|_, c| now < c.until);
        }
        if checked.len() < MAX_ENTRIES {
            checked.insert(key, Checked { until, user: user.clone() });
        }
        Ok(Some(user))
    }
}

impl ClientCertificate {
    /// Checks a certificate of X.509's first version, which has no extensions: `openssl x509 -req` makes those by itself,
    /// Go takes them, and the library knows the third version alone. One of our authorities has to have signed it itself.
    fn verify_first_version(&self, leaf: &X509Certificate<'_>, now: Duration) -> Result<(), rustls::Error> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < leaf.validity().not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > leaf.validity().not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
        let signed_by = |authority: &CertificateDer<'_>| {
            let Ok((_, authority)) = X509Certificate::from_der(authority) else { return false };
            let (key, signature) =
                (&authority.public_key().subject_public_key.data, &leaf.signature_value.data);
            authority.subject().as_raw() == leaf.issuer().as_raw()
                && algorithms
                    .iter()
                    .any(|one| one.verify_signature(key, leaf.tbs_certificate.as_ref(), signature).is_ok())
        };
        if self.authorities.iter().any(signed_by) {
            return Ok(());
        }
        Err(CertificateError::UnknownIssuer.into())
    }
}

/// Whom a certificate names.
fn subject(certificate: &X509Certificate<'_>, fingerprint: &[u8; 32]) -> UserInfo {
    let subject = certificate.subject();
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute.as_str().unwrap_or("").to_owned()
    };
    let mut user = UserInfo::default();
    // As Go reads a name, the last common name counts.
    if let Some(name) = subject.iter_common_name().last() {
        user.name = text(name);
    }
    user.groups = subject.iter_organization().map(text).filter(|g| !g.is_empty()).collect();
    user.uid = subject
        .iter_attributes()
        .find(|a| a.attr_type().to_id_string() == USER_UID_OID)
        .map(text)
        .unwrap_or_default();
    let hex: String = fingerprint.iter().map(|b| format!("{b:02x}")).collect();
    user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={hex}")]);
    user
}

/// The attribute of a subject that upstream reads as the user's uid.
const USER_UID_OID: &str = "1.3.6.1.4.1.57683.2";

/// Why a certificate is refused, in the words Go's verifier uses.
fn refusal(certificate: &X509Certificate<'_>, error: &rustls::Error, now: SystemTime) -> AuthnError {
    let time = |t: i64| jiff::Timestamp::from_second(t).map(|t| t.to_string()).unwrap_or_default();
    let now = time(crate::unix_seconds(now));
    let validity = certificate.validity();
    let why = match error {
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => format!(
            "x509: certificate has expired or is not yet valid: current time {now} is after {}",
            time(validity.not_after.timestamp())
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => format!(
            "x509: certificate has expired or is not yet valid: current time {now} is before {}",
            time(validity.not_before.timestamp())
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "x509: certificate signed by unknown authority".to_owned(),
        rustls::Error::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        ) => "x509: certificate specifies an incompatible key usage".to_owned(),
        other => format!("x509: {other}"),
    };
    AuthnError(format!("verifying certificate SN={} failed: {why}", certificate.serial))
}

#[async_trait]
impl Authenticator for ClientCertificate {
    async fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Option<Arc<UserInfo>>, AuthnError> {
        self.user(request.client_certs)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };

    use super::*;

    const T2025: u64 = 1_735_689_600;
    const DAY: u64 = 86_400;

    fn ca() -> (String, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "ca");
        let pem = params.self_signed(&key).unwrap().pem();
        (pem, Issuer::new(params, key))
    }

    fn leaf(ca: &Issuer<'_, KeyPair>, purpose: ExtendedKeyUsagePurpose) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "system:node:n1");
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.extended_key_usages = vec![purpose];
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2025, 1, 11);
        params.signed_by(&KeyPair::generate().unwrap(), ca).unwrap().der().clone()
    }

    fn at(seconds: &Arc<AtomicU64>) -> Now {
        let seconds = seconds.clone();
        Arc::new(move || UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::Relaxed)))
    }

    /// As `openssl req -x509` and `openssl x509 -req` make them.
    const OLD_CA: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBeDCCAR+gAwIBAgIUStqiV28bBwZ2T0frz7q9SWA8mIIwCgYIKoZIzj0EAwIw\n\
        EjEQMA4GA1UEAwwHa3ViZS1jYTAeFw0yNjExMjAxNTU5MzRaFw0zNjExMTcxNTU5\n\
        MzRaMBIxEDAOBgNVBAMMB2t1YmUtY2EwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
        AAQBwF0kMx0tn/WIdWK9/zqdHGsY0uc3gjGE2USuYhEEcsYMMjuQlxabhllKRa7T\n\
        4F6VdX5gnStzJ25cW08hAB3Qo1MwUTAdBgNVHQ4EFgQUY4fn7b9aHgxyk1OLiBdc\n\
        b9AjQXQwHwYDVR0jBBgwFoAUY4fn7b9aHgxyk1OLiBdcb9AjQXQwDwYDVR0TAQH/\n\
        BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiB1DcTmqDzbGEp/qOsHUQUBEJjjg+GO\n\
        hV7NxlLNLiOpqwIgJ3GeEHxNFWJL5YmxiwofG6DPY6VXUIz+vw3tEQcyyvU=\n\
        -----END CERTIFICATE-----\n\
        ";
    const OLD_LEAF: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBOzCB4QIUO/e+jt3X7FCrQAa2gEStCqBTegQwCgYIKoZIzj0EAwIwEjEQMA4G\n\
        A1UEAwwHa3ViZS1jYTAeFw0yNjExMjAxNTU5MzVaFw0yNzExMjAxNTU5MzVaMC4x\n\
        FzAVBgNVBAoMDnN5c3RlbTptYXN0ZXJzMRMwEQYDVQQDDAprdWJlLWFkbWluMFkw\n\
        EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAERuGfBFQABPLe9FrXaNv/+t8ZXzUAT+PM\n\
        Z/ljQ2y9j/nXa8uxRoaYE8jT1I3SMpVDfIVRqC+QAiuHjF9N7jtcSjAKBggqhkjO\n\
        PQQDAgNJADBGAiEAhtY+mUEqgIU9kjxW/4O7CP84+CajUZmdsDsVZK9N1yMCIQDh\n\
        3TCdY42et+lFiQgsMu1j2lR7CePVUbEfUwrqk0SOtg==\n\
        -----END CERTIFICATE-----\n\
        ";

    #[test]
    fn a_certificate_of_the_first_version_is_checked_too() {
        let seconds = Arc::new(AtomicU64::new(1_795_300_000));
        let trusting = ClientCertificate::new(OLD_CA.as_bytes(), at(&seconds)).unwrap();
        let leaf = CertificateDer::from_pem_slice(OLD_LEAF.as_bytes()).unwrap();
        let user = trusting.user(std::slice::from_ref(&leaf)).unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.groups[0].as_str()), ("kube-admin", "system:masters"));

        let other = ClientCertificate::new(ca().0.as_bytes(), at(&seconds)).unwrap();
        assert!(other.user(std::slice::from_ref(&leaf)).unwrap_err().0.contains("unknown authority"));
        // The same words signed by nobody: the last byte of the signature is another one.
        let mut forged = leaf.to_vec();
        *forged.last_mut().unwrap() ^= 1;
        let fresh = ClientCertificate::new(OLD_CA.as_bytes(), at(&seconds)).unwrap();
        assert!(fresh.user(&[CertificateDer::from(forged)]).is_err());
        seconds.fetch_add(400 * DAY, Ordering::Relaxed);
        assert!(fresh.user(std::slice::from_ref(&leaf)).unwrap_err().0.contains("has expired"));
    }

    #[test]
    fn names_the_user_until_the_certificate_expires() {
        let (pem, issuer) = ca();
        let seconds = Arc::new(AtomicU64::new(T2025 + DAY));
        let method = ClientCertificate::new(pem.as_bytes(), at(&seconds)).unwrap();
        let chain = [leaf(&issuer, ExtendedKeyUsagePurpose::ClientAuth)];
        let user = method.user(&chain).unwrap().unwrap();
        assert_eq!(user.name, "system:node:n1");
        assert_eq!(user.groups, ["system:nodes", "system:authenticated"]);
        assert!(user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
        assert!(Arc::ptr_eq(&user, &method.user(&chain).unwrap().unwrap()), "the second look is from memory");
        seconds.store(T2025 + 11 * DAY, Ordering::Relaxed);
        let error = method.user(&chain).unwrap_err().to_string();
        assert!(error.contains("is after 2025-01-11T00:00:00Z"), "{error}");
        seconds.store(T2025 - DAY, Ordering::Relaxed);
        let error = ClientCertificate::new(pem.as_bytes(), at(&seconds))
            .unwrap()
            .user(&chain)
            .unwrap_err()
            .to_string();
        assert!(error.contains("is before 2025-01-01T00:00:00Z"), "{error}");
        assert_eq!(method.user(&[]), Ok(None));
    }

    #[test]
    fn refuses_strangers_and_servers() {
        let (pem, issuer) = ca();
        let (_, foreign) = ca();
        let seconds = Arc::new(AtomicU64::new(T2025 + DAY));
        let method = ClientCertificate::new(pem.as_bytes(), at(&seconds)).unwrap();
        let refused = |chain: CertificateDer<'static>| method.user(&[chain]).unwrap_err().to_string();
        let error = refused(leaf(&foreign, ExtendedKeyUsagePurpose::ClientAuth));
        assert!(error.ends_with("x509: certificate signed by unknown authority"), "{error}");
        let error = refused(leaf(&issuer, ExtendedKeyUsagePurpose::ServerAuth));
        assert!(error.ends_with("x509: certificate specifies an incompatible key usage"), "{error}");
        assert_eq!(refused(CertificateDer::from(vec![1, 2, 3])), "x509: malformed certificate");
        assert!(ClientCertificate::new(b"nothing", at(&seconds)).is_err());
    }
}
