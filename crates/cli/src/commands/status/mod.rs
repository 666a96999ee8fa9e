//! `cox status`: hosts, components, nodes and certificates, at a glance.
mod api;
mod clocks;
mod hosts;
mod quorum;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use pki::{ClusterPki, Expiry};
use provision::{Layout, ProcessRecord};
use serde_json::{Value, json};

use crate::args::Which;
use crate::cluster::Cluster;
use crate::commands::certs::standing;
use crate::commands::up::PROCESS;
use crate::commands::up_hosts::BALANCER;
use crate::hosts::{Hosts, HostsCluster};
use crate::output::{self, Failure};

use clocks::apart;

/// How long the API server gets to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A certificate that ends sooner is worth a word.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Well,
    /// It works, and somebody should look at it.
    Doubtful,
    Ill,
}

impl From<bool> for State {
    fn from(well: bool) -> Self {
        if well { Self::Well } else { Self::Ill }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    what: &'static str,
    name: String,
    state: State,
    detail: String,
    /// What programs want to know beyond that.
    data: Value,
}

impl Line {
    fn new(
        what: &'static str,
        name: impl Into<String>,
        state: impl Into<State>,
        detail: impl Into<String>,
    ) -> Self {
        Self { what, name: name.into(), state: state.into(), detail: detail.into(), data: Value::Null }
    }

    fn with(mut self, data: Value) -> Self {
        self.data = data;
        self
    }

    fn json(&self) -> Value {
        let mut value = json!({
            "what": self.what, "name": self.name, "healthy": self.state != State::Ill, "detail": self.detail,
        });
        if self.state == State::Doubtful {
            value["warning"] = json!(true);
        }
        if !self.data.is_null() {
            value["data"] = self.data.clone();
        }
        value
    }
}

/// What the report is about.
struct Seen {
    layout: Layout,
    kubeconfig: PathBuf,
    server: String,
    /// Where logs are, for people.
    logs: String,
}

/// `cox status`.
pub async fn status(which: Which, as_json: bool) -> Result<ExitCode, Failure> {
    let (seen, lines) = match HostsCluster::kept(&which)? {
        Some(cluster) => of_hosts(cluster).await?,
        None => of_one_host(Cluster::kept(&which)?).await,
    };
    let healthy = lines.iter().all(|l| l.state != State::Ill);
    tell(&seen, &lines, healthy, as_json)?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn of_one_host(cluster: Cluster) -> (Seen, Vec<Line>) {
    let seen = Seen {
        kubeconfig: cluster.admin_kubeconfig(),
        server: format!("https://127.0.0.1:{}", cluster.settings.secure_port),
        logs: format!("logs are in {}", cluster.layout.logs().display()),
        layout: cluster.layout,
    };
    let mut lines = vec![process(&seen.layout, PROCESS)];
    lines.extend(api::lines(&seen, None).await);
    lines.extend(certificates(&seen.layout));
    (seen, lines)
}

async fn of_hosts(cluster: HostsCluster) -> Result<(Seen, Vec<Line>), Failure> {
    let mut lines = Vec::new();
    let hosts = cluster.hosts()?;
    if let Hosts::Local(_) = &hosts {
        lines.push(process(&cluster.layout, BALANCER));
    }
    let seen = Seen {
        kubeconfig: cluster.admin_kubeconfig(),
        server: cluster.server(),
        logs: cluster.logs_hint(),
        layout: cluster.layout.clone(),
    };
    let (of_hosts, of_members, of_api) = tokio::join!(
        hosts::lines(&cluster, &hosts),
        quorum::lines(&cluster, &hosts),
        api::lines(&seen, Some(&cluster.spec))
    );
    lines.extend(of_hosts);
    lines.extend(of_members);
    lines.extend(of_api);
    lines.extend(summary("this machine", certificates(&seen.layout)));
    Ok((seen, lines))
}

fn tell(cluster: &Seen, lines: &[Line], healthy: bool, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let items: Vec<Value> = lines.iter().map(Line::json).collect();
        return output::print_json(
            &json!({ "name": cluster.layout.name(), "healthy": healthy, "items": items }),
        );
    }
    let mut text = table(&joined(lines));
    if !healthy {
        text += &format!("Not healthy. Try `cox up` to repair it; {}.\n", cluster.logs);
    }
    output::print(&text)
}

/// The services of a host that just run are one line for people.
fn joined(lines: &[Line]) -> Vec<Line> {
    let mut out: Vec<Line> = Vec::new();
    for line in lines {
        let plain = line.what == "service" && line.state == State::Well && line.detail == hosts::RUNNING;
        let Some((host, service)) = line.name.split_once('/').filter(|_| plain) else {
            out.push(line.clone());
            continue;
        };
        match out.iter_mut().find(|l| l.what == "services" && l.name == host) {
            Some(whole) => whole.detail += &format!(", {service}"),
            None => out.push(Line::new("services", host, true, service)),
        }
    }
    // What is of a kind stands together.
    let kinds: Vec<&str> = out.iter().map(|l| l.what).collect();
    out.sort_by_key(|l| kinds.iter().position(|kind| *kind == l.what));
    out
}

fn table(lines: &[Line]) -> String {
    let width = lines.iter().map(|l| l.name.len()).max().unwrap_or(0).max(4);
    let mut text = format!("{:<12} {:<width$} {:<8} DETAIL\n", "", "NAME", "HEALTHY");
    let mut last = "";
    for line in lines {
        let healthy = match line.state {
            State::Well => "yes",
            State::Doubtful => "warning",
            State::Ill => "NO",
        };
        // What stands in the line above need not be read again.
        let what = if line.what == last { "" } else { line.what };
        last = line.what;
        text += &format!("{what:<12} {:<width$} {healthy:<8} {}\n", line.name, line.detail);
    }
    text
}

fn process(layout: &Layout, name: &str) -> Line {
    let record = ProcessRecord::read(&layout.process_record(name)).filter(ProcessRecord::is_alive);
    let detail = match &record {
        Some(record) => format!("pid {}", record.pid),
        None => "not running; start it with `cox up`".to_owned(),
    };
    Line::new("process", name, record.is_some(), detail)
}

/// The certificates that are kept here, one in a line.
fn certificates(layout: &Layout) -> Vec<Line> {
    let found = match ClusterPki::at(layout.pki()).inspect() {
        Ok(found) => found,
        Err(e) => return vec![Line::new("certificate", "all", false, base::Chain(&e).to_string())],
    };
    let now = Timestamp::now();
    found
        .into_iter()
        .map(|(path, facts)| match facts.as_ref().map(|facts| standing(facts, now)) {
            Ok((false, why)) => certificate("", &path, Err(why), now),
            _ => {
                let ends = facts.map(|f| f.not_after).map_err(|e| base::Chain(&e).to_string());
                certificate("", &path, ends, now)
            }
        })
        .collect()
}

/// A certificate of a host, or of this machine.
fn certificate(host: &str, path: &Path, ends: Result<Timestamp, String>, now: Timestamp) -> Line {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = if host.is_empty() { name } else { format!("{host}:{}", path.display()) };
    let ends = match ends {
        Ok(ends) => ends,
        Err(why) => return Line::new("certificate", name, false, why),
    };
    let (state, detail) = match expiry(ends, now) {
        Expiry::Expired => (State::Ill, format!("expired {ends}; `cox certs renew` mends it")),
        Expiry::Soon => (State::Doubtful, format!("expires {ends}; `cox certs renew` issues another")),
        Expiry::Fine => (State::Well, format!("expires {ends}")),
    };
    Line::new("certificate", name, state, detail).with(json!({ "notAfter": ends, "path": path }))
}

fn expiry(ends: Timestamp, now: Timestamp) -> Expiry {
    if ends <= now {
        Expiry::Expired
    } else if ends <= now + SOON {
        Expiry::Soon
    } else {
        Expiry::Fine
    }
}

/// Certificates as people want them where there are many: those that need somebody, and of the others the first to end.
fn summary(of: &str, lines: Vec<Line>) -> Vec<Line> {
    let (well, mut out): (Vec<Line>, Vec<Line>) = lines.into_iter().partition(|l| l.state == State::Well);
    let count = well.len();
    let ends = |line: &Line| line.data["notAfter"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    let first = well.into_iter().min_by_key(ends);
    if let Some((at, first)) = first.and_then(|line| Some((ends(&line)?, line))) {
        let name = first.name.rsplit('/').next().unwrap_or_default().to_owned();
        let detail = format!("{count} are good; the first to expire is {name}, {at}");
        out.push(Line::new("certificate", of, true, detail).with(json!({ "count": count, "notAfter": at })));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_what_needs_them() {
        let service = |name: &str, state: State, detail: &str| Line::new("service", name, state, detail);
        let lines = [
            Line::new("host", "a", true, "192.0.2.1"),
            service("a/etcd", State::Well, hosts::RUNNING),
            service("a/kubelet", State::Ill, "ended"),
            service("a/kube-proxy", State::Well, hosts::RUNNING),
            service("b/etcd", State::Well, hosts::RUNNING),
        ];
        let text = table(&joined(&lines));
        let want = "             NAME      HEALTHY  DETAIL\n\
                    host         a         yes      192.0.2.1\n\
                    services     a         yes      etcd, kube-proxy\n             \
                    b         yes      etcd\n\
                    service      a/kubelet NO       ended\n";
        assert_eq!(text, want);
    }

    #[test]
    fn certificates_are_told_before_they_end() {
        let now: Timestamp = "2026-07-01T00:00:00Z".parse().unwrap();
        let at = |text: &str| certificate("a", Path::new("/pki/x.crt"), Ok(text.parse().unwrap()), now);
        let lines = vec![
            at("2026-06-30T00:00:00Z"),
            at("2026-07-20T00:00:00Z"),
            at("2027-07-02T00:00:00Z"),
            at("2027-07-01T00:00:00Z"),
        ];
        let states: Vec<State> = lines.iter().map(|l| l.state).collect();
        assert_eq!(states, [State::Ill, State::Doubtful, State::Well, State::Well]);
        let told = summary("a", lines);
        assert_eq!(told.len(), 3);
        assert_eq!(told[2].detail, "2 are good; the first to expire is x.crt, 2027-07-01T00:00:00Z");
        assert_eq!(told[1].json()["warning"], true);
    }
}
