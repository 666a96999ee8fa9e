//! Which plugins run for which pods. Upstream: pkg/scheduler/profile and framework/runtime (`expandMultiPointPlugins`),
//! 1.36.
use std::collections::HashSet;

use crate::framework::{Filter, Framework, Score};
use crate::plugins;

/// Upstream's default profile: what runs at every point it has something for, in this order, with the weights of
/// scores.
const DEFAULTS: &[(&str, i64)] = &[
    ("SchedulingGates", 0),
    ("PrioritySort", 0),
    ("NodeUnschedulable", 0),
    ("NodeName", 0),
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodePorts", 0),
    ("NodeResourcesFit", 1),
    ("VolumeBinding", 0),
    ("PodTopologySpread", 2),
    ("InterPodAffinity", 2),
    ("DefaultPreemption", 0),
    ("NodeResourcesBalancedAllocation", 1),
    ("DefaultBinder", 0),
];

/// Plugins of upstream that do not exist here; a profile may turn them off, but not on.
const ABSENT: &[&str] =
    &["VolumeRestrictions", "NodeVolumeLimits", "VolumeZone", "DynamicResources", "ImageLocality"];

/// Plugins without which nothing is scheduled.
const ALWAYS: &[&str] = &["SchedulingGates", "PrioritySort", "DefaultBinder"];

/// What a profile turns on and off at one point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PluginSet {
    /// Names, with the weight for scores; 0: the plugin's own.
    pub enabled: Vec<(String, i64)>,
    /// Names; `*` is all that run by default.
    pub disabled: Vec<String>,
}

/// A profile: pods that name it in `spec.schedulerName` are scheduled with its plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub scheduler_name: String,
    /// For all points at once.
    pub multi_point: PluginSet,
    /// For PreFilter and Filter.
    pub filter: PluginSet,
    /// For PostFilter.
    pub post_filter: PluginSet,
    /// For PreScore and Score.
    pub score: PluginSet,
}

/// What is wrong with a profile.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProfileError {
    /// Upstream has it, we do not.
    #[error("plugin {0:?} is not supported")]
    Absent(String),
    /// Nobody has it.
    #[error("plugin {0:?} does not exist")]
    Unknown(String),
    /// The plugin has nothing to do there.
    #[error("plugin {plugin:?} does not extend {point} plugin")]
    NotThere {
        /// The plugin.
        plugin: String,
        /// The point.
        point: &'static str,
    },
    /// Without it nothing is scheduled.
    #[error("plugin {0:?} cannot be turned off")]
    Needed(String),
    /// Twice at one point.
    #[error("plugin {0:?} already registered")]
    Twice(String),
}

impl Profile {
    /// The default plugins under a name.
    pub fn new(scheduler_name: impl Into<String>) -> Self {
        Self {
            scheduler_name: scheduler_name.into(),
            multi_point: PluginSet::default(),
            filter: PluginSet::default(),
            post_filter: PluginSet::default(),
            score: PluginSet::default(),
        }
    }

    /// The plugins that run.
    pub fn framework(&self) -> Result<Framework, ProfileError> {
        for set in [&self.multi_point, &self.filter, &self.post_filter, &self.score] {
            check(set)?;
        }
        let everywhere = everywhere(&self.multi_point);
        let filters = at_point(&everywhere, &self.filter, "filter", |name| filter(name).is_some())?;
        let scores = at_point(&everywhere, &self.score, "score", |name| score(name).is_some())?;
        let post =
            at_point(&everywhere, &self.post_filter, "postFilter", |name| name == "DefaultPreemption")?;
        Ok(Framework {
            filters: filters.iter().filter_map(|(name, _)| filter(name)).collect(),
            scores: scores
                .iter()
                .filter_map(|(name, weight)| Some(((*weight).max(1), score(name)?)))
                .collect(),
            preempts: !post.is_empty(),
        })
    }
}

impl Default for Framework {
    /// Upstream's default profile.
    fn default() -> Self {
        Profile::new("default-scheduler").framework().expect("the defaults are all there")
    }
}

fn filter(name: &str) -> Option<Box<dyn Filter>> {
    Some(match name {
        "NodeUnschedulable" => Box::new(plugins::NodeUnschedulable),
        "NodeName" => Box::new(plugins::NodeName),
        "TaintToleration" => Box::new(plugins::TaintToleration),
        "NodeAffinity" => Box::new(plugins::NodeAffinity),
        "NodePorts" => Box::new(plugins::NodePorts),
        "NodeResourcesFit" => Box::new(plugins::ResourcesFit),
        "VolumeBinding" => Box::new(plugins::VolumeBinding),
        "PodTopologySpread" => Box::new(plugins::PodTopologySpread),
        "InterPodAffinity" => Box::new(plugins::InterPodAffinity),
        _ => return None,
    })
}

fn score(name: &str) -> Option<Box<dyn Score>> {
    Some(match name {
        "TaintToleration" => Box::new(plugins::TaintToleration),
        "NodeAffinity" => Box::new(plugins::NodeAffinity),
        "NodeResourcesFit" => Box::new(plugins::ResourcesFit),
        "PodTopologySpread" => Box::new(plugins::PodTopologySpread),
        "InterPodAffinity" => Box::new(plugins::InterPodAffinity),
        "NodeResourcesBalancedAllocation" => Box::new(plugins::BalancedAllocation),
        _ => return None,
    })
}

fn check(set: &PluginSet) -> Result<(), ProfileError> {
    let mut seen = HashSet::new();
    for (name, _) in &set.enabled {
        if ABSENT.contains(&name.as_str()) {
            return Err(ProfileError::Absent(name.clone()));
        }
        if !DEFAULTS.iter().any(|(known, _)| known == name) {
            return Err(ProfileError::Unknown(name.clone()));
        }
        if !seen.insert(name) {
            return Err(ProfileError::Twice(name.clone()));
        }
    }
    for name in &set.disabled {
        if ALWAYS.contains(&name.as_str()) {
            return Err(ProfileError::Needed(name.clone()));
        }
        let known = |name: &str| DEFAULTS.iter().any(|(known, _)| *known == name) || ABSENT.contains(&name);
        if name != "*" && !known(name) {
            return Err(ProfileError::Unknown(name.clone()));
        }
    }
    Ok(())
}

/// What runs at every point: the defaults that are left, weights overridden, then what is new.
fn everywhere(set: &PluginSet) -> Vec<(String, i64)> {
    let off = |name: &str| set.disabled.iter().any(|d| d == name || d == "*");
    let mut all: Vec<(String, i64)> = Vec::new();
    for (name, weight) in DEFAULTS.iter().filter(|(name, _)| !off(name)) {
        let told = set.enabled.iter().find(|(enabled, _)| enabled == name).map(|(_, weight)| *weight);
        all.push(((*name).to_owned(), told.filter(|weight| *weight > 0).unwrap_or(*weight)));
    }
    for (name, weight) in &set.enabled {
        if !all.iter().any(|(there, _)| there == name) {
            all.push((name.clone(), weight_of(name, *weight)));
        }
    }
    all
}

/// The weight of a plugin that a profile turns on.
fn weight_of(name: &str, told: i64) -> i64 {
    let own = DEFAULTS.iter().find(|(known, _)| *known == name).map_or(1, |(_, weight)| *weight);
    if told > 0 { told } else { own }
}

/// What runs at one point: what the profile names there comes first, unless it is a default that keeps its place.
fn at_point(
    everywhere: &[(String, i64)],
    set: &PluginSet,
    point: &'static str,
    is_there: impl Fn(&str) -> bool,
) -> Result<Vec<(String, i64)>, ProfileError> {
    if let Some((name, _)) = set.enabled.iter().find(|(name, _)| !is_there(name)) {
        return Err(ProfileError::NotThere { plugin: name.clone(), point });
    }
    let off = |name: &str| set.disabled.iter().any(|d| d == name || d == "*");
    let told = |name: &str| set.enabled.iter().find(|(enabled, _)| enabled == name);
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for (name, weight) in &set.enabled {
        if !everywhere.iter().any(|(there, _)| there == name && !off(there)) {
            first.push((name.clone(), weight_of(name, *weight)));
        }
    }
    for (name, weight) in everywhere.iter().filter(|(name, _)| is_there(name) && !off(name)) {
        let weight = told(name).map_or(*weight, |(_, told)| if *told > 0 { *told } else { *weight });
        rest.push((name.clone(), weight));
    }
    first.append(&mut rest);
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERS: &str = "NodeUnschedulable NodeName TaintToleration NodeAffinity NodePorts NodeResourcesFit \
                           VolumeBinding PodTopologySpread InterPodAffinity";
    const SCORES: &str = "TaintToleration=3 NodeAffinity=2 NodeResourcesFit=1 PodTopologySpread=2 InterPodAffinity=2 \
                          NodeResourcesBalancedAllocation=1";

    fn set(enabled: &[(&str, i64)], disabled: &[&str]) -> PluginSet {
        PluginSet {
            enabled: enabled.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect(),
            disabled: disabled.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn runs(change: impl FnOnce(&mut Profile)) -> Result<(String, String, bool), ProfileError> {
        let mut profile = Profile::new("x");
        change(&mut profile);
        let framework = profile.framework()?;
        let filters: Vec<&str> = framework.filters.iter().map(|f| f.name()).collect();
        let scores: Vec<String> =
            framework.scores.iter().map(|(weight, s)| format!("{}={weight}", s.name())).collect();
        Ok((filters.join(" "), scores.join(" "), framework.preempts))
    }

    #[test]
    fn the_default_profile_is_upstreams() {
        assert_eq!(runs(|_| {}), Ok((FILTERS.to_owned(), SCORES.to_owned(), true)));
    }

    #[test]
    fn plugins_are_turned_off_everywhere_or_at_one_point() {
        let (filters, scores, preempts) =
            runs(|p| p.multi_point = set(&[], &["TaintToleration", "DefaultPreemption", "ImageLocality"]))
                .unwrap();
        assert_eq!(filters, FILTERS.replace("TaintToleration ", ""));
        assert_eq!(scores, SCORES.replace("TaintToleration=3 ", ""));
        assert!(!preempts);
        let (filters, scores, _) = runs(|p| p.score = set(&[], &["NodeResourcesFit"])).unwrap();
        assert_eq!((filters.as_str(), scores), (FILTERS, SCORES.replace("NodeResourcesFit=1 ", "")));
        let (filters, scores, preempts) = runs(|p| p.multi_point = set(&[("NodeName", 0)], &["*"])).unwrap();
        assert_eq!((filters.as_str(), scores.as_str(), preempts), ("NodeName", "", false));
        assert!(!runs(|p| p.post_filter = set(&[], &["*"])).unwrap().2);
    }

    #[test]
    fn weights_are_overridden() {
        let (_, scores, _) = runs(|p| p.multi_point = set(&[("NodeAffinity", 7)], &[])).unwrap();
        assert_eq!(scores, SCORES.replace("NodeAffinity=2", "NodeAffinity=7"));
        let (_, scores, _) = runs(|p| p.score = set(&[("NodeAffinity", 9)], &[])).unwrap();
        assert_eq!(scores, SCORES.replace("NodeAffinity=2", "NodeAffinity=9"));
        let (_, scores, _) =
            runs(|p| p.score = set(&[("NodeResourcesBalancedAllocation", 5), ("NodeAffinity", 0)], &["*"]))
                .unwrap();
        assert_eq!(scores, "NodeResourcesBalancedAllocation=5 NodeAffinity=2");
    }

    #[test]
    fn what_cannot_be_is_named() {
        let error = |change: fn(&mut Profile)| runs(change).unwrap_err().to_string();
        assert_eq!(
            error(|p| p.multi_point = set(&[("ImageLocality", 1)], &[])),
            "plugin \"ImageLocality\" is not supported"
        );
        assert_eq!(error(|p| p.filter = set(&[("Mine", 1)], &[])), "plugin \"Mine\" does not exist");
        assert_eq!(error(|p| p.filter = set(&[], &["Mine"])), "plugin \"Mine\" does not exist");
        assert_eq!(
            error(|p| p.score = set(&[("NodeName", 1)], &[])),
            "plugin \"NodeName\" does not extend score plugin"
        );
        assert_eq!(
            error(|p| p.multi_point = set(&[], &["DefaultBinder"])),
            "plugin \"DefaultBinder\" cannot be turned off"
        );
        assert_eq!(
            error(|p| p.filter = set(&[("NodeName", 1), ("NodeName", 1)], &[])),
            "plugin \"NodeName\" already registered"
        );
    }
}
