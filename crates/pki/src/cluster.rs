//! The trust of one cluster on disk: made, repaired, found again.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    thread,
};

use jiff::Timestamp;

use crate::{
    Action, Authority, CertificateFacts, Credentials, Error, Expiry, FileError, KeyAlgorithm, Kubeconfig,
    PkiSpec, PrivateKey, Report, ReportItem, files,
    plan::{self, Found, Reason, Signer, Wanted},
    rotation::Vouched,
};

/// Why a cluster's trust could not be made complete. The message says which file and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnsureError {
    /// The disk refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that is there cannot be used.
    #[error("cannot use {}; {remedy}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
        /// What is wrong with it.
        #[source]
        source: Error,
    },
    /// One half of a pair is gone and cannot be made again.
    #[error("{} is there but {} is missing; {remedy}", present.display(), missing.display())]
    HalfGone {
        /// The half that is there.
        present: PathBuf,
        /// The half that is not.
        missing: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// Something could not be made.
    #[error("cannot make {what}")]
    Make {
        /// The file's stem.
        what: String,
        /// Why.
        #[source]
        source: Error,
    },
}

pub(crate) const REMEDY_AUTHORITY: &str = "put the right pair of files back from a backup, or remove both to make a new \
     authority (every certificate and kubeconfig is then issued again)";
const REMEDY_EXPIRED: &str =
    "run `cox certs rotate-ca`, which makes a new one and issues every certificate again";
const REMEDY_LEAF: &str = "remove it to have it issued again, or put a good one in its place";
pub(crate) const REMEDY_SERVICE_ACCOUNT: &str = "put the right pair of files back from a backup, or remove both to make a new \
     pair (tokens of service accounts are then worthless and issued again)";

/// Where a certificate and its key lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificatePaths {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// The key, PEM, mode 0600.
    pub key: PathBuf,
}

/// A certificate file and what it says, or why it says nothing.
pub type Inspected = (PathBuf, Result<CertificateFacts, Error>);

/// The trust of one cluster: a directory of mode 0700 with `ca.crt`, `ca.key`, a pair for each part, and
/// `service-account.key` with its `.pub`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPki {
    dir: PathBuf,
}

impl ClusterPki {
    /// Names the directory; touches nothing.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Makes everything of `spec` that is missing, issues again what would not do, keeps the rest.
    ///
    /// Authorities and the service-account key are never replaced: if they are broken, that is an error, for only a
    /// person can know whether a backup exists.
    pub fn ensure(&self, spec: &PkiSpec, now: Timestamp) -> Result<Report, EnsureError> {
        self.ensure_and_renew(spec, &|_| false, now)
    }

    /// As [`Self::ensure`], and issues again the certificates whose file stem `renew` says yes to, however long they
    /// would last: with new keys, for whom and for the names that those before them were for.
    pub fn ensure_and_renew(
        &self,
        spec: &PkiSpec,
        renew: &(dyn Fn(&str) -> bool + Sync),
        now: Timestamp,
    ) -> Result<Report, EnsureError> {
        let wanted = plan::wanted(spec)
            .map_err(|source| EnsureError::Make { what: "the list of certificates".into(), source })?;
        files::private_directory(&self.dir)?;
        let mut report = Report::default();
        if let Some(rotation) = self.rotation()? {
            report.warnings.push(format!(
                "a rotation of {} is in phase {}; `cox certs rotate-ca` goes on with it",
                rotation.names(),
                rotation.phase.name()
            ));
        }
        let vouched = self.vouched()?;
        let mut authorities = BTreeMap::new();
        for signer in Signer::of(spec) {
            authorities.insert(*signer, self.ensure_authority(*signer, spec, now, &mut report)?);
        }
        // Side by side, because an RSA key takes a tenth of a second.
        let outcomes: Vec<Result<(ReportItem, bool), EnsureError>> = thread::scope(|scope| {
            let running: Vec<_> = wanted
                .iter()
                .map(|w| {
                    let authority = &authorities[&w.signer];
                    let vouched = vouched.as_ref().filter(|_| w.is_api_server());
                    let asked = renew(&w.file_stem);
                    let work = move || self.ensure_certificate(w, authority, vouched, spec, asked, now);
                    if spec.algorithm == KeyAlgorithm::Rsa2048 { Err(scope.spawn(work)) } else { Ok(work()) }
                })
                .collect();
            running
                .into_iter()
                .map(|r| {
                    r.unwrap_or_else(|thread| thread.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
                })
                .collect()
        });
        for outcome in outcomes {
            let (item, tightened) = outcome?;
            self.note_tightened(tightened, &item.path, &mut report);
            report.items.push(item);
        }
        self.ensure_service_account(spec, &mut report)?;
        if report.changed() {
            files::sync_directory(&self.dir)?;
        }
        Ok(report)
    }

    /// Whether [`Self::ensure`] would find nothing to do. Writes nothing; what is broken is not complete.
    pub fn is_complete(&self, spec: &PkiSpec, now: Timestamp) -> bool {
        let Ok(wanted) = plan::wanted(spec) else { return false };
        let mut authorities = BTreeMap::new();
        for signer in Signer::of(spec) {
            match self.load_authority(*signer) {
                Ok(Some(authority)) if authority.not_after() > now => authorities.insert(*signer, authority),
                _ => return false,
            };
        }
        let Ok(vouched) = self.vouched() else { return false };
        let private = |path: &Path| files::is_private(path).unwrap_or(false);
        let certificates = wanted.iter().all(|w| {
            let vouched = vouched.as_ref().filter(|_| w.is_api_server());
            matches!(self.judge(w, &authorities[&w.signer], vouched, spec, now), Ok(Action::Kept))
                && private(&self.pair(&w.file_stem).key)
        });
        let tokens = || {
            let key = PrivateKey::from_pem(&files::read(&self.service_account_key()).ok()??).ok()?;
            let public = files::read(&self.service_account_public_key()).ok()??;
            Some(contains_public_key(&public, &key) && private(&self.service_account_key()))
        };
        certificates
            && tokens() == Some(true)
            && Signer::of(spec).iter().all(|s| private(&self.pair(s.file_stem()).key))
    }

    /// Writes the kubeconfigs of admin, controller manager, scheduler, proxy and the nodes to `dir`.
    ///
    /// They are made from the certificates here, so one that differs is written again.
    pub fn ensure_kubeconfigs(
        &self,
        dir: &Path,
        cluster: &str,
        server: &str,
        spec: &PkiSpec,
    ) -> Result<Report, EnsureError> {
        files::private_directory(dir)?;
        let mut report = Report::default();
        for (path, text) in self.kubeconfig_texts(dir, cluster, server, spec)? {
            let action = match files::read(&path)? {
                Some(found) if found == text => {
                    let tightened = files::tighten(&path)?;
                    self.note_tightened(tightened, &path, &mut report);
                    Action::Kept
                }
                found => {
                    files::write_private(&path, text.as_bytes())?;
                    found.map_or(Action::Created, |_| Action::Renewed { because: Reason::Outdated })
                }
            };
            report.items.push(ReportItem { path, action });
        }
        if report.changed() {
            files::sync_directory(dir)?;
        }
        Ok(report)
    }

    /// Whether [`Self::ensure_kubeconfigs`] would find nothing to do. Writes nothing.
    pub fn kubeconfigs_are_complete(&self, dir: &Path, cluster: &str, server: &str, spec: &PkiSpec) -> bool {
        self.kubeconfig_texts(dir, cluster, server, spec).is_ok_and(|all| {
            all.iter().all(|(path, text)| {
                matches!(files::read(path), Ok(Some(found)) if found == *text)
                    && files::is_private(path).unwrap_or(false)
            })
        })
    }

    fn kubeconfig_texts(
        &self,
        dir: &Path,
        cluster: &str,
        server: &str,
        spec: &PkiSpec,
    ) -> Result<Vec<(PathBuf, String)>, EnsureError> {
        let authority_pem = self.read(&self.authority().certificate)?;
        let dns = spec.dns.then_some(plan::DNS);
        let parts =
            [plan::ADMIN, plan::CONTROLLER_MANAGER, plan::SCHEDULER, plan::PROXY].into_iter().chain(dns);
        let nodes = spec.nodes.iter().map(|n| plan::kubelet_client(&n.name));
        let mut all = Vec::new();
        for stem in parts.map(str::to_owned).chain(nodes) {
            let pair = self.pair(&stem);
            let certificate_pem = self.read(&pair.certificate)?;
            let facts = CertificateFacts::from_pem(&certificate_pem).map_err(|source| {
                EnsureError::Unusable { path: pair.certificate.clone(), remedy: REMEDY_LEAF, source }
            })?;
            let text = Kubeconfig {
                cluster: cluster.to_owned(),
                server: server.to_owned(),
                authority_pem: authority_pem.clone(),
                user: facts.subject.common_name,
                credentials: Credentials::ClientCertificate {
                    certificate_pem,
                    key_pem: self.read(&pair.key)?,
                },
                namespace: None,
            }
            .to_yaml();
            all.push((Self::kubeconfig(dir, &stem), text));
        }
        Ok(all)
    }

    /// The cluster's authority.
    pub fn authority(&self) -> CertificatePaths {
        self.pair(Signer::Cluster.file_stem())
    }

    /// The authority of the front proxy.
    pub fn front_proxy_authority(&self) -> CertificatePaths {
        self.pair(Signer::FrontProxy.file_stem())
    }

    /// What the API server proves itself with to an aggregated server.
    pub fn front_proxy_client(&self) -> CertificatePaths {
        self.pair(plan::FRONT_PROXY_CLIENT)
    }

    /// What the API server serves.
    pub fn api_server(&self) -> CertificatePaths {
        self.pair(plan::API_SERVER)
    }

    /// What the API server of a host serves, where each has a pair of its own.
    pub fn api_server_of(&self, host: &str) -> CertificatePaths {
        self.pair(&plan::api_server(host))
    }

    /// The authority of etcd.
    pub fn etcd_authority(&self) -> CertificatePaths {
        self.pair(Signer::Etcd.file_stem())
    }

    /// What API servers prove themselves with to etcd.
    pub fn etcd_client(&self) -> CertificatePaths {
        self.pair(plan::ETCD_CLIENT)
    }

    /// What an etcd member serves.
    pub fn etcd_member(&self, host: &str) -> CertificatePaths {
        self.pair(&plan::etcd_member(host))
    }

    /// What an etcd member shows to the others.
    pub fn etcd_peer(&self, host: &str) -> CertificatePaths {
        self.pair(&plan::etcd_peer(host))
    }

    /// What a part proves itself with to the API server: `kube-controller-manager`, `kube-scheduler`, `kube-proxy`,
    /// `coredns`.
    pub fn part(&self, name: &str) -> CertificatePaths {
        self.pair(name)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The names of the certificates that [`Self::ensure`] issues: their file stems, in a fixed order.
    pub fn names(&self, spec: &PkiSpec) -> Result<Vec<String>, Error> {
        Ok(plan::wanted(spec)?.into_iter().map(|w| w.file_stem).collect())
    }

    /// Every file that [`Self::ensure`] sees to.
    pub fn files(&self, spec: &PkiSpec) -> Result<Vec<PathBuf>, Error> {
        let signers = Signer::of(spec).iter().map(|s| self.pair(s.file_stem()));
        let certificates = plan::wanted(spec)?;
        let pairs = signers.chain(certificates.iter().map(|w| self.pair(&w.file_stem)));
        let mut files: Vec<PathBuf> = pairs.flat_map(|pair| [pair.certificate, pair.key]).collect();
        files.extend([self.service_account_key(), self.service_account_public_key()]);
        Ok(files)
    }

    /// What the API server proves itself with to kubelets.
    pub fn api_server_kubelet_client(&self) -> CertificatePaths {
        self.pair(plan::API_SERVER_KUBELET_CLIENT)
    }

    /// `kubernetes-admin` of `system:masters`.
    pub fn admin(&self) -> CertificatePaths {
        self.pair(plan::ADMIN)
    }

    /// What a node's kubelet proves itself with to the API server.
    pub fn kubelet_client(&self, node: &str) -> CertificatePaths {
        self.pair(&plan::kubelet_client(node))
    }

    /// What a node's kubelet serves.
    pub fn kubelet_serving(&self, node: &str) -> CertificatePaths {
        self.pair(&plan::kubelet_serving(node))
    }

    /// The key that signs service-account tokens.
    pub fn service_account_key(&self) -> PathBuf {
        self.dir.join("service-account.key")
    }

    /// The key that checks service-account tokens.
    pub fn service_account_public_key(&self) -> PathBuf {
        self.dir.join("service-account.pub")
    }

    /// Where [`Self::ensure_kubeconfigs`] puts the kubeconfig of `admin`, `kube-controller-manager`,
    /// `kube-scheduler`, `kube-proxy` or `kubelet-NODE`.
    pub fn kubeconfig(dir: &Path, part: &str) -> PathBuf {
        dir.join(format!("{part}.kubeconfig"))
    }

    /// Every certificate in the directory with what it says, for those who show expiry; sorted by path.
    pub fn inspect(&self) -> Result<Vec<Inspected>, FileError> {
        let failed = |source| FileError { step: "list", path: self.dir.clone(), source };
        let mut out = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|e| e == "crt")
                && let Some(text) = files::read(&path)?
            {
                out.push((path, CertificateFacts::from_pem(&text)));
            }
        }
        out.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(out)
    }

    pub(crate) fn pair(&self, stem: &str) -> CertificatePaths {
        CertificatePaths {
            certificate: self.dir.join(format!("{stem}.crt")),
            key: self.dir.join(format!("{stem}.key")),
        }
    }

    pub(crate) fn read(&self, path: &Path) -> Result<String, EnsureError> {
        files::read(path)?.ok_or_else(|| {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            FileError { step: "read", path: path.to_owned(), source }.into()
        })
    }

    fn note_tightened(&self, tightened: bool, path: &Path, report: &mut Report) {
        if tightened {
            report
                .warnings
                .push(format!("the key of {} could be read by others; its mode is now 0600", path.display()));
        }
    }

    fn ensure_authority(
        &self,
        signer: Signer,
        spec: &PkiSpec,
        now: Timestamp,
        report: &mut Report,
    ) -> Result<Authority, EnsureError> {
        let paths = self.pair(signer.file_stem());
        let unusable = |path| unusable(path, REMEDY_AUTHORITY);
        let make = |source| EnsureError::Make { what: signer.file_stem().to_owned(), source };
        let key = files::read(&paths.key)?
            .map(|text| PrivateKey::from_pem(&text))
            .transpose()
            .map_err(unusable(&paths.key))?;
        let (authority, action) = match (files::read(&paths.certificate)?, key) {
            (Some(certificate), Some(key)) => {
                let authority = Authority::load(&certificate, key).map_err(unusable(&paths.certificate))?;
                let tightened = files::tighten(&paths.key)?;
                self.note_tightened(tightened, &paths.certificate, report);
                (authority, Action::Kept)
            }
            (Some(_), None) => {
                return Err(EnsureError::HalfGone {
                    present: paths.certificate,
                    missing: paths.key,
                    remedy: REMEDY_AUTHORITY,
                });
            }
            (None, key) => {
                // The key is written first, so a key alone is what a crash in between leaves: go on with it.
                let key = match key {
                    Some(key) => key,
                    None => {
                        let key = PrivateKey::generate(spec.algorithm).map_err(make)?;
                        files::write_private(&paths.key, key.to_pem().as_bytes())?;
                        key
                    }
                };
                let authority =
                    Authority::create_with_key(&signer.subject(), key, spec.authority_validity, now)
                        .map_err(make)?;
                files::write_public(&paths.certificate, authority.certificate_pem().as_bytes())?;
                (authority, Action::Created)
            }
        };
        let facts =
            CertificateFacts::from_pem(authority.certificate_pem()).map_err(unusable(&paths.certificate))?;
        match facts.expiry(now, spec.renew_before) {
            Expiry::Expired => {
                let source = Error::AuthorityExpired { at: facts.not_after };
                return Err(EnsureError::Unusable { path: paths.certificate, remedy: REMEDY_EXPIRED, source });
            }
            Expiry::Soon => report.warnings.push(format!(
                "the authority {} expires at {}, and nothing it signed outlives it; `cox certs rotate-ca` replaces it",
                paths.certificate.display(),
                facts.not_after
            )),
            Expiry::Fine => {}
        }
        report.items.push(ReportItem { path: paths.certificate, action });
        Ok(authority)
    }

    /// The authority, if both its files are there and good.
    pub(crate) fn load_authority(&self, signer: Signer) -> Result<Option<Authority>, EnsureError> {
        let paths = self.pair(signer.file_stem());
        let (Some(certificate), Some(key)) = (files::read(&paths.certificate)?, files::read(&paths.key)?)
        else {
            return Ok(None);
        };
        let key = PrivateKey::from_pem(&key).map_err(unusable(&paths.key, REMEDY_AUTHORITY))?;
        Authority::load(&certificate, key).map(Some).map_err(unusable(&paths.certificate, REMEDY_AUTHORITY))
    }

    /// What has to be done about a certificate.
    fn judge(
        &self,
        wanted: &Wanted,
        authority: &Authority,
        vouched: Option<&Vouched>,
        spec: &PkiSpec,
        now: Timestamp,
    ) -> Result<Action, EnsureError> {
        let paths = self.pair(&wanted.file_stem);
        let unusable = |path| unusable(path, REMEDY_LEAF);
        let Some(text) = files::read(&paths.certificate)? else { return Ok(Action::Created) };
        let facts = CertificateFacts::from_pem(&text).map_err(unusable(&paths.certificate))?;
        let key = files::read(&paths.key)?
            .map(|text| PrivateKey::from_pem(&text))
            .transpose()
            .map_err(unusable(&paths.key))?;
        let complete = vouched.map_or(Ok(true), |v| v.fits(&text)).map_err(unusable(&paths.certificate))?;
        let found = Found {
            key_matches: key.map(|key| facts.matches(&key)),
            signed_by_authority: authority.signed(&text).map_err(unusable(&paths.certificate))?,
            facts,
        };
        let reason = plan::judge(&wanted.spec, &found, authority.not_after(), spec.renew_before, now);
        let reason = reason.or((!complete).then_some(Reason::Outdated));
        Ok(reason.map_or(Action::Kept, |because| Action::Renewed { because }))
    }

    fn ensure_certificate(
        &self,
        wanted: &Wanted,
        authority: &Authority,
        vouched: Option<&Vouched>,
        spec: &PkiSpec,
        asked: bool,
        now: Timestamp,
    ) -> Result<(ReportItem, bool), EnsureError> {
        let paths = self.pair(&wanted.file_stem);
        let mut action = self.judge(wanted, authority, vouched, spec, now)?;
        if asked && matches!(action, Action::Kept | Action::Renewed { because: Reason::Outdated }) {
            action = Action::Renewed { because: Reason::Asked };
        }
        let make = |source| EnsureError::Make { what: wanted.file_stem.clone(), source };
        let present = files::read(&paths.certificate)?;
        let text = match (&action, &present) {
            (Action::Kept, _) => {
                let tightened = files::tighten(&paths.key)?;
                return Ok((ReportItem { path: paths.certificate, action }, tightened));
            }
            (Action::Renewed { because: Reason::Outdated }, Some(present)) => present.clone(),
            _ => {
                let mut spec_of_it = wanted.spec.clone();
                // Names that somebody added stay.
                let former = present.as_deref().and_then(|text| CertificateFacts::from_pem(text).ok());
                let former = former.filter(|f| f.subject.common_name == spec_of_it.subject.common_name);
                for name in former.into_iter().flat_map(|f| f.names) {
                    if asked && !spec_of_it.names.contains(&name) {
                        spec_of_it.names.push(name);
                    }
                }
                let issued = authority.issue(&spec_of_it, spec.algorithm, now).map_err(make)?;
                files::write_private(&paths.key, issued.key.to_pem().as_bytes())?;
                issued.certificate_pem
            }
        };
        let text = vouched.map_or(Ok(text.clone()), |v| v.apply(&text)).map_err(make)?;
        files::write_public(&paths.certificate, text.as_bytes())?;
        Ok((ReportItem { path: paths.certificate, action }, false))
    }

    fn ensure_service_account(&self, spec: &PkiSpec, report: &mut Report) -> Result<(), EnsureError> {
        let (path, public_path) = (self.service_account_key(), self.service_account_public_key());
        let public = files::read(&public_path)?;
        let (key, made) = match (files::read(&path)?, &public) {
            (Some(text), _) => {
                let key = PrivateKey::from_pem(&text).map_err(|source| EnsureError::Unusable {
                    path: path.clone(),
                    remedy: REMEDY_SERVICE_ACCOUNT,
                    source,
                })?;
                let tightened = files::tighten(&path)?;
                self.note_tightened(tightened, &public_path, report);
                (key, false)
            }
            (None, Some(_)) => {
                return Err(EnsureError::HalfGone {
                    present: public_path,
                    missing: path,
                    remedy: REMEDY_SERVICE_ACCOUNT,
                });
            }
            (None, None) => {
                let key = PrivateKey::generate(spec.service_account_algorithm)
                    .map_err(|source| EnsureError::Make { what: "service-account.key".into(), source })?;
                files::write_private(&path, key.to_pem().as_bytes())?;
                (key, true)
            }
        };
        let text = key.public_pem();
        let action = match public {
            // Holds our key, maybe beside former ones that still check tokens.
            Some(found) if contains_public_key(&found, &key) => Action::Kept,
            Some(_) => {
                return Err(EnsureError::Unusable {
                    path: public_path,
                    remedy: REMEDY_SERVICE_ACCOUNT,
                    source: Error::KeyMismatch,
                });
            }
            None => {
                files::write_public(&public_path, text.as_bytes())?;
                if made { Action::Created } else { Action::Renewed { because: Reason::KeyMissing } }
            }
        };
        report.items.push(ReportItem { path: public_path, action });
        Ok(())
    }
}

pub(crate) fn unusable<'a>(
    path: &'a Path,
    remedy: &'static str,
) -> impl FnOnce(Error) -> EnsureError + use<'a> {
    move |source| EnsureError::Unusable { path: path.to_owned(), remedy, source }
}

fn contains_public_key(text: &str, key: &PrivateKey) -> bool {
    pem::parse_many(text).is_ok_and(|blocks| blocks.iter().any(|b| b.contents() == key.public_der()))
}
