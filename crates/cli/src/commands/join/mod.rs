//! `cox join`: makes this machine a node of a cluster that exists, with nothing but a token.
pub mod discovery;
pub mod leave;
mod ready;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret as KubeSecret};
use kube::{Api, Client};
use pki::BootstrapToken;
use provision::SshHost;
use provision::apply::{
    Bringing, CLUSTER_MARK, Changes, Host as _, Target, install_all, start_all, survey_all,
};
use provision::plan::{
    ACCOUNTS, CONFIG, CONFIG_KEY, DNS_LABEL, HostPlan, JoinSecrets, PlanOptions, Secret, Stage, Trust,
    account_secret, plan_joining, spec_with,
};
use provision::spec::{ClusterSpec, Host, LoadBalancer, Role, Ssh};
use serde_json::json;

use self::discovery::{Found, Known, discover};
use self::leave::Joined;
use self::ready::{is_ready, ready};
use crate::commands::up::Steps;
use crate::commands::up_hosts::{all_failed, teller};
use crate::output::{self, Failure};
use crate::parts::{self, VERSION};

/// How long one connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// The cluster DNS' port on each node.
const DNS: &str = "10053";

/// `cox join`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples, with what `cox token create --print-join-command` printed where the cluster was made:\n  \
    cox join 192.0.2.11:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:1234...\n  \
    cox join ... --dry-run     says what it would do\n  \
    cox down --purge           on the node: takes all of it away again"
)]
pub struct Join {
    /// Where the API server or its load balancer is, as HOST:PORT.
    #[arg(value_name = "ENDPOINT", value_parser = endpoint)]
    pub endpoint: String,
    /// The bootstrap token.
    #[arg(long, value_parser = token)]
    pub token: BootstrapToken,
    /// Digest of the key of the cluster's authority, as sha256:HEX; may be given more than once.
    #[arg(long, value_delimiter = ',', value_parser = pin, required_unless_present = "discovery_token_unsafe_skip_ca_verification")]
    pub discovery_token_ca_cert_hash: Vec<String>,
    /// Takes any cluster that knows the token. Whoever has the token could pose as it.
    #[arg(long)]
    pub discovery_token_unsafe_skip_ca_verification: bool,
    /// Name of the node; the host's name if absent.
    #[arg(long)]
    pub node_name: Option<String>,
    /// Address of this machine that other nodes reach; the one that leads to the endpoint if absent.
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Labels of the new Node, as key=value.
    #[arg(long, value_delimiter = ',', value_parser = label)]
    pub node_labels: Vec<(String, String)>,
    /// Taints of the new Node, as key=value:effect.
    #[arg(long, value_delimiter = ',')]
    pub register_with_taints: Vec<String>,
    /// Finds the cluster and says what would be done here.
    #[arg(long)]
    pub dry_run: bool,
    /// How long to wait for each service, and for the node to be ready, in seconds.
    #[arg(long, default_value_t = 120)]
    pub wait: u64,
}

fn endpoint(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
    let port = bare.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    match port {
        Some((host, port)) if !host.is_empty() && port > 0 && !bare.contains('/') => Ok(bare.to_owned()),
        _ => Err("want HOST:PORT, for example 192.0.2.11:6443".into()),
    }
}

fn token(text: &str) -> Result<BootstrapToken, String> {
    text.parse()
}

fn pin(text: &str) -> Result<String, String> {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(text.to_lowercase())
    } else {
        Err("want sha256: and 64 hexadecimal digits; `cox token create --print-join-command` prints it"
            .into())
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("want key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `cox join`.
pub async fn join(options: Join, as_json: bool) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    if !options.dry_run && !rustix::process::geteuid().is_root() {
        return Err(Failure::new(
            "joining needs root: it installs packages and services",
            "run again with sudo, or with --dry-run",
        ));
    }
    let steps = Steps::new(as_json);
    steps.begin("looking for the cluster");
    let known = Known { token: options.token.clone(), pins: options.discovery_token_ca_cert_hash.clone() };
    let found = discover(&options.endpoint, &known).await?;
    let mut warnings: Vec<String> = found.clock.iter().cloned().collect();
    check_version(&found).await?;
    let host = this_host(&options).await?;
    let own = Joined::read()?;
    name_is_free(&found.client, &host, own.as_ref()).await?;
    let config = config(&found.client, &options).await?;
    let spec = spec_with(&config, &host).map_err(|why| {
        Failure::new(
            format!("{} cannot be a node of cluster as {}: {why}", host.name, host.address),
            "choose another name or address with --node-name or --node-ip",
        )
    })?;
    let paths = PlanOptions::system();
    refuse_other(own.as_ref(), &spec, &host)?;
    servers_are_reached(&spec).await?;
    let secrets = secrets(&found.client, &options.token).await?;
    let trust = Trust::of_joining(&spec.name, &found.told.authority_pem, secrets);
    let over = SshHost::here(&host.name, &paths.paths.program("cox"));
    let (plan_options, told) = look(&spec, &over, paths).await?;
    warnings.extend(told);
    let plan = plan_joining(&spec, &trust, &plan_options, &host.name).map_err(|e| Failure::of(&e))?;
    if !as_json {
        warnings.iter().for_each(|w| output::note(&format!("  warning: {w}")));
    }
    if options.dry_run {
        steps.end();
        return dry_run(&spec, &plan, &warnings, as_json);
    }
    over.write_file(Path::new(CLUSTER_MARK), 0o644, format!("{}\n", spec.name).as_bytes())
        .await
        .map_err(|e| Failure::of(&e))?;
    Joined::of(&spec, &host)?.write()?;
    let changes = install(&plan, over, &options, &steps).await?;
    steps.begin("waiting for the node");
    let kubeconfig = plan_options.paths.kubeconfig("kubelet");
    ready(&kubeconfig, &spec, &host, Duration::from_secs(options.wait)).await?;
    // What it was for is done, and it would be of use to nobody who means well.
    let _ = std::fs::remove_file(plan_options.paths.kubeconfig("bootstrap-kubelet"));
    steps.end();
    say(&spec, &host, &changes, began.elapsed(), &warnings, as_json)
}

/// Name and address of this machine.
async fn this_host(options: &Join) -> Result<Host, Failure> {
    let name = options.node_name.clone().unwrap_or_else(parts::host_name).to_lowercase();
    let address = match options.node_ip {
        Some(address) => address,
        None => leading_to(&options.endpoint).await?,
    };
    if address.is_loopback() {
        return Err(Failure::new(
            format!(
                "the way to {} begins at {address}, where no other node reaches this one",
                options.endpoint
            ),
            "name the address of this machine with --node-ip",
        ));
    }
    let mut labels: BTreeMap<String, String> = options.node_labels.iter().cloned().collect();
    labels.insert(DNS_LABEL.into(), DNS.into());
    let taints = options.register_with_taints.clone();
    Ok(Host { name, address, roles: vec![Role::Worker], ssh: Ssh::default(), labels, taints })
}

/// The address of this machine that a connection to there has.
async fn leading_to(endpoint: &str) -> Result<IpAddr, Failure> {
    let unknown = |e: &dyn std::fmt::Display| {
        Failure::new(
            format!("cannot tell which address of this machine leads to {endpoint}: {e}"),
            "name it with --node-ip",
        )
    };
    let connecting = tokio::net::TcpStream::connect(endpoint);
    let stream = tokio::time::timeout(CONNECT, connecting).await.map_err(|e| unknown(&e))?;
    let address = stream.and_then(|s| s.local_addr()).map_err(|e| unknown(&e))?;
    Ok(address.ip().to_canonical())
}

/// What the API server refuses a token, and what helps.
fn refused(what: &str, error: &kube::Error) -> Failure {
    let code = match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    };
    let next = match code {
        401 => {
            "the token has expired, or is not good for authentication: make a new one with \
             `cox token create --print-join-command` where the cluster was made"
        }
        403 => "tokens of this cluster may not: `cox up` where it was made writes what they may",
        404 => "it was not made by this cox: `cox up` where it was made writes what is missing",
        _ => "is the control plane well (`cox status` where the cluster was made)?",
    };
    Failure::new(format!("cannot {what}: {}", said(error)), next)
}

/// What a server said, or what is behind all the layers that pass an error on.
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => discovery::cause(other),
    }
}

/// A node is of the same release as its servers, or of an earlier one.
async fn check_version(found: &Found) -> Result<(), Failure> {
    let version =
        found.client.apiserver_version().await.map_err(|e| refused("ask for the cluster's version", &e))?;
    let minor = |text: &str| -> Option<u32> {
        text.trim_start_matches('v').split('.').nth(1)?.trim_end_matches('+').parse().ok()
    };
    let (Some(theirs), Some(ours)) = (minor(&version.git_version), minor(VERSION)) else { return Ok(()) };
    if ours > theirs || theirs > ours + 3 {
        return Err(Failure::new(
            format!("the cluster is {}, and this cox is {VERSION}", version.git_version),
            "a node may be up to three releases older than its API server, and never newer: use the cox of the cluster",
        ));
    }
    Ok(())
}

async fn config(client: &Client, options: &Join) -> Result<String, Failure> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let map =
        maps.get(CONFIG).await.map_err(|e| refused("read how nodes of the cluster are configured", &e))?;
    map.data.and_then(|mut data| data.remove(CONFIG_KEY)).ok_or_else(|| {
        Failure::new(
            format!("ConfigMap kube-system/{CONFIG} of the cluster at {} is empty", options.endpoint),
            "`cox up` where the cluster was made writes it",
        )
    })
}

/// This machine is a node of one cluster, under one name.
fn refuse_other(own: Option<&Joined>, spec: &ClusterSpec, host: &Host) -> Result<(), Failure> {
    match own {
        Some(own) if own.cluster != spec.name || own.node != host.name => Err(Failure::new(
            format!("this machine is node {} of cluster {:?} already", own.node, own.cluster),
            "take it out of that one first: `cox down --purge` here, and `kubectl delete node` there",
        )),
        _ => Ok(()),
    }
}

/// Whether the name is nobody else's. A node that is not ready may be this machine, made anew.
async fn name_is_free(client: &Client, host: &Host, own: Option<&Joined>) -> Result<(), Failure> {
    let again = own.is_some_and(|own| own.node == host.name);
    let nodes: Api<Node> = Api::all(client.clone());
    let found = nodes.get_opt(&host.name).await.map_err(|e| refused("look for a node of that name", &e))?;
    let Some(found) = found.filter(|_| !again) else { return Ok(()) };
    if !is_ready(Some(&found)) {
        return Ok(());
    }
    Err(Failure::new(
        format!("the cluster has a node {} already, and it is Ready", host.name),
        format!(
            "choose another name with --node-name; if that machine is gone: kubectl delete node {}",
            host.name
        ),
    ))
}

/// What the node will speak to has to be reached from here, which need not be the endpoint of this command.
async fn servers_are_reached(spec: &ClusterSpec) -> Result<(), Failure> {
    let targets: Vec<String> = match spec.api_server.load_balancer {
        LoadBalancer::Ours => spec
            .hosts_with(Role::ControlPlane)
            .map(|h| SocketAddr::new(h.address, spec.api_server.port).to_string())
            .collect(),
        _ => vec![spec.endpoint().to_string()],
    };
    let mut failed = Vec::new();
    for target in &targets {
        match tokio::time::timeout(CONNECT, tokio::net::TcpStream::connect(target)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => failed.push(discovery::unreached(target, &error.to_string())),
            Err(_) => failed.push(discovery::unreached(target, "timed out")),
        }
    }
    let first = failed.into_iter().next();
    Err(first.unwrap_or_else(|| Failure::new("the cluster names no API server", "`cox up` writes it anew")))
}

/// The tokens of the accounts that every node needs.
async fn secrets(client: &Client, token: &BootstrapToken) -> Result<JoinSecrets, Failure> {
    let api: Api<KubeSecret> = Api::namespaced(client.clone(), "kube-system");
    let mut accounts = BTreeMap::new();
    for account in ACCOUNTS {
        let name = account_secret(account);
        let found =
            api.get(&name).await.map_err(|e| refused("read the credentials of a node's parts", &e))?;
        let token = found.data.and_then(|mut d| d.remove("token")).ok_or_else(|| {
            Failure::new(
                format!("Secret kube-system/{name} holds no token yet"),
                "the controller manager fills it: does it run (`cox status` where the cluster was made)?",
            )
        })?;
        accounts.insert(account.to_owned(), Secret::new(String::from_utf8_lossy(&token.0).into_owned()));
    }
    Ok(JoinSecrets { bootstrap: Secret::new(token.expose().as_str()), accounts })
}

/// Whether this machine will do, and what plans have to know of it.
async fn look(
    spec: &ClusterSpec,
    over: &SshHost,
    mut options: PlanOptions,
) -> Result<(PlanOptions, Vec<String>), Failure> {
    let (found, warnings) = survey_all(spec, &[over])
        .await
        .map_err(|errors| all_failed("nothing was changed; the same command begins anew", &errors))?;
    options.traits = found.iter().map(|(host, survey)| (host.clone(), survey.traits())).collect();
    Ok((options, warnings))
}

fn dry_run(
    spec: &ClusterSpec,
    plan: &HostPlan,
    warnings: &[String],
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let services: Vec<&str> = plan.services.iter().map(|s| s.name.as_str()).collect();
    let files: Vec<&Path> = plan.files.iter().map(|f| f.path.as_path()).collect();
    if as_json {
        output::print_json(&json!({
            "dryRun": true, "cluster": spec.name, "node": plan.host, "address": plan.address, "packages": plan.packages,
            "files": files, "services": services, "warnings": warnings,
        }))?;
    } else {
        let files: String = files.iter().map(|f| format!("\n  {}", f.display())).collect();
        output::print(&format!(
            "This machine would become node {} of cluster {:?}, at {}.\nPackages: {}\nServices: {}\nFiles:{files}\n",
            plan.host,
            spec.name,
            plan.address,
            plan.packages.join(" "),
            services.join(" "),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn install(plan: &HostPlan, over: SshHost, options: &Join, steps: &Steps) -> Result<Changes, Failure> {
    let source = images::Source::of_this_host()
        .map_err(|e| Failure::new(format!("cannot find the running program: {e}"), ""))?;
    let bringing = Bringing::by_content(source, Duration::from_secs(options.wait))?;
    let targets = [Target { host: std::sync::Arc::new(over), plan: plan.clone() }];
    let shown = std::sync::Mutex::default();
    let tell = teller(steps, &shown);
    let next = "`journalctl -u SERVICE` tells more; the same command goes on from here";
    let failed = |errors: Vec<_>| all_failed(next, &errors);
    let mut changes = Changes::new();
    install_all(&targets, &bringing, &tell, &mut changes).await.map_err(failed)?;
    start_all(&targets, &[Stage::Balancer, Stage::Node], &bringing, &tell, &mut changes)
        .await
        .map_err(failed)?;
    Ok(changes)
}

fn say(
    spec: &ClusterSpec,
    host: &Host,
    changes: &Changes,
    took: Duration,
    warnings: &[String],
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
    let all: Vec<String> = changes.values().flatten().map(ToString::to_string).collect();
    if as_json {
        output::print_json(&json!({
            "cluster": spec.name, "node": host.name, "address": host.address, "seconds": seconds,
            "changed": !all.is_empty(), "changes": all, "warnings": warnings,
        }))?;
    } else {
        output::print(&format!(
            "This machine is node {} of cluster {:?}, Ready after {seconds} s.\n\n  kubectl get nodes   where the admin \
             kubeconfig is\n  cox down --purge    here, to take it out again\n",
            host.name, spec.name
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where a joined machine notes of what it is a node.
pub fn record() -> PathBuf {
    PathBuf::from("/var/lib/cox/joined.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_checked_before_anything_is_done() {
        assert_eq!(endpoint("https://k8s.example.org:6443/").unwrap(), "k8s.example.org:6443");
        for bad in ["k8s.example.org", ":6443", "a:0", "a:b", "a:1/x"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
        let good = format!("sha256:{}", "aB".repeat(32));
        assert_eq!(pin(&good).unwrap(), good.to_lowercase());
        for bad in ["", "sha256:12", "md5:00", &"ab".repeat(32)] {
            assert!(pin(bad).is_err(), "{bad}");
        }
    }
}
