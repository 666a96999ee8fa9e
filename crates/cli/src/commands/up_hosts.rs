//! `cox up` for several hosts, in namespaces of this machine or over ssh: each is made what its plan says.
use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use client::Remote;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Api, Client};
use provision::apply::{
    ApplyError, Bringing, CLUSTER_MARK, Changes, Target, install_all, start_all, survey_all,
};
use provision::local::LocalHosts;
use provision::plan::{HostPlan, Manifest, Stage, joining, manifests};
use provision::spec::{ClusterSpec, Provider, Role};
use provision::{
    Facts, Finding, ProcessRecord, Severity, WantedPort, Wish, check, find_program, own_processes,
};
use serde_json::{Value, json};

use crate::args::Up;
use crate::cluster_file::count;
use crate::commands::change::Change;
use crate::commands::drain::DrainFlags;
use crate::commands::up::Steps;
use crate::hosts::{Hosts, HostsCluster};
use crate::output::{self, Failure};
use crate::parts::VERSION;

/// Name of the record of the balancer that this machine itself uses.
pub const BALANCER: &str = "balancer";
/// The file that is there while a change has not been seen to work.
const UNTRIED: &str = "untried";
/// How long the balancer gets to end.
const GRACE: Duration = Duration::from_secs(5);
/// What hosts need of this machine beyond what a node needs: programs, and the packages they come in.
const PROGRAMS: [(&str, &str); 3] =
    [("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")];

/// Brings all hosts up, or repairs them.
pub async fn up(options: Up, cluster: HostsCluster, as_json: bool) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    cluster.layout.exists().map_err(|e| Failure::of(&e))?;
    let mut warnings = match cluster.spec.provider {
        Provider::Local => super::up::judge(&findings(&cluster))?,
        Provider::Ssh => Vec::new(),
    };
    let _lock = cluster.layout.lock().map_err(|e| Failure::of(&e))?;
    cluster.layout.prepare().map_err(|e| Failure::of(&e))?;
    let hosts = cluster.hosts()?;
    let steps = Steps::new(as_json);
    if let Hosts::Ssh { .. } = &hosts {
        steps.begin("looking at the hosts");
        warnings = survey(&cluster, &hosts).await?;
    }
    if !as_json {
        warnings.iter().for_each(|w| steps.done("warning", w));
    }
    let pace = Pace {
        drain: &options.drain,
        patience: Duration::from_secs(options.wait),
        no_verify: options.no_verify,
    };
    let (changed, changes) = bring_up(&cluster, &hosts, pace, &steps).await?;
    say(&cluster, began.elapsed(), changed, &changes, as_json.then_some(warnings))?;
    Ok(ExitCode::SUCCESS)
}

/// How long things may take, and what is taken on trust.
#[derive(Clone, Copy)]
pub struct Pace<'a> {
    /// How hosts that go are emptied.
    pub drain: &'a DrainFlags,
    /// How long each part may take until it works.
    pub patience: Duration,
    /// Whether machines are not tried after a change.
    pub no_verify: bool,
}

/// Makes the hosts what they shall be; says whether anything was not, and what was changed on hosts. Hold the layout's
/// lock meanwhile.
pub async fn bring_up(
    cluster: &HostsCluster,
    hosts: &Hosts,
    pace: Pace<'_>,
    steps: &Steps,
) -> Result<(bool, Changes), Failure> {
    let patience = pace.patience;
    let change = Change::begin(cluster, hosts, pace.drain, patience)?;
    change.leave_roles(steps).await?;
    steps.begin("certificates");
    let trust = cluster.trust()?;
    let plans = cluster.plans(&trust)?;
    let mut changed = write_kubeconfig(cluster, &trust)?;
    if let Hosts::Local(hosts) = hosts {
        changed |= boot(hosts, &plans, steps).await?;
    }

    let targets: Vec<Target> = cluster
        .spec
        .hosts
        .iter()
        .zip(plans)
        .map(|(host, plan)| Target { host: hosts.host(host), plan })
        .collect();
    let bringing = bringing_of(hosts, patience)?;
    let shown = Mutex::default();
    let tell = teller(steps, &shown);
    let mut changes = Changes::new();
    let next = format!("{}; `cox up` goes on from here", cluster.logs_hint());
    let failed = |errors: Vec<ApplyError>| all_failed(&next, &errors);
    install_all(&targets, &bringing, &tell, &mut changes).await.map_err(failed)?;
    change.etcd(&targets, &trust, &bringing, steps, &tell, &mut changes).await?;
    let before = [Stage::Etcd, Stage::ApiServer, Stage::Balancer];
    start_all(&targets, &before, &bringing, &tell, &mut changes).await.map_err(failed)?;
    if let Hosts::Local(_) = hosts {
        steps.begin("balancer");
        changed |= ensure_balancer(cluster).await?;
    }
    let client = admin(&cluster.admin_kubeconfig()).await?;
    steps.begin("objects of the cluster");
    let joining = joining(&cluster.spec, trust.authority_pem().map_err(|e| Failure::of(&e))?);
    let objects = manifests(&cluster.spec).into_iter().chain([joining]);
    install_objects(&client, objects, patience).await?;
    let after = [Stage::Controllers, Stage::Node];
    start_all(&targets, &after, &bringing, &tell, &mut changes).await.map_err(failed)?;
    for (host, all) in changes.iter().filter(|(_, all)| !all.is_empty()) {
        steps.done(host, &count(all.len(), "change"));
    }
    steps.begin("waiting for the nodes");
    nodes_ready(&client, &cluster.spec, patience).await?;
    changed |= !change.complete(&client, steps).await?.is_empty();
    changed |= changes.values().any(|all| !all.is_empty());
    if let Hosts::Ssh { .. } = hosts {
        verify(cluster, &client, changed, pace.no_verify, steps).await?;
    }
    steps.end();
    Ok((changed, changes))
}

/// What hosts get, made of this program.
pub fn bringing_of(hosts: &Hosts, patience: Duration) -> Result<Bringing, Failure> {
    let source = images::Source::of_this_host()
        .map_err(|e| Failure::new(format!("cannot find the running program: {e}"), ""))?;
    Ok(match hosts {
        Hosts::Local(_) => Bringing::new(source, patience)?,
        // They were made by a program at another place as well.
        Hosts::Ssh { .. } => Bringing::by_content(source, patience)?,
    })
}

/// Looks at the machines before anything is done to them, and keeps what plans have to know of them.
async fn survey(cluster: &HostsCluster, hosts: &Hosts) -> Result<Vec<String>, Failure> {
    let spec = &cluster.spec;
    let all: Vec<_> = spec.hosts.iter().map(|host| hosts.host(host)).collect();
    let asked: Vec<_> = all.iter().map(|host| &**host).collect();
    let (found, warnings) = survey_all(spec, &asked)
        .await
        .map_err(|errors| all_failed("nothing was changed; `cox up` begins anew", &errors))?;
    cluster.keep_traits(&found.iter().map(|(host, survey)| (host.clone(), survey.traits())).collect())?;
    let unmarked = all.iter().filter(|host| found.get(host.name()).is_some_and(|s| s.unmarked()));
    let marks = unmarked.map(|host| async {
        let mark = format!("{}\n", spec.name);
        host.write_file(Path::new(CLUSTER_MARK), 0o644, mark.as_bytes())
            .await
            .map_err(|e| Failure::new(format!("host {}: {e}", host.name()), ""))
    });
    futures::future::try_join_all(marks).await?;
    Ok(warnings)
}

/// Tries the cluster after a change, and after a change that was not tried or did not work.
async fn verify(
    cluster: &HostsCluster,
    client: &Client,
    changed: bool,
    on_trust: bool,
    steps: &Steps,
) -> Result<(), Failure> {
    let mark = cluster.layout.root().join(UNTRIED);
    let failed = |e: std::io::Error| Failure::new(format!("cannot write {}: {e}", mark.display()), "");
    if changed && !on_trust {
        std::fs::write(&mark, "").map_err(failed)?;
    }
    if mark.exists() && !on_trust {
        steps.begin("trying pods, names and Services on every node");
        super::verify::verify(client, &cluster.spec).await?;
    }
    match std::fs::remove_file(&mark) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed(e)),
        _ => Ok(()),
    }
}

/// Starts the hosts that are namespaces of this machine; says whether anything had to be.
pub async fn boot(hosts: &LocalHosts, plans: &[HostPlan], steps: &Steps) -> Result<bool, Failure> {
    steps.begin("hosts");
    let wired = hosts.ensure_switch().await.map_err(|e| Failure::of(&e))?;
    let starts = plans.iter().map(|plan| hosts.start(plan));
    let mut booted = 0;
    for (result, plan) in futures::future::join_all(starts).await.into_iter().zip(plans) {
        let started = result.map_err(|e| {
            let log = hosts.host(&plan.host).logs().join("init.log");
            Failure::new(format!("host {}: {e}", plan.host), format!("whole log: {}", log.display()))
        })?;
        booted += usize::from(started);
    }
    if booted > 0 {
        steps.done("hosts", &format!("{booted} started"));
    }
    Ok(wired || booted > 0)
}

/// Shows what is being done on all hosts in one line.
pub fn teller<'a>(
    steps: &'a Steps,
    shown: &'a Mutex<BTreeMap<String, String>>,
) -> impl Fn(&str, &str) + Sync + 'a {
    move |host, what| {
        let mut shown = shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shown.insert(host.to_owned(), what.to_owned());
        let all: Vec<String> = shown.iter().map(|(host, what)| format!("{host}: {what}")).collect();
        steps.begin(&all.join(", "));
    }
}

/// What failed on all hosts, and what to do.
pub fn all_failed(next: &str, errors: &[ApplyError]) -> Failure {
    match errors {
        [one] => Failure::new(one.to_string(), next),
        many => {
            let all: Vec<String> = many.iter().map(|e| format!("- {e}")).collect();
            Failure::new(
                format!("{} hosts are not what they shall be\n  {}", many.len(), all.join("\n  ")),
                next,
            )
        }
    }
}

/// What stands in the way on this machine.
fn findings(cluster: &HostsCluster) -> Vec<Finding> {
    let port = cluster.spec.api_server.local_port;
    let facts = Facts::gather(cluster.layout.root(), &[port]);
    let wish = Wish {
        node: true,
        ports: vec![WantedPort {
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            port,
            what: "API server".into(),
            flag: "--secure-port",
        }],
        networks: Vec::new(),
        neighbours: Vec::new(),
        own_processes: own_processes(&cluster.layout),
        running: false,
    };
    let mut found = check(&facts, &wish);
    let mut needed = PROGRAMS.to_vec();
    if !cluster.spec.etcd_hosts().is_empty() {
        needed.extend([("etcd", "etcd-server"), ("etcdctl", "etcd-client")]);
    }
    for (program, package) in needed {
        if find_program(program).is_none() {
            found.push(Finding {
                severity: Severity::Error,
                problem: format!("not installed: {program}"),
                next: format!("apt-get install {package}"),
            });
        }
    }
    found
}

/// Writes the kubeconfig of the administrator; says whether it had to be written.
pub(crate) fn write_kubeconfig(
    cluster: &HostsCluster,
    trust: &provision::plan::Trust,
) -> Result<bool, Failure> {
    let path = cluster.admin_kubeconfig();
    let text = trust.kubeconfig(&trust.pki().admin(), &cluster.server()).map_err(|e| Failure::of(&e))?;
    if std::fs::read(&path).is_ok_and(|found| found == text.expose().as_bytes()) {
        return Ok(false);
    }
    pki::write_private(&path, text.expose().as_bytes()).map_err(|e| Failure::of(&e))?;
    Ok(true)
}

/// The command line of the process behind a record.
fn command_line(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.trim_end_matches('\0').split('\0').map(str::to_owned).collect()
}

/// Leads this machine's loopback address to the API servers; says whether it did not before.
pub async fn ensure_balancer(cluster: &HostsCluster) -> Result<bool, Failure> {
    let fail = |what: &str, e: &dyn std::fmt::Display| Failure::new(format!("cannot {what}: {e}"), "");
    let spec = &cluster.spec;
    let program = std::env::current_exe().map_err(|e| fail("find this program", &e))?;
    let listen = format!("127.0.0.1:{}", spec.api_server.local_port);
    let authority = cluster.layout.pki().join("ca.crt");
    let mut arguments = vec![
        "balancer".to_owned(),
        format!("--listen={listen}"),
        format!("--certificate-authority={}", authority.display()),
    ];
    for host in spec.hosts_with(Role::ControlPlane) {
        let address = std::net::SocketAddr::new(host.address, spec.api_server.port);
        arguments.push(format!("--backend={address}"));
    }
    let path = cluster.layout.process_record(BALANCER);
    if let Some(record) = ProcessRecord::read(&path).filter(ProcessRecord::is_alive) {
        if command_line(record.pid).get(1..) == Some(&arguments[..]) && super::up::same_binary(record.pid) {
            return Ok(false);
        }
        if let Some(process) = record.open() {
            process.stop(GRACE).await.map_err(|e| fail("stop the balancer", &e))?;
        }
    }
    let log = cluster.layout.logs().join("balancer.log");
    let output = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(&log)
        .map_err(|e| fail(&format!("open {}", log.display()), &e))?;
    let errors = output.try_clone().map_err(|e| fail("open the log", &e))?;
    let mut child = tokio::process::Command::new(program)
        .args(&arguments)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .kill_on_drop(false)
        .spawn()
        .map_err(|e| fail("start the balancer", &e))?;
    let record = child.id().and_then(|pid| ProcessRecord::of(i32::try_from(pid).ok()?));
    if let Some(record) = &record {
        record.write(&path).map_err(|e| fail("record the balancer", &e))?;
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if tokio::net::TcpStream::connect(&listen).await.is_ok() {
            return Ok(true);
        }
        if child.try_wait().is_ok_and(|ended| ended.is_some()) || Instant::now() > deadline {
            return Err(Failure::new(
                format!("the balancer does not listen on {listen}"),
                format!("see {}", log.display()),
            ));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A client with all rights.
pub async fn admin(kubeconfig: &Path) -> Result<Client, Failure> {
    Remote::from_kubeconfig_file(kubeconfig, &format!("cox/{VERSION}"))
        .await
        .and_then(|remote| remote.client())
        .map_err(|e| Failure::of(&e))
}

/// The objects that a cluster has from the beginning; those that are there already are left as they are.
async fn install_objects(
    client: &Client,
    manifests: impl Iterator<Item = Manifest>,
    patience: Duration,
) -> Result<(), Failure> {
    for object in manifests.flat_map(|m| m.objects) {
        let deadline = Instant::now() + patience;
        // A server that has just started may still have to learn who may do what.
        while let Err(error) = install_object(client, &object).await {
            if Instant::now() > deadline {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                let kind = object["kind"].as_str().unwrap_or_default();
                let why = base::Chain(&error);
                return Err(Failure::new(format!("cannot make {kind} {name}: {why}"), ""));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

async fn install_object(client: &Client, object: &Value) -> Result<(), kube::Error> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["apiVersion"]);
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &text(&object["kind"])));
    let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let params = PatchParams::apply("cox").force();
    api.patch(&text(&object["metadata"]["name"]), &params, &Patch::Apply(object)).await.map(drop)
}

/// Waits until every node is Ready.
pub(crate) async fn nodes_ready(
    client: &Client,
    spec: &ClusterSpec,
    patience: Duration,
) -> Result<(), Failure> {
    let deadline = Instant::now() + patience;
    for host in spec.hosts_with(Role::Worker) {
        node_ready(client, &host.name, deadline.saturating_duration_since(Instant::now())).await?;
    }
    Ok(())
}

/// Waits until a node is Ready.
pub async fn node_ready(client: &Client, name: &str, patience: Duration) -> Result<(), Failure> {
    let nodes: Api<Node> = Api::all(client.clone());
    let is_ready = |node: Option<&Node>| {
        let conditions = node.and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_ref());
        conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    let ready = kube::runtime::wait::await_condition(nodes, name, is_ready);
    match tokio::time::timeout(patience, ready).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Failure::of(&error)),
        Err(_) => Err(Failure::new(
            format!("node {name} is not Ready after {} s", patience.as_secs()),
            format!("see `kubectl describe node {name}` and `cox status`"),
        )),
    }
}

/// Says where the cluster is and what was done.
fn say(
    cluster: &HostsCluster,
    took: Duration,
    changed: bool,
    changes: &Changes,
    as_json: Option<Vec<String>>,
) -> Result<(), Failure> {
    let kubeconfig = cluster.admin_kubeconfig();
    let seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
    if let Some(warnings) = as_json {
        let listed: serde_json::Map<String, Value> = changes
            .iter()
            .map(|(host, all)| (host.clone(), all.iter().map(ToString::to_string).collect()))
            .collect();
        return output::print_json(&json!({
            "name": cluster.layout.name(),
            "server": cluster.server(),
            "kubeconfig": kubeconfig,
            "seconds": seconds,
            "changed": changed,
            "changes": listed,
            "warnings": warnings,
        }));
    }
    if !changed {
        return output::print(&format!(
            "Cluster {:?} is as it shall be; nothing was changed.\nKubeconfig: {}\n",
            cluster.layout.name(),
            kubeconfig.display()
        ));
    }
    let image = format!("{}:{}", images::HELLO, images::VERSION);
    output::print(&format!(
        "Cluster {:?} is ready after {seconds} s: {}, {}.\nKubeconfig: {}\n\n  \
         export KUBECONFIG={}\n  kubectl get nodes -o wide\n  \
         kubectl create deployment hello --image={image} --replicas={}\n",
        cluster.layout.name(),
        count(cluster.nodes(), "node"),
        count(cluster.control_planes(), "control plane"),
        kubeconfig.display(),
        kubeconfig.display(),
        cluster.nodes(),
    ))
}
