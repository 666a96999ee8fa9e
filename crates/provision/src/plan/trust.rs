//! The keys and certificates of a cluster in memory, and the directory that they are kept in.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use pki::{
    CertificateFacts, CertificatePaths, ClusterPki, Credentials, EnsureError, FileError, Kubeconfig,
    NodeIdentity, PkiSpec, Report, write_private,
};
use rand::TryRngCore as _;

use super::{Content, JoinSecrets, Secret};
use crate::spec::{Cipher, ClusterSpec, Host, LoadBalancer, Role};

/// The file of the key that stored secrets are sealed with, beside the certificates.
const ENCRYPTION: &str = "encryption-config.yaml";

/// Why the trust of a cluster is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// Certificates and keys.
    #[error(transparent)]
    Pki(#[from] EnsureError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A name that cannot stand in a certificate.
    #[error(transparent)]
    Name(#[from] pki::Error),
    /// A file that should be there is not.
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    /// The key of what is stored is gone.
    #[error(
        "{} is gone, and the secrets of this cluster may be sealed with its key: put it back from a copy, or remove \
         the whole directory {} to begin anew",
        file.display(), directory.display()
    )]
    EncryptionLost {
        /// The file.
        file: PathBuf,
        /// Where it should be.
        directory: PathBuf,
    },
    /// There are no random bytes.
    #[error("the kernel gives no random bytes")]
    Random,
}

/// What the certificates of a cluster are made for.
pub fn pki_spec(spec: &ClusterSpec) -> PkiSpec {
    let identity = |host: &Host| NodeIdentity { name: host.name.clone(), addresses: vec![host.address] };
    let control_planes: Vec<&Host> = spec.hosts_with(Role::ControlPlane).collect();
    let mut names: Vec<String> = Vec::new();
    let mut addresses: Vec<IpAddr> = Vec::new();
    let balancers = spec.hosts_with(Role::LoadBalancer);
    for host in control_planes.iter().copied().chain(balancers) {
        names.push(host.name.clone());
        addresses.push(host.address);
    }
    let endpoint = spec.api_server.endpoint.iter().map(|e| &e.host);
    for name in endpoint.chain(&spec.api_server.extra_names) {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => names.push(name.clone()),
        }
    }
    PkiSpec {
        api_server_names: names,
        api_server_addresses: addresses,
        service_cidrs: vec![spec.network.service_cidr.into()],
        cluster_domain: spec.network.domain.clone(),
        nodes: spec.hosts_with(Role::Worker).map(identity).collect(),
        api_servers: control_planes.iter().map(|h| h.name.clone()).collect(),
        etcd_members: spec.etcd_hosts().into_iter().map(identity).collect(),
        dns: true,
        ..PkiSpec::default()
    }
}

/// Everything that proves who is who in a cluster. Its keys are wiped when it goes.
#[derive(Clone, Debug)]
pub struct Trust {
    pki: ClusterPki,
    cluster: String,
    files: BTreeMap<PathBuf, Content>,
    encryption: Secret,
    joining: Option<JoinSecrets>,
}

impl Trust {
    /// Makes what is missing in a directory, issues again what would not do any more, keeps the rest; then reads it.
    pub fn ensure(
        directory: &Path,
        spec: &ClusterSpec,
        now: Timestamp,
    ) -> Result<(Self, Report), TrustError> {
        let pki = ClusterPki::at(directory);
        // An authority alone may come from elsewhere; who has an administrator has been in use.
        let existed = pki.admin().key.exists();
        let wanted = pki_spec(spec);
        let mut report = pki.ensure(&wanted, now)?;
        let path = directory.join(ENCRYPTION);
        if pki::read(&path)?.is_none() {
            if existed {
                return Err(TrustError::EncryptionLost { file: path, directory: directory.to_owned() });
            }
            let text = encryption_config(spec)?;
            write_private(&path, text.expose().as_bytes())?;
            report.items.push(pki::ReportItem { path, action: pki::Action::Created });
        } else {
            report.items.push(pki::ReportItem { path, action: pki::Action::Kept });
        }
        let trust = Self::read(directory, spec)?;
        if !sealed_as(trust.encryption.expose(), spec) {
            report.warnings.push(format!(
                "{} seals otherwise than cluster.yaml says, and is kept: put the new key first in it, then run \
                 `cox secrets rewrite`",
                directory.join(ENCRYPTION).display()
            ));
        }
        Ok((trust, report))
    }

    /// Reads what is there, all of it; writes nothing.
    pub fn read(directory: &Path, spec: &ClusterSpec) -> Result<Self, TrustError> {
        let pki = ClusterPki::at(directory);
        let mut files = BTreeMap::new();
        let must = |path: &Path| pki::read(path)?.ok_or_else(|| TrustError::Missing(path.to_owned()));
        for path in pki.files(&pki_spec(spec))? {
            let text = must(&path)?;
            let is_key = path.extension().is_some_and(|e| e == "key");
            let content = if is_key { Content::Secret(Secret::new(text)) } else { Content::Text(text) };
            files.insert(path, content);
        }
        let encryption = Secret::new(must(&directory.join(ENCRYPTION))?);
        Ok(Self { pki, cluster: spec.name.clone(), files, encryption, joining: None })
    }

    /// What a host has that joins by itself: it knows whom to trust, and has tokens in place of certificates.
    pub fn of_joining(cluster: &str, authority_pem: &str, secrets: JoinSecrets) -> Self {
        let pki = ClusterPki::at("");
        let files = BTreeMap::from([(pki.authority().certificate, Content::Text(authority_pem.to_owned()))]);
        let encryption = Secret::new("");
        Self { pki, cluster: cluster.to_owned(), files, encryption, joining: Some(secrets) }
    }

    /// Whether this is what a joining host has.
    pub(super) fn is_joining(&self) -> bool {
        self.joining.is_some()
    }

    /// The kubeconfig that a joining kubelet asks for its certificate with.
    pub(super) fn bootstrap_kubeconfig(&self, server: &str) -> Result<Secret, TrustError> {
        let secrets = self.joining.as_ref().ok_or_else(|| TrustError::Missing("bootstrap token".into()))?;
        self.token_kubeconfig("tls-bootstrap-token-user", &secrets.bootstrap, server)
    }

    /// The kubeconfig of a part that every node has: `kube-proxy`, `coredns`.
    pub(super) fn node_kubeconfig(&self, part: &str, server: &str) -> Result<Secret, TrustError> {
        let Some(secrets) = &self.joining else { return self.kubeconfig(&self.pki.part(part), server) };
        let token = secrets.accounts.get(part).ok_or_else(|| TrustError::Missing(part.into()))?;
        self.token_kubeconfig(part, token, server)
    }

    fn token_kubeconfig(&self, user: &str, token: &Secret, server: &str) -> Result<Secret, TrustError> {
        let file = Kubeconfig {
            cluster: self.cluster.clone(),
            server: server.to_owned(),
            authority_pem: self.authority_pem()?.to_owned(),
            user: user.to_owned(),
            credentials: Credentials::Token(token.expose().to_owned()),
            namespace: None,
        };
        Ok(Secret::new(file.to_yaml()))
    }

    /// Where the files are.
    pub fn pki(&self) -> &ClusterPki {
        &self.pki
    }

    /// What a file holds.
    pub(super) fn content(&self, path: &Path) -> Result<Content, TrustError> {
        self.files.get(path).cloned().ok_or_else(|| TrustError::Missing(path.to_owned()))
    }

    /// How the store is sealed.
    pub(super) fn encryption(&self) -> Content {
        Content::Secret(self.encryption.clone())
    }

    fn text(&self, path: &Path) -> Result<&str, TrustError> {
        match self.files.get(path) {
            Some(Content::Text(text)) => Ok(text),
            Some(Content::Secret(secret)) => Ok(secret.expose()),
            None => Err(TrustError::Missing(path.to_owned())),
        }
    }

    /// The certificate of the cluster's authority, PEM.
    pub fn authority_pem(&self) -> Result<&str, TrustError> {
        self.text(&self.pki.authority().certificate)
    }

    /// Tells the key that signs tokens of service accounts from another one. It says nothing about the key.
    pub(super) fn token_signer(&self) -> Result<String, TrustError> {
        let key = pki::PrivateKey::from_pem(self.text(&self.pki.service_account_key())?)?;
        Ok(crate::apply::sha256(key.public_der())[..16].to_owned())
    }

    /// A kubeconfig with the certificate of a part, for a server.
    pub fn kubeconfig(&self, of: &CertificatePaths, server: &str) -> Result<Secret, TrustError> {
        let certificate_pem = self.text(&of.certificate)?.to_owned();
        let user = CertificateFacts::from_pem(&certificate_pem)?.subject.common_name;
        let key_pem = self.text(&of.key)?.to_owned();
        let file = Kubeconfig {
            cluster: self.cluster.clone(),
            server: server.to_owned(),
            authority_pem: self.authority_pem()?.to_owned(),
            user,
            credentials: Credentials::ClientCertificate { certificate_pem, key_pem },
            namespace: None,
        };
        Ok(Secret::new(file.to_yaml()))
    }

    /// The kubeconfig of who rules the cluster, for those outside of it.
    pub fn admin_kubeconfig(&self, spec: &ClusterSpec) -> Result<Secret, TrustError> {
        self.kubeconfig(&self.pki.admin(), &format!("https://{}", spec.endpoint()))
    }
}

/// Where the parts of a node reach the API: the balancer beside them, or what is in front of the servers.
pub(super) fn node_server(spec: &ClusterSpec) -> String {
    match spec.api_server.load_balancer {
        LoadBalancer::Ours => format!("https://127.0.0.1:{}", spec.api_server.balancer_port),
        _ => format!("https://{}", spec.endpoint()),
    }
}

/// An `EncryptionConfiguration` with a new key.
fn encryption_config(spec: &ClusterSpec) -> Result<Secret, TrustError> {
    let mut text = String::from(
        "# How secrets are sealed in the store. Keep a copy apart from it: without this file they are lost.\n\
         # The first key seals, all of them open. To replace a key: put a new one first, run `cox secrets rewrite`,\n\
         # then remove the old one. The servers follow changes of this file.\n\
         apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n  - resources:\n",
    );
    for resource in &spec.encryption.resources {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "      - '{resource}'");
    }
    text.push_str("    providers:\n");
    let cipher = cipher(spec);
    if spec.encryption.provider != Cipher::Identity {
        let mut key = zeroize::Zeroizing::new([0_u8; 32]);
        rand::rngs::OsRng.try_fill_bytes(&mut *key).map_err(|_| TrustError::Random)?;
        let encoded = zeroize::Zeroizing::new(STANDARD.encode(*key));
        let _ = writeln!(
            text,
            "      - {cipher}:\n          keys:\n            - name: key1\n              secret: {}",
            *encoded
        );
    }
    text.push_str("      - identity: {}\n");
    Ok(Secret::new(text))
}

fn cipher(spec: &ClusterSpec) -> &'static str {
    Cipher::ALL.iter().find(|(_, c)| *c == spec.encryption.provider).map_or("identity", |(name, _)| name)
}

/// Whether a configuration seals what `cluster.yaml` names with the cipher it names.
fn sealed_as(config: &str, spec: &ClusterSpec) -> bool {
    let Ok(config) = serde_saphyr::from_str::<serde_json::Value>(config) else { return false };
    let first = &config["resources"][0];
    let provider = first["providers"][0].as_object().and_then(|p| p.keys().next());
    let resources: Vec<&str> =
        first["resources"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str).collect();
    provider.is_some_and(|p| p == cipher(spec)) && resources == spec.encryption.resources
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use pki::{Action, AlternativeName};

    use super::*;

    fn spec(more: &str) -> ClusterSpec {
        let text = format!(
            "name: c\nhosts:\n\
             - {{name: cp1, address: 192.0.2.1, roles: [control-plane, worker]}}\n\
             - {{name: cp2, address: 192.0.2.2, roles: [control-plane]}}\n{more}"
        );
        let reading = ClusterSpec::read(&text, &|_| Ok(()));
        reading.spec.unwrap_or_else(|| panic!("{:?}", reading.mistakes))
    }

    fn now() -> Timestamp {
        "2026-07-01T00:00:00Z".parse().expect("a time")
    }

    #[test]
    fn what_fits_is_kept_and_the_rest_is_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().join("pki");
        let (first, report) = Trust::ensure(&dir, &spec(""), now()).expect("made");
        assert!(report.items.iter().all(|i| i.action == Action::Created), "{report:?}");
        let (second, report) = Trust::ensure(&dir, &spec(""), now()).expect("kept");
        assert!(!report.changed(), "{report:?}");
        assert_eq!(first.files, second.files);
        assert_eq!(first.encryption, second.encryption);

        // One more host: its own, and the servers' certificates, which name it.
        let more = spec("- {name: cp3, address: 192.0.2.3, roles: [control-plane, worker]}\n");
        let (_, report) = Trust::ensure(&dir, &more, now()).expect("made");
        let mut changed: Vec<String> = report
            .items
            .iter()
            .filter(|i| i.action != Action::Kept)
            .map(|i| i.path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
            .collect();
        changed.sort();
        assert_eq!(
            changed,
            [
                "etcd-cp3",
                "etcd-cp3-peer",
                "kube-apiserver-cp1",
                "kube-apiserver-cp2",
                "kube-apiserver-cp3",
                "kubelet-cp3",
                "kubelet-cp3-serving"
            ]
        );
        for entry in fs::read_dir(&dir).expect("there") {
            let entry = entry.expect("an entry");
            let secret =
                entry.path().extension().is_some_and(|e| e == "key") || entry.file_name() == ENCRYPTION;
            let mode = entry.metadata().expect("there").permissions().mode() & 0o777;
            assert_eq!(mode, if secret { 0o600 } else { 0o644 }, "{:?}", entry.path());
        }
    }

    #[test]
    fn an_authority_from_elsewhere_is_used() {
        let dir = tempfile::tempdir().expect("a directory");
        let subject = pki::Subject::new("our-own-ca").in_group("example");
        let key = pki::PrivateKey::generate(pki::KeyAlgorithm::Rsa2048).expect("a key");
        let year = std::time::Duration::from_secs(365 * 24 * 3600);
        let authority = pki::Authority::create_with_key(&subject, key, 5 * year, now()).expect("made");
        fs::write(dir.path().join("ca.crt"), authority.certificate_pem()).expect("written");
        fs::write(dir.path().join("ca.key"), authority.key().to_pem().as_bytes()).expect("written");
        let (trust, _) = Trust::ensure(dir.path(), &spec(""), now()).expect("made");
        let pem = trust.text(&trust.pki.admin().certificate).expect("there");
        let facts = CertificateFacts::from_pem(pem).expect("read");
        assert!(facts.issuer.contains("our-own-ca"), "{}", facts.issuer);
        assert_eq!(trust.authority_pem().expect("there"), authority.certificate_pem());
    }

    #[test]
    fn servers_are_known_by_every_name() {
        let more =
            "apiServer: {endpoint: 'k8s.example.org:443', extraNames: [203.0.113.9, api.example.org]}\n";
        let dir = tempfile::tempdir().expect("a directory");
        let (trust, _) = Trust::ensure(dir.path(), &spec(more), now()).expect("made");
        let pem = trust.text(&trust.pki.api_server_of("cp2").certificate).expect("there");
        let names: Vec<String> = CertificateFacts::from_pem(pem)
            .expect("read")
            .names
            .iter()
            .map(AlternativeName::to_string)
            .collect();
        let want = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "cp1",
            "cp2",
            "k8s.example.org",
            "api.example.org",
            "127.0.0.1",
            "::1",
            "10.96.0.1",
            "192.0.2.1",
            "192.0.2.2",
            "203.0.113.9",
        ];
        assert_eq!(names, want);
    }

    #[test]
    fn the_key_of_what_is_stored_is_never_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let (trust, _) = Trust::ensure(dir.path(), &spec(""), now()).expect("made");
        let key = trust.encryption.expose().lines().find_map(|l| l.trim().strip_prefix("secret: "));
        assert_eq!(STANDARD.decode(key.expect("a key")).expect("base64").len(), 32);
        assert!(!format!("{trust:?}").contains(key.expect("a key")));

        let other = spec("encryption: {provider: aescbc, resources: [secrets, configmaps]}\n");
        let (kept, report) = Trust::ensure(dir.path(), &other, now()).expect("kept");
        assert_eq!(kept.encryption, trust.encryption);
        assert_eq!(report.warnings.len(), 1, "{report:?}");

        fs::remove_file(dir.path().join(ENCRYPTION)).expect("removed");
        let error = Trust::ensure(dir.path(), &spec(""), now()).expect_err("refused");
        assert!(error.to_string().contains("put it back from a copy"), "{error}");

        let fresh = tempfile::tempdir().expect("a directory");
        let (trust, report) = Trust::ensure(fresh.path(), &other, now()).expect("made");
        assert_eq!(report.warnings, [""; 0]);
        assert!(trust.encryption.expose().contains("- aescbc:"));
    }
}
