//! What a whole API server keeps secret, and what it records, over a store on disk, in one binary.
mod audit;
mod encryption;
mod keys;
#[allow(dead_code)]
#[path = "../../../apiserver-encryption/tests/it/plugin.rs"]
mod plugin;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use apiserver::{ApiServer, AuthorizationMode, Body, Config, EncryptionFile, ServiceAccounts, TlsFiles};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use machinery::request::UserInfo;
use pki::{ClusterPki, PkiSpec};
use serde_json::Value;
use storage::{Embedded, OpenError, Options};
use tokio_util::sync::CancellationToken;

/// A server with its directory's store.
struct Live {
    server: ApiServer,
    stop: CancellationToken,
    authority: std::path::PathBuf,
}

/// Opens the store of a directory. A server that has stopped lets go of it when its last task has ended.
async fn store(dir: &Path) -> Embedded {
    let began = std::time::Instant::now();
    loop {
        match Embedded::open(dir.join("db"), Options { sync: false, ..Options::default() }) {
            Err(OpenError::Locked { .. }) if began.elapsed().as_secs() < 30 => {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            opened => return opened.unwrap(),
        }
    }
}

/// Starts a server on a directory; `encryption.yaml` in it is followed, if it is there.
async fn start(dir: &Path, audit: Option<apiserver::audit::Config>) -> Live {
    let config = configured(dir, audit, 0).await;
    let stop = CancellationToken::new();
    let authority = config.client_ca.clone();
    Live {
        server: ApiServer::start(config, stop.clone()).await.unwrap(),
        stop,
        authority: authority.expect("the test config has one"),
    }
}

/// What such a server is told; 0: any port.
async fn configured(dir: &Path, audit: Option<apiserver::audit::Config>, port: u16) -> Config {
    let pki = ClusterPki::at(dir.join("pki"));
    pki.ensure(&PkiSpec::default(), Timestamp::now()).unwrap();
    let encryption = dir.join("encryption.yaml");
    let keys = vec![pki.service_account_public_key()];
    let accounts = ServiceAccounts::new(pki.service_account_key(), keys, "https://kubernetes.default.svc");
    let tls = TlsFiles { certificate: pki.api_server().certificate, key: pki.api_server().key };
    Config {
        encryption: encryption.exists().then_some(EncryptionFile { path: encryption, reload: true }),
        audit,
        listen: SocketAddr::from(([127, 0, 0, 1], port)),
        // Only written down, as the address of the `kubernetes` Service; loopback may not be one.
        advertise: [192, 0, 2, 1].into(),
        authorization: vec![AuthorizationMode::Rbac],
        ..Config::new(Arc::new(store(dir).await), tls, pki.authority().certificate, accounts)
    }
}

impl Live {
    /// Asks as `user`, whose groups are behind an `@`.
    async fn ask_as(
        &self,
        user: &str,
        request: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (StatusCode, Value) {
        let (name, groups) = user.split_once('@').unwrap_or((user, "system:authenticated"));
        let user = Arc::new(UserInfo::new(name, &groups.split(',').collect::<Vec<_>>()));
        let (method, path) = request.split_once(' ').unwrap();
        let mut builder = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let full = http_body_util::Full::new(bytes::Bytes::copy_from_slice(body.as_bytes()));
        let body: Body = full.map_err(|never| match never {}).boxed_unsync();
        let answer = self.server.handle_local(user, builder.body(body).unwrap()).await;
        let status = answer.status();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Asks as the administrator, and expects to be served.
    async fn ask(&self, request: &str, body: &str) -> Value {
        let (status, answer) = self.ask_as("admin@system:masters", request, &[], body).await;
        assert!(status.is_success(), "{request}: {answer}");
        answer
    }

    /// Who vouches for the server.
    fn authority(&self) -> rustls::RootCertStore {
        use rustls_pki_types::pem::PemObject as _;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(rustls_pki_types::CertificateDer::from_pem_file(&self.authority).unwrap()).unwrap();
        roots
    }

    async fn stop(self) {
        self.stop.cancel();
        self.server.stopped().await;
    }
}

fn secret(name: &str, value: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Secret","metadata":{{"name":"{name}"}},"stringData":{{"p":"{value}"}}}}"#
    )
}
