//! Quality-of-service class of a pod.
use machinery::{Object, Quantity};
use serde_json::Value;

use crate::core::resource_list;

/// The resources that count.
const COMPUTED: [&str; 2] = ["cpu", "memory"];

fn amounts<'v>(resources: Option<&'v Value>, kind: &str) -> Vec<(&'v str, Quantity)> {
    let list = resources.and_then(|r| r.get(kind)).and_then(Value::as_object);
    list.into_iter()
        .flatten()
        .filter(|(name, _)| COMPUTED.contains(&name.as_str()))
        .filter_map(|(name, quantity)| Some((name.as_str(), resource_list::parse(quantity)?)))
        .filter(|(_, quantity)| !quantity.is_zero())
        .collect()
}

/// The class that a pod's requests and limits make.
pub(crate) fn qos_class(pod: &Object) -> &'static str {
    let of_pod = pod
        .at(&["spec", "resources"])
        .filter(|r| !amounts(Some(r), "limits").is_empty() || !amounts(Some(r), "requests").is_empty());
    let holders: Vec<Option<&Value>> = match of_pod {
        Some(resources) => vec![Some(resources)],
        None => ["containers", "initContainers"]
            .iter()
            .flat_map(|list| pod.list_at(&["spec", list]))
            .map(|container| container.get("resources"))
            .collect(),
    };
    let (mut any, mut guaranteed) = (false, true);
    for resources in holders {
        let (limits, requests) = (amounts(resources, "limits"), amounts(resources, "requests"));
        any |= !limits.is_empty() || !requests.is_empty();
        let limits_all = COMPUTED.iter().all(|name| limits.iter().any(|(n, _)| n == name));
        guaranteed &= limits_all && requests.iter().all(|request| limits.contains(request));
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
