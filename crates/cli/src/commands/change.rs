//! A cluster that is there becomes another one: members of etcd come and go one at a time, hosts that go are emptied.
//!
//! What to do is decided by `provision::membership`; here it is done. What a change began from is kept until it is
//! complete, so that whoever is interrupted runs the same command again.
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api, DeleteParams};
use provision::apply::{Bringing, Changes, Host, Target, Tell, start, start_all};
use provision::membership::{self, Act, Etcdctl, EtcdctlError, Member, Refusal, Seen};
use provision::plan::{HostPaths, PlanOptions, Ready, Stage, Trust, etcd_client_url, etcd_peer_url};
use provision::spec::{self, ClusterSpec, Role, Topology};
use provision::{Cleaning, Leaving, leave_all};
use tokio::time::Instant;

use super::drain::{DrainFlags, drain};
use super::up::Steps;
use crate::hosts::{Hosts, HostsCluster};
use crate::output::Failure;

/// Name of the file that says that etcd of a cluster has worked once.
const ETCD_WORKED: &str = "etcd-worked";
/// Between two attempts at what etcd refuses for a moment.
const PAUSE: Duration = Duration::from_millis(250);

/// How long members get to work before they are taken for broken.
const SETTLING: Duration = Duration::from_secs(20);

/// Where a member of etcd has its data.
pub fn member_data(paths: &HostPaths) -> PathBuf {
    paths.etcd.join("member")
}

/// The flags of `cox` for the store of a cluster, on a host that has the keys for it.
pub fn store_flags(spec: &ClusterSpec, paths: &HostPaths) -> Vec<String> {
    let members = spec.etcd_hosts();
    if members.is_empty() {
        return vec![format!("--db={}", paths.db.display())];
    }
    let urls: Vec<String> = members.into_iter().map(etcd_client_url).collect();
    vec![
        format!("--etcd-servers={}", urls.join(",")),
        format!("--etcd-cafile={}", paths.pki("etcd/ca.crt").display()),
        format!("--etcd-certfile={}", paths.pki("etcd/peer.crt").display()),
        format!("--etcd-keyfile={}", paths.pki("etcd/peer.key").display()),
    ]
}

/// Runs `cox` on a host; what it says is the answer, or the error.
pub async fn cox_on(host: &dyn Host, paths: &HostPaths, words: &[String]) -> Result<String, Failure> {
    let program = paths.program("cox").display().to_string();
    let mut command = vec![program.as_str()];
    command.extend(words.iter().map(String::as_str));
    let output = host.run(&command, b"").await.map_err(|e| on_host(host.name(), &e))?;
    if output.code == 0 {
        return Ok(output.out);
    }
    let said = output.err.trim().trim_start_matches("cox: ").to_owned();
    Err(Failure::new(format!("host {}: {said}", host.name()), ""))
}

fn on_host(host: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(format!("host {host}: {error}"), "run the same command again: it goes on from here")
}

fn refused(all: &[Refusal]) -> Failure {
    match all {
        [one] => Failure::new(one.what.clone(), one.next.clone()),
        many => {
            let lines: Vec<String> = many.iter().map(|r| format!("- {}\n    {}", r.what, r.next)).collect();
            Failure::new("the cluster cannot become what is described", lines.join("\n  "))
        }
    }
}

/// The change of a cluster.
pub struct Change<'a> {
    cluster: &'a HostsCluster,
    hosts: &'a Hosts,
    flags: &'a DrainFlags,
    patience: Duration,
    options: PlanOptions,
    /// What it was, with all hosts that are not gone yet; none where it is new.
    former: Option<ClusterSpec>,
}

impl<'a> Change<'a> {
    /// Finds out what the cluster was. Refuses what can never be, before anything is touched.
    pub fn begin(
        cluster: &'a HostsCluster,
        hosts: &'a Hosts,
        flags: &'a DrainFlags,
        patience: Duration,
    ) -> Result<Self, Failure> {
        // What was only described, and never begun, may become anything.
        let begun = cluster.layout.pki().join("ca.crt").exists();
        let kept = HostsCluster::at(cluster.layout.clone())?.filter(|_| begun).map(|kept| kept.spec);
        let mut former = cluster.former()?.or_else(|| kept.clone());
        // A change that was given up for another one: what it began is there as well.
        for host in kept.iter().flat_map(|kept| &kept.hosts) {
            if let Some(former) = &mut former
                && former.host(&host.name).is_none()
            {
                former.hosts.push(host.clone());
            }
        }
        if let Some(former) = &former {
            let all = membership::refusals(former, &cluster.spec);
            if !all.is_empty() {
                return Err(refused(&all));
            }
        }
        Ok(Self { cluster, hosts, flags, patience, options: cluster.plan_options(), former })
    }

    fn worked(&self) -> PathBuf {
        self.cluster.layout.root().join(ETCD_WORKED)
    }

    fn paths(&self) -> &HostPaths {
        &self.options.paths
    }

    fn host(&self, host: &spec::Host) -> Arc<dyn Host> {
        self.hosts.host(host)
    }

    /// A host by its name, whether it comes or goes.
    fn find(&self, name: &str) -> Option<&spec::Host> {
        let former = self.former.iter().find_map(|f| f.host(name));
        self.cluster.spec.host(name).or(former)
    }

    /// Hosts that are, or were, to have a member of etcd.
    fn etcd_hosts(&self) -> Vec<&spec::Host> {
        let mut all = self.cluster.spec.etcd_hosts();
        for host in self.former.iter().flat_map(ClusterSpec::etcd_hosts) {
            if !all.iter().any(|h| h.name == host.name) {
                all.push(host);
            }
        }
        all
    }

    /// What there is.
    async fn look(&self) -> Seen {
        let data = member_data(self.paths());
        let mut seen = Seen::default();
        let looks = self.etcd_hosts().into_iter().map(|host| {
            let (on, data) = (self.host(host), data.clone());
            async move { (host, on.inspect(&[&data]).await) }
        });
        for (host, found) in futures::future::join_all(looks).await {
            // One that does not answer says nothing about its disk.
            if found.is_ok_and(|found| found.is_empty()) {
                seen.blank.insert(host.name.clone());
            }
        }
        if let Hosts::Ssh { .. } = self.hosts {
            for host in self.leaving() {
                if self.host(host).run(&["true"], b"").await.is_err() {
                    seen.silent.insert(host.name.clone());
                }
            }
        }
        seen.members = self.members(&[]).await.unwrap_or_default();
        seen
    }

    /// What there is, once those members work that are not lost for good: one that has just started, or that waits for its
    /// disk, is not taken for a broken one.
    async fn look_settled(&self) -> Seen {
        let deadline = Instant::now() + self.patience.min(SETTLING);
        loop {
            let seen = self.look().await;
            let waits = |m: &Member| {
                let host = self.etcd_hosts().into_iter().find(|h| h.name == m.name);
                !m.healthy && !m.learner && host.is_some_and(|h| !seen.blank.contains(&h.name))
            };
            if !seen.members.iter().any(waits) || Instant::now() > deadline {
                return seen;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The hosts that go.
    fn leaving(&self) -> Vec<&spec::Host> {
        let former = self.former.iter().flat_map(|f| &f.hosts);
        former.filter(|h| self.cluster.spec.host(&h.name).is_none()).collect()
    }

    /// The members, as the first one tells that works; else as one that answers at all.
    async fn members(&self, but: &[&str]) -> Option<Vec<Member>> {
        let hosts: Vec<&spec::Host> =
            self.etcd_hosts().into_iter().filter(|h| !but.contains(&h.name.as_str())).collect();
        members_of(&hosts, self.hosts, self.paths()).await
    }

    /// Has a member that works do something about the others, and again while etcd refuses it for a moment.
    async fn ask<T>(
        &self,
        step: &str,
        but: &str,
        ask: impl AsyncFn(&Etcdctl<'_>) -> Result<T, EtcdctlError>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + self.patience;
        let mut why = String::from("no member of etcd works");
        loop {
            let members = self.members(&[but]).await.unwrap_or_default();
            let able = members.iter().filter(|m| m.healthy && !m.learner && m.name != but);
            for member in able {
                let Some(host) = self.find(&member.name) else { continue };
                let on = self.host(host);
                match ask(&Etcdctl::new(&*on, host, self.paths())).await {
                    Ok(done) => return Ok(done),
                    Err(error) => why = error.to_string(),
                }
                break;
            }
            if Instant::now() > deadline {
                return Err(Failure::new(
                    format!("cannot {step}: {why}"),
                    "`cox status` tells how the members are; run the same command again then",
                ));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn plan(&self, seen: &Seen) -> Result<Vec<Act>, Failure> {
        membership::plan(self.former.as_ref(), &self.cluster.spec, seen, self.flags.force)
            .map_err(|all| refused(&all))
    }

    /// What has to be done while everything is still as it was. Then the new description is kept.
    pub async fn leave_roles(&self, steps: &Steps) -> Result<(), Failure> {
        let Some(former) = &self.former else { return self.cluster.keep() };
        let mut seen = self.look().await;
        // Hosts that are down may be what is missing: they are started first.
        if !has_majority(&seen.members) {
            seen.members.clear();
        }
        let acts = self.plan(&seen)?;
        if former != &self.cluster.spec {
            self.cluster.keep_former(Some(former.clone()))?;
        }
        self.cluster.keep()?;
        for act in acts {
            let Act::Resign { host, id } = &act else { continue };
            steps.begin(&act.to_string());
            self.ask("remove a member", host, async |etcd| etcd.remove(*id).await).await?;
            if let Some(host) = self.find(host) {
                self.forget_data(host).await?;
            }
            steps.done("etcd", &act.to_string());
        }
        let stops = |h: &&spec::Host| {
            h.is(Role::Worker) && self.cluster.spec.host(&h.name).is_some_and(|h| !h.is(Role::Worker))
        };
        for host in former.hosts.iter().filter(stops) {
            let client = super::up_hosts::admin(&self.cluster.admin_kubeconfig()).await?;
            self.drain(&client, &host.name, steps).await?;
            self.delete_node(&client, &host.name).await?;
        }
        Ok(())
    }

    /// Stops a host's member and removes what it has.
    async fn forget_data(&self, host: &spec::Host) -> Result<(), Failure> {
        let on = self.host(host);
        let done = async {
            if on.services().await?.contains_key("etcd") {
                on.remove_service("etcd").await?;
            }
            on.run(&["rm", "-rf", &member_data(self.paths()).display().to_string()], b"").await
        };
        done.await.map(drop).map_err(|e| on_host(&host.name, &e))
    }

    /// Brings etcd to what it shall be: starts the members that have data, or all where it is new, then lets others join
    /// one at a time. Everything but services is on the hosts already.
    pub async fn etcd(
        &self,
        targets: &[Target],
        trust: &Trust,
        bringing: &Bringing,
        steps: &Steps,
        tell: Tell<'_>,
        changes: &mut Changes,
    ) -> Result<(), Failure> {
        let spec = &self.cluster.spec;
        if spec.etcd == Topology::Embedded {
            return Ok(());
        }
        let seen = self.look().await;
        let worked = self.worked().exists();
        let answers = seen.members.iter().any(|m| m.healthy);
        if worked
            && !answers
            && let Some(lost) = membership::majority_lost(self.former.as_ref().unwrap_or(spec), &seen.blank)
        {
            return Err(refused(&[lost]));
        }
        // A member without its data must not begin anew beside the others, which count on what it had acknowledged.
        let begin: Vec<Target> =
            targets.iter().filter(|t| !(worked && seen.blank.contains(&t.plan.host))).cloned().collect();
        let failed = |errors: Vec<provision::apply::ApplyError>| {
            super::up_hosts::all_failed(&self.cluster.logs_hint(), &errors)
        };
        start_all(&begin, &[Stage::Etcd], bringing, tell, changes).await.map_err(failed)?;
        if !worked {
            std::fs::write(self.worked(), "").map_err(|e| Failure::of(&e))?;
        }
        for act in self.plan(&self.look_settled().await)? {
            match &act {
                Act::Forget { host, id } => {
                    steps.begin(&act.to_string());
                    self.ask("remove a member", host, async |etcd| etcd.remove(*id).await).await?;
                }
                Act::MoveObjects { from } => {
                    steps.begin(&act.to_string());
                    self.move_objects(from).await?;
                }
                Act::Join { host } => {
                    steps.begin(&act.to_string());
                    self.join(host, trust, bringing, tell, changes).await?;
                }
                _ => continue,
            }
            steps.done("etcd", &act.to_string());
        }
        Ok(())
    }

    /// The objects of the only control plane's own store move to etcd, with its API server stopped. Its store is kept
    /// aside.
    async fn move_objects(&self, from: &str) -> Result<(), Failure> {
        let host = self.find(from).ok_or_else(|| Failure::new(format!("there is no host {from}"), ""))?;
        let (on, paths) = (self.host(host), self.paths());
        let failed = |e: provision::apply::HostError| on_host(from, &e);
        if on.services().await.map_err(failed)?.contains_key("kube-apiserver") {
            on.remove_service("kube-apiserver").await.map_err(failed)?;
        }
        // Once it has moved, what is written to etcd since must not be written over.
        if !on.inspect(&[paths.db.as_path()]).await.map_err(failed)?.is_empty() {
            let words = ["migrate", "--from=embedded", "--to=etcd", "--replace"].map(str::to_owned);
            let mut words = words.to_vec();
            words.push(format!("--db={}", paths.db.display()));
            words.extend(store_flags(&self.cluster.spec, paths));
            cox_on(&*on, paths, &words).await?;
            let (db, aside) = (paths.db.display().to_string(), format!("{}.moved", paths.db.display()));
            let script = r#"rm -rf "$2" && mv -T "$1" "$2""#;
            let moved = on.run(&["sh", "-c", script, "sh", &db, &aside], b"").await.map_err(failed)?;
            if moved.code != 0 {
                return Err(Failure::new(
                    format!("host {from}: cannot rename {db}: {}", moved.err.trim()),
                    "",
                ));
            }
        }
        if let Some(former) = &self.former {
            let former = ClusterSpec { etcd: self.cluster.spec.etcd, ..former.clone() };
            self.cluster.keep_former(Some(former))?;
        }
        Ok(())
    }

    /// A member joins: it learns first, and votes when it has learned everything.
    async fn join(
        &self,
        name: &str,
        trust: &Trust,
        bringing: &Bringing,
        tell: Tell<'_>,
        changes: &mut Changes,
    ) -> Result<(), Failure> {
        let spec = &self.cluster.spec;
        let host = spec.host(name).ok_or_else(|| Failure::new(format!("there is no host {name}"), ""))?;
        let url = etcd_peer_url(host);
        let mine = |members: &[Member]| members.iter().find(|m| m.peer_url == url).cloned();
        let found = mine(&self.members(&[name]).await.unwrap_or_default());
        if found.as_ref().is_none_or(|m| m.name.is_empty()) {
            // What it may have is of another life.
            self.forget_data(host).await?;
            if found.is_none() {
                self.ask("announce a member", name, async |etcd| etcd.announce(host).await).await?;
            }
            let members = self.members(&[name]).await.unwrap_or_default();
            let all: Vec<String> = members
                .iter()
                .map(|m| format!("{}={}", if m.peer_url == url { name } else { &m.name }, m.peer_url))
                .collect();
            let mut options = self.options.clone();
            options.joining.insert(name.to_owned(), all.join(","));
            let plans = provision::plan::plan(spec, trust, &options).map_err(|e| Failure::of(&e))?;
            let Some(mut plan) = plans.into_iter().find(|p| p.host == name) else { return Ok(()) };
            for service in plan.services.iter_mut().filter(|s| s.stage == Stage::Etcd) {
                // One that learns answers nobody: etcd itself says when it is ready to vote.
                service.ready = Ready::None;
            }
            let on = self.host(host);
            let started = start(&plan, Stage::Etcd, &*on, &[], bringing, tell).await;
            changes.entry(name.to_owned()).or_default().extend(started.map_err(|e| on_host(name, &e))?);
        }
        let id = mine(&self.members(&[name]).await.unwrap_or_default()).map(|m| m.id);
        let id = id.ok_or_else(|| Failure::new(format!("etcd has forgotten the member of {name}"), ""))?;
        self.ask("give a member its vote", name, async |etcd| match etcd.promote(id).await {
            // By an attempt whose answer was lost.
            Err(EtcdctlError::Refused { said, .. })
                if said.contains("only promote a learner member") && !said.contains("in sync") =>
            {
                Ok(())
            }
            other => other,
        })
        .await?;
        let deadline = Instant::now() + self.patience;
        while !mine(&self.members(&[name]).await.unwrap_or_default()).is_some_and(|m| m.healthy && !m.learner)
        {
            if Instant::now() > deadline {
                return Err(Failure::new(
                    format!("the new member of etcd on {name} does not work"),
                    self.cluster.logs_hint(),
                ));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn drain(&self, client: &Client, host: &str, steps: &Steps) -> Result<(), Failure> {
        drain(client, host, self.flags, &|left| {
            steps.begin(&format!("{host}: {left} pods have to leave"));
        })
        .await
    }

    async fn delete_node(&self, client: &Client, name: &str) -> Result<(), Failure> {
        match Api::<Node>::all(client.clone()).delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(e) => Err(Failure::new(format!("cannot delete node {name}: {}", base::Chain(&e)), "")),
            Ok(_) => Ok(()),
        }
    }

    /// All hosts that shall be are well: those that shall not, go. Says which went.
    pub async fn complete(&self, client: &Client, steps: &Steps) -> Result<Vec<String>, Failure> {
        let mut gone = Vec::new();
        if self.former.is_none() {
            return Ok(gone);
        }
        let acts =
            if self.leaving().is_empty() { Vec::new() } else { self.plan(&self.look_settled().await)? };
        for act in acts {
            let Act::Leave { host: name, member, answers } = &act else { continue };
            let Some(host) = self.find(name) else { continue };
            steps.begin(&act.to_string());
            if host.is(Role::Worker) && *answers {
                self.drain(client, name, steps).await?;
            }
            if let Some(id) = member {
                // Its server talks to its member: both go, the vote first.
                self.stop_leading(host).await?;
                self.ask("remove a member", name, async |etcd| etcd.remove(*id).await).await?;
            }
            if *answers {
                self.retire(host).await?;
            }
            // Last: its kubelet would make it again.
            self.delete_node(client, name).await?;
            steps.done(name, "removed");
            gone.push(name.clone());
        }
        self.cluster.keep_former(None)?;
        Ok(gone)
    }

    /// Takes a host out of the world of the cluster: nothing of it runs there any more, and its data is gone.
    async fn retire(&self, host: &spec::Host) -> Result<(), Failure> {
        let failed = |what: String| {
            Failure::new(
                format!("host {} cannot be cleaned: {what}", host.name),
                "run the same command again",
            )
        };
        let Some(former) = &self.former else { return Ok(()) };
        if let Hosts::Local(hosts) = self.hosts {
            return hosts.host(&host.name).destroy().await.map_err(|e| failed(e.to_string()));
        }
        // What it was made, when it was of the cluster.
        let former = HostsCluster { layout: self.cluster.layout.clone(), spec: former.clone() };
        let plans = former.plans(&former.known()?)?;
        let Some(plan) = plans.iter().find(|p| p.host == host.name) else { return Ok(()) };
        let on = self.host(host);
        let cleaning = Cleaning::of(plan, &former.spec, self.paths(), true);
        let leaving = [Leaving { host: &*on, plan, cleaning }];
        let (removed, refused) = leave_all(&leaving, &self.paths().program("cox")).await;
        let problems: Vec<String> = refused.iter().map(|e| e.what.clone()).chain(removed.problems).collect();
        if problems.is_empty() { Ok(()) } else { Err(failed(problems.join("; "))) }
    }

    async fn stop_leading(&self, host: &spec::Host) -> Result<(), Failure> {
        let on = self.host(host);
        let done = async {
            let found = on.services().await?;
            for name in ["kube-scheduler", "kube-controller-manager", "kube-apiserver"] {
                if found.contains_key(name) {
                    on.remove_service(name).await?;
                }
            }
            Ok::<_, provision::apply::HostError>(())
        };
        // One that is down leads nobody.
        match done.await {
            Err(provision::apply::HostError::Unreachable(_)) => Ok(()),
            other => other.map_err(|e| on_host(&host.name, &e)),
        }
    }
}

/// Whether those that work are enough.
pub fn has_majority(members: &[Member]) -> bool {
    let voters = members.iter().filter(|m| !m.learner);
    let (all, healthy) = (voters.clone().count(), voters.filter(|m| m.healthy).count());
    all > 0 && healthy >= membership::quorum(all)
}

/// The members of etcd: as one tells that works, else as one that answers at all.
pub async fn members_of(among: &[&spec::Host], hosts: &Hosts, paths: &HostPaths) -> Option<Vec<Member>> {
    let mut best = None;
    for host in among {
        let on = hosts.host(host);
        // One whose member does not run would be asked in vain for seconds.
        if !on.services().await.is_ok_and(|all| all.get("etcd").is_some_and(|s| s.active)) {
            continue;
        }
        let Ok(members) = Etcdctl::new(&*on, host, paths).members().await else { continue };
        if members.iter().any(|m| m.healthy) {
            return Some(members);
        }
        best = Some(members);
    }
    best
}
