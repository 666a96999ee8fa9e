//! Deletes Jobs some time after they have finished.
//! Watches: Job (by key).  Writes: Job delete.
//! Invariant: reads the Job live before it deletes: its TTL may have been raised.
use std::time::Duration;

use client::{Cache, ObjectKey};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, Preconditions, PropagationPolicy};
use kube::{Api, Client};

use super::plan::condition;
use crate::context::Context;
use crate::framework::{Controller, Error, Next, Wakes, unless_gone};

/// See the module.
pub struct TtlAfterFinished {
    client: Client,
    jobs: Cache<Job>,
}

impl TtlAfterFinished {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self { client: context.client.clone(), jobs: context.informers.cache() }
    }
}

impl Controller for TtlAfterFinished {
    const NAME: &'static str = "ttl-after-finished-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.jobs);
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let now = Timestamp::now();
        let Some(job) = self.jobs.get(&key) else { return Ok(Next::Rest) };
        match time_left(&job, now) {
            None => return Ok(Next::Rest),
            Some(left) if !left.is_zero() => return Ok(Next::After(left)),
            Some(_) => {}
        }
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        let Some(live) = api.get_opt(&key.name).await.map_err(Error::at("read the job"))? else {
            return Ok(Next::Rest);
        };
        if time_left(&live, now) != Some(Duration::ZERO) {
            return Ok(Next::Rest);
        }
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            preconditions: Some(Preconditions {
                uid: live.metadata.uid.clone(),
                resource_version: live.metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        unless_gone(api.delete(&key.name, &params).await).map_err(Error::at("delete a finished job"))?;
        tracing::debug!(job = %key, "finished job deleted");
        Ok(Next::Rest)
    }
}

/// Time until the Job goes; zero when it is due; `None`: it stays.
fn time_left(job: &Job, now: Timestamp) -> Option<Duration> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let status = job.status.as_ref()?;
    let finished =
        ["Complete", "Failed"].iter().find_map(|ty| condition(status, ty).filter(|c| c.status == "True"))?;
    let at = finished.last_transition_time.as_ref()?.0;
    let left = SignedDuration::from_secs(ttl.into()) - now.duration_since(at);
    Some(Duration::try_from(left).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_finished_jobs_with_a_ttl_go() {
        let job = |ttl: Option<i32>, ty: &str| -> Job {
            serde_json::from_value(
                json!({"spec": {"template": {}, "ttlSecondsAfterFinished": ttl}, "status": {"conditions": [
                {"type": ty, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
            )
            .unwrap()
        };
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        for (ttl, ty, left) in [
            (None, "Complete", None),
            (Some(5), "Suspended", None),
            (Some(5), "Complete", Some(0)),
            (Some(15), "Failed", Some(5)),
        ] {
            assert_eq!(time_left(&job(ttl, ty), now), left.map(Duration::from_secs), "{ttl:?} {ty}");
        }
    }
}
