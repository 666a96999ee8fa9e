//! The present revision: asked of etcd once for all who want to know at the same time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::client::{Client, Repeat, message_limit};
use super::failure;
use super::names::Names;
use super::proto::RangeRequest;
use super::proto::kv_client::KvClient;
use crate::Error;

/// Reads the present revision; every write acknowledged before the call is at or below it.
pub(super) async fn present(client: &Client, names: &Names) -> Result<u64, Error> {
    client.usable()?;
    // Linearizable, as reads are unless they say otherwise. There is no such key; upstream's health check reads it too.
    let ask =
        RangeRequest { key: format!("{}/health", names.prefix()).into_bytes(), ..RangeRequest::default() };
    let answer = client
        .call(Repeat::Freely, ask, |channel, request| async move {
            KvClient::new(channel).max_decoding_message_size(message_limit()).range(request).await
        })
        .await
        .map_err(failure::plain)?;
    client.note(answer.header.as_ref())
}

/// Shares reads of the present revision.
pub(super) struct Clock {
    client: Arc<Client>,
    names: Names,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asking: bool,
    /// Who came after the question that is under way was asked.
    waiting: Vec<oneshot::Sender<Result<u64, Error>>>,
}

impl Clock {
    pub(super) fn new(client: Arc<Client>, names: Names) -> Self {
        Self { client, names, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present revision.
    pub(super) async fn now(self: &Arc<Self>) -> Result<u64, Error> {
        let (sender, receiver) = oneshot::channel();
        let begin = {
            let mut state = self.state();
            state.waiting.push(sender);
            !std::mem::replace(&mut state.asking, true)
        };
        if begin {
            // A task of its own, since whoever came first may lose interest.
            tokio::spawn(self.clone().ask());
        }
        receiver.await.map_err(|_| Error::Closed)?
    }

    async fn ask(self: Arc<Self>) {
        loop {
            let waiting = {
                let mut state = self.state();
                if state.waiting.is_empty() {
                    state.asking = false;
                    return;
                }
                std::mem::take(&mut state.waiting)
            };
            let now = present(&self.client, &self.names).await;
            for waiting in waiting {
                // Who is gone needs no answer.
                let _ = waiting.send(now.clone());
            }
        }
    }
}
