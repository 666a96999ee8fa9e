//! Authorities and keys replaced phase by phase, judged by real `openssl`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use jiff::Timestamp;
use pki::{
    Action, CertificateFacts, ClusterPki, EnsureError, NodeIdentity, Phase, PkiSpec, PrivateKey, Reason,
    Rotated, Rotation,
};

const DAY: Duration = Duration::from_secs(86_400);

struct Fixture {
    _dir: tempfile::TempDir,
    path: PathBuf,
    pki: ClusterPki,
    spec: PkiSpec,
    now: Timestamp,
}

impl Fixture {
    fn made() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("pki");
        let node = || NodeIdentity { name: "h1".into(), addresses: vec![[192, 0, 2, 1].into()] };
        let spec = PkiSpec {
            api_servers: vec!["h1".into()],
            etcd_members: vec![node()],
            nodes: vec![node()],
            ..PkiSpec::default()
        };
        let f = Self { pki: ClusterPki::at(&path), path, _dir: dir, spec, now: Timestamp::now() };
        f.ensure();
        f
    }

    fn ensure(&self) -> Vec<String> {
        let report = self.pki.ensure(&self.spec, self.now).expect("complete");
        assert!(self.pki.is_complete(&self.spec, self.now));
        let changed = report.items.iter().filter(|i| i.action != Action::Kept);
        changed.map(|i| i.path.file_stem().expect("a stem").to_string_lossy().into_owned()).collect()
    }

    fn begin(&self, what: &[Rotated]) -> Rotation {
        let what: BTreeSet<Rotated> = what.iter().copied().collect();
        self.pki.begin_rotation(&what, &self.spec, self.now).expect("begun")
    }

    /// Another phase; what was issued again.
    fn enter(&self, rotation: &mut Rotation, phase: Phase) -> Vec<String> {
        rotation.phase = phase;
        self.pki.note_rotation(rotation).expect("noted");
        // After a crash at this place the files are still complete, and signed by the one of the phase before.
        let mut changed = self.ensure();
        self.pki.enter(rotation).expect("entered");
        changed.extend(self.ensure());
        changed.dedup();
        self.pki.enter(rotation).expect("entered again");
        assert!(self.ensure().is_empty());
        assert_eq!(self.pki.rotation().expect("readable").as_ref(), Some(&*rotation));
        changed
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path.join(name)).expect(name)
    }

    fn copy(&self, name: &str, to: &str) -> PathBuf {
        let to = self.path.with_file_name(to);
        fs::copy(self.path.join(name), &to).expect("copied");
        to
    }

    fn verifies(&self, authorities: &Path, certificate: &Path) -> bool {
        let out = Command::new("openssl")
            .args(["verify", "-x509_strict", "-CAfile"])
            .arg(authorities)
            // What a server sends beside its own certificate.
            .arg("-untrusted")
            .arg(certificate)
            .arg(certificate)
            .output()
            .expect("openssl is installed");
        out.status.success()
    }
}

#[test]
fn whoever_trusts_what_a_phase_says_takes_what_the_next_one_shows() {
    let f = Fixture::made();
    let all = ["kube-apiserver-h1", "kube-scheduler", "kubelet-h1", "etcd-h1", "front-proxy-client"];
    let authority = |name: &str| match name {
        "etcd-h1" => "etcd-ca.crt",
        "front-proxy-client" => "front-proxy-ca.crt",
        _ => "ca.crt",
    };
    let keep = |label: &str| {
        for name in ["ca.crt", "etcd-ca.crt", "front-proxy-ca.crt"] {
            f.copy(name, &format!("{label}-{name}"));
        }
        for name in all {
            f.copy(&format!("{name}.crt"), &format!("{label}-{name}.crt"));
        }
    };
    let kept = |label: &str, name: &str| f.path.with_file_name(format!("{label}-{name}"));
    keep("before");
    let mut rotation = f.begin(&[Rotated::Ca, Rotated::EtcdCa, Rotated::FrontProxyCa]);
    assert_eq!(rotation.phase, Phase::TrustBoth);
    assert!(f.ensure().is_empty(), "nothing in use has changed");
    for phase in Phase::ALL {
        let changed = f.enter(&mut rotation, phase);
        match phase {
            Phase::TrustBoth => assert!(changed.is_empty(), "{changed:?}"),
            Phase::IssueNew => assert_eq!(changed.len(), f.pki.names(&f.spec).expect("names").len()),
            Phase::TrustNew => assert_eq!(changed, ["kube-apiserver-h1"], "one certificate less beside it"),
        }
        keep(phase.name());
    }
    f.pki.finish_rotation().expect("finished");
    f.pki.finish_rotation().expect("finished again");
    assert_eq!(f.pki.rotation().expect("readable"), None);
    assert!(f.ensure().is_empty());

    let labels = ["before", "trust-both", "issue-new", "trust-new"];
    for pair in labels.windows(2) {
        for (trusts, shows) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for name in all {
                let bundle = kept(pair[trusts], authority(name));
                let shown = kept(pair[shows], &format!("{name}.crt"));
                assert!(f.verifies(&bundle, &shown), "{name} of {} for {}", pair[shows], pair[trusts]);
            }
        }
    }
    // A kubeconfig that was copied at the beginning trusts the servers until the last phase.
    let (old, server) = (kept("before", "ca.crt"), "kube-apiserver-h1.crt");
    assert!(f.verifies(&old, &kept("issue-new", server)));
    assert!(!f.verifies(&old, &kept("trust-new", server)));
    assert!(!f.verifies(&kept("trust-new", "ca.crt"), &kept("before", "kube-scheduler.crt")));
    let count = |label: &str, name: &str| {
        fs::read_to_string(kept(label, name)).expect("kept").matches("BEGIN").count()
    };
    assert_eq!(labels.map(|l| count(l, "ca.crt")), [1, 2, 2, 1]);
    assert_eq!(labels.map(|l| count(l, server)), [1, 1, 2, 1]);
    let issuer = |label: &str| {
        let pem = fs::read_to_string(kept(label, "kube-scheduler.crt")).expect("kept");
        CertificateFacts::from_pem(&pem).expect("readable").issuer
    };
    assert_eq!(issuer("trust-both"), "CN=kubernetes-ca");
    assert!(issuer("trust-new").starts_with("CN=kubernetes-ca-2"), "{}", issuer("trust-new"));
}

#[test]
fn tokens_of_both_keys_are_checked_until_the_last_phase() {
    let f = Fixture::made();
    let public = |file: &str| PrivateKey::from_pem(&f.text(file)).expect("a key").public_pem();
    let before = public("service-account.key");
    let mut rotation = f.begin(&[Rotated::ServiceAccountKey]);
    let ca = f.text("ca.crt");
    for (phase, old_counts, new_signs) in
        [(Phase::TrustBoth, true, false), (Phase::IssueNew, true, true), (Phase::TrustNew, false, true)]
    {
        f.enter(&mut rotation, phase);
        let checks = f.text("service-account.pub");
        assert_eq!(checks.contains(&before), old_counts, "{phase:?}");
        assert_eq!(public("service-account.key") != before, new_signs, "{phase:?}");
        assert!(checks.contains(&public("service-account.key")), "{phase:?}");
    }
    assert_eq!(f.text("ca.crt"), ca);
}

#[test]
fn an_interrupted_rotation_is_the_one_that_goes_on() {
    let f = Fixture::made();
    let mut rotation = f.begin(&[Rotated::Ca]);
    f.enter(&mut rotation, Phase::TrustBoth);
    let next = f.text("rotation/next-ca.crt");
    let again = f.begin(&[Rotated::EtcdCa]);
    assert_eq!(again, rotation, "another one does not begin");
    f.enter(&mut rotation, Phase::IssueNew);
    assert_eq!(f.text("rotation/next-ca.crt"), next);
    let warned = f.pki.ensure(&f.spec, f.now).expect("complete").warnings;
    assert!(warned.iter().any(|w| w.contains("issue-new") && w.contains("rotate-ca")), "{warned:?}");
    fs::write(f.path.join("rotation/state.yaml"), "half").expect("written");
    assert!(matches!(f.pki.rotation(), Err(EnsureError::Unusable { .. })));
}

#[test]
fn an_authority_that_is_over_is_replaced_at_once() {
    let mut f = Fixture::made();
    f.now = f.now.checked_add(3700 * DAY).expect("a time");
    let error = f.pki.ensure(&f.spec, f.now).expect_err("over");
    assert!(error.to_string().contains("cox certs rotate-ca"), "{error}");
    let mut rotation = f.begin(&[Rotated::Ca]);
    assert_eq!(rotation.phase, Phase::TrustNew);
    assert!(rotation.what.contains(&Rotated::EtcdCa), "all that are over: {rotation:?}");
    f.pki.enter(&rotation).expect("entered");
    let issued = f.ensure();
    assert_eq!(issued.len(), f.pki.names(&f.spec).expect("names").len(), "{issued:?}");
    assert!(f.enter(&mut rotation, Phase::TrustNew).is_empty());
    assert_eq!(f.text("ca.crt").matches("BEGIN").count(), 1);
}

#[test]
fn an_authority_from_elsewhere_can_be_the_next() {
    let f = Fixture::made();
    let subject = pki::Subject::new("our-own").in_group("example");
    let key = PrivateKey::generate(pki::KeyAlgorithm::EcdsaP256).expect("a key");
    let other = pki::Authority::create_with_key(&subject, key, 900 * DAY, f.now).expect("made");
    let paths = f.pki.next_authority(Rotated::Ca).expect("it is an authority");
    fs::create_dir(f.path.join("rotation")).expect("made");
    fs::write(&paths.certificate, other.certificate_pem()).expect("written");
    fs::write(&paths.key, other.key().to_pem()).expect("written");
    let mut rotation = f.begin(&[Rotated::Ca]);
    for phase in Phase::ALL {
        f.enter(&mut rotation, phase);
    }
    assert_eq!(f.text("ca.crt"), other.certificate_pem());
    let signer = f.pki.signer_of(&f.text("admin.crt"));
    assert_eq!(signer.as_deref(), Some("ca"));
    assert!(f.pki.signer_of(other.certificate_pem()).is_none());
}

#[test]
fn what_is_asked_for_is_issued_again_with_the_names_it_had() {
    let f = Fixture::made();
    let facts = |name: &str| CertificateFacts::from_pem(&f.text(name)).expect("readable");
    let mut more = f.spec.clone();
    more.api_server_names.push("extra.example.org".into());
    f.pki.ensure(&more, f.now).expect("complete");
    let (before, admin) = (facts("kube-apiserver-h1.crt"), f.text("admin.crt"));
    let key = f.text("kube-apiserver-h1.key");
    let report =
        f.pki.ensure_and_renew(&f.spec, &|name| name == "kube-apiserver-h1", f.now).expect("renewed");
    let asked: Vec<_> = report.items.iter().filter(|i| i.action != Action::Kept).collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].action, Action::Renewed { because: Reason::Asked });
    let after = facts("kube-apiserver-h1.crt");
    let names = |facts: &CertificateFacts| facts.names.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&after), names(&before), "with the one that somebody added");
    assert!(after.serial != before.serial && f.text("kube-apiserver-h1.key") != key);
    assert_eq!(f.text("admin.crt"), admin);
}
