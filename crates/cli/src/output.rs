//! What people and programs are told.
use std::error::Error;
use std::fmt;

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

/// Prints a failure to standard error, or as one JSON object to standard output.
pub fn print_failure(failure: &Failure, as_json: bool) {
    if as_json {
        println!("{}", json!({ "error": failure.what, "next": failure.next }));
    } else {
        eprintln!("cox: {failure}");
    }
}
