//! What this crate writes, read by real `openssl` and real `kubectl`; what is on disk kept, repaired or refused.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use jiff::Timestamp;
use pki::{
    Action, Authority, CertificateFacts, CertificateSpec, ClusterPki, EnsureError, KeyAlgorithm,
    NodeIdentity, PkiSpec, PrivateKey, Reason, Report, Subject, Usage,
};

const DAY: Duration = Duration::from_secs(86_400);

fn spec(algorithm: KeyAlgorithm) -> PkiSpec {
    PkiSpec {
        api_server_names: vec!["host-1".into(), "api.example.org".into()],
        api_server_addresses: vec![[192, 0, 2, 10].into()],
        service_cidrs: vec!["10.32.0.0/24".parse().expect("a cidr")],
        nodes: vec![NodeIdentity { name: "host-1".into(), addresses: vec![[192, 0, 2, 10].into()] }],
        algorithm,
        service_account_algorithm: algorithm,
        ..PkiSpec::default()
    }
}

struct Fixture {
    _dir: tempfile::TempDir,
    path: PathBuf,
    pki: ClusterPki,
    spec: PkiSpec,
    now: Timestamp,
}

impl Fixture {
    fn empty(algorithm: KeyAlgorithm) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("pki");
        Self { pki: ClusterPki::at(&path), path, _dir: dir, spec: spec(algorithm), now: Timestamp::now() }
    }

    fn made() -> Self {
        let fixture = Self::empty(KeyAlgorithm::EcdsaP256);
        fixture.ensure();
        fixture
    }

    fn ensure(&self) -> Report {
        let complete = self.pki.is_complete(&self.spec, self.now);
        let report = self.repair();
        assert_eq!(complete, !report.changed() && report.warnings.iter().all(|w| !w.contains("0600")));
        assert!(self.pki.is_complete(&self.spec, self.now));
        report
    }

    fn repair(&self) -> Report {
        self.pki.ensure(&self.spec, self.now).expect("a complete set")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What the second call did about one certificate.
    fn action(&self, name: &str) -> Action {
        let report = self.ensure();
        let path = self.file(name);
        report.items.iter().find(|i| i.path == path).expect("listed").action.clone()
    }

    fn error(&self) -> EnsureError {
        self.pki.ensure(&self.spec, self.now).expect_err("refused")
    }
}

fn openssl(args: &[&str]) -> String {
    let out = Command::new("openssl").args(args).output().expect("openssl is installed");
    assert!(
        out.status.success(),
        "openssl {args:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).expect("text")
}

fn path(p: &Path) -> &str {
    p.to_str().expect("a path of text")
}

fn x509(file: &Path, what: &[&str]) -> String {
    let args = [&["x509", "-in", path(file), "-noout"], what].concat();
    openssl(&args)
}

#[test]
fn openssl_agrees_with_every_certificate_of_both_algorithms() {
    for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::Rsa2048] {
        let f = Fixture::empty(algorithm);
        let report = f.ensure();
        assert!(report.items.iter().all(|i| i.action == Action::Created), "{report:?}");
        assert_eq!(report.warnings, [""; 0]);

        let server = "TLS Web Server Authentication";
        let client = "TLS Web Client Authentication";
        for (stem, authority, subject, usage, purpose) in [
            ("kube-apiserver", "ca", "CN = kube-apiserver", server, "sslserver"),
            (
                "kube-apiserver-kubelet-client",
                "ca",
                "O = system:masters, CN = kube-apiserver-kubelet-client",
                client,
                "sslclient",
            ),
            ("front-proxy-client", "front-proxy-ca", "CN = front-proxy-client", client, "sslclient"),
            ("admin", "ca", "O = system:masters, CN = kubernetes-admin", client, "sslclient"),
            ("kube-controller-manager", "ca", "CN = system:kube-controller-manager", client, "sslclient"),
            ("kube-scheduler", "ca", "CN = system:kube-scheduler", client, "sslclient"),
            ("kube-proxy", "ca", "O = system:node-proxier, CN = system:kube-proxy", client, "sslclient"),
            ("kubelet-host-1", "ca", "O = system:nodes, CN = system:node:host-1", client, "sslclient"),
            (
                "kubelet-host-1-serving",
                "ca",
                "O = system:nodes, CN = system:node:host-1",
                server,
                "sslserver",
            ),
        ] {
            let certificate = f.file(&format!("{stem}.crt"));
            let key = f.file(&format!("{stem}.key"));
            let ca = f.file(&format!("{authority}.crt"));
            openssl(&[
                "verify",
                "-x509_strict",
                "-purpose",
                purpose,
                "-CAfile",
                path(&ca),
                path(&certificate),
            ]);
            assert_eq!(x509(&certificate, &["-subject"]).trim(), format!("subject={subject}"));
            let text = x509(&certificate, &["-text"]);
            assert!(text.contains(usage), "{stem}: {text}");
            assert!(text.contains("CA:FALSE"), "{stem}");
            let from_key = openssl(&["pkey", "-in", path(&key), "-pubout"]);
            assert_eq!(x509(&certificate, &["-pubkey"]), from_key, "{stem}");
            openssl(&["pkey", "-in", path(&key), "-check", "-noout"]);
            let want = if algorithm == KeyAlgorithm::Rsa2048 { "2048 bit" } else { "prime256v1" };
            assert!(text.contains(want), "{stem}: {text}");
        }
        for (stem, subject) in [("ca", "CN = kubernetes-ca"), ("front-proxy-ca", "CN = front-proxy-ca")] {
            let text = x509(&f.file(&format!("{stem}.crt")), &["-text"]);
            assert!(text.contains("CA:TRUE") && text.contains("Certificate Sign"), "{text}");
            assert!(text.contains(&format!("Subject: {subject}")), "{text}");
        }
        let names = x509(&f.file("kube-apiserver.crt"), &["-ext", "subjectAltName"]);
        let names: BTreeSet<&str> = names.lines().nth(1).expect("names").split(',').map(str::trim).collect();
        let want = [
            "DNS:kubernetes",
            "DNS:kubernetes.default",
            "DNS:kubernetes.default.svc",
            "DNS:kubernetes.default.svc.cluster.local",
            "DNS:localhost",
            "DNS:host-1",
            "DNS:api.example.org",
            "IP Address:127.0.0.1",
            "IP Address:0:0:0:0:0:0:0:1",
            "IP Address:10.32.0.1",
            "IP Address:192.0.2.10",
        ];
        assert_eq!(names, BTreeSet::from(want));
        let public = openssl(&["pkey", "-in", path(&f.pki.service_account_key()), "-pubout"]);
        assert_eq!(public, fs::read_to_string(f.pki.service_account_public_key()).expect("a public key"));
    }
}

#[test]
fn keys_are_private_and_leftovers_do_not_stay() {
    let f = Fixture::made();
    let mode = |p: &Path| fs::metadata(p).expect("there").permissions().mode() & 0o7777;
    assert_eq!(mode(&f.path), 0o700);
    let mut keys = 0;
    for entry in fs::read_dir(&f.path).expect("a directory") {
        let file = entry.expect("an entry").path();
        match file.extension().and_then(|e| e.to_str()) {
            Some("key") => {
                keys += 1;
                assert_eq!(mode(&file), 0o600, "{}", file.display());
            }
            Some("crt" | "pub") => assert_eq!(mode(&file), 0o644, "{}", file.display()),
            other => panic!("{} has extension {other:?}", file.display()),
        }
    }
    assert_eq!(keys, 12);

    fs::set_permissions(f.file("admin.key"), fs::Permissions::from_mode(0o644)).expect("chmod");
    let report = f.ensure();
    assert_eq!(mode(&f.file("admin.key")), 0o600);
    assert!(report.warnings.iter().any(|w| w.contains("admin.crt")), "{report:?}");
}

#[test]
fn a_second_call_writes_nothing() {
    let f = Fixture::made();
    let read = || -> Vec<(PathBuf, Vec<u8>, std::time::SystemTime)> {
        let mut all: Vec<_> = fs::read_dir(&f.path)
            .expect("a directory")
            .map(|e| e.expect("an entry").path())
            .map(|p| {
                (
                    p.clone(),
                    fs::read(&p).expect("readable"),
                    fs::metadata(&p).expect("there").modified().expect("a time"),
                )
            })
            .collect();
        all.sort();
        all
    };
    let before = read();
    assert!(!f.ensure().changed());
    assert_eq!(read(), before);
}

#[test]
fn a_missing_name_has_the_certificate_issued_again_and_only_that() {
    let mut f = Fixture::made();
    f.spec.api_server_addresses.push([198, 51, 100, 4].into());
    let report = f.ensure();
    let changed: Vec<_> = report.items.iter().filter(|i| i.action != Action::Kept).collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
    assert_eq!(changed[0].path, f.file("kube-apiserver.crt"));
    assert!(x509(&f.file("kube-apiserver.crt"), &["-text"]).contains("198.51.100.4"));
    assert!(!f.ensure().changed());
}

#[test]
fn what_expires_within_thirty_days_is_issued_again() {
    let mut f = Fixture::made();
    f.now = f.now.checked_add(334 * DAY).expect("a time");
    assert!(!f.ensure().changed());
    f.now = f.now.checked_add(2 * DAY).expect("a time");
    let report = f.ensure();
    for item in &report.items {
        let stem = item.path.file_stem().expect("a stem").to_str().expect("text");
        match (&item.action, stem) {
            (Action::Kept, "ca" | "front-proxy-ca" | "service-account") => {}
            (Action::Renewed { because: Reason::Expires(_) }, _) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(!f.ensure().changed());
}

#[test]
fn leaves_never_outlive_the_authority_and_are_then_left_alone() {
    let mut f = Fixture::empty(KeyAlgorithm::EcdsaP256);
    f.spec.authority_validity = 20 * DAY;
    let report = f.ensure();
    assert_eq!(report.warnings.len(), 2, "{report:?}");
    let end = |name: &str| {
        CertificateFacts::from_pem(&fs::read_to_string(f.file(name)).expect("there"))
            .expect("a certificate")
            .not_after
    };
    assert_eq!(end("admin.crt"), end("ca.crt"));
    assert!(!f.ensure().changed());
    f.now = f.now.checked_add(21 * DAY).expect("a time");
    assert!(matches!(f.error(), EnsureError::Unusable { source: pki::Error::AuthorityExpired { .. }, .. }));
}

#[test]
fn a_leaf_whose_key_is_lost_or_wrong_heals() {
    let f = Fixture::made();
    fs::remove_file(f.file("admin.key")).expect("removed");
    assert_eq!(f.action("admin.crt"), Action::Renewed { because: Reason::KeyMissing });
    fs::copy(f.file("kube-proxy.key"), f.file("admin.key")).expect("copied");
    assert_eq!(f.action("admin.crt"), Action::Renewed { because: Reason::KeyMismatch });
    assert_eq!(f.action("admin.crt"), Action::Kept);
}

#[test]
fn a_new_authority_signs_everything_again() {
    let f = Fixture::made();
    fs::remove_file(f.file("ca.crt")).expect("removed");
    fs::remove_file(f.file("ca.key")).expect("removed");
    let report = f.ensure();
    assert!(report.changed());
    openssl(&["verify", "-CAfile", path(&f.file("ca.crt")), path(&f.file("admin.crt"))]);
    let front = report.items.iter().find(|i| i.path == f.file("front-proxy-client.crt")).expect("listed");
    assert_eq!(front.action, Action::Kept);
}

#[test]
fn an_authority_is_never_replaced_on_its_own() {
    // The certificate of one authority and the key of another.
    let f = Fixture::made();
    fs::copy(f.file("front-proxy-ca.key"), f.file("ca.key")).expect("copied");
    let error = f.error();
    assert!(
        matches!(&error, EnsureError::Unusable { path, source: pki::Error::KeyMismatch, .. } if *path == f.file("ca.crt"))
    );
    assert!(error.to_string().contains("ca.crt") && error.to_string().contains("backup"), "{error}");

    let f = Fixture::made();
    fs::remove_file(f.file("ca.key")).expect("removed");
    assert!(matches!(f.error(), EnsureError::HalfGone { missing, .. } if missing == f.file("ca.key")));

    let f = Fixture::made();
    fs::copy(f.file("admin.crt"), f.file("ca.crt")).expect("copied");
    fs::copy(f.file("admin.key"), f.file("ca.key")).expect("copied");
    assert!(matches!(f.error(), EnsureError::Unusable { source: pki::Error::NotAnAuthority, .. }));

    // A crash between key and certificate: the key is used.
    let f = Fixture::made();
    let key = fs::read(f.file("ca.key")).expect("a key");
    fs::remove_file(f.file("ca.crt")).expect("removed");
    f.ensure();
    assert_eq!(fs::read(f.file("ca.key")).expect("a key"), key);
    openssl(&["verify", "-CAfile", path(&f.file("ca.crt")), path(&f.file("admin.crt"))]);
}

#[test]
fn broken_files_are_named_and_left_as_they_are() {
    for name in ["ca.crt", "ca.key", "admin.crt", "admin.key", "service-account.key"] {
        let f = Fixture::made();
        for rubbish in ["", "hello\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            fs::write(f.file(name), rubbish).expect("written");
            let error = f.error();
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(fs::read_to_string(f.file(name)).expect("there"), rubbish);
        }
    }
}

#[test]
fn the_service_account_pair_stays_a_pair() {
    let f = Fixture::made();
    let key = fs::read(f.pki.service_account_key()).expect("a key");
    fs::remove_file(f.pki.service_account_public_key()).expect("removed");
    f.ensure();
    assert_eq!(fs::read(f.pki.service_account_key()).expect("a key"), key);

    // A former key beside ours: tokens it signed are still checked.
    let former = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key").public_pem();
    let both = former.clone() + &fs::read_to_string(f.pki.service_account_public_key()).expect("a key");
    fs::write(f.pki.service_account_public_key(), &both).expect("written");
    assert!(!f.ensure().changed());

    fs::write(f.pki.service_account_public_key(), former).expect("written");
    assert!(matches!(f.error(), EnsureError::Unusable { source: pki::Error::KeyMismatch, .. }));
    fs::remove_file(f.pki.service_account_key()).expect("removed");
    assert!(matches!(f.error(), EnsureError::HalfGone { .. }));
}

#[test]
fn authorities_and_keys_made_by_openssl_are_taken() {
    let traditional: &[&str] = &["-traditional"];
    for (make, form) in [
        (vec!["ecparam", "-name", "prime256v1", "-genkey", "-noout"], traditional),
        (vec!["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], &[]),
        (vec!["genrsa", "2048"], traditional),
        (vec!["genrsa", "3072"], &[]),
    ] {
        let f = Fixture::empty(KeyAlgorithm::EcdsaP256);
        fs::create_dir(&f.path).expect("a directory");
        let mut args = make.clone();
        if make[0] == "genrsa" {
            args.splice(1..1, form.iter().copied());
        }
        fs::write(f.file("ca.key"), openssl(&args)).expect("a key");
        // A name of a shape this crate would not write: two organizations, a country, another order.
        let out = openssl(&[
            "req",
            "-x509",
            "-new",
            "-key",
            path(&f.file("ca.key")),
            "-days",
            "900",
            "-subj",
            "/C=NO/O=One/O=Two/OU=CA/CN=Kubernetes",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ]);
        fs::write(f.file("ca.crt"), out).expect("a certificate");
        f.ensure();
        openssl(&["verify", "-x509_strict", "-CAfile", path(&f.file("ca.crt")), path(&f.file("admin.crt"))]);
        assert!(!f.ensure().changed());
    }
}

#[test]
fn a_user_can_be_in_many_groups() {
    let now = Timestamp::now();
    let authority =
        Authority::create(&Subject::new("a"), KeyAlgorithm::EcdsaP256, DAY, now).expect("an authority");
    let subject = Subject::new("ann").in_group("team:z").in_group("team:a").in_group("größe");
    let spec = CertificateSpec {
        subject: subject.clone(),
        names: Vec::new(),
        usages: vec![Usage::Client],
        validity: DAY,
    };
    let issued = authority.issue(&spec, KeyAlgorithm::EcdsaP256, now).expect("a certificate");
    let facts = CertificateFacts::from_pem(&issued.certificate_pem).expect("readable");
    let groups = |s: &Subject| s.organizations.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(facts.subject.common_name, "ann");
    assert_eq!(groups(&facts.subject), groups(&subject));
    assert!(facts.matches(&issued.key));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("c.crt");
    fs::write(&file, &issued.certificate_pem).expect("written");
    assert_eq!(x509(&file, &["-subject", "-nameopt", "RFC2253,-esc_msb"]).matches("O=").count(), 3);
}

#[test]
fn kubectl_reads_the_kubeconfigs() {
    let f = Fixture::made();
    let dir = f.path.with_file_name("kubeconfig");
    let ensure = |server: &str| f.pki.ensure_kubeconfigs(&dir, "home", server, &f.spec).expect("kubeconfigs");
    assert_eq!(ensure("https://127.0.0.1:6443").items.len(), 5);
    assert!(!ensure("https://127.0.0.1:6443").changed());
    assert!(ensure("https://127.0.0.1:7443").changed());
    for (part, user) in [
        ("admin", "kubernetes-admin"),
        ("kube-controller-manager", "system:kube-controller-manager"),
        ("kube-scheduler", "system:kube-scheduler"),
        ("kube-proxy", "system:kube-proxy"),
        ("kubelet-host-1", "system:node:host-1"),
    ] {
        let file = ClusterPki::kubeconfig(&dir, part);
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        let view = |template: &str| {
            let out = Command::new("kubectl")
                .args(["config", "view", "--raw", "--minify", "--kubeconfig", path(&file), "-o"])
                .arg(format!("jsonpath={template}"))
                .output()
                .expect("kubectl is installed");
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).expect("text")
        };
        assert_eq!(view("{.current-context}"), format!("{user}@home"));
        assert_eq!(view("{.clusters[0].cluster.server}"), "https://127.0.0.1:7443");
        assert_eq!(view("{.contexts[0].context.user}"), user);
        let pem = fs::read(f.file(&format!("{part}.crt"))).expect("there");
        let encoded = view("{.users[0].user.client-certificate-data}");
        let decoded =
            base64::Engine::decode(&base64::engine::general_purpose::STANDARD, encoded).expect("base64");
        assert_eq!(decoded, pem);
    }
}

#[test]
fn the_whole_set_is_listed_for_inspection() {
    let f = Fixture::made();
    let all = f.pki.inspect().expect("listed");
    assert_eq!(all.len(), 11);
    assert!(all.iter().all(|(_, facts)| facts.is_ok()));
}
