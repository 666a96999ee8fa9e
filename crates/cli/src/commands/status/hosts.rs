//! What the hosts themselves say: services, members of etcd, certificates, clocks. All are asked at the same time, over
//! whatever leads to them.
use std::collections::BTreeMap;

use jiff::Timestamp;
use provision::apply::{HostError, Running};
use provision::plan::HostPlan;
use provision::spec::Provider;
use provision::{Answered, EtcdStatus, Question};
use serde_json::json;

use super::{Line, State, apart, certificate, summary};
use crate::hosts::{Hosts, HostsCluster};

/// What is said of a service with nothing to say about.
pub const RUNNING: &str = "running";

type Answer = Result<(BTreeMap<String, Running>, Answered), HostError>;

/// Everything about all hosts.
pub async fn lines(cluster: &HostsCluster, hosts: &Hosts) -> Vec<Line> {
    let options = cluster.plan_options();
    let (plans, mut out) = match cluster.known().and_then(|trust| cluster.plans(&trust)) {
        Ok(plans) => (plans, Vec::new()),
        // Hosts can be asked all the same, for less.
        Err(failure) => (Vec::new(), vec![Line::new("certificate", "this machine", false, failure.what)]),
    };
    let asked = cluster.spec.hosts.iter().map(|planned| {
        let plan = plans.iter().find(|p| p.host == planned.name);
        let question = plan.map(|plan| Question::of(plan, &options.paths)).unwrap_or_default();
        let (host, options) = (hosts.host(planned), &options);
        async move { question.ask(&*host, &options.paths.program("cox")).await }
    });
    let answers: Vec<Answer> = futures::future::join_all(asked).await;
    let mut clocks = Vec::new();
    let mut etcd: Vec<(&str, &Result<EtcdStatus, String>)> = Vec::new();
    for (planned, answer) in cluster.spec.hosts.iter().zip(&answers) {
        let name = planned.name.as_str();
        match answer {
            Ok((services, answered)) => {
                clocks.push((name.to_owned(), answered.ahead));
                etcd.extend(answered.report.etcd.as_ref().map(|status| (name, status)));
                out.push(Line::new("host", name, true, planned.address.to_string()));
                let plan = plans.iter().find(|p| p.host == planned.name);
                out.extend(services_of(name, plan, services, &answered.report.ailing));
            }
            Err(error) => out.push(Line::new("host", name, false, unreached(cluster, error))),
        }
    }
    out.extend(members(&etcd));
    // Hosts in namespaces have this machine's clock.
    if cluster.spec.provider == Provider::Ssh {
        let off = apart(&clocks);
        out.extend(off.into_iter().map(|(host, text)| Line::new("clock", host, State::Doubtful, text)));
    }
    let now = Timestamp::now();
    for (planned, answer) in cluster.spec.hosts.iter().zip(&answers) {
        let Ok((_, answered)) = answer else { continue };
        let all = answered.report.certificates.iter();
        let all = all.map(|(path, ends)| certificate(&planned.name, path, ends.clone(), now)).collect();
        out.extend(summary(&planned.name, all));
    }
    out
}

/// Why a host says nothing, and what to do.
fn unreached(cluster: &HostsCluster, error: &HostError) -> String {
    match cluster.spec.provider {
        Provider::Local if matches!(error, HostError::Unreachable(_)) => {
            format!("not running: {error}; start it with `cox up`")
        }
        _ => error.to_string(),
    }
}

fn services_of(
    host: &str,
    plan: Option<&HostPlan>,
    found: &BTreeMap<String, Running>,
    ailing: &BTreeMap<String, String>,
) -> Vec<Line> {
    let line = |name: &str, state: State, detail: String, restarts: u64| {
        Line::new("service", format!("{host}/{name}"), state, detail).with(json!({ "restarts": restarts }))
    };
    let mut out = Vec::new();
    for (name, running) in found {
        let again = match running.restarts {
            0 => String::new(),
            1 => ", started again once".to_owned(),
            n => format!(", started again {n} times"),
        };
        let planned = plan.is_none_or(|p| p.service(name).is_some());
        let (state, detail) = match ailing.get(name) {
            _ if !running.active => (State::Ill, format!("ended, {} times by now", running.restarts.max(1))),
            Some(why) => (State::Ill, format!("runs, but does not work: {why}{again}")),
            None if !planned => {
                (State::Doubtful, "is not part of the cluster any more; `cox up` removes it".to_owned())
            }
            None => (State::Well, format!("{RUNNING}{again}")),
        };
        out.push(line(name, state, detail, running.restarts));
    }
    let missing = plan.iter().flat_map(|p| &p.services).filter(|s| !found.contains_key(&s.name));
    out.extend(
        missing.map(|s| line(&s.name, State::Ill, "is not there; start it with `cox up`".to_owned(), 0)),
    );
    out
}

/// Bytes, for people.
fn size(bytes: u64) -> String {
    const MIB: f64 = 1_048_576.0;
    // As much as anybody wants to know.
    #[allow(clippy::cast_precision_loss)]
    let mib = bytes as f64 / MIB;
    format!("{mib:.1} MiB")
}

fn members(all: &[(&str, &Result<EtcdStatus, String>)]) -> Vec<Line> {
    let leaders: std::collections::BTreeSet<&str> =
        all.iter().filter_map(|(_, s)| s.as_ref().ok()).map(|s| s.leader.as_str()).collect();
    let mut out = Vec::new();
    for (host, status) in all {
        let status = match status {
            Ok(status) => status,
            Err(why) => {
                out.push(Line::new("etcd", *host, false, format!("does not answer: {why}")));
                continue;
            }
        };
        let leads = !status.leader.is_empty() && status.leader == status.member;
        let role = match (leads, status.learner) {
            (true, _) => "leader",
            (false, true) => "learner",
            (false, false) => "follower",
        };
        let used = if status.used > 0 { format!(", {} used", size(status.used)) } else { String::new() };
        let detail = format!("{role}, {}{used}, etcd {}", size(status.size), status.version);
        let (state, detail) = if status.leader.is_empty() {
            (State::Ill, format!("{detail}: it knows no leader; are most of the members reached?"))
        } else if !status.alarms.is_empty() {
            (State::Ill, format!("{detail}: alarms {}", status.alarms.join(", ")))
        } else if leaders.len() > 1 {
            (State::Doubtful, format!("{detail}: the members do not agree on a leader at this moment"))
        } else {
            (State::Well, detail)
        };
        let data = json!({ "leader": leads, "dbSize": status.size, "version": status.version });
        out.push(Line::new("etcd", *host, state, detail).with(data));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_more_than_its_process() {
        let running = |active, restarts| Running { digest: String::new(), active, restarts };
        let found = [
            ("a".to_owned(), running(true, 0)),
            ("b".to_owned(), running(true, 3)),
            ("c".to_owned(), running(false, 9)),
            ("d".to_owned(), running(true, 0)),
        ];
        let ailing = [("d".to_owned(), "refused".to_owned())].into();
        let lines = services_of("h", None, &found.into(), &ailing);
        let told: Vec<(State, &str)> = lines.iter().map(|l| (l.state, l.detail.as_str())).collect();
        assert_eq!(
            told,
            [
                (State::Well, RUNNING),
                (State::Well, "running, started again 3 times"),
                (State::Ill, "ended, 9 times by now"),
                (State::Ill, "runs, but does not work: refused"),
            ]
        );
    }

    #[test]
    fn members_of_etcd_agree_or_not() {
        let member = |id: &str, leader: &str| {
            Ok(EtcdStatus {
                version: "3.5.30".into(),
                member: id.into(),
                leader: leader.into(),
                size: 2_097_152,
                ..EtcdStatus::default()
            })
        };
        let states = |all: [Result<EtcdStatus, String>; 2]| -> Vec<(State, String)> {
            let all: Vec<(&str, &Result<_, _>)> = ["a", "b"].into_iter().zip(&all).collect();
            members(&all).into_iter().map(|l| (l.state, l.detail)).collect()
        };
        let well = states([member("1", "1"), member("2", "1")]);
        assert_eq!(well[0], (State::Well, "leader, 2.0 MiB, etcd 3.5.30".into()));
        assert_eq!(well[1], (State::Well, "follower, 2.0 MiB, etcd 3.5.30".into()));
        let lost = states([member("1", ""), Err("refused".into())]);
        assert!(lost[0].0 == State::Ill && lost[0].1.contains("knows no leader"), "{lost:?}");
        assert_eq!(lost[1], (State::Ill, "does not answer: refused".into()));
        assert_eq!(states([member("1", "1"), member("2", "2")])[0].0, State::Doubtful);
    }
}
