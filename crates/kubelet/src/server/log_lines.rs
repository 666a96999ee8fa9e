//! The runtime's log format, and what a reader wants of it: pure.
use jiff::Timestamp;

/// What a reader wants of a log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// Keep going as the log grows.
    pub follow: bool,
    /// The container before the current one.
    pub previous: bool,
    /// With the time before each line.
    pub timestamps: bool,
    /// Only the last so many lines.
    pub tail: Option<usize>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// Only so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only this stream (`Stdout`, `Stderr`).
    pub stream: Option<&'static str>,
}

impl Options {
    /// Reads a query; the error names what is wrong.
    pub fn parse(query: &str, now: Timestamp) -> Result<Options, String> {
        let mut out = Options::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value);
            let flag = || matches!(value.as_str(), "" | "1" | "t" | "T" | "true" | "True" | "TRUE");
            let number = || value.parse::<i64>().map_err(|_| format!("invalid value {value:?} for {name}"));
            match name {
                "follow" => out.follow = flag(),
                "previous" => out.previous = flag(),
                "timestamps" => out.timestamps = flag(),
                "tailLines" => {
                    out.tail = Some(usize::try_from(number()?).map_err(|_| {
                        "tailLines: Invalid value: must be greater than or equal to 0".to_owned()
                    })?)
                }
                "limitBytes" => {
                    let bytes = number()?;
                    if bytes < 1 {
                        return Err("limitBytes: Invalid value: must be greater than 0".into());
                    }
                    out.limit_bytes = u64::try_from(bytes).ok();
                }
                "sinceSeconds" => {
                    let seconds = number()?;
                    if seconds < 1 {
                        return Err("sinceSeconds: Invalid value: must be greater than 0".into());
                    }
                    out.since = now.checked_sub(jiff::SignedDuration::from_secs(seconds)).ok();
                }
                "sinceTime" => {
                    out.since =
                        Some(value.parse().map_err(|_| format!("invalid value {value:?} for sinceTime"))?)
                }
                "stream" => {
                    out.stream = match value.as_str() {
                        "Stdout" => Some("stdout"),
                        "Stderr" => Some("stderr"),
                        "" | "All" => None,
                        other => return Err(format!("invalid stream type {other:?}")),
                    }
                }
                _ => {}
            }
        }
        Ok(out)
    }
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (_, Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                at += 1;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// One line of the runtime's log: `<time> <stream> <F|P> <text>`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line<'a> {
    /// When it was written, as written there.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// Whether the text goes on in the next entry.
    pub partial: bool,
    /// The text, with its newline unless partial.
    pub text: &'a [u8],
}

/// Reads one line of a log; `None` for what the runtime did not write.
pub fn parse_line(line: &[u8]) -> Option<Line<'_>> {
    let (time, rest) = cut(line)?;
    let (stream, rest) = cut(rest)?;
    let (tags, text) = cut(rest).unwrap_or((rest.strip_suffix(b"\n").unwrap_or(rest), b"\n"));
    let stream = std::str::from_utf8(stream).ok().filter(|stream| matches!(*stream, "stdout" | "stderr"))?;
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    let text = if partial { text.strip_suffix(b"\n").unwrap_or(text) } else { text };
    Some(Line { time: std::str::from_utf8(time).ok()?, stream, partial, text })
}

fn cut(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == b' ')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// Turns log lines into what the reader asked for.
pub struct Filter {
    options: Options,
    left: u64,
    mid_line: bool,
}

impl Filter {
    /// Lets through what `options` ask for.
    pub fn new(options: &Options) -> Filter {
        Filter { left: options.limit_bytes.unwrap_or(u64::MAX), options: options.clone(), mid_line: false }
    }

    /// What to send for one log line.
    pub fn pass(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(parsed) = parse_line(line) else { return };
        if self.options.stream.is_some_and(|stream| stream != parsed.stream) {
            return;
        }
        if self
            .options
            .since
            .is_some_and(|since| parsed.time.parse::<Timestamp>().is_ok_and(|time| time < since))
        {
            return;
        }
        let before = out.len();
        if self.options.timestamps && !self.mid_line {
            out.extend_from_slice(parsed.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(parsed.text);
        self.mid_line = parsed.partial;
        let room = usize::try_from(self.left).unwrap_or(usize::MAX);
        out.truncate(before.saturating_add(room).min(out.len()));
        self.left -= (out.len() - before) as u64;
    }

    /// Whether the reader has had enough.
    pub fn is_full(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_options_are_named() {
        let error = |query: &str| Options::parse(query, Timestamp::now()).expect_err("refused");
        assert!(error("tailLines=-1").contains("tailLines"));
        assert!(error("limitBytes=0").contains("limitBytes"));
        assert!(error("sinceTime=yesterday").contains("sinceTime"));
        assert!(error("sinceSeconds=x").contains("sinceSeconds"));
    }
}
