//! Authorities and the key of service accounts replaced without a pause: both are trusted before anything is issued from
//! the new one, and the former is trusted until nothing of it is in use.
//!
//! What a phase means for the files is one pure table, [`Phase::holds`]; [`ClusterPki::enter`] makes the files so. It can
//! be interrupted at any place and done again: which phase it is, is in a file that is written before its work begins.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    Authority, CertificateFacts, CertificatePaths, ClusterPki, EnsureError, Error, FileError, PkiSpec,
    PrivateKey,
    cluster::{REMEDY_AUTHORITY, REMEDY_SERVICE_ACCOUNT, unusable},
    files,
    key::to_pem,
    plan::Signer,
};

/// Something that is replaced without a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rotated {
    /// The cluster's authority.
    Ca,
    /// The authority of the front proxy.
    FrontProxyCa,
    /// The authority of etcd.
    EtcdCa,
    /// The key that signs tokens of service accounts.
    ServiceAccountKey,
}

impl Rotated {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ca, Self::FrontProxyCa, Self::EtcdCa, Self::ServiceAccountKey];

    /// As people name it: an authority's is that of its file.
    pub fn name(self) -> &'static str {
        self.signer().map_or("service-account-key", Signer::file_stem)
    }

    fn signer(self) -> Option<Signer> {
        match self {
            Self::Ca => Some(Signer::Cluster),
            Self::FrontProxyCa => Some(Signer::FrontProxy),
            Self::EtcdCa => Some(Signer::Etcd),
            Self::ServiceAccountKey => None,
        }
    }
}

impl fmt::Display for Rotated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far a rotation is. Before the next phase begins, everything that runs has to know the files of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Both are trusted, the former signs.
    TrustBoth,
    /// Both are trusted, the new one signs.
    IssueNew,
    /// The new one alone is trusted.
    TrustNew,
}

/// What the files hold in a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holds {
    former: bool,
    next: bool,
    next_signs: bool,
    /// Servers show also that the former authority vouches for the new one: clients that know the former alone, from a
    /// kubeconfig that somebody copied, go on trusting them.
    vouched: bool,
}

impl Phase {
    /// First to last.
    pub const ALL: [Self; 3] = [Self::TrustBoth, Self::IssueNew, Self::TrustNew];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::TrustBoth => "trust-both",
            Self::IssueNew => "issue-new",
            Self::TrustNew => "trust-new",
        }
    }

    /// What it is for, for people.
    pub fn purpose(self) -> &'static str {
        match self {
            Self::TrustBoth => "the former and the new one are trusted everywhere",
            Self::IssueNew => "everything is issued from the new one",
            Self::TrustNew => "the former one is trusted no more",
        }
    }

    /// Its number, from 1.
    pub fn number(self) -> usize {
        self as usize + 1
    }

    /// What comes after it.
    pub fn next(self) -> Option<Self> {
        Self::ALL.get(self.number()).copied()
    }

    fn holds(self) -> Holds {
        let (former, next, next_signs, vouched) = match self {
            Self::TrustBoth => (true, true, false, false),
            Self::IssueNew => (true, true, true, true),
            Self::TrustNew => (false, true, true, false),
        };
        Holds { former, next, next_signs, vouched }
    }
}

/// A rotation that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// What is replaced.
    pub what: BTreeSet<Rotated>,
    /// How far it is.
    pub phase: Phase,
    /// When it began.
    pub begun: Timestamp,
}

impl Rotation {
    /// What is replaced, for people.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.what.iter().map(|w| w.name()).collect();
        names.join(", ")
    }
}

/// What servers show beside their own certificate while a rotation is under way.
#[derive(Debug)]
pub(crate) struct Vouched {
    /// The certificate of the new authority by the former.
    certificate: Vec<u8>,
    shown: bool,
}

impl Vouched {
    /// The text that a server's certificate file should have in place of this one.
    pub(crate) fn apply(&self, text: &str) -> Result<String, Error> {
        let mut all = crate::facts::certificates_der(text)?;
        all.retain(|der| *der != self.certificate);
        all.extend(self.shown.then(|| self.certificate.clone()));
        Ok(all.iter().map(|der| to_pem("CERTIFICATE", der)).collect())
    }

    /// Whether [`Self::apply`] would change nothing.
    pub(crate) fn fits(&self, text: &str) -> Result<bool, Error> {
        let all = crate::facts::certificates_der(text)?;
        Ok(all.contains(&self.certificate) == self.shown)
    }
}

fn write_if_changed(
    path: &Path,
    text: &str,
    write: fn(&Path, &[u8]) -> Result<(), FileError>,
) -> Result<(), FileError> {
    if files::read(path)?.as_deref() == Some(text) { Ok(()) } else { write(path, text.as_bytes()) }
}

impl ClusterPki {
    fn rotation_dir(&self) -> PathBuf {
        self.dir().join("rotation")
    }

    fn state_file(&self) -> PathBuf {
        self.rotation_dir().join("state.yaml")
    }

    fn next_pair(&self, stem: &str) -> CertificatePaths {
        let file = |ending: &str| self.rotation_dir().join(format!("next-{stem}.{ending}"));
        CertificatePaths { certificate: file("crt"), key: file("key") }
    }

    fn former(&self, stem: &str) -> PathBuf {
        self.rotation_dir().join(format!("former-{stem}.crt"))
    }

    fn vouched_file(&self) -> PathBuf {
        self.rotation_dir().join("next-ca-by-former.crt")
    }

    /// Where a new authority can be put before a rotation begins; else one is made.
    pub fn next_authority(&self, what: Rotated) -> Option<CertificatePaths> {
        Some(self.next_pair(what.signer()?.file_stem()))
    }

    /// The rotation that is under way.
    pub fn rotation(&self) -> Result<Option<Rotation>, EnsureError> {
        let path = self.state_file();
        let Some(text) = files::read(&path)? else { return Ok(None) };
        serde_saphyr::from_str(&text).map(Some).map_err(|_| EnsureError::Unusable {
            path,
            remedy: "put it back from a copy of this directory",
            source: Error::Unreadable { what: "state of the rotation" },
        })
    }

    /// Notes the phase that a rotation is in. What it means for the files is done by [`Self::enter`].
    pub fn note_rotation(&self, rotation: &Rotation) -> Result<(), EnsureError> {
        let text = serde_saphyr::to_string(rotation).expect("names and times always have a YAML form");
        write_if_changed(&self.state_file(), &text, files::write_private)?;
        Ok(files::sync_directory(&self.rotation_dir())?)
    }

    /// The authorities of a cluster that are over at `now`.
    pub fn expired_authorities(
        &self,
        spec: &PkiSpec,
        now: Timestamp,
    ) -> Result<BTreeSet<Rotated>, EnsureError> {
        let mut expired = BTreeSet::new();
        for what in Rotated::ALL {
            let Some(signer) = what.signer().filter(|s| Signer::of(spec).contains(s)) else { continue };
            if self.present(signer)?.not_after() <= now {
                expired.insert(what);
            }
        }
        Ok(expired)
    }

    fn present(&self, signer: Signer) -> Result<Authority, EnsureError> {
        let paths = self.pair(signer.file_stem());
        match self.load_authority(signer)? {
            Some(authority) => Ok(authority),
            None => Err(EnsureError::HalfGone {
                present: self.dir().to_owned(),
                missing: paths.key,
                remedy: REMEDY_AUTHORITY,
            }),
        }
    }

    /// Begins a rotation, or says which one is under way: makes what is to come, and changes nothing that is in use.
    /// Where an authority is over, nothing trusts it any more: the rotation is in its last phase from the beginning.
    pub fn begin_rotation(
        &self,
        what: &BTreeSet<Rotated>,
        spec: &PkiSpec,
        now: Timestamp,
    ) -> Result<Rotation, EnsureError> {
        if let Some(found) = self.rotation()? {
            return Ok(found);
        }
        let expired = self.expired_authorities(spec, now)?;
        let what: BTreeSet<Rotated> = what.union(&expired).copied().collect();
        let directory = self.rotation_dir();
        files::private_directory(&directory)?;
        for one in &what {
            match one.signer() {
                Some(signer) => self.prepare_authority(signer, spec, now)?,
                None => self.prepare_service_account(spec)?,
            }
        }
        let phase = if expired.is_empty() { Phase::TrustBoth } else { Phase::TrustNew };
        let rotation = Rotation { what, phase, begun: now };
        self.note_rotation(&rotation)?;
        Ok(rotation)
    }

    fn prepare_authority(&self, signer: Signer, spec: &PkiSpec, now: Timestamp) -> Result<(), EnsureError> {
        let stem = signer.file_stem();
        let make = |source| EnsureError::Make { what: format!("next-{stem}"), source };
        let former = self.present(signer)?;
        let text = self.read(&self.pair(stem).certificate)?;
        write_if_changed(&self.former(stem), &text, files::write_public)?;
        let paths = self.next_pair(stem);
        let key = match files::read(&paths.key)? {
            Some(text) => PrivateKey::from_pem(&text).map_err(unusable(&paths.key, REMEDY_AUTHORITY))?,
            None => {
                let key = PrivateKey::generate(spec.algorithm).map_err(make)?;
                files::write_private(&paths.key, key.to_pem().as_bytes())?;
                key
            }
        };
        let next = match files::read(&paths.certificate)? {
            Some(text) => {
                Authority::load(&text, key).map_err(unusable(&paths.certificate, REMEDY_AUTHORITY))?
            }
            None => {
                // Two of one name would be hard to tell apart, for people and for some programs.
                let mut subject = signer.subject();
                subject.common_name = format!("{}-{}", subject.common_name, now.strftime("%Y%m%d%H%M%S"));
                let next =
                    Authority::create_with_key(&subject, key, spec.authority_validity, now).map_err(make)?;
                files::write_public(&paths.certificate, next.certificate_pem().as_bytes())?;
                next
            }
        };
        if signer == Signer::Cluster && former.not_after() > now {
            let vouched = former.certify_authority(&next, now).map_err(make)?;
            files::write_public(&self.vouched_file(), vouched.as_bytes())?;
        }
        Ok(())
    }

    fn next_service_account(&self) -> (PathBuf, PathBuf) {
        let directory = self.rotation_dir();
        (directory.join("next-service-account.key"), directory.join("former-service-account.pub"))
    }

    fn prepare_service_account(&self, spec: &PkiSpec) -> Result<(), EnsureError> {
        let (next, former) = self.next_service_account();
        let text = self.read(&self.service_account_public_key())?;
        write_if_changed(&former, &text, files::write_public)?;
        if files::read(&next)?.is_none() {
            let key = PrivateKey::generate(spec.service_account_algorithm)
                .map_err(|source| EnsureError::Make { what: "next-service-account.key".into(), source })?;
            files::write_private(&next, key.to_pem().as_bytes())?;
        }
        Ok(())
    }

    /// Makes the files of the authorities and of the service accounts' key what the phase wants. What they signed is
    /// issued anew by [`Self::ensure`] after that.
    pub fn enter(&self, rotation: &Rotation) -> Result<(), EnsureError> {
        let holds = rotation.phase.holds();
        for what in &rotation.what {
            match what.signer() {
                Some(signer) => self.enter_authority(signer, holds)?,
                None => self.enter_service_account(holds)?,
            }
        }
        Ok(files::sync_directory(self.dir())?)
    }

    fn enter_authority(&self, signer: Signer, holds: Holds) -> Result<(), EnsureError> {
        let (paths, next) = (self.pair(signer.file_stem()), self.next_pair(signer.file_stem()));
        let former = self.read(&self.former(signer.file_stem()))?;
        let certificate = self.read(&next.certificate)?;
        let both = joined(&former, &certificate);
        // Whichever key is there at any moment, a certificate of it is there too.
        write_if_changed(&paths.certificate, &both, files::write_public)?;
        if holds.next_signs {
            write_if_changed(&paths.key, &self.read(&next.key)?, files::write_private)?;
        }
        let wanted = match (holds.former, holds.next) {
            (true, true) => both,
            (false, _) => certificate,
            (true, false) => former,
        };
        Ok(write_if_changed(&paths.certificate, &wanted, files::write_public)?)
    }

    fn enter_service_account(&self, holds: Holds) -> Result<(), EnsureError> {
        let (next, former) = self.next_service_account();
        let text = self.read(&next)?;
        let key = PrivateKey::from_pem(&text).map_err(unusable(&next, REMEDY_SERVICE_ACCOUNT))?;
        let public = self.service_account_public_key();
        let both = joined(&self.read(&former)?, &key.public_pem());
        write_if_changed(&public, &both, files::write_public)?;
        if holds.next_signs {
            write_if_changed(&self.service_account_key(), &text, files::write_private)?;
        }
        if !holds.former {
            write_if_changed(&public, &key.public_pem(), files::write_public)?;
        }
        Ok(())
    }

    /// Forgets a rotation whose last phase is known to everything that runs.
    pub fn finish_rotation(&self) -> Result<(), EnsureError> {
        let directory = self.rotation_dir();
        // The state goes first: what would be left over without it is made anew by the next one.
        for path in [self.state_file(), directory.clone()] {
            let removed = if path == directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(FileError { step: "remove", path, source }.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What servers show beside their certificates now.
    pub(crate) fn vouched(&self) -> Result<Option<Vouched>, EnsureError> {
        let Some(rotation) = self.rotation()? else { return Ok(None) };
        let path = self.vouched_file();
        let Some(text) = files::read(&path)? else { return Ok(None) };
        let certificate = crate::facts::certificate_der(&text).map_err(unusable(&path, REMEDY_AUTHORITY))?;
        let shown = rotation.what.contains(&Rotated::Ca) && rotation.phase.holds().vouched;
        Ok(Some(Vouched { certificate, shown }))
    }

    /// Which authority signed a certificate: the file's stem, with a word where it is not the one that signs now.
    /// Authorities that sign themselves have none.
    pub fn signer_of(&self, certificate_pem: &str) -> Option<String> {
        let facts = CertificateFacts::from_pem(certificate_pem).ok()?;
        if facts.is_authority {
            return None;
        }
        let all = [Signer::Cluster, Signer::FrontProxy, Signer::Etcd];
        let found = all.into_iter().find(|signer| {
            let authority = self.load_authority(*signer).ok().flatten();
            authority.is_some_and(|a| a.signed(certificate_pem).unwrap_or(false))
        });
        Some(match found {
            Some(signer) => signer.file_stem().to_owned(),
            None => format!("{} (former)", facts.issuer),
        })
    }
}

fn joined(first: &str, second: &str) -> String {
    format!("{}\n{second}", first.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_can_follow_the_one_before_it_host_by_host() {
        let phases = [None, Some(Phase::TrustBoth), Some(Phase::IssueNew), Some(Phase::TrustNew)];
        let now = Holds { former: true, next: false, next_signs: false, vouched: false };
        let all: Vec<Holds> = phases.map(|p| p.map_or(now, Phase::holds)).to_vec();
        for pair in all.windows(2) {
            // Some hosts are in one phase and some in the other: each trusts what the others show.
            for (one, other) in [(pair[0], pair[1]), (pair[1], pair[0])] {
                assert!(if other.next_signs { one.next } else { one.former }, "{one:?} and {other:?}");
            }
        }
        // Who knows the former alone is led to the new one as long as that makes sense.
        for (holds, phase) in all.iter().zip(phases).skip(1) {
            assert_eq!(holds.vouched, holds.former && holds.next_signs, "{phase:?}");
        }
        assert_eq!(Phase::TrustBoth.next(), Some(Phase::IssueNew));
        assert_eq!(Phase::TrustNew.next(), None);
        assert_eq!(Phase::ALL.map(Phase::number), [1, 2, 3]);
    }
}
