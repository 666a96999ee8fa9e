//! `cox init`: a `cluster.yaml` to begin with.
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use provision::spec::{Provider, template};
use serde_json::json;

use crate::cluster_file;
use crate::output::{self, Failure};

/// Who carries a cluster out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProviderName {
    /// Namespaces of this machine.
    Local,
    /// Machines with systemd, reached over ssh.
    Ssh,
}

impl From<ProviderName> for Provider {
    fn from(name: ProviderName) -> Self {
        match name {
            ProviderName::Local => Self::Local,
            ProviderName::Ssh => Self::Ssh,
        }
    }
}

/// `cox init`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  cox init                     for machines that are reached over ssh\n  \
    cox init --provider local    several hosts on this machine\n  cox init --name prod prod.yaml"
)]
pub struct Init {
    /// The file; never overwritten.
    #[arg(default_value = cluster_file::DEFAULT)]
    pub file: PathBuf,
    /// Who carries the cluster out.
    #[arg(long, value_enum, default_value_t = ProviderName::Ssh)]
    pub provider: ProviderName,
    /// Name of the cluster.
    #[arg(long, default_value = "home")]
    pub name: String,
}

/// Writes the file.
pub fn init(options: &Init, json: bool) -> Result<ExitCode, Failure> {
    let file = options.file.display();
    let text = template(options.provider.into(), &options.name);
    let mut to =
        std::fs::OpenOptions::new().write(true).create_new(true).open(&options.file).map_err(|e| match e
            .kind()
        {
            std::io::ErrorKind::AlreadyExists => {
                Failure::new(format!("{file} is there already"), "name another file, or move that one away")
            }
            _ => Failure::new(format!("cannot write {file}: {e}"), ""),
        })?;
    to.write_all(text.as_bytes()).map_err(|e| Failure::new(format!("cannot write {file}: {e}"), ""))?;
    if json {
        output::print_json(&json!({ "file": options.file, "name": options.name }))?;
    } else {
        output::print(&format!("{file} is written: put your hosts in, then run `cox validate`\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
