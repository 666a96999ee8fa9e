//! Every event of an etcd from a revision on, over all breaks of the connection.
//!
//! One watch covers the whole key space. Every revision of etcd has an event there, so the position of the feed is
//! exact: once it shows a revision, nothing up to that revision is missing. A watch of fewer keys would have to ask
//! etcd for its progress, and releases before 3.4.25 and 3.5.8 give answers that overtake events
//! (etcd-io/etcd issue 15220).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tracing::{debug, warn};

use super::client::{Client, message_limit};
use super::names::Names;
use super::proto::watch_client::WatchClient;
use super::proto::watch_request::RequestUnion;
use super::proto::{WatchCreateRequest, WatchRequest, WatchResponse};
use super::verdict::{Verdict, judge};
use crate::{Error, Event, Revision};

/// How long etcd may take to begin a watch.
const OPEN: Duration = Duration::from_secs(5);
/// A watch that is so far behind what other calls have seen is not alive, whatever its connection says.
const STALLED: Duration = Duration::from_secs(10);
/// The pause after a failure; it doubles up to [`PAUSE_LIMIT`].
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_LIMIT: Duration = Duration::from_secs(1);

/// Some consecutive events.
pub(super) struct Chunk {
    /// Whole revisions, in order.
    pub(super) events: Vec<Event>,
    /// Nothing up to here is missing.
    pub(super) revision: u64,
}

struct Open {
    /// Keeps the request half of the stream open.
    _requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
    member: usize,
}

/// Every event above a position.
pub(super) struct Feed {
    client: Arc<Client>,
    names: Names,
    position: u64,
    open: Option<Open>,
    /// Events of a revision that is not complete yet.
    partial: Vec<Event>,
    pause: Duration,
    /// Why there is no stream now.
    broken: Option<Arc<str>>,
}

enum Broken {
    /// Try again.
    Again(Arc<str>),
    /// It will not work.
    For(Error),
}

impl Feed {
    pub(super) fn new(client: Arc<Client>, names: Names, after: u64) -> Self {
        Self { client, names, position: after, open: None, partial: Vec::new(), pause: PAUSE, broken: None }
    }

    /// Why there is no stream now, if there is none.
    pub(super) fn broken(&self) -> Option<&Arc<str>> {
        self.broken.as_ref()
    }

    /// Tries once to begin the stream.
    async fn connect(&mut self) -> Result<(), Error> {
        self.client.usable()?;
        self.partial.clear();
        let (member, channel) = self.client.member();
        match self.begin(member, channel).await {
            Ok(open) => {
                self.open = Some(open);
                self.broken = None;
                Ok(())
            }
            Err(broken) => self.pause(member, broken).await,
        }
    }

    /// Turns to another member after a while.
    async fn pause(&mut self, member: usize, broken: Broken) -> Result<(), Error> {
        let why = match broken {
            Broken::For(error) => return Err(error),
            Broken::Again(why) => why,
        };
        debug!(member = %self.client.url(member), %why, position = self.position, "no watch of etcd");
        self.broken = Some(format!("{}: {why}", self.client.url(member)).into());
        self.client.leave(member);
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_LIMIT);
        tokio::time::sleep(pause).await;
        Ok(())
    }

    async fn begin(&self, member: usize, channel: Channel) -> Result<Open, Broken> {
        let (requests, receiver) = mpsc::channel(4);
        let create = WatchCreateRequest {
            key: vec![0],
            range_end: vec![0],
            // The events of the position itself are asked for again, and skipped: so etcd tells when history right
            // behind it is gone, deletions at the compacted revision among it.
            start_revision: i64::try_from(self.position.max(1)).unwrap_or(i64::MAX),
            prev_kv: true,
            fragment: true,
            ..WatchCreateRequest::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let open = async {
            let mut request = Request::new(ReceiverStream::new(receiver));
            self.client.metadata(&channel, request.metadata_mut()).await?;
            requests.send(create).await.map_err(|_| Status::internal("the watch was not begun"))?;
            let mut client = WatchClient::new(channel.clone()).max_decoding_message_size(message_limit());
            let mut responses = client.watch(request).await?.into_inner();
            let first = responses.message().await?;
            Ok::<_, Status>((responses, first))
        };
        let (responses, first) = match tokio::time::timeout(OPEN, open).await {
            Err(_) => return Err(Broken::Again(format!("no watch within {OPEN:?}").into())),
            Ok(Err(status)) => return Err(self.status(&status)),
            Ok(Ok((_, None))) => return Err(Broken::Again("the watch ended at once".into())),
            Ok(Ok((responses, Some(first)))) => (responses, first),
        };
        if first.canceled {
            return Err(self.canceled(&first));
        }
        self.client.note(first.header.as_ref()).map_err(Broken::For)?;
        Ok(Open { _requests: requests, responses, member })
    }

    fn status(&self, status: &Status) -> Broken {
        match judge(status) {
            Verdict::TokenExpired if self.client.forget_token() => {
                Broken::Again("the token has expired".into())
            }
            Verdict::NothingHappened(why) | Verdict::Unknown(why) => Broken::Again(why),
            Verdict::Refused(why) => Broken::For(Error::Refused(why)),
            other => Broken::For(Error::Refused(format!("etcd refuses the watch: {other:?}").into())),
        }
    }

    fn canceled(&self, response: &WatchResponse) -> Broken {
        if response.compact_revision > 0 {
            return Broken::For(self.compacted(u64::try_from(response.compact_revision).unwrap_or(0)));
        }
        let why = &response.cancel_reason;
        if why.contains("permission denied") {
            return Broken::For(Error::Refused(
                "etcd: permission denied to watch all keys; the etcd user needs to read the whole key space"
                    .into(),
            ));
        }
        if why.contains("auth token") {
            self.client.forget_token();
        }
        Broken::Again(format!("etcd ended the watch: {why}").into())
    }

    fn compacted(&self, at: u64) -> Error {
        Error::Compacted { requested: Revision(self.position), compacted: Revision(at) }
    }

    /// Waits for the next events, or for a change of the connection: then `None`. May be dropped and called again.
    pub(super) async fn step(&mut self) -> Result<Option<Chunk>, Error> {
        let (client, position) = (self.client.clone(), self.position);
        let Some(open) = &mut self.open else {
            self.connect().await?;
            return Ok(None);
        };
        let stalled = async {
            client.wait_for(position + 1).await?;
            tokio::time::sleep(STALLED).await;
            Ok::<_, Error>(())
        };
        let message = tokio::select! {
            biased;
            message = open.responses.message() => message,
            over = stalled => {
                over?;
                warn!(member = %client.url(open.member), "the watch of etcd is silent though there are writes");
                Err(Status::unavailable("the watch is silent though there are writes"))
            }
        };
        let member = open.member;
        let broken = match message {
            Ok(Some(response)) if response.canceled => self.canceled(&response),
            Ok(Some(response)) => {
                self.pause = PAUSE;
                return self.take(response);
            }
            Ok(None) => Broken::Again("etcd ended the stream".into()),
            Err(status) => self.status(&status),
        };
        self.open = None;
        self.pause(member, broken).await?;
        Ok(None)
    }

    /// Takes a response in; `None`: it completes no revision.
    fn take(&mut self, response: WatchResponse) -> Result<Option<Chunk>, Error> {
        self.client.note(response.header.as_ref())?;
        let mut last = 0;
        for event in response.events {
            let Some(kv) = event.kv else { continue };
            let revision = u64::try_from(kv.mod_revision).unwrap_or(0);
            if revision <= self.position {
                continue;
            }
            last = last.max(revision);
            let deleted = event.r#type == 1;
            let created = !deleted && kv.create_revision == kv.mod_revision;
            let Some(key) = self.names.inner(&kv.key) else { continue };
            if !created && event.prev_kv.is_none() {
                // Compaction took the version before while we were behind; what else it took cannot be known.
                return Err(self.compacted(revision));
            }
            let prev_kv = event.prev_kv.and_then(|kv| self.names.version(kv));
            let kv = if deleted { None } else { self.names.version(kv) };
            self.partial.push(Event { revision: Revision(revision), key, kv, prev_kv });
        }
        if last == 0 {
            return Ok(None);
        }
        // The last revision of a fragment may go on in the next one.
        let complete = if response.fragment { last - 1 } else { last };
        if complete <= self.position {
            return Ok(None);
        }
        let rest = self.partial.partition_point(|event| event.revision.0 <= complete);
        let rest = self.partial.split_off(rest);
        let events = std::mem::replace(&mut self.partial, rest);
        self.position = complete;
        self.client.reached(complete);
        Ok(Some(Chunk { events, revision: complete }))
    }
}
