//! Several keys, their order, and a file that changes while the server runs.
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::*;

#[tokio::test]
async fn a_value_is_stale_when_another_key_or_provider_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    let inner = embedded(dir.path());
    let key = "/registry/secrets/default/x";
    let identity = "{identity: {}}";
    let (a, b) = (("a", KEY_A), ("b", KEY_B));
    // Each line: what it is configured as, whether the value of the line before is stale, its mark when rewritten.
    for (providers, stale, mark) in [
        (identity.to_owned(), false, "value"),
        (format!("{}, {identity}", keys("aescbc", &[a])), true, "k8s:enc:aescbc:v1:a:"),
        (keys("aescbc", &[a, b]), false, "k8s:enc:aescbc:v1:a:"),
        (keys("aescbc", &[b, a]), true, "k8s:enc:aescbc:v1:b:"),
        (keys("aescbc", &[b]), false, "k8s:enc:aescbc:v1:b:"),
        (format!("{}, {}", keys("secretbox", &[a]), keys("aescbc", &[b])), true, "k8s:enc:secretbox:v1:a:"),
        (format!("{}, {}", keys("aesgcm", &[b]), keys("secretbox", &[b, a])), true, "k8s:enc:aesgcm:v1:b:"),
        // The same provider twice, each with a key of the same name.
        (
            format!("{}, {}", keys("aesgcm", &[("b", KEY_A)]), keys("aesgcm", &[b])),
            true,
            "k8s:enc:aesgcm:v1:b:",
        ),
        (format!("{identity}, {}", keys("aesgcm", &[("b", KEY_A)])), true, "value"),
        (identity.to_owned(), false, "value"),
    ] {
        let store = over(&inner, "secrets", &providers).await;
        if inner.get(key, None).await.unwrap().0.is_some() {
            assert_eq!(get(&store, key).await.unwrap(), "value", "{providers}");
            assert_eq!(store.is_stale(key).await.unwrap(), stale, "{providers}");
        }
        put(&store, key, "value").await;
        assert!(!store.is_stale(key).await.unwrap());
        assert!(raw(&inner, key).await.starts_with(mark.as_bytes()), "{providers}");
    }
}

#[tokio::test]
async fn a_key_that_is_gone_is_named_as_upstream_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let inner = embedded(dir.path());
    for (provider, name) in [("aescbc", "AES"), ("secretbox", "Secretbox")] {
        let key = format!("/registry/secrets/default/{provider}");
        put(&over(&inner, "secrets", &keys(provider, &[("a", KEY_A)])).await, &key, "value").await;
        let got = get(&over(&inner, "secrets", &keys(provider, &[("b", KEY_B)])).await, &key).await;
        let want = format!(
            "unable to transform key {key:?}: no matching key was found for the provided {name} transformer"
        );
        assert_eq!(got.unwrap_err(), want);
    }
}

#[tokio::test]
async fn a_changed_file_counts_at_once_and_a_bad_one_never() {
    let dir = tempfile::tempdir().unwrap();
    let config = tempfile::tempdir().unwrap();
    let inner = embedded(dir.path());
    let path = file(config.path(), "secrets", &keys("secretbox", &[("a", KEY_A)]));
    let encryption = Encryption::load(&path, true, resources()).await.unwrap();
    let store = encryption.storage(inner.clone());
    let stop = CancellationToken::new();
    encryption.follow(stop.clone()).unwrap();
    let key = "/registry/secrets/default/x";
    let until_sealed_with = async |mark: &str| {
        let tried = async {
            loop {
                put(&store, key, "value").await;
                if raw(&inner, key).await.starts_with(mark.as_bytes()) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), tried).await.expect(mark);
    };
    until_sealed_with("k8s:enc:secretbox:v1:a:").await;
    // Renamed into place, and written in place.
    file(config.path(), "secrets", &keys("secretbox", &[("b", KEY_B), ("a", KEY_A)]));
    until_sealed_with("k8s:enc:secretbox:v1:b:").await;
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, "not: [a, configuration").unwrap();
    std::fs::write(&path, good.replace("secretbox", "aescbc")).unwrap();
    until_sealed_with("k8s:enc:aescbc:v1:b:").await;
    std::fs::write(&path, "").unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(config.path().join("marker"), "").unwrap();
    put(&store, key, "value").await;
    assert!(raw(&inner, key).await.starts_with(b"k8s:enc:aescbc:v1:b:"));
    std::fs::write(&path, good.replace("secretbox", "aesgcm")).unwrap();
    until_sealed_with("k8s:enc:aesgcm:v1:b:").await;
    stop.cancel();
}

#[tokio::test]
async fn a_file_that_cannot_be_used_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let text = |e: LoadError| e.to_string();
    let missing = dir.path().join("missing");
    assert!(
        text(load(&missing).await.err().unwrap())
            .starts_with("error reading encryption provider configuration file")
    );
    std::fs::write(&missing, "").unwrap();
    assert!(text(load(&missing).await.err().unwrap()).ends_with("is empty"));
    let path = file(dir.path(), "secrets", &keys("aescbc", &[("a", "AAAA")]));
    let got = text(load(&path).await.err().unwrap());
    assert!(
        got.ends_with("secret is not of the expected length, got 3, expected one of [16 24 32]"),
        "{got}"
    );
}
