//! A prepared control plane, whose parts can be started one by one.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode};
use pki::{Authority, CertificateSpec, ClusterPki, KeyAlgorithm, PrivateKey, Subject, Usage};
use serde_json::Value;

use crate::connect::{Target, read};
use crate::process::{Process, run};

const NAME: &str = "bench";
/// How long a part may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often readiness is asked for: often enough not to show in the result.
const LOOK: Duration = Duration::from_millis(1);

/// A control plane's files: certificates, kubeconfigs, a store with the bootstrap objects.
pub struct Host {
    cox: PathBuf,
    root: PathBuf,
    pki: ClusterPki,
    port: u16,
    address: String,
    /// The server, when it runs.
    pub target: Target,
}

/// `cox` on a cluster of ours.
pub fn cox(binary: &Path, data: &Path, name: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(binary);
    command.args(arguments).args(["--name", name, "--data-dir"]).arg(data).env_remove("RUST_LOG");
    run(command, &format!("cox {}", arguments.join(" ")))
}

/// Takes a cluster down with its data when dropped.
pub struct Purge {
    binary: PathBuf,
    data: PathBuf,
    name: &'static str,
}

impl Purge {
    /// For this cluster.
    pub fn new(binary: &Path, data: &Path, name: &'static str) -> Self {
        Self { binary: binary.to_owned(), data: data.to_owned(), name }
    }
}

impl Drop for Purge {
    fn drop(&mut self) {
        if let Err(e) = cox(&self.binary, &self.data, self.name, &["down", "--purge"]) {
            eprintln!("bench: a cluster is still there: {e:#}");
        }
    }
}

/// What `cox up -o json` tells at its end.
pub fn told(output: &str) -> Result<Value> {
    serde_json::from_str(output.lines().last().unwrap_or("")).context("cox up -o json")
}

impl Host {
    /// Brings a control plane up once, so that all its files are there, and down again.
    pub fn prepare(binary: &Path, directory: &Path) -> Result<Self> {
        let data = directory.join("plane");
        std::fs::create_dir(&data)?;
        let cox_binary = std::fs::canonicalize(binary)?;
        let port = base::ports::free_port()?;
        let number = port.to_string();
        let taken_down = Purge::new(&cox_binary, &data, NAME);
        cox(&cox_binary, &data, NAME, &["up", "--no-node", "-o", "json", "--secure-port", &number])?;
        cox(&cox_binary, &data, NAME, &["down"])?;
        // From here on no process is left, and the files go with the directory.
        std::mem::forget(taken_down);
        let root = data.join(NAME);
        let settings: Value = serde_json::from_slice(&std::fs::read(root.join("cluster.json"))?)?;
        let pki = ClusterPki::at(root.join("pki"));
        Ok(Self {
            target: Target::new(port, &pki)?,
            address: settings["address"].as_str().context("no address in cluster.json")?.to_owned(),
            cox: cox_binary,
            root,
            pki,
            port,
        })
    }

    /// A file of this name beside the others.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The server, asked by a client with a certificate of its own.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Target> {
        let now = jiff::Timestamp::now();
        let paths = self.pki.authority();
        let key = PrivateKey::from_pem(&std::fs::read_to_string(paths.key)?)?;
        let authority = Authority::load(&std::fs::read_to_string(paths.certificate)?, key)?;
        let subject = groups.iter().fold(Subject::new(user), |subject, group| subject.in_group(*group));
        let spec = CertificateSpec {
            subject,
            names: Vec::new(),
            usages: vec![Usage::Client],
            validity: Duration::from_secs(24 * 3600),
        };
        let issued = authority.issue(&spec, KeyAlgorithm::EcdsaP256, now)?;
        let (certificate, key) = (self.file(&format!("{user}.crt")), self.file(&format!("{user}.key")));
        pki::write_public(&certificate, issued.certificate_pem.as_bytes())?;
        pki::write_private(&key, issued.key.to_pem().as_bytes())?;
        Target::of(self.port, &self.pki, &certificate, &key)
    }

    /// The whole control plane in one process.
    pub fn all_in_one(&self) -> Command {
        let mut command = self.part("up");
        command.args(["--no-node", "--foreground", "--name", NAME, "--secure-port", &self.port.to_string()]);
        command.arg("--data-dir").arg(self.root.parent().unwrap_or(&self.root));
        command
    }

    fn part(&self, name: &str) -> Command {
        let mut command = Command::new(&self.cox);
        command.arg(name).env_remove("RUST_LOG");
        command
    }

    /// The API server alone, over a store of that name.
    pub fn api_server(&self, store: &str) -> Command {
        let mut command = self.part("kube-apiserver");
        let serving = self.pki.api_server();
        let kubelet = self.pki.api_server_kubelet_client();
        let authority = self.pki.authority().certificate;
        let mut flag = |name: &str, value: &Path| {
            command.arg(format!("--{name}")).arg(value);
        };
        flag("data-dir", &self.root.join(store));
        flag("tls-cert-file", &serving.certificate);
        flag("tls-private-key-file", &serving.key);
        flag("client-ca-file", &authority);
        flag("kubelet-client-certificate", &kubelet.certificate);
        flag("kubelet-client-key", &kubelet.key);
        flag("kubelet-certificate-authority", &authority);
        flag("service-account-signing-key-file", &self.pki.service_account_key());
        flag("service-account-key-file", &self.pki.service_account_public_key());
        command
            .args(["--service-account-issuer", "https://kubernetes.default.svc.cluster.local"])
            .args(["--authorization-mode", "Node,RBAC", "--bind-address", "127.0.0.1"])
            .args(["--advertise-address", &self.address, "--secure-port", &self.port.to_string()]);
        command
    }

    /// A part that is a client of the API server.
    pub fn client_part(&self, name: &str) -> Command {
        let mut command = self.part(name);
        command.arg("--kubeconfig").arg(ClusterPki::kubeconfig(&self.root.join("kubeconfig"), name));
        if name == "kube-controller-manager" {
            command.args(["--cluster-cidr", "10.244.0.0/16", "--root-ca-file"]);
            command.arg(self.pki.authority().certificate);
        }
        command
    }

    /// Starts a command and waits until the API server in it is ready; gives the time from exec.
    pub async fn start(&self, command: Command, name: &str) -> Result<(Process, Duration)> {
        let log = self.root.join("logs").join(format!("{name}.log"));
        let began = Instant::now();
        let mut process = Process::start(command, name, &log)?;
        loop {
            if ready(&self.target).await.is_ok() {
                return Ok((process, began.elapsed()));
            }
            let said = || {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                text.lines().last().unwrap_or("it said nothing").to_owned()
            };
            process.check().with_context(said)?;
            ensure!(began.elapsed() < PATIENCE, "{name} is not ready after {} s", PATIENCE.as_secs());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Starts the API server over a store of that name, and waits until it is ready.
    pub async fn serve(&self, store: &str) -> Result<Process> {
        Ok(self.start(self.api_server(store), "kube-apiserver").await?.0)
    }

    /// Starts a part that is a client.
    pub fn start_client(&self, name: &str) -> Result<Process> {
        Process::start(self.client_part(name), name, &self.root.join("logs").join(format!("{name}.log")))
    }
}

async fn ready(target: &Target) -> Result<()> {
    let mut sender = target.http1().await?;
    let response = sender.send_request(target.request(Method::GET, "/readyz", "")).await?;
    let status = response.status();
    read(response).await?;
    ensure!(status == StatusCode::OK, "{status}");
    Ok(())
}
