//! What a rotation has to do to objects of the cluster, so that nothing in it is left with what is trusted no more.
use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::output::Failure;

/// The kinds whose pods `kubectl rollout restart` starts anew.
const WORKLOADS: [&str; 3] = ["Deployment", "DaemonSet", "StatefulSet"];

fn failed(what: &str) -> impl Fn(kube::Error) -> Failure + '_ {
    move |e| Failure::new(format!("cannot {what}: {}", base::Chain(&e)), "the same command goes on from here")
}

/// Has the tokens in Secrets signed anew: without a token in it, such a Secret gets one. Says how many.
pub async fn sign_tokens_anew(client: &Client) -> Result<usize, Failure> {
    let list = ListParams::default().fields("type=kubernetes.io/service-account-token");
    let all = Api::<Secret>::all(client.clone()).list(&list).await;
    let all = all.map_err(failed("list tokens of service accounts"))?.items;
    for secret in &all {
        let namespace = secret.namespace().unwrap_or_default();
        let api: Api<Secret> = Api::namespaced(client.clone(), &namespace);
        let without = Patch::Merge(json!({ "data": { "token": null } }));
        match api.patch(&secret.name_any(), &PatchParams::default(), &without).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => drop(other.map_err(failed("have a token signed anew"))?),
        }
    }
    Ok(all.len())
}

fn of_kind(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind))
}

/// Whether all pods of a workload are those of its present template, and work.
fn rolled_out(kind: &str, object: &Value) -> bool {
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64);
    if number("/status/observedGeneration") < number("/metadata/generation") {
        return false;
    }
    let (wanted, paths) = match kind {
        "DaemonSet" => (
            number("/status/desiredNumberScheduled").unwrap_or(0),
            ["/status/updatedNumberScheduled", "/status/numberAvailable"],
        ),
        _ => {
            (number("/spec/replicas").unwrap_or(1), ["/status/updatedReplicas", "/status/availableReplicas"])
        }
    };
    paths.iter().all(|path| number(path).unwrap_or(0) >= wanted)
}

/// Starts the pods of all workloads anew and waits until they work. Says how many workloads there were.
pub async fn restart_workloads(client: &Client, patience: Duration) -> Result<usize, Failure> {
    let at = Timestamp::now().to_string();
    let template = json!({ "metadata": { "annotations": { "kubectl.kubernetes.io/restartedAt": at } } });
    let patch = Patch::Merge(json!({ "spec": { "template": template } }));
    let mut started = Vec::new();
    for kind in WORKLOADS {
        let resource = of_kind(kind);
        let all =
            Api::<DynamicObject>::all_with(client.clone(), &resource).list(&ListParams::default()).await;
        for object in all.map_err(failed("list workloads"))?.items {
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
            match api.patch(&name, &PatchParams::default(), &patch).await {
                Err(kube::Error::Api(status)) if status.code == 404 => continue,
                other => drop(other.map_err(failed("start a workload anew"))?),
            }
            started.push((kind, namespace, name, api));
        }
    }
    let deadline = tokio::time::Instant::now() + patience;
    for (kind, namespace, name, api) in &started {
        let done = await_condition(api.clone(), name, |o: Option<&DynamicObject>| {
            // One that was deleted meanwhile needs nothing any more.
            o.is_none_or(|o| serde_json::to_value(o).is_ok_and(|value| rolled_out(kind, &value)))
        });
        match tokio::time::timeout_at(deadline, done).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(Failure::of(&error)),
            Err(_) => {
                return Err(Failure::new(
                    format!("{kind} {namespace}/{name} does not work again after {} s", patience.as_secs()),
                    "see `kubectl rollout status`; the same command goes on from here",
                ));
            }
        }
    }
    Ok(started.len())
}

/// The nodes that are not hosts of ours: what they trust is kept by whoever let them join.
pub async fn strangers(client: &Client, ours: &BTreeSet<&str>) -> Result<Vec<String>, Failure> {
    let all = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
    let all = all.map_err(failed("list nodes"))?;
    Ok(all.iter().map(ResourceExt::name_any).filter(|name| !ours.contains(name.as_str())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_rolled_out_when_its_new_pods_are_available() {
        let deployment = |observed: i64, updated: i64, available: i64| {
            json!({ "metadata": { "generation": 2 }, "spec": { "replicas": 3 }, "status": {
                "observedGeneration": observed, "updatedReplicas": updated, "availableReplicas": available } })
        };
        for (object, want) in [
            (deployment(2, 3, 3), true),
            (deployment(1, 3, 3), false),
            (deployment(2, 2, 3), false),
            (deployment(2, 3, 2), false),
        ] {
            assert_eq!(rolled_out("Deployment", &object), want, "{object}");
        }
        let daemons = |updated: i64| {
            json!({ "metadata": { "generation": 1 }, "status": { "observedGeneration": 1,
                "desiredNumberScheduled": 2, "updatedNumberScheduled": updated, "numberAvailable": 2 } })
        };
        assert!(rolled_out("DaemonSet", &daemons(2)) && !rolled_out("DaemonSet", &daemons(1)));
        assert!(rolled_out(
            "StatefulSet",
            &json!({ "metadata": {}, "spec": { "replicas": 0 }, "status": {} })
        ));
    }
}
