//! The calls behind the trait's methods: reads in pages, guarded transactions, compaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::client::{Client, Repeat, message_limit};
use super::clock;
use super::failure::{About, REQUEST_LIMIT};
use super::hub::Hub;
use super::names::{Names, number, revision};
use super::proto::compare::{CompareResult, CompareTarget, TargetUnion};
use super::proto::kv_client::KvClient;
use super::proto::request_op::Request as Op;
use super::proto::response_op::Response as Answer;
use super::proto::{
    CompactionRequest, Compare, PbKeyValue, RangeRequest as PbRange, RangeResponse as PbRanged, RequestOp,
    TxnRequest, TxnResponse,
};
use super::verdict::Verdict;
use crate::{Error, Expect, RangeRequest, RangeResponse, Revision};

/// Keys of the first page of a range.
const PAGE: i64 = 500;
/// Bytes that a page should have.
const PAGE_BYTES: usize = 4 << 20;

/// What the trait's methods and the tasks share.
pub(super) struct Shared {
    pub(super) client: Arc<Client>,
    pub(super) names: Names,
    pub(super) hub: Arc<Hub>,
    /// The highest revision this process knows to be compacted.
    pub(super) compacted: AtomicU64,
}

impl Shared {
    pub(super) fn about(&self) -> About {
        About {
            current: Revision(self.client.seen()),
            compacted: Revision(self.compacted.load(Ordering::Acquire)),
            ..About::default()
        }
    }

    pub(super) fn check_key(&self, key: &str) -> Result<(), Error> {
        self.client.usable()?;
        if key.is_empty() || key.len() > REQUEST_LIMIT {
            return Err(Error::KeySize { len: key.len(), limit: REQUEST_LIMIT });
        }
        Ok(())
    }

    /// Reads one page. At a revision any member may answer that has it; the present state needs the leader's word.
    pub(super) async fn page(&self, ask: PbRange) -> Result<PbRanged, Error> {
        let at = Revision(u64::try_from(ask.revision).unwrap_or(0));
        let send = |channel, request| async move {
            KvClient::new(channel).max_decoding_message_size(message_limit()).range(request).await
        };
        let mut answer = self.client.call(Repeat::Freely, ask.clone(), send).await;
        if ask.serializable && answer == Err(Verdict::Future) {
            // The member lags behind.
            let ask = PbRange { serializable: false, ..ask };
            answer = self.client.call(Repeat::Freely, ask, send).await;
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(Verdict::Future) => {
                let current = Revision(clock::present(&self.client, &self.names).await?);
                return Err(Error::FutureRevision { requested: at, current });
            }
            Err(verdict) => return Err(About { revision: at, ..self.about() }.error(verdict)),
        };
        self.client.note(answer.header.as_ref())?;
        Ok(answer)
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        self.client.usable()?;
        if !request.end.is_empty() && request.start >= request.end {
            let revision = Revision(clock::present(&self.client, &self.names).await?);
            return Ok(RangeResponse { revision, ..RangeResponse::default() });
        }
        let bound = |key: &str| if key.is_empty() { vec![0] } else { self.names.outer(key).into_bytes() };
        let mut ask = PbRange {
            key: bound(&request.start),
            range_end: bound(&request.end),
            revision: request.at.map_or(0, number),
            serializable: request.at.is_some(),
            count_only: request.count_only,
            ..PbRange::default()
        };
        if request.at == Some(Revision::ZERO) {
            // etcd takes 0 for the present.
            return Err(About { revision: Revision::ZERO, ..self.about() }.error(Verdict::Compacted));
        }
        let wanted = if request.limit == 0 { usize::MAX } else { request.limit };
        let mut page = PAGE;
        let mut response = RangeResponse::default();
        loop {
            let left = i64::try_from(wanted - response.kvs.len()).unwrap_or(i64::MAX);
            ask.limit = if request.count_only { 0 } else { left.min(page) };
            let answer = self.page(ask.clone()).await?;
            if response.revision == Revision::ZERO {
                response.revision = Revision(self.client.seen());
                response.count = u64::try_from(answer.count).unwrap_or(0);
                if ask.revision == 0 {
                    // The pages after this one belong to it.
                    let at = answer.header.map_or(0, |header| header.revision);
                    response.revision = revision(at);
                    (ask.revision, ask.serializable) = (at, true);
                }
            }
            let bytes: usize = answer.kvs.iter().map(|kv| kv.value.len() + kv.key.len() + 64).sum();
            let got = answer.kvs.len();
            if let Some(last) = answer.kvs.last() {
                ask.key = [&last.key[..], b"\0"].concat();
                let average = (bytes / got).max(1);
                page = i64::try_from(PAGE_BYTES / average).unwrap_or(PAGE).clamp(16, 10_000);
            }
            response.kvs.extend(answer.kvs.into_iter().filter_map(|kv| self.names.version(kv)));
            response.more = answer.more;
            if request.count_only || !answer.more || got == 0 || response.kvs.len() >= wanted {
                break;
            }
        }
        response.more &= !request.count_only;
        Ok(response)
    }

    pub(super) async fn txn(&self, ask: TxnRequest, about: About) -> Result<(TxnResponse, Revision), Error> {
        let answer = self
            .client
            .call(Repeat::Never, ask, |channel, request| async move {
                KvClient::new(channel).max_decoding_message_size(message_limit()).txn(request).await
            })
            .await
            .map_err(|verdict| about.error(verdict))?;
        let revision = self.client.note(answer.header.as_ref())?;
        Ok((answer, Revision(revision)))
    }

    /// Forgets the history below a revision.
    pub(super) async fn compact(&self, at: Revision) -> Result<(), Error> {
        self.client.usable()?;
        let ask = CompactionRequest { revision: number(at), physical: false };
        let answer = self
            .client
            .call(Repeat::Freely, ask, |channel, request| async move {
                KvClient::new(channel).compact(request).await
            })
            .await;
        match answer {
            Ok(answer) => {
                self.client.note(answer.header.as_ref())?;
            }
            // Somebody compacted further.
            Err(Verdict::Compacted) => {}
            Err(Verdict::Future) => {
                let current = Revision(clock::present(&self.client, &self.names).await?);
                return Err(Error::FutureRevision { requested: at, current });
            }
            Err(verdict) => return Err(About { revision: at, ..self.about() }.error(verdict)),
        }
        self.compacted.fetch_max(at.0, Ordering::AcqRel);
        self.hub.compacted(at.0);
        Ok(())
    }
}

pub(super) fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// The condition under which a key may be written.
pub(super) fn guard(key: &[u8], expect: Expect) -> Vec<Compare> {
    let at = match expect {
        Expect::Any => return Vec::new(),
        Expect::Absent => 0,
        // No key was written by revision 0, which etcd takes for an absent one.
        Expect::At(Revision::ZERO) => i64::MAX,
        Expect::At(revision) => number(revision),
    };
    vec![Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Mod as i32,
        key: key.to_vec(),
        target_union: Some(TargetUnion::ModRevision(at)),
    }]
}

/// The condition that a key exists.
pub(super) fn exists(key: &[u8]) -> Compare {
    Compare {
        result: CompareResult::Greater as i32,
        target: CompareTarget::Version as i32,
        key: key.to_vec(),
        target_union: Some(TargetUnion::Version(0)),
    }
}

/// The one key that a read in a transaction found.
pub(super) fn found(answer: Option<Answer>) -> Option<PbKeyValue> {
    match answer {
        Some(Answer::ResponseRange(range)) => range.kvs.into_iter().next(),
        Some(Answer::ResponseDeleteRange(deleted)) => deleted.prev_kvs.into_iter().next(),
        _ => None,
    }
}
