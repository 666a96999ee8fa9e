//! Which rules belong to which resource.
use crate::rules::{Main, OfStatus};
use crate::strategy::{Generic, Strategy};
use crate::{apps, core};

/// The rules of a resource, or of one of its subresources.
pub fn strategy_for(group: &str, plural: &str, subresource: &str) -> &'static dyn Strategy {
    match (group, plural, subresource) {
        ("", "namespaces", "") => &Main(core::namespace::Namespace),
        ("", "namespaces", "status") => &OfStatus(core::namespace::Namespace),
        ("", "namespaces", "finalize") => &core::namespace::Finalize,
        ("", "pods", "") => &Main(core::pod::Pod),
        ("", "pods", "status") => &OfStatus(core::pod::Pod),
        ("", "services", "") => &Main(core::service::Service),
        ("", "services", "status") => &OfStatus(core::service::Service),
        ("apps", "deployments", "") => &Main(apps::deployment::Deployment),
        ("apps", "deployments", "status") => &OfStatus(apps::deployment::Deployment),
        ("apps", "replicasets", "") => &Main(apps::replica_set::ReplicaSet),
        ("apps", "replicasets", "status") => &OfStatus(apps::replica_set::ReplicaSet),
        _ => generic(group, plural, subresource),
    }
}

const fn rules(has_status: bool, has_generation: bool, is_status: bool) -> Generic {
    Generic { has_status, has_generation, is_status }
}

fn generic(group: &str, plural: &str, subresource: &str) -> &'static Generic {
    if subresource == "status" {
        return &const { rules(true, true, true) };
    }
    let has_status = api::kinds::KINDS
        .iter()
        .any(|k| k.group == group && k.plural == plural && k.subresource("status").is_some());
    match (has_status, counts_generations(group, plural)) {
        (true, true) => &const { rules(true, true, false) },
        (true, false) => &const { rules(true, false, false) },
        (false, true) => &const { rules(false, true, false) },
        (false, false) => &const { rules(false, false, false) },
    }
}

/// Kinds without rules of their own whose `metadata.generation` upstream sets. Custom resources all have it.
fn counts_generations(group: &str, plural: &str) -> bool {
    match group {
        "flowcontrol.apiserver.k8s.io" => true,
        "resource.k8s.io" => matches!(plural, "devicetaintrules"),
        _ => !api::kinds::KINDS.iter().any(|k| k.group == group),
    }
}
