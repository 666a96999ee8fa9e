//! KMS v2 over a socket.
use std::sync::Mutex;

use apiserver_encryption::kms_v2::EncryptedObject;
use prost::Message as _;

use super::*;
use crate::plugin::{Plugin, State, start, state};

const SECRET: &str = "/registry/secrets/default/x";

fn provider(plugin: &Plugin) -> String {
    format!(
        "{{kms: {{apiVersion: v2, name: vault, endpoint: 'unix://{}', timeout: 5s}}}}",
        plugin.socket.display()
    )
}

/// How often the key server was asked to encrypt and to decrypt.
fn calls(state: &Mutex<State>) -> (usize, usize) {
    let state = state.lock().unwrap();
    (state.encrypted, state.decrypted)
}

fn object(stored: &[u8]) -> EncryptedObject {
    EncryptedObject::decode(stored.strip_prefix(b"k8s:enc:kms:v2:vault:").unwrap()).unwrap()
}

#[tokio::test]
async fn one_seed_serves_many_values_and_is_stored_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let (state, inner) = (state(), embedded(&dir.path().join("db")));
    let plugin = start(dir.path(), &state);
    let store = over(&inner, "secrets", &provider(&plugin)).await;
    for n in 0..50 {
        put(&store, &format!("/registry/secrets/default/{n}"), "hunter2").await;
        assert_eq!(get(&store, &format!("/registry/secrets/default/{n}")).await.unwrap(), "hunter2");
    }
    assert_eq!(calls(&state), (1, 0));
    let stored = object(&raw(&inner, "/registry/secrets/default/7").await);
    assert_eq!((stored.key_id.as_str(), stored.encrypted_dek_source_type), ("1", 1));
    assert_eq!(stored.annotations["version.encryption.example.com"], b"1");
    // 32 bytes that the key is derived from, 12 of nonce, the value, 16 of tag.
    assert_eq!(stored.encrypted_data.len(), 32 + 12 + "hunter2".len() + 16);

    // Another server, or this one after a restart: one question for each seed.
    let store = over(&inner, "secrets", &provider(&plugin)).await;
    for n in 0..50 {
        assert_eq!(get(&store, &format!("/registry/secrets/default/{n}")).await.unwrap(), "hunter2");
        assert!(!store.is_stale(&format!("/registry/secrets/default/{n}")).await.unwrap());
    }
    assert_eq!(calls(&state), (2, 1));
}

#[tokio::test]
async fn another_key_makes_values_stale() {
    let dir = tempfile::tempdir().unwrap();
    let (state, inner) = (state(), embedded(&dir.path().join("db")));
    let plugin = start(dir.path(), &state);
    put(&over(&inner, "secrets", &provider(&plugin)).await, SECRET, "value").await;
    state.lock().unwrap().key_id = "2".into();
    let store = over(&inner, "secrets", &provider(&plugin)).await;
    assert_eq!(get(&store, SECRET).await.unwrap(), "value");
    assert!(store.is_stale(SECRET).await.unwrap());
    put(&store, SECRET, "value").await;
    assert!(!store.is_stale(SECRET).await.unwrap());
    assert_eq!(object(&raw(&inner, SECRET).await).key_id, "2");
}

#[tokio::test]
async fn values_are_bound_to_their_path() {
    let dir = tempfile::tempdir().unwrap();
    let (state, inner) = (state(), embedded(&dir.path().join("db")));
    let plugin = start(dir.path(), &state);
    let store = over(&inner, "secrets", &provider(&plugin)).await;
    put(&store, SECRET, "value").await;
    let stolen = raw(&inner, SECRET).await;
    inner.put("/registry/secrets/mine/x", stolen.into(), Expect::Any, None).await.unwrap();
    let got = get(&store, "/registry/secrets/mine/x").await.unwrap_err();
    assert!(got.ends_with("cipher: message authentication failed"), "{got}");
}

#[tokio::test]
async fn without_its_key_server_a_server_starts_and_refuses_for_the_time_being() {
    let dir = tempfile::tempdir().unwrap();
    let (state, inner) = (state(), embedded(&dir.path().join("db")));
    let plugin = start(dir.path(), &state);
    let providers = provider(&plugin);
    put(&over(&inner, "secrets", &providers).await, SECRET, "value").await;
    drop(plugin);
    let encryption = load(&file(dir.path(), "secrets", &providers)).await.unwrap();
    let (health, store) = (encryption.health(), encryption.storage(inner.clone()));
    assert!(encryption.has_health());
    let why = health().unwrap_err();
    assert!(
        why.starts_with(
            "failed to perform status section of the healthz check for KMS Provider vault, error: rpc error"
        ),
        "{why}"
    );
    for error in [
        store.get(SECRET, None).await.unwrap_err(),
        store.range(storage::RangeRequest::prefix("/registry/secrets/")).await.unwrap_err(),
        store.put(SECRET, Bytes::from_static(b"v"), Expect::Any, None).await.unwrap_err(),
    ] {
        assert!(error.retryable(), "{error}");
    }
    // Reads work again as soon as it is back, without a restart.
    let _plugin = start(dir.path(), &state);
    assert_eq!(get(&store, SECRET).await.unwrap(), "value");
}

#[tokio::test]
async fn an_unhealthy_key_server_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let state = state();
    state.lock().unwrap().healthz = "sealed".into();
    let plugin = start(dir.path(), &state);
    let encryption = load(&file(dir.path(), "secrets", &provider(&plugin))).await.unwrap();
    let want = "kmsv2 Provider vault is not healthy, error: got unexpected healthz status: sealed";
    assert_eq!(encryption.health()().unwrap_err(), want);
}
