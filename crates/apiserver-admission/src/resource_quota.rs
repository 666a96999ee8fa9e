//! `ResourceQuota`: what a namespace may hold. Checks and charges in one compare-and-swap on the quota's status.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::{Object, Quantity, StatusError, StatusResult};
use serde_json::{Map, Value};

use crate::pod_resources::{Amounts, amounts};
use crate::settings::ConfigError;
use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

mod limited;
mod scopes;
mod usage;

use limited::Limited;

/// Writes the status of a quota, as the server itself.
#[async_trait]
pub trait QuotaWriter: Send + Sync {
    /// Stores `status` of a quota as it was read (with its `resourceVersion`); 409 where it changed since.
    async fn write_status(&self, quota: Object) -> StatusResult<()>;
}

/// The plugin. Comes last: what it charged is only given back by the quota controller.
pub struct ResourceQuota {
    cluster: Arc<dyn ClusterView>,
    writer: Arc<dyn QuotaWriter>,
    /// Writers of one process queue up here instead of losing the swap to each other.
    turn: tokio::sync::Mutex<()>,
    limited: Limited,
}

/// Losing the swap this often in a row means that other servers are very busy with the same quota.
const ATTEMPTS: u32 = 30;

impl ResourceQuota {
    /// Reads quotas through `cluster`, charges them through `writer`.
    pub fn new(cluster: Arc<dyn ClusterView>, writer: Arc<dyn QuotaWriter>) -> Self {
        Self { cluster, writer, turn: tokio::sync::Mutex::new(()), limited: Limited::default() }
    }

    /// The same, with a `ResourceQuotaConfiguration`.
    pub fn from_config(
        cluster: Arc<dyn ClusterView>,
        writer: Arc<dyn QuotaWriter>,
        config: Option<&Value>,
    ) -> Result<Self, ConfigError> {
        Ok(Self { limited: Limited::from_config(config)?, ..Self::new(cluster, writer) })
    }
}

/// Amounts as `k=v,k2=v2`.
fn shown(amounts: &Amounts) -> String {
    let parts: Vec<String> = amounts.iter().map(|(k, v)| format!("{k}={v}")).collect();
    parts.join(",")
}

fn only(amounts: &Amounts, names: impl Fn(&str) -> bool) -> Amounts {
    amounts.iter().filter(|(name, _)| names(name)).map(|(n, q)| (n.clone(), *q)).collect()
}

/// What one quota says to a request.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// The request does not concern it.
    Unconcerned,
    /// Allowed; `status.used` becomes this.
    Charge(Map<String, Value>),
    /// Refused because of this.
    Refuse(String),
}

/// Judges one quota: `delta` is what the request adds, `object` the new object.
fn judge(quota: &Object, is_pod: bool, object: &Object, delta: &Amounts) -> Verdict {
    if !scopes::match_all(quota, is_pod, object) {
        return Verdict::Unconcerned;
    }
    let hard = amounts(quota.at(&["status", "hard"]));
    let wanted = only(delta, |name| hard.contains_key(name));
    if is_pod && let Some(why) = usage::unspecified(object, &hard) {
        return Verdict::Refuse(format!("failed quota: {}: {why}", quota.name()));
    }
    if wanted.values().all(Quantity::is_zero) {
        return Verdict::Unconcerned;
    }
    let used = amounts(quota.at(&["status", "used"]));
    if wanted.keys().any(|name| !used.contains_key(name)) {
        let names: Vec<&str> = wanted.keys().map(String::as_str).collect();
        return Verdict::Refuse(format!(
            "status unknown for quota: {}, resources: {}",
            quota.name(),
            names.join(",")
        ));
    }
    let after: Amounts = wanted.iter().map(|(name, more)| (name.clone(), used[name].add(more))).collect();
    let over = |name: &str| !wanted[name].is_negative() && after[name] > hard[name];
    let exceeded = only(&wanted, over);
    if !exceeded.is_empty() {
        let named = |name: &str| exceeded.contains_key(name);
        return Verdict::Refuse(format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            quota.name(),
            shown(&exceeded),
            shown(&only(&used, named)),
            shown(&only(&hard, named))
        ));
    }
    let mut status = quota.at(&["status", "used"]).and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, amount) in after {
        status.insert(name, amount.to_string().into());
    }
    Verdict::Charge(status)
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        let Some(object) = a.object() else { return Ok(()) };
        let resizes = a.is_sub("", "pods", "resize");
        if a.namespace.is_empty() || !(a.subresource.is_empty() || resizes) {
            return Ok(());
        }
        let quotas = self.cluster.list(Resource::RESOURCE_QUOTAS, a.namespace);
        if quotas.is_empty() && self.limited.is_empty() {
            return Ok(());
        }
        let mut delta = usage::usage(&a.gvr.group, &a.gvr.resource, object);
        if let (Operation::Update, Some(old)) = (a.operation, a.old) {
            for (name, before) in usage::usage(&a.gvr.group, &a.gvr.resource, old) {
                let now = delta.get(&name).copied().unwrap_or(Quantity::ZERO);
                delta.insert(name, now.sub(&before));
            }
            // Less than before is for the quota controller to give back.
            delta.retain(|_, q| !q.is_zero() && !q.is_negative());
            if delta.is_empty() {
                return Ok(());
            }
        }
        let is_pod = a.gvr.group.is_empty() && a.gvr.resource == "pods";
        let mut uncounted = self.limited.names(&a.gvr.group, &a.gvr.resource, &delta);
        uncounted.retain(|name| {
            let counts = |quota: &&Arc<Object>| {
                scopes::match_all(quota, is_pod, object)
                    && amounts(quota.at(&["status", "hard"])).contains_key(*name)
            };
            !quotas.iter().any(|quota| counts(&quota))
        });
        if !uncounted.is_empty() {
            return Err(a.forbidden(format!("insufficient quota to consume: {}", uncounted.join(","))));
        }
        let _turn = self.turn.lock().await;
        if quotas.len() > 1 {
            // What one refuses, no other is charged for.
            for quota in &quotas {
                self.check(a, quota, is_pod, object, &delta).await?;
            }
        }
        for quota in quotas {
            self.charge(a, &quota, is_pod, object, &delta).await?;
        }
        Ok(())
    }
}

impl ResourceQuota {
    /// Refuses what a quota as it is now refuses.
    async fn check(
        &self,
        a: &Attributes<'_>,
        quota: &Object,
        is_pod: bool,
        object: &Object,
        delta: &Amounts,
    ) -> StatusResult<()> {
        if judge(quota, is_pod, object, delta) == Verdict::Unconcerned {
            return Ok(());
        }
        let live = self.cluster.get_live(Resource::RESOURCE_QUOTAS, quota.namespace(), quota.name()).await?;
        match live.map(|live| judge(&live, is_pod, object, delta)) {
            Some(Verdict::Refuse(why)) => Err(a.forbidden(why)),
            _ => Ok(()),
        }
    }

    async fn charge(
        &self,
        a: &Attributes<'_>,
        quota: &Object,
        is_pod: bool,
        object: &Object,
        delta: &Amounts,
    ) -> StatusResult<()> {
        // What the cache says may be behind our own last charge, so only a quota that it shows as unconcerned is
        // settled without a live read.
        if judge(quota, is_pod, object, delta) == Verdict::Unconcerned {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let live =
                self.cluster.get_live(Resource::RESOURCE_QUOTAS, quota.namespace(), quota.name()).await?;
            let Some(live) = live else { return Ok(()) };
            match judge(&live, is_pod, object, delta) {
                Verdict::Unconcerned => return Ok(()),
                Verdict::Refuse(why) => return Err(a.forbidden(why)),
                Verdict::Charge(_) if a.dry_run => return Ok(()),
                Verdict::Charge(used) => {
                    let mut charged = (*live).clone();
                    charged.set(&["status", "used"], Value::Object(used));
                    match self.writer.write_status(charged).await {
                        Err(e) if e.reason() == "Conflict" => {}
                        done => return done,
                    }
                }
            }
        }
        let gr = machinery::gvk::GroupResource::new("", "resourcequotas");
        Err(StatusError::stale(&gr, quota.name()))
    }
}

#[cfg(test)]
mod tests;
