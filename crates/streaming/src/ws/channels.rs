//! The task that moves the messages of a WebSocket with numbered channels.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{
    Sink, SinkExt, Stream, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt, DuplexStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, protocol::CloseFrame, protocol::frame::coding::CloseCode},
};
use tokio_util::sync::{CancellationToken, DropGuard, PollSender};

use super::Codec;
use crate::{Duplex, Limits, io::Activity};

/// Messages of all channels waiting for the socket.
const OUT_QUEUE: usize = 16;
/// The largest message we send.
const MAX_CHUNK: usize = 32 * 1024;
/// The channel on which v5 says that another one has ended.
const CLOSE_CHANNEL: u8 = 255;

/// Something to be sent.
pub(crate) enum Message {
    /// Data of a channel, possibly none.
    Data(u8, Bytes),
    /// The end of the connection, after everything before it.
    Close,
}

/// A running connection; it breaks when this is dropped, and ends well with [`Message::Close`].
pub(crate) struct Channels {
    out: mpsc::Sender<Message>,
    closed: CancellationToken,
    _abort: DropGuard,
}

impl Channels {
    /// Starts moving messages: those received go to `inbound` by channel number, all others are dropped.
    ///
    /// With `closes_channels` (v5), the peer can end single channels.
    pub(crate) fn start<T: Duplex + 'static>(
        socket: WebSocketStream<T>,
        codec: Codec,
        closes_channels: bool,
        inbound: Vec<Option<DuplexStream>>,
        limits: &Limits,
    ) -> Self {
        let (out, queue) = mpsc::channel(OUT_QUEUE);
        let (closed, abort) = (CancellationToken::new(), CancellationToken::new());
        let activity = Activity::new();
        let (sink, stream) = socket.split();
        let reader = Reader { stream, codec, closes_channels, inbound, activity: activity.clone() };
        let writer = Writer { sink, codec, queue, activity: activity.clone() };
        let guard = abort.clone().drop_guard();
        tokio::spawn(drive(reader, writer, activity, limits.clone(), abort, closed.clone()));
        Self { out, closed, _abort: guard }
    }

    /// Sends a message; fails silently on a closed connection, which its reader notices.
    pub(crate) async fn send(&self, message: Message) {
        let _ = self.out.send(message).await;
    }

    /// A byte sink for one channel.
    pub(crate) fn writer(&self, channel: u8) -> ChannelWriter {
        ChannelWriter { out: PollSender::new(self.out.clone()), channel, end: None }
    }

    /// A byte sink whose shutdown ends the channel at the peer, as v5 can.
    pub(crate) fn closing_writer(&self, channel: u8) -> ChannelWriter {
        let end = Some(Message::Data(CLOSE_CHANNEL, Bytes::copy_from_slice(&[channel])));
        ChannelWriter { out: PollSender::new(self.out.clone()), channel, end }
    }

    /// Says farewell after everything sent so far and waits for the peer's.
    pub(crate) async fn finish(self) {
        self.send(Message::Close).await;
        self.closed.cancelled().await;
    }

    /// Cancelled when the connection has ended.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }
}

/// Sends what is written as messages of one channel.
pub(crate) struct ChannelWriter {
    out: PollSender<Message>,
    channel: u8,
    end: Option<Message>,
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.out.poll_reserve(cx)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        let data = Bytes::copy_from_slice(&buf[..buf.len().min(MAX_CHUNK)]);
        let (len, channel) = (data.len(), self.channel);
        self.out.send_item(Message::Data(channel, data)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end.is_some() {
            ready!(self.out.poll_reserve(cx)).map_err(|_| io::ErrorKind::BrokenPipe)?;
            if let Some(end) = self.end.take() {
                self.out.send_item(end).map_err(|_| io::ErrorKind::BrokenPipe)?;
            }
        }
        // The queue must not stay open for a writer that is done.
        self.out.close();
        Poll::Ready(Ok(()))
    }
}

async fn drive<T: Duplex>(
    reader: Reader<T>,
    writer: Writer<T>,
    activity: Activity,
    limits: Limits,
    abort: CancellationToken,
    closed: CancellationToken,
) {
    let run = async {
        let read = reader.run();
        tokio::pin!(read);
        tokio::select! {
            ended = &mut read => ended,
            ended = writer.run() => match ended {
                // The peer answers our farewell once it has read everything before it.
                Ok(()) => tokio::time::timeout(limits.finish, read).await.unwrap_or(Ok(())),
                Err(error) => Err(error),
            },
        }
    };
    tokio::select! {
        ended = run => match ended {
            Ok(()) => tracing::debug!("websocket ended"),
            Err(error) => tracing::debug!(%error, "websocket failed"),
        },
        () = activity.silent_for(limits.idle) => tracing::debug!("websocket was idle too long"),
        () = abort.cancelled() => {}
    }
    closed.cancel();
}

struct Reader<T> {
    stream: SplitStream<WebSocketStream<T>>,
    codec: Codec,
    closes_channels: bool,
    inbound: Vec<Option<DuplexStream>>,
    activity: Activity,
}

impl<T: Duplex> Reader<T>
where
    WebSocketStream<T>: Stream<Item = tungstenite::Result<tungstenite::Message>>,
{
    async fn run(mut self) -> tungstenite::Result<()> {
        while let Some(message) = self.stream.next().await {
            let message = message?;
            self.activity.touch();
            let Some((channel, data)) = self.codec.decode(message) else { continue };
            if channel == CLOSE_CHANNEL && self.closes_channels {
                if let Some(ended) =
                    data.first().and_then(|&channel| self.inbound.get_mut(usize::from(channel)))
                {
                    *ended = None;
                }
                continue;
            }
            if let Some(slot) = self.inbound.get_mut(usize::from(channel))
                && let Some(pipe) = slot
                && pipe.write_all(&data).await.is_err()
            {
                *slot = None;
            }
        }
        Ok(())
    }
}

struct Writer<T> {
    sink: SplitSink<WebSocketStream<T>, tungstenite::Message>,
    codec: Codec,
    queue: mpsc::Receiver<Message>,
    activity: Activity,
}

impl<T: Duplex> Writer<T>
where
    WebSocketStream<T>: Sink<tungstenite::Message, Error = tungstenite::Error>,
{
    /// Sends until told to close, or until nobody is left who could send.
    async fn run(mut self) -> tungstenite::Result<()> {
        loop {
            let Some(Message::Data(channel, data)) = self.queue.recv().await else { break };
            self.sink.feed(self.codec.encode(channel, &data)).await?;
            let mut more = true;
            while more {
                match self.queue.try_recv() {
                    Ok(Message::Data(channel, data)) => {
                        self.sink.feed(self.codec.encode(channel, &data)).await?
                    }
                    Ok(Message::Close) => return self.close().await,
                    Err(_) => more = false,
                }
            }
            self.sink.flush().await?;
            self.activity.touch();
        }
        self.close().await
    }

    async fn close(&mut self) -> tungstenite::Result<()> {
        let farewell = CloseFrame { code: CloseCode::Normal, reason: Default::default() };
        self.sink.send(tungstenite::Message::Close(Some(farewell))).await
    }
}
