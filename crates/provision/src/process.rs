//! Processes that outlive the command that started them: recorded with their start time, so that a number used again
//! by the kernel is never taken for them.

use std::{fs, io, os::fd::OwnedFd, path::Path, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

use crate::files;

/// Which process it was: its number alone does not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Its number.
    pub pid: i32,
    /// When it started, in the kernel's ticks since boot.
    pub start_time: u64,
    /// The boot those ticks count from.
    pub boot_id: String,
}

/// State and start time from `/proc/PID/stat`.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    // The name in parentheses may hold anything, parentheses too: what follows the last one is regular.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

impl ProcessRecord {
    /// Describes a live process; `None` if there is none, or only its remains.
    pub fn of(pid: i32) -> Option<Self> {
        let (state, start_time) = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, start_time, boot_id })
    }

    /// Describes this process.
    pub fn current() -> Option<Self> {
        Self::of(i32::try_from(std::process::id()).ok()?)
    }

    /// Reads a record; `None` if there is none.
    pub fn read(path: &Path) -> Option<Self> {
        files::read_json(path)
    }

    /// Writes the record, whole or not at all.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        files::write_json(path, self)
    }

    /// Whether that very process still runs.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// A handle to that very process, if it still runs.
    pub fn open(&self) -> Option<Process> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Looked at after the handle was taken: from here on the number cannot come to mean another process.
        self.is_alive().then(|| Process { fd, record: self.clone() })
    }

    /// What the process was started as, for messages.
    pub fn command(&self) -> String {
        fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default().trim().to_owned()
    }
}

/// A handle to a process that stays with it, whatever becomes of its number.
#[derive(Debug)]
pub struct Process {
    fd: OwnedFd,
    record: ProcessRecord,
}

impl Process {
    /// Which process it is.
    pub fn record(&self) -> &ProcessRecord {
        &self.record
    }

    /// Sends a signal; a process that has ended is none to complain about.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Err(error) if error != rustix::io::Errno::SRCH => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Returns when the process has ended.
    pub async fn ended(&self) -> io::Result<()> {
        // Deprecated for types that may lie about their descriptor; an `OwnedFd` cannot.
        #[allow(deprecated)]
        let fd = AsyncFd::with_interest(self.fd.try_clone()?, Interest::READABLE)?;
        fd.readable().await.map(drop)
    }

    /// Asks the process to end, and kills it if it has not after `grace`; says whether it had to be killed.
    pub async fn stop(&self, grace: Duration) -> io::Result<bool> {
        self.signal(Signal::TERM)?;
        if tokio::time::timeout(grace, self.ended()).await.is_ok() {
            return Ok(false);
        }
        self.signal(Signal::KILL)?;
        self.ended().await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Running(Child);

    impl Running {
        fn start(script: &str) -> Self {
            Self(Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().expect("started"))
        }

        /// The script has come to the line that prints.
        fn wait_for_line(&mut self) {
            let mut line = String::new();
            let out = self.0.stdout.as_mut().expect("a pipe");
            io::BufRead::read_line(&mut io::BufReader::new(out), &mut line).expect("a line");
        }

        fn record(&self) -> ProcessRecord {
            ProcessRecord::of(self.0.id() as i32).expect("alive")
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn stat_is_read_past_any_name() {
        let stat = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 987654 20 21";
        assert_eq!(parse_stat(stat), Some(('S', 987_654)));
        assert_eq!(parse_stat("rubbish"), None);
    }

    #[test]
    fn a_record_survives_its_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("p");
        let own = ProcessRecord::current().expect("alive");
        own.write(&path).expect("written");
        assert_eq!(ProcessRecord::read(&path), Some(own));
        fs::write(&path, "rubbish").expect("written");
        assert_eq!(ProcessRecord::read(&path), None);
    }

    #[test]
    fn a_number_used_again_is_another_process() {
        let own = ProcessRecord::current().expect("alive");
        assert!(own.is_alive());
        let former = ProcessRecord { start_time: own.start_time - 1, ..own.clone() };
        assert!(!former.is_alive());
        assert!(former.open().is_none());
        let other_boot = ProcessRecord { boot_id: "other".into(), ..own };
        assert!(!other_boot.is_alive());
    }

    #[tokio::test]
    async fn stops_gently_where_it_can_and_hard_where_it_must() {
        let mut gentle = Running::start("echo ready; exec sleep 60");
        gentle.wait_for_line();
        let process = gentle.record().open().expect("alive");
        assert!(!process.stop(Duration::from_secs(20)).await.expect("stopped"));

        let mut deaf = Running::start("trap '' TERM; echo ready; while :; do sleep 60; done");
        deaf.wait_for_line();
        let process = deaf.record().open().expect("alive");
        assert!(process.stop(Duration::from_millis(50)).await.expect("stopped"));
        // Ended, if not yet collected: that counts as gone.
        assert!(!process.record().is_alive());
    }
}
