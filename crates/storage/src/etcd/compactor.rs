//! Compaction at an interval, so that every revision stays readable for one interval at least. Upstream:
//! apiserver/pkg/storage/etcd3/compact.go, 1.36.
//!
//! Several API servers take turns by a key that upstream uses too: whoever finds it as it was left one interval ago
//! writes it and compacts; the others see that somebody did, and wait for the next interval.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use super::calls::Shared;
use super::client::{Repeat, message_limit};
use super::failure;
use super::proto::compare::{CompareResult, CompareTarget, TargetUnion};
use super::proto::kv_client::KvClient;
use super::proto::request_op::Request as Op;
use super::proto::response_op::Response as Answer;
use super::proto::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::{Error, Revision};

/// Where the revision of the last compaction stands, as a decimal number.
const KEY: &str = "compact_rev_key";

/// What one API server knows of the last compaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    /// How often the key was written.
    turn: i64,
    /// The store's revision when it was looked at.
    revision: u64,
}

/// Compacts until the store is closed.
pub(super) async fn run(shared: Arc<Shared>, interval: Duration) {
    let mut known = Known::default();
    loop {
        tokio::time::sleep(interval).await;
        match turn(&shared, known).await {
            Ok(now) => known = now,
            Err(Error::Closed) => return,
            Err(error) => warn!(%error, "etcd was not compacted"),
        }
    }
}

/// One turn: compacts at what was the present revision one interval ago, unless another server was here since.
async fn turn(shared: &Shared, known: Known) -> Result<Known, Error> {
    shared.client.usable()?;
    let key = KEY.as_bytes().to_vec();
    let write = PutRequest { key: key.clone(), value: known.revision.to_string().into_bytes(), lease: 0 };
    let read = RangeRequest { key: key.clone(), ..RangeRequest::default() };
    let ask = TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Version as i32,
            key,
            target_union: Some(TargetUnion::Version(known.turn)),
        }],
        success: vec![RequestOp { request: Some(Op::RequestPut(write)) }],
        failure: vec![RequestOp { request: Some(Op::RequestRange(read)) }],
    };
    let answer = shared
        .client
        .call(Repeat::Never, ask, |channel, request| async move {
            KvClient::new(channel).max_decoding_message_size(message_limit()).txn(request).await
        })
        .await
        .map_err(failure::plain)?;
    let revision = shared.client.note(answer.header.as_ref())?;
    if !answer.succeeded {
        let found = answer.responses.into_iter().next().and_then(|op| op.response);
        let turn = match found {
            Some(Answer::ResponseRange(range)) => range.kvs.first().map_or(0, |kv| kv.version),
            _ => 0,
        };
        return Ok(Known { turn, revision });
    }
    if known.revision > 0 {
        shared.compact(Revision(known.revision)).await?;
        debug!(revision = known.revision, "etcd compacted");
    }
    Ok(Known { turn: known.turn + 1, revision })
}
