//! The next step of a Job, from what is seen.
//!
//! Every pod carries a finalizer until it is counted. Counting takes three writes, each safe to repeat: the UIDs of
//! ended pods go to `status.uncountedTerminatedPods`; their finalizers go; the UIDs become numbers.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::{self, Indexes};
use super::policy::{self, Failure, has_failed, only_replaces_failed};
use super::template;
use crate::framework::Next;
use crate::pods::{self, whole_seconds};

pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Pods made or deleted in one pass.
const BURST: usize = 500;
const FIRST_BACKOFF: SignedDuration = SignedDuration::from_secs(10);
const LONGEST_BACKOFF: SignedDuration = SignedDuration::from_secs(600);

/// Everything the decision depends on.
pub struct Seen {
    pub job: Job,
    /// All pods it controls, ended ones too.
    pub pods: Vec<Arc<Pod>>,
    /// Its own last writes of pods are in there.
    pub settled: bool,
    /// Failures since the last success, and when the last was.
    pub failures: Failures,
}

/// How pods of a Job have failed lately.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Failures {
    pub since_success: u32,
    pub last: Option<Timestamp>,
    /// Pods that are in these numbers already.
    pub counted: HashSet<String>,
}

/// What to write, in this order: status, then the rest.
#[derive(Debug, Default)]
pub struct Plan {
    pub status: JobStatus,
    pub create: Vec<Pod>,
    pub delete: Vec<Arc<Pod>>,
    /// Pods that lose the finalizer.
    pub release: Vec<Arc<Pod>>,
    pub events: Vec<(bool, &'static str, String)>,
    pub next: Next,
}

pub fn condition<'a>(status: &'a JobStatus, ty: &str) -> Option<&'a JobCondition> {
    status.conditions.as_ref()?.iter().find(|c| c.type_ == ty)
}

fn is_true(status: &JobStatus, ty: &str) -> bool {
    condition(status, ty).is_some_and(|c| c.status == "True")
}

/// Whether the Job is over.
pub fn is_finished(status: &JobStatus) -> bool {
    is_true(status, "Complete") || is_true(status, "Failed")
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or("")
}

pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

/// Notes failures and successes that were not seen before.
pub fn note_failures(job: &Job, pods: &[Arc<Pod>], failures: &mut Failures, now: Timestamp) {
    let mut ended: Vec<(&Arc<Pod>, Timestamp, bool)> = pods
        .iter()
        .filter(|p| is_tracked(p) && !failures.counted.contains(uid(p)))
        .filter_map(|p| {
            let failed = has_failed(job, p);
            (failed || pods::phase(p) == "Succeeded").then(|| (p, ended_at(p).unwrap_or(now), failed))
        })
        .collect();
    ended.sort_by_key(|(_, at, _)| *at);
    for (pod, at, failed) in ended {
        if failed {
            failures.since_success += 1;
            failures.last = Some(at);
        } else {
            failures.since_success = 0;
            failures.last = None;
        }
        failures.counted.insert(uid(pod).to_owned());
    }
    failures.counted.retain(|u| pods.iter().any(|p| uid(p) == u));
}

fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let ended = statuses.filter_map(|c| Some(c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0));
    ended.max().or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|t| t.0))
}

fn backoff_left(failures: &Failures, now: Timestamp) -> Option<Duration> {
    let last = failures.last.filter(|_| failures.since_success > 0)?;
    let doublings = (failures.since_success - 1).min(6);
    let delay = (FIRST_BACKOFF * (1 << doublings)).min(LONGEST_BACKOFF);
    Duration::try_from(delay - now.duration_since(last)).ok().filter(|d| !d.is_zero())
}

/// Decides the next step.
pub fn plan(seen: &Seen, now: Timestamp) -> Plan {
    let job = &seen.job;
    let status = job.status.clone().unwrap_or_default();
    if is_finished(&status) {
        let release = seen.pods.iter().filter(|p| is_tracked(p)).cloned().collect();
        return Plan { status, release, ..Plan::default() };
    }
    let mut work = Work::new(seen, now);
    work.start();
    work.count();
    let verdict = work.verdict();
    match verdict {
        Some(verdict) => work.wind_up(verdict),
        None => {
            work.suspend_or_resume();
            if seen.settled && job.metadata.deletion_timestamp.is_none() {
                work.size();
            }
            if let Some(success) = work.completed() {
                work.wind_up(success);
            }
        }
    }
    work.finish()
}

struct Work<'a> {
    seen: &'a Seen,
    now: Timestamp,
    plan: Plan,
    active: Vec<Arc<Pod>>,
    terminating: usize,
    /// Set for an Indexed Job.
    indexed: Option<i32>,
    succeeded_indexes: Indexes,
    failed_indexes: Indexes,
    succeeded: usize,
    failed: usize,
    /// A pod failure policy's verdict.
    fail_job: Option<String>,
}

impl<'a> Work<'a> {
    fn new(seen: &'a Seen, now: Timestamp) -> Self {
        let job = &seen.job;
        let spec = job.spec.clone().unwrap_or_default();
        let status = job.status.clone().unwrap_or_default();
        let indexed =
            (spec.completion_mode.as_deref() == Some("Indexed")).then(|| spec.completions.unwrap_or(0));
        let parse =
            |text: &Option<String>| indexes::parse(text.as_deref().unwrap_or(""), indexed.unwrap_or(0));
        Self {
            now,
            active: seen.pods.iter().filter(|p| pods::is_active(p)).cloned().collect(),
            terminating: seen
                .pods
                .iter()
                .filter(|p| pods::is_terminating(p) && !pods::is_terminal(p))
                .count(),
            indexed,
            succeeded_indexes: parse(&status.completed_indexes),
            failed_indexes: parse(&status.failed_indexes),
            succeeded: 0,
            failed: 0,
            fail_job: None,
            plan: Plan { status, ..Plan::default() },
            seen,
        }
    }

    fn suspended(&self) -> bool {
        self.seen.job.spec.as_ref().and_then(|s| s.suspend).unwrap_or(false)
    }

    fn start(&mut self) {
        if self.plan.status.start_time.is_none() && !self.suspended() {
            self.plan.status.start_time = Some(whole_seconds(self.now));
        }
    }

    fn set(&mut self, ty: &str, value: bool, reason: &str, message: String) {
        let conditions = self.plan.status.conditions.get_or_insert_default();
        conditions.retain(|c| c.type_ != ty);
        conditions.push(JobCondition {
            type_: ty.into(),
            status: if value { "True" } else { "False" }.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_probe_time: Some(whole_seconds(self.now)),
            last_transition_time: Some(whole_seconds(self.now)),
        });
    }

    /// Moves ended pods one step on their way into the numbers.
    fn count(&mut self) {
        let job = &self.seen.job;
        let per_index =
            job.spec.as_ref().and_then(|s| s.backoff_limit_per_index).filter(|_| self.indexed.is_some());
        let mut uncounted = self.plan.status.uncounted_terminated_pods.take().unwrap_or_default();
        let mut good = uncounted.succeeded.take().unwrap_or_default();
        let mut bad = uncounted.failed.take().unwrap_or_default();
        let tracked: HashMap<&str, &Arc<Pod>> =
            self.seen.pods.iter().filter(|p| is_tracked(p)).map(|p| (uid(p), p)).collect();
        let settle = |list: &mut Vec<String>, number: &mut Option<i32>| {
            let before = list.len();
            list.retain(|u| tracked.contains_key(&**u));
            let moved = i32::try_from(before - list.len()).unwrap_or(0);
            if moved > 0 {
                *number = Some(number.unwrap_or(0) + moved);
            }
        };
        settle(&mut good, &mut self.plan.status.succeeded);
        settle(&mut bad, &mut self.plan.status.failed);

        let mut by_index: BTreeMap<i32, Vec<&Arc<Pod>>> = BTreeMap::new();
        for pod in &self.seen.pods {
            by_index.entry(template::index_of(pod).unwrap_or(-1)).or_default().push(pod);
        }
        for pod in self.seen.pods.iter().filter(|p| is_tracked(p)) {
            let index = template::index_of(pod);
            let in_range = self.indexed.is_none_or(|n| index.is_some_and(|i| i < n));
            if pods::phase(pod) == "Succeeded" && !bad.iter().any(|u| u == uid(pod)) {
                match (self.indexed, index) {
                    (Some(_), Some(index)) if in_range => {
                        self.succeeded_indexes.insert(index);
                    }
                    (Some(_), _) => {}
                    (None, _) if good.iter().any(|u| u == uid(pod)) => {}
                    (None, _) => good.push(uid(pod).to_owned()),
                }
                self.plan.release.push(pod.clone());
            } else if has_failed(job, pod) {
                let failure = policy::judge(job, pod);
                let index_fails = in_range
                    && per_index.is_some_and(|limit| {
                        failure == Failure::FailIndex
                            || (failure != Failure::Ignore && template::failures_of(pod) >= limit)
                    });
                if let Some(index) = index.filter(|_| index_fails) {
                    self.failed_indexes.insert(index);
                }
                if let Failure::FailJob(text) = &failure {
                    self.fail_job.get_or_insert_with(|| text.clone());
                }
                let ignored = failure == Failure::Ignore;
                if in_range && !ignored && !bad.iter().any(|u| u == uid(pod)) {
                    bad.push(uid(pod).to_owned());
                }
                // The next pod of this index takes the count of failures from the last one.
                let still_needed = per_index.is_some()
                    && job.metadata.deletion_timestamp.is_none()
                    && index.is_some_and(|i| {
                        !self.failed_indexes.contains(&i)
                            && !self.succeeded_indexes.contains(&i)
                            && by_index.get(&i).is_some_and(|all| template::is_last(pod, all))
                    });
                if !still_needed {
                    self.plan.release.push(pod.clone());
                }
            } else if job.metadata.deletion_timestamp.is_some() {
                self.plan.release.push(pod.clone());
            }
        }
        let number = |n: Option<i32>| usize::try_from(n.unwrap_or(0)).unwrap_or(0);
        self.succeeded = number(self.plan.status.succeeded) + good.len();
        self.failed = number(self.plan.status.failed) + bad.len();
        if self.indexed.is_some() {
            self.succeeded = self.succeeded_indexes.len();
            self.plan.status.succeeded = i32::try_from(self.succeeded).ok().filter(|n| *n > 0);
            self.plan.status.completed_indexes =
                Some(indexes::format(&self.succeeded_indexes)).filter(|t| !t.is_empty());
            if per_index.is_some() {
                self.plan.status.failed_indexes = Some(indexes::format(&self.failed_indexes));
            }
        }
        uncounted.succeeded = Some(good).filter(|l| !l.is_empty());
        uncounted.failed = Some(bad).filter(|l| !l.is_empty());
        self.plan.status.uncounted_terminated_pods = Some(uncounted);
    }

    /// How the Job ends, if that is decided: the interim condition's type, reason and message.
    fn verdict(&mut self) -> Option<Verdict> {
        for ty in ["FailureTarget", "SuccessCriteriaMet"] {
            if let Some(c) = condition(&self.plan.status, ty).filter(|c| c.status == "True") {
                let text = |o: &Option<String>| o.clone().unwrap_or_default();
                return Some(Verdict {
                    success: ty == "SuccessCriteriaMet",
                    reason: text(&c.reason),
                    message: text(&c.message),
                });
            }
        }
        let spec = self.seen.job.spec.clone().unwrap_or_default();
        let fails = |reason: &str, message: &str| {
            Some(Verdict { success: false, reason: reason.into(), message: message.into() })
        };
        if let Some(text) = self.fail_job.take() {
            return fails("PodFailurePolicy", &text);
        }
        let limit = usize::try_from(spec.backoff_limit.unwrap_or(6)).unwrap_or(0);
        if self.failed > limit || self.restarts_exceed(limit) {
            return fails("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        let started = self.plan.status.start_time.as_ref().map(|t| t.0);
        if let (Some(deadline), Some(started), false) =
            (spec.active_deadline_seconds, started, self.suspended())
        {
            let left = SignedDuration::from_secs(deadline) - self.now.duration_since(started);
            match Duration::try_from(left).ok().filter(|d| !d.is_zero()) {
                Some(left) => self.plan.next = self.plan.next.sooner(Next::After(left)),
                None => return fails("DeadlineExceeded", "Job was active longer than specified deadline"),
            }
        }
        if let Some(completions) = self.indexed {
            if let Some(most) = spec.max_failed_indexes
                && self.failed_indexes.len() > usize::try_from(most).unwrap_or(0)
            {
                let text = "Job has exceeded the specified maximal number of failed indexes";
                return fails("MaxFailedIndexesExceeded", text);
            }
            let done = self.failed_indexes.union(&self.succeeded_indexes).count();
            if !self.failed_indexes.is_empty() && done >= usize::try_from(completions).unwrap_or(0) {
                return fails("FailedIndexes", "Job has failed indexes");
            }
            if let Some(rule) = policy::success(&self.seen.job, &self.succeeded_indexes) {
                return Some(Verdict {
                    success: true,
                    reason: "SuccessPolicy".into(),
                    message: format!("Matched rules at index {rule}"),
                });
            }
        }
        None
    }

    fn restarts_exceed(&self, limit: usize) -> bool {
        let template = self.seen.job.spec.as_ref().and_then(|s| s.template.spec.as_ref());
        if template.and_then(|t| t.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let restarts: i64 = self
            .active
            .iter()
            .filter(|p| matches!(pods::phase(p), "Running" | "Pending"))
            .flat_map(|p| p.status.iter())
            .flat_map(|s| s.init_container_statuses.iter().chain(&s.container_statuses).flatten())
            .map(|c| i64::from(c.restart_count))
            .sum();
        if limit == 0 { restarts > 0 } else { usize::try_from(restarts).unwrap_or(0) >= limit }
    }

    fn completed(&self) -> Option<Verdict> {
        let spec = self.seen.job.spec.as_ref()?;
        let idle = self.active.is_empty() && self.plan.create.is_empty();
        let done = match spec.completions {
            None => self.succeeded > 0 && idle,
            Some(n) => self.succeeded >= usize::try_from(n).unwrap_or(0) && idle,
        };
        done.then(|| Verdict {
            success: true,
            reason: "CompletionsReached".into(),
            message: "Reached expected number of succeeded pods".into(),
        })
    }

    /// The Job ends this way: running pods go first, then everything is counted, then it is over.
    fn wind_up(&mut self, verdict: Verdict) {
        let (interim, last) =
            if verdict.success { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
        if !is_true(&self.plan.status, interim) {
            self.set(interim, true, &verdict.reason, verdict.message.clone());
        }
        if self.seen.settled {
            self.plan.delete = self.active.iter().take(BURST).cloned().collect();
        }
        let uncounted = self.plan.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let all_counted =
            uncounted.succeeded.is_none() && uncounted.failed.is_none() && self.plan.release.is_empty();
        if !self.active.is_empty() || self.terminating > 0 || !all_counted {
            return;
        }
        if verdict.success {
            self.plan.status.completion_time = Some(whole_seconds(self.now));
            self.plan.events.push((true, "Completed", "Job completed".into()));
        } else {
            let reason = match &*verdict.reason {
                "PodFailurePolicy" => "PodFailurePolicy",
                "DeadlineExceeded" => "DeadlineExceeded",
                "MaxFailedIndexesExceeded" => "MaxFailedIndexesExceeded",
                "FailedIndexes" => "FailedIndexes",
                _ => "BackoffLimitExceeded",
            };
            self.plan.events.push((false, reason, verdict.message.clone()));
        }
        self.set(last, true, &verdict.reason, verdict.message);
        self.plan.next = Next::Rest;
    }

    fn suspend_or_resume(&mut self) {
        let was = is_true(&self.plan.status, "Suspended");
        if self.suspended() && !was {
            self.set("Suspended", true, "JobSuspended", "Job suspended".into());
            self.plan.events.push((true, "Suspended", "Job suspended".into()));
        } else if !self.suspended() && was {
            self.set("Suspended", false, "JobResumed", "Job resumed".into());
            // The deadline counts from here.
            self.plan.status.start_time = Some(whole_seconds(self.now));
            self.plan.events.push((true, "Resumed", "Job resumed".into()));
        }
        if self.suspended() {
            self.plan.status.start_time = None;
        }
    }

    /// Makes or deletes pods, to have as many as are needed.
    fn size(&mut self) {
        let job = &self.seen.job;
        let spec = job.spec.clone().unwrap_or_default();
        if self.suspended() {
            self.plan.delete = self.active.iter().take(BURST).cloned().collect();
            return;
        }
        let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0);
        let wanted = match spec.completions {
            None if self.succeeded > 0 => self.active.len(),
            None => parallelism,
            Some(n) => usize::try_from(n).unwrap_or(0).saturating_sub(self.succeeded).min(parallelism),
        };
        let mut surplus = self.surplus(self.active.len().saturating_sub(wanted));
        if !surplus.is_empty() {
            surplus.truncate(BURST);
            self.plan.delete = surplus;
            return;
        }
        let waiting = if only_replaces_failed(job) { self.terminating } else { 0 };
        let missing = wanted.saturating_sub(self.active.len() + waiting).min(BURST);
        if missing == 0 {
            return;
        }
        if let Some(left) = backoff_left(&self.seen.failures, self.now) {
            self.plan.next = self.plan.next.sooner(Next::After(left));
            return;
        }
        self.plan.create = match self.indexed {
            None => vec![template::pod(job, None); missing],
            Some(completions) => {
                let taken: HashSet<i32> = self
                    .seen
                    .pods
                    .iter()
                    .filter(|p| pods::is_active(p) || (waiting > 0 && !pods::is_terminal(p)))
                    .filter_map(|p| template::index_of(p))
                    .collect();
                (0..completions)
                    .filter(|i| {
                        !taken.contains(i)
                            && !self.succeeded_indexes.contains(i)
                            && !self.failed_indexes.contains(i)
                    })
                    .take(missing)
                    .map(|i| template::pod(job, Some((i, self.failures_before(i)))))
                    .collect()
            }
        };
    }

    /// How often this index has failed, from its last pod.
    fn failures_before(&self, index: i32) -> i32 {
        let of_index: Vec<&Arc<Pod>> =
            self.seen.pods.iter().filter(|p| template::index_of(p) == Some(index)).collect();
        let last = of_index.iter().find(|p| template::is_last(p, &of_index));
        last.map_or(0, |pod| {
            let more =
                has_failed(&self.seen.job, pod) && policy::judge(&self.seen.job, pod) != Failure::Ignore;
            template::failures_of(pod) + i32::from(more)
        })
    }

    /// At least `least` active pods to delete: those out of place first, then the least useful.
    fn surplus(&self, least: usize) -> Vec<Arc<Pod>> {
        let crowd = HashMap::new();
        let mut sorted = self.active.clone();
        sorted.sort_by(|a, b| pods::deletion_order(a, b, &crowd, self.now));
        let Some(completions) = self.indexed else {
            sorted.truncate(least);
            return sorted;
        };
        let mut seen = HashSet::new();
        // The most useful of an index keeps it.
        let mut keep: Vec<Arc<Pod>> = Vec::new();
        let mut surplus: Vec<Arc<Pod>> = Vec::new();
        for pod in sorted.into_iter().rev() {
            match template::index_of(&pod) {
                Some(i)
                    if i < completions
                        && !self.succeeded_indexes.contains(&i)
                        && !self.failed_indexes.contains(&i)
                        && seen.insert(i) =>
                {
                    keep.push(pod);
                }
                _ => surplus.push(pod),
            }
        }
        let more = least.saturating_sub(surplus.len());
        surplus.extend(keep.into_iter().rev().take(more));
        surplus
    }

    fn finish(mut self) -> Plan {
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let going = self.plan.delete.len();
        let active = self.active.len().saturating_sub(going) + self.plan.create.len();
        let ready = self.active.iter().filter(|p| pods::is_ready(p));
        let ready =
            ready.filter(|p| !self.plan.delete.iter().any(|d| d.metadata.uid == p.metadata.uid)).count();
        self.plan.status.active = Some(number(active)).filter(|n| *n > 0);
        self.plan.status.ready = Some(number(ready));
        self.plan.status.terminating = Some(number(self.terminating + going));
        self.plan
    }
}

/// How a Job ends.
struct Verdict {
    success: bool,
    reason: String,
    message: String,
}
