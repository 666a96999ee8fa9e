//! Requests that are answered where they were read.
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};

/// Polls a future once where it was made, and gives it a task of its own only when it has to wait.
///
/// Most requests are answered without waiting for anything: a task and a wake-up on another core would cost more than
/// the answer. What is ready when a connection is polled also goes out together (see [`crate::cork`]).
#[derive(Debug, Clone, Copy, Default)]
pub struct Inline;

impl<F> hyper::rt::Executor<F> for Inline
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut future: Pin<Box<F>> = Box::pin(future);
        // Nobody is woken by this poll: the task polls again at once, and only its waker counts from then on.
        if future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            tokio::spawn(future);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hyper::rt::Executor as _;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_needs_not_wait_is_done_at_once() {
        let done = Arc::new(AtomicUsize::new(0));
        let counter = done.clone();
        Inline.execute(async move {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(done.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn what_has_to_wait_is_woken() {
        let (begin, begun) = oneshot::channel::<u8>();
        let (end, ended) = oneshot::channel::<u8>();
        Inline.execute(async move {
            let got = begun.await.unwrap();
            end.send(got + 1).unwrap();
        });
        begin.send(1).unwrap();
        assert_eq!(ended.await.unwrap(), 2);
    }
}
