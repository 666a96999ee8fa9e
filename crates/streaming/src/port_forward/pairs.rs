//! Which data stream belongs to which error stream. Pure, generic over what a stream is.

use std::collections::HashMap;

use tokio::time::Instant;

/// What a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Error,
}

impl Kind {
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "data" => Some(Self::Data),
            "error" => Some(Self::Error),
            _ => None,
        }
    }
}

/// A stream whose partner has not come yet.
struct Half<S> {
    kind: Kind,
    stream: S,
    deadline: Instant,
}

/// Streams waiting for their partners.
pub(super) struct Pairs<S> {
    waiting: HashMap<String, Half<S>>,
}

/// What became of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Added<S> {
    /// Its partner is still missing.
    Waiting,
    /// Both are there.
    Complete { data: S, error: S },
    /// There is one of this kind already; the stream is handed back.
    Duplicate(S),
}

impl<S> Pairs<S> {
    pub(super) fn new() -> Self {
        Self { waiting: HashMap::new() }
    }

    pub(super) fn add(&mut self, request: String, kind: Kind, stream: S, deadline: Instant) -> Added<S> {
        match self.waiting.remove(&request) {
            None => {
                self.waiting.insert(request, Half { kind, stream, deadline });
                Added::Waiting
            }
            Some(half) if half.kind == kind => {
                self.waiting.insert(request, half);
                Added::Duplicate(stream)
            }
            Some(half) => match kind {
                Kind::Data => Added::Complete { data: stream, error: half.stream },
                Kind::Error => Added::Complete { data: half.stream, error: stream },
            },
        }
    }

    /// When the first stream has waited long enough.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|half| half.deadline).min()
    }

    /// Takes out the streams that have waited long enough.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(String, Kind, S)> {
        let expired = self.waiting.extract_if(|_, half| half.deadline <= now);
        expired.map(|(request, half)| (request, half.kind, half.stream)).collect()
    }
}

/// The request a stream belongs to. Clients of Kubernetes 1.0 send none; theirs are told by consecutive stream ids,
/// the error stream first.
pub(super) fn request_id(header: Option<&str>, kind: Kind, stream: u32) -> String {
    match (header, kind) {
        (Some(id), _) => id.to_owned(),
        (None, Kind::Error) => stream.to_string(),
        (None, Kind::Data) => stream.wrapping_sub(2).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn joins_streams_of_one_request_in_any_order() {
        let (mut pairs, later) = (Pairs::new(), Instant::now());
        assert_eq!(pairs.add("0".into(), Kind::Error, 'e', later), Added::Waiting);
        assert_eq!(pairs.add("1".into(), Kind::Data, 'D', later), Added::Waiting);
        assert_eq!(pairs.add("0".into(), Kind::Error, 'x', later), Added::Duplicate('x'));
        assert_eq!(pairs.add("0".into(), Kind::Data, 'd', later), Added::Complete { data: 'd', error: 'e' });
        assert_eq!(pairs.add("1".into(), Kind::Error, 'E', later), Added::Complete { data: 'D', error: 'E' });
        assert_eq!(pairs.next_deadline(), None);
    }

    #[test]
    fn a_stream_does_not_wait_for_ever() {
        let now = Instant::now();
        let mut pairs = Pairs::new();
        pairs.add("0".into(), Kind::Data, 'a', now);
        pairs.add("1".into(), Kind::Data, 'b', now + Duration::from_secs(1));
        assert_eq!(pairs.next_deadline(), Some(now));
        assert_eq!(pairs.expire(now), [("0".into(), Kind::Data, 'a')]);
        assert_eq!(pairs.next_deadline(), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn clients_without_request_ids_are_paired_by_stream_number() {
        assert_eq!(request_id(None, Kind::Error, 5), request_id(None, Kind::Data, 7));
        assert_eq!(request_id(Some("3"), Kind::Data, 7), "3");
    }
}
