//! Certificates as people make them: with `openssl`.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::run;

/// Runs `openssl`; anything but success is an error.
pub fn openssl(directory: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("openssl");
    command.args(arguments).current_dir(directory);
    let answer = run(command, None, Duration::from_secs(60))?;
    ensure!(answer.code == Some(0), "openssl {}\n{}{}", arguments.join(" "), answer.out, answer.err);
    Ok(answer.out)
}

/// A CA in a directory of its own.
pub struct Authority {
    directory: PathBuf,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    pub fn certificate(&self) -> &str {
        self.certificate.to_str().unwrap_or_default()
    }

    pub fn key(&self) -> &str {
        self.key.to_str().unwrap_or_default()
    }
}

const CONFIG: &str = "[ca]\ndefault_ca = d\n[d]\ndatabase = index.txt\nserial = serial\nnew_certs_dir = .\n\
    certificate = ca.pem\nprivate_key = ca.key\ndefault_md = sha256\ndefault_days = 30\npolicy = any\n\
    unique_subject = no\npreserve = yes\ncopy_extensions = copy\n[any]\ncommonName = optional\n\
    organizationName = optional\n[client]\nextendedKeyUsage = clientAuth\n[server]\nextendedKeyUsage = serverAuth\n\
    [req]\ndistinguished_name = dn\nstring_mask = utf8only\n[dn]\n";

impl Authority {
    pub fn new(directory: PathBuf, name: &str) -> Result<Self> {
        std::fs::create_dir_all(&directory)?;
        for (file, content) in [("ca.cnf", CONFIG), ("index.txt", ""), ("serial", "1000\n")] {
            std::fs::write(directory.join(file), content)?;
        }
        let line = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 365 -subj";
        let mut arguments: Vec<&str> = line.split(' ').collect();
        let subject = format!("/CN={name}");
        arguments.extend([subject.as_str(), "-addext", "keyUsage=critical,keyCertSign,digitalSignature"]);
        openssl(&directory, &arguments)?;
        Ok(Self { directory })
    }

    pub fn certificate(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// A certificate for a client, good from now.
    pub fn client(&self, file: &str, subject: &str) -> Result<Pair> {
        self.issue(file, subject, "client", None, "")
    }

    /// A certificate for a server with these names.
    pub fn server(&self, file: &str, names: &str) -> Result<Pair> {
        self.issue(file, "/CN=server", "server", None, names)
    }

    /// A certificate; `dates` are its start and end as `YYYYMMDDHHMMSSZ`.
    pub fn issue(
        &self,
        file: &str,
        subject: &str,
        extensions: &str,
        dates: Option<(&str, &str)>,
        names: &str,
    ) -> Result<Pair> {
        let (key, request, certificate) =
            (format!("{file}.key"), format!("{file}.csr"), format!("{file}.pem"));
        let line = "req -new -utf8 -config ca.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout";
        let mut arguments: Vec<&str> = line.split(' ').collect();
        arguments.extend([key.as_str(), "-out", &request, "-subj", subject]);
        let extension = format!("subjectAltName={names}");
        if !names.is_empty() {
            arguments.extend(["-addext", extension.as_str()]);
        }
        openssl(&self.directory, &arguments)?;
        let line = "ca -batch -notext -config ca.cnf -preserveDN -utf8 -extensions";
        let mut arguments: Vec<&str> = line.split(' ').collect();
        arguments.extend([extensions, "-in", &request, "-out", &certificate]);
        if let Some((start, end)) = dates {
            arguments.extend(["-startdate", start, "-enddate", end]);
        }
        openssl(&self.directory, &arguments)?;
        Ok(Pair { certificate: self.directory.join(certificate), key: self.directory.join(key) })
    }
}
