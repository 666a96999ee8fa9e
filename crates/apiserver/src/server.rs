//! Starting and stopping an API server.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::kinds::{KINDS, Kind};
use apiserver_authn::service_account::{
    ServiceAccountTokens, SigningKey, TokenIssuer, VerifyKeys, openid_configuration,
};
use apiserver_authn::{
    Authenticator, BearerToken, BootstrapTokens, ClientCertificate, TokenAuthenticator, TokenCache,
    TokenFile, TokenUnion, Union, system_time,
};
use apiserver_authz::node::NodeAuthorizer;
use apiserver_authz::rbac::Rbac;
use apiserver_authz::{Authorizer, always};
use apiserver_http::endpoints::{KubeletAccess, ServiceAccountToken};
use apiserver_http::metrics::{Metrics, Source, Text, Type};
use apiserver_http::{
    Body, Check, Health, Kinds, Limits, Listener, ListenerError, OpenApi, Peer, Probe, Server,
};
use apiserver_registry::{Hook, Registry, RegistryBuilder};
use http::{Request, Response};
use machinery::StatusError;
use machinery::request::UserInfo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use storage::Storage;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bootstrap::{Advertised, Bootstrap};
use crate::config::{AuthorizationMode, Config, KubeletClient};
use crate::masters::Masters;
use crate::guards::{self, MaySign, Quotas, RbacEscalation, RequesterOfCertificate};
use crate::metered::{Metered, StoreTimes};
use crate::service_allocator::ServiceAllocator;
use crate::view::View;
use crate::{endpoints, feed, service_repair};

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
    kind.group == "events.k8s.io" || (kind.group == "autoscaling" && kind.version == "v1")
}

/// Kinds that are served.
fn served() -> impl Iterator<Item = Arc<Kind>> {
    KINDS.iter().filter(|k| k.served_by_default()).map(|k| Arc::new(k.clone()))
}

fn read(path: &PathBuf) -> Result<Vec<u8>, StartError> {
    std::fs::read(path).map_err(|e| StartError::File { path: path.clone(), why: e.to_string() })
}

fn unusable<'a>(path: &'a Path) -> impl Fn(&dyn std::fmt::Display) -> StartError + 'a {
    move |e| StartError::File { path: path.to_owned(), why: e.to_string() }
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

/// Everything about who one is.
struct Identity {
    requests: Box<dyn Authenticator>,
    tokens: Arc<dyn TokenAuthenticator>,
    issuer: TokenIssuer,
    discovery: Value,
    jwks: Value,
}

fn identity(config: &Config, view: Arc<View>) -> Result<Identity, StartError> {
    let accounts = &config.service_accounts;
    let text = |path: &PathBuf| {
        read(path).and_then(|b| String::from_utf8(b).map_err(|_| unusable(path)(&"it is not text")))
    };
    let mut keys = VerifyKeys::default();
    for path in &accounts.keys {
        keys.add_pem(&text(path)?).map_err(|e| unusable(path)(&e))?;
    }
    let keys = Arc::new(keys);
    let signing = SigningKey::from_pem(&text(&accounts.signing_key)?)
        .map_err(|e| unusable(&accounts.signing_key)(&e))?;
    let audiences = if accounts.audiences.is_empty() {
        vec![accounts.issuer.clone()]
    } else {
        accounts.audiences.clone()
    };
    let now = system_time();
    let mut methods: Vec<Box<dyn TokenAuthenticator>> = Vec::new();
    if let Some(path) = &config.token_file {
        methods.push(Box::new(TokenFile::parse(&text(path)?).map_err(|e| unusable(path)(&e))?));
    }
    methods.push(Box::new(ServiceAccountTokens {
        issuers: vec![accounts.issuer.clone()],
        api_audiences: audiences.clone(),
        keys: keys.clone(),
        cluster: view.clone(),
        now: now.clone(),
    }));
    methods.push(Box::new(BootstrapTokens::new(view, now.clone())));
    let tokens: Arc<dyn TokenAuthenticator> =
        Arc::new(TokenCache::new(Arc::new(TokenUnion(methods)), now.clone()));
    let certificates = ClientCertificate::new(&read(&config.client_ca)?, now)
        .map_err(|e| unusable(&config.client_ca)(&e))?;
    let requests =
        Union::new(vec![Box::new(certificates), Box::new(BearerToken(tokens.clone()))], config.anonymous);
    let jwks_uri = format!("https://{}:{}/openid/v1/jwks", config.advertise, config.listen.port());
    Ok(Identity {
        requests: Box::new(requests),
        tokens,
        discovery: openid_configuration(&accounts.issuer, &jwks_uri, &keys),
        jwks: keys.jwks(),
        issuer: TokenIssuer {
            issuer: accounts.issuer.clone(),
            api_audiences: audiences,
            max_expiration: None,
            extend_expiration: true,
            key: Arc::new(signing),
        },
    })
}

impl ApiServer {
    /// Starts serving; returns when `/readyz` is ok.
    pub async fn start(mut config: Config, stop: CancellationToken) -> Result<Self, StartError> {
        let listener = Listener::bind(config.listen, &config.tls).await?;
        let address = listener.address().map_err(|e| StartError::Setting(e.to_string()))?;

        let times = Arc::new(StoreTimes::new(kept()));
        config.storage = Arc::new(Metered { inner: config.storage, times: times.clone() });
        let builder = RegistryBuilder::start(config.storage.clone(), kept());
        builder.ready().await.map_err(|e| StartError::Setting(format!("the store cannot be read: {e}")))?;
        let view = Arc::new(View::new(builder.caches.clone(), config.storage.clone()));
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
        let mut authorizers: Vec<Box<dyn Authorizer>> = vec![Box::new(always::PrivilegedGroups)];
        authorizers.extend(modes);
        let authorizer: Arc<dyn Authorizer> = Arc::new(apiserver_authz::Union(authorizers));

        let quotas = Quotas::new(config.storage.clone()).map_err(StartError::Bootstrap)?;
        let mut chain = apiserver_admission::full_chain(
            view.clone(),
            Arc::new(MaySign(authorizer.clone())),
            Arc::new(quotas),
        );
        chain.0.insert(0, Box::new(RequesterOfCertificate));
        chain.0.push(Box::new(RbacEscalation { rbac: rbac.clone(), authorizer: authorizer.clone() }));
        let admission = Arc::new(chain);
        let allocator =
            ServiceAllocator::new(config.storage.clone(), config.service_cidr, config.node_ports.clone())
                .map_err(StartError::Bootstrap)?;
        let allocator = Arc::new(allocator);
        let mut hooks: BTreeMap<(&str, &str), Arc<dyn Hook>> = BTreeMap::new();
        hooks.insert(("", "services"), allocator.clone());
        let registry = Arc::new(builder.finish(admission.clone(), &hooks));

        let identity = identity(&config, view)?;
        let documents = BTreeMap::from([
            ("/version".to_owned(), version()),
            ("/.well-known/openid-configuration".to_owned(), identity.discovery),
            ("/openid/v1/jwks".to_owned(), identity.jwks),
        ]);
        let access = config.kubelet.as_ref().map(kubelet_access).transpose()?;
        let ready = Arc::new(AtomicBool::new(false));
        let stopping = Arc::new(AtomicBool::new(false));
        let drain = CancellationToken::new();
        let counted = registry.clone();
        let sources: Vec<Source> = vec![
            Box::new(build_info),
            Box::new(move |text| object_counts(&counted, text)),
            Box::new(move |text| times.write(text)),
        ];
        let server = Arc::new(Server {
            kinds: Kinds::new(served()),
            registry: registry.clone(),
            authenticator: identity.requests,
            tokens: identity.tokens,
            authorizer,
            admission,
            endpoints: endpoints::endpoints(
                access,
                ServiceAccountToken(identity.issuer),
                config.components.clone(),
            ),
            documents,
            health: health(&ready, &stopping, &registry, config.storage.clone()),
            openapi: OpenApi::default(),
            limits: Limits::new(config.serving.clone()),
            metrics: Metrics::new(sources),
            drain: drain.clone(),
        });
        let tasks = TaskTracker::new();
        // What serves requests goes on until no more are taken.
        let closing = CancellationToken::new();
        feed::start(&registry, &rbac, &node, &closing).await;
        let advertised = Advertised {
            service_ip: first_address(&config),
            service_cidr: config.service_cidr.trunc().to_string(),
            address: config.advertise,
            port: address.port(),
        };
        let client_ca = String::from_utf8_lossy(&read(&config.client_ca)?).into_owned();
        service_repair::start(allocator, &registry, stop.clone()).await;
        let masters = Masters::new(config.storage.clone(), registry.clone(), advertised.clone());
        let bootstrap = Bootstrap::new(&registry);
        let work = || async {
            bootstrap.namespaces().await?;
            bootstrap.policy().await?;
            bootstrap.flow_control().await?;
            bootstrap.kubernetes_service(&advertised).await?;
            if config.shared {
                masters.renew().await?;
            } else {
                bootstrap.endpoints(&advertised, &[advertised.address]).await?;
            }
            bootstrap.authentication_config(&client_ca).await?;
            bootstrap.storage_answers().await
        };
        repeated(work).await.map_err(StartError::Bootstrap)?;
        guards::aggregate_roles(registry.clone(), closing.clone());
        ready.store(true, Ordering::Release);
        if config.shared {
            tasks.spawn(masters.run(stop.clone()));
        }
        tasks.spawn(listener.serve(server.clone(), closing.clone()));
        let delay = config.serving.shutdown_delay;
        tasks.spawn(async move {
            stop.cancelled().await;
            // Load balancers learn it from `/readyz`, and have the delay to send their clients elsewhere.
            stopping.store(true, Ordering::Release);
            tokio::time::sleep(delay).await;
            drain.cancel();
            closing.cancel();
        });
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

/// Repeats work that can be repeated, while it fails only since other servers do the same at the same time.
async fn repeated<F>(work: impl Fn() -> F) -> Result<(), StatusError>
where
    F: Future<Output = Result<(), StatusError>>,
{
    let mut attempts = 0;
    loop {
        attempts += 1;
        match work().await {
            // 422: the other one has taken the service IP and not written the Service yet.
            Err(e) if attempts < 20 && matches!(e.code(), 409 | 422 | 503) => {
                tracing::debug!(error = %e, "another server writes the first objects too");
                tokio::time::sleep(Duration::from_millis(20 * attempts)).await;
            }
            result => return result,
        }
    }
}

fn first_address(config: &Config) -> String {
    let network = u32::from(config.service_cidr.network());
    std::net::Ipv4Addr::from(network + 1).to_string()
}

/// `kubernetes_build_info`.
fn build_info(text: &mut Text) {
    let version = version();
    let field = |name: &str| version[name].as_str().unwrap_or("").to_owned();
    text.family(
        "kubernetes_build_info",
        Type::Gauge,
        "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build \
         date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
    );
    let values: Vec<(&str, String)> = [
        ("build_date", "buildDate"),
        ("compiler", "compiler"),
        ("git_commit", "gitCommit"),
        ("git_tree_state", "gitTreeState"),
        ("git_version", "gitVersion"),
        ("go_version", "goVersion"),
        ("major", "major"),
        ("minor", "minor"),
        ("platform", "platform"),
    ]
    .map(|(label, name)| (label, field(name)))
    .to_vec();
    let labels: Vec<(&str, &str)> = values.iter().map(|(k, v)| (*k, v.as_str())).collect();
    text.sample("kubernetes_build_info", &labels, 1.0);
}

/// How many objects of each resource there are.
fn object_counts(registry: &Registry, text: &mut Text) {
    let counts: Vec<(String, String, f64)> = registry
        .stores()
        .map(|store| {
            let resource = store.group_resource();
            let count = store.cache.snapshot().objects.len() as f64;
            (resource.group.clone(), resource.resource.clone(), count)
        })
        .collect();
    let name = "apiserver_resource_objects";
    text.family(name, Type::Gauge, "Number of stored objects at the time of last check split by kind.");
    for (group, resource, count) in &counts {
        text.sample(name, &[("group", group), ("resource", resource)], *count);
    }
    // The name it had before.
    let name = "apiserver_storage_objects";
    text.family(name, Type::Gauge, "Number of stored objects at the time of last check split by kind.");
    for (group, resource, count) in &counts {
        let joined = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
        text.sample(name, &[("resource", &joined)], *count);
    }
}

fn health(
    ready: &Arc<AtomicBool>,
    stopping: &Arc<AtomicBool>,
    registry: &Arc<Registry>,
    storage: Arc<dyn Storage>,
) -> Health {
    let bootstrapped = |name: &'static str| {
        let ready = ready.clone();
        Check::quick(name, true, move || {
            if ready.load(Ordering::Acquire) { Ok(()) } else { Err("not finished".to_owned()) }
        })
    };
    let answers = |name: &'static str, live: bool| {
        let storage = storage.clone();
        let probe: Probe = Box::new(move || {
            let storage = storage.clone();
            Box::pin(async move { storage.now().await.map(drop).map_err(|e| e.to_string()) })
        });
        Check { name, live, probe }
    };
    let (filled, stopping) = (registry.clone(), stopping.clone());
    Health(vec![
        Check::quick("log", true, || Ok(())),
        answers("etcd", true),
        answers("etcd-readiness", false),
        Check::quick("informer-sync", false, move || match filled.stores().find(|s| !s.cache.is_ready()) {
            Some(store) => Err(format!("{} not started yet", store.group_resource())),
            None => Ok(()),
        }),
        bootstrapped("poststarthook/rbac/bootstrap-roles"),
        bootstrapped("poststarthook/start-system-namespaces-controller"),
        Check::quick("shutdown", false, move || {
            if stopping.load(Ordering::Acquire) { Err("process is shutting down".to_owned()) } else { Ok(()) }
        }),
    ])
}
