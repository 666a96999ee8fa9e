//! `cox status`: components, nodes and certificates, at a glance.
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use client::Remote;
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ComponentStatus, Node, Pod};
use kube::{Api, Client};
use pki::ClusterPki;
use provision::apply::Host as _;
use provision::local::LocalHosts;
use provision::{Layout, ProcessRecord};
use serde_json::{Value, json};

use crate::args::Which;
use crate::cluster::Cluster;
use crate::commands::etcd_status::etcd_status;
use crate::commands::up::PROCESS;
use crate::commands::up_hosts::BALANCER;
use crate::hosts::{Hosts, HostsCluster};
use crate::output::{self, Failure};
use crate::parts::VERSION;

/// How long the API server gets to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// One line of the report.
struct Line {
    what: &'static str,
    name: String,
    healthy: bool,
    detail: String,
}

/// What the report is about.
struct Seen {
    layout: Layout,
    kubeconfig: PathBuf,
    server: String,
}

/// `cox status`.
pub async fn status(which: Which, as_json: bool) -> Result<ExitCode, Failure> {
    let (seen, mut lines) = match HostsCluster::kept(&which)? {
        Some(cluster) => {
            let hosts = cluster.hosts()?;
            let mut lines = match &hosts {
                Hosts::Local(hosts) => {
                    let mut lines = vec![process(&cluster.layout, BALANCER)];
                    lines.extend(local_hosts(&cluster, hosts).await?);
                    lines
                }
                Hosts::Ssh { .. } => Vec::new(),
            };
            let members = etcd_status(&cluster, &hosts).await;
            lines.extend(members.into_iter().map(|told| Line {
                what: "etcd",
                name: told.name,
                healthy: told.healthy,
                detail: told.detail,
            }));
            let (kubeconfig, server) = (cluster.admin_kubeconfig(), cluster.server());
            (Seen { layout: cluster.layout, kubeconfig, server }, lines)
        }
        None => {
            let cluster = Cluster::kept(&which)?;
            let lines = vec![process(&cluster.layout, PROCESS)];
            let server = format!("https://127.0.0.1:{}", cluster.settings.secure_port);
            (Seen { kubeconfig: cluster.admin_kubeconfig(), server, layout: cluster.layout }, lines)
        }
    };
    match tokio::time::timeout(PATIENCE, ask(&seen)).await {
        Ok(Ok(found)) => lines.extend(found),
        Ok(Err(why)) => {
            lines.push(Line { what: "API server", name: "readyz".into(), healthy: false, detail: why })
        }
        Err(_) => lines.push(Line {
            what: "API server",
            name: "readyz".into(),
            healthy: false,
            detail: format!("no answer within {} s", PATIENCE.as_secs()),
        }),
    }
    lines.extend(certificates(&seen));
    let healthy = lines.iter().all(|l| l.healthy);
    tell(&seen, &lines, healthy, as_json)?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(cluster: &Seen, lines: &[Line], healthy: bool, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let items: Vec<Value> = lines
            .iter()
            .map(|l| json!({ "what": l.what, "name": l.name, "healthy": l.healthy, "detail": l.detail }))
            .collect();
        return output::print_json(
            &json!({ "name": cluster.layout.name(), "healthy": healthy, "items": items }),
        );
    }
    let width = lines.iter().map(|l| l.name.len()).max().unwrap_or(0).max(4);
    let mut text = format!("{:<12} {:<width$} {:<8} DETAIL\n", "", "NAME", "HEALTHY");
    for line in lines {
        let healthy = if line.healthy { "yes" } else { "NO" };
        text += &format!("{:<12} {:<width$} {healthy:<8} {}\n", line.what, line.name, line.detail);
    }
    if !healthy {
        let logs = cluster.layout.logs();
        text += &format!("Not healthy. Try `cox up` to repair it; logs are in {}.\n", logs.display());
    }
    output::print(&text)
}

fn process(layout: &Layout, name: &str) -> Line {
    let record = ProcessRecord::read(&layout.process_record(name)).filter(ProcessRecord::is_alive);
    let detail = match &record {
        Some(record) => format!("pid {}", record.pid),
        None => "not running; start it with `cox up`".to_owned(),
    };
    Line { what: "process", name: name.into(), healthy: record.is_some(), detail }
}

/// Each host, and each of its services.
async fn local_hosts(cluster: &HostsCluster, all: &LocalHosts) -> Result<Vec<Line>, Failure> {
    let mut lines = Vec::new();
    for planned in &cluster.spec.hosts {
        let host = all.host(&planned.name);
        let process = host.process();
        let detail = match &process {
            Some(record) => format!("{}, pid {}", planned.address, record.pid),
            None => "not running; start it with `cox up`".to_owned(),
        };
        lines.push(Line { what: "host", name: planned.name.clone(), healthy: process.is_some(), detail });
        if process.is_none() {
            continue;
        }
        match host.services().await {
            Ok(services) => lines.extend(services.into_iter().map(|(name, running)| Line {
                what: "service",
                name: format!("{}/{name}", planned.name),
                healthy: running.active,
                detail: match (running.active, running.restarts) {
                    (true, 0) => "running".into(),
                    (true, n) => format!("running, started again {n} times"),
                    (false, n) => format!("ended, {n} times by now"),
                },
            })),
            Err(error) => lines.push(Line {
                what: "host",
                name: planned.name.clone(),
                healthy: false,
                detail: error.to_string(),
            }),
        }
    }
    Ok(lines)
}

async fn ask(cluster: &Seen) -> Result<Vec<Line>, String> {
    let client: Client = Remote::from_kubeconfig_file(&cluster.kubeconfig, &format!("cox/{VERSION}"))
        .await
        .and_then(|remote| remote.client())
        .map_err(|e| base::Chain(&e).to_string())?;
    let text = |e: kube::Error| base::Chain(&e).to_string();
    let request = Request::get("/readyz").body(Vec::new()).map_err(|e| e.to_string())?;
    let ready = client.request_text(request).await.map_err(text)?;
    let mut lines = vec![Line {
        what: "API server",
        name: "readyz".into(),
        healthy: ready == "ok",
        detail: cluster.server.clone(),
    }];
    for component in
        Api::<ComponentStatus>::all(client.clone()).list(&Default::default()).await.map_err(text)?
    {
        let condition = component.conditions.iter().flatten().find(|c| c.type_ == "Healthy");
        lines.push(Line {
            what: "component",
            name: component.metadata.name.unwrap_or_default(),
            healthy: condition.is_some_and(|c| c.status == "True"),
            detail: condition.and_then(|c| c.message.clone()).unwrap_or_default(),
        });
    }
    for node in Api::<Node>::all(client.clone()).list(&Default::default()).await.map_err(text)? {
        let status = node.status.unwrap_or_default();
        let condition = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
        lines.push(Line {
            what: "node",
            name: node.metadata.name.unwrap_or_default(),
            healthy: condition.is_some_and(|c| c.status == "True"),
            detail: condition.and_then(|c| c.message.clone()).unwrap_or_default(),
        });
    }
    let pods = Api::<Pod>::namespaced(client, "kube-system").list(&Default::default()).await.map_err(text)?;
    for pod in pods {
        let phase = pod.status.and_then(|s| s.phase).unwrap_or_default();
        lines.push(Line {
            what: "system pod",
            name: pod.metadata.name.unwrap_or_default(),
            healthy: matches!(phase.as_str(), "Running" | "Succeeded"),
            detail: phase,
        });
    }
    Ok(lines)
}

fn certificates(cluster: &Seen) -> Vec<Line> {
    let found = match ClusterPki::at(cluster.layout.pki()).inspect() {
        Ok(found) => found,
        Err(e) => {
            let detail = base::Chain(&e).to_string();
            return vec![Line { what: "certificate", name: "all".into(), healthy: false, detail }];
        }
    };
    let now = Timestamp::now();
    found
        .into_iter()
        .map(|(path, facts)| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            match facts {
                Ok(facts) => Line {
                    what: "certificate",
                    name,
                    healthy: facts.not_after > now,
                    detail: format!("expires {}", facts.not_after),
                },
                Err(e) => {
                    Line { what: "certificate", name, healthy: false, detail: base::Chain(&e).to_string() }
                }
            }
        })
        .collect()
}
