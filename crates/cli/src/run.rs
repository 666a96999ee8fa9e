//! All parts of a local cluster in one process.
//!
//! Each part gets a client of its own identity, whose transport is the API server's own service: the same code as over
//! a socket, without the hop.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use apiserver::{ApiServer, AuthorizationMode, Component, Config as ApiConfig, KubeletClient, ServiceAccounts, TlsFiles};
use async_trait::async_trait;
use base::{State, Supervised, supervise};
use http::Request;
use http_body_util::BodyExt as _;
use machinery::request::UserInfo;
use storage::{Embedded, Options};
use tokio::net::UnixDatagram;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;

/// A part in this process, as `componentstatuses` asks it.
struct Part<F>(&'static str, F);

#[async_trait]
impl<F: Fn() -> State + Send + Sync> Component for Part<F> {
    fn name(&self) -> &str {
        self.0
    }

    async fn probe(&self) -> Result<String, String> {
        match (self.1)() {
            State::Running => Ok("ok".into()),
            State::Failed(why) => Err(why),
            State::Stopped => Err("stopped".into()),
        }
    }
}

/// The state of a part that is started later than those who ask for it.
#[derive(Clone, Default)]
struct Later(Arc<std::sync::OnceLock<Box<dyn Fn() -> State + Send + Sync>>>);

impl Later {
    fn set(&self, part: &Supervised) {
        let _ = self.0.set(Box::new(part.watch()));
    }

    fn component(&self, name: &'static str) -> Arc<dyn Component> {
        let later = self.clone();
        Arc::new(Part(name, move || match later.0.get() {
            Some(state) => state(),
            None => State::Failed("not started yet".into()),
        }))
    }
}

/// Who waits for us, by systemd's protocol for services.
struct Notify(Option<PathBuf>);

impl Notify {
    async fn say(&self, text: &str) {
        let Some(path) = &self.0 else { return };
        let sent = async { UnixDatagram::unbound()?.send_to(text.as_bytes(), path).await };
        if let Err(e) = sent.await {
            tracing::debug!(error = %e, "nobody waits for this start any more");
        }
    }
}

/// A client of the API server in this process.
fn local_client(server: &Arc<ApiServer>, user: &str, groups: &[&str], agent: &str) -> kube::Client {
    let mut user = UserInfo::new(user, groups);
    user.groups.push("system:authenticated".into());
    let user = Arc::new(user);
    let server = server.clone();
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let (server, user) = (server.clone(), user.clone());
        async move {
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            Ok::<_, tower::BoxError>(server.handle_local(user, request).await)
        }
    });
    client::in_process(service, agent)
}

fn api_config(cluster: &Cluster, storage: Arc<Embedded>, components: Vec<Arc<dyn Component>>) -> ApiConfig {
    let pki = cluster.pki();
    let serving = pki.api_server();
    let kubelet = pki.api_server_kubelet_client();
    ApiConfig {
        storage,
        listen: SocketAddr::from(([0, 0, 0, 0], cluster.settings.secure_port)),
        advertise: cluster.settings.address,
        tls: TlsFiles { certificate: serving.certificate, key: serving.key },
        client_ca: pki.authority().certificate,
        token_file: None,
        anonymous: true,
        authorization: vec![AuthorizationMode::Node, AuthorizationMode::Rbac],
        service_accounts: ServiceAccounts {
            signing_key: pki.service_account_key(),
            keys: vec![pki.service_account_public_key()],
            issuer: cluster.issuer().into(),
            audiences: Vec::new(),
        },
        kubelet: Some(KubeletClient {
            certificate: kubelet.certificate,
            key: kubelet.key,
            authority: pki.authority().certificate,
        }),
        service_cidr: cluster.settings.service_cidr,
        node_ports: 30000..=32767,
        components,
    }
}

/// Runs the parts until `stop`; says at `notify` how far it has come, and when the cluster is healthy.
pub async fn run(cluster: Cluster, stop: CancellationToken, notify: Option<PathBuf>) -> anyhow::Result<()> {
    let notify = Notify(notify);
    let options = Options::default();
    let db = cluster.layout.db();
    let storage =
        tokio::task::spawn_blocking(move || Embedded::open(&db, options)).await?.context("cannot open the store")?;
    let storage = Arc::new(storage);
    let (scheduler_state, controller_state) = (Later::default(), Later::default());
    let mut components = vec![
        controller_state.component("controller-manager"),
        scheduler_state.component("scheduler"),
    ];
    components.push(Arc::new(Part("etcd-0", || State::Running)));

    // The server drains last: the parts write their last words through it.
    let server_stop = CancellationToken::new();
    let config = api_config(&cluster, storage, components);
    let server = Arc::new(ApiServer::start(config, server_stop.clone()).await?);
    tracing::info!(address = %server.address(), "the API server serves");

    let mut parts: Vec<Supervised> = Vec::new();
    let controllers = controllers_part(&cluster, &server, &stop)?;
    controller_state.set(&controllers);
    parts.push(controllers);
    let scheduler = scheduler_part(&server, &stop);
    scheduler_state.set(&scheduler);
    parts.push(scheduler);

    notify.say("READY=1").await;

    stop.cancelled().await;
    tracing::info!("stopping");
    for part in parts {
        part.ended().await;
    }
    server_stop.cancel();
    server.stopped().await;
    Ok(())
}

fn controllers_part(cluster: &Cluster, server: &Arc<ApiServer>, stop: &CancellationToken) -> anyhow::Result<Supervised> {
    let root_ca = std::fs::read_to_string(cluster.pki().authority().certificate)
        .context("cannot read the cluster's CA")?;
    let config = controllers::Config {
        identity: format!("{}_{}", cluster.settings.node_name, std::process::id()),
        // One process holds the store, so nobody else can lead.
        leader_elect: false,
        cluster_cidrs: vec![cluster.settings.cluster_cidr.into()],
        root_ca,
        ..controllers::Config::default()
    };
    let client = local_client(server, "system:kube-controller-manager", &[], "kube-controller-manager/v1.36.0");
    let as_account = server.clone();
    let clients: controllers::ClientFor = Arc::new(move |account| {
        let user = format!("system:serviceaccount:kube-system:{account}");
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        local_client(&as_account, &user, &groups, &format!("kube-controller-manager/v1.36.0 {account}"))
    });
    Ok(supervise("kube-controller-manager", stop.clone(), move |token| {
        controllers::run(config.clone(), client.clone(), clients.clone(), token)
    }))
}

fn scheduler_part(server: &Arc<ApiServer>, stop: &CancellationToken) -> Supervised {
    let client = local_client(server, "system:kube-scheduler", &[], "kube-scheduler/v1.36.0");
    supervise("kube-scheduler", stop.clone(), move |token| {
        scheduler::run(scheduler::Config::default(), client.clone(), token)
    })
}
