//! The store of a cluster of several hosts: what is asked of it runs on a host that has it, or the keys for it, and files
//! come and go over the same way.
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use base64::Engine as _;
use provision::apply::{Host, HostError, Output};
use provision::plan::HostPaths;
use provision::spec::Role;

use super::change::store_flags;
use super::store::{Meter, Target};
use crate::hosts::HostsCluster;
use crate::output::{self, Failure};

/// Bytes of a file that are carried at a time.
const PIECE: usize = 4 << 20;

/// A host that the store of a cluster is reached from.
pub struct StoreHost {
    host: Arc<dyn Host>,
    paths: HostPaths,
    flags: Vec<String>,
}

/// The cluster of several hosts that a command is about; none if it names a store, or the cluster is of one host.
pub fn cluster_of(target: &Target) -> Result<Option<HostsCluster>, Failure> {
    if target.db.is_some() || !target.etcd.etcd_servers.is_empty() {
        return Ok(None);
    }
    HostsCluster::kept(&target.which)
}

fn failed(host: &dyn Host, error: &HostError) -> Failure {
    Failure::new(format!("host {}: {error}", host.name()), "")
}

impl StoreHost {
    /// The first one that answers, best one whose member of etcd runs.
    pub async fn find(cluster: &HostsCluster) -> Result<Self, Failure> {
        let hosts = cluster.hosts()?;
        let members = cluster.spec.etcd_hosts();
        let able = if members.is_empty() {
            cluster.spec.hosts_with(Role::ControlPlane).take(1).collect()
        } else {
            members
        };
        let mut second = None;
        let mut why = String::from("it has no control plane");
        for spec in able {
            let host = hosts.host(spec);
            match host.services().await {
                Ok(found) if found.get("etcd").is_some_and(|s| s.active) => {
                    return Ok(Self::on(host, cluster));
                }
                Ok(_) => second = second.or(Some(host)),
                Err(e) => why = format!("host {}: {e}", spec.name),
            }
        }
        second.map(|host| Self::on(host, cluster)).ok_or_else(|| {
            Failure::new(
                format!("no host with the objects of the cluster answers: {why}"),
                "`cox up` brings them back",
            )
        })
    }

    /// A host that answers.
    pub fn on(host: Arc<dyn Host>, cluster: &HostsCluster) -> Self {
        let paths = cluster.plan_options().paths;
        Self { host, flags: store_flags(&cluster.spec, &paths), paths }
    }

    /// Runs a verb of `cox` on the store.
    pub async fn cox(&self, words: &[&str]) -> Result<Output, Failure> {
        let program = self.paths.program("cox").display().to_string();
        let mut command = vec![program.as_str()];
        command.extend(words);
        command.extend(self.flags.iter().map(String::as_str));
        self.host.run(&command, b"").await.map_err(|e| failed(&*self.host, &e))
    }

    /// As [`Self::cox`], where anything but success is an error.
    pub async fn cox_done(&self, words: &[&str]) -> Result<String, Failure> {
        let output = self.cox(words).await?;
        if output.code == 0 {
            return Ok(output.out);
        }
        let said = output.err.trim().trim_start_matches("cox: ");
        Err(Failure::new(format!("host {}: {said}", self.host.name()), ""))
    }

    async fn shell(&self, script: &str, words: &[&str], input: &[u8]) -> Result<String, Failure> {
        let mut command = vec!["sh", "-c", script, "sh"];
        command.extend(words);
        let output = self.host.run(&command, input).await.map_err(|e| failed(&*self.host, &e))?;
        if output.code == 0 {
            return Ok(output.out);
        }
        let said = output.err.lines().last().unwrap_or("it said nothing").to_owned();
        Err(Failure::new(format!("host {}: {said}", self.host.name()), ""))
    }

    /// A directory on the host that nobody else can look into.
    pub async fn directory(&self) -> Result<String, Failure> {
        Ok(self.shell("mktemp -d /var/tmp/cox.XXXXXXXX", &[], b"").await?.trim().to_owned())
    }

    /// Removes such a directory.
    pub async fn remove(&self, directory: &str) -> Result<(), Failure> {
        self.shell(r#"rm -rf "$1""#, &[directory], b"").await.map(drop)
    }

    /// Reads a file of the host.
    pub async fn fetch(&self, path: &str, quiet: bool) -> Result<Vec<u8>, Failure> {
        let size = self.shell(r#"stat -c %s "$1""#, &[path], b"").await?;
        let size: usize = size.trim().parse().map_err(|_| Failure::new(format!("{path} has no size"), ""))?;
        let meter = Meter::new("bytes over the network", size as u64, quiet);
        let mut bytes = Vec::with_capacity(size);
        for number in 0..size.div_ceil(PIECE) {
            let script = r#"dd if="$1" bs="$2" skip="$3" count=1 status=none | base64 -w 0"#;
            let text = self.shell(script, &[path, &PIECE.to_string(), &number.to_string()], b"").await?;
            let piece = base64::engine::general_purpose::STANDARD.decode(text.trim());
            bytes.extend(piece.map_err(|e| Failure::of(&e))?);
            meter.at(bytes.len() as u64);
        }
        meter.end();
        if bytes.len() != size {
            return Err(Failure::new(
                format!("{path} changed while it was read"),
                "run the same command again",
            ));
        }
        Ok(bytes)
    }

    /// Writes a file of the host that its owner alone can read.
    pub async fn send(&self, path: &str, bytes: &[u8]) -> Result<(), Failure> {
        self.shell(r#"umask 077; : >"$1""#, &[path], b"").await?;
        for piece in bytes.chunks(PIECE) {
            self.shell(r#"cat >>"$1""#, &[path], piece).await?;
        }
        Ok(())
    }
}

/// Runs a verb on the store of the cluster; what it says is said here.
pub async fn pass_on(cluster: &HostsCluster, words: &[&str], as_json: bool) -> Result<ExitCode, Failure> {
    let store = StoreHost::find(cluster).await?;
    let form: &[&str] = if as_json { &["-o", "json"] } else { &[] };
    let output = store.cox(&[form, words].concat()).await?;
    output::print(&output.out)?;
    if output.code != 0 && !output.err.trim().is_empty() {
        return Err(Failure::new(output.err.trim().trim_start_matches("cox: "), ""));
    }
    Ok(ExitCode::from(u8::try_from(output.code).unwrap_or(1)))
}

/// Puts a file in its place, whole or not at all, readable by its owner alone.
pub fn put_file(path: &Path, bytes: &[u8], replace: bool) -> Result<(), Failure> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let cannot = |e: std::io::Error| Failure::new(format!("cannot write {}: {e}", path.display()), "");
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        if replace {
            return std::fs::rename(&temporary, path);
        }
        // Refuses a file that is there by now.
        std::fs::hard_link(&temporary, path)?;
        std::fs::remove_file(&temporary)
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        cannot(e)
    })
}
