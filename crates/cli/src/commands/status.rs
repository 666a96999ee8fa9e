//! `cox status`: components, nodes and certificates, at a glance.
use std::process::ExitCode;
use std::time::Duration;

use client::Remote;
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ComponentStatus, Node, Pod};
use kube::{Api, Client};
use pki::ClusterPki;
use provision::ProcessRecord;
use serde_json::{Value, json};

use crate::args::Which;
use crate::cluster::Cluster;
use crate::commands::up::PROCESS;
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

/// `cox status`.
pub async fn status(which: Which, as_json: bool) -> Result<ExitCode, Failure> {
    let cluster = Cluster::kept(&which)?;
    let mut lines = vec![process(&cluster)];
    match tokio::time::timeout(PATIENCE, ask(&cluster)).await {
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
    lines.extend(certificates(&cluster));
    let healthy = lines.iter().all(|l| l.healthy);
    tell(&cluster, &lines, healthy, as_json)?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(cluster: &Cluster, lines: &[Line], healthy: bool, as_json: bool) -> Result<(), Failure> {
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

fn process(cluster: &Cluster) -> Line {
    let record = ProcessRecord::read(&cluster.layout.process_record(PROCESS)).filter(ProcessRecord::is_alive);
    let detail = match &record {
        Some(record) => format!("pid {}", record.pid),
        None => "not running; start it with `cox up`".to_owned(),
    };
    Line { what: "process", name: PROCESS.into(), healthy: record.is_some(), detail }
}

async fn ask(cluster: &Cluster) -> Result<Vec<Line>, String> {
    let client: Client = Remote::from_kubeconfig_file(&cluster.admin_kubeconfig(), &format!("cox/{VERSION}"))
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
        detail: format!("https://127.0.0.1:{}", cluster.settings.secure_port),
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

fn certificates(cluster: &Cluster) -> Vec<Line> {
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
