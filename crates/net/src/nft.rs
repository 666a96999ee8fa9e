//! Transactions of nftables: a script goes in whole or not at all.

use std::{io, time::Duration};

use crate::tool;

/// Runs `nft` in the network namespace of the calling thread.
#[derive(Clone, Copy, Debug)]
pub struct Nft {
    timeout: Duration,
}

/// Why the kernel's rules could not be changed or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no `nft` on this host.
    #[error("nft was not found in PATH nor in /usr/sbin (Debian's package nftables has it)")]
    Missing,
    /// It could not be run or talked to.
    #[error("cannot run nft")]
    Run(#[source] io::Error),
    /// It did not end in time, and was ended.
    #[error("nft did not end within {0:?}")]
    Timeout(Duration),
    /// The script is wrong, or the kernel did not take it; nothing changed.
    #[error("nft refused {}: {message}", at.as_deref().map_or("the request".to_owned(), |l| format!("line `{l}`")))]
    Refused {
        /// The line of the script that it stumbled over.
        at: Option<String>,
        /// Its first complaint.
        message: String,
    },
    /// The answer makes no sense or is too large.
    #[error("cannot read the answer of nft: {0}")]
    Answer(String),
}

impl Error {
    /// Whether what was asked for is not there.
    pub fn is_missing_object(&self) -> bool {
        matches!(self, Error::Refused { message, .. } if message.contains("No such file or directory"))
    }
}

impl Default for Nft {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30) }
    }
}

impl Nft {
    /// Applies a script as one transaction: packets see the rules before or after it, never between.
    pub async fn apply(&self, script: &str) -> Result<(), Error> {
        self.run(&["-f", "-"], script).await.map(drop)
    }

    /// Reads rules back, as the array of objects that `nft --json list ...` answers with.
    pub async fn list(&self, what: &[&str]) -> Result<Vec<serde_json::Value>, Error> {
        #[derive(serde::Deserialize)]
        struct Answer {
            nftables: Vec<serde_json::Value>,
        }
        let mut args = vec!["--json", "list"];
        args.extend(what);
        let answer = self.run(&args, "").await?;
        let answer: Answer = serde_json::from_slice(&answer).map_err(|e| Error::Answer(e.to_string()))?;
        Ok(answer.nftables)
    }

    async fn run(&self, args: &[&str], input: &str) -> Result<Vec<u8>, Error> {
        let output = tool::run("nft", args, input, self.timeout).await.map_err(|error| match error {
            tool::Error::Missing => Error::Missing,
            tool::Error::Run(error) => Error::Run(error),
            tool::Error::Timeout(limit) => Error::Timeout(limit),
            tool::Error::TooLong(_) => Error::Answer(error.to_string()),
        })?;
        if output.success { Ok(output.out) } else { Err(complaint(&output.err, input)) }
    }
}

/// Finds the line that `nft` points to: `/dev/stdin:12:5-20: Error: Could not process rule: File exists`.
fn complaint(stderr: &str, script: &str) -> Error {
    let first = stderr.lines().find(|l| !l.trim().is_empty()).unwrap_or("it gave no reason").trim();
    let located = first.split_once(':').and_then(|(_, rest)| {
        let (line, rest) = rest.split_once(':')?;
        let (_, message) = rest.split_once(": ")?;
        let at = script.lines().nth(line.parse::<usize>().ok()?.checked_sub(1)?)?;
        Some((at.trim().chars().take(300).collect(), message))
    });
    let (at, message) = match located {
        Some((at, message)) => (Some(at), message),
        None => (None, first),
    };
    Error::Refused { at, message: message.strip_prefix("Error: ").unwrap_or(message).to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_names_the_line_of_the_script() {
        let script = "add table ip a\nadd rule ip nope x accept\n";
        let stderr = "/dev/stdin:2:13-16: Error: No such file or directory; did you mean table 'a'?\nadd rule\n ^^^^\n";
        let error = complaint(stderr, script);
        assert_eq!(
            error.to_string(),
            "nft refused line `add rule ip nope x accept`: No such file or directory; did you mean table 'a'?"
        );
        assert!(error.is_missing_object());
    }

    #[test]
    fn other_complaints_are_kept_whole() {
        let text = |stderr: &str| complaint(stderr, "one\n").to_string();
        assert_eq!(
            text("Operation not permitted (you must be root)\nnetlink: Error: x\n"),
            "nft refused the request: Operation not permitted (you must be root)"
        );
        assert_eq!(
            text("/dev/stdin:99:1-2: Error: strange\n"),
            "nft refused the request: /dev/stdin:99:1-2: Error: strange"
        );
        assert_eq!(text(""), "nft refused the request: it gave no reason");
    }

    /// Checks only (`-c` is not ours to pass, so a script that fails): the kernel's rules stay as they are.
    #[tokio::test]
    async fn a_wrong_script_is_refused_with_its_line() {
        match Nft::default().apply("add rule ip no-such-table-of-cox chain accept\n").await {
            Err(Error::Missing) => eprintln!("skipped: no nft on this machine"),
            Err(Error::Refused { message, .. }) => assert!(!message.is_empty()),
            other => panic!("{other:?}"),
        }
    }
}
