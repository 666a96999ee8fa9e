//! Defaults of a pod specification: the same for a pod and for a template, so that comparisons of the two hold.
use std::collections::BTreeMap;

use machinery::Quantity;
use serde_json::Value;

use crate::core::resource_list;
use crate::tree::{
    Tree, below, child, default_number, default_struct, default_text, default_value, drop_false, each,
    ensure, has, text_of,
};

/// Mode of files in a volume: 0644.
const FILE_MODE: i64 = 0o644;

/// Fills the pod specification of a template or of a pod.
pub(crate) fn fill_pod_spec(spec: &mut Tree) {
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default_struct(spec, "securityContext");
    default_value(spec, "terminationGracePeriodSeconds", 30);
    default_text(spec, "schedulerName", "default-scheduler");
    fill_service_account(spec);
    drop_false(spec, &["hostNetwork", "hostPID", "hostIPC"]);
    for volume in each(spec, "volumes") {
        fill_volume(volume);
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in each(spec, list) {
            fill_container(container);
        }
    }
    resource_list::fill(spec, "overhead");
    if let Some(resources) = child(spec, "resources") {
        fill_resources(resources);
    }
}

/// Fills the pod template in field `template`.
pub(crate) fn fill_template(owner: &mut Tree) {
    let template = ensure(owner, "template");
    ensure(template, "metadata");
    fill_pod_spec(ensure(template, "spec"));
}

/// Both spellings of the service account carry the same name.
fn fill_service_account(spec: &mut Tree) {
    let mut name = text_of(spec, "serviceAccountName").to_owned();
    if name.is_empty() {
        name = text_of(spec, "serviceAccount").to_owned();
    }
    if name.is_empty() {
        spec.remove("serviceAccountName");
        spec.remove("serviceAccount");
    } else {
        spec.insert("serviceAccountName".into(), name.clone().into());
        spec.insert("serviceAccount".into(), name.into());
    }
}

/// Fills what only a stand-alone pod gets: service links, requests from limits, host ports of the host network.
pub(crate) fn fill_standalone(spec: &mut Tree) {
    default_value(spec, "enableServiceLinks", true);
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["initContainers", "containers"] {
        for container in each(spec, list) {
            requests_from_limits(container);
            if host_network {
                for port in each(container, "ports") {
                    if let Some(number) = port.get("containerPort").and_then(Value::as_i64) {
                        default_number(port, "hostPort", number);
                    }
                }
            }
        }
    }
    fill_pod_requests(spec);
}

/// A pod that has limits of its own requests what its containers do, or else what it limits.
fn fill_pod_requests(spec: &mut Tree) {
    let limits = match child(spec, "resources").and_then(|r| r.get("limits")) {
        Some(Value::Object(limits)) if !limits.is_empty() => limits.clone(),
        _ => return,
    };
    let of_containers = container_requests(spec);
    let Some(resources) = child(spec, "resources") else { return };
    let requests = ensure(resources, "requests");
    for (name, quantity) in of_containers {
        if matches!(name.as_str(), "cpu" | "memory") {
            default_value(requests, &name, quantity.to_string());
        }
    }
    for (name, quantity) in limits {
        if matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-") {
            default_value(requests, &name, quantity);
        }
    }
}

/// What the containers of a pod request together, at the time when they need most.
fn container_requests(spec: &Tree) -> BTreeMap<String, Quantity> {
    let list = |name: &str| spec.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let requests = |container: &Value| -> Vec<(String, Quantity)> {
        let all = container.pointer("/resources/requests").and_then(Value::as_object);
        all.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), resource_list::parse(v)?))).collect()
    };
    let add = |sum: &mut BTreeMap<String, Quantity>, container: &Value| {
        for (name, quantity) in requests(container) {
            let total = sum.get(&name).map_or(quantity, |before| before.add(&quantity));
            sum.insert(name, total);
        }
    };
    let (mut sidecars, mut most) = (BTreeMap::new(), BTreeMap::<String, Quantity>::new());
    for container in list("initContainers") {
        let mut now = sidecars.clone();
        add(&mut now, container);
        if container.get("restartPolicy").is_some_and(|p| p == "Always") {
            sidecars = now.clone();
        }
        for (name, quantity) in now {
            if most.get(&name).is_none_or(|before| *before < quantity) {
                most.insert(name, quantity);
            }
        }
    }
    let mut together = sidecars;
    list("containers").iter().for_each(|container| add(&mut together, container));
    for (name, quantity) in together {
        if most.get(&name).is_none_or(|before| *before < quantity) {
            most.insert(name, quantity);
        }
    }
    most
}

fn requests_from_limits(container: &mut Tree) {
    let Some(resources) = child(container, "resources") else { return };
    let Some(Value::Object(limits)) = resources.get("limits") else { return };
    let limits = limits.clone();
    if limits.is_empty() {
        return;
    }
    let requests = ensure(resources, "requests");
    for (name, quantity) in limits {
        default_value(requests, &name, quantity);
    }
}

fn fill_container(container: &mut Tree) {
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    let policy = pull_policy(text_of(container, "image"));
    default_text(container, "imagePullPolicy", policy);
    drop_false(container, &["stdin", "stdinOnce", "tty"]);
    for port in each(container, "ports") {
        default_text(port, "protocol", "TCP");
        if port.get("hostPort").and_then(Value::as_i64) == Some(0) {
            port.remove("hostPort");
        }
    }
    for variable in each(container, "env") {
        if let Some(field) = below(variable, &["valueFrom", "fieldRef"]) {
            default_text(field, "apiVersion", "v1");
        }
        if let Some(resource) = below(variable, &["valueFrom", "resourceFieldRef"]) {
            fill_divisor(resource);
        }
        if let Some(file) = below(variable, &["valueFrom", "fileKeyRef"]) {
            default_value(file, "optional", false);
        }
    }
    for mount in each(container, "volumeMounts") {
        drop_false(mount, &["readOnly"]);
    }
    default_struct(container, "resources");
    fill_resources(ensure(container, "resources"));
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = child(container, probe) {
            fill_probe(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(http) = below(container, &["lifecycle", hook, "httpGet"]) {
            fill_http_get(http);
        }
    }
}

fn fill_resources(resources: &mut Tree) {
    resource_list::fill(resources, "limits");
    resource_list::fill(resources, "requests");
}

fn fill_probe(probe: &mut Tree) {
    default_number(probe, "timeoutSeconds", 1);
    default_number(probe, "periodSeconds", 10);
    default_number(probe, "successThreshold", 1);
    default_number(probe, "failureThreshold", 3);
    if let Some(http) = child(probe, "httpGet") {
        fill_http_get(http);
    }
    if let Some(grpc) = child(probe, "grpc") {
        default_value(grpc, "service", "");
    }
}

fn fill_http_get(http: &mut Tree) {
    default_text(http, "path", "/");
    default_text(http, "scheme", "HTTP");
}

/// `Always` for a `latest` image, whether that is written or meant; else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let latest = if image.contains('@') {
        false
    } else {
        match last.split_once(':') {
            Some((_, tag)) => tag == "latest",
            None => !last.is_empty(),
        }
    };
    if latest { "Always" } else { "IfNotPresent" }
}

/// Names of all volume sources.
pub(crate) const VOLUME_SOURCES: [&str; 30] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "projected",
    "quobyte",
    "rbd",
    "scaleIO",
    "secret",
    "storageos",
    "vsphereVolume",
];

fn fill_volume(volume: &mut Tree) {
    if !VOLUME_SOURCES.iter().any(|source| has(volume, source)) {
        default_struct(volume, "emptyDir");
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = child(volume, source) {
            default_value(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(downward) = child(volume, "downwardAPI") {
        fill_downward_items(downward);
    }
    if let Some(projected) = child(volume, "projected") {
        for source in each(projected, "sources") {
            if let Some(token) = child(source, "serviceAccountToken") {
                default_value(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = child(source, "downwardAPI") {
                fill_downward_items(downward);
            }
        }
    }
    if let Some(host_path) = child(volume, "hostPath") {
        default_value(host_path, "type", "");
    }
    if let Some(empty_dir) = child(volume, "emptyDir") {
        resource_list::fill_one(empty_dir, "sizeLimit");
    }
    if let Some(claim) = below(volume, &["ephemeral", "volumeClaimTemplate", "spec"]) {
        fill_claim_spec(claim);
    }
    fill_remote_volume(volume);
}

/// Fills the specification of a volume claim, of a template for one too.
pub(crate) fn fill_claim_spec(spec: &mut Tree) {
    default_value(spec, "volumeMode", "Filesystem");
    if let Some(resources) = child(spec, "resources") {
        fill_resources(resources);
    }
}

/// A divisor that is not written reads as zero, which means one.
fn fill_divisor(resource: &mut Tree) {
    default_value(resource, "divisor", "0");
    resource_list::fill_one(resource, "divisor");
}

fn fill_downward_items(downward: &mut Tree) {
    for item in each(downward, "items") {
        if let Some(field) = child(item, "fieldRef") {
            default_text(field, "apiVersion", "v1");
        }
        if let Some(resource) = child(item, "resourceFieldRef") {
            fill_divisor(resource);
        }
    }
}

/// Sources over the network, the same for volumes of pods and for persistent volumes.
pub(crate) fn fill_remote_volume(source: &mut Tree) {
    if let Some(iscsi) = child(source, "iscsi") {
        default_text(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = child(source, "rbd") {
        default_text(rbd, "pool", "rbd");
        default_text(rbd, "user", "admin");
        default_text(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = child(source, "azureDisk") {
        default_value(disk, "cachingMode", "ReadWrite");
        default_value(disk, "kind", "Shared");
        default_value(disk, "fsType", "ext4");
        default_value(disk, "readOnly", false);
    }
    if let Some(scale_io) = child(source, "scaleIO") {
        default_text(scale_io, "storageMode", "ThinProvisioned");
        default_text(scale_io, "fsType", "xfs");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(spec: Value) -> Value {
        let Value::Object(mut spec) = spec else { panic!("a struct") };
        fill_pod_spec(&mut spec);
        Value::Object(spec)
    }

    #[test]
    fn a_short_pod_gets_every_default() {
        let spec = filled(
            json!({"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 80}],
            "livenessProbe": {"httpGet": {"port": 80}, "timeoutSeconds": 0}}],
            "volumes": [{"name": "v"}, {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
        );
        assert_eq!(
            spec,
            json!({
                "containers": [{
                    "name": "a", "image": "x", "imagePullPolicy": "Always",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                    "resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                }],
                "volumes": [
                    {"name": "v", "emptyDir": {}},
                    {"name": "t", "projected": {"defaultMode": 420,
                        "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}},
                ],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
                "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler",
            })
        );
        assert_eq!(filled(spec.clone()), spec, "filling twice changes nothing");
    }

    #[test]
    fn only_a_latest_image_is_always_pulled() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("reg:5000/nginx", "Always"),
            ("reg:5000/nginx:1.2", "IfNotPresent"),
            ("nginx@sha256:0123", "IfNotPresent"),
            ("nginx:1", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn both_spellings_of_the_service_account_agree() {
        let spec = filled(json!({"serviceAccount": "bob"}));
        assert_eq!(spec["serviceAccountName"], "bob");
        let spec = filled(json!({"serviceAccount": "bob", "serviceAccountName": "eve"}));
        assert_eq!(spec["serviceAccount"], "eve");
    }

    #[test]
    fn a_pod_requests_what_it_limits() {
        let Value::Object(mut spec) = json!({"hostNetwork": true, "containers": [
            {"ports": [{"containerPort": 80}],
             "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}}}]})
        else {
            unreachable!()
        };
        fill_standalone(&mut spec);
        assert_eq!(spec["containers"][0]["resources"]["requests"], json!({"cpu": "100m", "memory": "1Gi"}));
        assert_eq!(spec["containers"][0]["ports"][0]["hostPort"], 80);
        assert_eq!(spec["enableServiceLinks"], true);
    }
}
