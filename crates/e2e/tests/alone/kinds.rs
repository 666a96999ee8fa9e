//! What an API server alone makes of kinds and subresources with rules of their own.
use anyhow::{Result, ensure};
use e2e::{ApiServer, Kubectl, binary};
use serde_json::Value;

const SCALER: &str = r"
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  maxReplicas: 4
  behavior: {scaleDown: {stabilizationWindowSeconds: 10}}
  metrics:
  - {type: Resource, resource: {name: memory, target: {type: Utilization, averageUtilization: 40}}}
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}
";
const EVENT: &str = r#"
apiVersion: events.k8s.io/v1
kind: Event
metadata: {name: started}
eventTime: "2024-01-01T00:00:00.000000Z"
reportingController: example.com/starter
reportingInstance: one
action: Start
reason: Started
type: Normal
note: it runs
regarding: {kind: Pod, name: web, namespace: default}
"#;
const POD: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers: [{name: main, image: none, resources: {requests: {cpu: 1}}}]
";
const LEASE: &str = r"
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: lead}
spec: {leaseDurationSeconds: 15}
";

fn has(text: &str, wanted: &[&str]) -> Result<()> {
    for word in wanted {
        ensure!(text.contains(word), "no {word:?} in:\n{text}");
    }
    Ok(())
}

#[test]
fn kinds_with_rules_of_their_own() -> Result<()> {
    let server = ApiServer::start(&binary(), None)?;
    let kubectl = server.kubectl();
    a_scaler_in_two_versions(&kubectl)?;
    an_event_in_two_groups(&kubectl)?;
    only_a_replacement_names_its_revision(&server)?;
    a_pod_through_its_subresources(&kubectl)?;
    has(
        &kubectl.run("get prioritylevelconfigurations")?,
        &["catch-all", "exempt", "leader-election", "workload-low"],
    )?;
    has(&kubectl.run("get flowschemas")?, &["exempt", "probes", "service-accounts", "catch-all"])
}

/// What the old version has no fields for travels in annotations, and comes back.
fn a_scaler_in_two_versions(kubectl: &Kubectl) -> Result<()> {
    let url = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/web";
    kubectl.feed("create", SCALER)?;
    let mut old: Value = serde_json::from_str(&kubectl.run(&format!("get --raw {url}"))?)?;
    ensure!(old["spec"]["targetCPUUtilizationPercentage"] == 50, "{old}");
    for name in ["metrics", "behavior"] {
        let annotation = &old["metadata"]["annotations"][format!("autoscaling.alpha.kubernetes.io/{name}")];
        ensure!(annotation.is_string(), "{old}");
    }
    old["spec"]["maxReplicas"] = 9.into();
    kubectl.feed("replace", &old.to_string())?;
    let new: Value = serde_json::from_str(&kubectl.run("get hpa web -o json")?)?;
    ensure!(new["apiVersion"] == "autoscaling/v2" && new["spec"]["maxReplicas"] == 9, "{new}");
    ensure!(new["spec"]["metrics"][0]["resource"]["name"] == "memory", "{new}");
    ensure!(new["spec"]["metrics"][1]["resource"]["target"]["averageUtilization"] == 50, "{new}");
    ensure!(new["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 10, "{new}");
    ensure!(new["metadata"]["annotations"].get("autoscaling.alpha.kubernetes.io/metrics").is_none(), "{new}");
    has(
        &kubectl.run("get horizontalpodautoscalers.v1.autoscaling")?,
        &["memory: <unknown>/40%, cpu: <unknown>/50%"],
    )
}

fn an_event_in_two_groups(kubectl: &Kubectl) -> Result<()> {
    kubectl.feed("create", EVENT)?;
    let selected = |what: &str| kubectl.run(&format!("get {what} -o name"));
    has(&selected("events.events.k8s.io --field-selector regarding.name=web")?, &["started"])?;
    has(&selected("events --field-selector involvedObject.name=web")?, &["started"])?;
    ensure!(selected("events.events.k8s.io --field-selector regarding.name=other")?.is_empty());
    has(&kubectl.field("event started", ".message")?, &["it runs"])?;
    let anonymous = EVENT.replace("started", "other").replace("action: Start\n", "");
    let answer = kubectl.answer(&["create", "-f", "-"], Some(&anonymous))?;
    has(&answer.err, &["action: Required value"])
}

fn only_a_replacement_names_its_revision(server: &ApiServer) -> Result<()> {
    let kubectl = server.kubectl();
    kubectl.feed("create", LEASE)?;
    let lease = server.request("/apis/coordination.k8s.io/v1/namespaces/default/leases/lead");
    let (code, body) =
        lease.method("PUT").body("application/yaml", LEASE.as_bytes()).send(&server.admin())?;
    ensure!(code == "422", "{code} {body}");
    has(&body, &["must be specified for an update"])?;
    let longer = r#"--patch={"spec":{"leaseDurationSeconds":20}}"#;
    kubectl.args(&["patch", "lease", "lead", "--type=merge", longer])?;
    has(&kubectl.field("lease lead", ".spec.leaseDurationSeconds")?, &["20"])
}

fn a_pod_through_its_subresources(kubectl: &Kubectl) -> Result<()> {
    kubectl.run("create serviceaccount default")?;
    kubectl.feed("create", POD)?;
    let patch = |subresource: &str, patch: &str| {
        kubectl.args(&["patch", "pod", "web", "--subresource", subresource, "--patch", patch])
    };
    // Resources change; all else that the patch says is left alone.
    let cpu = |n: u8| {
        format!(
            r#"{{"spec":{{"containers":[{{"name":"main","image":"x","resources":{{"requests":{{"cpu":"{n}"}}}}}}]}}}}"#
        )
    };
    patch("resize", &cpu(2))?;
    has(&kubectl.field("pod web", ".spec.containers[0].resources.requests.cpu")?, &["2"])?;
    has(&kubectl.field("pod web", ".spec.containers[0].image")?, &["none"])?;
    let error = kubectl.answer(&["patch", "pod", "web", "--patch", &cpu(3)], None)?.err;
    has(&error, &["spec: Forbidden: pod updates may not change fields other than"])?;
    let debugger = r#"{"spec":{"ephemeralContainers":[{"name":"look","image":"none"}]}}"#;
    // `kubectl` knows this subresource only by way of `debug`.
    kubectl.run("debug web --profile=general --image=none --container=look --attach=false")?;
    has(&kubectl.field("pod web", ".spec.ephemeralContainers[0].name")?, &["look"])?;
    let error = kubectl.answer(&["patch", "pod", "web", "--patch", debugger], None)?.err;
    ensure!(error.is_empty(), "what is there already is no change: {error}");
    has(&kubectl.field("pod web", ".metadata.generation")?, &["3"])?;
    patch("status", r#"{"status":{"phase":"Running"}}"#)?;
    has(&kubectl.run("get pods --field-selector status.phase=Running -o name")?, &["pod/web"])
}
