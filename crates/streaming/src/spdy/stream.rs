//! One SPDY stream as a reader and a writer.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio_util::sync::{CancellationToken, PollSender};

use super::{
    connection::{Out, Shared},
    frame::{Control, reset},
    table::Release,
};

/// The largest data frame we send: small enough that streams of one connection take turns.
const MAX_CHUNK: usize = 32 * 1024;

/// A stream; reading sees the peer's end as end of file, shutting down sends ours.
///
/// Dropping it before both sides have ended resets it.
pub struct Stream {
    reader: StreamReader,
    writer: StreamWriter,
}

/// The receiving half of a stream.
pub struct StreamReader {
    inbound: DuplexStream,
    guard: Arc<Guard>,
}

/// The sending half of a stream.
pub struct StreamWriter {
    out: PollSender<Out>,
    guard: Arc<Guard>,
    finished: bool,
}

/// Lives as long as either half.
struct Guard {
    id: u32,
    shared: Arc<Shared>,
    gone: CancellationToken,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.shared.table().release(self.id) == Release::Reset {
            self.shared.reset_later(self.id);
        }
    }
}

impl Stream {
    pub(super) fn new(id: u32, inbound: DuplexStream, gone: CancellationToken, shared: Arc<Shared>) -> Self {
        let out = PollSender::new(shared.data_sender());
        let guard = Arc::new(Guard { id, shared, gone });
        Self {
            reader: StreamReader { inbound, guard: guard.clone() },
            writer: StreamWriter { out, guard, finished: false },
        }
    }

    /// The identifier on the wire.
    pub fn id(&self) -> u32 {
        self.writer.guard.id
    }

    /// Both halves, to be used from different tasks.
    pub fn into_split(self) -> (StreamReader, StreamWriter) {
        (self.reader, self.writer)
    }

    /// Ends the stream at once, after what was written so far.
    pub async fn reset(self) {
        self.writer.reset().await;
    }
}

impl StreamReader {
    /// Sends the end of our direction if the writing half was dropped without doing so.
    pub async fn finish_writing(&self) {
        let Guard { id, shared, .. } = &*self.guard;
        let open = shared.table().get_mut(*id).is_some_and(|entry| entry.local_open);
        if open
            && shared.data_sender().send(Out::Data { id: *id, fin: true, data: Bytes::new() }).await.is_ok()
        {
            shared.table().local_finished(*id);
        }
    }
}

impl StreamWriter {
    /// Ends the stream at once in both directions, after what was written so far.
    pub async fn reset(self) {
        let Guard { id, shared, .. } = &*self.guard;
        if shared.table().reset(*id) {
            let frame = Control::RstStream { id: *id, status: reset::CANCEL };
            // A closed connection has no stream to reset.
            let _ = shared.data_sender().send(Out::Control(frame)).await;
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, fin: bool, data: &[u8]) -> Poll<io::Result<usize>> {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        if self.finished || self.guard.gone.is_cancelled() {
            return Poll::Ready(Err(broken()));
        }
        ready!(self.out.poll_reserve(cx)).map_err(|_| broken())?;
        let data = Bytes::copy_from_slice(&data[..data.len().min(MAX_CHUNK)]);
        let len = data.len();
        self.out.send_item(Out::Data { id: self.guard.id, fin, data }).map_err(|_| broken())?;
        Poll::Ready(Ok(len))
    }
}

impl AsyncRead for StreamReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inbound).poll_read(cx, buf)
    }
}

impl AsyncWrite for StreamWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.poll_send(cx, false, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_send(cx, true, &[]))?;
        self.finished = true;
        self.guard.shared.table().local_finished(self.guard.id);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
