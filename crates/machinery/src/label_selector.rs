//! Label selectors, as text (`app=web,tier in (a,b),!canary`) and from the typed `LabelSelector`.
//! The grammar and its messages are upstream's (apimachinery/pkg/labels).
mod parse;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Typed;

use crate::field::{FieldError, FieldPath, aggregate};
use crate::names;

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// `key=value`.
    Equals,
    /// `key==value`.
    DoubleEquals,
    /// `key!=value`.
    NotEquals,
    /// `key in (values)`.
    In,
    /// `key notin (values)`.
    NotIn,
    /// `key`.
    Exists,
    /// `!key`.
    DoesNotExist,
    /// `key>value`.
    GreaterThan,
    /// `key<value`.
    LessThan,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: BTreeSet<String>,
}

impl Requirement {
    /// Checks key and values as upstream does.
    pub fn new(
        key: &str,
        operator: Operator,
        values: impl IntoIterator<Item = String>,
    ) -> Result<Self, String> {
        let values: Vec<String> = values.into_iter().collect();
        let mut errors = Vec::new();
        let path = FieldPath::new("values");
        let set = || serde_json::Value::from(values.clone());
        check_key(key, &FieldPath::new("key"), &mut errors);
        match operator {
            Operator::In | Operator::NotIn => {
                if values.is_empty() {
                    let why = "for 'in', 'notin' operators, values set can't be empty";
                    errors.push(FieldError::invalid(&path, set(), why));
                }
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals => {
                if values.len() != 1 {
                    let why = "exact-match compatibility requires one single value";
                    errors.push(FieldError::invalid(&path, set(), why));
                }
            }
            Operator::Exists | Operator::DoesNotExist => {
                if !values.is_empty() {
                    let why = "values set must be empty for exists and does not exist";
                    errors.push(FieldError::invalid(&path, set(), why));
                }
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    let why = "for 'Gt', 'Lt' operators, exactly one value is required";
                    errors.push(FieldError::invalid(&path, set(), why));
                }
                for (i, value) in values.iter().enumerate() {
                    if value.parse::<i64>().is_err() {
                        let why = "for 'Gt', 'Lt' operators, the value must be an integer";
                        errors.push(FieldError::invalid(&path.index(i), value.as_str(), why));
                    }
                }
            }
        }
        for (i, value) in values.iter().enumerate() {
            let problems = names::label_value(value);
            if !problems.is_empty() {
                let path = path.index(i).key(key);
                errors.push(FieldError::invalid(&path, value.as_str(), problems.join("; ")));
            }
        }
        if errors.is_empty() {
            Ok(Self { key: key.to_owned(), operator, values: values.into_iter().collect() })
        } else {
            Err(aggregate(&errors))
        }
    }

    /// The label.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it compares.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// What it compares with, sorted.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(String::as_str)
    }

    /// Whether a label with this value (`None`: absent) meets the requirement.
    pub fn matches(&self, value: Option<&str>) -> bool {
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => {
                value.is_some_and(|v| self.values.contains(v))
            }
            Operator::NotIn | Operator::NotEquals => value.is_none_or(|v| !self.values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compare(value).is_some_and(|(v, bound)| v > bound),
            Operator::LessThan => self.compare(value).is_some_and(|(v, bound)| v < bound),
        }
    }

    fn compare(&self, value: Option<&str>) -> Option<(i64, i64)> {
        Some((value?.parse().ok()?, self.values.first()?.parse().ok()?))
    }
}

fn check_key(key: &str, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let problems = names::qualified_name(key);
    if !problems.is_empty() {
        errors.push(FieldError::invalid(path, key, problems.join("; ")));
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.operator == Operator::DoesNotExist {
            f.write_str("!")?;
        }
        f.write_str(&self.key)?;
        let (sign, set) = match self.operator {
            Operator::Exists | Operator::DoesNotExist => return Ok(()),
            Operator::Equals => ("=", false),
            Operator::DoubleEquals => ("==", false),
            Operator::NotEquals => ("!=", false),
            Operator::In => (" in ", true),
            Operator::NotIn => (" notin ", true),
            Operator::GreaterThan => (">", false),
            Operator::LessThan => ("<", false),
        };
        f.write_str(sign)?;
        if set {
            f.write_str("(")?;
        }
        for (i, value) in self.values.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            f.write_str(value)?;
        }
        if set { f.write_str(")") } else { Ok(()) }
    }
}

/// Conditions that all have to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    nothing: bool,
    requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Selects every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object.
    pub fn nothing() -> Self {
        Self { nothing: true, requirements: Vec::new() }
    }

    /// From requirements that were checked.
    pub fn from_requirements(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { nothing: false, requirements }
    }

    /// Reads a selector; the empty text selects everything.
    pub fn parse(text: &str) -> Result<Self, String> {
        let requirements = parse::requirements(text)?;
        Ok(Self::from_requirements(requirements))
    }

    /// From the typed form; an empty one selects everything.
    pub fn from_typed(typed: &Typed) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for (key, value) in typed.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, [value.clone()])?);
        }
        for expression in typed.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            let values = expression.values.iter().flatten().cloned();
            requirements.push(Requirement::new(&expression.key, operator, values)?);
        }
        Ok(Self::from_requirements(requirements))
    }

    /// From the typed form of a field that may be absent: absent selects nothing.
    pub fn from_optional(typed: Option<&Typed>) -> Result<Self, String> {
        typed.map_or_else(|| Ok(Self::nothing()), Self::from_typed)
    }

    /// From a map of labels, each of which has to be there with its value. The labels are taken as they are.
    pub fn from_set(labels: &BTreeMap<String, String>) -> Self {
        Self::from_requirements(
            labels
                .iter()
                .map(|(key, value)| Requirement {
                    key: key.clone(),
                    operator: Operator::Equals,
                    values: BTreeSet::from([value.clone()]),
                })
                .collect(),
        )
    }

    /// Whether every object is selected.
    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether labels, looked up by key, are selected.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }

    /// Whether a map of labels is selected.
    pub fn matches_map(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches(|key| labels.get(key).map(String::as_str))
    }

    /// Whether the labels of an object, where it has any, are selected.
    pub fn matches_optional(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.matches(|key| labels?.get(key).map(String::as_str))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prints_the_canonical_form_or_the_problem() {
        for (text, expect) in [
            ("", Ok("")),
            ("a=b", Ok("a=b")),
            ("b==c , a", Ok("a,b==c")),
            ("a!=b", Ok("a!=b")),
            ("!a", Ok("!a")),
            ("! a", Ok("!a")),
            ("a in (y,x)", Ok("a in (x,y)")),
            ("a notin ( x )", Ok("a notin (x)")),
            ("a in (,x)", Ok("a in (,x)")),
            ("a in (x,)", Ok("a in (,x)")),
            ("a=", Ok("a=")),
            ("a>1,b<2", Ok("a>1,b<2")),
            ("in in (in)", Ok("in in (in)")),
            ("example.com/a=b", Ok("example.com/a=b")),
            ("a,", Err("found '', expected: identifier after ','")),
            ("=b", Err("found '=', expected: !, identifier, or 'end of string'")),
            ("a b", Err("unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt")),
            ("a in x", Err("unable to parse requirement: found 'x' expected: '('")),
            ("a in (x y)", Err("unable to parse requirement: found 'y', expected: ',' or ')'")),
            ("a=b c", Err("found 'c', expected: ',' or 'end of string'")),
            ("!", Err("unable to parse requirement: found '', expected: identifier")),
            (
                "a in ()",
                Err(
                    "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
                ),
            ),
            (
                "a>x",
                Err(
                    "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
                ),
            ),
            ("a=b=c", Err("found '=', expected: ',' or 'end of string'")),
        ] {
            let got = LabelSelector::parse(text).map(|s| s.to_string());
            assert_eq!(got, expect.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn names_the_key_and_value_that_are_wrong() {
        let e = LabelSelector::parse("a=-").expect_err("the value is bad");
        assert!(
            e.starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-\": a valid label"),
            "{e}"
        );
        let e = LabelSelector::parse("-a=b").expect_err("the key is bad");
        assert!(
            e.starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part must"),
            "{e}"
        );
    }

    #[test]
    fn selects_by_every_requirement() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned()), ("n".to_owned(), "5".to_owned())]);
        for (text, expect) in [
            ("", true),
            ("app=web", true),
            ("app=db", false),
            ("app!=db", true),
            ("x!=db", true),
            ("x=db", false),
            ("app in (db,web)", true),
            ("app notin (db,web)", false),
            ("x notin (db)", true),
            ("app", true),
            ("!app", false),
            ("!x,app", true),
            ("n>4,n<6", true),
            ("n>5", false),
            ("app>5", false),
        ] {
            let selector = LabelSelector::parse(text).expect(text);
            assert_eq!(selector.matches_map(&labels), expect, "{text}");
        }
        assert!(!LabelSelector::nothing().matches_map(&labels));
        assert!(!LabelSelector::nothing().is_empty());
        assert!(LabelSelector::from_optional(None).is_ok_and(|s| !s.matches_map(&labels)));
    }

    #[test]
    fn reads_the_typed_form() {
        let typed: Typed = serde_json::from_value(serde_json::json!({
            "matchLabels": {"b": "c"},
            "matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["y", "x"]}, {"key": "z", "operator": "DoesNotExist"}],
        }))
        .expect("a selector");
        let selector = LabelSelector::from_typed(&typed).expect("it is valid");
        assert_eq!(selector.to_string(), "a notin (x,y),b=c,!z");
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-z0-9 !=<>(),./\\-é]{0,60}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                prop_assert_eq!(LabelSelector::parse(&selector.to_string()).expect("prints what parses"), selector);
            }
        }
    }
}
