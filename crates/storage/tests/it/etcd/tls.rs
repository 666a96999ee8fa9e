//! Certificates on both sides, and what is said when they do not fit.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use storage::Etcd;
use storage::etcd::{OpenError, Options, TlsFiles};
use storage::real_etcd::{self, RealEtcd, ServerTls, free_port};

use super::options;

pub(crate) struct Authority(Issuer<'static, KeyPair>, pub(crate) PathBuf);

impl Authority {
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a CA");
        let path = dir.join(format!("{name}.crt"));
        std::fs::write(&path, certificate.pem()).expect("written");
        Self(Issuer::new(params, key), path)
    }

    pub(crate) fn issue(&self, dir: &Path, name: &str, addresses: &[IpAddr]) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.subject_alt_names = addresses.iter().copied().map(SanType::IpAddress).collect();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("signed");
        let (path, secret) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        std::fs::write(&path, certificate.pem()).expect("written");
        std::fs::write(&secret, key.serialize_pem()).expect("written");
        (path, secret)
    }
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) fn server(dir: &Path, authority: &Authority, addresses: &[IpAddr]) -> ServerTls {
    let (certificate, key) = authority.issue(dir, "server", addresses);
    ServerTls { authority: authority.1.clone(), certificate, key }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_with_certificates_on_both_sides() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(root.path(), "ca");
    let etcd = RealEtcd::start(&program, root.path(), 1, Some(server(root.path(), &authority, &[HERE])));
    let client = authority.issue(root.path(), "client", &[HERE]);
    let tls = TlsFiles { authority: authority.1.clone(), client: Some(client) };
    super::suite(&etcd, Options { tls: Some(tls), ..Options::default() }).await;
}

async fn refusal(options: Options) -> String {
    let options = Options { patience: Duration::ZERO, retry: Duration::from_secs(1), ..options };
    match Etcd::open(options).await {
        Ok(_) => panic!("opened"),
        Err(error) => error.to_string(),
    }
}

/// What an etcd says that cannot be opened, once it listens.
async fn until_it_is_up(etcd: &RealEtcd, options: Options) -> String {
    let began = Instant::now();
    loop {
        let said = refusal(options.clone()).await;
        if !said.contains("connection refused") {
            return said;
        }
        assert!(began.elapsed() < super::PATIENCE, "{said}; {}", etcd.last_words());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_said_in_plain_words() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path();
    let (authority, stranger) = (Authority::new(dir, "ca"), Authority::new(dir, "stranger"));
    let etcd = RealEtcd::start(&program, dir, 1, Some(server(dir, &authority, &[HERE])));
    let client = authority.issue(dir, "client", &[HERE]);
    let good = TlsFiles { authority: authority.1.clone(), client: Some(client.clone()) };
    let with = |tls: TlsFiles| Options { tls: Some(tls), ..options(etcd.endpoints()) };
    drop(etcd.open(with(good.clone())).await);

    let said = refusal(with(TlsFiles { authority: stranger.1.clone(), ..good.clone() })).await;
    assert!(said.contains("not signed by the CA in --etcd-cafile"), "{said}");
    let said = refusal(with(TlsFiles { client: None, ..good.clone() })).await;
    assert!(said.contains("refused our client certificate"), "{said}");
    let other = stranger.issue(dir, "other", &[HERE]);
    let said = refusal(with(TlsFiles { client: Some(other), ..good.clone() })).await;
    assert!(said.contains("refused our client certificate"), "{said}");
    let plain = options(vec![format!("http://127.0.0.1:{}", etcd.port(0))]);
    let said = refusal(plain).await;
    assert!(said.contains("http://127.0.0.1"), "{said}");
    let nobody = options(vec![format!("http://127.0.0.1:{}", free_port())]);
    let said = refusal(nobody).await;
    assert!(said.contains("connection refused; is etcd running there"), "{said}");
    let missing = TlsFiles { authority: dir.join("nothing.crt"), client: None };
    assert!(matches!(Etcd::open(with(missing)).await, Err(OpenError::File { .. })));
    let no_ca = options(etcd.endpoints());
    assert!(matches!(Etcd::open(no_ca).await, Err(OpenError::Endpoint { .. })));
    drop(etcd);

    let wrong_name = dir.join("wrong-name");
    std::fs::create_dir(&wrong_name).expect("a directory");
    let elsewhere = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let etcd = RealEtcd::start(&program, &wrong_name, 1, Some(server(&wrong_name, &authority, &[elsewhere])));
    let said = until_it_is_up(&etcd, Options { tls: Some(good.clone()), ..options(etcd.endpoints()) }).await;
    assert!(said.contains("made for other names"), "{said}");
    drop(etcd);

    let unencrypted = dir.join("unencrypted");
    std::fs::create_dir(&unencrypted).expect("a directory");
    let etcd = RealEtcd::start(&program, &unencrypted, 1, None);
    drop(super::open(&etcd).await);
    let https = Options { tls: Some(good), ..options(vec![format!("https://127.0.0.1:{}", etcd.port(0))]) };
    let said = refusal(https).await;
    assert!(said.contains("have to begin with http://"), "{said}");
}
