//! Secrets on disk, through a whole server.
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use storage::Storage as _;

use super::*;

const KEY_A: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const KEY_B: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

fn configure(dir: &Path, provider: &str, keys: &[(&str, &str)]) {
    let keys: Vec<String> = keys.iter().map(|(n, k)| format!("{{name: {n}, secret: '{k}'}}")).collect();
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{{resources: [secrets], providers: [{{{provider}: {{keys: [{}]}}}}, {{identity: {{}}}}]}}]\n",
        keys.join(", ")
    );
    std::fs::write(dir.join("new"), text).unwrap();
    std::fs::rename(dir.join("new"), dir.join("encryption.yaml")).unwrap();
}

/// The stored bytes of a secret in `default`, of a server that has stopped.
async fn stored(dir: &Path, name: &str) -> Vec<u8> {
    store(dir)
        .await
        .get(&format!("/registry/secrets/default/{name}"), None)
        .await
        .unwrap()
        .0
        .unwrap()
        .value
        .to_vec()
}

fn on_disk(dir: &Path, text: &str) -> bool {
    let mut files = vec![dir.join("db")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else if std::fs::read(path).unwrap().windows(text.len()).any(|w| w == text.as_bytes()) {
            return true;
        }
    }
    false
}

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_plain_to_clients_and_sealed_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), "secretbox", &[("a", KEY_A)]);
    let live = start(dir.path(), None).await;
    let value = STANDARD.encode("correct-horse-battery");
    live.ask(&format!("POST {SECRETS}"), &secret("x", "correct-horse-battery")).await;
    let map =
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"},"data":{"a":"plainly-visible"}}"#;
    live.ask("POST /api/v1/namespaces/default/configmaps", map).await;
    assert_eq!(live.ask(&format!("GET {SECRETS}/x"), "").await["data"]["p"], *value);
    assert_eq!(live.ask("GET /api/v1/secrets", "").await["items"][0]["data"]["p"], *value);
    live.stop().await;
    assert!(on_disk(dir.path(), "plainly-visible"), "the test looks in the wrong place");
    assert!(!on_disk(dir.path(), "correct-horse-battery") && !on_disk(dir.path(), &value));
    assert!(stored(dir.path(), "x").await.starts_with(b"k8s:enc:secretbox:v1:a:"));
    // After a restart it is read back.
    let live = start(dir.path(), None).await;
    assert_eq!(live.ask(&format!("GET {SECRETS}/x"), "").await["data"]["p"], *value);
    live.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_before_there_was_a_key_is_rewritten_by_an_update_of_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let live = start(dir.path(), None).await;
    live.ask(&format!("POST {SECRETS}"), &secret("x", "old-times")).await;
    live.stop().await;
    assert!(stored(dir.path(), "x").await.starts_with(b"{"));

    configure(dir.path(), "aescbc", &[("a", KEY_A)]);
    let live = start(dir.path(), None).await;
    let read = live.ask(&format!("GET {SECRETS}/x"), "").await;
    let written = live.ask(&format!("PUT {SECRETS}/x"), &read.to_string()).await;
    assert_ne!(read["metadata"]["resourceVersion"], written["metadata"]["resourceVersion"]);
    // Now it is as it should be, and another update of nothing changes nothing.
    let again = live.ask(&format!("PUT {SECRETS}/x"), &written.to_string()).await;
    assert_eq!(again["metadata"]["resourceVersion"], written["metadata"]["resourceVersion"]);

    // Another key, while the server runs.
    configure(dir.path(), "aescbc", &[("b", KEY_B), ("a", KEY_A)]);
    let rewritten = async {
        loop {
            let now = live.ask(&format!("PUT {SECRETS}/x"), &again.to_string()).await;
            if now["metadata"]["resourceVersion"] != again["metadata"]["resourceVersion"] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), rewritten).await.unwrap();
    live.stop().await;
    assert!(stored(dir.path(), "x").await.starts_with(b"k8s:enc:aescbc:v1:b:"));
    configure(dir.path(), "aescbc", &[("b", KEY_B)]);
    let live = start(dir.path(), None).await;
    assert_eq!(live.ask(&format!("GET {SECRETS}/x"), "").await["data"]["p"], *STANDARD.encode("old-times"));
    live.stop().await;
}

/// Puts into one secret's place what is stored of another; the server has stopped.
async fn swap(dir: &Path, from: &str, to: &str) {
    let bytes = stored(dir, from).await;
    let key = format!("/registry/secrets/default/{to}");
    store(dir).await.put(&key, bytes.into(), storage::Expect::Any, None).await.unwrap();
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect()
}

const ADMIN: &str = "admin@system:masters";

/// Whatever seals them: one secret's value in the place of another is nobody's secret. Some ciphers bind a value to its
/// key; where they do not, the object itself tells where it belongs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_value_is_refused_and_lists_that_it_belongs_to_fail() {
    let elsewhere = "the object of another key, default/theirs, lies there";
    for (provider, why) in [
        (
            "aesgcm",
            "unable to transform key \"/registry/secrets/default/mine\": cipher: message authentication failed",
        ),
        ("secretbox", elsewhere),
        ("aescbc", elsewhere),
    ] {
        let dir = tempfile::tempdir().unwrap();
        configure(dir.path(), provider, &[("a", KEY_A)]);
        let live = start(dir.path(), None).await;
        live.ask(&format!("POST {SECRETS}"), &secret("mine", "mine")).await;
        live.ask(&format!("POST {SECRETS}"), &secret("theirs", "theirs")).await;
        live.ask("POST /api/v1/namespaces", r#"{"metadata":{"name":"n"}}"#).await;
        live.ask("POST /api/v1/namespaces/n/secrets", &secret("other", "other")).await;
        live.stop().await;
        swap(dir.path(), "theirs", "mine").await;

        let live = start(dir.path(), None).await;
        for request in [format!("GET {SECRETS}/mine"), format!("GET {SECRETS}"), "GET /api/v1/secrets".into()]
        {
            let (status, answer) = live.ask_as(ADMIN, &request, &[], "").await;
            assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{provider}: {request}");
            let message = answer["message"].as_str().unwrap();
            assert!(message.starts_with("Internal error occurred: ") && message.contains(why), "{message}");
            assert!(!message.contains("dGhlaXJz"), "{message}");
        }
        // What it does not belong to goes on.
        assert_eq!(live.ask(&format!("GET {SECRETS}/theirs"), "").await["metadata"]["name"], "theirs");
        assert_eq!(names(&live.ask("GET /api/v1/namespaces/n/secrets", "").await), ["other"]);

        // It goes for who may break the cluster, says so, and asks for nothing else.
        let unread = "ignoreStoreReadErrorWithClusterBreakingPotential=true";
        let delete = format!("DELETE {SECRETS}/mine?{unread}");
        let (status, answer) = live.ask_as("jane", &delete, &[], "").await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
        let (status, answer) =
            live.ask_as(ADMIN, &format!("{delete}&propagationPolicy=Orphan"), &[], "").await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
        if provider == "aesgcm" {
            let (status, _) = live.ask_as(ADMIN, &format!("DELETE {SECRETS}/mine"), &[], "").await;
            assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        }
        live.ask(&delete, "").await;
        assert_eq!(names(&live.ask(&format!("GET {SECRETS}"), "").await), ["theirs"]);
        let (status, _) = live.ask_as(ADMIN, &format!("GET {SECRETS}/mine"), &[], "").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        live.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_comes_back_makes_lists_whole() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), "secretbox", &[("a", KEY_A)]);
    let live = start(dir.path(), None).await;
    live.ask(&format!("POST {SECRETS}"), &secret("x", "x")).await;
    live.stop().await;
    configure(dir.path(), "secretbox", &[("b", KEY_B)]);
    let live = start(dir.path(), None).await;
    let (status, answer) = live.ask_as(ADMIN, &format!("GET {SECRETS}"), &[], "").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains("unable to transform key \"/registry/secrets/default/x\""), "{message}");
    configure(dir.path(), "secretbox", &[("b", KEY_B), ("a", KEY_A)]);
    let whole = async {
        loop {
            let (status, list) = live.ask_as(ADMIN, &format!("GET {SECRETS}"), &[], "").await;
            if status.is_success() && names(&list) == ["x"] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), whole).await.unwrap();
    assert_eq!(live.ask(&format!("GET {SECRETS}/x"), "").await["data"]["p"], *STANDARD.encode("x"));
    live.stop().await;
}
