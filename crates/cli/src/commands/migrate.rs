//! `cox migrate`: moves a cluster's objects between an embedded store and etcd.
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde_json::json;
use storage::copy::{self, CopyError, Plan, Written};
use storage::{Image, Revision};

use super::store::{EtcdFlags, Meter, Target, blocking, seconds};
use crate::cluster::EtcdSettings;
use crate::output::{Failure, print, print_json};

/// By how much an embedded store goes on above what it is given.
const BUMP: u64 = 1000;

/// A kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The one in a directory of this machine.
    Embedded,
    /// An etcd.
    Etcd,
}

/// How far an etcd's revision may be raised.
#[derive(Args, Clone, Debug)]
pub struct Raise {
    /// etcd gives its own revisions; empty writes raise it to the old store's, at most so many.
    #[arg(long, default_value_t = 5_000_000, value_name = "N")]
    pub raise_limit: u64,
    /// Leaves etcd's revision below the old store's; restart everything that watches the cluster then.
    #[arg(long, conflicts_with = "raise_limit")]
    pub allow_lower_revisions: bool,
}

impl Raise {
    /// The writes that may be made.
    pub fn limit(&self) -> Option<u64> {
        (!self.allow_lower_revisions).then_some(self.raise_limit)
    }
}

/// `cox migrate`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  cox down\n  cox migrate --from embedded --to etcd --etcd-servers https://10.0.0.1:2379 \\\n    \
    --etcd-cafile ca.crt --etcd-certfile client.crt --etcd-keyfile client.key\n  \
    cox migrate --from etcd --to embedded --db /var/lib/apiserver/db --etcd-servers http://127.0.0.1:2379\n\n\
    All API servers of both have to be stopped. The source is left as it is; the cluster uses the target from then on,\n\
    with `cox up` as with `cox db`, `cox backup` and `cox restore`. Values move as they are stored, with the\n\
    order of their last changes and the time their leases have left; what is encrypted needs the same keys afterwards."
)]
pub struct Migrate {
    /// Where the objects are.
    #[arg(long, value_enum)]
    pub from: Kind,
    /// Where they go.
    #[arg(long, value_enum)]
    pub to: Kind,
    /// Replaces what the target etcd holds. An embedded store's old data is kept beside the new in any case.
    #[arg(long)]
    pub replace: bool,
    /// For etcd: how far its revision is raised.
    #[command(flatten)]
    pub raise: Raise,
    /// The embedded store, and the etcd.
    #[command(flatten)]
    pub target: Target,
}

/// `cox migrate`.
pub async fn migrate(options: Migrate, as_json: bool) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    if options.from == options.to {
        return Err(Failure::new(
            "--from and --to name the same kind of store",
            "one is embedded, the other etcd",
        ));
    }
    let local = options.target.local()?;
    let flags = &etcd_meant(&options, local.etcd()?)?;
    let held = local.hold()?;
    let store = flags.open().await?;
    let code = if options.from == Kind::Embedded {
        let db = local.db.clone();
        // Held, not only looked at: what a server wrote meanwhile would be lost.
        let (lock, read) = blocking(move || (storage::embedded::hold(&db), Image::read(&db))).await?;
        let lock = lock.map_err(|e| local.failure(&e))?;
        let (image, _) = read.map_err(|e| local.failure(&e))?;
        let meter = Meter::new("writing keys", image.len(), as_json);
        let plan = Plan { replace: options.replace, raise: options.raise.limit(), above: Revision(0) };
        let written = copy::write(&image, &store, plan, &mut |keys| meter.at(keys)).await;
        meter.end();
        drop(lock);
        let written = written.map_err(|e| copy_failure(&e))?;
        local.keep_etcd(flags.settings())?;
        tell(&image, &written, &flags.name(), seconds(began.elapsed()), as_json)
    } else {
        let meter = Meter::new("reading keys", 0, as_json);
        let image = copy::read(&*store, &mut |keys| meter.at(keys)).await.map_err(|e| Failure::of(&e))?;
        meter.end();
        let db = local.db.clone();
        let (image, restored) = blocking(move || {
            let restored = image.restore(&db, BUMP, &mut |_| {});
            (image, restored)
        })
        .await?;
        let restored = restored.map_err(|e| local.failure(&e))?;
        local.keep_etcd(None)?;
        let written = Written {
            keys: image.len(),
            leases: image.leases().len() as u64,
            revision: restored.revision,
            ..Written::default()
        };
        tell(&image, &written, &local.db.display().to_string(), seconds(began.elapsed()), as_json)
    };
    drop(held);
    code
}

/// The etcd of the flags; on the way back, that of the cluster where none is named.
fn etcd_meant(options: &Migrate, kept: Option<EtcdSettings>) -> Result<EtcdFlags, Failure> {
    let named = &options.target.etcd;
    match kept {
        Some(kept) if options.from == Kind::Embedded => Err(Failure::new(
            format!("the cluster's objects are in {} already", EtcdFlags::from(kept).name()),
            "move them back with `cox migrate --from etcd --to embedded` first",
        )),
        Some(kept) if named.etcd_servers.is_empty() => Ok(kept.into()),
        _ if named.etcd_servers.is_empty() => {
            Err(Failure::new("no etcd is named", "name its members with --etcd-servers"))
        }
        _ => Ok(named.clone()),
    }
}

/// Says what was written.
pub fn tell(
    image: &Image,
    written: &Written,
    target: &str,
    took: f64,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    if as_json {
        print_json(&json!({
            "store": target,
            "keys": written.keys,
            "removed": written.removed,
            "leases": written.leases,
            "raisedBy": written.raised,
            "revisionBefore": image.revision().0,
            "revision": written.revision.0,
            "seconds": took,
        }))?;
    } else {
        print(&format!(
            "{} keys of revision {} are in {target}, which goes on at revision {} ({took} s).\n",
            written.keys,
            image.revision(),
            written.revision
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what to do about a copy that was refused.
pub fn copy_failure(error: &CopyError) -> Failure {
    let mut failure = Failure::of(error);
    failure.next = match error {
        CopyError::NotEmpty { .. } => {
            "name an empty etcd or another --etcd-prefix, or replace what is there with --replace".into()
        }
        CopyError::TooFar { source_revision, .. } => format!(
            "start etcd from a snapshot of itself restored with `etcdutl snapshot restore --bump-revision \
             {source_revision} --mark-compacted`, or raise --raise-limit, or see --allow-lower-revisions"
        ),
        _ => String::new(),
    };
    failure
}
