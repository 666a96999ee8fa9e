//! Delays that grow with each failure.
use std::time::Duration;

use rand::Rng as _;

/// Exponential delays between two bounds, each with up to a half more by chance.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first` and doubles up to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The delay before the next try.
    pub fn fail(&mut self) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(self.most);
        base.mul_f64(1.0 + rand::rng().random_range(0.0..0.5))
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_bound_and_starts_over() {
        let mut b = Backoff::new(Duration::from_secs(1), Duration::from_secs(4));
        for base in [1, 2, 4, 4] {
            let d = b.fail();
            assert!(
                d >= Duration::from_secs(base) && d < Duration::from_secs(base).mul_f64(1.5),
                "{base}: {d:?}"
            );
        }
        b.reset();
        assert!(b.fail() < Duration::from_secs(2));
    }
}
