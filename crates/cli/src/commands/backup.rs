//! `cox backup`: all keys of a store, as of one moment, in one file.
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use serde_json::json;
use storage::{Image, copy};

use super::hosts_store::{self, StoreHost};
use super::store::{Meter, Place, Remote, Target, blocking, seconds, whole_path};
use crate::hosts::HostsCluster;
use crate::output::{Failure, print, print_json};

/// `cox backup`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  cox backup /backup/$(date +%F).cox           of the cluster on this machine, running or not\n  \
    cox backup b.cox --db /var/lib/apiserver/db   of a kube-apiserver's embedded store\n  \
    cox backup b.cox -f cluster.yaml               of a cluster of several hosts\n  \
    cox backup b.cox --etcd-servers https://10.0.0.1:2379 --etcd-cafile ca.crt --etcd-certfile c.crt --etcd-keyfile c.key\n  \
    cox db check --backup b.cox                     is it whole?\n\n\
    The file is complete or not there, has checksums, and can be read by its owner alone: it holds Secrets as they are\n\
    stored. The cluster's certificates and encryption keys are not in it; keep copies of `pki` and `encryption` too."
)]
pub struct Backup {
    /// The file to write.
    pub file: PathBuf,
    /// Replaces a file that is there.
    #[arg(long)]
    pub force: bool,
    /// Which store.
    #[command(flatten)]
    pub target: Target,
}

/// `cox backup`.
pub async fn backup(options: Backup, as_json: bool) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    if !options.force && options.file.symlink_metadata().is_ok() {
        return Err(Failure::new(
            format!("{} is there already", options.file.display()),
            "name another file, or replace it with --force",
        ));
    }
    if let Some(cluster) = hosts_store::cluster_of(&options.target)? {
        return of_hosts(&options, &cluster, as_json).await;
    }
    let reading = Meter::new("reading keys", 0, as_json);
    let (image, source) = match options.target.place()? {
        Place::Local(local) => (local.image().await?.0, local.db.display().to_string()),
        Place::Etcd(Remote { flags, .. }) => {
            let store = flags.open().await?;
            let seen = reading.clone();
            let image = copy::read(&*store, &mut |keys| seen.at(keys)).await.map_err(|e| Failure::of(&e))?;
            (image, flags.name())
        }
    };
    reading.end();
    let writing = Meter::new("writing keys", image.len(), as_json);
    let (file, force, meter) = (options.file.clone(), options.force, writing.clone());
    let written = blocking(move || {
        let bytes = image.write_backup(&file, force, &mut |keys| meter.at(keys))?;
        // What was written is what is read: before anybody relies on it.
        let again = Image::read_backup(&file)?;
        Ok::<_, storage::OpenError>((image, bytes, again.len()))
    })
    .await?;
    writing.end();
    let (image, bytes, keys) = written.map_err(|e| Failure::of(&e))?;
    if keys != image.len() {
        return Err(Failure::new(format!("{} does not hold what was written", options.file.display()), ""));
    }
    let file = whole_path(&options.file);
    let took = seconds(began.elapsed());
    if as_json {
        print_json(&json!({
            "file": file,
            "source": source,
            "revision": image.revision().0,
            "keys": keys,
            "leases": image.leases().len(),
            "bytes": bytes,
            "seconds": took,
        }))?;
    } else {
        print(&format!(
            "{keys} keys of {source} at revision {} are in {} ({bytes} bytes, {took} s).\n",
            image.revision(),
            file.display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Made on a host that has the keys for the store; then it comes here.
async fn of_hosts(options: &Backup, cluster: &HostsCluster, as_json: bool) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let store = StoreHost::find(cluster).await?;
    let directory = store.directory().await?;
    let there = format!("{directory}/backup.cox");
    let carried = async {
        let said = store.cox_done(&["backup", &there, "-o", "json"]).await?;
        Ok::<_, Failure>((said, store.fetch(&there, as_json).await?))
    }
    .await;
    // Secrets are in it.
    let removed = store.remove(&directory).await;
    let (said, bytes) = carried?;
    removed?;
    hosts_store::put_file(&options.file, &bytes, options.force)?;
    let path = options.file.clone();
    let image = blocking(move || Image::read_backup(&path)).await?.map_err(|e| Failure::of(&e))?;
    let said: serde_json::Value = serde_json::from_str(said.trim()).map_err(|e| Failure::of(&e))?;
    if said["keys"].as_u64() != Some(image.len()) {
        return Err(Failure::new(format!("{} does not hold what was written", options.file.display()), ""));
    }
    let (file, took) = (whole_path(&options.file), seconds(began.elapsed()));
    if as_json {
        let mut answer = said;
        answer["file"] = json!(file);
        answer["seconds"] = json!(took);
        print_json(&answer)?;
    } else {
        print(&format!(
            "{} keys of cluster {:?} at revision {} are in {} ({} bytes, {took} s).\n",
            image.len(),
            cluster.layout.name(),
            image.revision(),
            file.display(),
            bytes.len()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
