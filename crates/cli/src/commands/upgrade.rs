//! `cox upgrade`: hosts get this build, one after another, and the cluster serves meanwhile.
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use provision::apply::{Bringing, Changes, Target, install_all, runs_as_planned, start_all};
use provision::plan::Stage;
use provision::spec::{ClusterSpec, Host, Role};
use serde_json::json;

use super::change::members_of;
use super::drain::{DrainFlags, drain};
use super::up::Steps;
use super::up_hosts::{admin, all_failed, bringing_of, ensure_balancer, node_ready, teller};
use crate::args::Which;
use crate::hosts::{Hosts, HostsCluster};
use crate::output::{self, Failure};

/// Says on a Node that it was this command that keeps pods off, so that it lets them come back.
const MARK: &str = "cox/upgrade";
/// Between two looks at what is not well yet.
const PAUSE: Duration = Duration::from_millis(250);

/// `cox upgrade`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  ./cox-new upgrade --dry-run      which hosts, in which order\n  ./cox-new upgrade --name prod\n  \
    cox upgrade --no-drain          pods stay where they are: their containers run on while the parts start anew\n\n\
    Control planes first, one host at a time: etcd has to be well, pods leave as their disruption budgets allow, the program\n\
    is replaced, its parts start anew, and the host has to be well before the next. What fails stops it; run it again\n\
    and it goes on with that host. A cluster of one host needs no more than `cox up` with the new program."
)]
pub struct Upgrade {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// Only says what would be done.
    #[arg(long)]
    pub dry_run: bool,
    /// Leaves pods where they are.
    #[arg(long)]
    pub no_drain: bool,
    /// How long a host may take until it is well again, in seconds.
    #[arg(long, default_value_t = 180)]
    pub wait: u64,
    /// How nodes are emptied.
    #[command(flatten)]
    pub drain: DrainFlags,
}

/// Those whose loss is worst, while most others are still as they were.
fn order(spec: &ClusterSpec) -> Vec<&Host> {
    let rank = |host: &&Host| {
        let has_member = spec.etcd_hosts().iter().any(|h| h.name == host.name);
        match (host.is(Role::ControlPlane), has_member) {
            (true, _) => 0,
            (false, true) => 1,
            _ => 2,
        }
    };
    let mut all: Vec<&Host> = spec.hosts.iter().collect();
    all.sort_by_key(rank);
    all
}

fn roles(host: &Host) -> String {
    let named = Role::ALL.iter().filter(|(_, role)| host.is(*role)).map(|(name, _)| *name);
    named.collect::<Vec<_>>().join(", ")
}

/// `cox upgrade`.
pub async fn upgrade(options: Upgrade, as_json: bool) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let Some(cluster) = HostsCluster::kept(&options.which)? else {
        return Err(Failure::new(
            "there is no cluster of several hosts",
            "a cluster of one host is upgraded by `cox up` with the new program",
        ));
    };
    if cluster.former()?.is_some() {
        return Err(Failure::new(
            "a change of the cluster is not complete",
            "run `cox up` until it is, then upgrade",
        ));
    }
    let _lock = cluster.layout.lock().map_err(|e| Failure::of(&e))?;
    let hosts = cluster.hosts()?;
    let trust = cluster.trust()?;
    let plans = cluster.plans(&trust)?;
    let bringing = bringing_of(&hosts, Duration::from_secs(options.wait))?;
    let mut targets = Vec::new();
    for host in order(&cluster.spec) {
        let plan = plans.iter().find(|p| p.host == host.name).cloned();
        targets.extend(plan.map(|plan| (host, Target { host: hosts.host(host), plan })));
    }
    let mut pending = Vec::new();
    for (host, target) in &targets {
        let current = runs_as_planned(&target.plan, &*target.host, &bringing).await.map_err(|e| {
            Failure::new(
                e.to_string(),
                "every host has to answer before an upgrade begins: `cox up` repairs it",
            )
        })?;
        if !current {
            pending.push(host.name.clone());
        }
    }
    if options.dry_run {
        return tell_order(&options, &targets, &pending, as_json);
    }
    let steps = Steps::new(as_json);
    let client = admin(&cluster.admin_kubeconfig()).await?;
    let run = Run { cluster: &cluster, hosts: &hosts, client, bringing, steps: &steps, options: &options };
    for (host, target) in &targets {
        if pending.contains(&host.name) {
            let began = Instant::now();
            run.one(host, target).await.map_err(|failure| run.stopped(host, failure))?;
            steps.done(&host.name, &format!("upgraded in {:.1} s", began.elapsed().as_secs_f64()));
        } else {
            run.let_pods_back(&host.name).await?;
        }
    }
    if let Hosts::Local(_) = &hosts {
        ensure_balancer(&cluster).await?;
    }
    steps.end();
    let seconds = super::store::seconds(began.elapsed());
    if as_json {
        output::print_json(
            &json!({ "name": cluster.layout.name(), "upgraded": pending, "seconds": seconds }),
        )?;
    } else if pending.is_empty() {
        output::print("All hosts run this build; nothing was changed.\n")?;
    } else {
        output::print(&format!("Upgraded after {seconds} s: {}.\n", pending.join(", ")))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn tell_order(
    options: &Upgrade,
    targets: &[(&Host, Target)],
    pending: &[String],
    as_json: bool,
) -> Result<ExitCode, Failure> {
    if as_json {
        let done: Vec<&str> = targets
            .iter()
            .map(|(h, _)| h.name.as_str())
            .filter(|n| !pending.iter().any(|p| p == n))
            .collect();
        output::print_json(&json!({ "order": pending, "current": done }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    let mut number = 0;
    for (host, _) in targets {
        if !pending.contains(&host.name) {
            text += &format!(" -  {} ({}): runs this build\n", host.name, roles(host));
            continue;
        }
        number += 1;
        let drains = host.is(Role::Worker) && !options.no_drain;
        let drain = if drains { "its pods leave, " } else { "" };
        text += &format!(
            "{number:>2}. {} ({}): {drain}this build is installed, its parts start anew\n",
            host.name,
            roles(host)
        );
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

struct Run<'a> {
    cluster: &'a HostsCluster,
    hosts: &'a Hosts,
    client: Client,
    bringing: Bringing,
    steps: &'a Steps,
    options: &'a Upgrade,
}

impl Run<'_> {
    fn stopped(&self, host: &Host, failure: Failure) -> Failure {
        let next = if failure.next.is_empty() { self.cluster.logs_hint() } else { failure.next };
        Failure::new(
            format!("the upgrade stops at {}: {}", host.name, failure.what),
            format!(
                "{next}\n  hosts after it run what they ran. `cox upgrade` goes on with {0}; `kubectl uncordon {0}` lets pods \
                 back if you stop here",
                host.name
            ),
        )
    }

    /// Every member of etcd works: one more could be missed for a moment.
    async fn etcd_is_well(&self) -> Result<(), Failure> {
        let members = self.cluster.spec.etcd_hosts();
        if members.is_empty() {
            return Ok(());
        }
        let options = self.cluster.plan_options();
        let deadline = Instant::now() + Duration::from_secs(self.options.wait);
        loop {
            let found = members_of(&members, self.hosts, &options.paths).await.unwrap_or_default();
            let ill: Vec<&str> = found.iter().filter(|m| !m.healthy).map(|m| m.name.as_str()).collect();
            if !found.is_empty() && ill.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let what = if found.is_empty() {
                    "no member of etcd answers".to_owned()
                } else {
                    format!("the member of etcd on {} does not work", ill.join(", "))
                };
                return Err(Failure::new(what, "bring it back first: `cox status`, `cox up`"));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn one(&self, host: &Host, target: &Target) -> Result<(), Failure> {
        let name = &host.name;
        self.steps.begin(&format!("{name}: etcd"));
        self.etcd_is_well().await?;
        let workers = self.cluster.spec.hosts_with(Role::Worker).count();
        if host.is(Role::Worker) && !self.options.no_drain && workers > 1 {
            self.keep_pods_off(name).await?;
            drain(&self.client, name, &self.options.drain, &|left| {
                self.steps.begin(&format!("{name}: {left} pods have to leave"));
            })
            .await?;
        }
        let shown = Mutex::default();
        let tell = teller(self.steps, &shown);
        let mut changes = Changes::new();
        let hint = self.cluster.logs_hint();
        let failed = |errors: Vec<provision::apply::ApplyError>| all_failed(&hint, &errors);
        let alone = std::slice::from_ref(target);
        install_all(alone, &self.bringing, &tell, &mut changes).await.map_err(failed)?;
        start_all(alone, &Stage::ALL, &self.bringing, &tell, &mut changes).await.map_err(failed)?;
        self.steps.begin(&format!("{name}: waiting until it is well"));
        self.etcd_is_well().await?;
        if host.is(Role::Worker) {
            node_ready(&self.client, name, Duration::from_secs(self.options.wait)).await?;
            self.let_pods_back(name).await?;
        }
        Ok(())
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// Cordons a node, and remembers on it that it was not before.
    async fn keep_pods_off(&self, name: &str) -> Result<(), Failure> {
        let Some(node) = self.nodes().get_opt(name).await.map_err(|e| Failure::of(&e))? else {
            return Ok(());
        };
        if node.spec.and_then(|s| s.unschedulable).unwrap_or(false) {
            return Ok(());
        }
        let patch =
            json!({ "metadata": { "annotations": { MARK: "cordoned" } }, "spec": { "unschedulable": true } });
        self.patch(name, &patch).await
    }

    async fn let_pods_back(&self, name: &str) -> Result<(), Failure> {
        let node = self.nodes().get_opt(name).await.map_err(|e| Failure::of(&e))?;
        if !node.is_some_and(|n| n.annotations().contains_key(MARK)) {
            return Ok(());
        }
        let patch =
            json!({ "metadata": { "annotations": { MARK: null } }, "spec": { "unschedulable": null } });
        self.patch(name, &patch).await
    }

    async fn patch(&self, name: &str, patch: &serde_json::Value) -> Result<(), Failure> {
        let patched = self.nodes().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map(drop).map_err(|e| Failure::of(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_planes_come_first() {
        let text = "name: c\nhosts:\n- {name: w, address: 192.0.2.1, roles: [worker]}\n\
                    - {name: e, address: 192.0.2.2, roles: [etcd]}\n\
                    - {name: c, address: 192.0.2.3, roles: [control-plane]}\netcd: {topology: hosts}\n";
        let spec = ClusterSpec::read(text, &|_| Ok(())).spec.unwrap();
        let names: Vec<&str> = order(&spec).into_iter().map(|h| h.name.as_str()).collect();
        assert_eq!(names, ["c", "e", "w"]);
    }
}
