//! `init`, `validate` and `render` on the real binary.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn cox(dir: &Path, words: &[&str]) -> Output {
    let output =
        Command::new(env!("CARGO_BIN_EXE_cox")).args(words).current_dir(dir).stdin(Stdio::null()).output();
    output.expect("cox runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json(dir: &Path, words: &[&str]) -> (Value, bool) {
    let output = cox(dir, &[words, &["-o", "json"]].concat());
    let value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{words:?}: {e}: {}", said(&output)));
    (value, output.status.success())
}

#[test]
fn a_file_is_written_checked_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let first = cox(dir.path(), &["init", "--provider", "local", "--name", "dev"]);
    assert!(first.status.success() && said(&first).contains("cox validate"), "{}", said(&first));
    let text = fs::read_to_string(dir.path().join("cluster.yaml")).unwrap();
    assert!(text.contains("name: dev\nprovider: local"), "{text}");
    let (again, success) = json(dir.path(), &["init"]);
    assert!(!success && again["error"].as_str().unwrap().contains("there already"), "{again}");
    assert_eq!(fs::read_to_string(dir.path().join("cluster.yaml")).unwrap(), text);

    let valid = cox(dir.path(), &["validate"]);
    assert!(valid.status.success(), "{}", said(&valid));
    let line = "cluster.yaml is valid: cluster dev: 2 hosts, 1 control plane, 2 workers, an embedded store\n";
    assert_eq!(String::from_utf8_lossy(&valid.stdout), line);
    let (unknown, success) = json(dir.path(), &["init", "--provider", "aws", "other.yaml"]);
    assert!(
        !success && unknown["error"].as_str().unwrap().contains("possible values: local, ssh"),
        "{unknown}"
    );
}

#[test]
fn every_mistake_is_told_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let text = "name: c\nssh: {key: id.pub}\nhosts:\n- {name: a, address: 192.0.2.1, roles: [control-plain]}\nnetwrok: {}\n";
    fs::write(dir.path().join("cluster.yaml"), text).unwrap();
    fs::write(dir.path().join("id.pub"), "ssh-ed25519 AAAA\n").unwrap();
    let output = cox(dir.path(), &["validate"]);
    assert_eq!(output.status.code(), Some(1));
    let want = "\
cluster.yaml:2: ssh.key: id.pub is not a private key; name the one without .pub
cluster.yaml:3: hosts: no host has the role control-plane
cluster.yaml:3: warning: hosts: no host has the role worker: there will be nowhere for pods to run
cluster.yaml:4: hosts[0].roles[0]: \"control-plain\" is none of control-plane, etcd, worker, load-balancer; did you mean \"control-plane\"?
cluster.yaml:5: netwrok: unknown key; did you mean \"network\"?
cluster.yaml has 4 mistakes
";
    assert_eq!(String::from_utf8_lossy(&output.stdout), want);
    let (value, success) = json(dir.path(), &["validate"]);
    assert!(!success && value["valid"] == false, "{value}");
    assert_eq!(value["mistakes"][4]["line"], 5);
    assert_eq!(value["mistakes"][2]["gravity"], "warning");
    let (value, success) = json(dir.path(), &["render", "out"]);
    assert!(!success && value["error"].as_str().unwrap().contains("4 mistakes"), "{value}");
    assert!(!dir.path().join("out").exists());
    let (value, success) = json(dir.path(), &["validate", "none.yaml"]);
    assert!(!success && value["next"].as_str().unwrap().contains("cox init"), "{value}");
}

/// What keys look like, wherever they are: lines of PEM, and the key of what is stored.
fn secrets(out: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(out.join("pki")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        if path.extension().is_some_and(|e| e == "key") {
            all.extend(text.lines().filter(|l| !l.starts_with('-') && l.len() > 16).map(str::to_owned));
        }
        all.extend(text.lines().filter_map(|l| l.trim().strip_prefix("secret: ")).map(str::to_owned));
    }
    let kubeconfig = fs::read_to_string(out.join("kubeconfig")).unwrap();
    let data = kubeconfig.lines().filter_map(|l| l.trim().strip_prefix("client-key-data: "));
    all.extend(data.map(str::to_owned));
    all
}

#[test]
fn render_tells_no_secret_and_keeps_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let text = "\
name: c
hosts:
- {name: cp1, address: 192.0.2.1, roles: [control-plane, worker]}
- {name: cp2, address: 192.0.2.2, roles: [control-plane, worker]}
- {name: cp3, address: 192.0.2.3, roles: [control-plane, worker]}
";
    fs::write(dir.path().join("cluster.yaml"), text).unwrap();
    let out = dir.path().join("out");
    // With as much log as there is.
    let mut log = String::new();
    for words in [&["render", "out", "-v=10"][..], &["render", "out", "-o", "json", "-v=10"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_cox"))
            .args(words)
            .env("RUST_LOG", "trace")
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        log += &said(&output);
    }
    let secrets = secrets(&out);
    assert!(secrets.len() > 20, "{}", secrets.len());
    for secret in &secrets {
        assert!(!log.contains(secret.as_str()), "a secret is in what render says");
    }
    assert!(!log.contains("PRIVATE KEY") && log.contains("hosts/cp1/etc/kubernetes/pki/ca.key"), "{log}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&out), 0o700);
    assert_eq!(mode(&out.join("kubeconfig")), 0o600);
    assert_eq!(mode(&out.join("hosts/cp1/etc/kubernetes/pki/ca.key")), 0o600);

    // The second one kept what the first one made.
    let (value, success) = json(dir.path(), &["render", "out"]);
    assert!(success, "{value}");
    assert!(value["pki"].as_array().unwrap().iter().all(|i| i["action"] == "kept"), "{value}");
    fs::write(dir.path().join("cluster.yaml"), text.replace("192.0.2.3", "192.0.2.4")).unwrap();
    let (value, _) = json(dir.path(), &["render", "out"]);
    let renewed = |name: &str| {
        let items = value["pki"].as_array().unwrap();
        let item = items.iter().find(|i| i["path"].as_str().unwrap().ends_with(name)).unwrap();
        item["because"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(renewed("/kube-apiserver-cp1.crt"), "it lacks 192.0.2.4");
    assert_eq!(renewed("/etcd-cp1.crt"), "");
}
