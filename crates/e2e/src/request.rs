//! One request by `curl`, for what `kubectl` would not send.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::kubectl::run;

/// Who asks.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// Nobody.
    Anonymous,
    /// The holder of a client certificate and its key.
    Certificate(PathBuf, PathBuf),
    /// The bearer of a token.
    Token(String),
}

impl Credentials {
    /// From the files of a client certificate and its key.
    pub fn certificate(certificate: &Path, key: &Path) -> Self {
        Self::Certificate(certificate.to_owned(), key.to_owned())
    }
}

/// A request to an API server on this machine.
#[derive(Debug)]
pub struct Request {
    authority: PathBuf,
    url: String,
    method: String,
    body: Option<(String, Vec<u8>)>,
    http1: bool,
}

impl Request {
    /// A GET of a path from the server on this port, whose certificate this authority has signed.
    pub fn new(authority: &Path, port: &str, path: &str) -> Self {
        let url = format!("https://127.0.0.1:{port}{path}");
        Self { authority: authority.to_owned(), url, method: "GET".into(), body: None, http1: false }
    }

    /// With another method.
    #[must_use]
    pub fn method(self, method: &str) -> Self {
        Self { method: method.into(), ..self }
    }

    /// With a body of some content type.
    #[must_use]
    pub fn body(self, kind: &str, body: &[u8]) -> Self {
        Self { body: Some((kind.into(), body.to_vec())), ..self }
    }

    /// Over HTTP/1.1: this curl takes an answer that comes before it has sent its body for an error of HTTP/2.
    #[must_use]
    pub fn http1(self) -> Self {
        Self { http1: true, ..self }
    }

    /// Sends it; gives status and body.
    pub fn send(&self, credentials: &Credentials) -> Result<(String, String)> {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "20", "-o", "-", "-w", "\n%{http_code}", "-X", &self.method]);
        if self.http1 {
            command.arg("--http1.1");
        }
        command.arg("--cacert").arg(&self.authority);
        match credentials {
            Credentials::Anonymous => {}
            Credentials::Certificate(certificate, key) => {
                command.arg("--cert").arg(certificate).arg("--key").arg(key);
            }
            Credentials::Token(token) => {
                command.args(["-H", &format!("Authorization: Bearer {token}")]);
            }
        }
        // Removed when this returns.
        let file = tempfile::NamedTempFile::new()?;
        if let Some((kind, body)) = &self.body {
            std::fs::write(file.path(), body)?;
            command.args(["-H", &format!("Content-Type: {kind}"), "-H", "Expect:"]);
            command.arg("--data-binary").arg(format!("@{}", file.path().display()));
        }
        command.arg(&self.url);
        let answer = run(command, None, Duration::from_secs(30))?;
        let (body, code) = answer.out.rsplit_once('\n').unwrap_or((&answer.out, ""));
        ensure!(code != "000", "no answer from {}: {}", self.url, answer.err);
        Ok((code.to_owned(), body.to_owned()))
    }
}
