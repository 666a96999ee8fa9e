//! `cox restore`: a store becomes what a backup holds.
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use serde_json::json;
use storage::copy::{self, Plan};
use storage::{Image, Revision};

use super::migrate::{Raise, copy_failure};
use super::store::{Local, Meter, Place, Target, blocking, seconds};
use crate::output::{Failure, print, print_json};

/// How far above all that were ever given an embedded store goes on.
const BUMP: u64 = 1_000_000_000;

/// `cox restore`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  cox down && cox restore /backup/monday.cox && cox up\n  \
    cox restore b.cox --db /var/lib/apiserver/db    the embedded store of a stopped kube-apiserver\n  \
    cox restore b.cox --etcd-servers https://10.0.0.1:2379 --replace    with all API servers stopped\n\n\
    cox restore b.cox -f cluster.yaml               a cluster of several hosts, whatever is left of it\n  \
    cox restore --from-member node-2 -f cluster.yaml   ... without a backup, from what one member of etcd has\n\n\
    A cluster of one host has to be stopped; that of several hosts is stopped, rebuilt with a new etcd, and brought up again;\n\
    its pods run on. The old data stays beside the new. Revisions go on above all that were ever given, so\n\
    everybody who watched before lists anew. Secrets need the encryption keys that they were written with.")]
pub struct Restore {
    /// The backup.
    #[arg(required_unless_present = "from_member")]
    pub file: Option<PathBuf>,
    /// For a cluster of several hosts without a backup: goes on with what the member of etcd on this host has, which may
    /// lack the last writes.
    #[arg(long, value_name = "HOST", conflicts_with = "file")]
    pub from_member: Option<String>,
    /// By how much the revision is raised above the highest one known; for a store of its own, a billion if absent, for
    /// etcd as much as may have been written since the backup.
    #[arg(long, value_name = "N")]
    pub bump_revision: Option<u64>,
    /// For etcd: removes the keys that are there. For a cluster of several hosts: gives up objects that are well.
    #[arg(long)]
    pub replace: bool,
    /// For etcd: the highest revision that clients may know.
    #[arg(long, hide = true, default_value_t = 0)]
    pub above: u64,
    /// How long hosts may take until they are well again, in seconds.
    #[arg(long, default_value_t = 180)]
    pub wait: u64,
    /// For etcd: how far its revision is raised.
    #[command(flatten)]
    pub raise: Raise,
    /// Which store.
    #[command(flatten)]
    pub target: Target,
}

/// `cox restore`.
pub async fn restore(options: Restore, as_json: bool) -> Result<ExitCode, Failure> {
    if let Some(cluster) = super::hosts_store::cluster_of(&options.target)? {
        return super::rebuild::rebuild(&options, cluster, as_json).await;
    }
    let Some(file) = options.file.clone() else {
        return Err(Failure::new(
            "--from-member is for a cluster of several hosts, and there is none",
            "name the cluster with --name or -f",
        ));
    };
    let image = blocking(move || Image::read_backup(&file)).await?.map_err(|e| Failure::of(&e))?;
    match options.target.place()? {
        Place::Local(local) => to_embedded(image, &local, &options, as_json).await,
        Place::Etcd(remote) => {
            let began = Instant::now();
            let held = remote.hold()?;
            let flags = &remote.flags;
            let store = flags.open().await?;
            let meter = Meter::new("writing keys", image.len(), as_json);
            let plan = Plan {
                replace: options.replace,
                raise: options.raise.limit(),
                above: Revision(options.above),
            };
            let written = copy::write(&image, &store, plan, &mut |keys| meter.at(keys)).await;
            meter.end();
            drop(held);
            let written = written.map_err(|e| copy_failure(&e))?;
            super::migrate::tell(&image, &written, &flags.name(), seconds(began.elapsed()), as_json)
        }
    }
}

async fn to_embedded(
    image: Image,
    local: &Local,
    options: &Restore,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let held = local.hold()?;
    let meter = Meter::new("writing keys", image.len(), as_json);
    let bump = options.bump_revision.unwrap_or(BUMP);
    let (db, shown) = (local.db.clone(), meter.clone());
    let (image, restored) = blocking(move || {
        let restored = image.restore(&db, bump, &mut |keys| shown.at(keys));
        (image, restored)
    })
    .await?;
    meter.end();
    drop(held);
    let restored = restored.map_err(|e| local.failure(&e))?;
    let took = seconds(began.elapsed());
    if as_json {
        print_json(&json!({
            "store": local.db,
            "keys": image.len(),
            "backupRevision": image.revision().0,
            "revisionBefore": restored.before.map(|revision| revision.0),
            "revision": restored.revision.0,
            "oldData": restored.aside,
            "seconds": took,
        }))?;
    } else {
        let mut text = format!(
            "{} keys of revision {} are in {}, which goes on at revision {} ({took} s).\n",
            image.len(),
            image.revision(),
            local.db.display(),
            restored.revision
        );
        if let Some(aside) = &restored.aside {
            text.push_str(&format!("The old data is in {}; remove it once all is well.\n", aside.display()));
        }
        print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
