//! Request bodies that a handler did not read to their end.
//!
//! A refusal may be ready before the body has come. Over HTTP/2, letting go of such a body resets the stream, and the
//! client sees the reset in place of the answer. So the body outlives its handler: what is left is read and thrown away,
//! as far as a decent client would have sent it.
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

/// More than this is not read for nothing.
const MOST: usize = 256 * 1024;
/// Nor is it waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(1);

/// A body that its handler and its connection share.
pub(crate) struct Shared<B>(Arc<Mutex<B>>);

impl<B> Clone for Shared<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Body<Data = Bytes> + Unpin> Shared<B> {
    pub(crate) fn new(body: B) -> Self {
        Self(Arc::new(Mutex::new(body)))
    }

    /// Reads what is left, within bounds.
    pub(crate) async fn drain(mut self) {
        let all = async {
            let mut read = 0;
            while !self.is_end_stream() && read < MOST {
                match self.frame().await {
                    Some(Ok(frame)) => read += frame.data_ref().map_or(0, |data| data.remaining()),
                    _ => return,
                }
            }
        };
        let _ = tokio::time::timeout(PATIENCE, all).await;
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Shared<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_left_is_read_and_endless_bodies_are_left() {
        let whole = Shared::new(Full::new(Bytes::from_static(b"hello")));
        whole.clone().drain().await;
        assert!(whole.is_end_stream());
        let chunk = || Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![0; 64 * 1024])));
        let endless = Shared::new(StreamBody::new(Box::pin(futures::stream::repeat_with(chunk))));
        endless.clone().drain().await;
        assert!(!endless.is_end_stream());
        let silent = Shared::new(StreamBody::new(Box::pin(futures::stream::pending::<
            Result<Frame<Bytes>, std::io::Error>,
        >())));
        silent.drain().await;
    }
}
