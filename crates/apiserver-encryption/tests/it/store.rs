//! What lies in the store, and what becomes of values that somebody changed there.
use std::sync::atomic::{AtomicU32, Ordering};

use storage::RangeRequest;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_store_passes_the_suite_of_stores() {
    let root = tempfile::tempdir().unwrap();
    let number = AtomicU32::new(0);
    storage::suite::run(|| async {
        let dir = root.path().join(number.fetch_add(1, Ordering::Relaxed).to_string());
        let providers = keys("secretbox", &[("a", KEY_A)]);
        let path = file(root.path(), "secrets", &providers);
        let everything = Resources::new([(String::new(), GroupResource::new("", "secrets"))]);
        let encryption = Encryption::load(&path, false, everything).await.unwrap();
        Arc::new(encryption.storage(embedded(&dir))) as Arc<dyn Storage>
    })
    .await;
}

#[tokio::test]
async fn nothing_of_a_secret_reaches_the_disk() {
    for provider in ["aescbc", "aesgcm", "secretbox"] {
        let dir = tempfile::tempdir().unwrap();
        let inner = embedded(dir.path());
        let store = over(&inner, "secrets", &keys(provider, &[("a", KEY_A)])).await;
        put(&store, "/registry/secrets/default/x", "hunter2-is-the-password").await;
        put(&store, "/registry/configmaps/default/x", "plainly-visible").await;
        assert_eq!(get(&store, "/registry/secrets/default/x").await.unwrap(), "hunter2-is-the-password");
        let stored = raw(&inner, "/registry/secrets/default/x").await;
        assert!(stored.starts_with(format!("k8s:enc:{provider}:v1:a:").as_bytes()));
        drop((store, inner));
        let mut all = Vec::new();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                all.extend(std::fs::read(path).unwrap());
            }
        }
        let has = |text: &[u8]| all.windows(text.len()).any(|w| w == text);
        assert!(has(b"plainly-visible"), "the test looks in the wrong place");
        assert!(!has(b"hunter2"));
    }
}

#[tokio::test]
async fn upstreams_bytes_are_read() {
    // printf '{"kind":"Secret"}' | openssl enc -aes-256-cbc -K 00..1f -iv 00..0f
    let dir = tempfile::tempdir().unwrap();
    let inner = embedded(dir.path());
    let sealed = [
        &b"k8s:enc:aescbc:v1:key1:"[..],
        &(0..16).collect::<Vec<u8>>(),
        &[
            0x1e, 0x99, 0xf4, 0x2a, 0x87, 0xdb, 0x9e, 0xf8, 0xab, 0x2a, 0x28, 0x9e, 0xfc, 0x82, 0x05, 0x8d,
            0x9b, 0x6d, 0xf3, 0xc3, 0xb8, 0x06, 0x15, 0x7e, 0x27, 0x66, 0x3d, 0x65, 0x91, 0x24, 0xbb, 0x7a,
        ],
    ]
    .concat();
    inner.put("/registry/secrets/default/x", sealed.into(), Expect::Any, None).await.unwrap();
    let store = over(&inner, "secrets", &keys("aescbc", &[("key1", KEY_A)])).await;
    assert_eq!(get(&store, "/registry/secrets/default/x").await.unwrap(), r#"{"kind":"Secret"}"#);
}

#[tokio::test]
async fn openssl_reads_what_is_written() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let dir = tempfile::tempdir().unwrap();
    let inner = embedded(dir.path());
    let store = over(&inner, "secrets", &keys("aescbc", &[("key1", KEY_A)])).await;
    put(&store, "/registry/secrets/default/x", "attack at dawn").await;
    let stored = raw(&inner, "/registry/secrets/default/x").await;
    let stored = stored.strip_prefix(b"k8s:enc:aescbc:v1:key1:").unwrap();
    let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let key = hex(&(0..32).collect::<Vec<u8>>());
    let openssl = Command::new("openssl")
        .args(["enc", "-d", "-aes-256-cbc", "-K", &key, "-iv", &hex(&stored[..16])])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match openssl {
        Ok(child) => child,
        Err(e) => {
            println!("skipped: openssl cannot be run: {e}");
            return;
        }
    };
    child.stdin.take().unwrap().write_all(&stored[16..]).unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"attack at dawn");
}

#[tokio::test]
async fn values_that_were_swapped_are_refused_where_the_path_is_bound() {
    for (provider, bound) in [("aesgcm", true), ("secretbox", false), ("aescbc", false)] {
        let dir = tempfile::tempdir().unwrap();
        let inner = embedded(dir.path());
        let store = over(&inner, "secrets", &keys(provider, &[("a", KEY_A)])).await;
        put(&store, "/registry/secrets/default/x", "of x").await;
        put(&store, "/registry/secrets/default/y", "of y").await;
        let x = raw(&inner, "/registry/secrets/default/x").await;
        inner.put("/registry/secrets/default/y", x.into(), Expect::Any, None).await.unwrap();
        let got = get(&store, "/registry/secrets/default/y").await;
        if bound {
            let want = "unable to transform key \"/registry/secrets/default/y\": cipher: message authentication failed";
            assert_eq!(got.unwrap_err(), want);
        } else {
            assert_eq!(got.unwrap(), "of x");
        }
    }
}

#[tokio::test]
async fn one_bad_value_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let inner = embedded(dir.path());
    let store = over(&inner, "secrets", &keys("secretbox", &[("a", KEY_A)])).await;
    let after = store.now().await.unwrap();
    let mut watch = store.watch("/registry/secrets/", after).await.unwrap();
    put(&store, "/registry/secrets/default/a", "good").await;
    let mut bad = raw(&inner, "/registry/secrets/default/a").await;
    *bad.last_mut().unwrap() ^= 1;
    inner.put("/registry/secrets/default/b", bad.clone().into(), Expect::Any, None).await.unwrap();
    put(&store, "/registry/secrets/default/c", "good too").await;
    let range = store.range(RangeRequest::prefix("/registry/secrets/")).await.unwrap();
    let values: Vec<&[u8]> = range.kvs.iter().map(|kv| &kv.value[..]).collect();
    assert_eq!(values, [&b"good"[..], &bad, b"good too"]);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        for event in watch.next_batch().await.unwrap().unwrap().events {
            seen.push(event.kv.clone().unwrap().value.to_vec());
        }
    }
    assert_eq!(seen, [b"good".to_vec(), bad, b"good too".to_vec()]);
    assert!(
        get(&store, "/registry/secrets/default/b").await.unwrap_err().contains("unable to transform key")
    );
    assert!(store.is_stale("/registry/secrets/default/b").await.is_err());
    // It can be replaced and deleted all the same.
    put(&store, "/registry/secrets/default/b", "mended").await;
    assert_eq!(get(&store, "/registry/secrets/default/b").await.unwrap(), "mended");
}

#[tokio::test]
async fn wildcards_reach_as_far_as_they_say() {
    let sealed = async |resources: &str, key: &str| {
        let dir = tempfile::tempdir().unwrap();
        let inner = embedded(dir.path());
        let store = over(&inner, resources, &keys("secretbox", &[("a", KEY_A)])).await;
        put(&store, key, "value").await;
        assert_eq!(get(&store, key).await.unwrap(), "value");
        raw(&inner, key).await != b"value"
    };
    let (secret, map) = ("/registry/secrets/a/b", "/registry/configmaps/a/b");
    let (deployment, widget) = ("/registry/deployments/a/b", "/registry/example.com/widgets/a/b");
    for (resources, expect) in [
        ("secrets", [true, false, false, false]),
        ("'*.'", [true, true, false, false]),
        ("'*.apps'", [false, false, true, false]),
        ("widgets.example.com", [false, false, false, true]),
        ("'*.*'", [true, true, true, true]),
    ] {
        for (key, expect) in [secret, map, deployment, widget].into_iter().zip(expect) {
            assert_eq!(sealed(resources, key).await, expect, "{resources} {key}");
        }
        // What is no object is never touched.
        assert!(!sealed(resources, "/registry/ranges/serviceips").await);
    }
}

#[tokio::test]
async fn identity_does_not_write_what_looks_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let inner = embedded(dir.path());
    let store = over(&inner, "secrets", "{identity: {}}").await;
    put(&store, "/registry/secrets/a/b", "plain").await;
    let bad = Bytes::from_static(b"k8s:enc:aescbc:v1:x:");
    assert!(store.put("/registry/secrets/a/b", bad.clone(), Expect::Any, None).await.is_err());
    inner.put("/registry/secrets/a/b", bad, Expect::Any, None).await.unwrap();
    let want = "unable to transform key \"/registry/secrets/a/b\": no matching prefix found";
    assert_eq!(get(&store, "/registry/secrets/a/b").await.unwrap_err(), want);
}
