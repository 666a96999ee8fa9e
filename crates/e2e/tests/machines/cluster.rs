//! A cluster that `cox up -f` makes of machines, as its administrator has it: a file, a directory, a way to the machines.
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::machines::{Machine, Wire};
use e2e::{Answer, Kubectl, binary, run};
use serde_json::Value;

/// The longest that one verb may take.
const PATIENCE: Duration = Duration::from_secs(400);

pub struct Cluster {
    pub machines: Vec<Machine>,
    pub wire: Wire,
    name: String,
    cox: PathBuf,
}

/// The binary under test without what debuggers need: half of it has not to be carried over ssh and into images.
fn stripped(wire: &Wire) -> Result<PathBuf> {
    let path = wire.dir().join("cox");
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&path).arg(binary());
    let answer = run(strip, None, PATIENCE).context("strip")?;
    ensure!(answer.code == Some(0), "strip: {}", answer.err);
    Ok(path)
}

impl Cluster {
    /// Machines without a cluster.
    pub fn boot(name: &str, machines: &[(&str, u8)]) -> Result<Self> {
        let wire = Wire::new(&format!("m{}", &name[..1]))?;
        let cox = stripped(&wire)?;
        let machines = wire.boot(machines)?;
        Ok(Self { machines, wire, name: name.to_owned(), cox })
    }

    pub fn machine(&self, name: &str) -> &Machine {
        self.machines.iter().find(|m| m.name == name).expect("a machine of that name")
    }

    fn data(&self) -> PathBuf {
        self.wire.dir().join("data")
    }

    fn file(&self) -> PathBuf {
        self.wire.dir().join("cluster.yaml")
    }

    /// What stands before the hosts.
    fn head(&self) -> String {
        format!("name: {}\nssh: {{key: {}}}\n", self.name, self.wire.key().display())
    }

    /// Writes `cluster.yaml`: hosts and what else there is.
    pub fn write(&self, rest: &str) -> Result<()> {
        std::fs::write(self.file(), self.head() + rest).context("cluster.yaml")
    }

    /// Runs `cox` where the machines are reached.
    pub fn cox(&self, arguments: &[&str]) -> Result<Answer> {
        let mut command = self.wire.command(&self.cox);
        command.args(arguments);
        if let Some(log) = std::env::var_os("COX_LOG") {
            command.env("RUST_LOG", log);
        }
        run(command, None, PATIENCE).with_context(|| format!("cox {}", arguments.join(" ")))
    }

    /// `cox up -f cluster.yaml`, and how it ended.
    pub fn answer_of_up(&self, more: &[&str]) -> Result<Answer> {
        let (file, data) = (self.file().display().to_string(), self.data().display().to_string());
        // Builds for tests are slow, and so are the machines they run on.
        let mut arguments = vec!["up", "-f", &file, "--data-dir", &data, "--wait", "240"];
        arguments.extend(more);
        self.cox(&arguments)
    }

    /// `cox up -f cluster.yaml -o json`; gives what it says.
    pub fn up(&self) -> Result<Value> {
        let answer = self.answer_of_up(&["-o", "json"])?;
        ensure!(answer.code == Some(0), "cox up failed: {}{}", answer.out, answer.err);
        if std::env::var_os("COX_LOG").is_some() {
            println!("{}", answer.err);
        }
        serde_json::from_str(answer.out.lines().last().unwrap_or("")).context("cox up -o json")
    }

    pub fn kubectl(&self) -> Kubectl {
        self.wire.kubectl(&self.data().join(&self.name).join("kubeconfig/admin.kubeconfig"))
    }

    pub fn journals(&self) -> String {
        let of = |machine: &Machine| {
            let routes = machine.answer("ip route; ip neigh").map(|answer| answer.out).unwrap_or_default();
            format!("{}{routes}\n", machine.journal())
        };
        self.machines.iter().map(of).collect()
    }
}

/// What was changed on each host, as `up` tells it.
pub fn changes(said: &Value) -> Vec<String> {
    let hosts = said["changes"].as_object().into_iter().flatten();
    let all = hosts.flat_map(|(host, all)| {
        all.as_array()
            .into_iter()
            .flatten()
            .map(move |c| format!("{host}: {}", c.as_str().unwrap_or_default()))
    });
    all.collect()
}
