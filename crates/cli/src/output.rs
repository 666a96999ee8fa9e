//! What people and programs are told.
use std::error::Error;
use std::fmt;
use std::io::{ErrorKind, Write};

use serde_json::json;

/// A command that failed: what, why, and what to do.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong, with its cause.
    pub what: String,
    /// What to do; empty where nothing is known.
    pub next: String,
    /// Exit code.
    pub code: u8,
}

impl Failure {
    /// With exit code 1.
    pub fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), next: next.into(), code: 1 }
    }

    /// From an error whose text says what to do already.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        Self::new(base::Chain(error).to_string(), "")
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"), "")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.next.is_empty() {
            write!(f, "\n  {}", self.next)?;
        }
        Ok(())
    }
}

/// Writes what a verb has to say to standard output, at once.
pub fn print(text: &str) -> Result<(), Failure> {
    write_to(std::io::stdout().lock(), text)
}

/// One JSON object on a line of its own.
pub fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{value}\n"))
}

/// A reader that closes its end (`cox status | head -1`) has seen enough: no error, and the verb's own exit code holds.
fn write_to(mut out: impl Write, text: &str) -> Result<(), Failure> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to standard output: {e}"), ""))
        }
        _ => Ok(()),
    }
}

/// Says something aside, on standard error. Where nobody listens, there is nobody to tell.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints a failure to standard error, or as one JSON object to standard output.
pub fn print_failure(failure: &Failure, as_json: bool) {
    if as_json {
        // That the failure cannot be told either changes nothing: the exit code says it.
        let _ = print_json(&json!({ "error": failure.what, "next": failure.next }));
    } else {
        note(&format!("cox: {failure}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_reader_that_left_is_no_failure_but_a_full_disk_is() {
        assert!(write_to(Broken(ErrorKind::BrokenPipe), "x\n").is_ok());
        let failure = write_to(Broken(ErrorKind::StorageFull), "x\n").unwrap_err();
        assert!(failure.what.starts_with("cannot write to standard output: "), "{}", failure.what);
    }
}
