//! Which streams a request asks for.

/// The standard streams of one exec or attach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Streams {
    /// The client sends standard input.
    pub stdin: bool,
    /// The client wants standard output.
    pub stdout: bool,
    /// The client wants standard error.
    pub stderr: bool,
    /// There is a terminal, with a size; its standard error comes as standard output.
    pub tty: bool,
}

/// No stream was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("you must specify at least 1 of stdin, stdout, stderr")]
pub struct InvalidStreams;

impl Streams {
    /// Reads the kubelet's and the CRI's query parameters: `input`, `output`, `error`, `tty`, each `1` if wanted.
    pub fn from_kubelet_query(query: &str) -> Result<Self, InvalidStreams> {
        Self::read(query, ["input", "output", "error", "tty"], |value| value == "1")
    }

    /// Reads the API's query parameters: `stdin`, `stdout`, `stderr`, `tty`, as booleans.
    pub fn from_api_query(query: &str) -> Result<Self, InvalidStreams> {
        Self::read(query, ["stdin", "stdout", "stderr", "tty"], |value| {
            !matches!(value.to_ascii_lowercase().as_str(), "0" | "f" | "false")
        })
    }

    fn read(query: &str, names: [&str; 4], wanted: impl Fn(&str) -> bool) -> Result<Self, InvalidStreams> {
        let mut found: [Option<bool>; 4] = [None; 4];
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if let Some(at) = names.iter().position(|known| *known == name) {
                found[at].get_or_insert(wanted(&value));
            }
        }
        let [stdin, stdout, stderr, tty] = found.map(Option::unwrap_or_default);
        // A terminal has one output.
        let streams = Self { stdin, stdout, stderr: stderr && !tty, tty };
        if streams.stdin || streams.stdout || streams.stderr { Ok(streams) } else { Err(InvalidStreams) }
    }

    /// The query the kubelet takes for these streams and a command (none to attach).
    pub fn to_kubelet_query<S: AsRef<str>>(self, command: &[S]) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, wanted) in
            [("input", self.stdin), ("output", self.stdout), ("error", self.stderr), ("tty", self.tty)]
        {
            if wanted {
                query.append_pair(name, "1");
            }
        }
        for word in command {
            query.append_pair("command", word.as_ref());
        }
        query.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_dialects() {
        let all = Streams { stdin: true, stdout: true, stderr: true, tty: false };
        assert_eq!(Streams::from_kubelet_query("command=ls&input=1&output=1&error=1"), Ok(all));
        assert_eq!(Streams::from_api_query("stdin=true&stdout=true&stderr=1&command=a%20b"), Ok(all));
        assert_eq!(Streams::from_kubelet_query(&all.to_kubelet_query(&["a b", "&"])), Ok(all));
        assert_eq!(all.to_kubelet_query(&["a b"]), "input=1&output=1&error=1&command=a+b");
    }

    #[test]
    fn a_terminal_has_no_standard_error() {
        let streams = Streams::from_kubelet_query("output=1&error=1&tty=1").expect("streams");
        assert_eq!(streams, Streams { stdin: false, stdout: true, stderr: false, tty: true });
    }

    #[test]
    fn something_must_be_asked_for() {
        for query in ["", "tty=1", "input=true", "error=1&tty=1"] {
            assert_eq!(Streams::from_kubelet_query(query), Err(InvalidStreams), "{query}");
        }
        assert_eq!(Streams::from_api_query("stdin=false"), Err(InvalidStreams));
    }
}
