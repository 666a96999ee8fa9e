//! Where events go, and whether a request waits for that.
use std::cell::OnceCell;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::event::Event;
use crate::file::{RotatingFile, Rotation};
use crate::webhook::Webhook;

/// What every written event begins with.
const HEAD: &[u8] = br#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","#;

/// Whether requests wait for their events (`--audit-log-mode`, `--audit-webhook-mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They do not; events are dropped where they come too fast.
    Batch,
    /// They do.
    Blocking,
    /// They do, and one whose first event cannot be written is refused.
    BlockingStrict,
}

impl Mode {
    /// Reads a flag.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "batch" => Self::Batch,
            "blocking" => Self::Blocking,
            "blocking-strict" => Self::BlockingStrict,
            _ => return None,
        })
    }
}

/// How events are gathered (`--audit-*-batch-*`).
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Events that wait at most; more are dropped.
    pub buffer: usize,
    /// Events that go together at most.
    pub max: usize,
    /// How long an event waits for others.
    pub wait: Duration,
    /// Batches a second, on average.
    pub qps: f64,
    /// Batches at once, after a rest.
    pub burst: usize,
}

impl Batch {
    /// As the webhook gathers, unless it is told otherwise.
    pub fn webhook() -> Self {
        Self { buffer: 10_000, max: 400, wait: Duration::from_secs(30), qps: 10.0, burst: 15 }
    }

    /// As the log gathers: whatever there is.
    pub fn log() -> Self {
        Self { buffer: 10_000, max: 1, wait: Duration::ZERO, qps: f64::INFINITY, burst: 1 }
    }
}

/// The size of an event beyond which its objects are left out (`--audit-*-truncate-*`).
#[derive(Debug, Clone, Copy)]
pub struct Truncate {
    /// Bytes of an event.
    pub max_event: usize,
    /// Bytes of a batch.
    pub max_batch: usize,
}

impl Default for Truncate {
    fn default() -> Self {
        Self { max_event: 100 * 1024, max_batch: 10 * 1024 * 1024 }
    }
}

/// `--audit-log-*`.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// `--audit-log-path`; `-`: standard output.
    pub path: PathBuf,
    /// `--audit-log-maxsize`, in megabytes; 0: 100.
    pub max_megabytes: u64,
    /// `--audit-log-maxbackup`; 0: all are kept.
    pub max_backups: usize,
    /// `--audit-log-maxage`, in days; 0: for ever.
    pub max_days: u64,
    /// `--audit-log-mode`.
    pub mode: Mode,
    /// Only read in [`Mode::Batch`].
    pub batch: Batch,
    /// `None`: events are written whatever their size.
    pub truncate: Option<Truncate>,
}

impl LogConfig {
    /// A file with upstream's defaults.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_megabytes: 0,
            max_backups: 0,
            max_days: 0,
            mode: Mode::Blocking,
            batch: Batch::log(),
            truncate: None,
        }
    }
}

/// `--audit-webhook-*`.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// `--audit-webhook-config-file`: a kubeconfig whose server takes the events.
    pub kubeconfig: PathBuf,
    /// `--audit-webhook-initial-backoff`.
    pub backoff: Duration,
    /// `--audit-webhook-mode`.
    pub mode: Mode,
    /// Only read in [`Mode::Batch`].
    pub batch: Batch,
    /// `None`: events are sent whatever their size.
    pub truncate: Option<Truncate>,
}

impl WebhookConfig {
    /// A webhook with upstream's defaults.
    pub fn new(kubeconfig: impl Into<PathBuf>) -> Self {
        Self {
            kubeconfig: kubeconfig.into(),
            backoff: Duration::from_secs(10),
            mode: Mode::Batch,
            batch: Batch::webhook(),
            truncate: None,
        }
    }
}

/// An event that several sinks may want in several forms, each made once.
pub(crate) struct Encoded<'a> {
    event: &'a mut Event,
    full: OnceCell<Option<Arc<[u8]>>>,
    cut: OnceCell<Option<Arc<[u8]>>>,
}

impl<'a> Encoded<'a> {
    pub(crate) fn new(event: &'a mut Event) -> Self {
        Self { event, full: OnceCell::new(), cut: OnceCell::new() }
    }

    /// The event, without its objects if it were too large with them; `None`: too large all the same.
    fn within(&mut self, truncate: Option<Truncate>) -> Option<Arc<[u8]>> {
        let full = self.full.get_or_init(|| self.event.encode().map(Into::into)).clone()?;
        let Some(limit) = truncate.map(|t| t.max_event) else { return Some(full) };
        if full.len() <= limit {
            return Some(full);
        }
        if self.cut.get().is_none() {
            let kept = (self.event.request_object.take(), self.event.response_object.take());
            self.event.annotations.insert("audit.k8s.io/truncated".into(), "true".into());
            let _ = self.cut.set(self.event.encode().map(Into::into));
            self.event.annotations.remove("audit.k8s.io/truncated");
            (self.event.request_object, self.event.response_object) = kept;
        }
        self.cut.get()?.clone().filter(|cut| cut.len() <= limit)
    }
}

/// What events are written to.
enum Output {
    File(RotatingFile),
    Stdout,
}

impl Output {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write(lines),
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
        }
    }
}

fn line(out: &mut Vec<u8>, event: &[u8]) {
    out.extend_from_slice(HEAD);
    out.extend_from_slice(event);
    out.push(b'\n');
}

/// Where events go.
enum Way {
    Log(Arc<Mutex<Output>>),
    Webhook(Arc<Webhook>),
    Queue(mpsc::Sender<Arc<[u8]>>),
}

/// One destination.
pub(crate) struct Sink {
    name: &'static str,
    way: Way,
    mode: Mode,
    truncate: Option<Truncate>,
    dropped: AtomicU64,
    told: Mutex<Option<Instant>>,
}

/// How often lost events are told.
const TELL: Duration = Duration::from_secs(60);

impl Sink {
    pub(crate) fn log(config: &LogConfig, stop: &CancellationToken, tasks: &TaskTracker) -> io::Result<Self> {
        let output = if config.path.as_os_str() == "-" {
            Output::Stdout
        } else {
            let rotation = Rotation {
                max_bytes: config.max_megabytes << 20,
                max_backups: config.max_backups,
                max_age: Duration::from_secs(config.max_days * 86_400),
            };
            Output::File(RotatingFile::open(&config.path, rotation)?)
        };
        let output = Arc::new(Mutex::new(output));
        let way = if config.mode == Mode::Batch {
            let (sender, receiver) = mpsc::channel(config.batch.buffer.max(1));
            tasks.spawn(write_queue(receiver, output, stop.clone()));
            Way::Queue(sender)
        } else {
            Way::Log(output)
        };
        Ok(Self::new("log", way, config.mode, config.truncate))
    }

    pub(crate) fn webhook(
        webhook: Webhook,
        config: &WebhookConfig,
        stop: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let webhook = Arc::new(webhook);
        let way = if config.mode == Mode::Batch {
            let (sender, receiver) = mpsc::channel(config.batch.buffer.max(1));
            let max_bytes = config.truncate.map_or(usize::MAX, |t| t.max_batch);
            tasks.spawn(crate::webhook::send_queue(webhook, receiver, config.batch, max_bytes, stop.clone()));
            Way::Queue(sender)
        } else {
            Way::Webhook(webhook)
        };
        Self::new("webhook", way, config.mode, config.truncate)
    }

    fn new(name: &'static str, way: Way, mode: Mode, truncate: Option<Truncate>) -> Self {
        Self { name, way, mode, truncate, dropped: AtomicU64::new(0), told: Mutex::default() }
    }

    /// Whether a request must not go on when its first event is lost.
    pub(crate) fn is_strict(&self) -> bool {
        self.mode == Mode::BlockingStrict
    }

    /// What goes to this sink of an event; `None`: it is too large, which is told.
    pub(crate) fn prepare(&self, event: &mut Encoded<'_>) -> Option<Arc<[u8]>> {
        let bytes = event.within(self.truncate);
        if bytes.is_none() {
            self.lost("it is too large");
        }
        bytes
    }

    /// Takes an event; says whether it got there, or waits in a queue.
    pub(crate) async fn take(&self, event: Arc<[u8]>) -> bool {
        let taken = match &self.way {
            Way::Queue(queue) => queue.try_send(event).map_err(|_| "the queue is full".to_owned()),
            Way::Log(output) => {
                let mut text = Vec::with_capacity(HEAD.len() + event.len() + 1);
                line(&mut text, &event);
                let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
                output.write(&text).map_err(|e| e.to_string())
            }
            Way::Webhook(webhook) => webhook.send(&[event]).await,
        };
        match taken {
            Ok(()) => true,
            Err(why) => {
                self.lost(&why);
                false
            }
        }
    }

    /// Counts a lost event; says so now and then.
    fn lost(&self, why: &str) {
        let count = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() > TELL) {
            *told = Some(Instant::now());
            tracing::error!(plugin = self.name, count, why, "audit events were lost");
        }
    }
}

/// Writes what is queued, as much at once as there is.
async fn write_queue(
    mut queue: mpsc::Receiver<Arc<[u8]>>,
    output: Arc<Mutex<Output>>,
    stop: CancellationToken,
) {
    const AT_ONCE: usize = 256;
    let mut events = Vec::new();
    loop {
        tokio::select! {
            biased;
            count = queue.recv_many(&mut events, AT_ONCE) => {
                if count == 0 {
                    return;
                }
            }
            // What was queued before the stop is written.
            () = stop.cancelled() => queue.close(),
        }
        let mut text = Vec::new();
        for event in events.drain(..) {
            line(&mut text, &event);
        }
        if text.is_empty() {
            continue;
        }
        let output = output.clone();
        let written = tokio::task::spawn_blocking(move || {
            output.lock().unwrap_or_else(PoisonError::into_inner).write(&text)
        });
        if let Ok(Err(error)) = written.await {
            tracing::error!(%error, "audit events were lost");
        }
    }
}
