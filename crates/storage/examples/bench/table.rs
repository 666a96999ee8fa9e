//! The results side by side.

use std::fmt::Write as _;
use std::time::Duration;

/// Which way is better.
#[derive(Clone, Copy)]
enum Better {
    More,
    Less,
}

struct Row {
    what: String,
    better: Better,
    cells: [Option<(f64, String)>; 2],
}

/// Rows with a column for each kind of store.
#[derive(Default)]
pub struct Table(Vec<Row>);

/// One kind of store.
pub struct Column<'a> {
    table: &'a mut Table,
    number: usize,
}

impl Table {
    pub fn column(&mut self, number: usize) -> Column<'_> {
        Column { table: self, number }
    }

    /// How many times as good the first is.
    pub fn markdown(&self) -> String {
        let mut out = String::from("| what | embedded | etcd | times better |\n|---|---:|---:|---:|\n");
        for row in &self.0 {
            let text = |cell: &Option<(f64, String)>| cell.as_ref().map_or("", |cell| &cell.1).to_owned();
            let ratio = match (&row.cells[0], &row.cells[1], row.better) {
                (Some((ours, _)), Some((theirs, _)), Better::More) => format!("{:.1}", ours / theirs),
                (Some((ours, _)), Some((theirs, _)), Better::Less) => format!("{:.1}", theirs / ours),
                _ => String::new(),
            };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {ratio} |",
                row.what,
                text(&row.cells[0]),
                text(&row.cells[1])
            );
        }
        out
    }
}

impl Column<'_> {
    fn add(&mut self, what: &str, better: Better, value: f64, text: String) {
        eprintln!("bench: {}: {what}: {text}", ["embedded", "etcd"][self.number]);
        let at = self.table.0.iter().position(|row| row.what == what).unwrap_or_else(|| {
            self.table.0.push(Row { what: what.to_owned(), better, cells: [None, None] });
            self.table.0.len() - 1
        });
        self.table.0[at].cells[self.number] = Some((value, text));
    }

    pub fn rate(&mut self, what: &str, value: f64, unit: &str) {
        self.add(what, Better::More, value, format!("{value:.0}{unit}"));
    }

    pub fn time(&mut self, what: &str, value: Duration) {
        let seconds = value.as_secs_f64();
        let text = if seconds < 1.0 { format!("{:.2} ms", seconds * 1e3) } else { format!("{seconds:.2} s") };
        self.add(what, Better::Less, seconds, text);
    }

    pub fn size(&mut self, what: &str, bytes: u64) {
        self.add(what, Better::Less, bytes as f64, format!("{:.0} MB", bytes as f64 / 1e6));
    }
}
