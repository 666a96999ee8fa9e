//! Secrets are sealed in the store, and can be sealed anew with another key.
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, eventually};
use serde_json::Value;

/// Whether a text lies in a file of a directory.
fn holds(directory: &Path, text: &str) -> Result<bool> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            if holds(&path, text)? {
                return Ok(true);
            }
        } else {
            let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
            if bytes.windows(text.len()).any(|w| w == text.as_bytes()) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

pub fn sealed(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("sealed")?;
    kubectl.run("create secret generic hidden --from-literal=password=correct-horse-battery")?;
    kubectl.run("create configmap shown --from-literal=text=plainly-visible")?;
    // base64 of the password, as the object has it.
    let encoded = "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5";
    ensure!(kubectl.field("secret hidden", ".data.password")? == encoded);
    let db = cluster.root().join("db");
    ensure!(holds(&db, "plainly-visible")?, "the test looks in the wrong place");
    ensure!(!holds(&db, "correct-horse")? && !holds(&db, encoded)?, "a secret lies plain in the store");

    // A new key comes first; the server follows the file, and all secrets are sealed with it.
    let path = cluster.root().join("encryption/config.yaml");
    let old = std::fs::read_to_string(&path)?;
    let key = old.lines().find_map(|l| l.trim().strip_prefix("secret: ")).context("no key")?;
    ensure!(!holds(&cluster.root().join("logs"), key)?, "a key is in the logs");
    let other = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let both = old.replace(
        "            - name: key1\n",
        &format!("            - name: key2\n              secret: {other}\n            - name: key1\n"),
    );
    ensure!(both != old);
    std::fs::write(&path, both)?;
    eventually("all secrets are sealed with the new key", Duration::from_secs(20), || {
        let answer = cluster.cox(&["secrets", "rewrite", "-o", "json"])?;
        ensure!(answer.code == Some(0), "{}{}", answer.out, answer.err);
        let told: Value = serde_json::from_str(&answer.out)?;
        ensure!(told["resources"][0]["rewritten"].as_u64().unwrap_or(0) > 0, "{told}");
        Ok(())
    })?;
    ensure!(holds(&db, "k8s:enc:secretbox:v1:key2:")?);
    std::fs::write(&path, old.replace(key, other).replace("key1", "key2"))?;
    ensure!(kubectl.field("secret hidden", ".data.password")? == encoded);
    kubectl.run("delete namespace sealed --wait --timeout=60s")?;
    Ok(())
}
