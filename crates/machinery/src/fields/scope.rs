//! Who writes, through which resource, in which version.
use std::borrow::Cow;

use super::schema::Typed;
use super::set::{Branch, FieldSet};
use crate::Object;

/// A write, as far as the owners of fields are concerned.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Name of the field manager; empty is `unknown`.
    pub manager: &'a str,
    /// `group/version` of the request.
    pub api_version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339 with whole seconds, in UTC.
    pub now: &'a str,
    /// The fields that this resource leaves as they are, so that nobody owns them through it.
    pub reset: Reset<'a>,
}

impl Scope<'_> {
    pub(super) fn manager(&self) -> &str {
        if self.manager.is_empty() { "unknown" } else { self.manager }
    }
}

/// The fields that a write through a resource does not change. In a pattern, `*` is any item of a list.
#[derive(Debug, Clone, Copy, Default)]
pub enum Reset<'a> {
    /// None.
    #[default]
    Nothing,
    /// What is at and below these.
    Below(&'a [&'a [&'a str]]),
    /// All but what is at and below these.
    AllBut(&'a [&'a [&'a str]]),
}

impl Reset<'_> {
    /// Takes the fields out of a set.
    pub(super) fn filter(&self, set: &mut FieldSet) {
        match self {
            Self::Nothing => {}
            Self::Below(patterns) => drop_below(set, patterns, 0),
            Self::AllBut(patterns) => keep_below(set, patterns, 0),
        }
    }
}

fn matching<'a>(patterns: &[&'a [&'a str]], depth: usize, step: Option<&str>) -> Vec<&'a [&'a str]> {
    let fits = |p: &&&'a [&'a str]| p.get(depth).is_some_and(|s| *s == step.unwrap_or("*"));
    patterns.iter().filter(fits).copied().collect()
}

fn drop_below(set: &mut FieldSet, patterns: &[&[&str]], depth: usize) {
    set.retain(|element, branch| {
        let next = matching(patterns, depth, element.name());
        if next.iter().any(|p| p.len() == depth + 1) {
            *branch = Branch::default();
        } else if !next.is_empty() {
            drop_below(&mut branch.children, &next, depth + 1);
        }
    });
}

fn keep_below(set: &mut FieldSet, patterns: &[&[&str]], depth: usize) {
    set.retain(|element, branch| {
        let next = matching(patterns, depth, element.name());
        if next.is_empty() {
            *branch = Branch::default();
        } else if next.iter().all(|p| p.len() > depth + 1) {
            branch.member = false;
            keep_below(&mut branch.children, &next, depth + 1);
        }
    });
}

/// The versions of a kind.
pub trait Versions {
    /// How objects of a version (`group/version`) merge; `None` where there is no such version any more.
    fn typed(&self, api_version: &str) -> Option<Typed<'_>>;
    /// An object in a version.
    fn convert<'a>(&self, object: &'a Object, api_version: &str) -> Cow<'a, Object>;
}

/// What is the server's own and never owned by a writer.
pub(super) fn strip(set: &mut FieldSet) {
    set.retain(|element, branch| match element.name() {
        Some("apiVersion" | "kind") => branch.member = false,
        Some("metadata") => {
            branch.member = false;
            branch.children.retain(|element, branch| {
                if let Some(
                    "name" | "namespace" | "creationTimestamp" | "selfLink" | "uid" | "clusterName"
                    | "generation" | "managedFields" | "resourceVersion",
                ) = element.name()
                {
                    branch.member = false;
                }
            });
        }
        _ => {}
    });
}
