//! `pods/eviction`: deletes a pod unless a disruption budget forbids it. Upstream:
//! pkg/registry/core/pod/storage/eviction.go, 1.36.
use api::decode::{Media, Target};
use apiserver_admission::Operation;
use apiserver_registry::{DeleteOptions, Store, Warnings, Write};
use async_trait::async_trait;
use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use machinery::gvk::{GroupResource, GroupVersionKind};
use machinery::label_selector::LabelSelector;
use machinery::{FieldError, FieldPath, Object, StatusError, StatusResult};
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::context::{Context, Endpoint};
use crate::respond;
use crate::write;

/// Serves `pods/eviction`.
pub struct Eviction;

const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const CONDITION: &str = "DisruptionAllowed";
/// More evictions than this may not wait for the controller to see them.
const MOST_DISRUPTED: usize = 2000;
/// How often an eviction that lost against another write is tried again.
const ATTEMPTS: u32 = 20;

/// A pod that runs nothing is not protected.
fn is_unprotected(pod: &Object) -> bool {
    is_over(pod) || pod.str_at(&["status", "phase"]) == "Pending"
}

fn is_over(pod: &Object) -> bool {
    matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed") || pod.is_deleting()
}

fn is_ready(pod: &Object) -> bool {
    let conditions = pod.list_at(&["status", "conditions"]);
    conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn matches(budget: &Object, pod: &Object) -> bool {
    let Some(selector) = budget.at(&["spec", "selector"]) else { return false };
    serde_json::from_value(selector.clone())
        .ok()
        .and_then(|typed| LabelSelector::from_typed(&typed).ok())
        .is_some_and(|s| s.matches(|key| pod.label(key)))
}

fn number(budget: &Object, field: &str) -> i64 {
    budget.i64_at(&["status", field]).unwrap_or(0)
}

/// Whether a budget lets a pod go that is not ready, and so does not count as one of those that have to stay.
fn lets_unhealthy_go(budget: &Object) -> bool {
    let (current, desired) = (number(budget, "currentHealthy"), number(budget, "desiredHealthy"));
    budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow"
        || (current >= desired && desired > 0)
}

fn too_many(cause: String, retry_after: i32) -> StatusError {
    let mut e =
        StatusError::too_many_requests(REFUSED, retry_after).with_cause("DisruptionBudget", "", cause);
    if retry_after == 0 {
        e.details_mut().retry_after_seconds = None;
    }
    e
}

fn still_processed(budget: &str) -> StatusError {
    too_many(format!("The disruption budget {budget} is still being processed by the server."), 10)
}

/// Why a budget that allows nothing does so.
fn exhausted(budget: &Object) -> String {
    let name = budget.name();
    let conditions = budget.list_at(&["status", "conditions"]);
    let condition = conditions.iter().find(|c| c["type"] == CONDITION && c["status"] == "False");
    let text = |key: &str| condition.and_then(|c| c[key].as_str()).unwrap_or("");
    let (reason, message) = (text("reason"), text("message"));
    let (current, desired) = (number(budget, "currentHealthy"), number(budget, "desiredHealthy"));
    if reason == "SyncFailed" && !message.is_empty() {
        format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        )
    } else if current <= desired {
        format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
    } else if message.is_empty() {
        format!("The disruption budget {name} does not allow evicting pods currently")
    } else {
        format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {message}")
    }
}

/// Sets the condition `DisruptionAllowed` to false, as the controller would.
fn close(budget: &mut Object, now: Timestamp) {
    let mut conditions: Vec<Value> = budget.list_at(&["status", "conditions"]).to_vec();
    let found = conditions.iter().position(|c| c["type"] == CONDITION);
    let since = match found.map(|i| &conditions[i]) {
        Some(old) if old["status"] == "False" => old["lastTransitionTime"].clone(),
        _ => apiserver_registry::timestamp(now).into(),
    };
    let condition = json!({
        "type": CONDITION,
        "status": "False",
        "observedGeneration": number(budget, "observedGeneration"),
        "lastTransitionTime": since,
        "reason": "InsufficientPods",
        "message": "",
    });
    match found {
        Some(i) => conditions[i] = condition,
        None => conditions.push(condition),
    }
    budget.set(&["status", "conditions"], conditions);
}

/// Charges a budget with one disruption.
fn charge(budget: &Object, pod: &str, now: Timestamp) -> StatusResult<Object> {
    let name = budget.name();
    if number(budget, "observedGeneration") < budget.generation().unwrap_or(0) {
        return Err(still_processed(name));
    }
    let allowed = number(budget, "disruptionsAllowed");
    let forbidden =
        |why: &str| StatusError::forbidden(&GroupResource::new("policy", "poddisruptionbudget"), name, why);
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    let disrupted = budget.at(&["status", "disruptedPods"]).and_then(Value::as_object);
    if disrupted.is_some_and(|pods| pods.len() > MOST_DISRUPTED) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(forbidden(why));
    }
    if allowed == 0 {
        return Err(too_many(exhausted(budget), 0));
    }
    let mut charged = budget.clone();
    charged.remove(&["metadata", "resourceVersion"]);
    charged.set(&["status", "disruptionsAllowed"], allowed - 1);
    if allowed == 1 {
        close(&mut charged, now);
    }
    charged.set(&["status", "disruptedPods", pod], apiserver_registry::timestamp(now));
    Ok(charged)
}

/// The pod with the condition that says why it goes.
fn disrupted(pod: &Object, options: &DeleteOptions, now: Timestamp) -> StatusResult<Object> {
    apiserver_registry::preconditions(pod, options, &GroupResource::new("", "Pod"))?;
    let mut pod = pod.clone();
    pod.remove(&["metadata", "resourceVersion"]);
    let mut conditions: Vec<Value> = pod.list_at(&["status", "conditions"]).to_vec();
    let found = conditions.iter().position(|c| c["type"] == "DisruptionTarget");
    let since = match found.map(|i| &conditions[i]) {
        Some(old) if old["status"] == "True" => old["lastTransitionTime"].clone(),
        _ => apiserver_registry::timestamp(now).into(),
    };
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": since,
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    });
    match found {
        Some(i) => conditions[i] = condition,
        None => conditions.push(condition),
    }
    pod.set(&["status", "conditions"], conditions);
    Ok(pod)
}

/// One eviction, decided and carried out.
struct Evicting<'a> {
    context: &'a Context,
    pods: &'a Store,
    options: &'a DeleteOptions,
    dry_run: bool,
    warnings: Warnings,
}

impl<'a> Evicting<'a> {
    fn write(&'a self, store: &'a Store, name: &'a str, subresource: &'a str, manager: &str) -> Write<'a> {
        Write {
            kind: &store.kind,
            namespace: &self.context.info.namespace,
            name,
            subresource,
            user: &self.context.user,
            manager: manager.to_owned(),
            dry_run: self.dry_run,
            warnings: &self.warnings,
        }
    }

    async fn pod(&self) -> StatusResult<Object> {
        let name = &self.context.info.name;
        let found = self.pods.get_live(&self.context.info.namespace, name).await?;
        Ok(found.ok_or_else(|| StatusError::not_found(self.pods.group_resource(), name))?.object)
    }

    /// The budget that protects a pod, from the store.
    async fn budget(&self, pod: &Object) -> StatusResult<Option<Object>> {
        let Some(budgets) = self.context.server.registry.store("policy", "poddisruptionbudgets") else {
            return Ok(None);
        };
        let page = budgets.list(&self.context.info.namespace, &Default::default()).await?;
        let listed = page.items.into_vec();
        let mut found = listed
            .iter()
            .filter_map(|o| apiserver_registry::encode::decode(&o.value, o.revision).ok())
            .filter(|b| matches(b, pod));
        let Some(budget) = found.next() else { return Ok(None) };
        if found.next().is_some() {
            let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(StatusError::new(500, "", why));
        }
        Ok(Some(budget))
    }

    async fn charge(&self, budget: &Object, pod: &str) -> StatusResult<()> {
        let budgets = self.context.server.registry.store("policy", "poddisruptionbudgets");
        let budgets = budgets.ok_or_else(StatusError::no_such_path)?;
        // The server itself keeps the account.
        let write = self.write(budgets, budget.name(), "status", "kube-apiserver");
        budgets.update(&write, |b| charge(b, pod, Timestamp::now()), None).await.map(drop)
    }

    /// Says on the pod why it goes, then deletes it, if it still is what the options say.
    async fn delete(&self, options: &DeleteOptions) -> StatusResult<()> {
        let name = &self.context.info.name;
        let mut options = options.clone();
        if !self.dry_run {
            let write = self.write(self.pods, name, "status", "");
            let told = |pod: &Object| disrupted(pod, &options, Timestamp::now());
            let (stored, _) = self.pods.update(&write, told, None).await?;
            if options.resource_version.is_some() {
                options.resource_version = Some(stored.object.resource_version().to_owned());
            }
        }
        self.pods.delete(&self.write(self.pods, name, "", ""), &options).await.map(drop)
    }

    /// The options, for the pod as it was seen if they name no version themselves.
    fn pinned(&self, pod: &Object) -> DeleteOptions {
        let mut options = self.options.clone();
        options.resource_version.get_or_insert_with(|| pod.resource_version().to_owned());
        options
    }

    async fn run(&self) -> StatusResult<()> {
        let mut attempts = 1;
        let pod = loop {
            let pod = self.pod().await?;
            if !is_unprotected(&pod) {
                break pod;
            }
            // One that is about to become ready is protected then.
            let options = if is_over(&pod) { self.options.clone() } else { self.pinned(&pod) };
            match self.delete(&options).await {
                Err(e)
                    if e.code() == 409 && self.options.resource_version.is_none() && attempts < ATTEMPTS =>
                {
                    attempts += 1;
                }
                done => return done,
            }
        };
        let Some(budget) = self.budget(&pod).await? else { return self.delete(self.options).await };
        if !is_ready(&pod) && lets_unhealthy_go(&budget) {
            return match self.delete(&self.pinned(&pod)).await {
                Err(e) if e.code() == 409 && self.options.resource_version.is_none() => {
                    Err(still_processed(budget.name()))
                }
                done => done,
            };
        }
        self.charge(&budget, pod.name()).await?;
        self.delete(self.options).await
    }
}

#[async_trait]
impl Endpoint for Eviction {
    async fn serve(&self, context: &Context, request: Request<Body>) -> StatusResult<Response<Body>> {
        let media = context.media()?;
        if context.info.verb != "create" {
            return Err(StatusError::method_not_supported(
                &context.kind.group_resource(),
                &context.info.verb,
            ));
        }
        let bytes = body::read(request.into_body()).await?;
        let value: Value = match write::body_media(&context.headers, true)? {
            Media::Protobuf => {
                let eviction = context.kind.subresources.iter().find(|s| s.name == "eviction");
                let target = eviction.map(Target::of_subresource).ok_or_else(StatusError::no_such_path)?;
                api::proto::decode_protobuf(&bytes, &target)?.into_value()
            }
            Media::Json => {
                serde_json::from_slice(&bytes).map_err(|e| StatusError::bad_request(e.to_string()))?
            }
            Media::Yaml => {
                let text =
                    std::str::from_utf8(&bytes).map_err(|e| StatusError::bad_request(e.to_string()))?;
                serde_saphyr::from_str(text).map_err(|e| StatusError::bad_request(e.to_string()))?
            }
        };
        if value.get("kind").and_then(Value::as_str).is_some_and(|k| k != "Eviction") {
            return Err(StatusError::bad_request("the body of an eviction must be an Eviction"));
        }
        let name = value.pointer("/metadata/name").and_then(Value::as_str);
        if name.is_some_and(|name| name != context.info.name) {
            return Err(StatusError::bad_request("name in URL does not match name in Eviction object"));
        }
        let (options, dry_run) =
            write::deletion(context, value.get("deleteOptions").unwrap_or(&Value::Null))?;
        let gvk = GroupVersionKind::new("policy", "v1", "Eviction");
        if options.ignore_read_error {
            let path =
                FieldPath::new("deleteOptions").child("ignoreStoreReadErrorWithClusterBreakingPotential");
            let why = "can not be set for pod eviction, try after removing the option";
            return Err(StatusError::invalid(
                &gvk,
                &context.info.name,
                &[FieldError::invalid(&path, true, why)],
            ));
        }
        let mut eviction = Object::from_value(value).unwrap_or_default();
        eviction.set_type("policy/v1", "Eviction");
        context.admit(Operation::Create, &gvk, &mut eviction, dry_run).await?;
        let pods = context.server.registry.store("", "pods").ok_or_else(StatusError::no_such_path)?;
        let warnings = Warnings::beside(&context.notes);
        Evicting { context, pods, options: &options, dry_run, warnings }.run().await?;
        let status = Status { status: Some("Success".into()), code: Some(201), ..Status::default() };
        Ok(respond::json(StatusCode::CREATED, media, &status))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn budget(allowed: i64, observed: i64) -> Object {
        Object::from_value(json!({
            "metadata": {"name": "b", "generation": 2},
            "spec": {"selector": {"matchLabels": {"app": "a"}}},
            "status": {"disruptionsAllowed": allowed, "observedGeneration": observed},
        }))
        .unwrap()
    }

    #[test]
    fn a_budget_is_charged_until_it_is_used_up() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let charged = charge(&budget(1, 2), "p", now).unwrap();
        assert_eq!(charged.i64_at(&["status", "disruptionsAllowed"]), Some(0));
        assert_eq!(charged.str_at(&["status", "disruptedPods", "p"]), "2026-01-01T00:00:00Z");
        let condition = &charged.list_at(&["status", "conditions"])[0];
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("False"), &json!("InsufficientPods"))
        );
        assert_eq!(charge(&charged, "q", now).unwrap_err().code(), 429);
        let unseen = charge(&budget(1, 1), "p", now).unwrap_err();
        assert_eq!(unseen.0.details.as_ref().and_then(|d| d.retry_after_seconds), Some(10));
        assert_eq!(charge(&budget(-1, 2), "p", now).unwrap_err().code(), 403);
    }

    #[test]
    fn a_refusal_says_why() {
        let condition = |reason: &str, message: &str| json!([{"type": CONDITION, "status": "False", "reason": reason, "message": message}]);
        for (current, desired, conditions, want) in [
            (1, 2, json!([]), "The disruption budget b needs 2 healthy pods and has 1 currently"),
            (3, 2, json!([]), "The disruption budget b does not allow evicting pods currently"),
            (
                3,
                2,
                condition("Held", "not now"),
                "The disruption budget b does not allow evicting pods currently (Held): not now",
            ),
            (
                1,
                2,
                condition("SyncFailed", "no scale"),
                "The disruption budget b does not allow evicting pods currently because it failed sync: no scale",
            ),
        ] {
            let mut budget = budget(0, 2);
            budget.set(&["status", "currentHealthy"], current);
            budget.set(&["status", "desiredHealthy"], desired);
            budget.set(&["status", "conditions"], conditions);
            let refused = charge(&budget, "p", "2026-01-01T00:00:00Z".parse().unwrap()).unwrap_err();
            assert_eq!((refused.code(), refused.to_string().as_str()), (429, REFUSED));
            let causes = refused.0.details.unwrap_or_default().causes.unwrap_or_default();
            assert_eq!(causes[0].message.as_deref(), Some(want));
        }
    }

    #[test]
    fn pods_that_are_not_ready_may_go_without_a_charge() {
        for (policy, current, desired, goes) in [
            ("", 2, 2, true),
            ("IfHealthyBudget", 1, 2, false),
            ("IfHealthyBudget", 0, 0, false),
            ("AlwaysAllow", 0, 2, true),
        ] {
            let mut budget = budget(0, 2);
            budget.set(&["spec", "unhealthyPodEvictionPolicy"], policy);
            budget.set(&["status", "currentHealthy"], current);
            budget.set(&["status", "desiredHealthy"], desired);
            assert_eq!(lets_unhealthy_go(&budget), goes, "{policy} {current} {desired}");
        }
    }

    #[test]
    fn the_pod_says_why_it_goes() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let pod = Object::from_value(json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "5"}}))
            .unwrap();
        let told = disrupted(&pod, &DeleteOptions::default(), now).unwrap();
        let condition = &told.list_at(&["status", "conditions"])[0];
        assert_eq!(
            (&condition["type"], &condition["reason"]),
            (&json!("DisruptionTarget"), &json!("EvictionByEvictionAPI"))
        );
        let stale = DeleteOptions { resource_version: Some("4".into()), ..DeleteOptions::default() };
        assert_eq!(disrupted(&pod, &stale, now).unwrap_err().code(), 409);
    }
}
