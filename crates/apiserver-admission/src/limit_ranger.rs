//! `LimitRanger`: a namespace's LimitRanges fill in requests and limits, and bound them.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::{Object, Quantity, StatusResult};
use quota::{Amounts, amounts, pod_amounts, quantity};
use serde_json::{Map, Value};

use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

/// The plugin.
pub struct LimitRanger(pub Arc<dyn ClusterView>);

impl LimitRanger {
    /// The namespace's ranges, where this request is subject to them.
    fn ranges(&self, a: &Attributes<'_>) -> Vec<Arc<Object>> {
        let is_pod = a.is("", "pods") && a.operation == Operation::Create || a.is_sub("", "pods", "resize");
        let leaving = a.old.is_some_and(Object::is_deleting);
        if leaving || !(is_pod || a.is("", "persistentvolumeclaims")) {
            return Vec::new();
        }
        self.0.list(Resource::LIMIT_RANGES, a.namespace)
    }
}

/// Items of one type.
fn items<'a>(range: &'a Object, ty: &'a str) -> impl Iterator<Item = &'a Value> {
    range
        .list_at(&["spec", "limits"])
        .iter()
        .filter(move |i| i.get("type").and_then(Value::as_str) == Some(ty))
}

/// Fills what containers leave out; gives a sentence for each list that was filled.
fn fill(pod: &mut Object, range: &Object) -> Vec<String> {
    let (mut limits, mut requests) = (Map::new(), Map::new());
    for item in items(range, "Container") {
        let map = |key: &str| item.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        // What the item leaves out follows from what it says, as in its own defaults.
        let (min, mut default, mut default_request) = (map("min"), map("default"), map("defaultRequest"));
        for (name, amount) in map("max") {
            default.entry(name).or_insert(amount);
        }
        for (name, amount) in default.iter().chain(&min) {
            default_request.entry(name.clone()).or_insert_with(|| amount.clone());
        }
        limits.extend(default);
        requests.extend(default_request);
    }
    let mut sentences = Vec::new();
    for (list, shown) in [("containers", "container"), ("initContainers", "init container")] {
        let Some(Value::Array(containers)) = pod.0.get_mut("spec").and_then(|s| s.get_mut(list)) else {
            continue;
        };
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            let name = container.get("name").and_then(Value::as_str).unwrap_or("").to_owned();
            for (which, singular, defaults) in
                [("requests", "request", &requests), ("limits", "limit", &limits)]
            {
                let resources = container.entry("resources").or_insert_with(|| Value::Object(Map::new()));
                let Some(resources) = resources.as_object_mut() else { continue };
                let have = resources.get(which).and_then(Value::as_object);
                let absent: Vec<String> =
                    defaults.keys().filter(|k| have.is_none_or(|h| !h.contains_key(*k))).cloned().collect();
                if absent.is_empty() {
                    continue;
                }
                let mut filled = have.cloned().unwrap_or_default();
                for key in &absent {
                    filled.insert(key.clone(), defaults[key].clone());
                }
                resources.insert(which.to_owned(), Value::Object(filled));
                sentences.push(format!("{} {singular} for {shown} {name}", absent.join(", ")));
            }
        }
    }
    sentences
}

/// One bound: what is compared with what, and how a breach reads.
struct Bounds<'a> {
    ty: &'a str,
    requests: &'a Amounts,
    limits: &'a Amounts,
}

impl Bounds<'_> {
    fn minimum(&self, name: &str, min: &Quantity) -> Option<String> {
        let head = format!("minimum {name} usage per {} is {min}", self.ty);
        let Some(request) = self.requests.get(name) else {
            return Some(format!("{head}.  No request is specified"));
        };
        if request < min {
            return Some(format!("{head}, but request is {request}"));
        }
        let limit = self.limits.get(name).filter(|limit| *limit < min)?;
        Some(format!("{head}, but limit is {limit}"))
    }

    fn maximum(&self, name: &str, max: &Quantity) -> Option<String> {
        let head = format!("maximum {name} usage per {} is {max}", self.ty);
        let Some(limit) = self.limits.get(name) else {
            return Some(format!("{head}.  No limit is specified"));
        };
        if limit > max {
            return Some(format!("{head}, but limit is {limit}"));
        }
        let request = self.requests.get(name).filter(|request| *request > max)?;
        Some(format!("{head}, but request is {request}"))
    }

    fn maximum_request(&self, name: &str, max: &Quantity) -> Option<String> {
        let head = format!("maximum {name} usage per {} is {max}", self.ty);
        let Some(request) = self.requests.get(name) else {
            return Some(format!("{head}.  No request is specified"));
        };
        (request > max).then(|| format!("{head}, but request is {request}"))
    }

    fn ratio(&self, name: &str, max: &Quantity) -> Option<String> {
        let head = format!("{name} max limit to request ratio per {} is {max}, but", self.ty);
        let Some(request) = self.requests.get(name).filter(|q| !q.is_zero()) else {
            return Some(format!("{head} no request is specified or request is 0"));
        };
        let Some(limit) = self.limits.get(name).filter(|q| !q.is_zero()) else {
            return Some(format!("{head} no limit is specified or limit is 0"));
        };
        let ratio = limit.as_f64() / request.as_f64();
        (ratio > max.as_f64()).then(|| format!("{head} provided ratio is {ratio:.6}"))
    }

    /// All bounds of one item of a range.
    fn breaches(&self, item: &Value) -> Vec<String> {
        let of_claim = self.ty == "PersistentVolumeClaim";
        let bounds = |key: &str| amounts(item.get(key));
        let mut out: Vec<String> = bounds("min").iter().filter_map(|(n, q)| self.minimum(n, q)).collect();
        let maximum =
            |n: &str, q: &Quantity| if of_claim { self.maximum_request(n, q) } else { self.maximum(n, q) };
        out.extend(bounds("max").iter().filter_map(|(n, q)| maximum(n, q)));
        if !of_claim {
            out.extend(bounds("maxLimitRequestRatio").iter().filter_map(|(n, q)| self.ratio(n, q)));
        }
        out
    }
}

fn breaches(range: &Object, object: &Object, is_pod: bool) -> Vec<String> {
    let mut out = Vec::new();
    if !is_pod {
        let requests = amounts(object.at(&["spec", "resources", "requests"]));
        let bounds = Bounds { ty: "PersistentVolumeClaim", requests: &requests, limits: &Amounts::new() };
        return items(range, bounds.ty).flat_map(|item| bounds.breaches(item)).collect();
    }
    for item in items(range, "Container") {
        for list in ["containers", "initContainers"] {
            for container in object.list_at(&["spec", list]) {
                let of = |which: &str| amounts(container.get("resources").and_then(|r| r.get(which)));
                let (requests, limits) = (of("requests"), of("limits"));
                out.extend(Bounds { ty: "Container", requests: &requests, limits: &limits }.breaches(item));
            }
        }
    }
    for item in items(range, "Pod") {
        let (requests, limits) = (pod_amounts(object, "requests"), pod_amounts(object, "limits"));
        out.extend(Bounds { ty: "Pod", requests: &requests, limits: &limits }.breaches(item));
    }
    out
}

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        if !a.is("", "pods") {
            return Ok(());
        }
        let ranges = self.ranges(a);
        let Some(pod) = a.object_mut() else { return Ok(()) };
        for range in ranges {
            let sentences = fill(pod, &range);
            if !sentences.is_empty() {
                let text = format!("LimitRanger plugin set: {}", sentences.join("; "));
                pod.set(&["metadata", "annotations", "kubernetes.io/limit-ranger"], text);
            }
        }
        Ok(())
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        let Some(object) = a.object() else { return Ok(()) };
        for range in self.ranges(a) {
            let mut breaches = breaches(&range, object, a.gvr.resource == "pods");
            let mut seen = Vec::new();
            breaches.retain(|b| {
                let new = !seen.contains(b);
                seen.push(b.clone());
                new
            });
            match breaches.as_slice() {
                [] => {}
                [one] => return Err(a.forbidden(one)),
                many => return Err(a.forbidden(format!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
}

/// Whether a quantity in a tree is readable and not zero; shared with the claim-resize plugin.
pub(crate) fn storage_request(claim: &Object) -> Option<Quantity> {
    claim.at(&["spec", "resources", "requests", "storage"]).and_then(quantity)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Ask, FakeCluster, object};

    fn plugin(limits: Value) -> LimitRanger {
        let range = json!({"metadata": {"name": "r", "namespace": "a"}, "spec": {"limits": limits}});
        LimitRanger(Arc::new(FakeCluster::default().with(Resource::LIMIT_RANGES, range)))
    }

    fn pod(resources: Value) -> Ask {
        Ask::create_pod(json!({"metadata": {"name": "p", "namespace": "a"},
            "spec": {"containers": [{"name": "c", "resources": resources}]}}))
    }

    #[tokio::test]
    async fn fills_what_is_left_out() {
        let plugin = plugin(
            json!([{"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"},
            "max": {"memory": "1Gi"}}]),
        );
        let filled = pod(json!({})).run(&plugin).await.unwrap();
        let want =
            json!({"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "500m", "memory": "1Gi"}});
        assert_eq!(filled.list_at(&["spec", "containers"])[0]["resources"], want);
        assert_eq!(
            filled.annotation("kubernetes.io/limit-ranger"),
            Some(
                "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c"
            )
        );
        let full =
            json!({"requests": {"cpu": "1", "memory": "1Mi"}, "limits": {"cpu": "1", "memory": "1Mi"}});
        let kept = pod(full.clone()).run(&plugin).await.unwrap();
        assert_eq!(kept.list_at(&["spec", "containers"])[0]["resources"], full);
        assert_eq!(kept.annotation("kubernetes.io/limit-ranger"), None);
    }

    #[tokio::test]
    async fn breaches_read_as_upstream() {
        let check = async |limits: Value, resources: Value, want: &str| {
            let got = pod(resources).run(&plugin(limits)).await.err().unwrap_or_default();
            assert_eq!(
                got,
                if want.is_empty() { String::new() } else { format!("pods \"p\" is forbidden: {want}") }
            );
        };
        let max = json!([{"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}}]);
        check(max.clone(), json!({}), "").await;
        check(
            max.clone(),
            json!({"limits": {"cpu": "2"}}),
            "maximum cpu usage per Container is 1, but limit is 2",
        )
        .await;
        check(
            max,
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1500m"}}),
            "maximum cpu usage per Container is 1, but request is 1500m",
        )
        .await;
        let pods = json!([{"type": "Pod", "min": {"memory": "64Mi"}, "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "2"}}]);
        check(
            pods.clone(),
            json!({"requests": {"memory": "32Mi"}}),
            "[minimum memory usage per Pod is 64Mi, but request is 32Mi, maximum cpu usage per Pod is 1.  No limit is \
             specified, cpu max limit to request ratio per Pod is 2, but no request is specified or request is 0]",
        )
        .await;
        check(
            pods,
            json!({"requests": {"memory": "64Mi", "cpu": "100m"}, "limits": {"cpu": "500m"}}),
            "cpu max limit to request ratio per Pod is 2, but provided ratio is 5.000000",
        )
        .await;
    }

    #[tokio::test]
    async fn claims_are_bounded_too() {
        let plugin = plugin(
            json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]),
        );
        for (storage, want) in [
            ("1Gi", ""),
            ("512Mi", "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 512Mi"),
            ("3Gi", "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"),
        ] {
            let claim = object(json!({"metadata": {"name": "c", "namespace": "a"},
                "spec": {"resources": {"requests": {"storage": storage}}}}));
            let ask = Ask {
                object: Some(claim),
                ..Ask::new(Operation::Create, ("", "persistentvolumeclaims"), "PersistentVolumeClaim")
            };
            let got = ask.run(&plugin).await.err().unwrap_or_default();
            assert!(got.ends_with(want) && got.is_empty() == want.is_empty(), "{got}");
        }
    }
}
