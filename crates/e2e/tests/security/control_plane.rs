//! An API server and a controller manager as processes, with RBAC, and nothing else.
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{Kubectl, eventually, free_port, run};

use crate::authority::{Authority, Pair, openssl};
use crate::binary;

/// A process that ends with its handle.
pub struct Process(Child);

impl Process {
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Self(command.spawn().with_context(|| format!("cannot start {command:?}"))?))
    }

    /// How it ended, if it did.
    fn ended(&mut self) -> Option<String> {
        self.0.try_wait().ok().flatten().map(|status| status.to_string())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct ControlPlane {
    processes: Vec<Process>,
    pub dir: tempfile::TempDir,
    pub ca: Authority,
    pub port: u16,
}

/// The status code and the body of an answer.
pub type Answer = (u16, String);

impl ControlPlane {
    /// With these flags of the API server and the controller manager besides the usual ones.
    pub fn start(api_server: &[&str], controllers: &[&str]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cox-security-").tempdir()?;
        Self::start_in(dir, api_server, controllers)
    }

    /// In a directory that may already hold files that the flags name.
    pub fn start_in(dir: tempfile::TempDir, api_server: &[&str], controllers: &[&str]) -> Result<Self> {
        let ca = Authority::new(dir.path().join("pki"), "test-ca")?;
        ca.server("server", "DNS:localhost,IP:127.0.0.1")?;
        ca.client("admin", "/O=system:masters/CN=admin")?;
        openssl(
            &dir.path().join("pki"),
            &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "sa.key"],
        )?;
        let mut plane = Self { processes: Vec::new(), dir, ca, port: free_port()? };
        plane.kubeconfig("admin", &plane.pair("admin"))?;
        plane.start_api_server(api_server)?;
        if !controllers.is_empty() {
            plane.start_controllers(controllers)?;
        }
        Ok(plane)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub fn pair(&self, name: &str) -> Pair {
        Pair {
            certificate: self.path(&format!("pki/{name}.pem")),
            key: self.path(&format!("pki/{name}.key")),
        }
    }

    fn start_api_server(&mut self, more: &[&str]) -> Result<()> {
        let path = |file: &str| self.path(file).display().to_string();
        let port = self.port.to_string();
        let mut command = Command::new(binary());
        command.args(["kube-apiserver", "--bind-address=127.0.0.1", "--advertise-address=192.0.2.1"]);
        command.args(["--allow-privileged=true", "--secure-port", &port, "--data-dir", &path("db")]);
        if !more.iter().any(|m| m.starts_with("--authorization-")) {
            command.arg("--authorization-mode=Node,RBAC");
        }
        if !more.iter().any(|m| m.contains("admission")) {
            command.arg("--enable-admission-plugins=NodeRestriction");
        }
        command.args(["--tls-cert-file", &path("pki/server.pem")]);
        command.args(["--tls-private-key-file", &path("pki/server.key")]);
        command.args(["--client-ca-file", &path("pki/ca.pem")]);
        command.args(["--service-account-signing-key-file", &path("pki/sa.key")]);
        command.args(["--service-account-key-file", &path("pki/sa.key")]);
        command.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
        command.args(more);
        let log = self.path("apiserver.log");
        let mut process = Process::start(command, &log)?;
        let ready = || {
            if let Some(how) = process.ended() {
                return Ok(Some(how));
            }
            let (code, text) = self.curl(&self.pair("admin"), "/readyz")?;
            ensure!(code == 200, "{code} {text}");
            Ok(None)
        };
        let ready = eventually("the API server is ready", Duration::from_secs(60), ready);
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        match ready {
            Ok(None) => {}
            Ok(Some(how)) => bail!("the API server ended: {how}\n{}", said()),
            Err(e) => bail!("{e:#}\n{}", said()),
        }
        self.processes.push(process);
        Ok(())
    }

    fn start_controllers(&mut self, more: &[&str]) -> Result<()> {
        let path = |file: &str| self.path(file).display().to_string();
        let mut command = Command::new(binary());
        command.args(["kube-controller-manager", "--leader-elect=false"]);
        command.args(["--kubeconfig", &path("admin.kubeconfig"), "--root-ca-file", &path("pki/ca.pem")]);
        command.args(["--cluster-signing-cert-file", &path("pki/ca.pem")]);
        command.args(["--cluster-signing-key-file", &path("pki/ca.key")]);
        command.args(["--service-account-private-key-file", &path("pki/sa.key")]);
        command.args(more);
        let log = self.path("controllers.log");
        self.processes.push(Process::start(command, &log)?);
        Ok(())
    }

    /// What the parts have logged.
    pub fn log(&self) -> String {
        let read = |file: &str| std::fs::read_to_string(self.path(file)).unwrap_or_default();
        format!("--- API server\n{}--- controllers\n{}", read("apiserver.log"), read("controllers.log"))
    }

    /// Writes `NAME.kubeconfig` for a client certificate.
    pub fn kubeconfig(&self, name: &str, pair: &Pair) -> Result<Kubectl> {
        let user = format!("client-certificate: {}\n    client-key: {}", pair.certificate(), pair.key());
        self.kubeconfig_of(name, &user)
    }

    /// Writes `NAME.kubeconfig` for a token.
    pub fn kubeconfig_with_token(&self, name: &str, token: &str) -> Result<Kubectl> {
        self.kubeconfig_of(name, &format!("token: {}", token.trim()))
    }

    fn kubeconfig_of(&self, name: &str, user: &str) -> Result<Kubectl> {
        let path = self.path(&format!("{name}.kubeconfig"));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: k\n  cluster:\n    server: \
             https://127.0.0.1:{}\n    certificate-authority: {}\nusers:\n- name: u\n  user:\n    {user}\ncontexts:\n- name: \
             c\n  context: {{cluster: k, user: u}}\n",
            self.port,
            self.ca.certificate().display()
        );
        std::fs::write(&path, text)?;
        Ok(Kubectl::new(&path))
    }

    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.path("admin.kubeconfig"))
    }

    /// A request with a client certificate.
    pub fn curl(&self, pair: &Pair, target: &str) -> Result<Answer> {
        self.curl_with(&["--cert", pair.certificate(), "--key", pair.key()], target)
    }

    /// A request with these arguments of `curl`.
    pub fn curl_with(&self, arguments: &[&str], target: &str) -> Result<Answer> {
        let ca = self.ca.certificate();
        let mut command = Command::new("curl");
        command.args(["-sS", "--path-as-is", "-m", "30", "-w", "\n%{http_code}", "--cacert"]).arg(ca);
        command.args(arguments).arg(format!("https://127.0.0.1:{}{target}", self.port));
        let answer = run(command, None, Duration::from_secs(40))?;
        ensure!(answer.code == Some(0), "curl {target}: {}", answer.err);
        let (body, code) = answer.out.rsplit_once('\n').context("curl printed no code")?;
        Ok((code.parse()?, body.to_owned()))
    }
}

/// Who a SelfSubjectReview says one is: name and groups.
pub const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

impl ControlPlane {
    /// The code, and the name where one is somebody.
    pub fn who(&self, arguments: &[&str]) -> Result<(u16, String)> {
        let mut all = arguments.to_vec();
        let body = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;
        all.extend(["-H", "Content-Type: application/json", "-d", body]);
        let (code, text) = self.curl_with(&all, WHO)?;
        let name = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|v| v["status"]["userInfo"]["username"].as_str().map(str::to_owned));
        Ok((code, name.unwrap_or_default()))
    }
}
