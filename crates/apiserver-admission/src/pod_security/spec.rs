//! A pod's spec as the checks read it, and the words they share.
use std::fmt::Display;

use serde_json::Value;

use super::policy::Version;

/// Spec and metadata of a pod or of a pod template, and the release whose rules it is judged by.
pub(super) struct PodSpec<'a> {
    pub spec: &'a Value,
    pub metadata: Option<&'a Value>,
    pub version: Version,
}

/// A container of any list.
#[derive(Clone, Copy)]
pub(super) struct Container<'a>(pub &'a Value);

pub(super) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |v, key| v.get(key)).filter(|v| !v.is_null())
}

pub(super) fn list<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a Value> + use<'a> {
    at(value, path).and_then(Value::as_array).into_iter().flatten()
}

impl<'a> PodSpec<'a> {
    pub(super) fn containers(&self) -> impl Iterator<Item = Container<'a>> + use<'a> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(move |l| list(spec, &[l]))
            .map(Container)
    }

    /// A field of the pod's security context.
    pub(super) fn security(&self, path: &[&str]) -> Option<&'a Value> {
        at(at(self.spec, &["securityContext"])?, path)
    }

    /// Whether what only Linux knows is not asked of it.
    pub(super) fn is_windows(&self) -> bool {
        self.version.since(25) && at(self.spec, &["os", "name"]).and_then(Value::as_str) == Some("windows")
    }

    /// Whether it has a user namespace of its own, in which root is nobody outside.
    pub(super) fn has_own_users(&self) -> bool {
        self.version.since(35) && at(self.spec, &["hostUsers"]).and_then(Value::as_bool) == Some(false)
    }

    /// Annotations, where there are any.
    pub(super) fn annotations(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let all = self.metadata.and_then(|m| at(m, &["annotations"])).and_then(Value::as_object);
        all.into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
    }

    /// Names of the containers for which something holds.
    pub(super) fn names_where(&self, holds: impl Fn(Container<'a>) -> bool) -> Vec<&'a str> {
        self.containers().filter(|c| holds(*c)).map(|c| c.name()).collect()
    }
}

impl<'a> Container<'a> {
    pub(super) fn name(self) -> &'a str {
        at(self.0, &["name"]).and_then(Value::as_str).unwrap_or("")
    }

    /// A field of the container's security context.
    pub(super) fn security(self, path: &[&str]) -> Option<&'a Value> {
        at(at(self.0, &["securityContext"])?, path)
    }

    /// A list of names in the container's capabilities.
    pub(super) fn capabilities(self, which: &str) -> Vec<&'a str> {
        let listed = self.security(&["capabilities", which]).and_then(Value::as_array);
        listed.into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

pub(super) fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}

/// Quoted, joined with commas.
pub(super) fn quoted<T: AsRef<str>>(words: &[T]) -> String {
    let words: Vec<String> = words.iter().map(|w| format!("{:?}", w.as_ref())).collect();
    words.join(", ")
}

/// `container "a"`, or `containers "a", "b"`.
pub(super) fn containers(names: &[&str]) -> String {
    format!("{} {}", plural(names.len(), "container", "containers"), quoted(names))
}

/// Who set something: the pod, containers, or both.
pub(super) fn setters(pod: bool, names: &[&str]) -> String {
    let mut out: Vec<String> = Vec::new();
    if pod {
        out.push("pod".into());
    }
    if !names.is_empty() {
        out.push(containers(names));
    }
    out.join(" and ")
}

/// Sorted and without doubles.
pub(super) fn set<T: Ord + Display>(words: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut words: Vec<T> = words.into_iter().collect();
    words.sort_unstable();
    words.dedup();
    words
}
