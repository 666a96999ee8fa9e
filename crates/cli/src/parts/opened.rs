//! The store of an API server, opened.
use std::path::PathBuf;
use std::sync::Arc;

use apiserver::{Component, HttpProbe, Outbound, OutboundTrust};
use async_trait::async_trait;
use storage::etcd::{self, Etcd};
use storage::{Embedded, Options, Storage};

use crate::output::Failure;

/// The name under which `componentstatuses` shows the store of one process.
const NAME: &str = "etcd-0";

/// The members of an etcd, as `componentstatuses` asks each.
fn members(options: &etcd::Options) -> Result<Vec<Arc<dyn Component>>, Failure> {
    let text = |path: &PathBuf| {
        std::fs::read_to_string(path)
            .map_err(|e| Failure::new(format!("cannot read {}: {e}", path.display()), "see --etcd-cafile"))
    };
    let mut trust = OutboundTrust::default();
    if let Some(tls) = &options.tls {
        trust.authorities = Some(text(&tls.authority)?);
        if let Some((certificate, key)) = &tls.client {
            trust.identity = Some((text(certificate)?, text(key)?));
        }
    }
    let probe = |(i, server): (usize, &String)| {
        let http = if server.starts_with("https:") {
            Outbound::new(&trust).map_err(|e| Failure::new(format!("etcd: {e}"), "see --etcd-cafile"))?
        } else {
            Outbound::plain()
        };
        Ok(Arc::new(HttpProbe::etcd(i, server, http)) as Arc<dyn Component>)
    };
    options.endpoints.iter().enumerate().map(probe).collect()
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
    pub components: Vec<Arc<dyn Component>>,
}

impl Opened {
    /// The embedded store in a directory.
    pub async fn embedded(dir: PathBuf) -> Result<Self, Failure> {
        let opened = tokio::task::spawn_blocking(move || Embedded::open(&dir, Options::default())).await;
        let storage = opened.map_err(|e| Failure::of(&e))?.map_err(|e| Failure::of(&e))?;
        Ok(Self { storage: Arc::new(storage), shared: false, components: vec![Arc::new(InProcess)] })
    }

    /// An etcd, once it answers.
    pub async fn etcd(options: etcd::Options) -> Result<Self, Failure> {
        let components = members(&options)?;
        let storage = Arc::new(Etcd::open(options).await.map_err(|e| Failure::of(&e))?);
        Ok(Self { storage, shared: true, components })
    }
}
