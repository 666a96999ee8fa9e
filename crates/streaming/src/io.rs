//! Byte streams without a name for their type, and the noise of a connection's life: activity and silence.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// A byte source.
pub type BoxRead = Box<dyn AsyncRead + Send + Unpin>;

/// A byte sink; shutting it down tells the peer that nothing more comes, where the protocol can say so.
pub type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;

/// A byte stream in both directions: a socket, a TLS session, an upgraded connection, a stream inside one.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Remembers when bytes last moved.
#[derive(Debug, Clone)]
pub(crate) struct Activity {
    start: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), last_ms: Arc::default() }
    }

    pub(crate) fn touch(&self) {
        self.last_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Resolves once nothing has touched this for `idle`; wakes about once per `idle`.
    pub(crate) async fn silent_for(&self, idle: Duration) {
        loop {
            let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let deadline = self.start + last + idle;
            if Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

/// Marks every byte that moves as activity.
struct Watched<T> {
    inner: T,
    activity: Activity,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if polled.is_ready() {
            self.activity.touch();
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        if polled.is_ready() {
            self.activity.touch();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Joins two byte streams until both directions have ended, one breaks, or nothing moved for `idle`.
///
/// Ends are passed on one by one, so a half-closed connection stays half open.
pub async fn splice<A: Duplex, B: Duplex>(a: A, b: B, idle: Duration) -> io::Result<(u64, u64)> {
    let activity = Activity::new();
    let mut a = Watched { inner: a, activity: activity.clone() };
    let mut b = Watched { inner: b, activity: activity.clone() };
    tokio::select! {
        copied = tokio::io::copy_bidirectional(&mut a, &mut b) => copied,
        () = activity.silent_for(idle) => Err(io::Error::new(io::ErrorKind::TimedOut, "connection was idle too long")),
    }
}

/// Bounds a future, giving the same kind of error for all of them.
pub(crate) async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> io::Result<T> {
    tokio::time::timeout(limit, future)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("timed out {what}")))
}

/// An error with its causes, for one log line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
