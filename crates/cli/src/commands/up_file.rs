//! `cox up -f cluster.yaml`: hosts over ssh, each made what its plan says.
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pki::ClusterPki;
use provision::apply::{
    Bringing, CLUSTER_MARK, Changes, Host as _, Target, install_all, start_all, survey_all,
};
use provision::plan::{PlanOptions, Ready, Stage, Trust, plan};
use provision::spec::{ClusterSpec, Provider};
use provision::{Layout, SshHost};
use serde_json::{Value, json};

use crate::args::Up;
use crate::cluster_file;
use crate::commands::up::Steps;
use crate::commands::up_hosts::{admin, all_failed, install_objects, nodes_ready, teller};
use crate::output::{self, Failure};

/// Makes the hosts of a file what it says.
pub async fn up(options: &Up, file: &Path, as_json: bool) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let spec = cluster_file::load(file)?;
    if spec.provider == Provider::Local {
        return Err(Failure::new(
            format!("{} is for namespaces of this machine", file.display()),
            "`cox up --nodes N --control-planes N` makes those; `provider: ssh` is for hosts over ssh",
        ));
    }
    let layout = Layout::new(&options.which.data_dir, &spec.name).map_err(|e| Failure::of(&e))?;
    let _lock = layout.lock().map_err(|e| Failure::of(&e))?;
    layout.prepare().map_err(|e| Failure::of(&e))?;
    let steps = Steps::new(as_json);
    steps.begin("certificates");
    let (trust, report) =
        Trust::ensure(&layout.pki(), &spec, jiff::Timestamp::now()).map_err(|e| Failure::of(&e))?;
    report.warnings.iter().for_each(|w| output::note(&format!("  warning: {w}")));
    let server = format!("https://{}", spec.endpoint());
    let kubeconfig = ClusterPki::kubeconfig(&layout.kubeconfigs(), "admin");
    let text = trust.kubeconfig(&trust.pki().admin(), &server).map_err(|e| Failure::of(&e))?;
    pki::write_private(&kubeconfig, text.expose().as_bytes()).map_err(|e| Failure::of(&e))?;

    let control = layout.run().join("ssh");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&control)
        .map_err(|e| Failure::new(format!("cannot make {}: {e}", control.display()), ""))?;
    let mut plan_options = PlanOptions::system();
    let cox = plan_options.paths.program("cox");
    let hosts: Vec<Arc<SshHost>> = spec
        .hosts
        .iter()
        .map(|host| Arc::new(SshHost::new(host, &control, &cox).with_packages(spec.packages.as_deref())))
        .collect();
    steps.begin("looking at the hosts");
    survey(&spec, &hosts, &mut plan_options).await?;
    let plans = plan(&spec, &trust, &plan_options).map_err(|e| Failure::of(&e))?;
    let targets: Vec<Target> = hosts.into_iter().zip(plans).map(|(host, plan)| Target { host, plan }).collect();
    let patience = Duration::from_secs(options.wait);
    let source = images::Source::of_this_host()
        .map_err(|e| Failure::new(format!("cannot find the running program: {e}"), ""))?;
    let bringing = Bringing::by_content(source, patience)?;
    let shown = std::sync::Mutex::default();
    let tell = teller(&steps, &shown);
    let mut changes = Changes::new();
    let next = "`journalctl -u SERVICE` on the host tells more; `cox up` goes on from here";
    let failed = |errors: Vec<_>| all_failed(next, &errors);
    install_all(&targets, &bringing, &tell, &mut changes).await.map_err(failed)?;
    let before = [Stage::Etcd, Stage::ApiServer, Stage::Balancer];
    start_all(&targets, &before, &bringing, &tell, &mut changes).await.map_err(failed)?;
    steps.begin("objects of the cluster");
    let client = admin(&kubeconfig).await?;
    install_objects(&client, &spec, patience).await?;
    let after = [Stage::Controllers, Stage::Node];
    start_all(&targets, &after, &bringing, &tell, &mut changes).await.map_err(failed)?;
    for (host, all) in changes.iter().filter(|(_, all)| !all.is_empty()) {
        steps.done(host, &cluster_file::count(all.len(), "change"));
    }
    steps.begin("waiting for the nodes");
    nodes_ready(&client, &spec, patience).await?;
    if !options.no_verify && changes.values().any(|all| !all.is_empty()) {
        steps.begin("trying pods, names and Services on every node");
        super::verify::verify(&client, &spec).await?;
    }
    steps.end();
    say(&spec, &server, &kubeconfig, began.elapsed(), &changes, as_json)?;
    Ok(ExitCode::SUCCESS)
}

/// Looks at the hosts before anything is done to them, and tells plans what they are like.
async fn survey(spec: &ClusterSpec, hosts: &[Arc<SshHost>], options: &mut PlanOptions) -> Result<(), Failure> {
    let asked: Vec<&dyn provision::apply::Host> = hosts.iter().map(|h| &**h as &dyn provision::apply::Host).collect();
    let (found, warnings) = survey_all(spec, &asked)
        .await
        .map_err(|errors| all_failed("nothing was changed; `cox up` begins anew", &errors))?;
    warnings.iter().for_each(|w| output::note(&format!("  warning: {w}")));
    options.traits = found.iter().map(|(host, survey)| (host.clone(), survey.traits())).collect();
    let marks = hosts.iter().filter(|h| found.get(h.name()).is_some_and(|s| s.unmarked())).map(|host| async {
        let mark = format!("{}\n", spec.name);
        host.write_file(Path::new(CLUSTER_MARK), 0o644, mark.as_bytes())
            .await
            .map_err(|e| Failure::new(format!("host {}: {e}", host.name()), ""))
    });
    futures::future::try_join_all(marks).await.map(drop)
}

fn say(
    spec: &ClusterSpec,
    server: &str,
    kubeconfig: &Path,
    took: Duration,
    changes: &Changes,
    as_json: bool,
) -> Result<(), Failure> {
    let seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
    let changed = changes.values().any(|all| !all.is_empty());
    if as_json {
        let listed: serde_json::Map<String, Value> = changes
            .iter()
            .map(|(host, all)| (host.clone(), all.iter().map(ToString::to_string).collect()))
            .collect();
        return output::print_json(&json!({
            "name": spec.name, "server": server, "kubeconfig": kubeconfig, "seconds": seconds,
            "changed": changed, "changes": listed,
        }));
    }
    let kubeconfig = kubeconfig.display();
    let what = if changed {
        format!("is ready after {seconds} s: {}", cluster_file::count(spec.hosts.len(), "host"))
    } else {
        "is as it shall be; nothing was changed".to_owned()
    };
    output::print(&format!(
        "Cluster {:?} {what}.\nKubeconfig: {kubeconfig}\n\n  export KUBECONFIG={kubeconfig}\n  kubectl get nodes -o wide\n",
        spec.name
    ))
}

/// `cox probe`: whether a service of this host works, as another `cox` asks over ssh; the question is standard input.
pub async fn probe(patience_ms: u64) -> Result<ExitCode, Failure> {
    let ready: Ready = serde_json::from_reader(std::io::Read::take(std::io::stdin(), 1 << 16))
        .map_err(|e| Failure::of(&e))?;
    let deadline = tokio::time::Instant::now() + Duration::from_millis(patience_ms);
    loop {
        match provision::probe(&ready).await {
            Ok(()) => return Ok(ExitCode::SUCCESS),
            Err(why) if tokio::time::Instant::now() >= deadline => return Err(Failure::new(why, "")),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// `cox import-images`: gives this host's container runtime the system images, made of this binary.
pub async fn import_images(socket: &Path, snapshotter: &str) -> Result<ExitCode, Failure> {
    let source = images::Source::of_this_host()
        .map_err(|e| Failure::new(format!("cannot find the running program: {e}"), ""))?;
    let bringing = Bringing::new(source, Duration::ZERO)?;
    let record = Path::new("/var/lib/cox/system-images.json");
    let imported = provision::import_system_images(socket, record, &bringing.images, snapshotter).await?;
    output::print(if imported { "imported\n" } else { "present\n" })?;
    Ok(ExitCode::SUCCESS)
}
