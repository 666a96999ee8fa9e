//! Makes hosts what their plans say: only what differs is written, only what is concerned is started anew.
//!
//! Read [`Host`] first: what is asked of a host, whether it is a namespace of this machine or at the other end of ssh.
//! [`survey_all`] looks whether machines will do, before anything is done to them.
//! [`install_all`] sees to everything but services, [`start_all`] to services: hosts at the same time, stages one after
//! another. What was done before is never remembered here: each call looks.

mod clashes;
mod host;
mod install;
mod start;
mod stop;
mod survey;

pub use host::{ApplyError, FileFacts, Host, HostError, Output, Piece, Running};
pub use install::install;
pub(crate) use install::{hex, sha256};
pub use start::{remove_unplanned, runs_as_planned, start};
pub use stop::stop_services;
pub use survey::{CLUSTER_MARK, Survey, survey_all};

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use images::{Source, SystemImages};
use tokio::sync::OnceCell;

use crate::plan::{HostPlan, Stage};

/// One thing that was changed on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A package was installed.
    Package(String),
    /// A directory was made, or got its mode.
    Directory(PathBuf),
    /// A file was written, or got its mode.
    File(PathBuf),
    /// A link, or a program.
    Program(PathBuf),
    /// A kernel setting.
    Setting(String),
    /// A service that did not run was started.
    Started(String),
    /// A service was started anew, as something that it reads has changed.
    Restarted(String),
    /// A service that is not planned any more was removed.
    Removed(String),
    /// The system images were imported.
    Images,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Package(name) => write!(f, "package {name} installed"),
            Self::Directory(path) => write!(f, "directory {} made", path.display()),
            Self::File(path) => write!(f, "{} written", path.display()),
            Self::Program(path) => write!(f, "{} installed", path.display()),
            Self::Setting(name) => write!(f, "{name} set"),
            Self::Started(name) => write!(f, "{name} started"),
            Self::Restarted(name) => write!(f, "{name} restarted"),
            Self::Removed(name) => write!(f, "{name} removed"),
            Self::Images => f.write_str("system images imported"),
        }
    }
}

/// What is the same for all hosts.
pub struct Bringing {
    /// The `cox` that hosts get.
    pub cox: PathBuf,
    /// Tells it from another build.
    pub cox_identity: String,
    /// The system images, made from it.
    pub images: Images,
    /// How long a service may take until it works.
    pub patience: Duration,
}

impl Bringing {
    /// Brings what a source is made of.
    pub fn new(source: Source, patience: Duration) -> anyhow::Result<Self> {
        let identity = crate::system_images::identity(&source)?;
        let images = Images { identity: identity.clone(), source, built: OnceCell::new() };
        Ok(Self { cox: images.source.binary.clone(), cox_identity: identity, images, patience })
    }
}

impl Bringing {
    /// As [`Self::new`], but a build is told by what is in it: hosts that were made so from elsewhere are left alone.
    pub fn by_content(source: Source, patience: Duration) -> anyhow::Result<Self> {
        let content = std::fs::read(&source.binary)?;
        Ok(Self { cox_identity: sha256(&content), ..Self::new(source, patience)? })
    }
}

/// The system images, measured when they are first needed.
pub struct Images {
    /// Tells them from those of another build.
    pub identity: String,
    source: Source,
    built: OnceCell<Arc<SystemImages>>,
}

impl Images {
    /// The images.
    pub async fn get(&self) -> anyhow::Result<Arc<SystemImages>> {
        let build = || async {
            let source = self.source.clone();
            let built = tokio::task::spawn_blocking(move || SystemImages::build(&source)).await??;
            Ok::<_, anyhow::Error>(Arc::new(built))
        };
        self.built.get_or_try_init(build).await.cloned()
    }
}

/// A host and what it shall be.
#[derive(Clone)]
pub struct Target {
    /// The host.
    pub host: Arc<dyn Host>,
    /// What it shall be.
    pub plan: HostPlan,
}

/// What was changed, by host.
pub type Changes = BTreeMap<String, Vec<Change>>;

/// Tells of a step: the host, and what is done there.
pub type Tell<'a> = &'a (dyn Fn(&str, &str) + Sync);

/// Everything but services on all hosts, at the same time. What fails on one host does not keep the others from it.
pub async fn install_all(
    targets: &[Target],
    bringing: &Bringing,
    tell: Tell<'_>,
    into: &mut Changes,
) -> Result<(), Vec<ApplyError>> {
    let installed = targets.iter().map(|t| async {
        let mut changes = remove_unplanned(&t.plan, &*t.host).await?;
        changes.extend(install(&t.plan, &*t.host, bringing, tell).await?);
        Ok(changes)
    });
    let all: Vec<&Target> = targets.iter().collect();
    collect(&all, futures::future::join_all(installed).await, into)
}

/// The services of some stages on all hosts: those of one stage at the same time, and the next stage once they work.
/// What keeps or serves objects and runs already is started anew on one host after another: others serve meanwhile.
pub async fn start_all(
    targets: &[Target],
    stages: &[Stage],
    bringing: &Bringing,
    tell: Tell<'_>,
    into: &mut Changes,
) -> Result<(), Vec<ApplyError>> {
    for stage in stages {
        let one_by_one = matches!(stage, Stage::Etcd | Stage::ApiServer);
        let (mut together, mut in_turn) = (Vec::new(), Vec::new());
        for target in targets {
            let before = into.get(&target.plan.host).map_or(&[][..], Vec::as_slice);
            let restarts = one_by_one
                && start::restarts(&target.plan, *stage, &*target.host, before, bringing)
                    .await
                    .map_err(|e| vec![e])?;
            if restarts { &mut in_turn } else { &mut together }.push(target);
        }
        let started = together.iter().map(|t| {
            let before = into.get(&t.plan.host).map_or(&[][..], Vec::as_slice);
            start(&t.plan, *stage, &*t.host, before, bringing, tell)
        });
        let results = futures::future::join_all(started).await;
        collect(&together, results, into)?;
        for target in in_turn {
            let before = into.get(&target.plan.host).map_or(&[][..], Vec::as_slice);
            let started = start(&target.plan, *stage, &*target.host, before, bringing, tell).await;
            collect(&[target], vec![started], into)?;
        }
    }
    Ok(())
}

fn collect(
    targets: &[&Target],
    results: Vec<Result<Vec<Change>, ApplyError>>,
    into: &mut Changes,
) -> Result<(), Vec<ApplyError>> {
    let mut errors = Vec::new();
    for (target, result) in targets.iter().zip(results) {
        match result {
            Ok(changes) => into.entry(target.plan.host.clone()).or_default().extend(changes),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
