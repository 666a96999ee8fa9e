//! Reads a tree field by field and gathers what is wrong, rather than stopping at it.

use std::{cell::RefCell, collections::BTreeMap, fmt, str::FromStr};

use super::suggest::suggestion;
use super::tree::{Entry, Node, Value};

/// Whether a cluster could come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gravity {
    /// It could not.
    Error,
    /// It could, and someone should think again.
    Warning,
}

/// One thing that is wrong with a `cluster.yaml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line, from 1.
    pub line: u64,
    /// Field, as `hosts[1].address`; empty where it is about the whole file.
    pub path: String,
    /// What is wrong, and what to do.
    pub message: String,
    /// How bad it is.
    pub gravity: Gravity,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.line)?;
        if self.gravity == Gravity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Found {
    mistakes: RefCell<Vec<Mistake>>,
    lines: RefCell<BTreeMap<String, u64>>,
}

impl Found {
    /// Notes something wrong with a field, by its path.
    pub fn wrong(&self, path: &str, message: impl Into<String>) {
        self.note(path, message.into(), Gravity::Error);
    }

    /// Notes something to think about.
    pub fn warn(&self, path: &str, message: impl Into<String>) {
        self.note(path, message.into(), Gravity::Warning);
    }

    fn note(&self, path: &str, message: String, gravity: Gravity) {
        let line = self.line(path);
        self.mistakes.borrow_mut().push(Mistake { line, path: path.to_owned(), message, gravity });
    }

    fn wrong_at(&self, line: u64, path: &str, message: String) {
        let gravity = Gravity::Error;
        self.mistakes.borrow_mut().push(Mistake { line, path: path.to_owned(), message, gravity });
    }

    /// Where a field stands; where it is absent, what it should be in.
    fn line(&self, path: &str) -> u64 {
        let lines = self.lines.borrow();
        let mut path = path;
        loop {
            if let Some(line) = lines.get(path) {
                return *line;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return 1,
            }
        }
    }

    fn at(&self, path: &str, line: u64) {
        self.lines.borrow_mut().insert(path.to_owned(), line);
    }

    /// Everything, in the order of the file.
    pub fn finish(self) -> Vec<Mistake> {
        let mut all = self.mistakes.into_inner();
        all.sort_by(|a, b| (a.line, &a.path, &a.message).cmp(&(b.line, &b.path, &b.message)));
        all.dedup();
        all
    }
}

/// A value that is there, and its path.
#[derive(Clone, Debug)]
pub(super) struct Given<'a> {
    found: &'a Found,
    pub path: String,
    node: &'a Node,
}

/// A map whose fields are taken one by one; those that are left are unknown.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    found: &'a Found,
    path: String,
    left: Vec<&'a Entry>,
    known: Vec<&'static str>,
}

impl<'a> Given<'a> {
    /// The whole document.
    pub fn root(found: &'a Found, node: &'a Node) -> Self {
        found.at("", node.line);
        Self { found, path: String::new(), node }
    }

    fn unfit<T>(&self, want: &str) -> Option<T> {
        self.found.wrong(&self.path, format!("want {want}, found {}", self.node.value.kind()));
        None
    }

    /// Notes that the value is no good.
    pub fn wrong(&self, message: impl Into<String>) {
        self.found.wrong(&self.path, message);
    }

    /// Text. A number is text too: what looks like one may be meant as a name.
    pub fn text(&self) -> Option<String> {
        match &self.node.value {
            Value::Text(text) | Value::Number(text) => Some(text.clone()),
            Value::Bool(value) => Some(value.to_string()),
            _ => self.unfit("text"),
        }
    }

    /// True or false.
    pub fn boolean(&self) -> Option<bool> {
        match &self.node.value {
            Value::Bool(value) => Some(*value),
            _ => self.unfit("true or false"),
        }
    }

    /// Something that is written as text; `what` says what, as `an IP address`.
    pub fn parse<T: FromStr>(&self, what: &str) -> Option<T> {
        let text = self.text()?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(format!("{text:?} is not {what}"));
        }
        parsed
    }

    /// A port.
    pub fn port(&self) -> Option<u16> {
        let text = self.text()?;
        match text.parse::<u16>() {
            Ok(port) if port > 0 => Some(port),
            _ => {
                self.wrong(format!("{text:?} is not a port; ports are 1 to 65535"));
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let meant = suggestion(&text, words.iter().copied())
            .map(|word| format!("; did you mean {word:?}?"))
            .unwrap_or_default();
        self.wrong(format!("{text:?} is none of {}{meant}", words.join(", ")));
        None
    }

    /// The items of a list; none where it is not one.
    pub fn items(&self) -> Vec<Given<'a>> {
        self.list().unwrap_or_default()
    }

    /// The items, if it is a list.
    pub fn list(&self) -> Option<Vec<Given<'a>>> {
        let Value::List(items) = &self.node.value else { return self.unfit("a list") };
        let item = |(i, node): (usize, &'a Node)| {
            let path = format!("{}[{i}]", self.path);
            self.found.at(&path, node.line);
            Given { found: self.found, path, node }
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// Its fields, where it is a map.
    pub fn fields(&self) -> Option<Fields<'a>> {
        let Value::Map(entries) = &self.node.value else { return self.unfit("a map") };
        let mut seen: Vec<&str> = Vec::new();
        let mut left: Vec<&Entry> = Vec::new();
        for entry in entries {
            let path = child(&self.path, &entry.key);
            if seen.contains(&entry.key.as_str()) {
                self.found.wrong_at(entry.line, &path, "the key stands there twice".to_owned());
                continue;
            }
            self.found.at(&path, entry.line);
            seen.push(&entry.key);
            left.push(entry);
        }
        Some(Fields { found: self.found, path: self.path.clone(), left, known: Vec::new() })
    }

    /// A map of free keys to values.
    pub fn pairs(&self) -> Vec<(String, Given<'a>)> {
        let Some(fields) = self.fields() else { return Vec::new() };
        let given = |entry: &&'a Entry| {
            let path = child(&self.path, &entry.key);
            (entry.key.clone(), Given { found: self.found, path, node: &entry.node })
        };
        fields.left.iter().map(given).collect()
    }
}

fn child(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

impl<'a> Fields<'a> {
    /// Takes a field; absent and empty are the same.
    pub fn take(&mut self, key: &'static str) -> Option<Given<'a>> {
        self.known.push(key);
        let index = self.left.iter().position(|entry| entry.key == key)?;
        let entry = self.left.remove(index);
        let path = child(&self.path, key);
        (entry.node.value != Value::Null).then_some(Given { found: self.found, path, node: &entry.node })
    }

    /// Takes a field that has to be there.
    pub fn need(&mut self, key: &'static str) -> Option<Given<'a>> {
        let taken = self.take(key);
        if taken.is_none() {
            self.found.wrong(&child(&self.path, key), "it is missing");
        }
        taken
    }

    /// Names the fields that nobody took.
    pub fn end(self) {
        for entry in self.left {
            let meant = suggestion(&entry.key, self.known.iter().copied()).map_or_else(
                || format!("there are {}", self.known.join(", ")),
                |key| format!("did you mean {key:?}?"),
            );
            let path = child(&self.path, &entry.key);
            self.found.wrong_at(entry.line, &path, format!("unknown key; {meant}"));
        }
    }
}
