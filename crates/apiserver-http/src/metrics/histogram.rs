//! Observations by size, counted without a lock.
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::metrics::Text;

/// Counts observations of whole units (bytes, microseconds) by upper bounds.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// Units in one of what `bounds` are in.
    scale: f64,
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// `scale`: how many of the units that are observed make one of the bounds.
    pub fn new(bounds: &'static [f64], scale: f64) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, scale, counts, sum: AtomicU64::new(0) }
    }

    /// Counts an observation.
    pub fn observe(&self, value: u64) {
        let scaled = value as f64 / self.scale;
        let at = self.bounds.partition_point(|bound| *bound < scaled);
        self.counts[at].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Whether anything was observed.
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|c| c.load(Relaxed) == 0)
    }

    /// Writes the samples.
    pub fn write(&self, text: &mut Text, name: &str, labels: &[(&str, &str)]) {
        let counts: Vec<u64> = self.counts.iter().map(|c| c.load(Relaxed)).collect();
        text.histogram(name, labels, self.bounds, &counts, self.sum.load(Relaxed) as f64 / self.scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::new(&[0.005, 0.1], 1e6);
        assert!(histogram.is_empty());
        for micros in [1, 5_000, 5_001, 100_000, 2_000_000] {
            histogram.observe(micros);
        }
        let mut text = Text::default();
        histogram.write(&mut text, "h", &[]);
        let text = text.finish();
        assert!(text.contains("le=\"0.005\"} 2\n") && text.contains("le=\"0.1\"} 4\n"), "{text}");
        assert!(text.contains("h_count 5") && text.contains("h_sum 2.110002"), "{text}");
    }
}
