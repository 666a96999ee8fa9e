//! What `cox down` takes away on a machine that is a host of a cluster: asked over whatever leads there, done by `cox`
//! itself, which knows the kernel's side of pods better than any script.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{
    apply::{ApplyError, Host, HostError},
    down::{
        Removed, kill_left_processes, mounts_below, remove_cgroups, remove_network, remove_pods,
        remove_tables, unmount_all,
    },
    plan::{HostPaths, HostPlan, Ready, Stage},
    spec::{ClusterSpec, PodNetwork},
};

/// How long containers get to end by themselves.
const GRACE: Duration = Duration::from_secs(10);
/// The kubelet's name for the pod network, and where its plugins keep which address is taken.
const NETWORK: (&str, &str) = ("cox", "/var/lib/cni/networks");
/// The proxy's table of packet rules.
const TABLE: &str = "cox-proxy";
/// The cgroup of all pods.
const PODS: &str = "/kubepods";
/// Where hosts keep what `cox` itself notes.
const STATE: &str = "/var/lib/cox";

/// What is to be taken away on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleaning {
    /// The container runtime, if the host has one of ours.
    pub runtime: Option<PathBuf>,
    /// State of the kubelet, with mounts below.
    pub kubelet: PathBuf,
    /// Configuration of the pod network.
    pub cni_conf: PathBuf,
    /// Range of pods, and whether a tunnel leads to them.
    pub pods: (Ipv4Net, bool),
    /// Files and links that go.
    pub files: BTreeSet<PathBuf>,
    /// Directories that go with all that is in them.
    pub directories: BTreeSet<PathBuf>,
    /// Directories that go if nothing else is in them.
    pub if_empty: BTreeSet<PathBuf>,
}

impl Cleaning {
    /// What goes of a host with this plan; without `purge`, what it would not have if it had just been switched on.
    pub fn of(plan: &HostPlan, spec: &ClusterSpec, paths: &HostPaths, purge: bool) -> Self {
        let mut cleaning = Self {
            runtime: plan.runtime.as_ref().map(|r| r.socket.clone()),
            kubelet: paths.kubelet.clone(),
            cni_conf: paths.cni_conf.clone(),
            pods: (spec.network.pod_cidr, spec.network.pod_network == PodNetwork::Vxlan),
            files: BTreeSet::new(),
            directories: BTreeSet::new(),
            if_empty: BTreeSet::new(),
        };
        if !purge {
            return cleaning;
        }
        let own =
            [&paths.config, &paths.kubelet, &paths.pod_logs, &paths.etcd, &paths.db, &paths.containerd_root];
        let planned = |path: &Path| {
            plan.directories.iter().any(|d| d.path == path)
                || plan.files.iter().any(|f| f.path.starts_with(path))
        };
        cleaning.directories.extend(own.into_iter().filter(|p| planned(p)).cloned());
        if plan.runtime.is_some() {
            let of_pods = ["/var/lib/cni", "/var/log/containers"];
            cleaning.directories.extend(of_pods.map(PathBuf::from));
        }
        cleaning.directories.extend(["services", "packages"].map(|name| Path::new(STATE).join(name)));
        let records = ["cluster", "joined.json", "program", "system-images.json"];
        cleaning.files.extend(records.map(|name| Path::new(STATE).join(name)));
        cleaning.if_empty.extend([PathBuf::from(STATE), paths.cni_conf.clone()]);
        cleaning.if_empty.extend(paths.containerd_config.parent().map(Path::to_owned));
        let files = plan.files.iter().map(|f| &f.path);
        let within = |path: &Path| cleaning.directories.iter().any(|d| path.starts_with(d));
        let left: Vec<PathBuf> =
            files.chain(plan.binaries.iter().map(|b| &b.path)).filter(|p| !within(p)).cloned().collect();
        cleaning.files.extend(left);
        cleaning
    }
}

/// Takes a host's pods away; the kubelet has to be gone, and the runtime has to run.
pub async fn clean_pods(cleaning: &Cleaning) -> Removed {
    let mut removed = Removed::default();
    let Some(socket) = cleaning.runtime.as_ref().filter(|s| s.exists()) else { return removed };
    match cri::Cri::new(&format!("unix://{}", socket.display())) {
        Ok(cri) => remove_pods(&cri, GRACE, &mut removed).await,
        Err(error) => removed.problem("cannot speak to the container runtime", error),
    }
    removed
}

/// Takes away what is left when no service of the cluster runs any more.
pub async fn clean_rest(cleaning: &Cleaning) -> Removed {
    let mut removed = Removed::default();
    if let Some(socket) = &cleaning.runtime {
        kill_left_processes(socket, PODS, &mut removed).await;
        unmount_all(&cleaning.kubelet, &mut removed);
        remove_cgroups(PODS, &mut removed);
        remove_network(NETWORK.0, Path::new(NETWORK.1), &cleaning.cni_conf, &mut removed).await;
        let (network, tunnel) = cleaning.pods;
        let vxlan = tunnel.then(net::pod_network::Vxlan::default);
        if let Err(error) = net::pod_network::remove(network, vxlan).await {
            removed.problem("cannot remove the routes to pods", error);
        }
        remove_tables(&["ip", "ip6"].map(|family| (family.to_owned(), TABLE.to_owned())), &mut removed);
        if let Some(state) = socket.parent() {
            unmount_all(state, &mut removed);
            let _ = fs::remove_dir_all(state);
        }
    }
    for directory in &cleaning.directories {
        remove_directory(directory, &mut removed);
    }
    let kept = |result: io::Result<()>| result.err().filter(|e| e.kind() != io::ErrorKind::NotFound);
    // Who does the rest the next time, if something is left.
    let own = std::env::current_exe().unwrap_or_default();
    let (last, first): (Vec<&PathBuf>, Vec<&PathBuf>) = cleaning.files.iter().partition(|f| **f == own);
    for file in first.into_iter().chain(last) {
        if *file == own && !removed.problems.is_empty() {
            break;
        }
        if let Some(error) = kept(fs::remove_file(file)) {
            removed.problem(format!("cannot remove {}", file.display()), error);
        }
    }
    for directory in cleaning.if_empty.iter().rev() {
        let _ = fs::remove_dir(directory);
    }
    removed
}

/// Removes a directory with all in it, but never what is mounted there.
fn remove_directory(directory: &Path, removed: &mut Removed) {
    let root = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = mounts_below(&mountinfo, &root);
    // A disk of its own for a directory is the machine's; what is on it is ours.
    if let Some(mount) = mounts.iter().find(|m| **m != root) {
        removed.problem(
            format!("kept {}", directory.display()),
            format!("{} is still mounted", mount.display()),
        );
        return;
    }
    let gone = if mounts.is_empty() { fs::remove_dir_all(directory) } else { empty(directory) };
    match gone {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            removed.problem(format!("cannot remove {}", directory.display()), error);
        }
        _ => {}
    }
}

fn empty(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?
        } else {
            fs::remove_file(entry.path())?
        }
    }
    Ok(())
}

/// Stops the services of a stage on a host, as far as there are any; the container runtime goes last, after its pods.
async fn stop_stage(
    stage: Stage,
    plan: &HostPlan,
    host: &dyn Host,
    cox: &Path,
    cleaning: &Cleaning,
) -> Result<Removed, HostError> {
    let found = host.services().await?;
    let mut removed = Removed::default();
    let runtime =
        |ready: &Ready| cleaning.runtime.as_ref().is_some_and(|s| *ready == Ready::Socket(s.clone()));
    let here = plan.services.iter().rev().filter(|s| s.stage == stage && found.contains_key(&s.name));
    let (last, first): (Vec<_>, Vec<_>) = here.partition(|s| runtime(&s.ready));
    for service in first {
        host.remove_service(&service.name).await?;
        removed.processes += 1;
    }
    for service in last {
        removed.add(ask(host, cox, "pods", cleaning).await?);
        host.remove_service(&service.name).await?;
        removed.processes += 1;
    }
    Ok(removed)
}

async fn ask(host: &dyn Host, cox: &Path, what: &str, cleaning: &Cleaning) -> Result<Removed, HostError> {
    if host.inspect(&[cox]).await?.is_empty() {
        // Nothing of ours was ever started there, or it was cleaned already.
        return Ok(Removed::default());
    }
    let refused = |said: String| HostError::Refused { step: format!("clean up ({what})"), said };
    let question = serde_json::to_vec(cleaning).map_err(|e| refused(e.to_string()))?;
    let output = host.run(&[&cox.display().to_string(), "clean-host", what], &question).await?;
    if output.code != 0 {
        return Err(refused(output.err.trim().trim_start_matches("cox: ").to_owned()));
    }
    serde_json::from_str(&output.out).map_err(|e| refused(e.to_string()))
}

/// A host, what it is like, and what goes of it.
pub struct Leaving<'a> {
    /// The host.
    pub host: &'a dyn Host,
    /// What it was made.
    pub plan: &'a HostPlan,
    /// What goes.
    pub cleaning: Cleaning,
}

/// Stops the services of all hosts, stage by stage in reverse, and takes away what goes. A host that fails is told and
/// left; the others go on.
pub async fn leave_all(leaving: &[Leaving<'_>], cox: &Path) -> (Removed, Vec<ApplyError>) {
    let mut total = Removed::default();
    let mut failed: Vec<ApplyError> = Vec::new();
    let mut note =
        |leaving: &Leaving<'_>, result: Result<Removed, HostError>, failed: &mut Vec<ApplyError>| {
            let host = &leaving.plan.host;
            match result {
                Ok(mut removed) => {
                    removed.problems.iter_mut().for_each(|p| *p = format!("host {host}: {p}"));
                    total.add(removed);
                }
                Err(error) => failed.push(ApplyError { host: host.clone(), what: error.to_string() }),
            }
        };
    let still =
        |leaving: &&Leaving<'_>, failed: &[ApplyError]| !failed.iter().any(|f| f.host == leaving.plan.host);
    for stage in Stage::ALL.into_iter().rev() {
        let here: Vec<&Leaving<'_>> = leaving.iter().filter(|l| still(l, &failed)).collect();
        let stopped = here.iter().map(|l| stop_stage(stage, l.plan, l.host, cox, &l.cleaning));
        for (leaving, result) in here.iter().zip(futures::future::join_all(stopped).await) {
            note(leaving, result, &mut failed);
        }
    }
    let here: Vec<&Leaving<'_>> = leaving.iter().filter(|l| still(l, &failed)).collect();
    let cleaned = here.iter().map(|l| ask(l.host, cox, "rest", &l.cleaning));
    for (leaving, result) in here.iter().zip(futures::future::join_all(cleaned).await) {
        note(leaving, result, &mut failed);
    }
    (total, failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{PlanOptions, Trust, plan};

    fn cleaning(purge: bool) -> (HostPlan, Cleaning) {
        let text = "name: c\nhosts: [{name: a, address: 192.0.2.1, roles: [control-plane, worker]}]\n";
        let spec = ClusterSpec::read(text, &|_| Ok(())).spec.expect("a cluster");
        let dir = tempfile::tempdir().expect("a directory");
        let now = "2026-07-01T00:00:00Z".parse().expect("a time");
        let (trust, _) = Trust::ensure(dir.path(), &spec, now).expect("made");
        let options = PlanOptions::system();
        let plan = plan(&spec, &trust, &options).expect("planned").remove(0);
        let cleaning = Cleaning::of(&plan, &spec, &options.paths, purge);
        (plan, cleaning)
    }

    #[test]
    fn a_purge_takes_what_was_planned_and_nothing_of_others() {
        let (plan, cleaning) = cleaning(true);
        let goes = |path: &Path| {
            cleaning.files.contains(path) || cleaning.directories.iter().any(|d| path.starts_with(d))
        };
        for file in &plan.files {
            assert!(goes(&file.path), "{}", file.path.display());
        }
        for binary in &plan.binaries {
            assert!(cleaning.files.contains(&binary.path), "{}", binary.path.display());
        }
        for other in [
            "/etc",
            "/etc/sysctl.d",
            "/etc/modules-load.d",
            "/var/lib",
            "/usr/local/bin",
            "/var/log",
            "/etc/cni/net.d",
        ] {
            assert!(!goes(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn without_a_purge_no_file_goes() {
        let (_, cleaning) = cleaning(false);
        assert!(cleaning.files.is_empty() && cleaning.directories.is_empty() && cleaning.if_empty.is_empty());
        assert!(cleaning.runtime.is_some());
    }

    #[test]
    fn directories_go_with_all_in_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let gone = dir.path().join("gone");
        fs::create_dir_all(gone.join("a/b")).expect("made");
        fs::write(gone.join("a/b/c"), "x").expect("written");
        let mut removed = Removed::default();
        remove_directory(&gone, &mut removed);
        remove_directory(&gone, &mut removed);
        assert!(!gone.exists() && removed.problems.is_empty(), "{removed:?}");
    }
}
