//! Events for a server elsewhere. Upstream: apiserver/plugin/pkg/audit/{webhook,buffered}, 1.36.
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Request, Uri};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::sink::Batch;

/// How often a batch is tried.
const TRIES: u32 = 5;
/// What the pause between two tries grows by.
const FACTOR: f64 = 1.5;
/// How long one try may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a server that stops still tries to get rid of what is queued.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The server that takes events.
pub(crate) struct Webhook {
    client: kube::Client,
    target: String,
    backoff: Duration,
}

impl Webhook {
    /// The server of a kubeconfig, at the path that its address has.
    pub(crate) async fn new(kubeconfig: &Path, backoff: Duration) -> Result<Self, String> {
        let text = |e: &dyn std::error::Error| e.to_string();
        let config = Kubeconfig::read_from(kubeconfig).map_err(|e| text(&e))?;
        let mut config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
            .await
            .map_err(|e| text(&e))?;
        let target = config.cluster_url.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        let mut parts = config.cluster_url.into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        config.cluster_url = Uri::from_parts(parts).map_err(|e| text(&e))?;
        let client = kube::Client::try_from(config).map_err(|e| text(&e))?;
        Ok(Self { client, target, backoff })
    }

    async fn try_once(&self, body: &[u8]) -> Result<(), String> {
        let request = Request::post(&self.target)
            .header(CONTENT_TYPE, "application/json")
            .body(kube::client::Body::from(body.to_vec()))
            .map_err(|e| e.to_string())?;
        match tokio::time::timeout(TIMEOUT, self.client.send(request)).await {
            Ok(Ok(response)) if response.status().is_success() => Ok(()),
            Ok(Ok(response)) => Err(format!("the webhook answered {}", response.status())),
            Ok(Err(e)) => Err(base::Chain(&e).to_string()),
            Err(_) => Err("the webhook did not answer in time".into()),
        }
    }

    /// Sends events as one list, again and again for a while.
    pub(crate) async fn send(&self, events: &[Arc<[u8]>]) -> Result<(), String> {
        let body = list(events);
        let mut pause = self.backoff;
        for attempt in 1.. {
            match self.try_once(&body).await {
                Ok(()) => return Ok(()),
                Err(why) if attempt >= TRIES => return Err(why),
                Err(why) => tracing::debug!(why, attempt, "audit events are sent again"),
            }
            tokio::time::sleep(pause).await;
            pause = pause.mul_f64(FACTOR);
        }
        Ok(())
    }
}

/// An `EventList`; its items say neither type nor version.
fn list(events: &[Arc<[u8]>]) -> Vec<u8> {
    let mut out = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#.to_vec();
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.push(b'{');
        out.extend_from_slice(event);
    }
    out.extend_from_slice(b"]}");
    out
}

/// How many batches may go now: some at once after a rest, and then no more than so many a second.
struct Throttle {
    tokens: f64,
    at: Instant,
    qps: f64,
    burst: f64,
}

impl Throttle {
    async fn pass(&mut self) {
        let now = Instant::now();
        self.tokens = (self.tokens + (now - self.at).as_secs_f64() * self.qps).min(self.burst);
        self.at = now;
        if self.tokens < 1.0 && self.qps.is_finite() && self.qps > 0.0 {
            tokio::time::sleep(Duration::from_secs_f64((1.0 - self.tokens) / self.qps)).await;
            self.at = Instant::now();
            self.tokens = 1.0;
        }
        self.tokens -= 1.0;
    }
}

/// Sends what is queued, in batches; what is queued at a stop is tried once more.
pub(crate) async fn send_queue(
    webhook: Arc<Webhook>,
    mut queue: mpsc::Receiver<Arc<[u8]>>,
    batch: Batch,
    max_bytes: usize,
    stop: CancellationToken,
) {
    let burst = batch.burst.max(1) as f64;
    let mut throttle = Throttle { tokens: burst, at: Instant::now(), qps: batch.qps, burst };
    let mut left: Option<Arc<[u8]>> = None;
    loop {
        let (events, more) = gather(&mut queue, &mut left, batch, max_bytes, &stop).await;
        if !events.is_empty() {
            let sending = async {
                throttle.pass().await;
                webhook.send(&events).await
            };
            let sent = tokio::select! {
                sent = sending => sent,
                () = async { stop.cancelled().await; tokio::time::sleep(LAST_WORDS).await } => {
                    Err("the server stops".into())
                }
            };
            if let Err(why) = sent {
                tracing::error!(plugin = "webhook", count = events.len(), why, "audit events were lost");
            }
        }
        if !more {
            return;
        }
    }
}

/// The next batch, and whether there may be more.
async fn gather(
    queue: &mut mpsc::Receiver<Arc<[u8]>>,
    left: &mut Option<Arc<[u8]>>,
    batch: Batch,
    max_bytes: usize,
    stop: &CancellationToken,
) -> (Vec<Arc<[u8]>>, bool) {
    let mut events: Vec<Arc<[u8]>> = left.take().into_iter().collect();
    let mut bytes: usize = events.iter().map(|e| e.len()).sum();
    let mut deadline = events.first().map(|_| Instant::now() + batch.wait);
    while events.len() < batch.max {
        let waited = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = queue.recv() => match event {
                None => return (events, false),
                Some(event) if !events.is_empty() && bytes + event.len() > max_bytes => {
                    *left = Some(event);
                    return (events, true);
                }
                Some(event) => {
                    bytes += event.len();
                    events.push(event);
                    deadline.get_or_insert_with(|| Instant::now() + batch.wait);
                }
            },
            // Nothing comes after this but what is queued already.
            () = stop.cancelled(), if !queue.is_closed() => queue.close(),
            () = waited => return (events, true),
        }
    }
    (events, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Arc<[u8]> {
        text.as_bytes().into()
    }

    #[test]
    fn a_list_is_one_object() {
        let got = String::from_utf8(list(&[event("\"a\":1}"), event("\"a\":2}")])).unwrap();
        let want =
            r#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[{"a":1},{"a":2}]}"#;
        assert_eq!(got, want);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_full_or_old() {
        let (sender, mut queue) = mpsc::channel(10);
        let stop = CancellationToken::new();
        let batch = Batch { max: 3, wait: Duration::from_secs(30), ..Batch::webhook() };
        let mut left = None;
        for _ in 0..4 {
            sender.try_send(event("12345")).unwrap();
        }
        let began = Instant::now();
        let (events, more) = gather(&mut queue, &mut left, batch, usize::MAX, &stop).await;
        assert_eq!((events.len(), more, began.elapsed()), (3, true, Duration::ZERO));
        let (events, more) = gather(&mut queue, &mut left, batch, usize::MAX, &stop).await;
        assert_eq!((events.len(), more), (1, true));
        assert_eq!(began.elapsed().as_secs(), 30);
        for _ in 0..3 {
            sender.try_send(event("12345")).unwrap();
        }
        let (events, _) = gather(&mut queue, &mut left, batch, 10, &stop).await;
        assert_eq!((events.len(), left.is_some()), (2, true));
        stop.cancel();
        let (events, more) = gather(&mut queue, &mut left, batch, 10, &stop).await;
        assert_eq!((events.len(), more), (1, false));
        assert!(sender.try_send(event("late")).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn batches_are_slowed_down_after_a_burst() {
        let mut throttle = Throttle { tokens: 2.0, at: Instant::now(), qps: 10.0, burst: 2.0 };
        let began = Instant::now();
        for _ in 0..12 {
            throttle.pass().await;
        }
        let took = began.elapsed().as_millis();
        assert!((990..=1100).contains(&took), "{took}");
    }
}
