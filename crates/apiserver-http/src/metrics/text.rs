//! The text format that Prometheus reads, version 0.0.4.
use std::fmt::Write as _;

/// What a family of samples is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations by size.
    Histogram,
}

/// A page of metrics in the making.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// The `Content-Type`.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a family; its samples have to follow at once.
    pub fn family(&mut self, name: &str, ty: Type, help: &str) {
        let ty = match ty {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
        };
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {ty}\n");
    }

    /// A sample.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        self.labels(labels, None);
        let _ = writeln!(self.0, " {value}");
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &str, ty: Type, help: &str, value: f64) {
        self.family(name, ty, help);
        self.sample(name, &[], value);
    }

    /// The samples of a histogram. `counts` has one more than `bounds`, and is not cumulative.
    pub fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        let mut total = 0;
        for (at, count) in counts.iter().enumerate() {
            total += count;
            let bound = bounds.get(at).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            let _ = write!(self.0, "{name}_bucket");
            self.labels(labels, Some(&bound));
            let _ = writeln!(self.0, " {total}");
        }
        let _ = write!(self.0, "{name}_sum");
        self.labels(labels, None);
        let _ = write!(self.0, " {sum}\n{name}_count");
        self.labels(labels, None);
        let _ = writeln!(self.0, " {total}");
    }

    /// The page.
    pub fn finish(self) -> String {
        self.0
    }

    fn labels(&mut self, labels: &[(&str, &str)], bound: Option<&str>) {
        if labels.is_empty() && bound.is_none() {
            return;
        }
        let mut before = '{';
        for (name, value) in labels.iter().copied().chain(bound.map(|b| ("le", b))) {
            self.0.push(before);
            before = ',';
            self.0.push_str(name);
            self.0.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        self.0.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_as_prometheus_reads_them() {
        let mut text = Text::default();
        text.family("a_total", Type::Counter, "Things.");
        text.sample("a_total", &[("x", "1\"\\\n"), ("y", "")], 3.0);
        text.single("b", Type::Gauge, "One.", 0.5);
        text.family("c", Type::Histogram, "Sizes.");
        text.histogram("c", &[("z", "q")], &[0.1, 1.0], &[2, 1, 4], 9.25);
        let expected = "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"1\\\"\\\\\\n\",y=\"\"} 3\n\
            # HELP b One.\n# TYPE b gauge\nb 0.5\n\
            # HELP c Sizes.\n# TYPE c histogram\nc_bucket{z=\"q\",le=\"0.1\"} 2\nc_bucket{z=\"q\",le=\"1\"} 3\n\
            c_bucket{z=\"q\",le=\"+Inf\"} 7\nc_sum{z=\"q\"} 9.25\nc_count{z=\"q\"} 7\n";
        assert_eq!(text.finish(), expected);
    }
}
