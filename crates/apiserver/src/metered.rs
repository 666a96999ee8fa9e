//! A store that is timed, under the names upstream gives its etcd client. Upstream:
//! apiserver/pkg/storage/etcd3/metrics, 1.36.
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::kinds::Kind;
use apiserver_http::metrics::{Histogram, Text, Type};
use apiserver_registry::prefix;
use async_trait::async_trait;
use bytes::Bytes;
use storage::{
    DeleteOutcome, Error, Expect, KeyValue, LeaseId, RangeRequest, RangeResponse, Revision, Storage,
    WatchStream, WriteOutcome,
};

/// Bounds of `etcd_request_duration_seconds`.
const DURATIONS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];

#[derive(Clone, Copy)]
enum Operation {
    Get,
    List,
    Create,
    Update,
    Delete,
}

const OPERATIONS: [&str; 5] = ["get", "list", "create", "update", "delete"];

/// Requests about one resource.
struct Times {
    prefix: String,
    group: String,
    resource: String,
    operations: [Histogram; OPERATIONS.len()],
}

/// Times of requests to a store, by resource.
pub struct StoreTimes(Vec<Times>);

impl StoreTimes {
    /// For the resources of these kinds.
    pub fn new(kinds: impl Iterator<Item = Arc<Kind>>) -> Self {
        let mut all: Vec<Times> = kinds
            .map(|kind| Times {
                prefix: prefix(&kind),
                group: kind.group.to_string(),
                resource: kind.plural.to_string(),
                operations: std::array::from_fn(|_| Histogram::new(DURATIONS, 1e6)),
            })
            .collect();
        all.sort_by(|a, b| a.prefix.cmp(&b.prefix));
        Self(all)
    }

    fn observe(&self, key: &str, operation: Operation, took: Duration) {
        let after = self.0.partition_point(|times| times.prefix.as_str() <= key);
        let Some(times) = after.checked_sub(1).and_then(|at| self.0.get(at)) else { return };
        if key.starts_with(&times.prefix) {
            times.operations[operation as usize].observe(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
    }

    /// Writes what was seen so far.
    pub fn write(&self, text: &mut Text) {
        let name = "etcd_request_duration_seconds";
        text.family(
            name,
            Type::Histogram,
            "Etcd request latency in seconds for each operation and object type.",
        );
        for times in &self.0 {
            for (operation, histogram) in OPERATIONS.iter().zip(&times.operations) {
                if !histogram.is_empty() {
                    let labels = [
                        ("group", times.group.as_str()),
                        ("operation", operation),
                        ("resource", &times.resource),
                    ];
                    histogram.write(text, name, &labels);
                }
            }
        }
    }
}

/// A store whose requests are timed.
pub struct Metered {
    /// The store.
    pub inner: Arc<dyn Storage>,
    /// Where times go.
    pub times: Arc<StoreTimes>,
}

#[async_trait]
impl Storage for Metered {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<KeyValue>, Revision), Error> {
        let began = Instant::now();
        let result = self.inner.get(key, at).await;
        self.times.observe(key, Operation::Get, began.elapsed());
        result
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        let (key, began) = (request.start.clone(), Instant::now());
        let result = self.inner.range(request).await;
        self.times.observe(&key, Operation::List, began.elapsed());
        result
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<WriteOutcome, Error> {
        let operation = if matches!(expect, Expect::Absent) { Operation::Create } else { Operation::Update };
        let began = Instant::now();
        let result = self.inner.put(key, value, expect, lease).await;
        self.times.observe(key, operation, began.elapsed());
        result
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<DeleteOutcome, Error> {
        let began = Instant::now();
        let result = self.inner.delete(key, expect).await;
        self.times.observe(key, Operation::Delete, began.elapsed());
        result
    }

    async fn is_stale(&self, key: &str) -> Result<bool, Error> {
        self.inner.is_stale(key).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, Error> {
        self.inner.watch(prefix, after).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.inner.grant(ttl).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.revoke(lease).await
    }

    async fn compact(&self, at: Revision) -> Result<(), Error> {
        self.inner.compact(at).await
    }

    async fn now(&self) -> Result<Revision, Error> {
        self.inner.now().await
    }

    async fn wait_for(&self, revision: Revision) -> Result<(), Error> {
        self.inner.wait_for(revision).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_to_their_resource() {
        let kinds = || api::kinds::KINDS.iter().filter(|k| k.has_verb("list")).map(|k| Arc::new(k.clone()));
        let times = StoreTimes::new(kinds());
        let pods = kinds().find(|k| k.plural == "pods" && k.group.is_empty()).expect("pods");
        let key = format!("{}default/a", prefix(&pods));
        times.observe(&key, Operation::Create, Duration::from_millis(3));
        times.observe(&prefix(&pods), Operation::List, Duration::from_millis(3));
        times.observe("/elsewhere", Operation::Get, Duration::from_millis(3));
        times.observe("/registry/zzz/a", Operation::Get, Duration::from_millis(3));
        let mut text = Text::default();
        times.write(&mut text);
        let page = text.finish();
        let count = |operation: &str| {
            format!(
                "etcd_request_duration_seconds_count{{group=\"\",operation=\"{operation}\",resource=\"pods\"}} 1"
            )
        };
        assert!(page.contains(&count("create")) && page.contains(&count("list")), "{page}");
        assert!(!page.contains("operation=\"get\""), "{page}");
    }
}
