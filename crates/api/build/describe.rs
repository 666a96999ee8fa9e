//! Descriptions of types and fields, from the sources of the `k8s-openapi` crate, whose comments they are.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};

/// What one type says of itself, and of its fields.
#[derive(Debug, Default, PartialEq)]
struct Described {
    text: String,
    fields: BTreeMap<String, String>,
}

/// The text that `src/describe.rs` reads: a line for each type, `NAME<tab>TEXT`, each followed by its fields with a tab before
/// the name. Line breaks and backslashes are escaped.
pub fn describe(sources: &Path) -> Result<String> {
    let mut files = Vec::new();
    collect(sources, &mut files)?;
    let mut all: BTreeMap<String, Described> = BTreeMap::new();
    for file in files {
        if let Some((name, described)) = read(&std::fs::read_to_string(&file)?) {
            all.insert(name, described);
        }
    }
    if all.len() < 500 {
        return Err(Error::other(format!("only {} types in {}", all.len(), sources.display())));
    }
    let mut out = String::new();
    for (name, described) in &all {
        let _ = writeln!(out, "{name}\t{}", escape(&described.text));
        for (field, text) in &described.fields {
            let _ = writeln!(out, "\t{field}\t{}", escape(text));
        }
    }
    Ok(out)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

/// Takes back what makes a comment Markdown.
fn plain(comment: &str) -> String {
    let mut out = String::with_capacity(comment.len());
    let mut chars = comment.trim().chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\\' && chars.peek().is_some_and(char::is_ascii_punctuation) {
            continue;
        }
        out.push(c);
    }
    out
}

/// Reads the one type that a source file defines.
fn read(source: &str) -> Option<(String, Described)> {
    let name =
        source.lines().find_map(|l| l.strip_prefix("// Generated from definition "))?.trim().to_owned();
    // `"hostIP" => Field::Key_host_ip,` tells what a field is called on the wire.
    let wire: BTreeMap<&str, &str> = source
        .lines()
        .filter_map(|line| line.trim().split_once(" => Field::Key_"))
        .map(|(wire, field)| (field.trim_end_matches(','), wire.trim_matches('"')))
        .collect();
    let mut described = Described::default();
    let (mut comment, mut inside) = (String::new(), false);
    for line in source.lines() {
        let trimmed = line.trim();
        if let Some(text) = trimmed.strip_prefix("///") {
            comment.push_str(text.strip_prefix(' ').unwrap_or(text));
            comment.push('\n');
        } else if trimmed.starts_with("#[") {
            // Between a comment and what it is about.
        } else if let Some(rest) = trimmed.strip_prefix("pub struct ") {
            described.text = plain(&comment);
            comment.clear();
            inside = rest.ends_with('{');
            if !inside {
                break;
            }
        } else if inside && trimmed == "}" {
            break;
        } else if inside
            && let Some((field, _)) = trimmed.strip_prefix("pub ").and_then(|l| l.split_once(':'))
        {
            if let Some(name) = wire.get(field.trim_start_matches("r#"))
                && !comment.is_empty()
            {
                described.fields.insert((*name).to_owned(), plain(&comment));
            }
            comment.clear();
        } else if !trimmed.is_empty() {
            comment.clear();
        }
    }
    Some((name, described))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_read_with_the_names_of_the_wire() {
        let source = r#"// Generated from definition io.k8s.api.core.v1.ContainerPort

/// A port \<of\> a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerPort {
    /// What host IP
    ///
    /// to bind.
    pub host_ip: Option<std::string::String>,

    /// Its type.
    pub r#type: i32,
}
                            "hostIP" => Field::Key_host_ip,
                            "type" => Field::Key_type,
"#;
        let (name, described) = read(source).expect("a type");
        assert_eq!(
            (name.as_str(), described.text.as_str()),
            ("io.k8s.api.core.v1.ContainerPort", "A port <of> a container.")
        );
        assert_eq!(described.fields["hostIP"], "What host IP\n\nto bind.");
        assert_eq!(described.fields["type"], "Its type.");
        assert_eq!(read("mod a;"), None);
        assert_eq!(escape("a\\b\nc"), "a\\\\b\\nc");
    }
}
