//! From the file to what seals, now and whenever the file changes.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use inotify::{EventStream, Inotify, WatchMask};
use machinery::gvk::GroupResource;
use sha2::{Digest as _, Sha256};
use storage::Storage;
use tokio_util::sync::CancellationToken;

use crate::aes::{Cbc, Gcm};
use crate::config::{ConfigError, Configuration, Keys, ProviderConfiguration, group_resource};
use crate::encrypted::{Active, Encrypted};
use crate::kms::Kms;
use crate::provider::{Cipher, CipherError, Named, Provider};
use crate::secretbox::Secretbox;
use crate::transformers::{Providers, Resources, Transformers};

/// How long to wait for a key server that a changed file names and that is not healthy.
const AGAIN: Duration = Duration::from_secs(10);

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("error reading encryption provider configuration file {path:?}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is empty.
    #[error("encryption provider configuration file {0:?} is empty")]
    Empty(PathBuf),
    /// It is no configuration.
    #[error(
        "error while parsing file: error decoding encryption provider configuration file {path:?}: {source}"
    )]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ConfigError,
    },
    /// A key cannot be used.
    #[error("error while building transformers: {0}")]
    Key(String),
    /// A key server is not healthy; only said when a running server is given another configuration.
    #[error("{0}")]
    Unhealthy(String),
    /// The file cannot be watched.
    #[error("cannot watch {path:?}: {source}")]
    Watch {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Encryption as one file configures it.
pub struct Encryption {
    path: PathBuf,
    reload: bool,
    resources: Arc<Resources>,
    active: Arc<Active>,
    /// Tells the content that is in use; the content itself holds keys and is not kept.
    loaded: [u8; 32],
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

impl Encryption {
    /// Reads the file of `--encryption-provider-config`. `reload`: whether changes of it will be followed.
    pub async fn load(path: &Path, reload: bool, resources: Resources) -> Result<Self, LoadError> {
        let mut this = Self {
            path: path.to_owned(),
            reload,
            resources: Arc::new(resources),
            active: Arc::default(),
            loaded: digest(b""),
        };
        let (transformers, loaded) = this.read().await?;
        this.active.set(transformers);
        this.loaded = loaded;
        Ok(this)
    }

    /// The storage as those above see it: plain.
    pub fn storage(&self, inner: Arc<dyn Storage>) -> Encrypted {
        Encrypted::new(inner, self.resources.clone(), self.active.clone())
    }

    /// Whether every key server is healthy, as far as is known: none is asked now.
    pub fn health(&self) -> impl Fn() -> Result<(), String> + Send + Sync + 'static {
        let active = self.active.clone();
        move || active.get().kms().iter().try_for_each(|kms| kms.health())
    }

    /// Whether a health check tells something: there are key servers, or may be after a change of the file.
    pub fn has_health(&self) -> bool {
        self.reload || !self.active.get().kms().is_empty()
    }

    async fn read(&self) -> Result<(Transformers, [u8; 32]), LoadError> {
        let path = || self.path.clone();
        let text =
            tokio::fs::read(&self.path).await.map_err(|source| LoadError::Read { path: path(), source })?;
        if text.is_empty() {
            return Err(LoadError::Empty(path()));
        }
        let config = Configuration::parse(&text, self.reload)
            .map_err(|source| LoadError::Config { path: path(), source })?;
        Ok((transformers(&config).await?, digest(&text)))
    }

    /// Follows changes of the file until `stop`, if that was asked for. A change that cannot be used changes nothing.
    pub fn follow(self, stop: CancellationToken) -> Result<(), LoadError> {
        if !self.reload {
            return Ok(());
        }
        let directory = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let unwatchable = |source: std::io::Error| LoadError::Watch { path: directory.to_owned(), source };
        // The directory, since files are replaced by renaming, and mounted ones by moving a link beside them.
        let inotify = Inotify::init().map_err(unwatchable)?;
        let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::CREATE | WatchMask::DELETE;
        inotify.watches().add(directory, mask).map_err(unwatchable)?;
        let events = inotify.into_event_stream([0; 4096]).map_err(unwatchable)?;
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.follow_events(events) => {}
            }
        });
        Ok(())
    }

    async fn follow_events(self, mut events: EventStream<[u8; 4096]>) {
        let mut known = self.loaded;
        // The file may have changed before it was watched.
        let mut again: Option<Duration> = Some(Duration::ZERO);
        loop {
            let changed = async {
                let first = events.next().await;
                while let Some(Some(_)) = events.next().now_or_never() {}
                first
            };
            match again {
                None => {
                    if !matches!(changed.await, Some(Ok(_))) {
                        tracing::error!(path = %self.path.display(), "the encryption configuration is watched no more");
                        return;
                    }
                }
                Some(pause) => drop(tokio::time::timeout(pause, changed).await),
            }
            let found = digest(&tokio::fs::read(&self.path).await.unwrap_or_default());
            let waited = again.take().is_some_and(|pause| !pause.is_zero());
            if found == known && !waited {
                continue;
            }
            match self.replace().await {
                Ok(loaded) => {
                    known = loaded;
                    tracing::info!(path = %self.path.display(), "the encryption configuration has changed");
                }
                Err(error) => {
                    again = matches!(error, LoadError::Unhealthy(_)).then_some(AGAIN);
                    known = found;
                    let path = self.path.display();
                    tracing::error!(%path, %error, "the encryption configuration cannot be used; the old one stays");
                }
            }
        }
    }

    async fn replace(&self) -> Result<[u8; 32], LoadError> {
        let (next, loaded) = self.read().await?;
        for kms in next.kms() {
            kms.health().map_err(LoadError::Unhealthy)?;
        }
        self.active.set(next);
        Ok(loaded)
    }
}

async fn transformers(config: &Configuration) -> Result<Transformers, LoadError> {
    let mut found: BTreeMap<GroupResource, Providers> = BTreeMap::new();
    for one in &config.resources {
        let mut providers: Providers = Vec::new();
        for provider in &one.providers {
            providers.push(Arc::new(build(provider).await?));
        }
        for resource in &one.resources {
            // Two entries may name a resource: their providers follow each other.
            found.entry(group_resource(resource)).or_default().extend(providers.iter().cloned());
        }
    }
    Ok(Transformers::new(found))
}

async fn build(config: &ProviderConfiguration) -> Result<Provider, LoadError> {
    let keyed = |keys: &Keys, mark, name, cipher: fn(&[u8]) -> Result<Cipher, CipherError>| {
        let keys = keys.keys.iter().map(|key| {
            let bad = |why: &dyn std::fmt::Display| {
                LoadError::Key(format!("error while creating cipher for named key {}: {why}", key.name))
            };
            let secret = key.secret().ok_or_else(|| bad(&"secrets must be base64 encoded"))?;
            Ok(Named { mark: format!("{}:", key.name), cipher: cipher(&secret).map_err(|e| bad(&e))? })
        });
        Ok(Provider::Keys { mark, name, keys: keys.collect::<Result<_, LoadError>>()? })
    };
    if let Some(keys) = &config.aesgcm {
        keyed(keys, "k8s:enc:aesgcm:v1:", "AES", |key| Gcm::new(key).map(Cipher::Gcm))
    } else if let Some(keys) = &config.aescbc {
        keyed(keys, "k8s:enc:aescbc:v1:", "AES", |key| Cbc::new(key).map(Box::new).map(Cipher::Cbc))
    } else if let Some(keys) = &config.secretbox {
        keyed(keys, "k8s:enc:secretbox:v1:", "Secretbox", |key| Secretbox::new(key).map(Cipher::Secretbox))
    } else if let Some(kms) = &config.kms {
        let kms = Kms::new(&kms.name, &kms.endpoint, kms.timeout()).await;
        kms.keep_asking();
        Ok(Provider::Kms(kms))
    } else {
        Ok(Provider::Identity)
    }
}
