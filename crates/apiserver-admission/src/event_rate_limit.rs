//! `EventRateLimit` (off unless asked for): how many Events are taken from everybody, from a namespace, from a user, or
//! about an object from one source. Upstream: plugin/pkg/admission/eventratelimit, 1.36.
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use base::Lru;
use machinery::field::{FieldError, FieldPath, aggregate};
use machinery::{StatusError, StatusResult};
use serde::Deserialize;
use serde_json::Value;

use crate::settings::{ConfigError, typed};
use crate::{Attributes, Operation, Plugin};

/// Buckets that are remembered where the configuration says nothing.
const REMEMBERED: usize = 4096;
const TYPES: [&str; 4] = ["Server", "Namespace", "User", "SourceAndObject"];

/// The plugin.
pub struct EventRateLimit {
    limits: Vec<Limit>,
    now: Now,
}

type Now = Arc<dyn Fn() -> Instant + Send + Sync>;

/// What is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Server,
    Namespace,
    User,
    SourceAndObject,
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "Server" => Self::Server,
            "Namespace" => Self::Namespace,
            "User" => Self::User,
            "SourceAndObject" => Self::SourceAndObject,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        TYPES[self as usize]
    }

    fn key(self, a: &Attributes<'_>) -> String {
        match self {
            Self::Server => String::new(),
            Self::Namespace => a.namespace.to_owned(),
            Self::User => a.user.name.clone(),
            Self::SourceAndObject => {
                let Some(event) = a.object() else { return String::new() };
                // The newer version of Event calls the same fields otherwise.
                let either = |old: &[&str], new: &[&str]| {
                    let text = event.str_at(old);
                    if text.is_empty() { event.str_at(new).to_owned() } else { text.to_owned() }
                };
                let about = |field: &str| either(&["involvedObject", field], &["regarding", field]);
                [
                    either(&["source", "component"], &["deprecatedSource", "component"]),
                    either(&["source", "host"], &["deprecatedSource", "host"]),
                    about("kind"),
                    about("namespace"),
                    about("name"),
                    about("uid"),
                    about("apiVersion"),
                ]
                .concat()
            }
        }
    }
}

struct Limit {
    kind: Kind,
    qps: f64,
    burst: f64,
    buckets: Mutex<Lru<String, Bucket>>,
}

/// Fills by so many tokens a second, up to the burst.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Limit {
    /// Takes one token, if there is one.
    fn takes(&self, key: &str, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.get_mut(key).is_none() {
            buckets.insert(key.to_owned(), Bucket { tokens: self.burst, at: now });
        }
        let Some(bucket) = buckets.get_mut(key) else { return false };
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * self.qps).min(self.burst);
        bucket.at = now;
        let some = bucket.tokens >= 1.0;
        if some {
            bucket.tokens -= 1.0;
        }
        some
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    limits: Vec<FileLimit>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileLimit {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    qps: i64,
    #[serde(default)]
    burst: i64,
    #[serde(default)]
    cache_size: i64,
}

impl EventRateLimit {
    /// Reads `Configuration` of `eventratelimit.admission.k8s.io`.
    pub fn from_config(config: Option<&Value>) -> Result<Self, ConfigError> {
        Self::with_clock(config, Arc::new(Instant::now))
    }

    fn with_clock(config: Option<&Value>, now: Now) -> Result<Self, ConfigError> {
        let Some(config) = config else {
            let why = "EventRateLimit needs a configuration with limits: see --admission-control-config-file";
            return Err(ConfigError(why.into()));
        };
        let file: File = typed(config, "Configuration", &["eventratelimit.admission.k8s.io/v1alpha1"])?;
        let root = FieldPath::new("limits");
        let mut errors = Vec::new();
        if file.limits.is_empty() {
            errors.push(FieldError::invalid(&root, Value::Array(Vec::new()), "must not be empty"));
        }
        let mut limits = Vec::new();
        for (i, limit) in file.limits.into_iter().enumerate() {
            let path = root.index(i);
            let kind = Kind::named(&limit.kind);
            if kind.is_none() {
                errors.push(FieldError::not_supported(&path.child("type"), limit.kind, &TYPES));
            }
            for (field, value) in [("burst", limit.burst), ("qps", limit.qps)] {
                if value <= 0 {
                    errors.push(FieldError::invalid(&path.child(field), value, "must be positive"));
                }
            }
            if kind != Some(Kind::Server) && limit.cache_size < 0 {
                let why = "must not be negative";
                errors.push(FieldError::invalid(&path.child("cacheSize"), limit.cache_size, why));
            }
            let most = usize::try_from(limit.cache_size).ok().filter(|n| *n > 0).unwrap_or(REMEMBERED);
            limits.extend(kind.map(|kind| Limit {
                kind,
                qps: limit.qps as f64,
                burst: limit.burst as f64,
                buckets: Mutex::new(Lru::new(most)),
            }));
        }
        if errors.is_empty() { Ok(Self { limits, now }) } else { Err(ConfigError(aggregate(&errors))) }
    }
}

#[async_trait]
impl Plugin for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        let is_event = a.gvk.kind == "Event" && matches!(a.gvk.group.as_str(), "" | "events.k8s.io");
        // What is not written costs nothing.
        if !is_event || a.dry_run {
            return Ok(());
        }
        let now = (self.now)();
        let mut refused = None;
        // Each counts, also after one has refused.
        for limit in &self.limits {
            let key = limit.kind.key(a);
            if !limit.takes(&key, now) {
                refused = Some(format!("limit reached on type {} for key {key}", limit.kind.name()));
            }
        }
        match refused {
            Some(why) => Err(StatusError::too_many_requests(&why, 0)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use machinery::request::UserInfo;
    use serde_json::json;

    use super::*;
    use crate::testing::{Ask, object};

    struct Clocked {
        plugin: EventRateLimit,
        millis: Arc<AtomicU64>,
    }

    fn limited(limits: Value) -> Clocked {
        let millis = Arc::new(AtomicU64::new(0));
        let (clock, began) = (millis.clone(), Instant::now());
        let now = move || began + Duration::from_millis(clock.load(Ordering::Relaxed));
        let config = json!({"apiVersion": "eventratelimit.admission.k8s.io/v1alpha1", "kind": "Configuration",
            "limits": limits});
        Clocked { plugin: EventRateLimit::with_clock(Some(&config), Arc::new(now)).unwrap(), millis }
    }

    impl Clocked {
        async fn event(&self, user: &str, namespace: &str, about: &str) -> String {
            let event = json!({"metadata": {"name": "e", "namespace": namespace},
                "source": {"component": "c"}, "involvedObject": {"kind": "Pod", "name": about}});
            let ask = Ask {
                object: Some(object(event)),
                user: UserInfo::new(user, &[]),
                ..Ask::new(Operation::Create, ("", "events"), "Event")
            };
            ask.run(&self.plugin).await.err().unwrap_or_default()
        }
    }

    #[tokio::test]
    async fn a_burst_is_taken_and_then_so_many_a_second() {
        let limited = limited(json!([{"type": "Server", "qps": 2, "burst": 3}]));
        for _ in 0..3 {
            assert_eq!(limited.event("a", "n", "p").await, "");
        }
        let refused = limited.event("b", "m", "q").await;
        assert!(refused.contains("limit reached on type Server for key "), "{refused}");
        limited.millis.store(499, Ordering::Relaxed);
        assert_ne!(limited.event("a", "n", "p").await, "");
        limited.millis.store(1000, Ordering::Relaxed);
        assert_eq!(limited.event("a", "n", "p").await, "");
        limited.millis.store(1001, Ordering::Relaxed);
        assert_eq!(limited.event("a", "n", "p").await, "");
        assert_ne!(limited.event("a", "n", "p").await, "");
        // Other kinds are nobody's business.
        assert!(Ask::create_pod(json!({"metadata": {"name": "p"}})).run(&limited.plugin).await.is_ok());
    }

    #[tokio::test]
    async fn who_is_counted_together() {
        let one = |kind: &str| limited(json!([{"type": kind, "qps": 1, "burst": 1}]));
        for (kind, other) in
            [("Namespace", ("a", "m", "p")), ("User", ("b", "n", "p")), ("SourceAndObject", ("a", "n", "q"))]
        {
            let limited = one(kind);
            assert_eq!(limited.event("a", "n", "p").await, "");
            let refused = limited.event("a", "n", "p").await;
            assert!(refused.contains(&format!("limit reached on type {kind} for key")), "{refused}");
            assert_eq!(limited.event(other.0, other.1, other.2).await, "", "{kind}");
        }
        // A bucket that fell out of the cache is full again.
        let small = limited(json!([{"type": "User", "qps": 1, "burst": 1, "cacheSize": 1}]));
        for user in ["a", "b", "a"] {
            assert_eq!(small.event(user, "n", "p").await, "");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (limits, want) in [
            (json!([]), "limits: Invalid value: []: must not be empty"),
            (
                json!([{"type": "Pod", "qps": 1, "burst": 1}]),
                "limits[0].type: Unsupported value: \"Pod\": supported values: \"Namespace\", \"Server\", \
                 \"SourceAndObject\", \"User\"",
            ),
            (json!([{"type": "User", "qps": 1}]), "limits[0].burst: Invalid value: 0: must be positive"),
            (
                json!([{"type": "User", "qps": -1, "burst": 1}]),
                "limits[0].qps: Invalid value: -1: must be positive",
            ),
            (
                json!([{"type": "User", "qps": 1, "burst": 1, "cacheSize": -1}]),
                "limits[0].cacheSize: Invalid value: -1: must not be negative",
            ),
        ] {
            let config = json!({"apiVersion": "eventratelimit.admission.k8s.io/v1alpha1", "kind": "Configuration",
                "limits": limits});
            let got = EventRateLimit::from_config(Some(&config)).err().map(|e| e.0).unwrap_or_default();
            assert_eq!(got, want);
        }
        assert!(EventRateLimit::from_config(None).is_err());
        assert!(EventRateLimit::from_config(Some(&json!({"kind": "Other"}))).is_err());
    }
}
