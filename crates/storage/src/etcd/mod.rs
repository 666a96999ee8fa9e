//! The backend for several control planes: etcd v3, 3.4 and later.
//!
//! Writes are transactions guarded by the key's last revision, with a read in the other branch, so that a failed guard
//! tells the present state in the same round trip ([`Etcd`]). Calls go to one member until it fails, then to the next
//! ([`client`]); what a failure means is decided in one place ([`verdict`]): a write whose outcome nobody knows is
//! never repeated. One watch of the whole key space ([`feed`]) feeds every watch of the process ([`hub`]). It makes
//! every revision known in order, so reads from a cache wait for exactly what they need.
//!
//! Everything has a time limit; only watches last.

mod calls;
mod client;
mod clock;
mod compactor;
mod dial;
mod failure;
mod feed;
mod hub;
mod names;
mod proto;
mod verdict;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tokio::task::AbortHandle;
use tracing::info;

pub use self::dial::TlsFiles;

use self::calls::{Shared, exists, found, guard, op};
use self::client::{Client, Repeat};
use self::clock::Clock;
use self::failure::About;
use self::hub::Hub;
use self::names::{Names, number};
use self::proto::lease_client::LeaseClient;
use self::proto::request_op::Request as Op;
use self::proto::{
    DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest,
    RangeRequest as PbRange, TxnRequest,
};
use self::verdict::Verdict;
use crate::{
    DeleteOutcome, Error, Expect, KeyValue, LeaseId, LeaseInfo, RangeRequest, RangeResponse, Revision,
    Storage, WatchStream, WriteOutcome,
};

/// How etcd is reached and used.
#[derive(Clone)]
pub struct Options {
    /// `--etcd-servers`: URLs, `https://10.0.0.1:2379` for example.
    pub endpoints: Vec<String>,
    /// `--etcd-cafile`, `--etcd-certfile` and `--etcd-keyfile`.
    pub tls: Option<TlsFiles>,
    /// Name and password of an etcd user.
    pub login: Option<(String, String)>,
    /// `--etcd-prefix`: where keys below `/registry` are kept.
    pub prefix: String,
    /// `--etcd-compaction-interval`; `None`: somebody else compacts.
    pub compaction: Option<Duration>,
    /// How long opening waits for etcd.
    pub patience: Duration,
    /// For how long a call tries other members, and the same ones again, while it is sure that nothing happened.
    pub retry: Duration,
    /// Recent events kept for watches that begin or go on.
    pub recent_events: usize,
    /// Their bytes.
    pub recent_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            tls: None,
            login: None,
            prefix: "/registry".into(),
            compaction: None,
            patience: Duration::from_secs(30),
            retry: Duration::from_secs(15),
            recent_events: 8 << 10,
            recent_bytes: 16 << 20,
        }
    }
}

/// Why etcd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No endpoint was named.
    #[error("no etcd endpoint is named: --etcd-servers")]
    NoEndpoint,
    /// An endpoint cannot be used.
    #[error("{url:?} is no etcd endpoint: {why}")]
    Endpoint {
        /// As it was given.
        url: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A file cannot be used.
    #[error("cannot use {}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// etcd does not answer, or refuses.
    #[error(transparent)]
    Etcd(#[from] Error),
}

/// An etcd as a store. Dropping it ends its watches.
pub struct Etcd {
    shared: Arc<Shared>,
    clock: Arc<Clock>,
    tasks: Vec<AbortHandle>,
}

impl Etcd {
    /// Connects, and waits for an answer as long as the options say. Has to be called inside a Tokio runtime.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let client = Arc::new(Client::new(&options)?);
        let names = Names::new(&options.prefix);
        let until = tokio::time::Instant::now() + options.patience;
        let position = loop {
            match clock::present(&client, &names).await {
                Ok(position) => break position,
                Err(error) if error.retryable() && tokio::time::Instant::now() < until => {}
                Err(error) => return Err(error.into()),
            }
        };
        let limits = hub::Limits { events: options.recent_events, bytes: options.recent_bytes };
        let hub = Arc::new(Hub::new(client.clone(), names.clone(), limits, position));
        let clock = Arc::new(Clock::new(client.clone(), names.clone()));
        let shared = Arc::new(Shared { client, names, hub: hub.clone(), compacted: AtomicU64::new(0) });
        let mut tasks = vec![tokio::spawn(hub.run()).abort_handle()];
        if let Some(interval) = options.compaction.filter(|i| !i.is_zero()) {
            tasks.push(tokio::spawn(compactor::run(shared.clone(), interval)).abort_handle());
        }
        info!(endpoints = options.endpoints.join(","), revision = position, "etcd answers");
        Ok(Self { shared, clock, tasks })
    }

    /// Whether the watch that feeds all watches is open, or why not. Asks nobody.
    pub fn healthy(&self) -> Result<(), Error> {
        self.shared.client.usable()?;
        // It is open only on a member that has a leader.
        self.shared.hub.trouble().map_or(Ok(()), Err)
    }

    /// Ends the watches and refuses later calls.
    pub fn close(&self) {
        self.shared.client.close();
        self.shared.hub.end(Error::Closed);
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.close();
    }
}

#[async_trait]
impl Storage for Etcd {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<KeyValue>, Revision), Error> {
        let shared = &self.shared;
        shared.client.usable()?;
        if at == Some(Revision::ZERO) {
            return Err(About { revision: Revision::ZERO, ..shared.about() }.error(Verdict::Compacted));
        }
        let ask = PbRange {
            key: shared.names.outer(key).into_bytes(),
            revision: at.map_or(0, number),
            serializable: at.is_some(),
            ..PbRange::default()
        };
        if key.is_empty() {
            return Ok((None, self.now().await?));
        }
        let answer = shared.page(ask).await?;
        let now = match at {
            None => answer.header.map_or(0, |header| u64::try_from(header.revision).unwrap_or(0)),
            Some(_) => shared.client.seen(),
        };
        let kv = answer.kvs.into_iter().next().and_then(|kv| shared.names.version(kv));
        Ok((kv, Revision(now)))
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        self.shared.range(request).await
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<WriteOutcome, Error> {
        let shared = &self.shared;
        shared.check_key(key)?;
        let outer = shared.names.outer(key).into_bytes();
        let about = About { lease, value: value.len(), ..shared.about() };
        // Beyond this etcd's connection would break rather than answer.
        if value.len() > 64 << 20 {
            return Err(about.error(Verdict::TooLarge));
        }
        let write = PutRequest {
            key: outer.clone(),
            value: value.to_vec(),
            lease: lease.map_or(0, |id| i64::try_from(id.0).unwrap_or(i64::MAX)),
        };
        let read = PbRange { key: outer.clone(), ..PbRange::default() };
        let ask = TxnRequest {
            compare: guard(&outer, expect),
            // The read tells what the write made of the key, without sending the value back.
            success: vec![
                op(Op::RequestPut(write)),
                op(Op::RequestRange(PbRange { keys_only: true, ..read.clone() })),
            ],
            failure: vec![op(Op::RequestRange(read))],
        };
        let (answer, revision) = shared.txn(ask, about).await?;
        let current = answer.responses.into_iter().filter_map(|op| found(op.response)).next();
        let current = current.and_then(|kv| shared.names.version(kv));
        if !answer.succeeded {
            return Ok(WriteOutcome::Mismatch { current, revision });
        }
        match current {
            Some(kv) => Ok(WriteOutcome::Done(KeyValue { value, ..kv })),
            None => Err(Error::Indeterminate("etcd did not show what was written".into())),
        }
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<DeleteOutcome, Error> {
        let shared = &self.shared;
        shared.check_key(key)?;
        if expect == Expect::Absent {
            let (current, revision) = self.get(key, None).await?;
            return Ok(DeleteOutcome::Mismatch { current, revision });
        }
        let outer = shared.names.outer(key).into_bytes();
        let mut compare = guard(&outer, expect);
        compare.push(exists(&outer));
        let remove =
            DeleteRangeRequest { key: outer.clone(), prev_kv: true, ..DeleteRangeRequest::default() };
        let read = PbRange { key: outer, ..PbRange::default() };
        let ask = TxnRequest {
            compare,
            success: vec![op(Op::RequestDeleteRange(remove))],
            failure: vec![op(Op::RequestRange(read))],
        };
        let (answer, revision) = shared.txn(ask, shared.about()).await?;
        let kv = answer.responses.into_iter().filter_map(|op| found(op.response)).next();
        let kv = kv.and_then(|kv| shared.names.version(kv));
        match (answer.succeeded, kv) {
            (true, Some(prev)) => Ok(DeleteOutcome::Deleted { prev, revision }),
            (true, None) => Err(Error::Indeterminate("etcd did not show what was deleted".into())),
            (false, current) => Ok(DeleteOutcome::Mismatch { current, revision }),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, Error> {
        let shared = &self.shared;
        shared.client.usable()?;
        let compacted = Revision(shared.compacted.load(Ordering::Acquire));
        if after < compacted {
            return Err(Error::Compacted { requested: after, compacted });
        }
        let reader = shared.hub.watch(prefix, after.0);
        let progress = reader.progress();
        let batches = futures::stream::unfold(reader, |mut reader| async move {
            let batch = reader.next().await?;
            Some((batch, reader))
        });
        Ok(WatchStream::new(batches.boxed(), progress))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let shared = &self.shared;
        shared.client.usable()?;
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let ask = LeaseGrantRequest { ttl: i64::try_from(seconds).unwrap_or(i64::MAX).max(1), id: 0 };
        // A lease that nobody knows of only expires.
        let answer = shared
            .client
            .call(Repeat::Freely, ask, |channel, request| async move {
                LeaseClient::new(channel).lease_grant(request).await
            })
            .await
            .map_err(|verdict| shared.about().error(verdict))?;
        shared.client.note(answer.header.as_ref())?;
        match u64::try_from(answer.id) {
            Ok(id) if id != 0 => Ok(LeaseId(id)),
            _ => Err(Error::Refused(format!("etcd granted no lease: {}", answer.error).into())),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        let shared = &self.shared;
        shared.client.usable()?;
        let ask = LeaseRevokeRequest { id: i64::try_from(lease.0).unwrap_or(i64::MAX) };
        let answer = shared
            .client
            .call(Repeat::Never, ask, |channel, request| async move {
                LeaseClient::new(channel).lease_revoke(request).await
            })
            .await
            .map_err(|verdict| About { lease: Some(lease), ..shared.about() }.error(verdict))?;
        shared.client.note(answer.header.as_ref())?;
        Ok(())
    }

    async fn lease(&self, lease: LeaseId) -> Result<LeaseInfo, Error> {
        let shared = &self.shared;
        shared.client.usable()?;
        let id = i64::try_from(lease.0).unwrap_or(i64::MAX);
        let ask = LeaseTimeToLiveRequest { id, keys: false };
        let answer = shared
            .client
            .call(Repeat::Freely, ask, |channel, request| async move {
                LeaseClient::new(channel).lease_time_to_live(request).await
            })
            .await
            .map_err(|verdict| About { lease: Some(lease), ..shared.about() }.error(verdict))?;
        shared.client.note(answer.header.as_ref())?;
        let seconds = |number| u64::try_from(number).map(Duration::from_secs);
        match (seconds(answer.granted_ttl), seconds(answer.ttl)) {
            (Ok(ttl), Ok(left)) if !ttl.is_zero() => Ok(LeaseInfo { id: lease, ttl, left }),
            // etcd answers with a time of -1.
            _ => Err(Error::LeaseNotFound(lease)),
        }
    }

    async fn compact(&self, at: Revision) -> Result<(), Error> {
        self.shared.compact(at).await
    }

    async fn now(&self) -> Result<Revision, Error> {
        self.clock.now().await.map(Revision)
    }

    async fn wait_for(&self, revision: Revision) -> Result<(), Error> {
        self.shared.client.wait_for(revision.0).await
    }
}
