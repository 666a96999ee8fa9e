//! Which store a command is about, how it is opened, and how long work is shown.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use provision::{Layout, LayoutLock, ProcessRecord};
use storage::etcd::{self, Etcd};
use storage::{Image, OpenError, Storage, Survey};

use crate::args::Which;
use crate::cluster::{self, EtcdSettings};
use crate::commands::up::PROCESS;
use crate::output::Failure;

/// How often the display of long work changes.
const TICK: Duration = Duration::from_millis(120);

/// A cluster's store, another embedded one, or an etcd.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// Directory of an embedded store (`--data-dir` of a kube-apiserver), in place of a cluster's.
    #[arg(long, value_name = "DIR")]
    pub db: Option<PathBuf>,
    /// The etcd, in place of an embedded store.
    #[command(flatten)]
    pub etcd: EtcdFlags,
}

/// How an etcd is reached, with upstream's names.
#[derive(Args, Clone, Debug)]
pub struct EtcdFlags {
    /// Members of an etcd, separated by commas: https://10.0.0.1:2379, for example.
    #[arg(long, value_delimiter = ',', value_name = "URL,...")]
    pub etcd_servers: Vec<String>,
    /// Where the keys are in etcd.
    #[arg(long, default_value = "/registry", value_name = "PREFIX")]
    pub etcd_prefix: String,
    /// Authority of the members' certificates.
    #[arg(long, value_name = "FILE", requires = "etcd_servers")]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate.
    #[arg(long, value_name = "FILE", requires_all = ["etcd_servers", "etcd_keyfile"])]
    pub etcd_certfile: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires_all = ["etcd_servers", "etcd_certfile"])]
    pub etcd_keyfile: Option<PathBuf>,
}

/// An embedded store that a command is about.
pub struct Local {
    /// Its directory.
    pub db: PathBuf,
    /// The cluster it belongs to, if it was named by its cluster.
    layout: Option<Layout>,
}

/// An etcd that a command is about.
pub struct Remote {
    /// How it is reached.
    pub flags: EtcdFlags,
    /// The cluster it belongs to, if it was named by its cluster.
    layout: Option<Layout>,
}

/// What a command is about.
pub enum Place {
    /// An embedded store.
    Local(Local),
    /// An etcd.
    Etcd(Remote),
}

impl Target {
    /// Finds out what is meant; opens nothing. A cluster knows by itself whether it is on an etcd, and on which.
    pub fn place(&self) -> Result<Place, Failure> {
        if !self.etcd.etcd_servers.is_empty() {
            if self.db.is_some() {
                return Err(Failure::new("--db and --etcd-servers name two stores", "leave one of them out"));
            }
            return Ok(Place::Etcd(Remote { flags: self.etcd.clone(), layout: None }));
        }
        let local = self.local()?;
        Ok(match local.etcd()? {
            Some(etcd) => Place::Etcd(Remote { flags: etcd.into(), layout: local.layout }),
            None => Place::Local(local),
        })
    }

    /// The embedded store, whatever is said about etcd.
    pub fn local(&self) -> Result<Local, Failure> {
        if let Some(db) = &self.db {
            return Ok(Local { db: db.clone(), layout: None });
        }
        let layout = cluster::layout(&self.which)?;
        if !layout.exists().map_err(|e| Failure::of(&e))? {
            return Err(Failure::new(
                format!("there is no cluster named {:?} in {}", layout.name(), self.which.data_dir.display()),
                "run `cox up` to make one, or name another with --name and --data-dir, or a store with --db",
            ));
        }
        Ok(Local { db: layout.db(), layout: Some(layout) })
    }
}

impl Local {
    /// Reads all of it, whether or not a server runs on it.
    pub async fn image(&self) -> Result<(Image, Survey), Failure> {
        let db = self.db.clone();
        blocking(move || Image::read(&db)).await?.map_err(|e| self.failure(&e))
    }

    /// The etcd that the cluster is on in place of this store, if it is.
    pub fn etcd(&self) -> Result<Option<EtcdSettings>, Failure> {
        self.layout.as_ref().map_or(Ok(None), cluster::etcd_of)
    }

    /// Has the cluster use an etcd from now on, or this store. A store of its own belongs to no cluster.
    pub fn keep_etcd(&self, etcd: Option<EtcdSettings>) -> Result<(), Failure> {
        self.layout.as_ref().map_or(Ok(()), |layout| cluster::keep_etcd(layout, etcd))
    }

    /// Keeps other commands off; refuses while the cluster runs.
    pub fn hold(&self) -> Result<Held, Failure> {
        hold(self.layout.as_ref())
    }

    /// Says what an error of the store means for this command.
    pub fn failure(&self, error: &OpenError) -> Failure {
        let mut failure = Failure::of(error);
        match error {
            OpenError::Locked { .. } => {
                failure.next = "stop the server first: `cox down`; its data stays".into();
            }
            OpenError::Missing { path } if !path.exists() && !self.db.exists() => {
                failure.next = "name the store with --db, or the cluster with --name and --data-dir".into();
            }
            _ => {}
        }
        failure
    }
}

impl Remote {
    /// Keeps other commands off; refuses while the cluster runs, as far as it is known which that is.
    pub fn hold(&self) -> Result<Held, Failure> {
        hold(self.layout.as_ref())
    }
}

fn hold(layout: Option<&Layout>) -> Result<Held, Failure> {
    let held = layout.map(Layout::lock).transpose().map_err(|e| Failure::of(&e))?;
    let record = layout.and_then(|l| ProcessRecord::read(&l.process_record(PROCESS)));
    if let Some(record) = record.filter(ProcessRecord::is_alive) {
        return Err(Failure::new(
            format!("the cluster runs, as process {}", record.pid),
            "stop it with `cox down` first; its data stays",
        ));
    }
    Ok(Held { _layout: held })
}

/// No other command changes the cluster meanwhile.
pub struct Held {
    _layout: Option<LayoutLock>,
}

impl From<EtcdSettings> for EtcdFlags {
    fn from(kept: EtcdSettings) -> Self {
        Self {
            etcd_servers: kept.servers,
            etcd_prefix: kept.prefix,
            etcd_cafile: kept.ca_file,
            etcd_certfile: kept.cert_file,
            etcd_keyfile: kept.key_file,
        }
    }
}

impl EtcdFlags {
    /// As a cluster keeps it; `None` if no etcd is named.
    pub fn settings(&self) -> Option<EtcdSettings> {
        let whole = |path: &Option<PathBuf>| path.as_deref().map(whole_path);
        (!self.etcd_servers.is_empty()).then(|| EtcdSettings {
            servers: self.etcd_servers.clone(),
            prefix: self.etcd_prefix.clone(),
            ca_file: whole(&self.etcd_cafile),
            cert_file: whole(&self.etcd_certfile),
            key_file: whole(&self.etcd_keyfile),
        })
    }

    /// How the backend reaches it.
    pub fn options(&self) -> etcd::Options {
        let tls = self.etcd_cafile.clone().map(|authority| etcd::TlsFiles {
            authority,
            client: self.etcd_certfile.clone().zip(self.etcd_keyfile.clone()),
        });
        etcd::Options {
            endpoints: self.etcd_servers.clone(),
            tls,
            prefix: self.etcd_prefix.clone(),
            ..etcd::Options::default()
        }
    }

    /// Connects.
    pub async fn open(&self) -> Result<Arc<dyn Storage>, Failure> {
        let etcd = Etcd::open(self.options()).await.map_err(|e| Failure::of(&e))?;
        Ok(Arc::new(etcd))
    }

    /// As people know it.
    pub fn name(&self) -> String {
        format!("etcd {}", self.etcd_servers.join(","))
    }
}

/// Runs work that blocks.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Failure::of(&e))
}

/// Shows how far long work has come, on a terminal.
#[derive(Clone)]
pub struct Meter {
    bar: ProgressBar,
}

impl Meter {
    /// For so many steps; 0: nobody knows how many.
    pub fn new(what: &'static str, steps: u64, quiet: bool) -> Self {
        let bar = match (quiet, steps) {
            (true, _) => ProgressBar::hidden(),
            (false, 0) => ProgressBar::new_spinner(),
            (false, steps) => ProgressBar::new(steps),
        };
        let template =
            if steps == 0 { "  {spinner} {msg} {pos}" } else { "  {spinner} {msg} {pos}/{len} {eta}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar.enable_steady_tick(TICK);
        Self { bar }
    }

    /// So many steps are done.
    pub fn at(&self, steps: u64) {
        self.bar.set_position(steps);
    }

    /// It is over.
    pub fn end(self) {
        self.bar.finish_and_clear();
    }
}

/// Seconds, to the millisecond.
pub fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// The path as one can give it to another command.
pub fn whole_path(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
