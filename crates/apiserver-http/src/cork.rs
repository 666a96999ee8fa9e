//! Writes that are held back while a connection is being polled.
//!
//! HTTP/2 flushes after nearly every frame of data. Under TLS each flush is a record and a system call; with many
//! answers ready at once that is most of what an answer costs. So while the connection's future runs, what it writes is
//! gathered, and goes out when it has nothing more to do.
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// More than this is not held back.
const HELD: usize = 64 * 1024;
/// A write of this size goes out as it is: copying it costs more than it saves.
const LARGE: usize = 16 * 1024;
/// An idle connection keeps no more memory than this.
const KEPT: usize = 4 * 1024;
/// A client that takes nothing of what waits for it for so long is given up.
const STALL: Duration = if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(60) };

struct Held<S> {
    stream: S,
    out: Vec<u8>,
    /// How much of `out` has been written.
    written: usize,
    corked: bool,
    /// Runs while the stream takes nothing.
    stall: Option<Pin<Box<Sleep>>>,
    /// It took nothing for too long.
    dead: bool,
}

impl<S: AsyncWrite + Unpin> Held<S> {
    /// Writes to the stream, and fails when it has taken nothing for too long.
    fn write(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, polled)
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stall = None;
            return polled;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL)));
        match stall.as_mut().poll(cx) {
            Poll::Ready(()) => {
                self.dead = true;
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes what is held back; ready when nothing is.
    fn release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.written < self.out.len() {
            let polled = Pin::new(&mut self.stream).poll_write(cx, &self.out[self.written..]);
            let n = ready!(self.watch(cx, polled))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        self.written = 0;
        self.out.clear();
        if self.out.capacity() > KEPT {
            self.out = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

/// A stream for a connection, whose writes a [`Cork`] holds back. It works as usual whenever the cork is out, so it may
/// leave the connection for a protocol of its own.
pub struct Corked<S>(Arc<Mutex<Held<S>>>);

/// Holds back the writes of a [`Corked`] stream.
pub struct Cork<S>(Arc<Mutex<Held<S>>>);

/// Makes a stream and its cork, which is out.
pub fn cork<S: AsyncWrite + Unpin>(stream: S) -> (Corked<S>, Cork<S>) {
    let held = Held { stream, out: Vec::new(), written: 0, corked: false, stall: None, dead: false };
    let held = Arc::new(Mutex::new(held));
    (Corked(held.clone()), Cork(held))
}

fn lock<S>(held: &Mutex<Held<S>>) -> MutexGuard<'_, Held<S>> {
    // Only one task polls a stream at a time; after a panic its connection is gone anyway.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncWrite + Unpin> Cork<S> {
    /// Drives the future of a connection, with the cork in while it runs.
    pub fn drive<'a, F>(&'a self, connection: Pin<&'a mut F>) -> Driven<'a, F, S> {
        Driven { cork: self, connection }
    }
}

/// See [`Cork::drive`].
pub struct Driven<'a, F, S> {
    cork: &'a Cork<S>,
    connection: Pin<&'a mut F>,
}

impl<F: Future, S: AsyncWrite + Unpin> Future for Driven<'_, F, S> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        lock(&self.cork.0).corked = true;
        let polled = self.connection.as_mut().poll(cx);
        let mut held = lock(&self.cork.0);
        held.corked = false;
        // The task is woken when the stream takes more. An error comes again at the next write.
        let was_dead = held.dead;
        if held.release(cx).is_ready() {
            let _ = Pin::new(&mut held.stream).poll_flush(cx);
        }
        if held.dead && !was_dead {
            // The connection learns of it as soon as it reads.
            cx.waker().wake_by_ref();
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut held = lock(&self.0);
        if held.dead {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if !held.corked && !held.out.is_empty() {
            // What is left of a connection that was taken over: who only reads waits for the answer to it.
            if let Poll::Ready(Err(e)) = held.release(cx) {
                return Poll::Ready(Err(e));
            }
        }
        Pin::new(&mut held.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut held = lock(&self.0);
        let size: usize = slices.iter().map(|s| s.len()).sum();
        if held.corked && size < LARGE && held.out.len() + size <= HELD {
            for slice in slices {
                held.out.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(size));
        }
        ready!(held.release(cx))?;
        held.write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = lock(&self.0);
        if held.corked {
            return Poll::Ready(Ok(()));
        }
        ready!(held.release(cx))?;
        Pin::new(&mut held.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = lock(&self.0);
        ready!(held.release(cx))?;
        Pin::new(&mut held.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Counts writes.
    struct Counted<S>(S, Arc<Mutex<usize>>);

    impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            let n = ready!(Pin::new(&mut self.0).poll_write(cx, data))?;
            *self.1.lock().unwrap() += 1;
            Poll::Ready(Ok(n))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn what_is_flushed_often_is_written_once() {
        let (near, mut far) = duplex(1 << 20);
        let writes = Arc::new(Mutex::new(0));
        let (mut stream, cork) = cork(Counted(near, writes.clone()));
        let connection = pin!(async {
            for _ in 0..100 {
                stream.write_all(b"frame").await.unwrap();
                stream.flush().await.unwrap();
            }
        });
        cork.drive(connection).await;
        assert_eq!(*writes.lock().unwrap(), 1);
        let mut got = vec![0; 500];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(got, b"frame".repeat(100));
    }

    #[tokio::test]
    async fn a_full_pipe_delays_and_loses_nothing() {
        let (near, mut far) = duplex(100);
        let (mut stream, cork) = cork(near);
        let data: Vec<u8> = (0..300_000_u32).map(|i| i as u8).collect();
        let sent = data.clone();
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            all
        });
        let connection = pin!(async {
            for (n, chunk) in sent.chunks(777).enumerate() {
                stream.write_all(chunk).await.unwrap();
                if n % 3 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            stream.write_all(&sent[..LARGE * 2]).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        cork.drive(connection).await;
        let all = reader.await.unwrap();
        assert_eq!(all.len(), data.len() + LARGE * 2);
        assert!(all[..data.len()] == data && all[data.len()..] == data[..LARGE * 2]);
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (near, _far) = duplex(100);
        let (mut stream, cork) = cork(near);
        let began = tokio::time::Instant::now();
        let result = cork.drive(pin!(stream.write_all(&[0; LARGE * 2]))).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= STALL);
        assert!(cork.drive(pin!(stream.read_u8())).await.is_err(), "who only reads learns of it too");

        // A slow one is not: every byte begins the time anew. It takes longer than that altogether.
        let (near, mut far) = duplex(100);
        let (mut stream, cork) = super::cork(near);
        let reader = tokio::spawn(async move {
            let mut got = vec![0; LARGE / 10];
            for _ in 0..20 {
                tokio::time::sleep(STALL / 10).await;
                far.read_exact(&mut got).await.unwrap();
            }
            far
        });
        let sent = async {
            stream.write_all(&[0; LARGE * 2]).await?;
            stream.shutdown().await
        };
        let mut sent = pin!(sent);
        tokio::select! {
            result = cork.drive(sent.as_mut()) => result.unwrap(),
            far = reader => drop(far.unwrap()),
        }
    }

    #[tokio::test]
    async fn a_stream_that_was_taken_over_is_not_corked() {
        let (near, mut far) = duplex(1024);
        let (mut stream, cork) = cork(near);
        cork.drive(pin!(async {})).await;
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'x');
    }
}
