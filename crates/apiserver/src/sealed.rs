//! A store whose values are sealed: putting encryption between it and everything above, and waiting for the key servers
//! without which it cannot be read.
use std::fmt::Display;
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
    wait(all, keys, stop).await
}

/// Waits for as long as it takes, unless a key server is missing after a minute.
async fn wait<E: Display>(
    all: impl Future<Output = Result<(), E>>,
    keys: Option<&Keys>,
    stop: &CancellationToken,
) -> Result<(), StartError> {
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

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    /// Waits for a store that is read after `read` seconds (`None`: never), whose key server is there after `keys`
    /// seconds; gives what came of it and when.
    async fn start(read: Option<u64>, keys: u64) -> (Result<(), String>, u64) {
        let began = Instant::now();
        let there = Duration::from_secs(keys);
        let health: Keys = Arc::new(move || match began.elapsed() >= there {
            true => Ok(()),
            false => Err("kms-provider-0: no such socket".into()),
        });
        let all = async move {
            match read {
                Some(seconds) => sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
            Ok::<_, String>(())
        };
        let done = wait(all, Some(&health), &CancellationToken::new()).await;
        (done.map_err(|e| e.to_string()), began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_waits_a_minute_for_its_key_server() {
        let missing = "the store cannot be read without its key server: kms-provider-0: no such socket";
        for (read, keys, want) in [
            (Some(0), 0, (Ok(()), 0)),
            (Some(59), 58, (Ok(()), 59)),
            (None, 1000, (Err(missing.to_owned()), 60)),
            (Some(61), 61, (Err(missing.to_owned()), 60)),
            // It is there: then a large store may take its time.
            (Some(150), 1, (Ok(()), 150)),
        ] {
            assert_eq!(start(read, keys).await, want, "read after {read:?}, keys after {keys}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_ends_when_it_is_asked_to_or_cannot_go_on() {
        let stop = CancellationToken::new();
        let never = std::future::pending::<Result<(), String>>();
        let (stopped, ()) = tokio::join!(wait(never, None, &stop), async {
            sleep(Duration::from_secs(200)).await;
            stop.cancel();
        });
        assert_eq!(stopped.unwrap_err().to_string(), "asked to stop during the start");
        let broken = wait(async { Err("it is damaged") }, None, &CancellationToken::new()).await;
        assert_eq!(broken.unwrap_err().to_string(), "the store cannot be read: it is damaged");
    }
}
