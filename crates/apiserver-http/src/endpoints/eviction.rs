//! `pods/eviction`: deletes a pod unless a disruption budget forbids it. Upstream:
//! pkg/registry/core/pod/storage/eviction.go, 1.36.
use api::decode::{Media, Target};
use apiserver_registry::{DeleteOptions, Store, Warnings, Write};
use async_trait::async_trait;
use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use machinery::label_selector::LabelSelector;
use machinery::{Object, StatusError, StatusResult};
use serde_json::Value;

use crate::body::{self, Body};
use crate::context::{Context, Endpoint};
use crate::respond;
use crate::write;

/// Serves `pods/eviction`.
pub struct Eviction;

/// A pod that runs nothing is not protected.
fn is_unprotected(pod: &Object) -> bool {
    matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed" | "Pending") || pod.is_deleting()
}

fn matches(budget: &Object, pod: &Object) -> bool {
    let Some(selector) = budget.at(&["spec", "selector"]) else { return false };
    serde_json::from_value(selector.clone())
        .ok()
        .and_then(|typed| LabelSelector::from_typed(&typed).ok())
        .is_some_and(|s| s.matches(|key| pod.label(key)))
}

/// Charges a budget with one disruption.
fn charge(budget: &Object, pod: &str, now: Timestamp) -> StatusResult<Object> {
    let name = budget.name();
    let number = |field: &str| budget.i64_at(&["status", field]).unwrap_or(0);
    let refused = "Cannot evict pod as it would violate the pod's disruption budget.";
    if number("observedGeneration") < budget.generation().unwrap_or(0) {
        return Err(StatusError::too_many_requests(refused, 10).with_cause(
            "DisruptionBudget",
            "",
            format!("The disruption budget {name} is still being processed by the server."),
        ));
    }
    let allowed = number("disruptionsAllowed");
    if allowed <= 0 {
        let mut e = StatusError::too_many_requests(refused, 0).with_cause(
            "DisruptionBudget",
            "",
            format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                number("desiredHealthy"),
                number("currentHealthy")
            ),
        );
        e.details_mut().retry_after_seconds = None;
        return Err(e);
    }
    let mut charged = budget.clone();
    charged.remove(&["metadata", "resourceVersion"]);
    charged.set(&["status", "disruptionsAllowed"], allowed - 1);
    charged.set(&["status", "disruptedPods", pod], apiserver_registry::timestamp(now));
    Ok(charged)
}

async fn ask_budgets(context: &Context, pod: &Object, dry_run: bool) -> StatusResult<()> {
    let Some(budgets) = context.server.registry.store("policy", "poddisruptionbudgets") else {
        return Ok(());
    };
    let page = budgets.list(&context.info.namespace, &Default::default()).await?;
    let listed = page.items.into_vec();
    let mut found = listed
        .iter()
        .filter_map(|o| apiserver_registry::encode::decode(&o.value, o.revision).ok())
        .filter(|b| matches(b, pod));
    let Some(budget) = found.next() else { return Ok(()) };
    if found.next().is_some() {
        return Err(StatusError::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    let warnings = Warnings::beside(&context.notes);
    let write = Write {
        kind: &budgets.kind,
        namespace: &context.info.namespace,
        name: budget.name(),
        subresource: "status",
        user: &context.user,
        // The server itself keeps the account.
        manager: "kube-apiserver".to_owned(),
        dry_run,
        warnings: &warnings,
    };
    budgets.update(&write, |b| charge(b, pod.name(), Timestamp::now()), None).await?;
    Ok(())
}

async fn evict(context: &Context, pods: &Store, options: &DeleteOptions, dry_run: bool) -> StatusResult<()> {
    let name = &context.info.name;
    let pod = pods
        .get_live(&context.info.namespace, name)
        .await?
        .ok_or_else(|| StatusError::not_found(pods.group_resource(), name))?
        .object;
    if !is_unprotected(&pod) {
        ask_budgets(context, &pod, dry_run).await?;
    }
    let warnings = Warnings::beside(&context.notes);
    let write = Write {
        kind: &pods.kind,
        namespace: &context.info.namespace,
        name,
        subresource: "",
        user: &context.user,
        manager: String::new(),
        dry_run,
        warnings: &warnings,
    };
    pods.delete(&write, options).await.map(drop)
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
        let pods = context.server.registry.store("", "pods").ok_or_else(StatusError::no_such_path)?;
        evict(context, pods, &options, dry_run).await?;
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
        assert_eq!(charge(&charged, "q", now).unwrap_err().code(), 429);
        let unseen = charge(&budget(1, 1), "p", now).unwrap_err();
        assert_eq!(unseen.0.details.as_ref().and_then(|d| d.retry_after_seconds), Some(10));
    }
}
