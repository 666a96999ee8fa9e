//! Pods as a Job makes them.
use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::plan::FINALIZER;
use crate::ownership::controller_ref;
use crate::pods;

const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// The completion index of a pod.
pub fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok().filter(|i| *i >= 0)
}

/// How often the pod's index had failed before it.
pub fn failures_of(pod: &Pod) -> i32 {
    pod.metadata.annotations.as_ref().and_then(|a| a.get(INDEX_FAILURES)?.parse().ok()).unwrap_or(0)
}

/// Whether no pod of the same index came after this one.
pub fn is_last(pod: &Pod, of_index: &[&Arc<Pod>]) -> bool {
    let order = |p: &Pod| {
        (failures_of(p), p.metadata.creation_timestamp.as_ref().map(|t| t.0), p.metadata.uid.clone())
    };
    of_index.iter().all(|other| order(other) <= order(pod))
}

/// A pod of the Job; for an Indexed Job with its index and how often that failed.
pub fn pod(job: &Job, index: Option<(i32, i32)>) -> Pod {
    let name = job.metadata.name.as_deref().unwrap_or("");
    let spec = job.spec.clone().unwrap_or_default();
    let mut pod = pods::from_template(&spec.template, name, controller_ref(job));
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.into());
    }
    let Some((index, failures)) = index else { return pod };
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.into(), index.to_string());
    if spec.backoff_limit_per_index.is_some() {
        annotations.insert(INDEX_FAILURES.into(), failures.to_string());
    }
    pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
    pod.metadata.generate_name = Some(format!("{name}-{index}-"));
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{name}-{index}"));
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            add_index(container);
        }
    }
    pod
}

fn add_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|e| e.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), api_version: None };
    env.push(EnvVar {
        name: INDEX_VARIABLE.into(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
    });
}
