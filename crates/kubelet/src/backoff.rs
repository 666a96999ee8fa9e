//! Back-off for crashing containers and failing pulls: 10 s doubling to 300 s, forgotten after twice the longest wait.

use std::time::Duration;

use jiff::Timestamp;

/// The first wait.
pub const INITIAL: Duration = Duration::from_secs(10);
/// The longest wait.
pub const LONGEST: Duration = Duration::from_secs(300);

/// One thing's back-off; `Default` has never failed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Backoff {
    entry: Option<(Duration, Timestamp)>,
}

impl Backoff {
    /// The wait that is in force for a failure at `failed`, and when it ends; `None` if it may be tried now.
    pub fn waiting(&self, failed: Timestamp, now: Timestamp) -> Option<(Duration, Timestamp)> {
        let (wait, updated) = self.entry?;
        if expired(failed, updated) {
            return None;
        }
        let until = failed.checked_add(wait).ok()?;
        (now < until).then_some((wait, until))
    }

    /// Records that it is tried again after a failure at `failed`.
    pub fn advance(&mut self, failed: Timestamp, now: Timestamp) {
        let wait = match self.entry {
            Some((wait, updated)) if !expired(failed, updated) => (wait * 2).min(LONGEST),
            _ => INITIAL,
        };
        self.entry = Some((wait, now));
    }

    /// The wait that the last try set.
    pub fn current(&self) -> Option<Duration> {
        self.entry.map(|(wait, _)| wait)
    }
}

fn expired(failed: Timestamp, updated: Timestamp) -> bool {
    failed.duration_since(updated)
        > jiff::SignedDuration::try_from(LONGEST * 2).unwrap_or(jiff::SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("time")
    }

    #[test]
    fn the_first_restart_is_immediate_and_waits_double_up_to_five_minutes() {
        let mut backoff = Backoff::default();
        let mut now = 1000;
        let mut waits = Vec::new();
        for _ in 0..8 {
            let failed = at(now);
            if let Some((wait, until)) = backoff.waiting(failed, failed) {
                waits.push(wait.as_secs());
                now = until.as_second();
                assert_eq!(backoff.waiting(failed, at(now)), None);
            }
            backoff.advance(failed, at(now));
            now += 1;
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_quiet_minutes_start_over() {
        let mut backoff = Backoff::default();
        backoff.advance(at(0), at(0));
        backoff.advance(at(20), at(20));
        assert_eq!(backoff.waiting(at(700), at(700)), None);
        backoff.advance(at(700), at(700));
        assert_eq!(backoff.current(), Some(INITIAL));
    }
}
