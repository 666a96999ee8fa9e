//! What a pod needs of each resource, all containers together.
use std::collections::BTreeMap;

use machinery::{Object, Quantity};
use serde_json::Value;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Amounts of a map of quantities; what cannot be read is left out, since validation refuses it anyway.
pub fn amounts(value: Option<&Value>) -> Amounts {
    let map = value.and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), quantity(v)?))).collect()
}

/// One quantity, as text or as a number.
pub fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// Adds amounts to others.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.get(name).map_or(*amount, |have| have.add(amount));
        to.insert(name.clone(), sum);
    }
}

fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        if to.get(name).is_none_or(|have| have < amount) {
            to.insert(name.clone(), *amount);
        }
    }
}

/// `requests` or `limits` of a pod: the sum over its containers, or what its init containers need at their worst if
/// that is more; pod-level amounts win. Without overhead.
pub fn pod_amounts(pod: &Object, which: &str) -> Amounts {
    let of = |container: &Value| amounts(container.get("resources").and_then(|r| r.get(which)));
    let mut running = Amounts::new();
    for container in pod.list_at(&["spec", "containers"]) {
        add(&mut running, &of(container));
    }
    let (mut sidecars, mut worst) = (Amounts::new(), Amounts::new());
    for container in pod.list_at(&["spec", "initContainers"]) {
        let own = of(container);
        if container.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            raise(&mut worst, &sidecars);
        } else {
            let mut then = own;
            add(&mut then, &sidecars);
            raise(&mut worst, &then);
        }
    }
    raise(&mut running, &worst);
    for (name, amount) in amounts(pod.at(&["spec", "resources", which])) {
        running.insert(name, amount);
    }
    running
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sidecars_run_beside_everything_that_follows() {
        let needs = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let sidecar = |cpu: &str| json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        let check = |init: Vec<Value>, main: Vec<Value>, want: &str| {
            let pod =
                Object::from_value(json!({"spec": {"initContainers": init, "containers": main}})).unwrap();
            assert_eq!(pod_amounts(&pod, "requests")["cpu"].to_string(), want);
        };
        check(vec![], vec![needs("1"), needs("500m")], "1500m");
        check(vec![needs("2")], vec![needs("1"), needs("500m")], "2");
        check(vec![sidecar("1"), needs("2")], vec![needs("1")], "3");
        check(vec![needs("2"), sidecar("1")], vec![needs("1")], "2");
    }
}
