//! Prints how fast a `cox` binary is: start, idle cost, requests per second, pod start; next to etcd where it is.
//!
//! Read [`Plan`] first. Everything runs on loopback, in a directory of its own, for a bounded time, and what was
//! started is ended by its process id. It asserts nothing: numbers depend on the machine, so they are for people.
#![forbid(unsafe_code)]

mod connect;
mod etcd;
mod guarded;
mod host;
mod idle;
mod informers;
mod lists;
mod load;
mod machine;
mod machines;
mod node;
mod objects;
mod process;
mod report;
mod requests;
mod start;
mod watchers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

use crate::host::Host;
use crate::report::Report;

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// From exec to `/readyz`.
    Start,
    /// Memory and CPU of each part when nothing happens.
    Idle,
    /// Requests of many clients.
    Load,
    /// CPU of requests with RBAC and audit on.
    Guarded,
    /// Large lists in each form, and the memory that many at once take.
    Lists,
    /// One update, many watchers.
    Watch,
    /// Many informers that start at once.
    Informers,
    /// A node: `cox up` to Ready, pod start. Needs root and containerd.
    Node,
    /// Three machines over ssh: `cox up -f` to Ready. Needs root, systemd-nspawn and sshd.
    Machines,
    /// etcd's durable writes, where etcd is on the machine.
    Etcd,
}

const ALL: [Section; 10] = [
    Section::Start,
    Section::Idle,
    Section::Load,
    Section::Guarded,
    Section::Lists,
    Section::Watch,
    Section::Informers,
    Section::Node,
    Section::Machines,
    Section::Etcd,
];

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table for people, which is Markdown too.
    Text,
    /// One JSON object.
    Json,
}

/// Measures a `cox` binary.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Plan {
    /// The binary, built with `--release`.
    cox: PathBuf,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Only these.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Section>,
    /// How often each thing is measured; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each round of requests.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Seconds for which idle parts are observed.
    #[arg(long, default_value_t = 30)]
    idle_seconds: u64,
    /// Objects in a list.
    #[arg(long, default_value_t = 10_000)]
    objects: usize,
    /// Where data is kept meanwhile; on a disk, or syncing costs nothing.
    #[arg(long, default_value = "/var/tmp")]
    dir: PathBuf,
}

impl Plan {
    fn wants(&self, section: Section) -> bool {
        self.only.is_empty() || self.only.contains(&section)
    }

    fn round(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn main() -> ExitCode {
    let plan = Plan::parse();
    match measure(&plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(plan: &Plan) -> Result<()> {
    // One thread: the load generator shall leave the other cores to what is measured.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let directory = tempfile::Builder::new().prefix("cox-bench-").tempdir_in(&plan.dir)?;
    let mut report = Report::new(machine::facts(&plan.cox, directory.path())?);
    let host = Host::prepare(&plan.cox, directory.path()).context("cannot prepare a control plane")?;
    for section in ALL.into_iter().filter(|s| plan.wants(*s)) {
        eprintln!("bench: {section:?}");
        let done = match section {
            Section::Start => runtime.block_on(start::measure(plan, &host, &mut report)),
            Section::Idle => runtime.block_on(idle::measure(plan, &host, &mut report)),
            Section::Load => runtime.block_on(requests::measure(plan, &host, &mut report)),
            Section::Guarded => runtime.block_on(guarded::measure(plan, &host, &mut report)),
            Section::Lists => runtime.block_on(lists::measure(plan, &host, &mut report)),
            Section::Informers => runtime.block_on(informers::measure(plan, &host, &mut report)),
            Section::Watch => runtime.block_on(watchers::measure(plan, &host, &mut report)),
            Section::Node => runtime.block_on(node::measure(plan, directory.path(), &mut report)),
            Section::Machines => machines::measure(plan, &mut report),
            Section::Etcd => runtime.block_on(etcd::measure(plan, directory.path(), &mut report)),
        };
        // What can be measured is worth printing even where one thing cannot.
        if let Err(e) = done {
            report.problem(format!("{section:?}: {e:#}"));
        }
    }
    match plan.output {
        Output::Text => print!("{}", report.table()),
        Output::Json => println!("{}", report.json()),
    }
    Ok(())
}
