//! `ResourceQuota`: what a namespace may hold. Checks and charges in one compare-and-swap on the quota's status.
use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use machinery::{Object, Quantity, StatusError, StatusResult};
use quota::{Amounts, Counted, Scope, amounts};
use serde_json::{Map, Value};

use crate::settings::ConfigError;
use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

mod limited;

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

/// One request, measured.
struct Taken<'a> {
    counted: Counted<'a>,
    object: &'a Object,
    old: Option<&'a Object>,
    /// All that the object takes.
    whole: Amounts,
    /// What it takes more than before.
    more: Amounts,
    /// What is so already is counted, not judged.
    is_status: bool,
}

impl<'a> Taken<'a> {
    fn new(a: &'a Attributes<'_>, counted: Counted<'a>, object: &'a Object) -> Self {
        let now = Timestamp::now();
        let mut whole = quota::usage(counted, object, now);
        whole.retain(|_, amount| !amount.is_zero());
        let old = a.old.filter(|_| a.operation == Operation::Update);
        let mut more = whole.clone();
        if let Some(old) = old {
            for (name, before) in quota::usage(counted, old, now) {
                more.entry(name).and_modify(|now| *now = now.sub(&before));
            }
            // Less than before is for the quota controller to give back.
            more.retain(|_, amount| !amount.is_zero() && !amount.is_negative());
        }
        Self { counted, object, old, whole, more, is_status: a.subresource == "status" }
    }

    fn is_pod(&self) -> bool {
        self.counted == Counted { group: "", resource: "pods" }
    }
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

/// Judges one quota.
fn judge(quota: &Object, taken: &Taken<'_>) -> Verdict {
    let hard = amounts(quota.at(&["status", "hard"]));
    let restricted = taken.counted.names(hard.keys());
    let scopes = Scope::of(quota);
    if restricted.is_empty() || !taken.counted.is_in_all(&scopes, taken.object) {
        return Verdict::Unconcerned;
    }
    if taken.is_pod()
        && let Some(why) = quota::unspecified(taken.object, &restricted)
    {
        return Verdict::Refuse(format!("failed quota: {}: {why}", quota.name()));
    }
    let used = amounts(quota.at(&["status", "used"]));
    if restricted.iter().any(|name| !used.contains_key(*name)) {
        let names: Vec<&str> = restricted.into_iter().collect();
        return Verdict::Refuse(format!(
            "status unknown for quota: {}, resources: {}",
            quota.name(),
            names.join(",")
        ));
    }
    // One that this quota did not count before is new to it.
    let counted_before = taken.old.is_none_or(|old| taken.counted.is_in_all(&scopes, old));
    let more = if counted_before { &taken.more } else { &taken.whole };
    let wanted = only(more, |name| hard.contains_key(name));
    if wanted.is_empty() {
        return Verdict::Unconcerned;
    }
    let before = |name: &str| used.get(name).copied().unwrap_or(Quantity::ZERO);
    let after: Amounts = wanted.iter().map(|(name, more)| (name.clone(), before(name).add(more))).collect();
    let exceeded = only(&wanted, |name| after[name] > hard[name]);
    if !exceeded.is_empty() && !taken.is_status {
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

/// Whether quotas have a say in this request at all.
fn concerns(a: &Attributes<'_>, object: &Object) -> bool {
    let update = a.operation == Operation::Update;
    match (a.gvr.group.as_str(), a.gvr.resource.as_str(), a.subresource) {
        ("", "pods", "") => {
            // A running pod may get a deadline, and with it another quota.
            let terminating = |pod: &Object| quota::is_terminating(pod);
            !update || a.old.is_some_and(|old| terminating(old) != terminating(object))
        }
        ("", "pods", "resize") | ("", "persistentvolumeclaims", "status") => update,
        ("", "services" | "persistentvolumeclaims", "") | ("resource.k8s.io", "resourceclaims", "") => true,
        (_, _, "") => !update,
        _ => false,
    }
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
        let counted = Counted { group: &a.gvr.group, resource: &a.gvr.resource };
        let makes_namespace = a.operation == Operation::Create && a.is("", "namespaces");
        if a.namespace.is_empty() || makes_namespace || counted.is_ignored() || !concerns(a, object) {
            return Ok(());
        }
        let quotas = self.cluster.list(Resource::RESOURCE_QUOTAS, a.namespace);
        if quotas.is_empty() && self.limited.is_empty() {
            return Ok(());
        }
        let taken = Taken::new(a, counted, object);
        let negative = only(&taken.whole, |name| taken.whole[name].is_negative());
        if !negative.is_empty() {
            let names: Vec<&str> = negative.keys().map(String::as_str).collect();
            let why = format!("quota usage is negative for resource(s): {}", names.join(","));
            return Err(a.forbidden(why));
        }
        if !taken.more.is_empty() {
            self.covered(a, &taken, &quotas)?;
        }
        let _turn = self.turn.lock().await;
        if quotas.len() > 1 {
            // What one refuses, no other is charged for.
            for quota in &quotas {
                self.check(a, quota, &taken).await?;
            }
        }
        for quota in quotas {
            self.charge(a, &quota, &taken).await?;
        }
        Ok(())
    }
}

impl ResourceQuota {
    /// Refuses what nobody may take without a quota that counts it, where there is none.
    fn covered(&self, a: &Attributes<'_>, taken: &Taken<'_>, quotas: &[Arc<Object>]) -> StatusResult<()> {
        let mut uncounted = self.limited.names(&taken.counted, &taken.whole);
        uncounted.retain(|name| {
            let counts = |quota: &&Arc<Object>| {
                amounts(quota.at(&["status", "hard"])).contains_key(*name)
                    && taken.counted.is_in_all(&Scope::of(quota), taken.object)
            };
            !quotas.iter().any(|quota| counts(&quota))
        });
        if !uncounted.is_empty() {
            return Err(a.forbidden(format!("insufficient quota to consume: {}", uncounted.join(","))));
        }
        let mut uncovered = self.limited.scopes(&taken.counted, taken.object);
        if !uncovered.is_empty() {
            let all = quotas.iter().flat_map(|quota| Scope::of(quota));
            let covering: BTreeSet<String> = all
                .filter(|scope| taken.counted.is_in(scope, taken.object))
                .map(|scope| scope.scope_name)
                .collect();
            uncovered.retain(|scope| !covering.contains(&scope.scope_name));
        }
        if uncovered.is_empty() {
            return Ok(());
        }
        let shown: Vec<String> = uncovered.iter().map(ToString::to_string).collect();
        let why = format!("insufficient quota to match these scopes: [{}]", shown.join(" "));
        Err(StatusError::new(500, "", why))
    }

    /// Refuses what a quota as it is now refuses.
    async fn check(&self, a: &Attributes<'_>, quota: &Object, taken: &Taken<'_>) -> StatusResult<()> {
        if judge(quota, taken) == Verdict::Unconcerned {
            return Ok(());
        }
        let live = self.cluster.get_live(Resource::RESOURCE_QUOTAS, quota.namespace(), quota.name()).await?;
        match live.map(|live| judge(&live, taken)) {
            Some(Verdict::Refuse(why)) => Err(a.forbidden(why)),
            _ => Ok(()),
        }
    }

    async fn charge(&self, a: &Attributes<'_>, quota: &Object, taken: &Taken<'_>) -> StatusResult<()> {
        // What the cache says may be behind our own last charge, so only a quota that it shows as unconcerned is
        // settled without a live read.
        if judge(quota, taken) == Verdict::Unconcerned {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let live =
                self.cluster.get_live(Resource::RESOURCE_QUOTAS, quota.namespace(), quota.name()).await?;
            let Some(live) = live else { return Ok(()) };
            match judge(&live, taken) {
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
