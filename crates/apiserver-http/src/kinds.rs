//! The kinds that are served.
use std::collections::BTreeMap;
use std::sync::Arc;

use api::kinds::Kind;

/// The kinds that a server serves, by group, version and plural.
#[derive(Debug, Default)]
pub struct Kinds(BTreeMap<(String, String, String), Arc<Kind>>);

impl Kinds {
    /// Serves these.
    pub fn new(kinds: impl Iterator<Item = Arc<Kind>>) -> Self {
        Self(kinds.map(|k| ((k.group.to_string(), k.version.to_string(), k.plural.to_string()), k)).collect())
    }

    /// Finds a kind by what a path names.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.0.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// All, sorted by group, version and plural.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.0.values()
    }

    /// Every group and version that is served.
    pub fn group_versions(&self) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> =
            self.0.keys().map(|(group, version, _)| (group.clone(), version.clone())).collect();
        all.dedup();
        all
    }

    /// Groups but core, each with its versions, best first.
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (group, version, _) in self.0.keys() {
            let versions = groups.entry(group).or_default();
            if !versions.contains(version) {
                versions.push(version.clone());
            }
        }
        let mut all: Vec<(String, Vec<String>)> = groups
            .into_iter()
            .filter(|(group, _)| !group.is_empty())
            .map(|(group, mut versions)| {
                versions.sort_by(|a, b| b.cmp(a));
                (group.to_owned(), versions)
            })
            .collect();
        all.sort_by_key(|(group, _)| (priority(group), group.clone()));
        all
    }
}

/// Where upstream lists a group (pkg/controlplane/apiserver/aggregator.go, `apiVersionPriorities`).
fn priority(group: &str) -> usize {
    const ORDER: &[&str] = &[
        "apiregistration.k8s.io",
        "apps",
        "events.k8s.io",
        "authentication.k8s.io",
        "authorization.k8s.io",
        "autoscaling",
        "batch",
        "certificates.k8s.io",
        "networking.k8s.io",
        "policy",
        "rbac.authorization.k8s.io",
        "storage.k8s.io",
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "scheduling.k8s.io",
        "coordination.k8s.io",
        "node.k8s.io",
        "discovery.k8s.io",
        "resource.k8s.io",
        "flowcontrol.apiserver.k8s.io",
    ];
    ORDER.iter().position(|&g| g == group).unwrap_or(ORDER.len())
}
