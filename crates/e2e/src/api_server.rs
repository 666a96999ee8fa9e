//! Parts that run alone, each in a process of its own, as upstream's do.
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use pki::{ClusterPki, PkiSpec};

use crate::kubectl::{Kubectl, eventually};
use crate::request::{Credentials, Request};
use base::ports::free_port;

/// A process of ours; dropped, it is killed.
pub struct Part {
    child: Child,
    log: PathBuf,
}

impl Part {
    /// Starts a part; what it says goes to a file in `dir`.
    pub fn start(binary: &Path, dir: &Path, name: &str, arguments: &[String]) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let child = Command::new(binary)
            .arg(name)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, log })
    }

    /// What it said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it ended by itself.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Err(e) = self.kill() {
            eprintln!("a process is still there: {e:#}");
        }
    }
}

/// An API server alone, with RBAC and a trust of its own; dropped, it is gone with its data.
pub struct ApiServer {
    part: Part,
    binary: PathBuf,
    data: PathBuf,
    port: u16,
    dir: tempfile::TempDir,
}

impl ApiServer {
    /// Starts one whose store lies in `data`, else beside its certificates; waits until it is ready.
    pub fn start(binary: &Path, data: Option<&Path>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cox-e2e-").tempdir()?;
        let port = free_port()?;
        let (pki, spec) = (ClusterPki::at(dir.path().join("pki")), PkiSpec::default());
        pki.ensure(&spec, Timestamp::now())?;
        let server = format!("https://127.0.0.1:{port}");
        pki.ensure_kubeconfigs(&dir.path().join("kubeconfig"), "alone", &server, &spec)?;
        let data = data.map_or_else(|| dir.path().join("db"), Path::to_owned);
        let part = Self::run(binary, dir.path(), &data, port)?;
        let mut server = Self { part, binary: binary.to_owned(), data, port, dir };
        server.ready()?;
        Ok(server)
    }

    fn run(binary: &Path, dir: &Path, data: &Path, port: u16) -> Result<Part> {
        let pki = ClusterPki::at(dir.join("pki"));
        let (serving, authority) = (pki.api_server(), pki.authority().certificate);
        let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
        let arguments = [
            file("data-dir", data),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={port}"),
            file("tls-cert-file", &serving.certificate),
            file("tls-private-key-file", &serving.key),
            file("client-ca-file", &authority),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            file("service-account-signing-key-file", &pki.service_account_key()),
            file("service-account-key-file", &pki.service_account_public_key()),
        ];
        Part::start(binary, dir, "kube-apiserver", &arguments)
    }

    fn ready(&mut self) -> Result<()> {
        let mut ended = false;
        let ready = eventually("the API server is ready", Duration::from_secs(60), || {
            ended = self.part.has_ended()?;
            if ended {
                return Ok(());
            }
            let (code, body) = self.request("/readyz").send(&self.admin())?;
            ensure!(code == "200" && body == "ok", "{code} {body}");
            Ok(())
        });
        ensure!(!ended, "the API server ended: {}", self.part.said());
        ready.with_context(|| self.part.said())
    }

    /// Kills it and starts it again on the same data.
    pub fn kill_and_start(&mut self) -> Result<()> {
        self.part.kill()?;
        self.part = Self::run(&self.binary, self.dir.path(), &self.data, self.port)?;
        self.ready()
    }

    /// Starts another part that knows this server by the kubeconfig of that part, and keeps off the ports of others.
    pub fn join(&self, name: &str, arguments: &[&str]) -> Result<Part> {
        let kubeconfig = format!("--kubeconfig={}", self.kubeconfig(name).display());
        let mut all = vec![kubeconfig, "--secure-port=0".to_owned()];
        all.extend(arguments.iter().map(|a| (*a).to_owned()));
        Part::start(&self.binary, self.dir.path(), name, &all)
    }

    /// The kubeconfig of `admin` or of a part.
    pub fn kubeconfig(&self, part: &str) -> PathBuf {
        ClusterPki::kubeconfig(&self.dir.path().join("kubeconfig"), part)
    }

    /// A directory that is removed with the server.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its trust.
    pub fn pki(&self) -> ClusterPki {
        ClusterPki::at(self.dir.path().join("pki"))
    }

    /// The administrator's certificate.
    pub fn admin(&self) -> Credentials {
        let admin = self.pki().admin();
        Credentials::certificate(&admin.certificate, &admin.key)
    }

    /// A request to it.
    pub fn request(&self, path: &str) -> Request {
        Request::new(&self.pki().authority().certificate, &self.port.to_string(), path)
    }

    /// `kubectl` as the administrator.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.kubeconfig("admin"))
    }
}
