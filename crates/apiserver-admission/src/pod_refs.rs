//! What a pod refers to, read from its tree.
use machinery::Object;
use serde_json::Value;

/// The annotation of mirror pods: what a kubelet shows of a static pod.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Whether a kubelet shows a static pod through this object.
pub fn is_mirror(pod: &Object) -> bool {
    pod.annotation(MIRROR_ANNOTATION).is_some()
}

/// Containers of all three lists, each with the list it is in.
pub fn containers(pod: &Object) -> impl Iterator<Item = (&'static str, &Value)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|list| pod.list_at(&["spec", list]).iter().map(move |c| (list, c)))
}

fn items<'a>(of: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    of.get(list).and_then(Value::as_array).into_iter().flatten()
}

fn name_at<'a>(of: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(of, |v, key| v.get(key))?.as_str().filter(|s| !s.is_empty())
}

/// Names of the secrets a pod refers to.
pub fn secrets(pod: &Object) -> Vec<&str> {
    let mut out: Vec<&str> =
        pod.list_at(&["spec", "imagePullSecrets"]).iter().filter_map(|s| name_at(s, &["name"])).collect();
    for (_, container) in containers(pod) {
        out.extend(
            items(container, "env").filter_map(|e| name_at(e, &["valueFrom", "secretKeyRef", "name"])),
        );
        out.extend(items(container, "envFrom").filter_map(|e| name_at(e, &["secretRef", "name"])));
    }
    for volume in pod.list_at(&["spec", "volumes"]) {
        out.extend(name_at(volume, &["secret", "secretName"]));
        out.extend(name_at(volume, &["azureFile", "secretName"]));
        for source in volume.as_object().into_iter().flat_map(|v| v.values()) {
            out.extend(name_at(source, &["secretRef", "name"]));
            out.extend(name_at(source, &["nodePublishSecretRef", "name"]));
            out.extend(items(source, "sources").filter_map(|s| name_at(s, &["secret", "name"])));
        }
    }
    out
}

/// Names of the config maps a pod refers to.
pub fn config_maps(pod: &Object) -> Vec<&str> {
    let mut out = Vec::new();
    for (_, container) in containers(pod) {
        out.extend(
            items(container, "env").filter_map(|e| name_at(e, &["valueFrom", "configMapKeyRef", "name"])),
        );
        out.extend(items(container, "envFrom").filter_map(|e| name_at(e, &["configMapRef", "name"])));
    }
    for volume in pod.list_at(&["spec", "volumes"]) {
        out.extend(name_at(volume, &["configMap", "name"]));
        out.extend(projections(volume).filter_map(|s| name_at(s, &["configMap", "name"])));
    }
    out
}

/// The sources of a projected volume.
pub fn projections(volume: &Value) -> impl Iterator<Item = &Value> {
    volume.get("projected").and_then(|p| p.get("sources")).and_then(Value::as_array).into_iter().flatten()
}
