//! Encryption at rest over a real store, in one binary.
mod kms;
mod plugin;
mod rotation;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use apiserver_encryption::{Encryption, LoadError, Resources};
use bytes::Bytes;
use machinery::gvk::GroupResource;
use storage::{Embedded, Expect, Options, Storage, WriteOutcome};

/// Two keys, as files have them.
const KEY_A: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const KEY_B: &str = "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

fn embedded(dir: &Path) -> Arc<dyn Storage> {
    Arc::new(Embedded::open(dir, Options { sync: false, ..Options::default() }).unwrap())
}

/// Secrets and config maps.
fn resources() -> Resources {
    Resources::new([
        ("/registry/secrets/".to_owned(), GroupResource::new("", "secrets")),
        ("/registry/configmaps/".to_owned(), GroupResource::new("", "configmaps")),
        ("/registry/deployments/".to_owned(), GroupResource::new("apps", "deployments")),
    ])
}

/// A file that gives all `resources` these providers.
fn file(dir: &Path, resources: &str, providers: &str) -> PathBuf {
    let path = dir.join("encryption.yaml");
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{{resources: [{resources}], providers: [{providers}]}}]\n"
    );
    let fresh = dir.join("encryption.new");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(&fresh, &path).unwrap();
    path
}

fn keys(provider: &str, keys: &[(&str, &str)]) -> String {
    let all: Vec<String> =
        keys.iter().map(|(name, key)| format!("{{name: {name}, secret: '{key}'}}")).collect();
    format!("{{{provider}: {{keys: [{}]}}}}", all.join(", "))
}

async fn load(path: &Path) -> Result<Encryption, LoadError> {
    Encryption::load(path, false, resources()).await
}

/// The store as those above see it, with these providers for `resources`.
async fn over(inner: &Arc<dyn Storage>, resources: &str, providers: &str) -> impl Storage + use<> {
    let dir = tempfile::tempdir().unwrap();
    load(&file(dir.path(), resources, providers)).await.unwrap().storage(inner.clone())
}

async fn put(store: &dyn Storage, key: &str, value: &str) {
    let value = Bytes::copy_from_slice(value.as_bytes());
    match store.put(key, value.clone(), Expect::Any, None).await.unwrap() {
        WriteOutcome::Done(kv) => assert_eq!(kv.value, value),
        other => panic!("{other:?}"),
    }
}

async fn get(store: &dyn Storage, key: &str) -> Result<String, String> {
    match store.get(key, None).await {
        Ok((Some(kv), _)) => Ok(String::from_utf8_lossy(&kv.value).into_owned()),
        Ok((None, _)) => Err("absent".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// The bytes below.
async fn raw(inner: &Arc<dyn Storage>, key: &str) -> Vec<u8> {
    inner.get(key, None).await.unwrap().0.unwrap().value.to_vec()
}
