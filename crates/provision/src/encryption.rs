//! The key that secrets are sealed with in the storage.
//!
//! `secretbox`: it authenticates what it hides, which `aescbc` does not, and its nonces are long enough to be random
//! for ever, where `aesgcm` needs a new key after some billions of writes. `identity` comes last, so that what was
//! stored before there was a key is still read.
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;

use anyhow::Context as _;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::TryRngCore as _;

use crate::Layout;
use crate::step::Step;

/// Bytes of the key.
const KEY: usize = 32;

/// Makes the key and its configuration, once.
pub(crate) struct EncryptionKey(pub(crate) Layout);

fn config(key: &[u8; KEY]) -> String {
    format!(
        "# How secrets are sealed in the storage. Keep a copy apart from it: without this file they are lost.\n\
         # The first key seals, all of them open. To replace a key: put a new one first, run `cox secrets rewrite`,\n\
         # then remove the old one. The server follows changes of this file.\n\
         apiVersion: apiserver.config.k8s.io/v1\n\
         kind: EncryptionConfiguration\n\
         resources:\n\
         \x20 - resources:\n\
         \x20     - secrets\n\
         \x20   providers:\n\
         \x20     - secretbox:\n\
         \x20         keys:\n\
         \x20           - name: key1\n\
         \x20             secret: {}\n\
         \x20     - identity: {{}}\n",
        STANDARD.encode(key)
    )
}

#[async_trait]
impl Step for EncryptionKey {
    fn name(&self) -> &'static str {
        "encryption key"
    }

    async fn is_done(&self) -> bool {
        fs::metadata(self.0.encryption_config()).is_ok_and(|m| m.len() > 0)
    }

    async fn apply(&mut self) -> anyhow::Result<String> {
        let path = self.0.encryption_config();
        let directory = path.parent().context("the file has no directory")?;
        match DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                // A new key opens nothing that an old one sealed.
                let stored = fs::read_dir(self.0.db()).is_ok_and(|mut entries| entries.next().is_some());
                anyhow::ensure!(
                    !stored,
                    "{} is gone, and the secrets of this cluster may be sealed with its key: put it back from a copy, \
                     or remove {} if no secret is worth keeping",
                    path.display(),
                    directory.display()
                );
            }
            Err(e) => return Err(e).with_context(|| format!("cannot create {}", directory.display())),
        }
        let mut key = [0; KEY];
        rand::rngs::OsRng.try_fill_bytes(&mut key).context("the kernel gives no random bytes")?;
        pki::write_private(&path, config(&key).as_bytes())?;
        Ok(path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    fn layout(dir: &Path) -> Layout {
        let layout = Layout::new(dir, "home").expect("a layout");
        layout.prepare().expect("made");
        layout
    }

    #[tokio::test]
    async fn makes_one_key_that_only_the_owner_reads() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = layout(dir.path());
        let mut step = EncryptionKey(layout.clone());
        assert!(!step.is_done().await);
        let told = step.apply().await.expect("made");
        assert!(step.is_done().await);
        let path = layout.encryption_config();
        let text = fs::read_to_string(&path).expect("there");
        let secret = text.lines().find_map(|l| l.trim().strip_prefix("secret: ")).expect("a key");
        assert_eq!(STANDARD.decode(secret).expect("base64").len(), KEY);
        assert!(!told.contains(secret));
        let mode = |p: &Path| fs::metadata(p).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().expect("a parent"))), (0o600, 0o700));
        let again = tempfile::tempdir().expect("a directory");
        let other = self::layout(again.path());
        EncryptionKey(other.clone()).apply().await.expect("made");
        assert_ne!(fs::read_to_string(other.encryption_config()).expect("there"), text);
    }

    #[tokio::test]
    async fn a_lost_key_is_not_replaced_silently() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = layout(dir.path());
        let mut step = EncryptionKey(layout.clone());
        step.apply().await.expect("made");
        fs::remove_file(layout.encryption_config()).expect("removed");
        step.apply().await.expect("nothing is stored yet");
        fs::write(layout.db().join("log"), "x").expect("written");
        fs::remove_file(layout.encryption_config()).expect("removed");
        let error = step.apply().await.expect_err("refused");
        assert!(error.to_string().contains("put it back from a copy"), "{error}");
    }
}
