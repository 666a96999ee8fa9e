use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::plan::{FINALIZER, Failures, Plan, Seen, condition, is_finished, note_failures, plan};
use super::template;
use crate::framework::Next;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn job(spec: Value) -> Job {
    let mut whole = json!({"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}}, "backoffLimit": 6});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"name": "j", "namespace": "ns", "uid": "job"}, "spec": whole}))
        .unwrap()
}

/// A Job with pods that end as told; writes happen in the order in which the controller makes them.
struct Sim {
    job: Job,
    pods: Vec<Pod>,
    failures: Failures,
    clock: i64,
    made: usize,
    events: Vec<&'static str>,
}

impl Sim {
    fn new(spec: Value) -> Self {
        Self {
            job: job(spec),
            pods: Vec::new(),
            failures: Failures::default(),
            clock: 0,
            made: 0,
            events: Vec::new(),
        }
    }

    fn step(&mut self) -> Plan {
        let pods: Vec<_> = self.pods.iter().cloned().map(Arc::new).collect();
        note_failures(&self.job, &pods, &mut self.failures, at(self.clock));
        let seen = Seen { job: self.job.clone(), pods, settled: true, failures: self.failures.clone() };
        let plan = plan(&seen, at(self.clock));
        self.job.status = Some(plan.status.clone());
        self.events.extend(plan.events.iter().map(|(_, reason, _)| reason));
        for pod in &plan.release {
            let mine = self.pods.iter_mut().find(|p| p.metadata.uid == pod.metadata.uid).unwrap();
            mine.metadata.finalizers = None;
        }
        for pod in &plan.delete {
            let mine = self.pods.iter_mut().find(|p| p.metadata.uid == pod.metadata.uid).unwrap();
            mine.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        }
        // Deleted and released: gone.
        self.pods.retain(|p| p.metadata.deletion_timestamp.is_none() || p.metadata.finalizers.is_some());
        for mut pod in plan.create.clone() {
            self.made += 1;
            pod.metadata.uid = Some(format!("u{}", self.made));
            pod.metadata.name =
                Some(format!("{}{}", pod.metadata.generate_name.as_deref().unwrap(), self.made));
            pod.metadata.creation_timestamp = Some(crate::pods::whole_seconds(at(self.clock)));
            pod.status.get_or_insert_default().phase = Some("Running".into());
            self.pods.push(pod);
        }
        plan
    }

    /// Steps until nothing happens.
    fn settle(&mut self) -> Next {
        for _ in 0..50 {
            let before = (self.job.clone(), self.pods.clone());
            let plan = self.step();
            if before == (self.job.clone(), self.pods.clone()) {
                return plan.next;
            }
        }
        panic!("never settles: {:?}", self.status());
    }

    fn status(&self) -> JobStatus {
        self.job.status.clone().unwrap_or_default()
    }

    fn running(&self) -> Vec<usize> {
        let runs = |p: &Pod| p.status.as_ref().unwrap().phase.as_deref() == Some("Running");
        (0..self.pods.len()).filter(|i| runs(&self.pods[*i])).collect()
    }

    fn end(&mut self, pod: usize, phase: &str) {
        self.pods[pod].status.get_or_insert_default().phase = Some(phase.into());
    }

    fn end_all(&mut self, phase: &str) {
        for pod in self.running() {
            self.end(pod, phase);
        }
    }

    fn conditions(&self) -> Vec<(String, String)> {
        let conditions = self.status().conditions.unwrap_or_default();
        conditions
            .into_iter()
            .filter(|c| c.status == "True")
            .map(|c| (c.type_, c.reason.unwrap_or_default()))
            .collect()
    }
}

fn named(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn a_job_runs_to_completion_and_counts_each_pod_once() {
    let mut sim = Sim::new(json!({"parallelism": 2, "completions": 3}));
    sim.settle();
    assert_eq!(sim.running().len(), 2);
    assert!(sim.pods.iter().all(|p| p.metadata.finalizers.as_ref().unwrap().contains(&FINALIZER.to_owned())));
    assert_eq!(
        (sim.status().active, sim.status().ready, sim.status().terminating),
        (Some(2), Some(0), Some(0))
    );
    sim.end(0, "Succeeded");
    sim.settle();
    assert_eq!((sim.running().len(), sim.status().succeeded), (2, Some(1)));
    sim.end(1, "Succeeded");
    sim.settle();
    assert_eq!(sim.running().len(), 1, "never more than are needed");
    sim.end_all("Succeeded");
    assert_eq!(sim.settle(), Next::Rest);
    assert_eq!(sim.made, 3);
    let status = sim.status();
    assert_eq!(
        (status.succeeded, status.failed, status.active, status.ready, status.terminating),
        (Some(3), None, None, Some(0), Some(0))
    );
    assert!(status.completion_time.is_some());
    assert_eq!(
        sim.conditions(),
        named(&[("SuccessCriteriaMet", "CompletionsReached"), ("Complete", "CompletionsReached")])
    );
    assert_eq!(sim.events, ["Completed"]);
    assert!(sim.pods.iter().all(|p| p.metadata.finalizers.is_none()));
    let uncounted = status.uncounted_terminated_pods.unwrap();
    assert!(uncounted.succeeded.is_none() && uncounted.failed.is_none());
}

#[test]
fn uids_are_written_before_finalizers_go_and_counted_after() {
    let mut sim = Sim::new(json!({"parallelism": 1, "completions": 2}));
    sim.settle();
    sim.end(0, "Succeeded");
    let plan = sim.step();
    assert_eq!(plan.status.uncounted_terminated_pods.unwrap().succeeded.unwrap(), ["u1"]);
    assert_eq!(plan.status.succeeded, None);
    assert_eq!(plan.release.len(), 1);
    let plan = sim.step();
    assert_eq!(plan.status.succeeded, Some(1));
    assert!(plan.status.uncounted_terminated_pods.unwrap().succeeded.is_none());
}

#[test]
fn failures_back_off_and_then_fail_the_job() {
    let mut sim = Sim::new(json!({"parallelism": 1, "completions": 1, "backoffLimit": 2}));
    sim.settle();
    for (failures, wait) in [(1, 10), (2, 20)] {
        sim.end_all("Failed");
        assert_eq!(sim.settle(), Next::After(Duration::from_secs(wait)), "{failures}");
        assert_eq!(sim.status().failed, Some(failures));
        sim.clock += i64::try_from(wait).unwrap();
        sim.settle();
        assert_eq!(sim.running().len(), 1);
    }
    sim.end_all("Failed");
    sim.settle();
    assert_eq!(
        sim.conditions(),
        named(&[("FailureTarget", "BackoffLimitExceeded"), ("Failed", "BackoffLimitExceeded")])
    );
    assert_eq!(
        condition(&sim.status(), "Failed").unwrap().message.as_deref(),
        Some("Job has reached the specified backoff limit")
    );
    assert_eq!((sim.status().failed, sim.events.clone()), (Some(3), vec!["BackoffLimitExceeded"]));
}

#[test]
fn a_deadline_deletes_what_runs_before_the_job_has_failed() {
    let mut sim = Sim::new(
        json!({"parallelism": 2, "completions": 2, "activeDeadlineSeconds": 30, "podReplacementPolicy": "Failed"}),
    );
    assert_eq!(sim.settle(), Next::After(Duration::from_secs(30)));
    sim.clock += 30;
    sim.settle();
    assert_eq!(sim.conditions(), named(&[("FailureTarget", "DeadlineExceeded")]), "pods still terminate");
    assert_eq!((sim.status().active, sim.status().terminating), (None, Some(2)));
    sim.end_all("Failed");
    sim.settle();
    assert_eq!(
        sim.conditions(),
        named(&[("FailureTarget", "DeadlineExceeded"), ("Failed", "DeadlineExceeded")])
    );
    assert!(sim.pods.is_empty());
}

#[test]
fn an_indexed_job_gives_each_index_a_pod() {
    let mut sim = Sim::new(json!({"parallelism": 3, "completions": 4, "completionMode": "Indexed"}));
    sim.settle();
    let pod = serde_json::to_value(&sim.pods[1]).unwrap();
    assert_eq!(pod["metadata"]["generateName"], "j-1-");
    assert_eq!(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"], "1");
    assert_eq!(pod["spec"]["hostname"], "j-1");
    assert_eq!(pod["spec"]["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
    sim.end(1, "Succeeded");
    sim.end(0, "Failed");
    sim.settle();
    sim.clock += 10;
    sim.settle();
    let mut indexes: Vec<_> =
        sim.running().iter().map(|i| template::index_of(&sim.pods[*i]).unwrap()).collect();
    indexes.sort_unstable();
    assert_eq!(indexes, [0, 2, 3]);
    assert_eq!(sim.status().completed_indexes.as_deref(), Some("1"));
    sim.end_all("Succeeded");
    sim.settle();
    assert_eq!((sim.status().completed_indexes.as_deref(), sim.status().succeeded), (Some("0-3"), Some(4)));
    assert!(is_finished(&sim.status()));
}

#[test]
fn each_index_has_its_own_backoff_limit() {
    let mut sim = Sim::new(
        json!({"parallelism": 2, "completions": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1,
        "backoffLimit": 2147483647}),
    );
    sim.settle();
    sim.end(0, "Failed");
    sim.end(1, "Succeeded");
    sim.settle();
    sim.clock += 1000;
    sim.settle();
    assert_eq!(sim.running().len(), 1);
    assert_eq!(template::failures_of(&sim.pods[sim.running()[0]]), 1);
    sim.end_all("Failed");
    sim.settle();
    assert_eq!(sim.status().failed_indexes.as_deref(), Some("0"));
    assert_eq!(sim.conditions(), named(&[("FailureTarget", "FailedIndexes"), ("Failed", "FailedIndexes")]));
    assert!(sim.pods.iter().all(|p| p.metadata.finalizers.is_none()));
}

#[test]
fn suspending_deletes_pods_and_resuming_starts_the_clock_anew() {
    let mut sim = Sim::new(json!({"parallelism": 2, "completions": 2, "suspend": true}));
    sim.settle();
    assert!(sim.pods.is_empty() && sim.status().start_time.is_none());
    assert_eq!(sim.conditions(), named(&[("Suspended", "JobSuspended")]));
    sim.job.spec.as_mut().unwrap().suspend = Some(false);
    sim.clock = 5;
    sim.settle();
    assert_eq!((sim.running().len(), sim.status().start_time.unwrap().0), (2, at(5)));
    sim.job.spec.as_mut().unwrap().suspend = Some(true);
    sim.settle();
    assert_eq!(sim.status().active, None);
    assert_eq!(sim.events, ["Suspended", "Resumed", "Suspended"]);
}

#[test]
fn shrinking_parallelism_deletes_pods_and_a_work_queue_ends_with_its_first_success() {
    let mut sim = Sim::new(json!({"parallelism": 3}));
    sim.settle();
    sim.job.spec.as_mut().unwrap().parallelism = Some(2);
    let plan = sim.step();
    assert_eq!(plan.delete.len(), 1);
    sim.settle();
    let first = sim.running()[0];
    sim.end(first, "Succeeded");
    sim.settle();
    assert!(!is_finished(&sim.status()), "others still run");
    sim.end_all("Succeeded");
    sim.settle();
    assert!(is_finished(&sim.status()));
}

#[test]
fn a_pod_failure_policy_can_end_the_job_or_ignore() {
    let policy = json!({"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]});
    let mut sim =
        Sim::new(json!({"parallelism": 1, "completions": 1, "backoffLimit": 0, "podFailurePolicy": policy}));
    sim.settle();
    sim.pods[0].status = serde_json::from_value(
        json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True"}]}),
    )
    .unwrap();
    sim.settle();
    sim.clock += 1000;
    sim.settle();
    assert_eq!((sim.running().len(), sim.status().failed), (1, None), "an ignored failure is made good");
    let last = sim.running()[0];
    sim.pods[last].status =
        serde_json::from_value(json!({"phase": "Failed", "containerStatuses": [{"name": "c", "image": "",
        "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 42}}}]}))
        .unwrap();
    sim.settle();
    assert_eq!(
        sim.conditions(),
        named(&[("FailureTarget", "PodFailurePolicy"), ("Failed", "PodFailurePolicy")])
    );
}

#[test]
fn a_deleted_job_lets_its_pods_go() {
    let mut sim = Sim::new(json!({"parallelism": 2, "completions": 2}));
    sim.settle();
    sim.job.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let plan = sim.step();
    assert_eq!((plan.release.len(), plan.create.len()), (2, 0));
}
