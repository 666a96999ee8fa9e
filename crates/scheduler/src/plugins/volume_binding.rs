//! A pod goes where its volumes are, or where they can be made.
use crate::framework::{Filter, Plugin, Prepared, Wakes};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

/// Filters by claims and volumes.
pub struct VolumeBinding;

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn wakes(&self) -> Wakes {
        Wakes::VOLUME.or(Wakes::NODE_ADD).or(Wakes::NODE_LABELS)
    }
}

impl Filter for VolumeBinding {
    fn prepare<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Prepared<'a> {
        let volumes = snapshot.volumes();
        match volumes.claims_of(pod) {
            Err(rejection) => Prepared::Reject(rejection),
            Ok(claims) if claims.is_empty() => Prepared::Skip,
            Ok(claims) => {
                Prepared::Judge(Box::new(move |node: &NodeInfo| volumes.plan(&claims, node).map(|_| ())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use client::ObjectKey;
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::verdict;
    use crate::testing::{node, pod, snapshot};

    fn volume(name: &str, on: &str, more: Value) -> Value {
        let mut spec = json!({
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [on]}]}]}},
        });
        spec.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Available"}})
    }

    fn claim(class: &str, more: Value) -> Value {
        let mut spec = json!({"storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        spec.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        let bound = spec.get("volumeName").map(|_| json!({"pv.kubernetes.io/bind-completed": "yes"}));
        json!({"metadata": {"name": "data", "namespace": "default", "annotations": bound}, "spec": spec})
    }

    /// The verdicts for nodes a and b.
    fn check(claim: Option<Value>, volumes: &[Value]) -> [String; 2] {
        let mut s = snapshot([node("a", json!({})), node("b", json!({}))]);
        let v = s.volumes_mut();
        for (name, provisioner, mode) in [
            ("local", "kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
            ("dynamic", "x.y/z", "WaitForFirstConsumer"),
            ("now", "x.y/z", "Immediate"),
        ] {
            let class =
                json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
            v.classes.insert(name.into(), Arc::new(serde_json::from_value(class).expect("a class")));
        }
        if let Some(claim) = claim {
            let claim = Arc::new(serde_json::from_value(claim).expect("a claim"));
            v.claims.insert(ObjectKey::new("default", "data"), claim);
        }
        for volume in volumes {
            let name = volume["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            v.volumes.insert(name, Arc::new(serde_json::from_value(volume.clone()).expect("a volume")));
        }
        let p = pod(
            "p",
            json!({"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}),
        );
        ["a", "b"].map(|n| verdict(&VolumeBinding, &p, &s, s.node(n).expect("a node")))
    }

    #[test]
    fn pods_follow_their_volumes() {
        let wrong = "node(s) didn't match PersistentVolume's node affinity";
        let none = "node(s) didn't find available persistent volumes to bind";
        let unbound = "pod has unbound immediate PersistentVolumeClaims";
        let missing = "persistentvolumeclaim \"data\" not found";
        let gone = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
        let on_a = || volume("pv", "a", json!({}));
        for (claim, volumes, expect) in [
            (None, vec![], [missing, missing]),
            (Some(claim("now", json!({}))), vec![], [unbound, unbound]),
            (Some(claim("dynamic", json!({}))), vec![], ["", ""]),
            (Some(claim("local", json!({}))), vec![], [none, none]),
            (Some(claim("local", json!({}))), vec![on_a()], ["", none]),
            (Some(claim("local", json!({"accessModes": ["ReadWriteMany"]}))), vec![on_a()], [none, none]),
            (
                Some(claim("local", json!({"resources": {"requests": {"storage": "2Gi"}}}))),
                vec![on_a()],
                [none, none],
            ),
            (
                Some(claim("local", json!({}))),
                vec![volume("pv", "a", json!({"claimRef": {"name": "x"}}))],
                [none, none],
            ),
            (Some(claim("now", json!({"volumeName": "pv"}))), vec![on_a()], ["", wrong]),
            (Some(claim("now", json!({"volumeName": "pv"}))), vec![], [gone, gone]),
        ] {
            assert_eq!(check(claim.clone(), &volumes), expect, "{claim:?}");
        }
    }
}
