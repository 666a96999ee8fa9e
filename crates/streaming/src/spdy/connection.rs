//! The task that moves a SPDY connection's frames.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    frame::{self, Control, FrameError, Head, reset},
    header_block::{HeaderCompressor, HeaderDecompressor, HeaderError, Headers},
    stream::Stream,
    table::{Entry, Refusal, Table},
};
use crate::{
    Duplex, Limits,
    io::{Activity, within},
};

/// Frames of all streams waiting for the socket.
const OUT_QUEUE: usize = 16;
/// Streams the peer opened that were not accepted yet.
const INCOMING_QUEUE: usize = 64;
/// Bytes gathered before they are handed to the socket.
const BATCH: usize = 64 * 1024;
/// How long a closed connection reads on, so that the peer gets all data before its socket breaks.
const LINGER: Duration = Duration::from_secs(10);

/// Which side of the connection this is; it decides who uses odd identifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We asked for the upgrade.
    Client,
    /// We were asked.
    Server,
}

/// Something to be sent.
#[derive(Debug)]
pub(super) enum Out {
    Open { id: u32, headers: Headers },
    Reply { id: u32 },
    Data { id: u32, fin: bool, data: Bytes },
    Control(Control),
    Close,
}

/// What streams and the connection's task share.
pub(super) struct Shared {
    table: Mutex<Table>,
    /// Answers, ahead of all data.
    urgent: mpsc::Sender<Out>,
    /// Data and what must stay behind it.
    data: mpsc::Sender<Out>,
    /// Streams dropped by their owners; at most one entry for each open stream.
    resets: mpsc::UnboundedSender<u32>,
    /// Serialises opening, as identifiers must rise on the wire.
    opening: tokio::sync::Mutex<()>,
    limits: Limits,
    closed: CancellationToken,
}

impl Shared {
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing under this lock panics half-way through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn data_sender(&self) -> mpsc::Sender<Out> {
        self.data.clone()
    }

    pub(super) fn reset_later(&self, id: u32) {
        // Fails only when the connection is gone, and the stream with it.
        let _ = self.resets.send(id);
    }
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("socket failed")]
    Io(#[from] io::Error),
    #[error("peer broke the protocol")]
    Frame(#[from] FrameError),
    #[error("peer sent unreadable headers")]
    Header(#[from] HeaderError),
}

/// A running SPDY connection; dropping it breaks it, [`Connection::close`] ends it well.
pub struct Connection {
    incoming: mpsc::Receiver<Incoming>,
    shared: Arc<Shared>,
    _abort: DropGuard,
}

/// A stream the peer opened and that was neither accepted nor refused.
pub struct Incoming {
    /// The headers it came with.
    pub headers: Headers,
    stream: Stream,
    shared: Arc<Shared>,
}

impl Incoming {
    /// The identifier on the wire.
    pub fn id(&self) -> u32 {
        self.stream.id()
    }

    /// Takes the stream and tells the peer.
    pub async fn accept(self) -> Stream {
        let id = self.stream.id();
        // On a connection that is gone, the stream reads end of file, which tells enough.
        let _ = self.shared.urgent.send(Out::Reply { id }).await;
        self.stream
    }

    /// Refuses the stream.
    pub async fn refuse(self) {
        let id = self.stream.id();
        if self.shared.table().reset(id) {
            let frame = Control::RstStream { id, status: reset::REFUSED_STREAM };
            let _ = self.shared.urgent.send(Out::Control(frame)).await;
        }
    }
}

/// Opens streams of our own on a connection.
#[derive(Clone)]
pub struct Opener(Arc<Shared>);

impl Opener {
    /// Opens a stream and waits until the peer has taken it: peers drop data that comes before their answer.
    pub async fn open(&self, headers: Headers) -> io::Result<Stream> {
        let refused =
            || io::Error::new(io::ErrorKind::ConnectionRefused, "stream was refused or connection closed");
        let shared = &self.0;
        let (ours, theirs) = tokio::io::duplex(shared.limits.stream_buffer);
        let (reply, replied) = oneshot::channel();
        let entry = Entry::new(ours, Some(reply));
        let gone = entry.gone.clone();
        let opening = shared.opening.lock().await;
        let id = shared.table().insert_local(entry).ok_or_else(refused)?;
        let stream = Stream::new(id, theirs, gone, shared.clone());
        shared.data.send(Out::Open { id, headers }).await.map_err(|_| refused())?;
        drop(opening);
        within(shared.limits.stream_creation, "waiting for a stream to be accepted", replied)
            .await?
            .map_err(|_| refused())?;
        Ok(stream)
    }
}

impl Connection {
    /// Starts the protocol over a byte stream, in a task of its own.
    pub fn start(io: impl Duplex + 'static, role: Role, limits: &Limits) -> Self {
        let (urgent, urgent_out) = mpsc::channel(OUT_QUEUE);
        let (data, data_out) = mpsc::channel(OUT_QUEUE);
        let (resets, resets_out) = mpsc::unbounded_channel();
        let (incoming_in, incoming) = mpsc::channel(INCOMING_QUEUE);
        let shared = Arc::new(Shared {
            table: Mutex::new(Table::new(role, limits.max_streams)),
            urgent,
            data,
            resets,
            opening: tokio::sync::Mutex::new(()),
            limits: limits.clone(),
            closed: CancellationToken::new(),
        });
        let abort = CancellationToken::new();
        let activity = Activity::new();
        let (read_half, write_half) = tokio::io::split(io);
        let reader = Reader {
            io: BufReader::with_capacity(16 * 1024, read_half),
            inflate: HeaderDecompressor::new(limits.max_header_block),
            shared: shared.clone(),
            incoming: incoming_in,
            activity: activity.clone(),
        };
        let writer = Writer {
            io: write_half,
            compress: HeaderCompressor::new(),
            urgent: urgent_out,
            data: data_out,
            resets: resets_out,
            shared: shared.clone(),
            activity: activity.clone(),
        };
        tokio::spawn(drive(reader, writer, activity, shared.clone(), abort.clone()));
        Self { incoming, shared, _abort: abort.drop_guard() }
    }

    /// The next stream the peer opens; none once the connection has ended.
    pub async fn accept(&mut self) -> Option<Incoming> {
        self.incoming.recv().await
    }

    /// A handle to open streams with.
    pub fn opener(&self) -> Opener {
        Opener(self.shared.clone())
    }

    /// Refuses every stream from now on, those not accepted yet included.
    pub fn refuse_further(&mut self) {
        self.incoming.close();
        while self.incoming.try_recv().is_ok() {}
    }

    /// Cancelled when the connection has ended.
    pub fn closed(&self) -> CancellationToken {
        self.shared.closed.clone()
    }

    /// Sends everything queued and a farewell, then waits for the peer to close, for a few seconds at most.
    pub async fn close(self) {
        if self.shared.data.send(Out::Close).await.is_ok() {
            self.shared.closed.cancelled().await;
        }
    }
}

/// Runs both directions until the connection ends, then ends its streams.
async fn drive<T: Duplex>(
    reader: Reader<T>,
    writer: Writer<T>,
    activity: Activity,
    shared: Arc<Shared>,
    abort: CancellationToken,
) {
    let idle = shared.limits.idle;
    let run = async {
        let read = reader.run();
        tokio::pin!(read);
        tokio::select! {
            ended = &mut read => ended,
            ended = writer.run() => match ended {
                Ok(()) => tokio::time::timeout(LINGER, read).await.unwrap_or(Ok(())),
                Err(error) => Err(error.into()),
            },
        }
    };
    tokio::select! {
        ended = run => match ended {
            Ok(()) => tracing::debug!("spdy connection ended"),
            Err(error) => tracing::debug!(error = %crate::io::chain(&error), "spdy connection failed"),
        },
        () = activity.silent_for(idle) => tracing::debug!("spdy connection was idle too long"),
        () = abort.cancelled() => {}
    }
    shared.table().clear();
    shared.closed.cancel();
}

struct Reader<T> {
    io: BufReader<ReadHalf<T>>,
    inflate: HeaderDecompressor,
    shared: Arc<Shared>,
    incoming: mpsc::Sender<Incoming>,
    activity: Activity,
}

impl<T: Duplex> Reader<T> {
    async fn run(mut self) -> Result<(), ConnectionError> {
        loop {
            if self.io.fill_buf().await?.is_empty() {
                return Ok(());
            }
            let mut head = [0; 8];
            self.io.read_exact(&mut head).await?;
            self.activity.touch();
            match frame::parse_head(head)? {
                Head::Data { id, fin, len } => self.data(id, fin, len).await?,
                Head::Control { kind, flags, len } => {
                    if len > self.shared.limits.max_control_frame {
                        return Err(FrameError::TooLarge(len).into());
                    }
                    let mut payload = vec![0; len];
                    self.io.read_exact(&mut payload).await?;
                    self.control(frame::parse_control(kind, flags, payload.into())?).await?;
                }
            }
        }
    }

    /// Hands a data frame's payload to its stream piece by piece, whatever its size.
    async fn data(&mut self, id: u32, fin: bool, len: usize) -> Result<(), ConnectionError> {
        // Data for streams that are over, or that nobody reads, is dropped, as the peer may not know yet.
        let mut inbound = self.shared.table().get_mut(id).and_then(|entry| entry.inbound.take());
        let mut left = len;
        while left > 0 {
            let piece = self.io.fill_buf().await?;
            if piece.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let size = piece.len().min(left);
            if let Some(pipe) = &mut inbound
                && pipe.write_all(&piece[..size]).await.is_err()
            {
                inbound = None;
            }
            self.io.consume(size);
            left -= size;
            self.activity.touch();
        }
        let mut table = self.shared.table();
        if fin {
            table.remote_finished(id);
        } else if let Some(entry) = table.get_mut(id) {
            entry.inbound = inbound;
        }
        Ok(())
    }

    async fn control(&mut self, frame: Control) -> Result<(), ConnectionError> {
        match frame {
            Control::SynStream { id, fin, unidirectional, block } => {
                let headers = self.inflate.decompress(&block)?;
                self.opened(id, fin, unidirectional, headers).await;
            }
            Control::SynReply { id, fin, block } => {
                self.inflate.decompress(&block)?;
                let mut table = self.shared.table();
                if let Some(reply) = table.get_mut(id).and_then(|entry| entry.reply.take()) {
                    // Nobody waits any more if opening timed out.
                    let _ = reply.send(());
                }
                if fin {
                    table.remote_finished(id);
                }
            }
            Control::Headers { id, fin, block } => {
                self.inflate.decompress(&block)?;
                if fin {
                    self.shared.table().remote_finished(id);
                }
            }
            Control::RstStream { id, .. } => {
                self.shared.table().reset(id);
            }
            Control::Ping { id } if self.shared.table().is_remote_id(id) => {
                // A peer that sends pings and reads no answers needs none.
                let _ = self.shared.urgent.try_send(Out::Control(Control::Ping { id }));
            }
            Control::GoAway { .. } => self.shared.table().going_away = true,
            Control::Ping { .. }
            | Control::Settings
            | Control::WindowUpdate { .. }
            | Control::Unknown { .. } => {}
        }
        Ok(())
    }

    async fn opened(&mut self, id: u32, fin: bool, unidirectional: bool, headers: Headers) {
        let (ours, theirs) = tokio::io::duplex(self.shared.limits.stream_buffer);
        let entry = Entry::new(ours, None);
        let gone = entry.gone.clone();
        let taken = {
            let mut table = self.shared.table();
            let taken = table.insert_remote(id, entry);
            if taken.is_ok() {
                if fin {
                    table.remote_finished(id);
                }
                if unidirectional {
                    table.local_finished(id);
                }
            }
            taken
        };
        let status = match taken {
            Ok(()) => {
                let stream = Stream::new(id, theirs, gone, self.shared.clone());
                let incoming = Incoming { headers, stream, shared: self.shared.clone() };
                // Without anyone to accept it, the stream is dropped and thereby reset.
                let _ = self.incoming.send(incoming).await;
                return;
            }
            Err(Refusal::GoingAway) => return,
            Err(Refusal::BadId) => reset::PROTOCOL_ERROR,
            Err(Refusal::TooMany) => reset::REFUSED_STREAM,
        };
        tracing::debug!(id, status, "stream refused");
        let _ = self.shared.urgent.send(Out::Control(Control::RstStream { id, status })).await;
    }
}

struct Writer<T> {
    io: WriteHalf<T>,
    compress: HeaderCompressor,
    urgent: mpsc::Receiver<Out>,
    data: mpsc::Receiver<Out>,
    resets: mpsc::UnboundedReceiver<u32>,
    shared: Arc<Shared>,
    activity: Activity,
}

impl<T: Duplex> Writer<T> {
    /// Sends until asked to close.
    async fn run(mut self) -> io::Result<()> {
        let mut batch = BytesMut::new();
        let mut closing = false;
        while !closing {
            let Some(first) = self.next().await else { return Ok(()) };
            closing |= self.encode(first, &mut batch);
            while !closing && batch.len() < BATCH {
                let Some(more) = self.ready() else { break };
                closing |= self.encode(more, &mut batch);
            }
            self.io.write_all_buf(&mut batch).await?;
            self.io.flush().await?;
            self.activity.touch();
        }
        self.io.shutdown().await
    }

    async fn next(&mut self) -> Option<Out> {
        tokio::select! {
            biased;
            out = self.urgent.recv() => out,
            out = self.data.recv() => out,
            Some(id) = self.resets.recv() => Some(cancelled(id)),
        }
    }

    fn ready(&mut self) -> Option<Out> {
        if let Ok(out) = self.urgent.try_recv() {
            return Some(out);
        }
        if let Ok(out) = self.data.try_recv() {
            return Some(out);
        }
        self.resets.try_recv().ok().map(cancelled)
    }

    /// Appends a frame; whether it was the last.
    fn encode(&mut self, out: Out, batch: &mut BytesMut) -> bool {
        match out {
            Out::Open { id, headers } => {
                let block = self.compress.compress(&headers);
                frame::encode_control(
                    &Control::SynStream { id, fin: false, unidirectional: false, block },
                    batch,
                );
            }
            Out::Reply { id } => {
                let block = self.compress.compress(&Headers::default());
                frame::encode_control(&Control::SynReply { id, fin: false, block }, batch);
            }
            Out::Data { id, fin, data } => frame::encode_data(id, fin, &data, batch),
            Out::Control(control) => frame::encode_control(&control, batch),
            Out::Close => {
                let mut table = self.shared.table();
                table.going_away = true;
                let last = table.last_remote();
                frame::encode_control(&Control::GoAway { last, status: 0 }, batch);
                return true;
            }
        }
        false
    }
}

fn cancelled(id: u32) -> Out {
    Out::Control(Control::RstStream { id, status: reset::CANCEL })
}
