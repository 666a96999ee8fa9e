//! Brings new keys and certificates to hosts, and starts anew what has to be: one host after another, so that clients
//! always find a server.
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use provision::apply::{ApplyError, Bringing, Change, Changes, Target, install_all, start_all};
use provision::plan::{Stage, Trust};
use provision::spec::{Provider, Role};

use crate::commands::up::Steps;
use crate::commands::up_hosts::write_kubeconfig;
use crate::hosts::{Hosts, HostsCluster};
use crate::output::Failure;

/// Whether hosts go on working while they are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// They do: one after another.
    Rolling,
    /// They do not, as what is replaced has expired: all at once, or the first would wait for the others for ever.
    AtOnce,
}

/// What runs on control planes, in the order of its start.
const CONTROL: [Stage; 4] = [Stage::Etcd, Stage::ApiServer, Stage::Balancer, Stage::Controllers];
/// How many hosts that only run pods are changed at a time: their pods run on.
const WORKERS: usize = 5;

/// Makes the hosts what follows from the trust. Those that do not run are left out where `reach_all` is false: they get
/// everything when they are started.
pub async fn roll(
    cluster: &HostsCluster,
    trust: &Trust,
    manner: Manner,
    reach_all: bool,
    patience: Duration,
    steps: &Steps,
) -> Result<Changes, Failure> {
    let next = format!("{}; the same command goes on from here", cluster.logs_hint());
    let failed = |errors: Vec<ApplyError>| crate::commands::up_hosts::all_failed(&next, &errors);
    let hosts = cluster.hosts()?;
    let mut targets = Vec::new();
    let mut down = Vec::new();
    for (host, plan) in cluster.spec.hosts.iter().zip(cluster.plans(trust)?) {
        match &hosts {
            Hosts::Local(all) if all.host(&host.name).process().is_none() => down.push(host.name.clone()),
            _ => targets.push(Target { host: hosts.host(host), plan }),
        }
    }
    if reach_all && !down.is_empty() {
        return Err(Failure::new(
            format!("these hosts do not run: {}", down.join(", ")),
            "every host has to know of each phase; start them with `cox up`, then go on",
        ));
    }
    let source = images::Source::of_this_host()
        .map_err(|e| Failure::new(format!("cannot find the running program: {e}"), ""))?;
    let bringing = match cluster.spec.provider {
        Provider::Local => Bringing::new(source, patience)?,
        Provider::Ssh => Bringing::by_content(source, patience)?,
    };
    let shown: Mutex<BTreeMap<String, String>> = Mutex::default();
    let tell = crate::commands::up_hosts::teller(steps, &shown);
    write_kubeconfig(cluster, trust)?;
    let mut changes = Changes::new();
    install_all(&targets, &bringing, &tell, &mut changes).await.map_err(failed)?;
    if manner == Manner::AtOnce {
        start_all(&targets, &Stage::ALL, &bringing, &tell, &mut changes).await.map_err(failed)?;
        return Ok(changes);
    }
    for stages in [&CONTROL[..], &[Stage::Node]] {
        for batch in batches(cluster, &targets) {
            start_all(batch, stages, &bringing, &tell, &mut changes).await.map_err(failed)?;
        }
    }
    Ok(changes)
}

/// The hosts in the order of the file: each alone, but those that only run pods several at a time.
fn batches<'a>(cluster: &HostsCluster, targets: &'a [Target]) -> Vec<&'a [Target]> {
    let only_pods = |target: &Target| {
        let host = cluster.spec.hosts.iter().find(|h| h.name == target.plan.host);
        host.is_some_and(|h| h.roles.iter().all(|r| *r == Role::Worker))
    };
    let mut all = Vec::new();
    for group in targets.chunk_by(|a, b| only_pods(a) && only_pods(b)) {
        all.extend(group.chunks(WORKERS));
    }
    all
}

/// What was started anew, for people: by host.
pub fn restarts(changes: &Changes) -> BTreeMap<&str, Vec<&str>> {
    changes
        .iter()
        .map(|(host, all)| {
            let names = all.iter().filter_map(|c| match c {
                Change::Restarted(name) | Change::Started(name) => Some(name.as_str()),
                _ => None,
            });
            (host.as_str(), names.collect())
        })
        .collect()
}
