//! `scale`: the replica count of a workload as `autoscaling/v1` `Scale`. Upstream:
//! pkg/registry/apps/deployment/storage/storage.go, 1.36.
use api::decode::Target;
use apiserver_registry::{Warnings, encode};
use async_trait::async_trait;
use http::{Request, Response, StatusCode};
use machinery::fields;
use machinery::gvk::GroupVersionKind;
use machinery::label_selector::LabelSelector;
use machinery::{FieldError, FieldPath, Object, StatusError, StatusResult};
use serde_json::{Map, json};

use crate::body::{self, Body};
use crate::context::{Context, Endpoint};
use crate::read;
use crate::write::{self, Patch};

/// Serves `scale` of deployments, replica sets, stateful sets and replication controllers.
pub struct Scale;

/// The `Scale` of a workload.
fn scale(workload: &Object) -> Object {
    let mut out = Object::default();
    out.set_type("autoscaling/v1", "Scale");
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        out.copy_from(workload, &["metadata", field]);
    }
    let mut spec = Map::new();
    let replicas = workload.i64_at(&["spec", "replicas"]).unwrap_or(0);
    if replicas != 0 {
        spec.insert("replicas".into(), replicas.into());
    }
    out.set(&["spec"], spec);
    let mut status = json!({ "replicas": workload.i64_at(&["status", "replicas"]).unwrap_or(0) });
    let selector = selector(workload);
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    out.set(&["status"], status);
    out
}

fn selector(workload: &Object) -> String {
    let selector = workload.at(&["spec", "selector"]).cloned().unwrap_or_default();
    // A replication controller's selector is a plain map.
    let selector = if workload.kind() == "ReplicationController" {
        json!({ "matchLabels": selector })
    } else {
        selector
    };
    serde_json::from_value(selector)
        .ok()
        .and_then(|typed| LabelSelector::from_typed(&typed).ok())
        .map(|s| s.to_string())
        .unwrap_or_default()
}

fn replicas(scale: &Object, name: &str) -> StatusResult<i64> {
    let replicas = scale.i64_at(&["spec", "replicas"]).unwrap_or(0);
    if replicas < 0 {
        let path = FieldPath::new("spec").child("replicas");
        let e = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
        return Err(StatusError::invalid(&GroupVersionKind::new("autoscaling", "v1", "Scale"), name, &[e]));
    }
    Ok(replicas)
}

/// An applied `Scale` as a configuration of the workload: the owners of `spec.replicas` are kept there.
fn to_parent(context: &Context, target: &Target<'_>, config: Object) -> StatusResult<Object> {
    fields::fits(api::fields::typed(target.schema), &config)?;
    let config = api::decode::normalize_applied(config, target)?;
    let mut out = Object::default();
    out.set_type(&context.kind.api_version(), &context.kind.kind);
    out.set(&["metadata", "name"], context.info.name.as_str());
    for field in ["namespace", "uid", "resourceVersion"] {
        out.copy_from(&config, &["metadata", field]);
    }
    if config.at(&["spec", "replicas"]).is_some() {
        out.set(&["spec", "replicas"], replicas(&config, &context.info.name)?);
    }
    Ok(out)
}

#[async_trait]
impl Endpoint for Scale {
    async fn serve(&self, context: &Context, request: Request<Body>) -> StatusResult<Response<Body>> {
        let agreed = context.negotiate()?;
        let kind = &context.kind;
        let store =
            context.server.registry.store(&kind.group, &kind.plural).ok_or_else(StatusError::no_such_path)?;
        let name = &context.info.name;
        let speaks = kind.subresource("scale").ok_or_else(StatusError::no_such_path)?;
        if context.info.verb == "get" {
            let found = store.get(&context.info.namespace, name, None).await?;
            let object = encode::decode(&found.value, found.revision)?;
            return Ok(read::one(context, agreed, StatusCode::OK, scale(&object)));
        }
        let headers = request.headers().clone();
        let bytes = body::read(request.into_body()).await?;
        let warnings = Warnings::beside(&context.notes);
        let write = write::write(context, &warnings)?;
        let set = |old: &Object, wanted: &Object| -> StatusResult<Object> {
            let count = replicas(wanted, name)?;
            let mut new = old.clone();
            new.set(&["spec", "replicas"], count);
            let asked = wanted.resource_version();
            if asked.is_empty() {
                new.remove(&["metadata", "resourceVersion"]);
            } else {
                new.set(&["metadata", "resourceVersion"], asked);
            }
            if !wanted.uid().is_empty() {
                new.set(&["metadata", "uid"], wanted.uid());
            }
            Ok(new)
        };
        let (stored, _) = match context.info.verb.as_str() {
            "update" => {
                let wanted = context.decode(&bytes, &Target::of_subresource(speaks), &warnings)?;
                if wanted.name() != name {
                    return Err(StatusError::bad_request(format!(
                        "the name of the object ({}) does not match the name on the URL ({name})",
                        wanted.name()
                    )));
                }
                store.update(&write, |old| set(old, &wanted), None).await?
            }
            "patch" if write::is_apply(&headers) => {
                let target = Target::of_subresource(speaks);
                let (config, force) = write::applied(context, &bytes, &target, &warnings)?;
                let config = to_parent(context, &target, config)?;
                store.apply(&write, config, force).await?
            }
            "patch" => {
                let patch = Patch::new(&headers, bytes)?;
                let change = |old: &Object| {
                    let mut wanted = patch.apply(scale(old), speaks.schema)?;
                    if wanted.resource_version() == old.resource_version() {
                        wanted.remove(&["metadata", "resourceVersion"]);
                    }
                    set(old, &wanted)
                };
                store.update(&write, change, None).await?
            }
            verb => return Err(StatusError::method_not_supported(&kind.group_resource(), verb)),
        };
        let response = read::one(context, agreed, StatusCode::OK, scale(&stored.object));
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selector_is_text() {
        let workload: Object = serde_json::from_value::<Object>(json!({
            "kind": "Deployment", "metadata": {"name": "a", "namespace": "b"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "a"}}},
            "status": {"replicas": 2},
        }))
        .unwrap();
        let scale = scale(&workload);
        assert_eq!(scale.i64_at(&["spec", "replicas"]), Some(3));
        assert_eq!(scale.str_at(&["status", "selector"]), "app=a");
        assert_eq!(scale.i64_at(&["status", "replicas"]), Some(2));
    }

    #[test]
    fn a_negative_count_is_invalid() {
        let mut wanted = Object::default();
        wanted.set(&["spec", "replicas"], -1);
        assert_eq!(replicas(&wanted, "a").unwrap_err().code(), 422);
    }
}
