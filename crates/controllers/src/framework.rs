//! What every controller shares: sources wake keys, workers reconcile them, failures come back later.
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use client::{Cache, Change, ObjectKey, WorkQueue};
use kube::Resource;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// Keeps one kind of thing as it should be. Levels, not edges: a key is woken, the state found decides.
pub trait Controller: Send + Sync + 'static {
    /// As upstream's flag `--controllers` names it.
    const NAME: &'static str;
    /// How many keys are worked on at a time.
    const WORKERS: usize = 5;

    /// Says which changes wake which keys.
    fn wake_on(&self, wakes: &mut Wakes);

    /// Brings one key nearer to what it should be.
    fn reconcile(&self, key: ObjectKey) -> impl Future<Output = Result<Next, Error>> + Send;
}

/// What comes after a reconcile that went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Next {
    /// Nothing until a change.
    #[default]
    Rest,
    /// Look again after this long.
    After(Duration),
}

impl Next {
    /// The earlier of two.
    #[must_use]
    pub fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::After(a), Self::After(b)) => Self::After(a.min(b)),
            (Self::After(a), Self::Rest) | (Self::Rest, Self::After(a)) => Self::After(a),
            (Self::Rest, Self::Rest) => Self::Rest,
        }
    }
}

/// Why a reconcile failed. The framework logs it once and tries again later.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused or did not answer.
    #[error("cannot {step}")]
    Api {
        /// What was tried.
        step: &'static str,
        /// What the server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// Not yet: something has to happen first.
    #[error("{0}")]
    Unfinished(String),
}

impl Error {
    /// For `map_err`: names the step that failed.
    pub fn at(step: &'static str) -> impl Fn(kube::Error) -> Self {
        move |source| Self::Api { step, source: Box::new(source) }
    }

    /// The status code of the server's answer; 0 where there is none.
    pub fn code(&self) -> u16 {
        match self {
            Self::Api { source, .. } => code(source),
            Self::Unfinished(_) => 0,
        }
    }
}

/// The status code of a server's refusal; 0 for other errors.
pub fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

/// Whether a namespace refuses new objects because it goes away.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status.code == 403
        && status.details.iter().flat_map(|d| &d.causes).any(|c| c.reason == "NamespaceTerminating")
}

/// Takes `None` for an object that is not there any more.
pub fn unless_gone<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if code(&error) == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

type BoxTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Collects what wakes a controller's keys.
pub struct Wakes {
    queue: Arc<WorkQueue<ObjectKey>>,
    synced: Vec<BoxTask>,
    sources: Vec<BoxTask>,
}

impl Wakes {
    /// Changes of the kind itself wake the object's own key.
    pub fn own<K>(&mut self, cache: &Cache<K>)
    where
        K: Resource + Debug + Send + Sync + 'static,
    {
        self.on(cache, |change| vec![change.key.clone()]);
    }

    /// Changes of things wake their controller, where that is of this kind.
    pub fn owner_of<K>(&mut self, cache: &Cache<K>, kind: &'static str)
    where
        K: Resource + Debug + Send + Sync + 'static,
    {
        self.on(cache, move |change| {
            let mut keys = Vec::new();
            for object in change.old.iter().chain(&change.new) {
                let owner = object.meta().owner_references.iter().flatten();
                let owner = owner.filter(|o| o.controller == Some(true) && o.kind == kind);
                keys.extend(owner.map(|o| ObjectKey::new(change.key.namespace.clone(), o.name.clone())));
            }
            keys.dedup();
            keys
        });
    }

    /// Changes wake whatever keys `keys` gives.
    pub fn on<K>(&mut self, cache: &Cache<K>, keys: impl Fn(&Change<K>) -> Vec<ObjectKey> + Send + 'static)
    where
        K: Resource + Debug + Send + Sync + 'static,
    {
        self.reads(cache);
        let (queue, mut changes) = (self.queue.clone(), cache.changes());
        self.sources.push(Box::pin(async move {
            loop {
                let change = changes.next().await;
                for key in keys(&change) {
                    queue.add(key);
                }
            }
        }));
    }

    /// The controller reads this cache: nothing is reconciled before it is filled.
    pub fn reads<K>(&mut self, cache: &Cache<K>)
    where
        K: Resource + Send + Sync + 'static,
    {
        let cache = cache.clone();
        self.synced.push(Box::pin(async move { cache.synced().await }));
    }

    /// Wakes this key every so often. Only for what no watch can tell.
    pub fn every(&mut self, period: Duration, key: ObjectKey) {
        let queue = self.queue.clone();
        self.sources.push(Box::pin(async move {
            let mut ticks = tokio::time::interval(period);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                queue.add(key.clone());
            }
        }));
    }

    /// The queue itself, for wakes that a controller makes on its own.
    pub fn queue(&self) -> Arc<WorkQueue<ObjectKey>> {
        self.queue.clone()
    }

    /// A task that runs beside the workers.
    pub fn beside(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.sources.push(Box::pin(task));
    }
}

/// Runs a controller until `stop` fires; work in progress is finished first.
pub async fn run<C: Controller>(controller: C, stop: CancellationToken) {
    let controller = Arc::new(controller);
    let queue = Arc::new(WorkQueue::new());
    let mut wakes = Wakes { queue: queue.clone(), synced: Vec::new(), sources: Vec::new() };
    controller.wake_on(&mut wakes);

    let all_synced = async {
        for synced in wakes.synced {
            synced.await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => return,
        () = all_synced => {}
    }
    tracing::debug!(controller = C::NAME, "caches filled");

    let mut sources = JoinSet::new();
    for source in wakes.sources {
        sources.spawn(source);
    }
    let mut workers = JoinSet::new();
    for _ in 0..C::WORKERS {
        let (controller, queue) = (controller.clone(), queue.clone());
        workers.spawn(async move {
            while let Some(key) = queue.get().await {
                let span = tracing::debug_span!("reconcile", controller = C::NAME, %key);
                step(&*controller, &queue, key).instrument(span).await;
            }
        });
    }
    stop.cancelled().await;
    queue.shut_down();
    while let Some(ended) = workers.join_next().await {
        if let Err(error) = ended {
            tracing::error!(controller = C::NAME, %error, "worker ended badly");
        }
    }
}

async fn step<C: Controller>(controller: &C, queue: &WorkQueue<ObjectKey>, key: ObjectKey) {
    match controller.reconcile(key.clone()).await {
        Ok(next) => {
            queue.forget(&key);
            if let Next::After(delay) = next {
                queue.add_after(key.clone(), delay);
            }
        }
        Err(error) => {
            let delay = queue.add_rate_limited(key.clone());
            // A conflict only says that our view was old, and nobody misses what a dying namespace refuses.
            let in_dying_namespace =
                matches!(&error, Error::Api { source, .. } if is_namespace_terminating(source));
            if error.code() == 409 || matches!(error, Error::Unfinished(_)) || in_dying_namespace {
                tracing::debug!(error = %chain(&error), ?delay, "not done, trying again");
            } else {
                tracing::warn!(controller = C::NAME, %key, error = %chain(&error), ?delay, "reconcile failed");
            }
        }
    }
    queue.done(&key);
}

/// What the server said, without the client's wrapping.
pub fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// An error with its causes in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let part = error.downcast_ref::<kube::Error>().map_or_else(|| error.to_string(), message);
        if !text.contains(&part) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&part);
        }
        // The status of an API error says the same again.
        next = error.source().filter(|_| !matches!(error.downcast_ref(), Some(kube::Error::Api(_))));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sooner_of_two_nexts() {
        let after = |s| Next::After(Duration::from_secs(s));
        assert_eq!(Next::Rest.sooner(Next::Rest), Next::Rest);
        assert_eq!(Next::Rest.sooner(after(3)), after(3));
        assert_eq!(after(5).sooner(after(3)), after(3));
    }
}
