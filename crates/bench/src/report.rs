//! What was measured, as a table and as JSON.
use std::fmt::Write as _;

use serde_json::{Value, json};

/// One measurement.
#[derive(Debug, Clone)]
struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    detail: String,
}

/// All measurements of one run.
#[derive(Debug)]
pub struct Report {
    machine: Vec<(&'static str, String)>,
    rows: Vec<Row>,
    problems: Vec<String>,
}

impl Report {
    /// Nothing yet, on a machine with these facts.
    pub fn new(machine: Vec<(&'static str, String)>) -> Self {
        Self { machine, rows: Vec::new(), problems: Vec::new() }
    }

    /// Adds a measurement.
    pub fn add(
        &mut self,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        detail: impl Into<String>,
    ) {
        let row = Row { what: what.into(), value, unit, detail: detail.into() };
        eprintln!("bench:   {}: {} {} {}", row.what, number(row.value), row.unit, row.detail);
        self.rows.push(row);
    }

    /// Says that something could not be measured.
    pub fn problem(&mut self, text: impl Into<String>) {
        let text = text.into();
        eprintln!("bench:   {text}");
        self.problems.push(text);
    }

    /// The value of a measurement.
    pub fn value(&self, what: &str) -> Option<f64> {
        self.rows.iter().find(|r| r.what == what).map(|r| r.value)
    }

    /// A Markdown table, after a line about the machine.
    pub fn table(&self) -> String {
        let facts: Vec<String> = self.machine.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let mut out = format!("{}\n\n", facts.join("; "));
        let cells: Vec<[String; 3]> = self
            .rows
            .iter()
            .map(|r| [r.what.clone(), format!("{} {}", number(r.value), r.unit), r.detail.clone()])
            .collect();
        let head = ["what", "result", "more"].map(str::to_owned);
        let width =
            |column: usize| cells.iter().chain([&head]).map(|c| c[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2)];
        let mut line = |row: &[String; 3]| {
            let _ = writeln!(
                out,
                "| {:<a$} | {:>b$} | {:<c$} |",
                row[0],
                row[1],
                row[2],
                a = widths[0],
                b = widths[1],
                c = widths[2]
            );
        };
        line(&head);
        line(&["-".repeat(widths[0]), format!("{}:", "-".repeat(widths[1] - 1)), "-".repeat(widths[2])]);
        for row in &cells {
            line(row);
        }
        for problem in &self.problems {
            let _ = writeln!(out, "\nnot measured: {problem}");
        }
        out
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let machine: serde_json::Map<String, Value> =
            self.machine.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|r| json!({ "what": r.what, "value": r.value, "unit": r.unit, "detail": r.detail }))
            .collect();
        json!({ "machine": machine, "measurements": rows, "problems": self.problems })
    }
}

/// Three digits that count.
pub fn number(value: f64) -> String {
    if value >= 1000.0 {
        let whole = format!("{value:.0}");
        let (head, tail) = whole.split_at((whole.len() - 1) % 3 + 1);
        let mut out = head.to_owned();
        for three in tail.as_bytes().chunks(3) {
            out.push(',');
            out.push_str(&String::from_utf8_lossy(three));
        }
        out
    } else if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// The one in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_count() {
        let said: Vec<String> =
            [0.314, 12.34, 123.4, 999.6, 1000.0, 12_345.6, 1_234_567.0].into_iter().map(number).collect();
        assert_eq!(said, ["0.31", "12.3", "123", "1000", "1,000", "12,346", "1,234,567"]);
    }

    #[test]
    fn the_median_is_one_of_the_values() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn tables_are_markdown() {
        let mut report = Report::new(vec![("cores", "2".into())]);
        report.add("create", 1234.0, "/s", "p50 1 ms");
        report.problem("no etcd");
        let expect = "cores 2\n\n| what   |   result | more     |\n| ------ | -------: | -------- |\n\
                      | create | 1,234 /s | p50 1 ms |\n\nnot measured: no etcd\n";
        assert_eq!(report.table(), expect);
    }
}
