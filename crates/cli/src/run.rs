//! All parts of a local cluster in one process.
//!
//! Each part gets a client of its own identity, whose transport is the API server's own service: the same code as over
//! a socket, without the hop.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use apiserver::{
    Admission, Anonymous, ApiServer, AuthorizationMode, Component, Config as ApiConfig, EncryptionFile,
    KubeletClient, Selection, ServiceAccounts, TlsFiles,
};
use async_trait::async_trait;
use base::{State, Supervised, supervise};
use client::ElectionConfig;
use http::Request;
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Node;
use machinery::request::UserInfo;
use tokio::net::UnixDatagram;
use tokio_util::sync::CancellationToken;

use crate::addons;
use crate::cluster::Cluster;
use crate::commands::store::EtcdFlags;
use crate::output::Failure;
use crate::parts::VERSION;
use crate::parts::opened::Opened;

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

fn api_config(cluster: &Cluster, opened: Opened, mut components: Vec<Arc<dyn Component>>) -> ApiConfig {
    components.extend(opened.components);
    let pki = cluster.pki();
    let serving = pki.api_server();
    let kubelet = pki.api_server_kubelet_client();
    let tls = TlsFiles { certificate: serving.certificate, key: serving.key };
    let keys = vec![pki.service_account_public_key()];
    let accounts = ServiceAccounts::new(pki.service_account_key(), keys, cluster.issuer());
    ApiConfig {
        encryption: Some(EncryptionFile { path: cluster.layout.encryption_config(), reload: true }),
        listen: SocketAddr::from(([0, 0, 0, 0], cluster.settings.secure_port)),
        advertise: cluster.settings.address,
        // A cluster of ours shows strangers that it is there and well, and nothing else.
        anonymous: Anonymous::health_and_version(),
        authorization: vec![AuthorizationMode::Node, AuthorizationMode::Rbac],
        admission: Admission { plugins: Selection::with_node_restriction(), ..Admission::default() },
        kubelet: Some(KubeletClient {
            certificate: kubelet.certificate,
            key: kubelet.key,
            authority: pki.authority().certificate,
        }),
        service_cidr: cluster.settings.service_cidr,
        components,
        shared: opened.shared,
        ..ApiConfig::new(opened.storage, tls, pki.authority().certificate, accounts)
    }
}

/// The store that keeps the cluster's objects.
async fn open(cluster: &Cluster) -> Result<Opened, Failure> {
    let Some(kept) = cluster.settings.etcd.clone() else {
        return Opened::embedded(cluster.layout.db()).await;
    };
    let compaction = Some(Duration::from_secs(300));
    Opened::etcd(storage::etcd::Options { compaction, ..EtcdFlags::from(kept).options() }).await
}

/// Runs the parts until `stop`; says at `notify` how far it has come, and when the cluster is healthy.
pub async fn run(cluster: Cluster, stop: CancellationToken, notify: Option<PathBuf>) -> anyhow::Result<()> {
    let notify = Notify(notify);
    let opened = open(&cluster).await.map_err(|e| anyhow::anyhow!("cannot open the store: {e}"))?;
    let (scheduler_state, controller_state) = (Later::default(), Later::default());
    let components =
        vec![controller_state.component("controller-manager"), scheduler_state.component("scheduler")];

    // The server drains last: the parts write their last words through it.
    let server_stop = CancellationToken::new();
    let config = api_config(&cluster, opened, components);
    let server = Arc::new(ApiServer::start(config, server_stop.clone()).await?);
    tracing::info!(address = %server.address(), "the API server serves");

    let mut parts: Vec<Supervised> = Vec::new();
    let controllers = controllers_part(&cluster, &server, &stop)?;
    controller_state.set(&controllers);
    parts.push(controllers);
    let scheduler = scheduler_part(&cluster, &server, &stop);
    scheduler_state.set(&scheduler);
    parts.push(scheduler);

    if cluster.settings.node {
        parts.extend(node_parts(&cluster, &server, &stop).await?);
        notify.say("STATUS=waiting for the node").await;
        tokio::select! {
            () = stop.cancelled() => {}
            ready = node_ready(&cluster, &server) => ready?,
        }
    }
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

fn controllers_part(
    cluster: &Cluster,
    server: &Arc<ApiServer>,
    stop: &CancellationToken,
) -> anyhow::Result<Supervised> {
    let pki = cluster.pki();
    let authority = pki.authority();
    let root_ca = std::fs::read_to_string(&authority.certificate).context("cannot read the cluster's CA")?;
    let signing = controllers::SignerFiles { certificate: authority.certificate, key: authority.key };
    let config = controllers::Config {
        identity: format!("{}_{}", cluster.settings.node_name, std::process::id()),
        // Where one process holds the store, nobody else can lead.
        leader_elect: cluster.settings.etcd.is_some(),
        cluster_cidrs: vec![cluster.settings.cluster_cidr.into()],
        root_ca,
        controllers: ["*", "bootstrap-signer-controller"].map(str::to_owned).to_vec(),
        service_account_key: Some(pki.service_account_key()),
        signers: [
            controllers::KUBE_APISERVER_CLIENT,
            controllers::KUBELET_CLIENT,
            controllers::KUBELET_SERVING,
            controllers::LEGACY_UNKNOWN,
        ]
        .map(|signer| (signer.to_owned(), signing.clone()))
        .into(),
        ..controllers::Config::default()
    };
    let client = local_client(
        server,
        "system:kube-controller-manager",
        &[],
        &format!("kube-controller-manager/{VERSION}"),
    );
    let as_account = server.clone();
    let clients: controllers::ClientFor = Arc::new(move |account| {
        let user = format!("system:serviceaccount:kube-system:{account}");
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        local_client(&as_account, &user, &groups, &format!("kube-controller-manager/{VERSION} {account}"))
    });
    Ok(supervise("kube-controller-manager", stop.clone(), move |token| {
        controllers::run(config.clone(), client.clone(), clients.clone(), token)
    }))
}

fn scheduler_part(cluster: &Cluster, server: &Arc<ApiServer>, stop: &CancellationToken) -> Supervised {
    let client = local_client(server, "system:kube-scheduler", &[], &format!("kube-scheduler/{VERSION}"));
    let elect = || ElectionConfig::new("kube-system", "kube-scheduler", &crate::parts::identity());
    let election = cluster.settings.etcd.is_some().then(elect);
    let config = scheduler::Config { election, ..scheduler::Config::default() };
    supervise("kube-scheduler", stop.clone(), move |token| {
        scheduler::run(config.clone(), client.clone(), token)
    })
}

/// What makes this machine a node: the kubelet, the proxy, and a watch over containerd.
async fn node_parts(
    cluster: &Cluster,
    server: &Arc<ApiServer>,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<Supervised>> {
    let (layout, settings) = (&cluster.layout, &cluster.settings);
    let host = cluster.host().await.map_err(|e| anyhow::anyhow!("{e}"))?;
    let facts = provision::Facts::gather(layout.root(), &[]);

    let runtime = host.containerd_config(&facts);
    let kept = layout.clone();
    let containerd = supervise("containerd", stop.clone(), move |token| {
        let (kept, runtime) = (kept.clone(), runtime.clone());
        async move {
            tokio::select! {
                () = token.cancelled() => Ok::<_, std::io::Error>(()),
                never = provision::Containerd::keep(&kept, &runtime) => match never {},
            }
        }
    });

    let name = format!("system:node:{}", settings.node_name);
    let client = local_client(server, &name, &["system:nodes"], &format!("kubelet/{VERSION}"));
    let config = kubelet_config(cluster, &facts);
    let kubelet =
        supervise("kubelet", stop.clone(), move |token| kubelet::run(config.clone(), client.clone(), token));

    let client =
        local_client(server, "system:kube-proxy", &["system:node-proxier"], &format!("kube-proxy/{VERSION}"));
    let config = proxy_config(cluster);
    let proxy =
        supervise("kube-proxy", stop.clone(), move |token| proxy::run(config.clone(), client.clone(), token));

    let admin = local_client(server, "system:apiserver", &["system:masters"], "cox");
    addons::install(admin.clone()).await?;
    let dns = dns_part(cluster, server, admin, stop);
    Ok(vec![containerd, kubelet, proxy, dns])
}

/// The cluster DNS of this node: it listens on the node's address, and the `kube-dns` Service leads there.
fn dns_part(
    cluster: &Cluster,
    server: &Arc<ApiServer>,
    admin: kube::Client,
    stop: &CancellationToken,
) -> Supervised {
    let settings = &cluster.settings;
    let user = format!("system:serviceaccount:kube-system:{}", addons::DNS_ACCOUNT);
    let client = local_client(
        server,
        &user,
        &["system:serviceaccounts", "system:serviceaccounts:kube-system"],
        "coredns/cox",
    );
    let listen = SocketAddr::new(settings.address, settings.dns_port);
    let config = dns::Config {
        service_ips: vec![cluster.dns_ip().into()],
        networks: vec![settings.cluster_cidr.into(), settings.service_cidr.into()],
        ..dns::Config::new(vec![listen])
    };
    let (node, ip) = (settings.node_name.clone(), cluster.dns_ip());
    supervise("dns", stop.clone(), move |token| {
        let (config, client, admin, node) = (config.clone(), client.clone(), admin.clone(), node.clone());
        async move {
            dns::publish(&admin, &node, listen.ip(), listen.port(), ip.into())
                .await
                .map_err(|e| std::io::Error::other(base::Chain(&e).to_string()))?;
            dns::run(config, client, token)
                .await
                .map_err(|e| std::io::Error::other(base::Chain(&e).to_string()))
        }
    })
}

fn kubelet_config(cluster: &Cluster, facts: &provision::Facts) -> kubelet::Config {
    let (layout, settings) = (&cluster.layout, &cluster.settings);
    let serving = cluster.pki().kubelet_serving(&settings.node_name);
    kubelet::Config {
        node_ip: Some(settings.address),
        root_dir: layout.kubelet(),
        pod_logs_dir: layout.pod_logs(),
        cri_endpoint: format!("unix://{}", layout.containerd_socket().display()),
        cluster_dns: vec![cluster.dns_ip().into()],
        static_pod_path: Some(layout.root().join("manifests")),
        cgroup_root: layout.cgroup_root(),
        server: Some(kubelet::ServerConfig {
            address: std::net::Ipv4Addr::UNSPECIFIED.into(),
            port: settings.kubelet_port,
            cert_file: serving.certificate,
            key_file: serving.key,
            client_ca_file: Some(cluster.pki().authority().certificate),
            token_webhook: true,
            access_webhook: true,
            anonymous: false,
        }),
        cni_conf_dir: Some(layout.cni_conf()),
        cni_bin_dir: facts.cni_bin_dir.clone(),
        cni_data_dir: Some(layout.cni_ipam()),
        cni_network: layout.cni_network(),
        ..kubelet::Config::new(settings.node_name.clone())
    }
}

/// Name of the proxy's table in the kernel: another one for each cluster of a machine.
pub fn proxy_table(name: &str) -> String {
    if name == provision::Layout::DEFAULT_NAME {
        proxy::Config::TABLE.to_owned()
    } else {
        format!("{}-{name}", proxy::Config::TABLE)
    }
}

fn proxy_config(cluster: &Cluster) -> proxy::Config {
    let settings = &cluster.settings;
    proxy::Config {
        cluster_cidr: Some(settings.cluster_cidr.into()),
        service_cidr: Some(settings.service_cidr.into()),
        table: proxy_table(cluster.layout.name()),
        ..proxy::Config::new(settings.node_name.clone(), vec![settings.address])
    }
}

/// Waits until the node of this machine is Ready.
async fn node_ready(cluster: &Cluster, server: &Arc<ApiServer>) -> anyhow::Result<()> {
    let client = local_client(server, "system:apiserver", &["system:masters"], "cox");
    let nodes: kube::Api<Node> = kube::Api::all(client);
    let is_ready = |node: Option<&Node>| {
        let conditions = node.and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_ref());
        conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    kube::runtime::wait::await_condition(nodes, &cluster.settings.node_name, is_ready)
        .await
        .context("cannot watch the node")?;
    Ok(())
}
