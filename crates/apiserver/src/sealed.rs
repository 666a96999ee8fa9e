//! A store whose values are sealed: putting encryption between it and everything above, and waiting for the key servers
//! without which it cannot be read.
use std::sync::Arc;
use std::time::Duration;

use api::kinds::Kind;
use apiserver_encryption::{Encryption, LoadError, Resources};
use apiserver_http::Check;
use apiserver_watch_cache::Cache;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::server::StartError;

/// Whether key servers are healthy.
pub(crate) type Keys = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What is known of encryption besides the storage it lies in.
#[derive(Default)]
pub(crate) struct Sealed {
    /// Tells of the key servers, where there are any.
    pub check: Option<Check>,
    /// The same for those who ask here.
    pub health: Option<Keys>,
}

/// Puts encryption between the storage and everything above it, if it is configured.
pub(crate) async fn seal(
    config: &mut Config,
    stop: &CancellationToken,
    kinds: impl Iterator<Item = Arc<Kind>>,
) -> Result<Sealed, StartError> {
    let Some(file) = &config.encryption else { return Ok(Sealed::default()) };
    let resources = Resources::new(kinds.map(|k| (apiserver_registry::prefix(&k), k.group_resource())));
    let path = file.path.clone();
    let unusable = |e: LoadError| StartError::File { path: path.clone(), why: e.to_string() };
    let encryption = Encryption::load(&file.path, file.reload, resources).await.map_err(unusable)?;
    config.storage = Arc::new(encryption.storage(config.storage.clone()));
    let health: Keys = Arc::new(encryption.health());
    let probe = health.clone();
    let check = encryption.has_health().then(|| Check::quick("kms-providers", true, move || probe()));
    encryption.follow(stop.clone()).map_err(unusable)?;
    Ok(Sealed { check, health: Some(health) })
}

/// How long a start waits for key servers without which the store cannot be read.
const KEYS: Duration = Duration::from_secs(60);

/// Waits until every cache has its first list.
pub(crate) async fn filled(
    caches: &[Arc<Cache>],
    keys: Option<&Keys>,
    stop: &CancellationToken,
) -> Result<(), StartError> {
    let all = async {
        for cache in caches {
            cache.ready().await?;
        }
        Ok::<_, apiserver_watch_cache::Error>(())
    };
    tokio::pin!(all);
    loop {
        let waited = tokio::select! {
            waited = tokio::time::timeout(KEYS, &mut all) => waited,
            () = stop.cancelled() => return Err(StartError::Setting("asked to stop during the start".into())),
        };
        if let Ok(done) = waited {
            return done.map_err(|e| StartError::Setting(format!("the store cannot be read: {e}")));
        }
        if let Some(Err(why)) = keys.map(|health| health()) {
            return Err(StartError::Setting(format!(
                "the store cannot be read without its key server: {why}"
            )));
        }
        tracing::warn!("the store has not been read yet");
    }
}
