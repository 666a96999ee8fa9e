//! A client that writes and reads through the balancer while a test breaks things, and what it saw.
//!
//! [`Traffic::start`], then whatever is to be survived, then [`Traffic::stop`], then [`Seen::judge`].
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

use crate::Cluster;
use crate::kubectl::{Kubectl, eventually};

/// Where it writes.
const NAMESPACE: &str = "traffic";
/// The object that is changed again and again.
const LATEST: &str = "latest";
/// Between two writes: a client among others, not a benchmark on the machine of the test.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a request may go without an answer until it is made again.
const ANSWER: Duration = Duration::from_secs(2);

/// A client at work.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    writer: JoinHandle<Result<Written>>,
    reader: JoinHandle<Result<Read>>,
}

/// What the writer saw.
#[derive(Default)]
struct Written {
    /// Acknowledged creations, name to UID.
    made: BTreeMap<String, String>,
    /// In the order of their making.
    order: Vec<String>,
    /// The longest time between two acknowledged writes, and when it began.
    gap: Duration,
    gap_from: Duration,
    /// Objects that were acknowledged and not there when read at once.
    unread: Vec<String>,
}

impl Written {
    fn note(&mut self, last: Instant, began: Instant) {
        if last.elapsed() > self.gap {
            (self.gap, self.gap_from) = (last.elapsed(), last.duration_since(began));
        }
    }
}

/// What the reader saw.
#[derive(Default)]
struct Read {
    answers: u64,
    /// The longest time between two answers.
    gap: Duration,
    /// Reads that showed less than what had been acknowledged when they began.
    stale: Vec<String>,
}

/// What a client saw.
pub struct Seen {
    made: BTreeMap<String, String>,
    order: Vec<String>,
    /// The longest time without an acknowledged write.
    pub gap: Duration,
    gap_from: Duration,
    /// The longest time without an answered read.
    pub read_gap: Duration,
    reads: u64,
    wrong: Vec<String>,
}

async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    // As a careful client: one that gets no answer asks again.
    config.connect_timeout = Some(ANSWER);
    config.read_timeout = Some(ANSWER);
    config.write_timeout = Some(ANSWER);
    Ok(kube::Client::try_from(config)?)
}

fn map(name: &str, number: u64) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        data: Some([("n".to_owned(), number.to_string())].into()),
        ..ConfigMap::default()
    }
}

/// What the pair of them share.
struct Shared {
    kubeconfig: PathBuf,
    run: String,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    latest: AtomicU64,
}

impl Shared {
    /// A client of what the kubeconfig says now: whoever was refused would look whether there is a new one.
    async fn maps(&self) -> Result<Api<ConfigMap>> {
        Ok(Api::namespaced(client(&self.kubeconfig).await?, NAMESPACE))
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    fn latest_name(&self) -> String {
        format!("{LATEST}-{}", self.run)
    }

    /// Makes an object and reads it back, changes another one, and so on.
    async fn write(&self) -> Result<Written> {
        let mut maps = self.maps().await?;
        let mut seen = Written::default();
        let began = Instant::now();
        let mut last = began;
        let apply = PatchParams::apply("traffic").force();
        for number in 1.. {
            if !self.goes_on() {
                break;
            }
            let name = format!("w-{}-{number}", self.run);
            let Ok(made) = maps.create(&PostParams::default(), &map(&name, number)).await else {
                // Nobody said yes: it may or may not be there.
                tokio::time::sleep(PAUSE * 4).await;
                maps = self.maps().await.unwrap_or(maps);
                continue;
            };
            seen.note(last, began);
            last = Instant::now();
            seen.made.insert(name.clone(), made.metadata.uid.unwrap_or_default());
            seen.order.push(name.clone());
            self.acknowledged.store(seen.order.len(), Ordering::SeqCst);
            match maps.get(&name).await {
                Err(kube::Error::Api(status)) if status.code == 404 => seen.unread.push(name),
                // No answer says nothing about what is there.
                _ => {}
            }
            let latest = self.latest_name();
            let patch = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"n": number.to_string()}});
            if maps.patch(&latest, &apply, &Patch::Apply(&patch)).await.is_ok() {
                self.latest.store(number, Ordering::SeqCst);
            }
            tokio::time::sleep(PAUSE).await;
        }
        // Whoever was cut off until the end was cut off until now.
        seen.note(last, began);
        Ok(seen)
    }

    /// Reads what is changed again and again; it never goes back.
    async fn read(&self) -> Result<Read> {
        let mut maps = self.maps().await?;
        let mut seen = Read::default();
        let mut last = Instant::now();
        while self.goes_on() {
            let least = self.latest.load(Ordering::SeqCst);
            let found = match maps.get(&self.latest_name()).await {
                Ok(found) => {
                    let text = found.data.and_then(|data| data.get("n").cloned());
                    Some(text.and_then(|n| n.parse().ok()).unwrap_or(0))
                }
                Err(kube::Error::Api(status)) if status.code == 404 => Some(0),
                Err(_) => {
                    maps = self.maps().await.unwrap_or(maps);
                    None
                }
            };
            if let Some(found) = found {
                seen.gap = seen.gap.max(last.elapsed());
                last = Instant::now();
                seen.answers += 1;
                if found < least {
                    seen.stale.push(format!("{found} was read after {least} was acknowledged"));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        seen.gap = seen.gap.max(last.elapsed());
        Ok(seen)
    }
}

impl Traffic {
    /// Makes the namespace that it writes to.
    pub fn prepare(cluster: &Cluster) -> Result<()> {
        cluster
            .kubectl()
            .feed("apply", &format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"))?;
        Ok(())
    }

    /// Begins, whether or not the cluster answers yet. [`Self::prepare`] has to have been called once; `run` tells it
    /// from others of the same cluster.
    pub fn start(cluster: &Cluster, run: &str) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let shared = Arc::new(Shared {
            kubeconfig: cluster.root().join("kubeconfig/admin.kubeconfig"),
            run: run.to_owned(),
            stop: stop.clone(),
            acknowledged: acknowledged.clone(),
            latest: AtomicU64::new(0),
        });
        let of_reader = shared.clone();
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
        Self {
            stop,
            acknowledged,
            writer: std::thread::spawn(move || runtime()?.block_on(shared.write())),
            reader: std::thread::spawn(move || runtime()?.block_on(of_reader.read())),
        }
    }

    /// How many writes were acknowledged until now.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until so many more writes were acknowledged.
    pub fn wait_for(&self, more: usize, patience: Duration) -> Result<()> {
        let wanted = self.acknowledged() + more;
        eventually("writes through the balancer", patience, || {
            let found = self.acknowledged();
            ensure!(found >= wanted, "{found} of {wanted} were acknowledged");
            Ok(())
        })
    }

    /// Ends; what it saw.
    pub fn stop(self) -> Result<Seen> {
        self.stop.store(true, Ordering::SeqCst);
        let written = self.writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        let read = self.reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        let mut wrong: Vec<String> =
            written.unread.iter().map(|name| format!("{name} was acknowledged and not read back")).collect();
        wrong.extend(read.stale);
        Ok(Seen {
            made: written.made,
            order: written.order,
            gap: written.gap,
            gap_from: written.gap_from,
            read_gap: read.gap,
            reads: read.answers,
            wrong,
        })
    }
}

impl Seen {
    /// Prints the gap; fails where an acknowledged write is gone, a read was stale, or too little went through.
    pub fn judge(&self, kubectl: &Kubectl, what: &str) -> Result<()> {
        self.judge_first(kubectl, what, self.order.len())
    }

    /// As [`Self::judge`], where only the first so many writes have to be there: those before a backup was made.
    pub fn judge_first(&self, kubectl: &Kubectl, what: &str, count: usize) -> Result<()> {
        println!(
            "     {what}: {} writes acknowledged, longest time without one {:.2} s (from second {:.1}); {} reads, \
             {:.2} s",
            self.order.len(),
            self.gap.as_secs_f64(),
            self.gap_from.as_secs_f64(),
            self.reads,
            self.read_gap.as_secs_f64()
        );
        ensure!(self.order.len() > 10, "only {} writes went through", self.order.len());
        ensure!(self.wrong.is_empty(), "{:?}", self.wrong);
        let names = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid}{\"\\n\"}{end}";
        let list = eventually("the list of what was written", Duration::from_secs(120), || {
            kubectl.within(NAMESPACE).args(&["get", "configmaps", "-o", names])
        })?;
        let found: BTreeMap<&str, &str> = list.lines().filter_map(|l| l.split_once(' ')).collect();
        for name in self.order.iter().take(count) {
            let uid = self.made.get(name).context("a name that was written")?;
            ensure!(found.get(name.as_str()) == Some(&uid.as_str()), "{name} was acknowledged and is lost");
        }
        Ok(())
    }
}
