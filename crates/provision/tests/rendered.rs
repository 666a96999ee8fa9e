//! What is rendered from a `cluster.yaml`: as text that is looked through when it changes, and by the programs that
//! have to read it.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use jiff::Timestamp;
use pki::CertificateFacts;
use provision::plan::{PlanOptions, Trust, haproxy_config, nginx_config, plan, unit_text};
use provision::spec::{ClusterSpec, Role};
use provision::{find_program, render};

fn spec(text: &str) -> ClusterSpec {
    let reading = ClusterSpec::read(text, &|_| Ok(()));
    reading.spec.unwrap_or_else(|| panic!("{:?}", reading.mistakes))
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A file's text with whatever differs from one time to the next named rather than shown.
fn shown(text: &str) -> String {
    if text.starts_with("-----BEGIN CERTIFICATE") {
        let facts = CertificateFacts::from_pem(text).expect("a certificate");
        let names: Vec<String> = facts.names.iter().map(ToString::to_string).collect();
        let mut line = format!("certificate of {} by {}", facts.subject.common_name, facts.issuer);
        for organization in facts.subject.organizations {
            let _ = write!(line, ", group {organization}");
        }
        let _ = write!(line, ", {:?}", facts.usages);
        if !names.is_empty() {
            let _ = write!(line, ", {}", names.join(" "));
        }
        return line + "\n";
    }
    if text.starts_with("-----BEGIN") {
        return format!("{}\n", text.lines().next().unwrap_or_default().trim_matches('-'));
    }
    let hidden = ["certificate-authority-data", "client-certificate-data", "client-key-data", "secret"];
    let lines = text.lines().map(|line| match line.split_once(": ") {
        // Tells one key from another.
        _ if line.contains("COX_TOKENS_SIGNED_BY") => "COX_TOKENS_SIGNED_BY ...\n".to_owned(),
        Some((key, _)) if hidden.contains(&key.trim()) => format!("{key}: ...\n"),
        _ => format!("{line}\n"),
    });
    // A build's own version is no fact about the cluster.
    lines.collect::<String>().replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

#[test]
fn three_clusters_look_like_this() {
    for name in ["one-node", "stacked", "separate"] {
        let text = fs::read_to_string(golden(&format!("{name}.yaml"))).expect("a cluster");
        let dir = tempfile::tempdir().expect("a directory");
        let rendered =
            render(&spec(&text), &PlanOptions::system(), dir.path(), Timestamp::now()).expect("rendered");
        let mut all = String::new();
        for file in &rendered.files {
            let path = dir.path().join(&file.path);
            let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o7777;
            assert_eq!(format!("{mode:04o}"), file.mode, "{}", file.path.display());
            let text = shown(&fs::read_to_string(&path).expect("text"));
            let _ = write!(all, "=== {} {}\n{text}", file.path.display(), file.mode);
        }
        let want = golden(&format!("{name}.txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&want, &all).expect("written");
        }
        let found = fs::read_to_string(&want).unwrap_or_default();
        for (i, (found, made)) in found.lines().zip(all.lines()).enumerate() {
            assert_eq!(found, made, "{name}.txt line {}; UPDATE_GOLDEN=1 writes it anew", i + 1);
        }
        assert!(found == all, "{name}.txt differs in length; UPDATE_GOLDEN=1 writes it anew");
    }
}

/// Whether a file that others may read has something in it that they may not.
#[test]
fn nothing_secret_lies_open() {
    let text = fs::read_to_string(golden("stacked.yaml")).expect("a cluster");
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("out");
    render(&spec(&text), &PlanOptions::system(), &root, Timestamp::now()).expect("rendered");
    let mode = |path: &Path| fs::symlink_metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&root), 0o700);

    let mut files = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(directory) = open.pop() {
        assert_eq!(mode(&directory) & 0o077, 0, "{}", directory.display());
        for entry in fs::read_dir(&directory).expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    // Lines of keys, plain and as kubeconfigs have them.
    let mut secrets: Vec<String> = Vec::new();
    for path in files.iter().filter(|p| p.extension().is_some_and(|e| e == "key")) {
        let text = fs::read_to_string(path).expect("text");
        secrets.extend(text.lines().filter(|l| !l.starts_with('-') && l.len() > 16).map(str::to_owned));
    }
    let encryption = fs::read_to_string(root.join("pki/encryption-config.yaml")).expect("text");
    let key = encryption.lines().find_map(|l| l.trim().strip_prefix("secret: ")).expect("a key");
    secrets.push(key.to_owned());
    assert!(secrets.len() > 20, "{}", secrets.len());

    let mut closed = 0;
    for path in &files {
        let text = fs::read_to_string(path).expect("text");
        let has_secret = text.contains("PRIVATE KEY")
            || text.contains("client-key-data")
            || secrets.iter().any(|s| text.contains(s.as_str()));
        let found = mode(path);
        if has_secret {
            closed += 1;
            assert_eq!(found, 0o600, "{}", path.display());
        } else {
            assert!(matches!(found, 0o644 | 0o600), "{} {found:o}", path.display());
        }
    }
    assert!(closed > 40, "{closed}");
}

/// The program, or a loud word that a test is skipped without it.
fn program(name: &str) -> Option<PathBuf> {
    let found = find_program(name);
    if found.is_none() {
        eprintln!("skipped: {name} is not installed; scripts/deps test installs it");
    }
    found
}

fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("started");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{} {}: {said}", program.display(), arguments.join(" "));
    said
}

#[test]
fn balancers_take_their_configuration() {
    let text = fs::read_to_string(golden("stacked.yaml")).expect("a cluster");
    let mut spec = spec(&text);
    // Looking at its configuration, nginx listens for a moment.
    spec.api_server.port = base::ports::free_port().expect("a port");
    let dir = tempfile::tempdir().expect("a directory");
    let (trust, _) = Trust::ensure(&dir.path().join("pki"), &spec, Timestamp::now()).expect("made");
    if let Some(nginx) = program("nginx") {
        let pid = dir.path().join("pid").display().to_string();
        let text = nginx_config(&spec).replace("/run/nginx.pid", &pid);
        let path = dir.path().join("nginx.conf");
        fs::write(&path, text).expect("written");
        let said = run(&nginx, &["-t", "-c", &path.display().to_string()]);
        assert!(said.contains("test is successful"), "{said}");
        assert!(!said.contains("[warn]"), "{said}");
    }
    if let Some(haproxy) = program("haproxy") {
        let authority = dir.path().join("ca.crt");
        fs::write(&authority, trust.authority_pem().expect("there")).expect("written");
        let path = dir.path().join("haproxy.cfg");
        fs::write(&path, haproxy_config(&spec, &authority)).expect("written");
        let said = run(&haproxy, &["-c", "-f", &path.display().to_string()]);
        assert!(!said.contains("WARNING"), "{said}");
    }
}

#[test]
fn systemd_takes_the_units() {
    let Some(analyze) = program("systemd-analyze") else { return };
    for name in ["one-node", "stacked", "separate"] {
        let text = fs::read_to_string(golden(&format!("{name}.yaml"))).expect("a cluster");
        let spec = spec(&text);
        let dir = tempfile::tempdir().expect("a directory");
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).expect("made");
        let mut options = PlanOptions::system();
        options.paths.bin = bin.clone();
        let programs = &mut options.paths.programs;
        for (path, name) in [
            (&mut programs.etcd, "etcd"),
            (&mut programs.containerd, "containerd"),
            (&mut programs.haproxy, "haproxy"),
            (&mut programs.nginx, "nginx"),
        ] {
            *path = bin.join(name);
        }
        let (trust, _) = Trust::ensure(&dir.path().join("pki"), &spec, Timestamp::now()).expect("made");
        for plan in plan(&spec, &trust, &options).expect("planned") {
            let home = dir.path().join(&plan.host);
            fs::create_dir(&home).expect("made");
            let mut units = Vec::new();
            for service in &plan.services {
                // It looks whether the program is there.
                let program = Path::new(&service.exec[0]);
                fs::write(program, "").expect("written");
                fs::set_permissions(program, fs::Permissions::from_mode(0o755)).expect("executable");
                let path = home.join(format!("{}.service", service.name));
                fs::write(&path, unit_text(service)).expect("written");
                units.push(path.display().to_string());
            }
            let mut arguments = vec!["verify", "--man=no", "--generators=no"];
            arguments.extend(units.iter().map(String::as_str));
            let said = run(&analyze, &arguments);
            let home = home.display().to_string();
            let ours: Vec<&str> = said.lines().filter(|l| l.contains(&home)).collect();
            assert_eq!(ours, [""; 0], "{name} {}", plan.host);
        }
    }
}

#[test]
fn openssl_believes_the_certificates_and_their_names() {
    let Some(openssl) = program("openssl") else { return };
    let text = fs::read_to_string(golden("stacked.yaml")).expect("a cluster");
    let spec = spec(&text);
    let dir = tempfile::tempdir().expect("a directory");
    let (_, report) = Trust::ensure(dir.path(), &spec, Timestamp::now()).expect("made");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let mut count = 0;
    for item in report.items.iter().filter(|i| i.path.extension().is_some_and(|e| e == "crt")) {
        let stem = item.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let authority = match stem.as_str() {
            s if s.starts_with("etcd-") || s.ends_with("-etcd-client") => "etcd-ca.crt",
            s if s.starts_with("front-proxy-") => "front-proxy-ca.crt",
            _ => "ca.crt",
        };
        let (ca, certificate) = (at(authority), item.path.display().to_string());
        run(&openssl, &["verify", "-x509_strict", "-CAfile", &ca, &certificate]);
        count += 1;
    }
    assert!(count > 20, "{count}");
    let served = |certificate: &str, authority: &str, check: [&str; 2]| {
        let (ca, certificate) = (at(authority), at(certificate));
        run(&openssl, &["verify", "-purpose", "sslserver", "-CAfile", &ca, check[0], check[1], &certificate]);
    };
    for host in spec.hosts_with(Role::ControlPlane) {
        let api = format!("kube-apiserver-{}.crt", host.name);
        for name in ["kubernetes.default.svc.k8s.example.org", "api.example.org", "cp1", "cp3", "localhost"] {
            served(&api, "ca.crt", ["-verify_hostname", name]);
        }
        for address in ["10.32.0.1", "192.0.2.11", "192.0.2.13", "203.0.113.5", "127.0.0.1"] {
            served(&api, "ca.crt", ["-verify_ip", address]);
        }
        let address = host.address.to_string();
        served(&format!("etcd-{}.crt", host.name), "etcd-ca.crt", ["-verify_ip", &address]);
        served(&format!("etcd-{}-peer.crt", host.name), "etcd-ca.crt", ["-verify_ip", &address]);
    }
    served("kubelet-node1-serving.crt", "ca.crt", ["-verify_hostname", "node1"]);
}
