//! The verbs about stores, on the real binary: beside a store that this process runs, on a stopped one, and with a
//! real etcd.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use storage::real_etcd::{self, RealEtcd, ServerTls};
use storage::{Embedded, Expect, Image, Options, Storage, WriteOutcome};

const SECRET: &str = "/registry/secrets/default/open";

fn cox(words: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_cox")).args(words).stdin(Stdio::null()).output();
    output.expect("cox runs")
}

/// What a verb says with `-o json`, and whether its exit code is 0.
fn json(words: &[&str]) -> (Value, bool) {
    let output = cox(&[words, &["-o", "json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(text.trim())
        .unwrap_or_else(|e| panic!("{words:?}: {e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (value, output.status.success())
}

fn done(words: &[&str]) -> Value {
    let (value, success) = json(words);
    assert!(success, "{words:?}: {value}");
    value
}

fn refused(words: &[&str], why: &str) {
    let (value, success) = json(words);
    assert!(!success, "{words:?}: {value}");
    let error = value["error"].as_str().expect("an error");
    assert!(error.contains(why), "{words:?}: {error}");
}

fn open(dir: &Path) -> Embedded {
    Embedded::open(dir, Options { sync: false, ..Options::default() }).expect("open")
}

async fn put(store: &Embedded, key: &str, value: &str, lease: Option<storage::LeaseId>) {
    let put = store.put(key, Bytes::copy_from_slice(value.as_bytes()), Expect::Any, lease).await;
    assert!(matches!(put, Ok(WriteOutcome::Done(_))), "{put:?}");
}

/// Keys that were changed in another order than they were made.
async fn fill(store: &Embedded) {
    for round in 0..40 {
        put(
            store,
            &format!("/registry/pods/default/{}", round * 7 % 25),
            &format!("{{\"n\":{round}}}"),
            None,
        )
        .await;
    }
    put(store, SECRET, "{\"password\":\"hunter2\"}", None).await;
    put(store, "/registry/secrets/default/sealed", "k8s:enc:aescbc:v1:a:\u{1}\u{2}", None).await;
    let lease = store.grant(Duration::from_secs(3600)).await.expect("grant");
    put(store, "/registry/events/default/e", "{}", Some(lease)).await;
}

#[tokio::test]
async fn a_running_store_is_backed_up_and_a_stopped_one_restored() {
    let root = tempfile::tempdir().expect("a directory");
    let (db, file) = (root.path().join("db"), root.path().join("b.cox"));
    let (db, file) = (db.to_str().expect("UTF-8"), file.to_str().expect("UTF-8"));
    let store = open(Path::new(db));
    fill(&store).await;
    let revision = store.now().await.expect("now").0;

    let told = done(&["backup", file, "--db", db]);
    assert_eq!(
        (told["revision"].as_u64(), told["keys"].as_u64(), told["leases"].as_u64()),
        (Some(revision), Some(28), Some(1))
    );
    refused(&["backup", file, "--db", db], "is there already");
    done(&["backup", file, "--db", db, "--force"]);
    assert_eq!(done(&["db", "check", "--backup", file])["healthy"], true);
    assert_eq!(done(&["db", "check", "--db", db])["keys"], 28);
    refused(&["restore", file, "--db", db], "is in use by process");
    refused(&["db", "compact", "--db", db], "is in use by process");

    let stats = done(&["db", "stats", "--db", db]);
    let secrets =
        stats["resources"].as_array().expect("resources").iter().find(|r| r["prefix"] == "/registry/secrets");
    let secrets = secrets.expect("there are secrets");
    assert_eq!((&secrets["keys"], &secrets["encrypted"]), (&2.into(), &1.into()));
    let listed = done(&["db", "list", "/registry/pods/", "--limit", "3", "--db", db]);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(3));

    for words in
        [&["db", "get", SECRET, "--db", db][..], &["db", "list", "--db", db], &["db", "stats", "--db", db]]
    {
        for more in [&[][..], &["-o", "json"]] {
            let output = cox(&[words, more].concat());
            assert!(output.status.success());
            let said = format!("{output:?}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
    let shown = done(&["db", "get", SECRET, "--show-secrets", "--db", db]);
    assert_eq!(shown["value"], "{\"password\":\"hunter2\"}");
    let sealed = done(&["db", "get", "/registry/secrets/default/sealed", "--db", db]);
    assert_eq!((&sealed["form"], &sealed["hidden"]), (&"encrypted".into(), &false.into()));
    let output = cox(&["db", "get", "/registry/pods/default/0", "--db", db]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "{\"n\":25}\n");
    refused(&["db", "get", "/registry/pods/none", "--db", db], "there is no key");

    put(&store, "/registry/pods/default/late", "{}", None).await;
    drop(store);
    let compacted = done(&["db", "compact", "--db", db]);
    assert!(compacted["diskBytes"].as_u64() < compacted["diskBytesBefore"].as_u64(), "{compacted}");
    let restored = done(&["restore", file, "--db", db]);
    assert_eq!(restored["revision"].as_u64(), Some(revision + 1 + 1_000_000_000));
    let aside = restored["oldData"].as_str().expect("kept");
    assert_eq!(Image::read(Path::new(aside)).expect("the old data").0.len(), 29);
    assert_eq!(done(&["db", "check", "--db", db])["keys"], 28);

    let mut bytes = std::fs::read(file).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).expect("write");
    refused(&["restore", file, "--db", db], "the backup is not whole");
    refused(&["db", "check", "--backup", file], "the backup is not whole");
    refused(&["restore", "/etc/hostname", "--db", db], "is no backup");
}

#[tokio::test]
async fn damage_is_reported() {
    let root = tempfile::tempdir().expect("a directory");
    let db = root.path().join("db");
    let store = open(&db);
    fill(&store).await;
    drop(store);
    let log = db.join("0000000000000001.log");
    let mut bytes = std::fs::read(&log).expect("read");
    bytes[100] ^= 1;
    std::fs::write(&log, bytes).expect("write");
    let db = db.to_str().expect("UTF-8");
    for words in [
        &["db", "check", "--db", db][..],
        &["db", "stats", "--db", db],
        &["backup", "/tmp/never.cox", "--db", db],
    ] {
        refused(words, "is damaged at offset");
    }
    assert!(!Path::new("/tmp/never.cox").exists());
    refused(&["db", "stats", "--db", "/nonexistent/db"], "/nonexistent/db");
    refused(&["backup", "/tmp/never.cox", "--data-dir", "/nonexistent"], "there is no cluster");
}

/// Keys and values in the order of their last change, and the time their leases have left.
async fn order(store: &dyn Storage) -> (Vec<(String, Bytes, bool)>, Vec<u64>) {
    let image = storage::copy::read(store, &mut |_| {}).await.expect("read");
    let mut kvs: Vec<_> = image.prefix("").collect();
    kvs.sort_by_key(|kv| kv.mod_revision);
    let kvs = kvs.into_iter().map(|kv| (kv.key.to_string(), kv.value, kv.lease.is_some())).collect();
    (kvs, image.leases().iter().map(|lease| lease.left.as_secs() / 100).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_moves_to_etcd_and_back() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let server = RealEtcd::start(&program, root.path(), 1, None);
    let url = server.endpoint(0);
    let (db, file) = (root.path().join("db"), root.path().join("b.cox"));
    let (db, file) = (db.to_str().expect("UTF-8"), file.to_str().expect("UTF-8"));
    let store = open(Path::new(db));
    fill(&store).await;
    let before = order(&store).await;
    let revision = store.now().await.expect("now").0;
    let etcd = server.open(Default::default()).await;
    let to = ["migrate", "--from", "embedded", "--to", "etcd", "--db", db, "--etcd-servers", &url];
    refused(&to, "is in use by process");
    drop(store);

    let moved = done(&to);
    assert_eq!((moved["keys"].as_u64(), moved["leases"].as_u64()), (Some(28), Some(1)));
    assert!(moved["revision"].as_u64() >= Some(revision), "{moved}");
    assert_eq!(order(&etcd).await, before, "no object, order or lease is lost");
    refused(&to, "the target holds 28 keys already");

    let stats = done(&["db", "stats", "--etcd-servers", &url]);
    assert_eq!(stats["keys"], 28);
    let got = done(&["db", "get", "/registry/pods/default/0", "--etcd-servers", &url]);
    assert_eq!(got["value"], "{\"n\":25}");
    assert_eq!(done(&["db", "check", "--etcd-servers", &url])["healthy"], true);
    done(&["backup", file, "--etcd-servers", &url]);
    put_etcd(&etcd, "/registry/pods/default/late").await;
    let now = etcd.now().await.expect("now").0;
    refused(&["restore", file, "--etcd-servers", &url], "keys already");
    let restored = done(&["restore", file, "--etcd-servers", &url, "--replace"]);
    assert!(restored["revision"].as_u64() > Some(now), "revisions never go back: {restored}");
    assert_eq!(restored["removed"], 1);
    assert_eq!(order(&etcd).await, before);
    done(&["db", "compact", "--etcd-servers", &url]);

    let back = ["migrate", "--from", "etcd", "--to", "embedded", "--db", db, "--etcd-servers", &url];
    let back = done(&back);
    let store = open(Path::new(db));
    assert_eq!(Some(store.now().await.expect("now").0), back["revision"].as_u64());
    assert!(back["revision"].as_u64() > restored["revision"].as_u64());
    assert_eq!(order(&store).await, before);
}

async fn put_etcd(store: &dyn Storage, key: &str) {
    let put = store.put(key, Bytes::from_static(b"{}"), Expect::Any, None).await;
    assert!(matches!(put, Ok(WriteOutcome::Done(_))), "{put:?}");
}

/// A control plane of the test's own; stopped and removed with it.
struct ControlPlane {
    dir: tempfile::TempDir,
    port: u16,
}

impl ControlPlane {
    fn which(&self) -> [&str; 4] {
        ["--name", "stores", "--data-dir", self.dir.path().to_str().expect("UTF-8")]
    }

    fn up(&self) {
        let port = self.port.to_string();
        let words = ["up", "--no-node", "--secure-port", &port];
        done(&[&words[..], &self.which()].concat());
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        cox(&[&["down", "--purge"][..], &self.which()].concat());
    }
}

impl ControlPlane {
    fn new() -> Self {
        // In the way of nobody, and short enough for the sockets below it.
        let dir = tempfile::Builder::new().prefix("cox-stores-").tempdir_in("/tmp").expect("a directory");
        Self { dir, port: real_etcd::free_port() }
    }

    fn done(&self, words: &[&str]) -> Value {
        done(&[words, &self.which()].concat())
    }

    fn refused(&self, words: &[&str], why: &str) {
        refused(&[words, &self.which()].concat(), why);
    }

    fn pki(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("stores").join("pki").join(name)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_moved_to_etcd_needs_no_flags() {
    let Some(program) = real_etcd::program() else { return };
    let cluster = ControlPlane::new();
    cluster.up();
    cluster.done(&["down"]);
    let keys = cluster.done(&["db", "stats"])["keys"].as_u64().expect("keys");

    // Certificates on both sides, of the cluster's own authority.
    let logs = tempfile::tempdir().expect("a directory");
    let (authority, certificate, key) =
        (cluster.pki("ca.crt"), cluster.pki("kube-apiserver.crt"), cluster.pki("kube-apiserver.key"));
    let tls = ServerTls { authority: authority.clone(), certificate, key };
    let server = RealEtcd::start(&program, logs.path(), 1, Some(tls));
    let url = server.endpoint(0);
    let client = ["crt", "key"].map(|end| cluster.pki(&format!("admin.{end}")));
    let tls = storage::etcd::TlsFiles {
        authority: authority.clone(),
        client: Some((client[0].clone(), client[1].clone())),
    };
    drop(server.open(storage::etcd::Options { tls: Some(tls), ..Default::default() }).await);
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let flags = [
        format!("--etcd-servers={url}"),
        format!("--etcd-cafile={}", text(&authority)),
        format!("--etcd-certfile={}", text(&client[0])),
        format!("--etcd-keyfile={}", text(&client[1])),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    cluster.refused(
        &[&["up", "--no-node", "--secure-port=0"], &flags[..]].concat(),
        "are in its embedded store",
    );
    let moved = cluster.done(&[&["migrate", "--from", "embedded", "--to", "etcd"], &flags[..]].concat());
    assert_eq!(moved["keys"].as_u64(), Some(keys));
    cluster.refused(&[&["migrate", "--from", "embedded", "--to", "etcd"], &flags[..]].concat(), "already");

    cluster.up();
    assert_eq!(cluster.done(&["status"])["healthy"], true);
    let name = format!("etcd {url}");
    let stats = cluster.done(&["db", "stats"]);
    assert_eq!(stats["store"], name.as_str());
    // Who is there, and which controllers lead, is written down now.
    assert!(stats["keys"].as_u64() > Some(keys), "{stats}");
    let file = text(&cluster.dir.path().join("b.cox"));
    assert_eq!(cluster.done(&["backup", &file])["source"], name.as_str());
    assert_eq!(cluster.done(&["db", "check"])["store"], name.as_str());
    assert!(cluster.done(&["db", "get", "/registry/namespaces/default"])["modRevision"].is_number());
    cluster.refused(&["restore", &file, "--replace"], "the cluster runs, as process");
    cluster.done(&["db", "compact"]);
    cluster.done(&["down"]);
    cluster.refused(&["restore", &file], "keys already");
    assert_eq!(cluster.done(&["restore", &file, "--replace"])["store"], name.as_str());
    cluster.up();
    assert_eq!(cluster.done(&["status"])["healthy"], true);
    cluster.done(&["down"]);

    let back = cluster.done(&["migrate", "--from", "etcd", "--to", "embedded"]);
    assert!(back["keys"].as_u64() >= Some(keys), "{back}");
    drop(server);
    cluster.up();
    assert_eq!(cluster.done(&["status"])["healthy"], true);
    let stats = cluster.done(&["db", "stats"]);
    assert!(stats["revision"].as_u64() >= back["revision"].as_u64(), "{stats}");
    assert!(stats["store"].as_str().is_some_and(|store| store.ends_with("/stores/db")), "{stats}");
}

#[test]
fn a_whole_control_plane_is_backed_up_and_restored() {
    let cluster = ControlPlane::new();
    cluster.up();
    let file = cluster.dir.path().join("b.cox");
    let file = file.to_str().expect("UTF-8");
    let which = cluster.which();
    let with = |words: &[&'static str]| -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).chain(which.map(str::to_owned)).collect()
    };
    let call = |words: &[String]| done(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let backup = done(&[&["backup", file][..], &which].concat());
    assert!(backup["keys"].as_u64() > Some(50), "{backup}");
    assert_eq!(call(&with(&["db", "check"]))["healthy"], true);
    refused(&[&["restore", file][..], &which].concat(), "the cluster runs, as process");
    refused(&[&["db", "compact"][..], &which].concat(), "the cluster runs, as process");
    call(&with(&["down"]));
    let restored = done(&[&["restore", file][..], &which].concat());
    assert_eq!(restored["keys"], backup["keys"]);
    cluster.up();
    let stats = call(&with(&["db", "stats"]));
    assert!(stats["revision"].as_u64() >= restored["revision"].as_u64(), "it goes on from there: {stats}");
    assert!(stats["keys"].as_u64() >= backup["keys"].as_u64());
    assert_eq!(call(&with(&["status"]))["healthy"], true);
}
