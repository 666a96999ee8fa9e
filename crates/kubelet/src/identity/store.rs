//! Certificates with their keys in a directory: one file for each, and a link to the current one.
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pki::{CertificateFacts, PrivateKey};

use super::Error;

/// A certificate and its key in one PEM file, `PAIR-TIME.pem`, which `PAIR-current.pem` leads to.
#[derive(Debug, Clone)]
pub struct CertificateStore {
    directory: PathBuf,
    pair: &'static str,
}

/// What a store holds.
#[derive(Debug)]
pub(super) struct Held {
    /// What the certificate says.
    pub facts: CertificateFacts,
    /// Certificate and key.
    pub pem: String,
}

impl CertificateStore {
    /// The store of client certificates in this directory.
    pub fn client(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), pair: "kubelet-client" }
    }

    /// The store of serving certificates in this directory.
    pub fn serving(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), pair: "kubelet-server" }
    }

    /// The link to the current file.
    pub fn current_path(&self) -> PathBuf {
        self.directory.join(format!("{}-current.pem", self.pair))
    }

    /// The current certificate with its key; `None` where there is none, or where certificate and key do not fit.
    pub(super) fn current(&self) -> Result<Option<Held>, Error> {
        let Some(pem) = pki::read(&self.current_path())? else { return Ok(None) };
        let read = || {
            let facts = CertificateFacts::from_pem(&pem).ok()?;
            let key = PrivateKey::from_pem(&pem).ok()?;
            facts.matches(&key).then_some(facts)
        };
        let Some(facts) = read() else {
            tracing::warn!(path = %self.current_path().display(), "certificate file cannot be used, asking for a new one");
            return Ok(None);
        };
        Ok(Some(Held { facts, pem }))
    }

    /// Adds a certificate and makes it the current one.
    pub(super) fn update(&self, certificate: &str, key: &PrivateKey, now: Timestamp) -> Result<Held, Error> {
        let facts = CertificateFacts::from_pem(certificate)?;
        if !facts.matches(key) {
            return Err(Error::NotOurs);
        }
        private_directory(&self.directory)?;
        let pem = format!("{}\n{}", certificate.trim_end(), key.to_pem());
        let time = now.strftime("%Y-%m-%d-%H-%M-%S");
        let file = self.directory.join(format!("{}-{time}.pem", self.pair));
        pki::write_private(&file, pem.as_bytes())?;
        self.link(&file)?;
        Ok(Held { facts, pem })
    }

    /// Lets the link lead to another file, in one step.
    fn link(&self, file: &Path) -> Result<(), Error> {
        let link = self.current_path();
        let temporary = self.directory.join(format!("{}-updated.pem", self.pair));
        let failed = |source| Error::Make { path: link.clone(), source };
        // Left by a process that was killed here.
        let _ = fs::remove_file(&temporary);
        symlink(file, &temporary).map_err(failed)?;
        fs::rename(&temporary, &link).map_err(failed)
    }
}

/// Makes a directory that only its owner can enter, if there is none.
pub(super) fn private_directory(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| Error::Make { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use pki::{Authority, KeyAlgorithm, Subject};

    use super::*;

    fn issue(key: &PrivateKey, now: Timestamp) -> String {
        let year = Duration::from_secs(365 * 86_400);
        let ca = Authority::create(&Subject::new("ca"), KeyAlgorithm::EcdsaP256, year, now).unwrap();
        let request = key.request(&super::super::subject("n"), &[]).unwrap();
        let request = pki::CertificateRequest::from_pem(&request).unwrap();
        ca.sign_request(&request, &["client auth"], year / 2, now).unwrap()
    }

    #[test]
    fn the_link_leads_to_the_newest_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = CertificateStore::client(dir.path().join("pki"));
        assert!(store.current().unwrap().is_none());
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        store.update(&issue(&key, now), &key, now).unwrap();
        let file = dir.path().join("pki/kubelet-client-2026-01-02-03-04-05.pem");
        assert_eq!(fs::read_link(store.current_path()).unwrap(), file);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(store.current().unwrap().unwrap().facts.subject.common_name, "system:node:n");

        let second = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let later: Timestamp = "2026-02-02T03:04:05Z".parse().unwrap();
        store.update(&issue(&second, later), &second, later).unwrap();
        assert!(store.current().unwrap().unwrap().facts.matches(&second));
        assert!(file.exists(), "the old one stays for who has it open");
        assert!(matches!(store.update(&issue(&key, later), &second, later), Err(Error::NotOurs)));

        // What the link leads to is read, never written: somebody else's file is safe.
        let foreign = dir.path().join("foreign");
        fs::write(&foreign, "mine").unwrap();
        fs::remove_file(store.current_path()).unwrap();
        symlink(&foreign, store.current_path()).unwrap();
        assert!(store.current().unwrap().is_none());
        store.update(&issue(&second, now), &second, now).unwrap();
        assert_eq!(fs::read_to_string(&foreign).unwrap(), "mine");
    }
}
