//! One cluster for the tests.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base::ports::free_port;
use serde_json::Value;

use crate::kubectl::{Answer, Kubectl, run};

/// A cluster that a test brought up; dropped, it is taken down with its data.
pub struct Cluster {
    binary: PathBuf,
    data: tempfile::TempDir,
    name: String,
    flags: Vec<String>,
}

/// Where a node does not rightly complain of its disk: memory, where the temporary directory is nearly full.
pub fn roomy_directory() -> PathBuf {
    let free_share = |path: &Path| match rustix::fs::statvfs(path) {
        Ok(disk) if disk.f_blocks > 0 => disk.f_bavail * 100 / disk.f_blocks,
        _ => 0,
    };
    let usual = std::env::temp_dir();
    let memory = Path::new("/dev/shm");
    if free_share(&usual) < 20 && free_share(memory) > 50 { memory.to_owned() } else { usual }
}

impl Cluster {
    /// Brings a cluster up. `node`: with pods.
    pub fn up(binary: &Path, name: &str, node: bool) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("cox-e2e-").tempdir_in(roomy_directory())?;
        let mut flags = vec!["--secure-port".to_owned(), free_port()?.to_string()];
        if node {
            flags.extend(["--kubelet-port".to_owned(), free_port()?.to_string()]);
            flags.extend(["--dns-port".to_owned(), free_port()?.to_string()]);
        } else {
            flags.push("--no-node".into());
        }
        let cluster = Self { binary: binary.to_owned(), data, name: name.into(), flags };
        cluster.up_again()?;
        Ok(cluster)
    }

    /// Brings up a cluster of hosts in namespaces of this machine.
    pub fn of_hosts(binary: &Path, name: &str, nodes: usize, control_planes: usize) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("cox-e2e-").tempdir_in(roomy_directory())?;
        let mut flags = vec!["--secure-port".to_owned(), free_port()?.to_string()];
        flags.extend(["--nodes".to_owned(), nodes.to_string()]);
        flags.extend(["--control-planes".to_owned(), control_planes.to_string()]);
        // Builds for tests are slow, and so are the machines they run on.
        flags.extend(["--wait".to_owned(), "240".to_owned()]);
        let cluster = Self { binary: binary.to_owned(), data, name: name.into(), flags };
        cluster.up_again()?;
        Ok(cluster)
    }

    /// Brings up the cluster that a file describes, which has this name and port.
    pub fn of_file(binary: &Path, name: &str, port: u16, describe: &dyn Fn(u16) -> String) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("cox-e2e-").tempdir_in(roomy_directory())?;
        let flags = ["--secure-port".to_owned(), port.to_string(), "--wait".to_owned(), "240".to_owned()];
        let cluster = Self { binary: binary.to_owned(), data, name: name.into(), flags: flags.to_vec() };
        let file = cluster.data_dir().join("first.yaml");
        std::fs::write(&file, describe(port))?;
        let answer = cluster.cox_of_file(&file, &["up", "-o", "json", "--wait", "240"])?;
        ensure!(answer.code == Some(0), "cox up failed: {}{}", answer.out, answer.err);
        Ok(cluster)
    }

    /// What `cox up -o json` says, with the flags of the first time.
    pub fn answer_of_up(&self) -> Result<Answer> {
        let mut arguments = vec!["up", "-o", "json"];
        arguments.extend(self.flags.iter().map(String::as_str));
        self.cox(&arguments)
    }

    /// `cox up` with the flags of the first time; gives its JSON.
    pub fn up_again(&self) -> Result<Value> {
        let answer = self.answer_of_up()?;
        ensure!(answer.code == Some(0), "cox up failed: {}{}\n{}", answer.out, answer.err, self.log_tail());
        serde_json::from_str(answer.out.lines().last().unwrap_or("")).context("cox up -o json")
    }

    /// The end of the log of the parts.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.root().join("logs/cox.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Runs `cox` on this cluster.
    pub fn cox(&self, arguments: &[&str]) -> Result<Answer> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).args(["--name", &self.name]).arg("--data-dir").arg(self.data.path());
        run(command, None, Duration::from_secs(300)).with_context(|| format!("cox {}", arguments.join(" ")))
    }

    /// The cluster's directory.
    pub fn root(&self) -> PathBuf {
        self.data.path().join(&self.name)
    }

    /// Where clusters of this one's kind are kept.
    pub fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// The binary under test.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port of the API server.
    pub fn port(&self) -> &str {
        &self.flags[1]
    }

    /// Runs `cox` on the cluster that a file describes.
    pub fn cox_of_file(&self, file: &Path, arguments: &[&str]) -> Result<Answer> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("-f").arg(file).arg("--data-dir").arg(self.data.path());
        run(command, None, Duration::from_secs(300)).with_context(|| format!("cox {}", arguments.join(" ")))
    }

    /// The process that is a host's first one.
    pub fn init_of(&self, host: &str) -> Result<i32> {
        let path = self.root().join("run").join(format!("host-{host}.process"));
        let record: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        record["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).context("a pid")
    }

    /// A host of this cluster goes at once, as by a power cut.
    pub fn kill_host(&self, host: &str) -> Result<()> {
        let pid = rustix::process::Pid::from_raw(self.init_of(host)?).context("a pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        Ok(())
    }

    /// A host goes for good, with its disk.
    pub fn lose_host(&self, host: &str) -> Result<()> {
        self.lose(host, "")
    }

    /// A host goes at once, and its member of etcd has lost everything.
    pub fn lose_etcd(&self, host: &str) -> Result<()> {
        self.lose(host, "disk/var-lib-etcd")
    }

    fn lose(&self, host: &str, part: &str) -> Result<()> {
        self.kill_host(host)?;
        let disk = self.root().join("hosts").join(host).join(part);
        ensure!(disk.exists(), "{} is not there", disk.display());
        // What dies there may still write for a moment.
        crate::eventually("the end of the disk", Duration::from_secs(30), || {
            std::fs::remove_dir_all(&disk).or_else(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(e.into()),
            })
        })
    }

    /// `kubectl` as the administrator.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.root().join("kubeconfig/admin.kubeconfig"))
    }

    /// `kubectl` in a new namespace whose service account is there.
    pub fn namespace(&self, name: &str) -> Result<Kubectl> {
        let kubectl = self.kubectl();
        kubectl.run(&format!("create namespace {name}"))?;
        let within = kubectl.within(name);
        crate::eventually("the default service account", Duration::from_secs(20), || {
            within.run("get serviceaccount default")
        })?;
        Ok(within)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(e) = self.cox(&["down", "--purge"]) {
            eprintln!("the cluster is still there: {e:#}");
        }
    }
}
