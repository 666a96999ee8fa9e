//! What the server counts, and `/metrics`. Upstream: apiserver/pkg/endpoints/metrics/metrics.go, 1.36.
//!
//! A request finds its [`Series`] in a map of its thread and counts with atomics; a lock is taken only when a thread
//! meets a kind of request for the first time, and when somebody reads.
mod histogram;
mod process;
mod text;

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use histogram::Histogram;
pub use text::{Text, Type};

/// Bounds of `apiserver_request_duration_seconds`.
const DURATIONS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
/// Bounds of `apiserver_response_sizes`.
const SIZES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Bounds of `apiserver_watch_events_sizes`.
const EVENT_SIZES: &[f64] = &[1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0];
/// Codes that are counted by themselves; the rest are counted together, as 0.
const CODES: [u16; 28] = [
    101, 200, 201, 202, 204, 301, 302, 304, 400, 401, 403, 404, 405, 406, 408, 409, 410, 413, 415, 422, 429,
    431, 500, 501, 502, 503, 504, 507,
];
/// Threads forget what they know beyond this many series.
const KNOWN: usize = 4096;

/// What requests are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Labels<'a> {
    /// For example `LIST`.
    pub verb: &'static str,
    /// Whether nothing is written.
    pub dry_run: bool,
    /// Empty for core.
    pub group: &'a str,
    /// For example `v1`.
    pub version: &'a str,
    /// Plural; empty outside of the API.
    pub resource: &'a str,
    /// A subresource, or the path of what is outside of the API.
    pub subresource: &'a str,
    /// `cluster`, `namespace`, `resource`, or nothing.
    pub scope: &'static str,
}

/// Requests of one kind.
#[derive(Debug)]
pub struct Series {
    verb: &'static str,
    dry_run: bool,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    codes: [AtomicU64; CODES.len() + 1],
    durations: Histogram,
    sizes: Histogram,
    /// Long-running ones under way.
    running: AtomicI64,
    events: AtomicU64,
    event_sizes: Histogram,
}

impl Series {
    fn new(labels: &Labels<'_>) -> Self {
        Self {
            verb: labels.verb,
            dry_run: labels.dry_run,
            group: labels.group.to_owned(),
            version: labels.version.to_owned(),
            resource: labels.resource.to_owned(),
            subresource: labels.subresource.to_owned(),
            scope: labels.scope,
            codes: std::array::from_fn(|_| AtomicU64::new(0)),
            durations: Histogram::new(DURATIONS, 1e6),
            sizes: Histogram::new(SIZES, 1.0),
            running: AtomicI64::new(0),
            events: AtomicU64::new(0),
            event_sizes: Histogram::new(EVENT_SIZES, 1.0),
        }
    }

    fn labels(&self) -> Labels<'_> {
        Labels {
            verb: self.verb,
            dry_run: self.dry_run,
            group: &self.group,
            version: &self.version,
            resource: &self.resource,
            subresource: &self.subresource,
            scope: self.scope,
        }
    }

    /// Counts an answer.
    pub fn answered(&self, code: u16, took: Duration, size: u64) {
        let at = CODES.iter().position(|c| *c == code).unwrap_or(CODES.len());
        self.codes[at].fetch_add(1, Relaxed);
        self.durations.observe(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        if matches!(self.verb, "GET" | "LIST") {
            self.sizes.observe(size);
        }
    }

    /// Counts an event that was sent to a watcher.
    pub fn event(&self, size: usize) {
        self.events.fetch_add(1, Relaxed);
        self.event_sizes.observe(size as u64);
    }

    /// Counts a long-running request, until the guard goes.
    pub fn run(self: Arc<Self>) -> Running {
        self.running.fetch_add(1, Relaxed);
        Running(self)
    }

    fn is_long(&self) -> bool {
        matches!(self.verb, "WATCH" | "CONNECT")
    }
}

/// A long-running request under way.
#[derive(Debug)]
pub struct Running(Arc<Series>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Relaxed);
    }
}

/// Something else that has metrics: a store, a client.
pub type Source = Box<dyn Fn(&mut Text) + Send + Sync>;

/// All that is counted by one server.
pub struct Metrics {
    id: u64,
    series: Mutex<HashMap<u64, Vec<Arc<Series>>>>,
    sources: Vec<Source>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

thread_local! {
    static SEEN: RefCell<HashMap<u64, Arc<Series>>> = RefCell::default();
}

impl Metrics {
    /// Counts requests; `sources` add theirs to the page.
    pub fn new(sources: Vec<Source>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT.fetch_add(1, Relaxed), series: Mutex::default(), sources }
    }

    /// The series of a request. `known` is asked when it is new: what clients make up is not counted, or they could
    /// fill the memory.
    pub fn series(&self, labels: &Labels<'_>, known: impl FnOnce() -> bool) -> Option<Arc<Series>> {
        let mut hasher = DefaultHasher::new();
        (self.id, labels).hash(&mut hasher);
        let hash = hasher.finish();
        let seen = SEEN.with_borrow(|seen| seen.get(&hash).filter(|s| s.labels() == *labels).cloned());
        if seen.is_some() {
            return seen;
        }
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let same = all.entry(hash).or_default();
        let series = match same.iter().find(|s| s.labels() == *labels) {
            Some(series) => series.clone(),
            None if known() => {
                let series = Arc::new(Series::new(labels));
                same.push(series.clone());
                series
            }
            None => {
                if same.is_empty() {
                    all.remove(&hash);
                }
                return None;
            }
        };
        drop(all);
        SEEN.with_borrow_mut(|seen| {
            if seen.len() >= KNOWN {
                seen.clear();
            }
            seen.insert(hash, series.clone());
        });
        Some(series)
    }

    /// The page. `reading` and `writing`: requests under way.
    pub fn page(&self, reading: usize, writing: usize) -> String {
        let mut all: Vec<Arc<Series>> = {
            let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
            series.values().flatten().cloned().collect()
        };
        let key = |s: &Series| (s.group.clone(), s.resource.clone(), s.subresource.clone(), s.verb, s.scope);
        all.sort_by_cached_key(|s| key(s));
        let mut text = Text::default();
        requests(&mut text, &all);
        text.family(
            "apiserver_current_inflight_requests",
            Type::Gauge,
            "Maximal number of currently used inflight request limit of this apiserver per request kind in last \
             second.",
        );
        for (kind, count) in [("mutating", writing), ("readOnly", reading)] {
            text.sample("apiserver_current_inflight_requests", &[("request_kind", kind)], count as f64);
        }
        watches(&mut text, &all);
        process::write(&mut text);
        for source in &self.sources {
            source(&mut text);
        }
        text.finish()
    }
}

fn requests(text: &mut Text, all: &[Arc<Series>]) {
    let name = "apiserver_request_total";
    text.family(
        name,
        Type::Counter,
        "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, \
         component, and HTTP response code.",
    );
    for series in all {
        series.each_code(|code, count| {
            let mut labels = vec![("code", code)];
            labels.extend(series.pairs(true));
            text.sample(name, &labels, count as f64);
        });
    }
    let name = "apiserver_request_terminations_total";
    text.family(name, Type::Counter, "Number of requests which apiserver terminated in self-defense.");
    for series in all {
        series.each_code(|code, count| {
            if matches!(code, "429" | "504") {
                let mut labels = vec![("code", code)];
                labels.extend(series.pairs(false));
                text.sample(name, &labels, count as f64);
            }
        });
    }
    let name = "apiserver_request_duration_seconds";
    text.family(
        name,
        Type::Histogram,
        "Response latency distribution in seconds for each verb, dry run value, group, version, resource, \
         subresource, scope and component.",
    );
    for series in all.iter().filter(|s| !s.durations.is_empty()) {
        series.durations.write(text, name, &series.pairs(true));
    }
    let name = "apiserver_request_sli_duration_seconds";
    text.family(
        name,
        Type::Histogram,
        "Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in \
         seconds for each verb, group, version, resource, subresource, scope and component.",
    );
    for series in all.iter().filter(|s| !s.durations.is_empty() && !s.is_long()) {
        series.durations.write(text, name, &series.pairs(false));
    }
    let name = "apiserver_response_sizes";
    text.family(
        name,
        Type::Histogram,
        "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and \
         component.",
    );
    for series in all.iter().filter(|s| !s.sizes.is_empty()) {
        series.sizes.write(text, name, &series.pairs(false));
    }
}

fn watches(text: &mut Text, all: &[Arc<Series>]) {
    let name = "apiserver_longrunning_requests";
    text.family(
        name,
        Type::Gauge,
        "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and \
         component. Not all requests are tracked this way.",
    );
    for series in all.iter().filter(|s| s.is_long()) {
        text.sample(name, &series.pairs(false), series.running.load(Relaxed) as f64);
    }
    // One sample for each resource, whatever the scope of the watch.
    let mut watched: Vec<&Arc<Series>> = all.iter().filter(|s| s.verb == "WATCH").collect();
    watched.sort_by_key(|s| (&s.group, &s.version, &s.resource));
    let name = "apiserver_watch_events_total";
    text.family(name, Type::Counter, "Number of events sent in watch clients");
    for same in watched.chunk_by(|a, b| a.resource_labels() == b.resource_labels()) {
        let count: u64 = same.iter().map(|s| s.events.load(Relaxed)).sum();
        if let [first, ..] = same
            && count > 0
        {
            text.sample(name, &first.resource_labels(), count as f64);
        }
    }
    let name = "apiserver_watch_events_sizes";
    text.family(name, Type::Histogram, "Watch event size distribution in bytes");
    for series in watched.iter().filter(|s| !s.event_sizes.is_empty()) {
        let [group, version, resource] = series.resource_labels();
        series.event_sizes.write(text, name, &[group, version, resource, ("scope", series.scope)]);
    }
}

impl Series {
    fn resource_labels(&self) -> [(&str, &str); 3] {
        [("group", &self.group), ("version", &self.version), ("resource", &self.resource)]
    }

    fn pairs(&self, dry_run: bool) -> Vec<(&str, &str)> {
        let component = if self.resource.is_empty() { "" } else { "apiserver" };
        let mut pairs = vec![("component", component)];
        if dry_run {
            pairs.push(("dry_run", if self.dry_run { "All" } else { "" }));
        }
        pairs.extend([
            ("group", self.group.as_str()),
            ("resource", &self.resource),
            ("scope", self.scope),
            ("subresource", &self.subresource),
            ("verb", self.verb),
            ("version", &self.version),
        ]);
        pairs
    }

    fn each_code(&self, mut with: impl FnMut(&str, u64)) {
        for (at, count) in self.codes.iter().enumerate() {
            let count = count.load(Relaxed);
            if count > 0 {
                with(&CODES.get(at).copied().unwrap_or(0).to_string(), count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(verb: &'static str, scope: &'static str) -> Labels<'static> {
        Labels { verb, dry_run: false, group: "", version: "v1", resource: "pods", subresource: "", scope }
    }

    #[test]
    fn requests_are_counted_under_upstreams_names() {
        let metrics =
            Metrics::new(vec![Box::new(|t: &mut Text| t.single("mine", Type::Gauge, "Mine.", 7.0))]);
        let list = metrics.series(&pods("LIST", "cluster"), || true).expect("known");
        list.answered(200, Duration::from_millis(30), 5_000);
        list.answered(299, Duration::from_millis(30), 1);
        let again = metrics.series(&pods("LIST", "cluster"), || panic!("it is known")).expect("known");
        again.answered(429, Duration::from_millis(1), 10);
        let page = metrics.page(3, 1);
        for line in [
            r#"apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="cluster",subresource="",verb="LIST",version="v1"} 1"#,
            r#"apiserver_request_total{code="0",component="apiserver",dry_run="",group="",resource="pods",scope="cluster",subresource="",verb="LIST",version="v1"} 1"#,
            r#"apiserver_request_terminations_total{code="429",component="apiserver",group="",resource="pods",scope="cluster",subresource="",verb="LIST",version="v1"} 1"#,
            r#"apiserver_request_duration_seconds_bucket{component="apiserver",dry_run="",group="",resource="pods",scope="cluster",subresource="",verb="LIST",version="v1",le="0.05"} 3"#,
            r#"apiserver_response_sizes_count{component="apiserver",group="",resource="pods",scope="cluster",subresource="",verb="LIST",version="v1"} 3"#,
            r#"apiserver_current_inflight_requests{request_kind="readOnly"} 3"#,
            "mine 7",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
    }

    #[test]
    fn watches_are_counted_while_they_run() {
        let metrics = Metrics::default();
        let line = r#"apiserver_longrunning_requests{component="apiserver",group="",resource="pods",scope="namespace",subresource="",verb="WATCH",version="v1"}"#;
        let watch = metrics.series(&pods("WATCH", "namespace"), || true).expect("known");
        metrics.series(&pods("WATCH", "cluster"), || true).expect("known").event(10);
        watch.event(2000);
        let running = watch.run();
        assert!(metrics.page(0, 0).contains(&format!("{line} 1\n")));
        drop(running);
        let page = metrics.page(0, 0);
        assert!(page.contains(&format!("{line} 0\n")));
        let events = r#"apiserver_watch_events_total{group="",version="v1",resource="pods"} 2"#;
        assert!(page.contains(events), "{page}");
    }

    #[test]
    fn what_clients_make_up_is_not_counted() {
        let metrics = Metrics::default();
        assert!(metrics.series(&pods("LIST", "x"), || false).is_none());
        assert!(metrics.series.lock().unwrap().is_empty());
    }
}
