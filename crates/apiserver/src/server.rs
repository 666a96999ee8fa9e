//! Starting and stopping an API server.
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::kinds::{KINDS, Kind};
use apiserver_admission::Needs;
use apiserver_audit::{Audit, AuditError};
use apiserver_authz::node::NodeAuthorizer;
use apiserver_authz::rbac::Rbac;
use apiserver_http::endpoints::{KubeletAccess, ServiceAccountToken};
use apiserver_http::metrics::{Metrics, Source, Text, Type};
use apiserver_http::{
    Body, Check, Health, Kinds, Limits, Listener, ListenerError, OpenApi, Peer, Probe, Server,
};
use apiserver_registry::{Hook, Registry, RegistryBuilder};
use apiserver_watch_cache::Cache;
use http::{Request, Response};
use machinery::StatusError;
use machinery::request::UserInfo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use storage::Storage;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authentication::identity;
use crate::bootstrap::{Advertised, Bootstrap};
use crate::config::{Config, KubeletClient};
use crate::guards::{self, Decides, Quotas, RbacEscalation, RequesterOfCertificate};
use crate::masters::Masters;
use crate::metered::{Metered, StoreTimes};
use crate::plugin_needs::{self, Known, Namespaces};
use crate::sealed::{self, Sealed};
use crate::service_allocator::ServiceAllocator;
use crate::view::View;
use crate::{authorization, endpoints, feed, flow_control, service_repair};

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
    /// What is asked of the server cannot be recorded.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A setting makes no sense.
    #[error("{0}")]
    Setting(String),
}

/// Where a resource or subresource is served.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Group; empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Resource.
    pub plural: String,
    /// Subresource; empty: the resource itself.
    pub subresource: String,
    /// Whether it is in a namespace.
    pub namespaced: bool,
}

/// A running API server.
pub struct ApiServer {
    server: Arc<Server>,
    address: SocketAddr,
    audit: Option<Arc<Audit>>,
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
fn kubelet_access(files: &KubeletClient, address_types: &[String]) -> Result<KubeletAccess, StartError> {
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
        address_types: address_types.to_vec(),
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

impl ApiServer {
    /// Starts serving; returns when `/readyz` is ok.
    pub async fn start(mut config: Config, stop: CancellationToken) -> Result<Self, StartError> {
        apiserver_resources::allow_privileged(config.allow_privileged);
        let listener = Listener::bind(config.listen, &config.tls, &config.tls_options).await?;
        let address = listener.address().map_err(|e| StartError::Setting(e.to_string()))?;
        let Sealed { check, health: keys } = sealed::seal(&mut config, &stop, kept()).await?;
        let audit = match &config.audit {
            Some(wanted) => Audit::start(wanted).await?,
            None => None,
        };

        let times = Arc::new(StoreTimes::new(kept()));
        config.storage = Arc::new(Metered { inner: config.storage, times: times.clone() });
        let builder = RegistryBuilder::start(config.storage.clone(), kept());
        let caches: Vec<Arc<Cache>> = builder.caches.values().map(|(_, cache)| cache.clone()).collect();
        let view = Arc::new(View::new(builder.caches.clone(), config.storage.clone()));
        let rbac = Arc::new(Rbac::new());
        let node = Arc::new(NodeAuthorizer::new());
        let authorizer = authorization::authorizer(&mut config, &rbac, &node)?;

        let quotas = Quotas::new(config.storage.clone()).map_err(StartError::Bootstrap)?;
        let namespaces = Arc::new(Namespaces::default());
        let needs = Needs {
            cluster: view.clone(),
            authorize: Arc::new(Decides(authorizer.clone())),
            kinds: Arc::new(Known { not_served: config.not_served.clone() }),
            quota: Arc::new(quotas),
            namespaces: namespaces.clone(),
            reviewers: Box::new(plugin_needs::reviewer),
            tolerations: config.admission.tolerations,
        };
        let built = config.admission.plugins.build(&needs, &config.admission.settings);
        let mut chain = built.map_err(|e| StartError::Setting(e.to_string()))?;
        tracing::info!(plugins = config.admission.plugins.names().join(","), "admission is set up");
        for absent in config.admission.plugins.absent() {
            tracing::warn!(plugin = absent, "this admission plugin was asked for and is not there");
        }
        chain.0.insert(0, Box::new(RequesterOfCertificate));
        chain.0.push(Box::new(RbacEscalation { rbac: rbac.clone(), authorizer: authorizer.clone() }));
        let admission = Arc::new(chain);
        let allocator =
            ServiceAllocator::new(config.storage.clone(), config.service_cidr, config.node_ports.clone())
                .map_err(StartError::Bootstrap)?;
        let allocator = Arc::new(allocator);
        let mut hooks: BTreeMap<(&str, &str), Arc<dyn Hook>> = BTreeMap::new();
        hooks.insert(("", "services"), allocator.clone());
        let registry = Arc::new(builder.finish(admission.clone(), &hooks, config.event_ttl));
        namespaces.are_kept_in(&registry);

        let identity = identity(&config, view)?;
        let documents = BTreeMap::from([
            ("/version".to_owned(), version()),
            ("/.well-known/openid-configuration".to_owned(), identity.discovery),
            ("/openid/v1/jwks".to_owned(), identity.jwks),
        ]);
        let access = config
            .kubelet
            .as_ref()
            .map(|files| kubelet_access(files, &config.kubelet_address_types))
            .transpose()?;
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
            kinds: Kinds::new(served().filter(|kind| {
                !config.not_served.contains(&(kind.group.to_string(), kind.version.to_string()))
            })),
            registry: registry.clone(),
            authenticator: identity.requests,
            tokens: identity.tokens,
            authorizer,
            audit: audit.clone(),
            admission,
            endpoints: endpoints::endpoints(
                access,
                ServiceAccountToken(identity.issuer),
                config.components.clone(),
            ),
            documents,
            health: health(&ready, &stopping, &registry, config.storage.clone(), check),
            openapi: OpenApi::default(),
            limits: Limits::new(config.serving.clone()),
            metrics: Metrics::new(sources),
            serving: Arc::default(),
            drain: drain.clone(),
        });
        let tasks = TaskTracker::new();
        // What serves requests goes on until no more are taken.
        let closing = CancellationToken::new();
        // From here on health checks are answered, so that a start that takes long says what it waits for.
        tasks.spawn(listener.serve(server.clone(), closing.clone()));
        // A start that fails leaves nobody behind who listens.
        let unfinished = closing.clone().drop_guard();
        sealed::filled(&caches, keys.as_ref(), &stop).await?;
        feed::start(&registry, &rbac, &node, &closing).await;
        let advertised = Advertised {
            service_ip: first_address(&config),
            service_cidr: config.service_cidr.trunc().to_string(),
            address: config.advertise,
            port: address.port(),
        };
        let client_ca = config.client_ca.as_ref().map(read).transpose()?;
        let client_ca = client_ca.map(|pem| String::from_utf8_lossy(&pem).into_owned());
        let front_proxy = match &config.authentication.front_proxy {
            Some(proxy) => {
                let ca = String::from_utf8_lossy(&read(&proxy.client_ca)?).into_owned();
                Some((proxy.clone(), ca))
            }
            None => None,
        };
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
            bootstrap.authentication_config(client_ca.as_deref(), front_proxy.as_ref()).await?;
            bootstrap.storage_answers().await
        };
        repeated(work).await.map_err(StartError::Bootstrap)?;
        guards::aggregate_roles(registry.clone(), closing.clone());
        flow_control::keep(&registry, closing.clone());
        unfinished.disarm();
        server.serving.store(true, Ordering::Release);
        ready.store(true, Ordering::Release);
        if config.shared {
            tasks.spawn(masters.run(stop.clone()));
        }
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
        Ok(Self { server, address, audit, tasks })
    }

    /// The address of the HTTPS listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every resource and subresource that there is a route for: what is listed in discovery, and what is served besides.
    pub fn routes(&self) -> Vec<Route> {
        let mut all = Vec::new();
        for kind in self.server.kinds.all() {
            let mut subresources: BTreeSet<String> =
                kind.subresources.iter().map(|s| s.name.to_string()).collect();
            let served = self.server.endpoints.keys();
            let served = served.filter(|(group, plural, _)| *group == kind.group && *plural == kind.plural);
            subresources.extend(served.map(|(_, _, subresource)| subresource.clone()));
            subresources.insert(String::new());
            all.extend(subresources.into_iter().map(|subresource| Route {
                group: kind.group.to_string(),
                version: kind.version.to_string(),
                plural: kind.plural.to_string(),
                subresource,
                namespaced: kind.namespaced,
            }));
        }
        all
    }

    /// Every path outside of resources that is served.
    pub fn paths(&self) -> Vec<String> {
        let fixed = ["/", "/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz"];
        let versions = self.server.kinds.group_versions().into_iter().flat_map(|(group, version)| {
            if group.is_empty() {
                vec![format!("/api/{version}"), format!("/openapi/v3/api/{version}")]
            } else {
                vec![
                    format!("/apis/{group}"),
                    format!("/apis/{group}/{version}"),
                    format!("/openapi/v3/apis/{group}/{version}"),
                ]
            }
        });
        let documents = self.server.documents.keys().cloned();
        let all: BTreeSet<String> =
            fixed.into_iter().map(str::to_owned).chain(versions).chain(documents).collect();
        all.into_iter().collect()
    }

    /// Answers a request of a part in this process, which acts as `user`.
    pub async fn handle_local(&self, user: Arc<UserInfo>, request: Request<Body>) -> Response<Body> {
        let peer = Peer { local: Some(user), ..Peer::default() };
        self.server.clone().handle(peer, request).await
    }

    /// Waits until all connections have ended after a stop.
    pub async fn stopped(&self) {
        self.tasks.wait().await;
        if let Some(audit) = &self.audit {
            audit.close().await;
        }
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
    more: Option<Check>,
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
    let mut checks = vec![
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
    ];
    checks.extend(more);
    Health(checks)
}
