//! `cox restore` for a cluster of several hosts, of which any number may be lost: what serves is stopped, a new etcd is made
//! of the hosts that there are, and everything is brought up again. Pods run on meanwhile.
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use provision::apply::{Changes, Host, Target, install_all, start_all, stop_services};
use provision::membership::Etcdctl;
use provision::plan::{HostPaths, Stage};
use provision::spec::{self, Topology};
use serde_json::json;
use storage::Image;

use super::change::{member_data, members_of};
use super::drain::DrainFlags;
use super::hosts_store::StoreHost;
use super::restore::Restore;
use super::store::{blocking, seconds};
use super::up::Steps;
use super::up_hosts::{Pace, all_failed, boot, bring_up, bringing_of, teller};
use crate::hosts::{Hosts, HostsCluster};
use crate::output::{Failure, print, print_json};

/// Writes that may have been made since the backup, where a member could still tell how far it has come, and where none
/// could.
const SINCE_TOLD: u64 = 10_000;
const SINCE_UNKNOWN: u64 = 100_000;
/// What serves objects, and what keeps them.
const SERVING: [Stage; 3] = [Stage::Etcd, Stage::ApiServer, Stage::Controllers];

struct Rebuild<'a> {
    cluster: &'a HostsCluster,
    hosts: &'a Hosts,
    targets: Vec<(&'a spec::Host, Target)>,
    paths: HostPaths,
    steps: &'a Steps,
    patience: Duration,
}

/// `cox restore` for a cluster of several hosts.
pub async fn rebuild(options: &Restore, kept: HostsCluster, as_json: bool) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    // A description without the hosts that are gone for good may be given.
    let cluster = match options.target.which.file() {
        Some(file) => HostsCluster::described(file, &options.target.which, None)?,
        None => kept,
    };
    let image = match &options.file {
        Some(file) => {
            let file = file.clone();
            Some(blocking(move || Image::read_backup(&file)).await?.map_err(|e| Failure::of(&e))?)
        }
        None => None,
    };
    let lock = cluster.layout.lock().map_err(|e| Failure::of(&e))?;
    cluster.layout.prepare().map_err(|e| Failure::of(&e))?;
    let hosts = cluster.hosts()?;
    let steps = Steps::new(as_json);
    let mut plan_options = cluster.plan_options();
    // Members of the old etcd that come back one day have to be strangers to the new one.
    plan_options.etcd_token = Some(format!("{}-{}", cluster.spec.name, Timestamp::now().as_second()));
    let trust = cluster.trust()?;
    let plans = provision::plan::plan(&cluster.spec, &trust, &plan_options).map_err(|e| Failure::of(&e))?;
    if let Hosts::Local(hosts) = &hosts {
        boot(hosts, &plans, &steps).await?;
    }
    let targets = cluster.spec.hosts.iter().zip(plans);
    let targets = targets.map(|(host, plan)| (host, Target { host: hosts.host(host), plan })).collect();
    let patience = Duration::from_secs(options.wait);
    let rebuild = Rebuild {
        cluster: &cluster,
        hosts: &hosts,
        targets,
        paths: plan_options.paths,
        steps: &steps,
        patience,
    };
    rebuild.everybody_answers().await?;
    let known = rebuild.judge(options).await?;

    let revision = match (&options.from_member, cluster.spec.etcd) {
        (Some(_), Topology::Embedded) => {
            return Err(Failure::new(
                "the objects of this cluster are not in etcd: there is no member to go on from",
                "restore a backup: `cox restore FILE`",
            ));
        }
        (Some(host), _) => rebuild.with_member(host, options.bump_revision).await?,
        (None, topology) => {
            let image = image.as_ref().ok_or_else(|| Failure::new("no backup is named", ""))?;
            let since = if known.is_some() { SINCE_TOLD } else { SINCE_UNKNOWN };
            let above = known.unwrap_or(0).max(image.revision().0);
            let above = above.saturating_add(options.bump_revision.unwrap_or(since));
            if topology == Topology::Embedded {
                rebuild.embedded(options).await?
            } else {
                rebuild.with_backup(options, above).await?
            }
        }
    };
    steps.begin("API servers");
    // Hosts that the description leaves out are gone.
    let drain = DrainFlags { drain_timeout: options.wait, force: true };
    let pace = Pace { drain: &drain, patience, no_verify: true };
    bring_up(&cluster, &hosts, pace, &steps).await?;
    steps.end();
    drop(lock);
    let took = seconds(began.elapsed());
    if as_json {
        print_json(&json!({
            "name": cluster.layout.name(),
            "from": options.from_member.as_ref().or(options.file.as_ref().map(|f| f.display().to_string()).as_ref()),
            "keys": image.map(|image| image.len()),
            "revision": revision,
            "seconds": took,
        }))?;
    } else {
        print(&format!(
            "Cluster {:?} is back after {took} s and goes on at revision {revision}.\nWhat its hosts had before is in \
             {} on each; remove it once all is well.\n",
            cluster.layout.name(),
            member_data(&rebuild.paths).with_file_name("before-restore").display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Rebuild<'_> {
    /// Whoever is left out now would begin with data of the old life one day.
    async fn everybody_answers(&self) -> Result<(), Failure> {
        let asked = self.targets.iter().map(|(_, t)| t.host.services());
        let silent: Vec<String> = futures::future::join_all(asked)
            .await
            .into_iter()
            .zip(&self.targets)
            .filter_map(|(answer, (host, _))| answer.err().map(|e| format!("{}: {e}", host.name)))
            .collect();
        if silent.is_empty() {
            return Ok(());
        }
        Err(Failure::new(
            format!("not all hosts answer ({}); nothing was changed", silent.join("; ")),
            "put another machine in the place of one that is gone for good, or leave it out of cluster.yaml and give that \
             with -f",
        ))
    }

    /// Refuses where something is lost that need not be. The highest revision that a member knows.
    async fn judge(&self, options: &Restore) -> Result<Option<u64>, Failure> {
        let members = self.cluster.spec.etcd_hosts();
        let found = members_of(&members, self.hosts, &self.paths).await.unwrap_or_default();
        let well = found.iter().filter(|m| m.healthy).count();
        if well > 0 && !options.replace {
            return Err(Failure::new(
                format!(
                    "etcd works ({well} of {} members): what was written since would be lost",
                    found.len()
                ),
                "a lost minority comes back with `cox up`. To go back all the same: --replace",
            ));
        }
        let asked = members.iter().map(|spec| async {
            let on = self.hosts.host(spec);
            let runs = on.services().await.is_ok_and(|s| s.get("etcd").is_some_and(|e| e.active));
            if runs { Etcdctl::new(&*on, spec, &self.paths).revision().await.ok() } else { None }
        });
        Ok(futures::future::join_all(asked).await.into_iter().flatten().max())
    }

    fn all(&self) -> Vec<Target> {
        self.targets.iter().map(|(_, target)| target.clone()).collect()
    }

    fn members(&self) -> impl Iterator<Item = &(&spec::Host, Target)> {
        let members = self.cluster.spec.etcd_hosts();
        self.targets.iter().filter(move |(host, _)| members.iter().any(|m| m.name == host.name))
    }

    /// Nothing serves any more, and hosts that are new have what they need.
    async fn stop(&self) -> Result<(), Failure> {
        self.steps.begin("stopping what serves objects");
        let stops = self.targets.iter().map(|(_, t)| stop_services(&*t.host, &SERVING, &t.plan));
        for (stopped, (host, _)) in futures::future::join_all(stops).await.into_iter().zip(&self.targets) {
            stopped.map_err(|e| Failure::new(format!("host {}: {e}", host.name), ""))?;
        }
        let bringing = bringing_of(self.hosts, self.patience)?;
        let shown = std::sync::Mutex::default();
        let tell = teller(self.steps, &shown);
        install_all(&self.all(), &bringing, &tell, &mut Changes::new())
            .await
            .map_err(|errors| all_failed("run the same command again", &errors))
    }

    /// Puts what a member has aside, in place of what was put there before.
    async fn put_aside(&self, host: &spec::Host, on: &dyn Host) -> Result<(), Failure> {
        let data = member_data(&self.paths);
        let aside = data.with_file_name("before-restore");
        let (data, aside) = (data.display().to_string(), aside.display().to_string());
        let script = r#"[ -e "$1" ] || exit 0; rm -rf "$2" && mv -T "$1" "$2""#;
        let moved = on.run(&["sh", "-c", script, "sh", &data, &aside], b"").await;
        match moved {
            Ok(output) if output.code == 0 => Ok(()),
            Ok(output) => Err(Failure::new(format!("host {}: {}", host.name, output.err.trim()), "")),
            Err(e) => Err(Failure::new(format!("host {}: {e}", host.name), "")),
        }
    }

    async fn start_etcd(&self, targets: &[Target]) -> Result<(), Failure> {
        let bringing = bringing_of(self.hosts, self.patience)?;
        let shown = std::sync::Mutex::default();
        let tell = teller(self.steps, &shown);
        start_all(targets, &[Stage::Etcd], &bringing, &tell, &mut Changes::new())
            .await
            .map_err(|errors| all_failed(&self.cluster.logs_hint(), &errors))
    }

    async fn carry(&self, store: &StoreHost, options: &Restore, words: &[&str]) -> Result<u64, Failure> {
        let file = options.file.as_deref().unwrap_or(std::path::Path::new(""));
        let bytes = std::fs::read(file)
            .map_err(|e| Failure::new(format!("cannot read {}: {e}", file.display()), ""))?;
        let directory = store.directory().await?;
        let there = format!("{directory}/backup.cox");
        self.steps.begin("writing keys");
        let said = async {
            store.send(&there, &bytes).await?;
            store.cox_done(&[&["restore", there.as_str(), "-o", "json"], words].concat()).await
        }
        .await;
        store.remove(&directory).await?;
        revision(&said?)
    }

    /// A new etcd with the objects of the backup.
    async fn with_backup(&self, options: &Restore, above: u64) -> Result<u64, Failure> {
        self.stop().await?;
        for (host, target) in self.members() {
            self.put_aside(host, &*target.host).await?;
        }
        self.steps.begin("a new etcd");
        let targets: Vec<Target> = self.members().map(|(_, t)| t.clone()).collect();
        self.start_etcd(&targets).await?;
        let store = StoreHost::find(self.cluster).await?;
        let raise = options
            .raise
            .limit()
            .map_or_else(|| "--allow-lower-revisions".to_owned(), |limit| format!("--raise-limit={limit}"));
        self.carry(&store, options, &["--replace", &format!("--above={above}"), &raise]).await
    }

    async fn embedded(&self, options: &Restore) -> Result<u64, Failure> {
        self.stop().await?;
        let store = StoreHost::find(self.cluster).await?;
        self.carry(&store, options, &[]).await
    }

    /// One member goes on alone with what it has; the others join it as new ones when all is brought up.
    async fn with_member(&self, name: &str, bump: Option<u64>) -> Result<u64, Failure> {
        let (host, target) = self.members().find(|(host, _)| host.name == name).ok_or_else(|| {
            let all: Vec<&str> = self.members().map(|(host, _)| host.name.as_str()).collect();
            Failure::new(
                format!("{name} has no member of etcd"),
                format!("those that have: {}", all.join(", ")),
            )
        })?;
        let failed = |e: provision::apply::HostError| Failure::new(format!("host {name}: {e}"), "");
        let data = member_data(&self.paths);
        if target.host.inspect(&[&data]).await.map_err(failed)?.is_empty() {
            return Err(Failure::new(
                format!("{name} has no data of etcd either"),
                "name another host, or restore a backup: `cox restore FILE`",
            ));
        }
        self.stop().await?;
        for (other, target) in self.members().filter(|(other, _)| other.name != host.name) {
            self.put_aside(other, &*target.host).await?;
        }
        self.steps.begin(&format!("{name} goes on alone"));
        let mut alone = target.clone();
        for service in alone.plan.services.iter_mut().filter(|s| s.stage == Stage::Etcd) {
            service.exec.push("--force-new-cluster=true".into());
        }
        self.start_etcd(&[alone]).await?;
        // Without that flag: at the next start it would throw out those that have joined.
        self.start_etcd(std::slice::from_ref(target)).await?;
        let store = StoreHost::on(target.host.clone(), self.cluster);
        self.steps.begin("raising the revision");
        let by = bump.unwrap_or(SINCE_TOLD).to_string();
        revision(&store.cox_done(&["db", "raise", &by, "-o", "json"]).await?)
    }
}

fn revision(said: &str) -> Result<u64, Failure> {
    let said: serde_json::Value =
        serde_json::from_str(said.lines().last().unwrap_or_default()).map_err(|e| Failure::of(&e))?;
    Ok(said["revision"].as_u64().unwrap_or(0))
}
