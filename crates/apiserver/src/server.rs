//! Starting and stopping an API server.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::kinds::{KINDS, Kind};
use apiserver_authn::{Anonymous, Authenticator, BearerToken, ClientCertificate, TokenAuthenticator, TokenCache, TokenFile, TokenUnion, Union};
use apiserver_authz::{Authorizer, always, node::NodeAuthorizer, rbac::Rbac, union};
use apiserver_http::endpoints::{KubeletAccess, ServiceAccountToken};
use apiserver_http::{Body, Check, Health, Kinds, Listener, ListenerError, Peer, Server};
use apiserver_registry::{Hook, RegistryBuilder};
use http::{Request, Response};
use machinery::StatusError;
use machinery::request::UserInfo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bootstrap::{Advertised, Bootstrap};
use crate::config::{AuthorizationMode, Config, KubeletClient};
use crate::service_allocator::ServiceAllocator;
use crate::view::View;
use crate::{endpoints, feed};

/// Why an API server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file cannot be used.
    #[error("cannot use {}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The listener does not listen.
    #[error(transparent)]
    Listen(#[from] ListenerError),
    /// The first objects cannot be written.
    #[error("cannot write the objects that every cluster starts with")]
    Bootstrap(#[source] StatusError),
    /// A setting makes no sense.
    #[error("{0}")]
    Setting(String),
}

/// A running API server.
pub struct ApiServer {
    server: Arc<Server>,
    address: SocketAddr,
    tasks: TaskTracker,
}

/// Kinds that are kept: one row for each resource, in its storage version.
fn kept() -> impl Iterator<Item = Arc<Kind>> {
    served().filter(|k| k.has_verb("list") && k.plural != "componentstatuses" && !is_second_version(k))
}

/// A version of a resource whose objects are kept in another one.
fn is_second_version(kind: &Kind) -> bool {
    kind.group == "events.k8s.io"
}

/// Kinds that are served. `autoscaling/v1` has other fields than the stored `autoscaling/v2` and is left out.
fn served() -> impl Iterator<Item = Arc<Kind>> {
    KINDS
        .iter()
        .filter(|k| k.served_by_default() && !(k.group == "autoscaling" && k.version == "v1"))
        .map(|k| Arc::new(k.clone()))
}

fn read(path: &PathBuf) -> Result<Vec<u8>, StartError> {
    std::fs::read(path).map_err(|e| StartError::File { path: path.clone(), why: e.to_string() })
}

fn unusable<'a>(path: &'a PathBuf) -> impl Fn(&dyn std::fmt::Display) -> StartError + 'a {
    move |e| StartError::File { path: path.clone(), why: e.to_string() }
}

/// A client of kubelets: our certificate, their CA.
fn kubelet_access(files: &KubeletClient) -> Result<KubeletAccess, StartError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&read(&files.authority)?) {
        let certificate = certificate.map_err(|e| unusable(&files.authority)(&e))?;
        roots.add(certificate).map_err(|e| unusable(&files.authority)(&e))?;
    }
    let chain = CertificateDer::pem_slice_iter(&read(&files.certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| unusable(&files.certificate)(&e))?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|e| unusable(&files.key)(&e))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| StartError::Setting(e.to_string()))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|e| unusable(&files.certificate)(&e))?;
    Ok(KubeletAccess {
        dialer: streaming::dial::Dialer::tls(Arc::new(config)),
        address_types: ["InternalIP", "Hostname", "InternalDNS", "ExternalDNS", "ExternalIP"]
            .map(str::to_owned)
            .to_vec(),
        limits: streaming::Limits::default(),
    })
}

/// Documents that do not change while the server runs.
fn documents(kinds: &Kinds) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    all.insert("/version".to_owned(), version());
    for (path, document) in openapi(kinds) {
        all.insert(path, document);
    }
    all
}

fn openapi(kinds: &Kinds) -> Vec<(String, Value)> {
    let mut rows: BTreeMap<(String, String), Vec<Arc<Kind>>> = BTreeMap::new();
    for kind in kinds.all() {
        rows.entry((kind.group.to_string(), kind.version.to_string())).or_default().push(kind.clone());
    }
    let _ = rows;
    Vec::new()
}

/// What `/version` says: the Kubernetes release whose API is served.
fn version() -> Value {
    serde_json::json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": format!("v1.36.0+cox.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_arch()),
    })
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl ApiServer {
    /// Starts serving; returns when `/readyz` is ok.
    pub async fn start(config: Config, stop: CancellationToken) -> Result<Self, StartError> {
        let listener = Listener::bind(config.listen, &config.tls).await?;
        let address = listener.address().map_err(|e| StartError::Setting(e.to_string()))?;

        let builder = RegistryBuilder::start(config.storage.clone(), kept());
        let view = Arc::new(View::new(builder.caches.clone(), config.storage.clone()));
        let admission = Arc::new(apiserver_admission::default_chain(view.clone()));
        let allocator =
            ServiceAllocator::new(config.storage.clone(), config.service_cidr, config.node_ports.clone())
                .map_err(StartError::Bootstrap)?;
        let mut hooks: BTreeMap<(&str, &str), Arc<dyn Hook>> = BTreeMap::new();
        hooks.insert(("", "services"), Arc::new(allocator));
        let registry = Arc::new(builder.finish(admission.clone(), &hooks));

        let rbac = Arc::new(Rbac::new());
        let node = Arc::new(NodeAuthorizer::new());
        let modes = config.authorization.iter().map(|mode| -> Box<dyn Authorizer> {
            match mode {
                AuthorizationMode::Node => Box::new(node.clone()),
                AuthorizationMode::Rbac => Box::new(rbac.clone()),
                AuthorizationMode::AlwaysAllow => Box::new(always::AlwaysAllow),
                AuthorizationMode::AlwaysDeny => Box::new(always::AlwaysDeny),
            }
        });
        let mut authorizers: Vec<Box<dyn Authorizer>> = vec![Box::new(always::PrivilegedGroups::default())];
        authorizers.extend(modes);
        let authorizer: Arc<dyn Authorizer> = Arc::new(union::Union(authorizers));

        let kinds = Kinds::new(served());
        let ready = Arc::new(AtomicBool::new(false));
        let health = health(&ready);
        let documents = documents(&kinds);
        let _ = (&documents, &kinds, &health);
        todo_wiring();
        let server: Arc<Server> = unreachable_server();
        let tasks = TaskTracker::new();
        feed::start(&registry, &rbac, &node, &stop).await;
        let advertised = Advertised {
            service_ip: first_address(&config),
            service_cidr: config.service_cidr.to_string(),
            address: config.advertise,
            port: address.port(),
        };
        let bootstrap = Bootstrap::new(&registry);
        let work = async {
            bootstrap.namespaces().await?;
            bootstrap.policy().await?;
            bootstrap.kubernetes_service(&advertised).await?;
            bootstrap.storage_answers().await
        };
        work.await.map_err(StartError::Bootstrap)?;
        ready.store(true, Ordering::Release);
        tasks.spawn(listener.serve(server.clone(), stop));
        tasks.close();
        Ok(Self { server, address, tasks })
    }

    /// The address of the HTTPS listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers a request of a part in this process, which acts as `user`.
    pub async fn handle_local(&self, user: Arc<UserInfo>, request: Request<Body>) -> Response<Body> {
        let peer = Peer { local: Some(user), ..Peer::default() };
        self.server.clone().handle(peer, request).await
    }

    /// Waits until all connections have ended after a stop.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }
}

fn first_address(config: &Config) -> String {
    let network = u32::from(config.service_cidr.network());
    std::net::Ipv4Addr::from(network + 1).to_string()
}

fn health(ready: &Arc<AtomicBool>) -> Health {
    let bootstrapped = |ready: Arc<AtomicBool>| {
        move || {
            if ready.load(Ordering::Acquire) { Ok(()) } else { Err("not finished".to_owned()) }
        }
    };
    Health(vec![
        Check { name: "log", live: true, probe: Box::new(|| Ok(())) },
        Check {
            name: "poststarthook/rbac/bootstrap-roles",
            live: true,
            probe: Box::new(bootstrapped(ready.clone())),
        },
        Check {
            name: "poststarthook/start-system-namespaces-controller",
            live: true,
            probe: Box::new(bootstrapped(ready.clone())),
        },
    ])
}
