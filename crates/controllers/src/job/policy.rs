//! What a Job's policies say about its pods.
use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::{self, Indexes};
use crate::pods;

/// What a failed pod means for its Job.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// Counts towards the backoff limit.
    Count,
    /// Does not count.
    Ignore,
    /// Fails its index.
    FailIndex,
    /// Fails the Job, with this message.
    FailJob(String),
}

/// Applies the first rule that matches a failed pod.
pub fn judge(job: &Job, pod: &Pod) -> Failure {
    let rules = job.spec.iter().flat_map(|s| s.pod_failure_policy.iter().flat_map(|p| &p.rules));
    for (at, rule) in rules.enumerate() {
        let Some(cause) = matches(rule, pod) else { continue };
        return match &*rule.action {
            "Ignore" => Failure::Ignore,
            "FailIndex" => Failure::FailIndex,
            "FailJob" => Failure::FailJob(format!("{cause} matching FailJob rule at index {at}")),
            _ => Failure::Count,
        };
    }
    Failure::Count
}

fn matches(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    let name = pod.metadata.name.as_deref().unwrap_or("");
    if let Some(codes) = &rule.on_exit_codes {
        let (container, code) = exit_code(codes, pod)?;
        return Some(format!(
            "Container {container} for pod {namespace}/{name} failed with exit code {code}"
        ));
    }
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let condition = conditions.into_iter().find(|condition| {
        rule.on_pod_conditions.iter().flatten().any(|pattern| {
            pattern.type_ == condition.type_
                && pattern.status.as_deref().unwrap_or("True") == condition.status
        })
    })?;
    Some(format!("Pod {namespace}/{name} has condition {}", condition.type_))
}

fn exit_code<'a>(wanted: &PodFailurePolicyOnExitCodesRequirement, pod: &'a Pod) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.filter(|c| wanted.container_name.as_ref().is_none_or(|name| *name == c.name))
        .filter_map(|c| Some((&*c.name, c.state.as_ref()?.terminated.as_ref()?.exit_code)))
        .find(|(_, code)| *code != 0 && (wanted.values.contains(code) == (wanted.operator == "In")))
}

/// The first rule of the success policy that the succeeded indexes meet.
pub fn success(job: &Job, succeeded: &Indexes) -> Option<usize> {
    let spec = job.spec.as_ref()?;
    let completions = spec.completions?;
    spec.success_policy.as_ref()?.rules.iter().position(|rule| {
        let met = match &rule.succeeded_indexes {
            Some(text) => {
                let among = indexes::parse(text, completions);
                let have = among.intersection(succeeded).count();
                (have, among.len())
            }
            None => (succeeded.len(), usize::MAX),
        };
        let needed = rule.succeeded_count.and_then(|n| usize::try_from(n).ok()).unwrap_or(met.1);
        met.0 >= needed
    })
}

/// Whether pods are replaced only once they have really failed, and not already while they terminate.
pub fn only_replaces_failed(job: &Job) -> bool {
    let spec = job.spec.as_ref();
    spec.is_some_and(|s| {
        s.pod_replacement_policy.as_deref() == Some("Failed") || s.pod_failure_policy.is_some()
    })
}

/// Whether the pod counts as failed.
pub fn has_failed(job: &Job, pod: &Pod) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pods::is_terminating(pod) && !only_replaces_failed(job),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_matching_rule_decides() {
        let job: Job =
            serde_json::from_value(json!({"spec": {"template": {}, "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 42]}}]}}}))
            .unwrap();
        let pod = |disrupted: bool, code: i32| -> Pod {
            let status = if disrupted { "True" } else { "False" };
            serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "p"}, "status": {"phase": "Failed",
                "conditions": [{"type": "DisruptionTarget", "status": status}],
                "containerStatuses": [{"name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": code}}}]}}))
            .unwrap()
        };
        assert_eq!(judge(&job, &pod(true, 42)), Failure::Ignore);
        assert_eq!(
            judge(&job, &pod(false, 42)),
            Failure::FailJob(
                "Container main for pod ns/p failed with exit code 42 matching FailJob rule at index 1"
                    .into()
            )
        );
        assert_eq!(judge(&job, &pod(false, 1)), Failure::Count);
        assert_eq!(judge(&job, &pod(false, 7)), Failure::FailIndex);
        assert_eq!(judge(&job, &pod(false, 0)), Failure::Count, "an exit code of 0 matches no rule");
    }

    #[test]
    fn success_policy_rules() {
        let job = |rule: serde_json::Value| -> Job {
            serde_json::from_value(
                json!({"spec": {"template": {}, "completions": 5, "successPolicy": {"rules": [rule]}}}),
            )
            .unwrap()
        };
        let done: Indexes = [0, 2].into();
        for (rule, met) in [
            (json!({"succeededIndexes": "0,2"}), true),
            (json!({"succeededIndexes": "0-2"}), false),
            (json!({"succeededIndexes": "0-2", "succeededCount": 2}), true),
            (json!({"succeededCount": 3}), false),
            (json!({"succeededCount": 2}), true),
        ] {
            assert_eq!(success(&job(rule.clone()), &done).is_some(), met, "{rule}");
        }
    }
}
