//! The store of an API server, opened.
use std::path::PathBuf;
use std::sync::Arc;

use apiserver::Component;
use async_trait::async_trait;
use storage::etcd::{self, Etcd};
use storage::{Embedded, Options, Storage};

use crate::output::Failure;

/// The name under which `componentstatuses` shows a store, whatever it is.
const NAME: &str = "etcd-0";

/// etcd, as `componentstatuses` asks it.
struct EtcdHealth(Arc<Etcd>);

#[async_trait]
impl Component for EtcdHealth {
    fn name(&self) -> &str {
        NAME
    }

    async fn probe(&self) -> Result<String, String> {
        self.0.healthy().map(|()| "ok".into()).map_err(|e| e.to_string())
    }
}

/// A store in this process: where it does not work, nothing here does.
struct InProcess;

#[async_trait]
impl Component for InProcess {
    fn name(&self) -> &str {
        NAME
    }

    async fn probe(&self) -> Result<String, String> {
        Ok("ok".into())
    }
}

/// A store, and what it means for the server.
pub struct Opened {
    /// The store.
    pub storage: Arc<dyn Storage>,
    /// Whether other servers may use it.
    pub shared: bool,
    /// What `componentstatuses` shows of it.
    pub component: Arc<dyn Component>,
}

impl Opened {
    /// The embedded store in a directory.
    pub async fn embedded(dir: PathBuf) -> Result<Self, Failure> {
        let opened = tokio::task::spawn_blocking(move || Embedded::open(&dir, Options::default())).await;
        let storage = opened.map_err(|e| Failure::of(&e))?.map_err(|e| Failure::of(&e))?;
        Ok(Self { storage: Arc::new(storage), shared: false, component: Arc::new(InProcess) })
    }

    /// An etcd, once it answers.
    pub async fn etcd(options: etcd::Options) -> Result<Self, Failure> {
        let storage = Arc::new(Etcd::open(options).await.map_err(|e| Failure::of(&e))?);
        Ok(Self { storage: storage.clone(), shared: true, component: Arc::new(EtcdHealth(storage)) })
    }
}
