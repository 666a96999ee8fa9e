//! TLS of the listener: versions and cipher suites by upstream's names, certificates by the name that a client asks for.
//! Upstream: k8s.io/component-base/cli/flag/ciphersuites_flag.go and apiserver/pkg/server/options/serving.go, 1.36.
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use pki::Fresh;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SupportedProtocolVersion, version};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::listener::TlsFiles;

/// `--tls-min-version`, `--tls-cipher-suites`, `--tls-sni-cert-key`.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// The lowest version that is spoken.
    pub min_version: MinVersion,
    /// Suites of TLS 1.2 that are spoken; empty: all that are known. Those of 1.3 are not chosen, as in upstream.
    pub cipher_suites: Vec<CipherSuiteName>,
    /// Certificates for certain names.
    pub sni: Vec<SniCertificate>,
}

/// The lowest version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MinVersion {
    /// TLS 1.2.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl FromStr for MinVersion {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "" | "VersionTLS12" => Ok(Self::Tls12),
            "VersionTLS13" => Ok(Self::Tls13),
            "VersionTLS10" | "VersionTLS11" => {
                Err(format!("{name} is not spoken by this server; use VersionTLS12 or VersionTLS13"))
            }
            _ => Err(format!("unknown tls version {name:?}; known are VersionTLS12, VersionTLS13")),
        }
    }
}

impl MinVersion {
    pub(crate) fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
        match self {
            Self::Tls12 => BOTH,
            Self::Tls13 => &BOTH[..1],
        }
    }
}

/// A cipher suite that can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CipherSuiteName(CipherSuite);

const SUITES: &[(&str, CipherSuite)] = &[
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

impl FromStr for CipherSuiteName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        // Old names that Go still knows.
        let current = match name {
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            same => same,
        };
        SUITES.iter().find(|(known, _)| *known == current).map(|(_, suite)| Self(*suite)).ok_or_else(|| {
            let known: Vec<&str> = SUITES.iter().map(|(name, _)| *name).collect();
            format!("Cipher suite {name} not supported or doesn't exist; known are {}", known.join(", "))
        })
    }
}

/// The provider with the chosen suites of TLS 1.2 and all of 1.3.
pub(crate) fn provider(options: &TlsOptions) -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    if !options.cipher_suites.is_empty() {
        provider.cipher_suites.retain(|suite| {
            suite.tls13().is_some() || options.cipher_suites.contains(&CipherSuiteName(suite.suite()))
        });
    }
    provider
}

/// A certificate for certain names: `CERT,KEY` or `CERT,KEY:NAME,*.NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SniCertificate {
    /// The files.
    pub files: TlsFiles,
    /// Names it is shown for; empty: those that it has.
    pub names: Vec<String>,
}

impl FromStr for SniCertificate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (files, names) = text.rsplit_once(':').map_or((text, None), |(f, n)| (f, Some(n)));
        match files.split(',').collect::<Vec<_>>().as_slice() {
            [certificate, key] if !certificate.is_empty() && !key.is_empty() => {
                let path = |p: &str| PathBuf::from(p.trim());
                let names = names.unwrap_or_default().split(',').map(str::trim).filter(|n| !n.is_empty());
                Ok(Self {
                    files: TlsFiles { certificate: path(certificate), key: path(key) },
                    names: names.map(str::to_ascii_lowercase).collect(),
                })
            }
            _ => Err("expected comma separated certificate and key file paths".into()),
        }
    }
}

/// A certificate with its key, and the names it has.
#[derive(Debug)]
struct Served {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
}

type Files = Fresh<Served>;

fn open(files: &TlsFiles) -> Result<Files, pki::FreshError> {
    Fresh::open(vec![files.certificate.clone(), files.key.clone()], |contents| {
        let [certificates, key] = contents else { return Err("a certificate and a key are wanted".into()) };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())?;
        let leaf = chain.first().ok_or("there is no certificate in it")?;
        let facts = pki::CertificateFacts::from_der(leaf).map_err(|e| e.to_string())?;
        let names = facts.names.iter().map(|n| n.to_string().to_ascii_lowercase()).collect();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| format!("its key: {e}"))?;
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(|e| format!("does its key belong to it? {e}"))?;
        certified.keys_match().map_err(|e| format!("does its key belong to it? {e}"))?;
        Ok(Served { key: Arc::new(certified), names })
    })
}

/// Gives each handshake its certificate, as the files are now.
#[derive(Debug)]
pub(crate) struct Certificates {
    default: Files,
    sni: Vec<(Vec<String>, Files)>,
}

impl Certificates {
    pub(crate) fn open(files: &TlsFiles, sni: &[SniCertificate]) -> Result<Self, pki::FreshError> {
        let sni = sni.iter().map(|one| Ok((one.names.clone(), open(&one.files)?)));
        Ok(Self { default: open(files)?, sni: sni.collect::<Result<_, _>>()? })
    }

    fn for_name(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        if let Some(name) = name {
            let name = name.to_ascii_lowercase();
            let served: Vec<Arc<Served>> = self.sni.iter().map(|(_, files)| files.get()).collect();
            let lists: Vec<&[String]> = self
                .sni
                .iter()
                .zip(&served)
                .map(|((names, _), served)| if names.is_empty() { &served.names[..] } else { &names[..] })
                .collect();
            if let Some(i) = best(&lists, &name) {
                return served[i].key.clone();
            }
        }
        self.default.get().key.clone()
    }
}

/// Which list is for this name: one that has it, or else one with a wildcard in place of its first label.
fn best(lists: &[&[String]], name: &str) -> Option<usize> {
    let has = |wanted: &str| lists.iter().position(|list| list.iter().any(|n| n == wanted));
    has(name).or_else(|| has(&format!("*.{}", name.split_once('.')?.1)))
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.for_name(hello.server_name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams() {
        assert_eq!("VersionTLS13".parse(), Ok(MinVersion::Tls13));
        assert!("VersionTLS10".parse::<MinVersion>().unwrap_err().contains("VersionTLS12"));
        assert!("TLS1.2".parse::<MinVersion>().unwrap_err().contains("known are"));
        let error = "TLS_RSA_WITH_RC4_128_SHA".parse::<CipherSuiteName>().unwrap_err();
        assert!(error.contains("not supported or doesn't exist"), "{error}");
        assert!(error.contains("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"), "{error}");
        let one: CipherSuiteName = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305".parse().unwrap();
        let options = TlsOptions { cipher_suites: vec![one], ..TlsOptions::default() };
        let left = provider(&options).cipher_suites;
        assert_eq!(left.iter().filter(|s| s.tls13().is_none()).count(), 1);
        assert_eq!(left.iter().filter(|s| s.tls13().is_some()).count(), 3);
    }

    #[test]
    fn certificates_for_names() {
        let read: SniCertificate = "a.crt,a.key:*.Example.org,x".parse().unwrap();
        assert_eq!(read.names, ["*.example.org", "x"]);
        assert!("a.crt,a.key".parse::<SniCertificate>().unwrap().names.is_empty());
        assert!("a.crt".parse::<SniCertificate>().is_err() && "a,b,c".parse::<SniCertificate>().is_err());
        let lists = [vec!["*.a.b".to_owned()], vec!["x.a.b".to_owned()]];
        let lists: Vec<&[String]> = lists.iter().map(Vec::as_slice).collect();
        for (name, want) in
            [("x.a.b", Some(1)), ("y.a.b", Some(0)), ("a.b", None), ("z.y.a.b", None), ("", None)]
        {
            assert_eq!(best(&lists, name), want, "{name}");
        }
    }
}
