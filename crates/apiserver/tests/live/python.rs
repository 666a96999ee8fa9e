//! The Python client of the Kubernetes project: typed, dynamic, watch.
use std::process::Stdio;

use anyhow::{Result, ensure};

use crate::harness::Live;

const SCRIPT: &str = r#"
import sys, threading
from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

config.load_kube_config(config_file=sys.argv[1])
core = client.CoreV1Api()
core.create_namespaced_config_map("default", {"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"k": "v"}})
assert core.read_namespaced_config_map("a", "default").data == {"k": "v"}
core.patch_namespaced_config_map("a", "default", {"data": {"k": "w"}})
listed = core.list_namespaced_config_map("default", label_selector="x=y")
assert [i.data["k"] for i in listed.items] == ["w"], listed

try:
    core.read_namespaced_config_map("none", "default")
    raise AssertionError("it is there")
except ApiException as e:
    assert e.status == 404 and '"reason":"NotFound"' in e.body, e

for n in range(5):
    core.create_namespaced_config_map("default", {"metadata": {"name": "page-%d" % n}})
names, token = [], None
while True:
    page = core.list_namespaced_config_map("default", limit=2, _continue=token)
    names += [i.metadata.name for i in page.items]
    token = page.metadata._continue
    if not token:
        break
assert [n for n in names if n.startswith("page-")] == ["page-%d" % n for n in range(5)], names

seen = []
w = watch.Watch()
def write():
    core.create_namespaced_config_map("default", {"metadata": {"name": "b"}})
    core.delete_namespaced_config_map("b", "default")
threading.Timer(0.3, write).start()
for event in w.stream(core.list_namespaced_config_map, "default", resource_version=listed.metadata.resource_version, timeout_seconds=20):
    if event["object"].metadata.name == "b":
        seen.append(event["type"])
        if event["type"] == "DELETED":
            w.stop()
assert seen == ["ADDED", "DELETED"], seen

dyn = dynamic.DynamicClient(client.ApiClient())
deployments = dyn.resources.get(api_version="apps/v1", kind="Deployment")
made = deployments.create(namespace="default", body={
    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
    "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
        "metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
assert made.spec.replicas == 1 and made.metadata.generation == 1, made
deployments.patch(namespace="default", name="d", body={"spec": {"replicas": 3}}, content_type="application/merge-patch+json")
assert deployments.get(namespace="default", name="d").spec.replicas == 3
assert [d.metadata.name for d in deployments.get(namespace="default").items] == ["d"]
for event in deployments.watch(namespace="default", timeout=20):
    assert event["type"] == "ADDED" and event["object"].metadata.name == "d", event
    break
deployments.delete(namespace="default", name="d", body={})
maps = dyn.resources.get(api_version="v1", kind="ConfigMap")
assert maps.get(namespace="default", name="a").data.k == "w"
assert client.VersionApi().get_code().minor == "36"
print("python client", __import__("kubernetes").__version__, "is content")
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_is_content() -> Result<()> {
    // Debian's own, which is where Debian's package of the client belongs.
    let python = "/usr/bin/python3";
    let import =
        std::process::Command::new(python).args(["-c", "import kubernetes"]).stderr(Stdio::null()).status();
    if !import.is_ok_and(|s| s.success()) {
        println!("SKIPPED: the Python client is not installed (Debian package python3-kubernetes)");
        return Ok(());
    }
    let live = Live::start().await?;
    let kubeconfig = live.kubeconfig()?;
    let work = move || std::process::Command::new(python).args(["-c", SCRIPT]).arg(kubeconfig).output();
    let output = tokio::task::spawn_blocking(work).await??;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success() && said.contains("is content"), "{said}");
    Ok(())
}
