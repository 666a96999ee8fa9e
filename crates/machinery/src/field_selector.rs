//! Field selectors: `metadata.name=a,status.phase!=Running`. Upstream's grammar (apimachinery/pkg/fields).
use std::fmt;

/// How a term compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `=` or `==`.
    Equals,
    /// `!=`.
    NotEquals,
}

/// One term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Path of the field, for example `spec.nodeName`.
    pub field: String,
    /// How it compares.
    pub operator: Operator,
    /// What it compares with.
    pub value: String,
}

/// Terms that all have to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<Requirement>,
}

impl FieldSelector {
    /// Reads a selector; the empty text selects everything.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|t| !t.is_empty()) {
            let Some((field, operator, value)) = split_term(term) else {
                return Err(format!("invalid selector: '{text}'; can't understand '{term}'"));
            };
            requirements.push(Requirement { field: field.to_owned(), operator, value: unescape(value)? });
        }
        Ok(Self { requirements })
    }

    /// A selector of one field with one value.
    pub fn one(field: &str, value: &str) -> Self {
        let requirement =
            Requirement { field: field.into(), operator: Operator::Equals, value: value.into() };
        Self { requirements: vec![requirement] }
    }

    /// The terms.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// The same with other names for fields, where there are some.
    #[must_use]
    pub fn renamed<'a>(mut self, name: impl Fn(&str) -> Option<&'a str>) -> Self {
        for requirement in &mut self.requirements {
            if let Some(name) = name(&requirement.field) {
                requirement.field = name.to_owned();
            }
        }
        self
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The one value a field has to have, where the selector says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|r| r.field == field && r.operator == Operator::Equals)
            .map(|r| r.value.as_str())
    }

    /// Whether fields, looked up by path, are selected. An absent field reads as the empty text.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| {
            let same = field(&r.field).unwrap_or("") == r.value;
            same == (r.operator == Operator::Equals)
        })
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let sign = if r.operator == Operator::Equals { "=" } else { "!=" };
            write!(f, "{comma}{}{sign}{}", r.field, escape(&r.value))?;
        }
        Ok(())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (i, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, Operator, &str)> {
    for (i, c) in term.char_indices() {
        let rest = &term[i..];
        for (sign, operator) in
            [("!=", Operator::NotEquals), ("==", Operator::Equals), ("=", Operator::Equals)]
        {
            if let Some(value) = rest.strip_prefix(sign) {
                return Some((&term[..i], operator, value));
            }
        }
        debug_assert!(c != '=');
    }
    None
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => {
                    return Err(format!("invalid field selector: invalid escape sequence: \\{c}"));
                }
                None => {
                    return Err("invalid field selector: invalid escape sequence: \\".to_owned());
                }
            },
            ',' | '=' => {
                return Err(format!("invalid field selector: unescaped character in value: {c}"));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prints_what_it_read_or_the_problem() {
        for (text, expect) in [
            ("", Ok("")),
            ("a=b", Ok("a=b")),
            ("a==b", Ok("a=b")),
            ("b!=c,a=", Ok("a=,b!=c")),
            (",a=b,", Ok("a=b")),
            ("a=x\\,y", Ok("a=x\\,y")),
            ("a", Err("invalid selector: 'a'; can't understand 'a'")),
            ("a=b=c", Err("invalid field selector: unescaped character in value: =")),
            ("a=\\x", Err("invalid field selector: invalid escape sequence: \\x")),
        ] {
            let got = FieldSelector::parse(text).map(|s| s.to_string());
            assert_eq!(got, expect.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn an_absent_field_is_empty() {
        let matches =
            |text: &str| FieldSelector::parse(text).expect(text).matches(|f| (f == "a").then_some("1"));
        assert!(matches("a=1,b="));
        assert!(matches("b!=1"));
        assert!(!matches("a!=1"));
        assert!(!matches("b=1"));
        assert_eq!(FieldSelector::parse("a=1").expect("valid").exact("a"), Some("1"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-z=!,\\\\é]{0,40}") {
            if let Ok(selector) = FieldSelector::parse(&text) {
                let again = FieldSelector::parse(&selector.to_string()).expect("prints what parses");
                prop_assert_eq!(again.requirements().len(), selector.requirements().len());
            }
        }
    }
}
