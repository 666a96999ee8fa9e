//! Runs a program of the host: bounded in time and in what is kept of its answer.

use std::{io, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
};

/// Why a program gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("it was not found in PATH nor in /usr/sbin")]
    Missing,
    #[error(transparent)]
    Run(#[from] io::Error),
    #[error("it did not end within {0:?}")]
    Timeout(Duration),
    #[error("it answered with more than {0} bytes")]
    TooLong(u64),
}

pub(crate) struct Output {
    pub(crate) success: bool,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

/// Most bytes of an answer that are kept.
const ANSWER_LIMIT: u64 = 64 << 20;
const COMPLAINT_LIMIT: u64 = 64 << 10;

/// Runs a program in the network namespace of the calling thread, with `input` as its standard input.
///
/// It is looked for in `PATH`, then where systems keep it that leave `/usr/sbin` out of a service's `PATH`.
pub(crate) async fn run(program: &str, args: &[&str], input: &str, limit: Duration) -> Result<Output, Error> {
    let mut child = spawn(program, args)?;
    let talk = async {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // It hangs up early when it dislikes the start; its complaint says more than our broken pipe.
                let _ = stdin.write_all(input.as_bytes()).await;
                let _ = stdin.shutdown().await;
            }
        };
        let ((), out, err) = tokio::join!(write, read(stdout, ANSWER_LIMIT), read(stderr, COMPLAINT_LIMIT));
        Ok::<_, io::Error>((child.wait().await?, out?, err?))
    };
    let (status, out, err) = tokio::time::timeout(limit, talk).await.map_err(|_| Error::Timeout(limit))??;
    if out.len() as u64 >= ANSWER_LIMIT {
        return Err(Error::TooLong(ANSWER_LIMIT));
    }
    Ok(Output { success: status.success(), out, err: String::from_utf8_lossy(&err).into_owned() })
}

fn spawn(program: &str, args: &[&str]) -> Result<Child, Error> {
    for directory in ["", "/usr/sbin/", "/sbin/"] {
        let child = Command::new(format!("{directory}{program}"))
            .args(args)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        match child {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return Ok(other?),
        }
    }
    Err(Error::Missing)
}

async fn read(from: Option<impl AsyncRead + Unpin>, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        let mut limited = from.take(limit);
        limited.read_to_end(&mut bytes).await?;
        // Read on to the end, or the writer would wait for ever.
        tokio::io::copy(&mut limited.into_inner(), &mut tokio::io::sink()).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn input_goes_in_and_output_comes_out() {
        // More than a pipe holds, both ways at once.
        let input = "0123456789abcdef".repeat(20_000);
        let output = run("cat", &[], &input, LONG).await.expect("an answer");
        assert!(output.success && output.out == input.as_bytes());
        let output = run("sh", &["-c", "echo no >&2; exit 3"], "", LONG).await.expect("an answer");
        assert!(!output.success);
        assert_eq!(output.err, "no\n");
    }

    #[tokio::test]
    async fn what_is_missing_or_does_not_end_is_an_error() {
        assert!(matches!(run("no-such-program", &[], "", LONG).await, Err(Error::Missing)));
        let short = Duration::from_millis(50);
        assert!(matches!(run("sleep", &["60"], "", short).await, Err(Error::Timeout(_))));
    }
}
