//! One leader among equals, by a `coordination.k8s.io/v1` Lease.
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::{Api, Client, Error};
use rand::Rng as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::reflector::chain;

/// Which Lease, who we are, and how patient everybody is. Times default to upstream's 15 s, 10 s and 2 s.
#[derive(Debug, Clone)]
pub struct ElectionConfig {
    /// Namespace of the Lease, usually `kube-system`.
    pub namespace: String,
    /// Name of the Lease, for example `kube-controller-manager`.
    pub name: String,
    /// Unique among the candidates.
    pub identity: String,
    /// How long others wait after the last renewal they saw.
    pub lease_duration: Duration,
    /// How long the leader tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// How long to wait between tries.
    pub retry_period: Duration,
}

impl ElectionConfig {
    /// With upstream's times.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Leadership was lost while the work was going on; upstream's components exit then.
#[derive(Debug, thiserror::Error)]
#[error("leader election lost: lease {namespace}/{name}")]
pub struct Lost {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
}

/// Waits to be the leader, then runs `work` and keeps the Lease.
///
/// The token given to `work` fires when `stop` fires or when leadership is lost; `work` should then return. On a
/// stop the Lease is released, so that the next leader need not wait. `Ok(None)`: stopped before ever leading.
pub async fn lead<F, Fut, T>(
    client: Client,
    config: ElectionConfig,
    stop: CancellationToken,
    work: F,
) -> Result<Option<T>, Lost>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = T>,
{
    let mut candidate =
        Candidate { api: Api::namespaced(client, &config.namespace), config, seen: None, told: None };
    loop {
        let retry = candidate.config.retry_period.mul_f64(1.0 + rand::rng().random_range(0.0..1.2));
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            acquired = candidate.try_hold() => if acquired { break },
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(retry) => {}
        }
    }
    tracing::info!(lease = candidate.config.name, identity = candidate.config.identity, "became leader");

    let token = stop.child_token();
    let mut work = std::pin::pin!(work(token.clone()));
    let lost = tokio::select! {
        done = &mut work => {
            candidate.release().await;
            return Ok(Some(done));
        }
        () = stop.cancelled() => false,
        () = candidate.keep() => true,
    };
    token.cancel();
    if lost {
        let _ = work.await;
        tracing::error!(lease = candidate.config.name, "lost leadership");
        return Err(Lost { namespace: candidate.config.namespace, name: candidate.config.name });
    }
    // The work still counts on the lease while it drains.
    let done = tokio::select! {
        done = &mut work => done,
        () = candidate.keep() => work.await,
    };
    candidate.release().await;
    Ok(Some(done))
}

struct Candidate {
    api: Api<Lease>,
    config: ElectionConfig,
    /// The last Lease seen, and when on our own clock: clocks of others are never compared with ours.
    seen: Option<(Lease, Instant)>,
    /// The last trouble that was told.
    told: Option<String>,
}

/// What to do about the Lease as it was found.
#[derive(Debug, PartialEq)]
enum Step {
    Wait,
    /// Write this over the Lease that was seen.
    Write(Box<LeaseSpec>),
}

fn decide(seen: &LeaseSpec, age: Duration, config: &ElectionConfig, now: Timestamp) -> Step {
    let holder = seen.holder_identity.as_deref().unwrap_or("");
    let ours = holder == config.identity;
    let term = seen.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
    if !ours && !holder.is_empty() && age < Duration::from_secs(term) {
        return Step::Wait;
    }
    let transitions = seen.lease_transitions.unwrap_or(0);
    let mut spec = claim(config, now);
    spec.lease_transitions = Some(if ours { transitions } else { transitions.saturating_add(1) });
    if ours {
        spec.acquire_time = seen.acquire_time.clone();
    }
    Step::Write(Box::new(spec))
}

fn claim(config: &ElectionConfig, now: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(config.identity.clone()),
        lease_duration_seconds: i32::try_from(config.lease_duration.as_secs()).ok(),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(0),
        ..LeaseSpec::default()
    }
}

impl Candidate {
    /// Whether we hold the Lease after this try.
    async fn try_hold(&mut self) -> bool {
        match self.hold().await {
            Ok(held) => {
                self.told = None;
                held
            }
            Err(Error::Api(status)) if status.code == 409 => false,
            Err(error) => {
                // Told once for each cause: it is tried again every few seconds.
                let error = chain(&error);
                if self.told.as_ref() != Some(&error) {
                    tracing::warn!(lease = self.config.name, error, "cannot hold the lease");
                    self.told = Some(error);
                }
                false
            }
        }
    }

    async fn hold(&mut self) -> Result<bool, Error> {
        let found = match self.api.get_opt(&self.config.name).await? {
            Some(lease) => lease,
            None => {
                let mut lease =
                    Lease { spec: Some(claim(&self.config, Timestamp::now())), ..Lease::default() };
                lease.metadata.name = Some(self.config.name.clone());
                lease.metadata.namespace = Some(self.config.namespace.clone());
                let made = self.api.create(&PostParams::default(), &lease).await?;
                self.seen = Some((made, Instant::now()));
                return Ok(true);
            }
        };
        let since = match &self.seen {
            Some((lease, since)) if lease.spec == found.spec => *since,
            _ => Instant::now(),
        };
        self.seen = Some((found.clone(), since));
        let spec = found.spec.clone().unwrap_or_default();
        match decide(&spec, since.elapsed(), &self.config, Timestamp::now()) {
            Step::Wait => Ok(false),
            Step::Write(spec) => {
                // Carries the resourceVersion that was read: of two candidates one gets a conflict.
                let next = Lease { spec: Some(*spec), ..found };
                let written = self.api.replace(&self.config.name, &PostParams::default(), &next).await?;
                self.seen = Some((written, Instant::now()));
                Ok(true)
            }
        }
    }

    /// Renews until that fails for the renew deadline, or somebody else holds the Lease.
    async fn keep(&mut self) {
        let mut renewed = Instant::now();
        loop {
            let deadline = renewed + self.config.renew_deadline;
            tokio::time::sleep(self.config.retry_period).await;
            match tokio::time::timeout_at(deadline, self.try_hold()).await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) if Instant::now() < deadline => {}
                _ => return,
            }
        }
    }

    async fn release(&mut self) {
        let Some((lease, _)) = self.seen.take() else {
            return;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&*self.config.identity) {
            return;
        }
        let now = Timestamp::now();
        let free = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            acquire_time: Some(MicroTime(now)),
            renew_time: Some(MicroTime(now)),
            lease_transitions: spec.lease_transitions,
            ..LeaseSpec::default()
        };
        let next = Lease { spec: Some(free), ..lease };
        let params = PostParams::default();
        let write = self.api.replace(&self.config.name, &params, &next);
        match tokio::time::timeout(self.config.retry_period, write).await {
            Ok(Ok(_)) => tracing::debug!(lease = self.config.name, "lease released"),
            Ok(Err(error)) => {
                tracing::debug!(lease = self.config.name, error = %chain(&error), "lease not released")
            }
            Err(_) => tracing::debug!(lease = self.config.name, "lease not released in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(who: &str, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(who.into()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(transitions),
            acquire_time: Some(MicroTime("2026-01-01T00:00:00Z".parse().unwrap())),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn takes_over_only_what_is_free_or_not_renewed() {
        let config = ElectionConfig::new("kube-system", "x", "me");
        let now: Timestamp = "2026-02-01T00:00:00Z".parse().unwrap();
        // holder, seconds since the last change seen, transitions afterwards (None: wait)
        for (holder, age, expect) in [
            ("other", 0, None),
            ("other", 14, None),
            ("other", 15, Some(4)),
            ("", 0, Some(4)),
            ("me", 0, Some(3)),
            ("me", 100, Some(3)),
        ] {
            let step = decide(&held_by(holder, 3), Duration::from_secs(age), &config, now);
            match (step, expect) {
                (Step::Wait, None) => {}
                (Step::Write(spec), Some(transitions)) => {
                    assert_eq!(spec.lease_transitions, Some(transitions), "{holder} {age}");
                    assert_eq!(spec.holder_identity.as_deref(), Some("me"));
                    assert_eq!(spec.renew_time, Some(MicroTime(now)));
                    assert_eq!(
                        spec.acquire_time == Some(MicroTime(now)),
                        holder != "me",
                        "renewing keeps acquireTime"
                    );
                }
                (step, _) => panic!("{holder} {age}: {step:?}"),
            }
        }
    }
}
