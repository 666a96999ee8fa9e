//! `cox validate`: everything that is wrong with a `cluster.yaml`, at once and offline.
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use provision::spec::{ClusterSpec, Gravity, Mistake, Role, Topology};
use serde_json::{Value, json};

use crate::cluster_file::{self, count, told};
use crate::output::{self, Failure};

/// `cox validate`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  cox validate\n  cox validate prod.yaml\n  \
    cox validate -o json | jq -r '.mistakes[] | \"\\(.line) \\(.path)\"'")]
pub struct Validate {
    /// The file.
    #[arg(default_value = cluster_file::DEFAULT)]
    pub file: PathBuf,
}

fn as_json(mistake: &Mistake) -> Value {
    json!({
        "line": mistake.line,
        "path": mistake.path,
        "message": mistake.message,
        "gravity": if mistake.gravity == Gravity::Error { "error" } else { "warning" },
    })
}

/// A cluster in a line.
fn summary(spec: &ClusterSpec) -> String {
    let of = |role| spec.hosts_with(role).count();
    let store = match spec.etcd {
        Topology::Embedded => "an embedded store".to_owned(),
        _ => format!("an etcd of {}", count(spec.etcd_hosts().len(), "member")),
    };
    format!(
        "cluster {}: {}, {}, {}, {store}",
        spec.name,
        count(spec.hosts.len(), "host"),
        count(of(Role::ControlPlane), "control plane"),
        count(of(Role::Worker), "worker"),
    )
}

/// Reads the file; the exit code says whether a cluster can come of it.
pub fn validate(options: &Validate, json: bool) -> Result<ExitCode, Failure> {
    let reading = cluster_file::read(&options.file)?;
    let valid = reading.spec.is_some();
    if json {
        output::print_json(&json!({
            "file": options.file,
            "valid": valid,
            "mistakes": reading.mistakes.iter().map(as_json).collect::<Vec<_>>(),
            "cluster": reading.spec,
        }))?;
    } else {
        let mut text: String = reading.mistakes.iter().map(|m| told(&options.file, m) + "\n").collect();
        let file = options.file.display();
        text += &match &reading.spec {
            Some(spec) => format!("{file} is valid: {}\n", summary(spec)),
            None => {
                let errors = reading.mistakes.iter().filter(|m| m.gravity == Gravity::Error).count();
                format!("{file} has {}\n", count(errors, "mistake"))
            }
        };
        output::print(&text)?;
    }
    Ok(if valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
