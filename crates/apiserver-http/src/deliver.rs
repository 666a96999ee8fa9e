//! From a handler's answer to what is sent: compression, counting, and an end for clients who do not read.
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use apiserver_registry::Notes;
use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use tokio::task::AbortHandle;

use crate::body::{Body, BoxError};
use crate::limits::Slot;
use crate::metrics::{Running, Series};

/// What follows a request from its beginning to the last byte of its answer.
#[derive(Default)]
pub struct Request {
    /// Where it is counted.
    pub series: Option<Arc<Series>>,
    /// Its place among the requests under way.
    pub slot: Option<Slot>,
    /// A long-running one is counted while it runs.
    pub running: Option<Running>,
    /// When everything has to be sent; `None`: never.
    pub deadline: Option<Duration>,
    /// What is found on the way.
    pub notes: Notes,
}

impl Request {
    /// Sends an answer.
    pub fn deliver(self, began: Instant, response: Response<Body>) -> Response<Body> {
        let code = response.status().as_u16();
        let mut counted = Counted { series: self.series, began, code, size: 0 };
        if let Some(size) = response.body().size_hint().exact() {
            // It is all there: what remains is the connection's business.
            counted.size = size;
            return response;
        }
        response.map(|body| {
            let held = Held { body: Some(body), counted, slot: self.slot, running: self.running };
            let held = Arc::new(Mutex::new(held));
            let timer = self.deadline.map(|time| {
                let held = held.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    // What a client does not fetch in time is let go of, however much that is.
                    lock(&held).release();
                })
                .abort_handle()
            });
            Delivered { held, timer }.boxed_unsync()
        })
    }
}

struct Counted {
    series: Option<Arc<Series>>,
    began: Instant,
    code: u16,
    size: u64,
}

impl Counted {
    fn finish(&mut self) {
        if let Some(series) = self.series.take() {
            series.answered(self.code, self.began.elapsed(), self.size);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.finish();
    }
}

struct Held {
    body: Option<Body>,
    counted: Counted,
    slot: Option<Slot>,
    running: Option<Running>,
}

impl Held {
    fn release(&mut self) {
        self.counted.finish();
        drop((self.body.take(), self.slot.take(), self.running.take()));
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    // After a panic in a body, its connection is gone anyway.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A body made while it is sent.
struct Delivered {
    held: Arc<Mutex<Held>>,
    timer: Option<AbortHandle>,
}

impl http_body::Body for Delivered {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut held = lock(&self.held);
        let Some(body) = &mut held.body else {
            return Poll::Ready(Some(Err("the client took too long to read the answer".into())));
        };
        let polled = Pin::new(body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            held.counted.size += frame.data_ref().map_or(0, |d| d.len() as u64);
        }
        polled
    }
}

impl Drop for Delivered {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            timer.abort();
        }
        // The timer's share of it may live a little longer.
        lock(&self.held).release();
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::StreamBody;

    use super::*;
    use crate::limits::Limits;
    use crate::metrics::{Labels, Metrics};

    fn streamed(pieces: usize) -> Response<Body> {
        let pieces = (0..pieces).map(|_| Ok(Frame::data(Bytes::from_static(b"piece"))));
        Response::new(StreamBody::new(stream::iter(pieces)).boxed_unsync())
    }

    #[tokio::test]
    async fn a_place_is_kept_until_the_last_byte() {
        let (limits, metrics) = (Limits::default(), Metrics::default());
        let labels = Labels {
            verb: "LIST",
            dry_run: false,
            group: "",
            version: "v1",
            resource: "pods",
            subresource: "",
            scope: "cluster",
        };
        let request = |deadline: Duration| Request {
            series: metrics.series(&labels, || true),
            slot: limits.enter(false, false).ok(),
            running: None,
            deadline: Some(deadline),
            ..Request::default()
        };
        let mut body = request(Duration::from_secs(60)).deliver(Instant::now(), streamed(2)).into_body();
        assert!(body.frame().await.is_some());
        assert_eq!(limits.under_way().0, 1);
        let rest = body.collect().await.expect("the rest").to_bytes();
        assert_eq!((&rest[..], limits.under_way().0), (&b"piece"[..], 0));
        assert!(metrics.page(0, 0).contains("apiserver_response_sizes_sum"));
        assert!(metrics.page(0, 0).contains(r#"verb="LIST",version="v1"} 10"#));

        // One who never reads gives everything up after the time.
        let mut body = request(Duration::from_millis(50)).deliver(Instant::now(), streamed(1000)).into_body();
        assert!(body.frame().await.is_some());
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(limits.under_way().0, 0);
        assert!(body.frame().await.is_some_and(|f| f.is_err()));
    }
}
