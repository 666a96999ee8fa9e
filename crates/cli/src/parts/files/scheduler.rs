//! `KubeSchedulerConfiguration`. Upstream: k8s.io/kube-scheduler/config/v1, 1.36.
use std::path::{Path, PathBuf};
use std::time::Duration;

use scheduler::{PluginSet, Profile};
use serde::Deserialize;

use super::{Fields, Ignored, Wrong, load};
use crate::output::Failure;

/// What the scheduler takes from the file.
#[derive(Debug, Default, PartialEq)]
pub struct SchedulerFile {
    /// `clientConnection.kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `leaderElection`.
    pub election: ElectionFile,
    /// `percentageOfNodesToScore`.
    pub percentage_of_nodes_to_score: Option<usize>,
    /// `podInitialBackoffSeconds`.
    pub initial_backoff: Option<Duration>,
    /// `podMaxBackoffSeconds`.
    pub max_backoff: Option<Duration>,
    /// `profiles`; none: the default one.
    pub profiles: Vec<Profile>,
    warnings: Vec<String>,
}

/// `leaderElection`; what is absent has upstream's default.
#[derive(Debug, Default, PartialEq)]
pub struct ElectionFile {
    /// `leaderElect`.
    pub elect: Option<bool>,
    /// `resourceNamespace`.
    pub namespace: Option<String>,
    /// `resourceName`.
    pub name: Option<String>,
    /// `leaseDuration`.
    pub lease_duration: Option<Duration>,
    /// `renewDeadline`.
    pub renew_deadline: Option<Duration>,
    /// `retryPeriod`.
    pub retry_period: Option<Duration>,
}

const IGNORED: &Ignored = &[
    ("parallelism", "16"),
    ("clientConnection.acceptContentTypes", "null"),
    ("clientConnection.contentType", "\"application/vnd.kubernetes.protobuf\""),
    ("clientConnection.qps", "50"),
    ("clientConnection.burst", "100"),
    ("enableProfiling", "true"),
    ("enableContentionProfiling", "true"),
    ("delayCacheUntilActive", "false"),
    ("nodeMaxBackoffSeconds", "null"),
];

/// Points of a profile's `plugins` where we have none of our own: what runs there belongs to the plugins themselves.
const OTHER_POINTS: &Ignored = &[
    ("percentageOfNodesToScore", "null"),
    ("plugins.preEnqueue", "null"),
    ("plugins.queueSort", "null"),
    ("plugins.preFilter", "null"),
    ("plugins.preScore", "null"),
    ("plugins.reserve", "null"),
    ("plugins.permit", "null"),
    ("plugins.preBind", "null"),
    ("plugins.bind", "null"),
    ("plugins.postBind", "null"),
];

/// Reads the file; answers what it says, and the warnings.
pub fn read(path: &Path) -> Result<(SchedulerFile, Vec<String>), Failure> {
    let (file, mut warnings) =
        load(path, "kubescheduler.config.k8s.io/v1", "KubeSchedulerConfiguration", fields, IGNORED)?;
    warnings.extend(file.warnings.iter().cloned());
    Ok((file, warnings))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    #[serde(default)]
    enabled: Option<Vec<Named>>,
    #[serde(default)]
    disabled: Option<Vec<Named>>,
}

impl From<Set> for PluginSet {
    fn from(set: Set) -> Self {
        Self {
            enabled: set.enabled.into_iter().flatten().map(|p| (p.name, p.weight)).collect(),
            disabled: set.disabled.into_iter().flatten().map(|p| p.name).collect(),
        }
    }
}

fn fields(f: &mut Fields) -> Result<SchedulerFile, Wrong> {
    // Its verdict would be missed.
    let extenders: Vec<serde_json::Value> = f.take("extenders")?.unwrap_or_default();
    if !extenders.is_empty() {
        return Err(f.invalid("extenders", &"extenders are not supported"));
    }
    let lock: Option<String> = f.take("leaderElection.resourceLock")?;
    if let Some(lock) = lock.filter(|lock| !lock.is_empty() && lock != "leases") {
        return Err(f.invalid(
            "leaderElection.resourceLock",
            &format!("{lock:?} is not supported; there are leases"),
        ));
    }
    let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
    let text = |found: Option<String>| found.filter(|text| !text.is_empty());
    let mut file = SchedulerFile {
        kubeconfig: text(f.take("clientConnection.kubeconfig")?).map(PathBuf::from),
        election: ElectionFile {
            elect: f.take("leaderElection.leaderElect")?,
            namespace: text(f.take("leaderElection.resourceNamespace")?),
            name: text(f.take("leaderElection.resourceName")?),
            lease_duration: f.duration("leaderElection.leaseDuration")?,
            renew_deadline: f.duration("leaderElection.renewDeadline")?,
            retry_period: f.duration("leaderElection.retryPeriod")?,
        },
        percentage_of_nodes_to_score: f.take("percentageOfNodesToScore")?,
        initial_backoff: seconds(f.take("podInitialBackoffSeconds")?),
        max_backoff: seconds(f.take("podMaxBackoffSeconds")?),
        ..SchedulerFile::default()
    };
    if file.percentage_of_nodes_to_score.is_some_and(|p| p > 100) {
        return Err(f.invalid("percentageOfNodesToScore", &"not in valid range [0-100]"));
    }
    for mut one in f.objects("profiles")? {
        let profile = profile(&mut one, &mut file.warnings)?;
        if file.profiles.iter().any(|other| other.scheduler_name == profile.scheduler_name) {
            return Err(
                one.invalid("schedulerName", &format!("Duplicate value: {:?}", profile.scheduler_name))
            );
        }
        profile.framework().map_err(|e| one.invalid("plugins", &e))?;
        file.warnings.extend(one.end(OTHER_POINTS)?);
        file.profiles.push(profile);
    }
    Ok(file)
}

fn profile(f: &mut Fields, warnings: &mut Vec<String>) -> Result<Profile, Wrong> {
    let name: String = f.take("schedulerName")?.unwrap_or_default();
    let set = |f: &mut Fields, path: &str| -> Result<PluginSet, Wrong> {
        Ok(f.take::<Set>(path)?.unwrap_or_default().into())
    };
    for mut arguments in f.objects("pluginConfig")? {
        let plugin: String = arguments.take("name")?.unwrap_or_default();
        let args: serde_json::Value = arguments.take("args")?.unwrap_or_default();
        if !args.is_null() {
            warnings.push(
                arguments
                    .invalid("args", &format!("those of {plugin} have no effect: they are not supported")),
            );
        }
        warnings.extend(arguments.end(&[])?);
    }
    Ok(Profile {
        multi_point: set(f, "plugins.multiPoint")?,
        filter: set(f, "plugins.filter")?,
        post_filter: set(f, "plugins.postFilter")?,
        score: set(f, "plugins.score")?,
        ..Profile::new(if name.is_empty() { "default-scheduler".to_owned() } else { name })
    })
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn file(text: &str) -> Result<(SchedulerFile, Vec<String>), Wrong> {
        let text =
            format!("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n{text}");
        let (file, mut warnings) =
            parse(&text, "kubescheduler.config.k8s.io/v1", "KubeSchedulerConfiguration", fields, IGNORED)?;
        warnings.extend(file.warnings.iter().cloned());
        Ok((file, warnings))
    }

    #[test]
    fn profiles_and_election_are_read() {
        let (file, warnings) = file(
            "clientConnection: {kubeconfig: /etc/kubernetes/scheduler.conf}\n\
             leaderElection: {leaderElect: true, leaseDuration: 30s, renewDeadline: 20s, resourceLock: leases}\n\
             podMaxBackoffSeconds: 20\nprofiles:\n- schedulerName: default-scheduler\n- schedulerName: packer\n  plugins:\n    \
             score:\n      disabled: [{name: '*'}]\n      enabled: [{name: NodeAffinity, weight: 3}]\n",
        )
        .unwrap();
        assert_eq!(warnings, [""; 0]);
        assert_eq!(file.kubeconfig, Some("/etc/kubernetes/scheduler.conf".into()));
        assert_eq!(file.election.lease_duration, Some(Duration::from_secs(30)));
        assert_eq!(file.max_backoff, Some(Duration::from_secs(20)));
        let packer = Profile {
            score: PluginSet { enabled: vec![("NodeAffinity".into(), 3)], disabled: vec!["*".into()] },
            ..Profile::new("packer")
        };
        assert_eq!(file.profiles, [Profile::new("default-scheduler"), packer]);
    }

    #[test]
    fn what_is_not_done_is_named() {
        let (_, warnings) = file(
            "parallelism: 4\nprofiles:\n- percentageOfNodesToScore: 50\n  pluginConfig:\n  - name: NodeResourcesFit\n    \
             args: {scoringStrategy: {type: MostAllocated}}\n  plugins: {permit: {enabled: [{name: Mine}]}}\n",
        )
        .unwrap();
        assert_eq!(
            warnings,
            [
                "parallelism has no effect: it is not supported",
                "profiles[0].pluginConfig[0].args: those of NodeResourcesFit have no effect: they are not supported",
                "profiles[0].percentageOfNodesToScore has no effect: it is not supported",
                "profiles[0].plugins.permit has no effect: it is not supported",
            ]
        );
        let check = |text: &str, expect: &str| {
            let error = file(text).unwrap_err();
            assert!(error.contains(expect), "{text}: {error}");
        };
        check("extenders: [{urlPrefix: x}]", "extenders: extenders are not supported");
        check("leaderElection: {resourceLock: endpoints}", "\"endpoints\" is not supported");
        check("leaderElection: {leaderElects: true}", "unknown field \"leaderElection\"");
        check(
            "profiles: [{schedulerName: a}, {schedulerName: a}]",
            "profiles[1].schedulerName: Duplicate value: \"a\"",
        );
        check("profiles: [{name: a}]", "unknown field \"profiles[0].name\"");
        check(
            "profiles: [{plugins: {filter: {enabled: [{name: Mine}]}}}]",
            "profiles[0].plugins: plugin \"Mine\" does not exist",
        );
        check("percentageOfNodesToScore: 101", "valid range");
    }
}
