//! How many requests are served at a time, and for how long. Upstream: apiserver/pkg/server/filters/maxinflight.go and
//! apiserver/pkg/endpoints/filters/request_deadline.go, 1.36.
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use machinery::{StatusError, StatusResult};

use crate::query::Query;

/// What a server is told about load and time, by upstream's flags.
#[derive(Debug, Clone)]
pub struct Serving {
    /// `--max-requests-inflight`; 0: no limit.
    pub max_requests_inflight: usize,
    /// `--max-mutating-requests-inflight`; 0: no limit.
    pub max_mutating_requests_inflight: usize,
    /// `--request-timeout`: for requests that are not long-running.
    pub request_timeout: Duration,
    /// `--min-request-timeout`: how long a watch without `timeoutSeconds` lasts at least; at most twice that.
    pub min_request_timeout: Duration,
    /// `--shutdown-delay-duration`: how long a server that is asked to stop goes on while `/readyz` fails.
    pub shutdown_delay: Duration,
    /// `--goaway-chance`: of an HTTP/2 request to move its connection to another server; at most 0.02.
    pub goaway_chance: f64,
}

impl Default for Serving {
    fn default() -> Self {
        Self {
            max_requests_inflight: 400,
            max_mutating_requests_inflight: 200,
            request_timeout: Duration::from_secs(60),
            min_request_timeout: Duration::from_secs(1800),
            shutdown_delay: Duration::ZERO,
            goaway_chance: 0.0,
        }
    }
}

/// How many requests are served at a time; watches and streams do not count.
#[derive(Debug, Default)]
pub struct Limits {
    reading: Arc<Gauge>,
    writing: Arc<Gauge>,
    /// The rest of what the server was told.
    pub serving: Serving,
}

#[derive(Debug, Default)]
struct Gauge {
    now: AtomicUsize,
}

/// A request under way; its place is free again when this goes.
#[derive(Debug)]
pub struct Slot(Arc<Gauge>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Relaxed);
    }
}

impl Limits {
    /// Limits as told.
    pub fn new(serving: Serving) -> Self {
        Self { serving, ..Self::default() }
    }

    /// Takes a place. `exempt`: there is always one.
    pub fn enter(&self, writes: bool, exempt: bool) -> StatusResult<Slot> {
        let (gauge, most) = if writes {
            (&self.writing, self.serving.max_mutating_requests_inflight)
        } else {
            (&self.reading, self.serving.max_requests_inflight)
        };
        let before = gauge.now.fetch_add(1, Relaxed);
        let slot = Slot(gauge.clone());
        if most > 0 && before >= most && !exempt {
            return Err(StatusError::too_many_requests("Too many requests, please try again later.", 1));
        }
        Ok(slot)
    }

    /// Requests under way: reading, writing.
    pub fn under_way(&self) -> (usize, usize) {
        (self.reading.now.load(Relaxed), self.writing.now.load(Relaxed))
    }

    /// How long a request may take: what it asks for, at most what the server allows.
    pub fn timeout(&self, query: &Query<'_>) -> StatusResult<Duration> {
        let most = self.serving.request_timeout;
        match query.get("timeout") {
            "" => Ok(most),
            text => match machinery::go_duration(text) {
                Some(asked) if asked.is_zero() => Ok(most),
                Some(asked) => Ok(asked.min(most)),
                None => Err(StatusError::bad_request(format!(
                    "invalid timeout specified in the request URL - time: invalid duration {text:?}"
                ))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back() {
        let serving =
            Serving { max_requests_inflight: 2, max_mutating_requests_inflight: 1, ..Serving::default() };
        let limits = Limits::new(serving);
        let first = limits.enter(false, false).expect("free");
        let _second = limits.enter(false, false).expect("free");
        let refused = limits.enter(false, false).expect_err("full");
        assert_eq!((refused.code(), refused.reason()), (429, "TooManyRequests"));
        assert_eq!(refused.0.details.as_ref().and_then(|d| d.retry_after_seconds), Some(1));
        assert_eq!(limits.under_way(), (2, 0));
        assert!(limits.enter(false, true).is_ok(), "who may mend the server may always enter");
        assert!(limits.enter(true, false).is_ok(), "writes have places of their own");
        drop(first);
        assert!(limits.enter(false, false).is_ok());
        let none = Limits::new(Serving { max_requests_inflight: 0, ..Serving::default() });
        let all: Vec<_> = (0..1000).map(|_| none.enter(false, false)).collect();
        assert!(all.iter().all(Result::is_ok));
    }

    #[test]
    fn a_request_may_ask_for_less_time() {
        let limits = Limits::default();
        let seconds =
            |q: &str| limits.timeout(&Query::parse(q)).map(|d| d.as_secs_f64()).map_err(|e| e.code());
        assert_eq!(seconds(""), Ok(60.0));
        assert_eq!(seconds("timeout=1.5s"), Ok(1.5));
        assert_eq!(seconds("timeout=10m"), Ok(60.0));
        assert_eq!(seconds("timeout=0s"), Ok(60.0));
        for bad in ["timeout=5", "timeout=-1s", "timeout=x", "timeout=1d", "timeout=%2B"] {
            assert_eq!(seconds(bad), Err(400), "{bad}");
        }
    }
}
