//! `pods/binding`: assigns a pod to a node. Upstream: pkg/registry/core/pod/storage/storage.go, `assignPod`, 1.36.
use api::decode::Target;
use apiserver_admission::Operation;
use apiserver_registry::{Warnings, Write};
use async_trait::async_trait;
use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use machinery::gvk::{GroupResource, GroupVersionKind};
use machinery::{FieldError, FieldPath, Object, StatusError, StatusResult};
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::context::{Context, Endpoint};
use crate::respond;

/// Serves `pods/binding` and `bindings`.
pub struct Binding;

fn check(binding: &Object) -> StatusResult<&str> {
    let target = FieldPath::new("target");
    let kind = binding.str_at(&["target", "kind"]);
    let name = binding.str_at(&["target", "name"]);
    let mut errors = Vec::new();
    if !kind.is_empty() && kind != "Node" {
        errors.push(FieldError::not_supported(&target.child("kind"), kind, &["Node", "<empty>"]));
    }
    if name.is_empty() {
        errors.push(FieldError::required(&target.child("name"), ""));
    }
    if errors.is_empty() {
        return Ok(name);
    }
    Err(StatusError::invalid(&GroupVersionKind::new("", "v1", "Binding"), binding.name(), &errors))
}

/// The pod on its node.
fn assign(pod: &Object, binding: &Object, node: &str, now: Timestamp) -> StatusResult<Object> {
    let conflict =
        |why: String| StatusError::conflict(&GroupResource::new("", "pods/binding"), pod.name(), &why);
    let uid = binding.uid();
    if !uid.is_empty() && uid != pod.uid() {
        return Err(conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            pod.uid()
        )));
    }
    if pod.is_deleting() {
        return Err(conflict(format!("pod {} is being deleted, cannot be assigned to a host", pod.name())));
    }
    let assigned = pod.str_at(&["spec", "nodeName"]);
    if !assigned.is_empty() {
        return Err(conflict(format!("pod {} is already assigned to node {assigned:?}", pod.name())));
    }
    if !pod.list_at(&["spec", "schedulingGates"]).is_empty() {
        return Err(conflict(format!("pod {} has non-empty .spec.schedulingGates", pod.name())));
    }
    let mut pod = pod.clone();
    pod.remove(&["metadata", "resourceVersion"]);
    pod.set(&["spec", "nodeName"], node);
    for field in ["annotations", "labels"] {
        for (key, value) in binding.strings_at(&["metadata", field]) {
            pod.set(&["metadata", field, key], value);
        }
    }
    let scheduled = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": apiserver_registry::timestamp(now),
    });
    let mut conditions: Vec<Value> = pod.list_at(&["status", "conditions"]).to_vec();
    match conditions.iter_mut().find(|c| c["type"] == "PodScheduled") {
        Some(condition) => *condition = scheduled,
        None => conditions.push(scheduled),
    }
    pod.set(&["status", "conditions"], conditions);
    Ok(pod)
}

#[async_trait]
impl Endpoint for Binding {
    async fn serve(&self, context: &Context, request: Request<Body>) -> StatusResult<Response<Body>> {
        let media = context.media()?;
        if context.info.verb != "create" {
            return Err(StatusError::method_not_supported(
                &context.kind.group_resource(),
                &context.info.verb,
            ));
        }
        let kind = api::kinds::by_kind("", "v1", "Binding").ok_or_else(StatusError::no_such_path)?;
        let bytes = body::read(request.into_body()).await?;
        let warnings = Warnings::beside(&context.notes);
        let mut binding = context.decode(&bytes, &Target::of(kind), &warnings)?;
        let named = binding.name().to_owned();
        let name = if context.info.name.is_empty() { &named } else { &context.info.name };
        if !binding.name().is_empty() && binding.name() != name {
            return Err(StatusError::bad_request("name in URL does not match name in Binding object"));
        }
        context.admit(Operation::Create, &kind.gvk(), &mut binding, context.dry_run()?).await?;
        let node = check(&binding)?;
        let pods = context.server.registry.store("", "pods").ok_or_else(StatusError::no_such_path)?;
        let write = Write {
            kind: &pods.kind,
            namespace: &context.info.namespace,
            name,
            subresource: "binding",
            user: &context.user,
            // As upstream: the assignment is nobody's field.
            manager: String::new(),
            dry_run: context.dry_run()?,
            warnings: &warnings,
        };
        pods.update(&write, |pod| assign(pod, &binding, node, Timestamp::now()), None).await?;
        let status = Status { status: Some("Success".into()), code: Some(201), ..Status::default() };
        Ok(respond::json(StatusCode::CREATED, media, &status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(extra: Value) -> Object {
        let mut pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}});
        json_patch::merge(&mut pod, &extra);
        Object::from_value(pod).unwrap()
    }

    #[test]
    fn only_a_free_pod_is_assigned() {
        let labels = json!({"metadata": {"labels": {"zone": "b"}}});
        let binding = Object::from_value(labels).unwrap();
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let assigned =
            assign(&pod(json!({"metadata": {"labels": {"zone": "a"}}})), &binding, "n", now).unwrap();
        assert_eq!(assigned.label("zone"), Some("b"));
        assert_eq!(assigned.str_at(&["spec", "nodeName"]), "n");
        assert_eq!(assigned.list_at(&["status", "conditions"])[0]["status"], "True");
        for refused in [
            json!({"spec": {"nodeName": "m"}}),
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            json!({"spec": {"schedulingGates": [{"name": "g"}]}}),
        ] {
            assert_eq!(assign(&pod(refused), &binding, "n", now).unwrap_err().code(), 409);
        }
    }
}
