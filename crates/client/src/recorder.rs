//! Tells users what happened, as core/v1 Events, without ever holding up the caller.
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Error, Resource};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::reflector::chain;

const QUEUED: usize = 1000;
const REMEMBERED: usize = 4096;
const TRIES: usize = 12;
/// Each source and object may send this many at once, and then one in `REFILL`.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// From this many different messages of one reason within `SIMILAR_WITHIN` on, they become one event.
const SIMILAR: usize = 10;
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);

/// Whether an event is good news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Just so you know.
    Normal,
    /// Something is amiss.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Sends Events in the name of one component; clones share the queue.
#[derive(Clone)]
pub struct Recorder {
    component: String,
    host: String,
    queue: mpsc::Sender<Note>,
}

/// A reference to an object, as events carry it.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let mut reference = object.object_ref(&());
    reference.resource_version.clone_from(&object.meta().resource_version);
    reference
}

#[derive(Debug, Clone)]
struct Note {
    component: String,
    host: String,
    about: ObjectReference,
    ty: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

impl Recorder {
    /// Starts the task that sends; it ends with the last recorder. `host` is the node's name, or empty.
    /// Must be called inside a tokio runtime.
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        let (queue, notes) = mpsc::channel(QUEUED);
        tokio::spawn(send_all(client, notes));
        Self { component: component.into(), host: host.into(), queue }
    }

    /// The same queue in the name of another component.
    #[must_use]
    pub fn named(&self, component: &str) -> Self {
        Self { component: component.into(), ..self.clone() }
    }

    /// Records an event; dropped where too many wait already.
    pub fn event(&self, about: &ObjectReference, ty: EventType, reason: &str, message: impl Into<String>) {
        let note = Note {
            component: self.component.clone(),
            host: self.host.clone(),
            about: about.clone(),
            ty,
            reason: reason.into(),
            message: cut(message.into(), 1024),
            at: Timestamp::now(),
        };
        if self.queue.try_send(note).is_err() {
            tracing::debug!(reason, object = about.name, "event dropped");
        }
    }

    /// A [`EventType::Normal`] event about a typed object.
    pub fn normal<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event(&reference(object), EventType::Normal, reason, message);
    }

    /// A [`EventType::Warning`] event about a typed object.
    pub fn warning<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.event(&reference(object), EventType::Warning, reason, message);
    }
}

/// The server refuses longer messages.
fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

async fn send_all(client: Client, mut notes: mpsc::Receiver<Note>) {
    let mut correlator = Correlator::new();
    while let Some(note) = notes.recv().await {
        let Some(step) = correlator.plan(note, Instant::now()) else {
            continue;
        };
        send(&client, &mut correlator, step).await;
    }
}

async fn send(client: &Client, correlator: &mut Correlator, step: Step) {
    let namespace = step.event.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut repeat = step.repeat;
    for _ in 0..TRIES {
        let result = if repeat {
            let patch = serde_json::json!({
                "count": step.event.count,
                "lastTimestamp": step.event.last_timestamp,
                "message": step.event.message,
            });
            let name = step.event.metadata.name.as_deref().unwrap_or("");
            api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await
        } else {
            api.create(&PostParams::default(), &step.event).await
        };
        match result {
            Ok(_) => return correlator.sent(step.key, &step.event),
            // Expired meanwhile: begin anew.
            Err(Error::Api(status)) if repeat && status.code == 404 => repeat = false,
            // Refused for good: a namespace that goes away, an object that is no more.
            Err(Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429 => {
                tracing::debug!(reason = step.event.reason, error = %status, "event refused");
                return;
            }
            Err(error) => {
                tracing::debug!(reason = step.event.reason, error = %chain(&error), "event not sent yet");
                tokio::time::sleep(backoff.fail()).await;
            }
        }
    }
}

/// What makes two events the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    spam: SpamKey,
    ty: EventType,
    reason: String,
    message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SpamKey {
    component: String,
    host: String,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    api_version: String,
    field_path: String,
}

struct Step {
    key: Key,
    event: Event,
    /// Update the count of an event that is there.
    repeat: bool,
}

/// Counts repeats, joins similar ones, stops floods. Decides only; `send` acts.
struct Correlator {
    sent: Recent<Key, Sent>,
    similar: Recent<Key, Similar>,
    budget: Recent<SpamKey, (f64, Instant)>,
}

#[derive(Clone)]
struct Sent {
    name: String,
    count: i32,
    first: Option<Time>,
}

#[derive(Clone)]
struct Similar {
    messages: Vec<String>,
    last: Instant,
}

impl Correlator {
    fn new() -> Self {
        Self { sent: Recent::new(), similar: Recent::new(), budget: Recent::new() }
    }

    fn plan(&mut self, note: Note, now: Instant) -> Option<Step> {
        let text = |o: &Option<String>| o.clone().unwrap_or_default();
        let spam = SpamKey {
            component: note.component.clone(),
            host: note.host.clone(),
            kind: text(&note.about.kind),
            namespace: text(&note.about.namespace),
            name: text(&note.about.name),
            uid: text(&note.about.uid),
            api_version: text(&note.about.api_version),
            field_path: text(&note.about.field_path),
        };
        let mut key = Key { spam, ty: note.ty, reason: note.reason.clone(), message: String::new() };
        let mut message = note.message.clone();
        if self.is_one_of_many(&key, &message, now) {
            message = cut(format!("(combined from similar events): {message}"), 1024);
        } else {
            key.message.clone_from(&message);
        }
        if !self.allow(&key.spam, now) {
            return None;
        }
        let at = Time(whole_seconds(note.at));
        let before = self.sent.get(&key).cloned();
        let namespace = note.about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or("default".into());
        let mut event = Event {
            involved_object: note.about,
            type_: Some(note.ty.as_str().into()),
            reason: Some(note.reason),
            message: Some(message),
            count: Some(1),
            first_timestamp: Some(at.clone()),
            last_timestamp: Some(at),
            source: Some(EventSource {
                component: Some(note.component.clone()),
                host: (!note.host.is_empty()).then(|| note.host.clone()),
            }),
            reporting_component: Some(note.component),
            reporting_instance: Some(note.host),
            ..Event::default()
        };
        event.metadata.namespace = Some(namespace);
        event.metadata.name = Some(match &before {
            Some(sent) => sent.name.clone(),
            None => format!(
                "{}.{:x}",
                event.involved_object.name.as_deref().unwrap_or(""),
                note.at.as_nanosecond()
            ),
        });
        if let Some(sent) = &before {
            event.count = Some(sent.count.saturating_add(1));
            event.first_timestamp.clone_from(&sent.first);
        }
        Some(Step { key, event, repeat: before.is_some() })
    }

    fn sent(&mut self, key: Key, event: &Event) {
        let sent = Sent {
            name: event.metadata.name.clone().unwrap_or_default(),
            count: event.count.unwrap_or(1),
            first: event.first_timestamp.clone(),
        };
        self.sent.put(key, sent);
    }

    fn is_one_of_many(&mut self, group: &Key, message: &str, now: Instant) -> bool {
        let mut similar = match self.similar.get(group) {
            Some(s) if now.duration_since(s.last) <= SIMILAR_WITHIN => s.clone(),
            _ => Similar { messages: Vec::new(), last: now },
        };
        similar.last = now;
        let many = similar.messages.len() >= SIMILAR;
        if !many && !similar.messages.iter().any(|m| m == message) {
            similar.messages.push(message.to_owned());
        }
        let many = similar.messages.len() >= SIMILAR;
        self.similar.put(group.clone(), similar);
        many
    }

    fn allow(&mut self, key: &SpamKey, now: Instant) -> bool {
        let (left, at) = self.budget.get(key).copied().unwrap_or((BURST, now));
        let refilled = now.duration_since(at).as_secs_f64() / REFILL.as_secs_f64();
        let left = (left + refilled).min(BURST);
        let allowed = left >= 1.0;
        self.budget.put(key.clone(), (if allowed { left - 1.0 } else { left }, now));
        allowed
    }
}

fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// A bounded map that forgets what was not touched for longest, roughly.
struct Recent<K, V> {
    map: HashMap<K, (V, u64)>,
    order: VecDeque<(K, u64)>,
    clock: u64,
}

impl<K: Eq + Hash + Clone, V> Recent<K, V> {
    fn new() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new(), clock: 0 }
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.map.get(key).map(|(v, _)| v)
    }

    fn put(&mut self, key: K, value: V) {
        self.clock += 1;
        self.map.insert(key.clone(), (value, self.clock));
        self.order.push_back((key, self.clock));
        while self.map.len() > REMEMBERED || self.order.len() > 2 * REMEMBERED {
            let Some((old, at)) = self.order.pop_front() else {
                return;
            };
            match self.map.get(&old) {
                Some((_, last)) if *last == at => {
                    self.map.remove(&old);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &str, message: &str) -> Note {
        Note {
            component: "test".into(),
            host: String::new(),
            about: ObjectReference {
                kind: Some("Pod".into()),
                namespace: Some("ns".into()),
                name: Some(name.into()),
                ..ObjectReference::default()
            },
            ty: EventType::Normal,
            reason: "Happened".into(),
            message: message.into(),
            at: "2026-01-01T00:00:00.5Z".parse().unwrap(),
        }
    }

    fn deliver(c: &mut Correlator, n: Note, now: Instant) -> Option<Event> {
        let step = c.plan(n, now)?;
        assert_eq!(step.repeat, step.event.count != Some(1));
        c.sent(step.key, &step.event);
        Some(step.event)
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_again_counts_up_under_the_same_name() {
        let mut c = Correlator::new();
        let one = deliver(&mut c, note("a", "m"), Instant::now()).unwrap();
        let two = deliver(&mut c, note("a", "m"), Instant::now()).unwrap();
        assert_eq!(one.metadata.name, two.metadata.name);
        assert!(one.metadata.name.unwrap().starts_with("a."));
        assert_eq!(two.count, Some(2));
        let other = deliver(&mut c, note("b", "m"), Instant::now()).unwrap();
        assert_eq!(other.count, Some(1));
        assert_eq!(other.metadata.namespace.as_deref(), Some("ns"));
    }

    #[tokio::test(start_paused = true)]
    async fn many_similar_become_one() {
        let mut c = Correlator::new();
        let now = Instant::now();
        let events: Vec<_> =
            (0..12).filter_map(|i| deliver(&mut c, note("a", &format!("m{i}")), now)).collect();
        assert_eq!(events[8].message.as_deref(), Some("m8"));
        assert_eq!(events[9].message.as_deref(), Some("(combined from similar events): m9"));
        assert_eq!(events[11].message.as_deref(), Some("(combined from similar events): m11"));
        assert_eq!(events[11].count, Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_cut_and_comes_back_slowly() {
        let mut c = Correlator::new();
        let now = Instant::now();
        let passed = (0..40).filter_map(|_| deliver(&mut c, note("a", "m"), now)).count();
        assert_eq!(passed, 25);
        assert!(deliver(&mut c, note("b", "m"), now).is_some(), "others are not affected");
        assert!(deliver(&mut c, note("a", "m"), now + Duration::from_secs(301)).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let mut r = Recent::new();
        for i in 0..20_000 {
            r.put(i, ());
        }
        assert_eq!(r.map.len(), REMEMBERED);
        assert!(r.get(&19_999).is_some());
        for _ in 0..20_000 {
            r.put(1, ());
        }
        assert!(r.order.len() <= 2 * REMEMBERED && r.get(&1).is_some());
    }
}
