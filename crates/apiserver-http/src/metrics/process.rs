//! What the kernel knows of this process, under the names every Prometheus client library uses.
use std::fs;

use crate::metrics::{Text, Type};

/// Clock ticks in a second and bytes in a page: fixed by the kernel's interface to user space.
const TICKS: f64 = 100.0;

/// Fields of `/proc/self/stat` behind the name, which may itself contain anything.
fn stat() -> Option<Vec<u64>> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    // The first of them is a letter.
    Some(rest.split_ascii_whitespace().map(|n| n.parse().unwrap_or(0)).collect())
}

fn status_bytes(status: &str, field: &str) -> f64 {
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("");
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0.0);
    kilobytes * 1024.0
}

fn boot_time() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("btime ")).unwrap_or("");
    line.trim().parse().unwrap_or(0.0)
}

fn max_files() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Writes `process_*`.
pub fn write(text: &mut Text) {
    if let Some(fields) = stat() {
        let field = |at: usize| fields.get(at).copied().unwrap_or(0) as f64;
        text.single(
            "process_cpu_seconds_total",
            Type::Counter,
            "Total user and system CPU time spent in seconds.",
            (field(11) + field(12)) / TICKS,
        );
        text.single(
            "process_start_time_seconds",
            Type::Gauge,
            "Start time of the process since unix epoch in seconds.",
            boot_time() + field(19) / TICKS,
        );
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    text.single(
        "process_resident_memory_bytes",
        Type::Gauge,
        "Resident memory size in bytes.",
        status_bytes(&status, "VmRSS:"),
    );
    text.single(
        "process_virtual_memory_bytes",
        Type::Gauge,
        "Virtual memory size in bytes.",
        status_bytes(&status, "VmSize:"),
    );
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        let count = files.count().saturating_sub(1);
        text.single("process_open_fds", Type::Gauge, "Number of open file descriptors.", count as f64);
    }
    if let Some(most) = max_files() {
        text.single("process_max_fds", Type::Gauge, "Maximum number of open file descriptors.", most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_described() {
        let mut text = Text::default();
        write(&mut text);
        let text = text.finish();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|l| l.starts_with(&format!("{name} "))).unwrap_or("x 0");
            line.rsplit(' ').next().and_then(|v| v.parse().ok()).unwrap_or(0.0)
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0, "{text}");
        assert!(value("process_open_fds") >= 3.0, "{text}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let started = value("process_start_time_seconds");
        assert!(started <= now + 1.0 && started > now - 86_400.0, "{started} {now}");
    }
}
