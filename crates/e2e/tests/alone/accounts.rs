//! What controllers count, on a live server: quotas, disruption budgets, the networks of Services.
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{ApiServer, Kubectl, binary, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

fn start() -> Result<(ApiServer, impl Drop)> {
    let server = ApiServer::start(&binary(), None)?;
    let root_ca = format!("--root-ca-file={}", server.pki().authority().certificate.display());
    // Several of them run at a time: none tells of its health.
    let flags = [root_ca.as_str(), "--use-service-account-credentials"];
    let controllers = server.join("kube-controller-manager", &flags)?;
    eventually("the default service account", PATIENCE, || {
        server.kubectl().run("get serviceaccount default").map(drop).with_context(|| controllers.said())
    })?;
    Ok((server, controllers))
}

/// Waits until a quota has counted so much.
fn used(kubectl: &Kubectl, quota: &str, want: &[(&str, &str)]) -> Result<()> {
    eventually(&format!("{quota} has counted {want:?}"), PATIENCE, || {
        for (name, amount) in want {
            let path = format!(".status.used.{}", name.replace('.', r"\."));
            let got = kubectl.field(&format!("resourcequota {quota}"), &path)?;
            ensure!(got == *amount, "{name} is {got:?}, not {amount:?}");
        }
        Ok(())
    })
}

fn pod(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers: [{{name: c, image: none{more}}}]\n"
    )
}

#[test]
fn quotas_follow_what_comes_and_goes() -> Result<()> {
    let (server, _controllers) = start()?;
    let kubectl = server.kubectl();
    kubectl.run("create configmap before")?;
    kubectl.feed(
        "create",
        "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: all}\nspec:\n  hard: {pods: 2, requests.cpu: 1, configmaps: 5, \
         services: 2, services.nodeports: 1, count/replicasets.apps: 1, count/poddisruptionbudgets.policy: 1, secrets: 3, \
         requests.storage: 1Gi}\n",
    )?;
    // What was there before counts too: the one above, and the root CA.
    let nothing = [
        ("pods", "0"),
        ("requests.cpu", "0"),
        ("configmaps", "2"),
        ("services", "1"),
        ("services.nodeports", "0"),
        ("count/replicasets.apps", "0"),
        ("secrets", "0"),
        ("requests.storage", "0"),
    ];
    used(&kubectl, "all", &nothing)?;
    ensure!(
        kubectl.field("resourcequota all", r".status.hard.requests\.storage")? == "1Gi",
        "no hard limits"
    );

    let needs = ", resources: {requests: {cpu: 600m}}";
    kubectl.feed("create", &pod("one", needs))?;
    kubectl.run("create configmap more")?;
    kubectl.run("create service nodeport n --tcp=80")?;
    kubectl.run("create poddisruptionbudget b --selector=app=x --min-available=1")?;
    used(
        &kubectl,
        "all",
        &[
            ("pods", "1"),
            ("requests.cpu", "600m"),
            ("configmaps", "3"),
            ("services", "2"),
            ("services.nodeports", "1"),
        ],
    )?;
    let over = kubectl.answer(&["create", "-f", "-"], Some(&pod("two", needs)))?.err;
    ensure!(
        over.contains("exceeded quota: all, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1"),
        "{over}"
    );
    let over = kubectl.refused("create service nodeport m --tcp=80")?;
    ensure!(over.contains("exceeded quota: all, requested: services=1"), "{over}");

    // A pod that has ended takes no processor; what is deleted takes nothing.
    let ended = r#"--patch={"status":{"phase":"Succeeded"}}"#;
    kubectl.args(&["patch", "pod", "one", "--subresource=status", ended])?;
    used(&kubectl, "all", &[("pods", "0"), ("requests.cpu", "0")])?;
    for gone in ["pod one", "configmap more", "service n", "poddisruptionbudget b"] {
        kubectl.run(&format!("delete {gone} --grace-period=0"))?;
    }
    let mut after = nothing.to_vec();
    after.push(("count/poddisruptionbudgets.policy", "0"));
    used(&kubectl, "all", &after)?;

    // Another limit, and what is not limited any more is not told any more.
    let other = r#"--patch={"spec":{"hard":{"pods":"7","secrets":null}}}"#;
    kubectl.args(&["patch", "resourcequota", "all", "--type=merge", other])?;
    eventually("the new limits", PATIENCE, || {
        let shown = kubectl.field("resourcequota all", ".status.hard.pods")?;
        let secrets = kubectl.field("resourcequota all", ".status.used.secrets")?;
        ensure!(shown == "7" && secrets.is_empty(), "{shown} {secrets:?}");
        Ok(())
    })?;
    kubectl.run("delete resourcequota all")?;
    kubectl.feed("create", &pod("one", ""))?;
    scopes(&kubectl)
}

fn scopes(kubectl: &Kubectl) -> Result<()> {
    let quota = |name: &str, scope: &str| {
        format!(
            "apiVersion: v1\nkind: ResourceQuota\nmetadata: {{name: {name}}}\nspec: {{hard: {{pods: 5}}, scopes: [{scope}]}}\n"
        )
    };
    for (name, scope) in [("best", "BestEffort"), ("rest", "NotBestEffort"), ("ending", "Terminating")] {
        kubectl.feed("create", &quota(name, scope))?;
    }
    used(kubectl, "best", &[("pods", "1")])?;
    used(kubectl, "rest", &[("pods", "0")])?;
    kubectl.feed("create", &pod("two", ", resources: {limits: {cpu: 100m, memory: 1Mi}}"))?;
    kubectl.feed("create", &(pod("three", "") + "  activeDeadlineSeconds: 3600\n"))?;
    used(kubectl, "best", &[("pods", "2")])?;
    used(kubectl, "rest", &[("pods", "1")])?;
    used(kubectl, "ending", &[("pods", "1")])?;
    kubectl.run("delete pods --all --grace-period=0 --force")?;
    for name in ["best", "rest", "ending"] {
        used(kubectl, name, &[("pods", "0")])?;
    }
    Ok(())
}

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeName: host
      containers: [{name: c, image: none}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  maxUnavailable: 34%
  selector: {matchLabels: {app: web}}
";

fn pods(kubectl: &Kubectl) -> Result<Vec<String>> {
    Ok(kubectl.run("get pods -l app=web -o name")?.lines().map(str::to_owned).collect())
}

/// Does what a kubelet does: says that pods run.
fn run_all(kubectl: &Kubectl) -> Result<()> {
    let ready = r#"--patch={"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#;
    for pod in pods(kubectl)? {
        // It may just have gone.
        kubectl.answer(&["patch", &pod, "--subresource=status", ready], None)?;
    }
    Ok(())
}

fn allows(kubectl: &Kubectl, want: &str) -> Result<()> {
    eventually(&format!("the budget allows {want}"), PATIENCE, || {
        let budget = "poddisruptionbudget web";
        let got = kubectl.field(budget, ".status.disruptionsAllowed")?;
        let generation = kubectl.field(budget, ".status.observedGeneration")?;
        ensure!(got == want && generation == "1", "{got:?} of generation {generation:?}");
        Ok(())
    })
}

#[test]
fn budgets_hold_evictions() -> Result<()> {
    let (server, _controllers) = start()?;
    let kubectl = server.kubectl();
    kubectl.feed("create", "apiVersion: v1\nkind: Node\nmetadata: {name: host}\n")?;
    // Nobody evicts for want of a heartbeat while this runs.
    let ready = r#"--patch={"status":{"conditions":[{"type":"Ready","status":"True","reason":"Test"}]}}"#;
    kubectl.args(&["patch", "node", "host", "--subresource=status", ready])?;
    kubectl.feed("create", DEPLOYMENT)?;
    eventually("three pods", PATIENCE, || {
        let names = pods(&kubectl)?;
        ensure!(names.len() == 3, "{names:?}");
        Ok(())
    })?;
    allows(&kubectl, "0")?;
    run_all(&kubectl)?;
    // A third of three, rounded up, is two.
    allows(&kubectl, "2")?;
    let status = kubectl.field("poddisruptionbudget web", ".status.expectedPods")?;
    ensure!(status == "3", "{status}");
    let condition = kubectl.field("poddisruptionbudget web", ".status.conditions[0].reason")?;
    ensure!(condition == "SufficientPods", "{condition}");

    let one = r#"--patch={"spec":{"maxUnavailable":"33%"}}"#;
    kubectl.args(&["patch", "poddisruptionbudget", "web", "--type=merge", one])?;
    eventually("one may go", PATIENCE, || {
        let got = kubectl.field("poddisruptionbudget web", ".status.disruptionsAllowed")?;
        ensure!(got == "1", "{got}");
        Ok(())
    })?;
    let names = pods(&kubectl)?;
    let evict = |pod: &str| {
        let name = pod.trim_start_matches("pod/");
        let body = format!(
            r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{name}"}},"deleteOptions":{{"gracePeriodSeconds":30}}}}"#
        );
        let path = format!("/api/v1/namespaces/default/pods/{name}/eviction");
        server.request(&path).method("POST").body("application/json", body.as_bytes()).send(&server.admin())
    };
    let (code, text) = evict(&names[0])?;
    ensure!(code == "201", "{code} {text}");
    let why = kubectl.field(&names[0], r#".status.conditions[?(@.type=="DisruptionTarget")].reason"#)?;
    ensure!(why == "EvictionByEvictionAPI", "{why}");
    let (code, text) = evict(&names[1])?;
    let words =
        ["Cannot evict pod as it would violate the pod's disruption budget.", "needs 2 healthy pods and has"];
    ensure!(code == "429" && words.iter().all(|w| text.contains(w)), "{code} {text}");
    // One that goes already is asked about by nobody.
    let (code, text) = evict(&names[0])?;
    ensure!(code == "201", "{code} {text}");
    kubectl.run(&format!("delete {} --grace-period=0 --force", names[0]))?;

    drain(&server, &kubectl)
}

/// `kubectl drain` goes as fast as the budget lets it.
fn drain(server: &ApiServer, kubectl: &Kubectl) -> Result<()> {
    let out = server.dir().join("drain.out");
    let mut drain = kubectl.background("drain host --grace-period=0 --timeout=120s", &out)?;
    let ended = eventually("the node is drained", Duration::from_secs(180), || {
        let ready = kubectl.run(
            r#"get pods -l app=web -o jsonpath={range.items[*]}{.metadata.deletionTimestamp}{.status.conditions[?(@.type=="Ready")].status},{end}"#,
        )?;
        if let Some(status) = drain.try_wait()? {
            return Ok(status);
        }
        run_all(kubectl)?;
        anyhow::bail!("still draining: {ready}")
    })?;
    let said = std::fs::read_to_string(&out)?;
    ensure!(ended.success(), "{ended}: {said}");
    ensure!(said.contains("node/host drained") && said.matches("evicted").count() >= 2, "{said}");
    Ok(())
}

#[test]
fn networks_of_services_come_and_go() -> Result<()> {
    let (server, _controllers) = start()?;
    let kubectl = server.kubectl();
    kubectl.feed(
        "create",
        "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: extra}\nspec: {cidrs: [172.31.7.0/28]}\n",
    )?;
    let condition = |path: &str| kubectl.field("servicecidr extra", &format!(".status.conditions[0].{path}"));
    eventually("the network is ready", PATIENCE, || {
        let finalizer = kubectl.field("servicecidr extra", ".metadata.finalizers[0]")?;
        ensure!(
            finalizer == "networking.k8s.io/service-cidr-finalizer" && condition("status")? == "True",
            "{finalizer}"
        );
        Ok(())
    })?;
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: 172.31.7.5, ports: [{port: 80}]}\n";
    eventually("its addresses are given", PATIENCE, || kubectl.feed("create", service))?;
    kubectl.run("get ipaddress 172.31.7.5")?;

    kubectl.run("delete servicecidr extra --wait=false")?;
    eventually("it waits for its addresses", PATIENCE, || {
        let said = condition("message")?;
        ensure!(said.starts_with("There are still IPAddresses referencing the ServiceCIDR"), "{said}");
        Ok(())
    })?;
    kubectl.run("delete service s")?;
    eventually("it is gone", PATIENCE, || {
        let left = kubectl.run("get servicecidrs -o name")?;
        ensure!(!left.contains("extra"), "{left}");
        Ok(())
    })
}

const REPLICATION: &str = "
apiVersion: v1
kind: ReplicationController
metadata: {name: old}
spec:
  replicas: 2
  selector: {app: old}
  template:
    metadata: {labels: {app: old}}
    spec: {containers: [{name: c, image: none}]}
";

#[test]
fn replication_controllers_keep_their_pods() -> Result<()> {
    let (server, _controllers) = start()?;
    let kubectl = server.kubectl();
    let pods = |count: usize| {
        eventually(&format!("{count} pods"), PATIENCE, || {
            let names = kubectl.run("get pods -l app=old -o name")?;
            ensure!(names.lines().count() == count, "{names}");
            let told = kubectl.field("replicationcontroller old", ".status.replicas")?;
            ensure!(told == count.to_string(), "{told}");
            Ok(())
        })
    };
    kubectl.feed("create", REPLICATION)?;
    pods(2)?;
    kubectl.run("scale replicationcontroller old --replicas=1")?;
    pods(1)?;
    // What a quota refuses is told as a condition, and the condition goes when it is over.
    kubectl.run("create quota few --hard=pods=1")?;
    used(&kubectl, "few", &[("pods", "1")])?;
    kubectl.run("scale replicationcontroller old --replicas=2")?;
    let condition = |want: &str| {
        eventually("the condition", PATIENCE, || {
            let path = r#".status.conditions[?(@.type=="ReplicaFailure")].reason"#;
            let got = kubectl.field("replicationcontroller old", path)?;
            ensure!(got == want, "{got:?}");
            Ok(())
        })
    };
    condition("FailedCreate")?;
    kubectl.run("scale replicationcontroller old --replicas=1")?;
    condition("")?;
    // Its pods stay when it goes alone, and go with it else.
    kubectl.run("delete replicationcontroller old --cascade=orphan")?;
    eventually("the pod has no owner", PATIENCE, || {
        let owners = kubectl.run("get pods -l app=old -o jsonpath={.items[*].metadata.ownerReferences}")?;
        ensure!(owners.is_empty(), "{owners}");
        Ok(())
    })?;
    kubectl.feed("create", &REPLICATION.replace("replicas: 2", "replicas: 1"))?;
    pods(1)?;
    kubectl.run("delete replicationcontroller old --cascade=foreground")?;
    eventually("all is gone", PATIENCE, || {
        let left = kubectl.run("get pods,replicationcontrollers -l app=old -o name")?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}
