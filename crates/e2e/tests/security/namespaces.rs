//! Plugins of admission that are off unless asked for: what the pods of a namespace may ask for, who owns what, which
//! images run. And those that look at a pod's node.
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Kubectl, eventually};

use crate::control_plane::ControlPlane;
use crate::hook::Webhook;

const PLUGINS: &str = "--enable-admission-plugins=NamespaceAutoProvision,PodNodeSelector,PodTolerationRestriction,\
                       OwnerReferencesPermissionEnforcement,ImagePolicyWebhook";

fn config(hook: &Webhook) -> String {
    format!(
        "apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: ImagePolicyWebhook
  configuration:
    imagePolicy: {{kubeConfigFile: {}, allowTTL: 60, denyTTL: 60, retryBackoff: 50}}
- name: PodNodeSelector
  configuration:
    podNodeSelectorPluginConfig: {{clusterDefaultNodeSelector: 'pool=shared'}}
- name: PodTolerationRestriction
  configuration:
    apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1
    kind: Configuration
    whitelist: [{{operator: Exists, effect: NoExecute}}, {{key: node.kubernetes.io/memory-pressure, operator: Exists}}]
- name: ResourceQuota
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ResourceQuotaConfiguration
    limitedResources:
    - resource: pods
      matchScopes: [{{scopeName: PriorityClass, operator: In, values: [precious]}}]
",
        hook.config()
    )
}

fn pod(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  serviceAccountName: default\n  containers: [{{name: c, \
         image: '{image}', resources: {{requests: {{cpu: 100m}}}}}}]\n{more}"
    )
}

fn refusal(kubectl: &Kubectl, yaml: &str, want: &str) -> Result<()> {
    let answer = kubectl.answer(&["create", "-f", "-"], Some(yaml))?;
    ensure!(answer.code != Some(0) && answer.err.contains(want), "want {want:?}, got {answer:?}");
    Ok(())
}

/// All of them, on one control plane.
pub fn plugins() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("cox-security-").tempdir()?;
    let hook = Webhook::new(dir.path())?;
    let _process = hook.start()?;
    let file = dir.path().join("admission.yaml");
    std::fs::write(&file, config(&hook))?;
    let file = file.display().to_string();
    let flags = [PLUGINS, "--admission-control-config-file", &file];
    let plane = ControlPlane::start_in(dir, &flags, &["--controllers=serviceaccount-controller"])?;
    let kubectl = plane.kubectl();

    // The first thing in a namespace makes it.
    let team = kubectl.within("team");
    team.run("create configmap first")?;
    ensure!(kubectl.field("namespace team", ".status.phase")? == "Active", "no namespace");
    eventually("the account is there", Duration::from_secs(60), || team.run("get serviceaccount default"))?;

    namespaces_hold_their_pods(&kubectl, &team)?;
    images_are_asked_about(&team, &hook)?;
    owners(&plane, &team)?;
    nodes(&plane, &kubectl, &team)
}

fn namespaces_hold_their_pods(kubectl: &Kubectl, team: &Kubectl) -> Result<()> {
    team.feed("create", &pod("plain", "good", ""))?;
    ensure!(team.field("pod plain", ".spec.nodeSelector.pool")? == "shared", "no default selector");
    let tolerated = team.field("pod plain", ".spec.tolerations[*].key")?;
    ensure!(tolerated.contains("node.kubernetes.io/memory-pressure"), "{tolerated}");
    refusal(
        team,
        &pod("p", "good", "  nodeSelector: {pool: mine}\n"),
        "pod node label selector conflicts with its namespace node label selector",
    )?;
    refusal(
        team,
        &pod("p", "good", "  tolerations: [{key: gpu, operator: Exists, effect: NoSchedule}]\n"),
        "pod tolerations (possibly merged with namespace default tolerations) conflict with its cluster whitelist",
    )?;
    kubectl.run("annotate namespace team scheduler.alpha.kubernetes.io/node-selector=pool=team")?;
    eventually("the namespace's own selector holds", Duration::from_secs(60), || {
        team.run("delete pod plain --ignore-not-found --grace-period=0 --force")?;
        team.feed("create", &pod("plain", "good", ""))?;
        ensure!(team.field("pod plain", ".spec.nodeSelector.pool")? == "team", "not yet");
        Ok(())
    })?;

    // What is precious needs a quota that speaks of it.
    kubectl.run("create priorityclass precious --value=1000")?;
    let precious = pod("precious", "good", "  priorityClassName: precious\n");
    refusal(team, &precious, "insufficient quota to match these scopes: [{PriorityClass In [precious]}]")
}

fn images_are_asked_about(team: &Kubectl, hook: &Webhook) -> Result<()> {
    refusal(
        team,
        &pod("p", "bad", ""),
        "image policy webhook backend denied one or more images: it is not signed",
    )?;
    let before = hook.questions().len();
    refusal(team, &pod("q", "bad", ""), "it is not signed")?;
    ensure!(hook.questions().len() == before, "the answer was not kept");
    let last = hook.questions().pop().unwrap_or_default();
    ensure!(
        last["apiVersion"] == "imagepolicy.k8s.io/v1alpha1"
            && last["spec"] == serde_json::json!({"containers": [{"image": "bad"}], "namespace": "team"}),
        "{last}"
    );
    Ok(())
}

fn owners(plane: &ControlPlane, team: &Kubectl) -> Result<()> {
    let jane = plane.ca.client("jane", "/CN=jane")?;
    let jane = plane.kubeconfig("jane", &jane)?.within("team");
    team.run("create role writer --verb=get,create,update,patch --resource=configmaps,serviceaccounts")?;
    team.run("create rolebinding jane --role=writer --user=jane")?;
    let uid = team.field("configmap first", ".metadata.uid")?;
    let owned = |blocks: bool| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: second\n  ownerReferences:\n  - {{apiVersion: v1, kind: \
             ConfigMap, name: first, uid: {uid}, blockOwnerDeletion: {blocks}}}\n"
        )
    };
    eventually("jane may write", Duration::from_secs(60), || jane.run("get configmap first"))?;
    refusal(
        &jane,
        &owned(true),
        "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: ",
    )?;
    jane.feed("create", &owned(false))?;
    let none = r#"--patch={"metadata":{"ownerReferences":null}}"#;
    let answer = jane.answer(&["patch", "configmap", "second", "--type=merge", none], None)?;
    ensure!(
        answer.err.contains("cannot set an ownerRef on a resource you can't delete: , <nil>"),
        "{answer:?}"
    );
    team.args(&["patch", "configmap", "second", "--type=merge", none])?;
    Ok(())
}

fn nodes(plane: &ControlPlane, kubectl: &Kubectl, team: &Kubectl) -> Result<()> {
    kubectl.feed(
        "create",
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: host\n  labels: {kubernetes.io/os: linux, topology.kubernetes.io/zone: z}\n",
    )?;
    let status = r#"--patch={"status":{"allocatable":{"cpu":"1","memory":"1Gi"}}}"#;
    kubectl.args(&["patch", "node", "host", "--subresource=status", "--type=merge", status])?;
    let binding = r#"{"apiVersion":"v1","kind":"Binding","metadata":{"name":"plain"},"target":{"kind":"Node","name":"host"}}"#;
    let admin = plane.pair("admin");
    let arguments = [
        "--cert",
        admin.certificate(),
        "--key",
        admin.key(),
        "-H",
        "content-type: application/json",
        "-d",
        binding,
    ];
    let (code, text) = plane.curl_with(&arguments, "/api/v1/namespaces/team/pods/plain/binding")?;
    ensure!(code == 201, "{code} {text}");
    let zone = team.field("pod plain", r".metadata.labels.topology\.kubernetes\.io/zone")?;
    ensure!(zone == "z", "the pod is in zone {zone:?}");
    let cpu = |n: u8| {
        format!(
            r#"--patch={{"spec":{{"containers":[{{"name":"c","resources":{{"requests":{{"cpu":"{n}"}}}}}}]}}}}"#
        )
    };
    let resize = |n: u8| team.answer(&["patch", "pod", "plain", "--subresource=resize", &cpu(n)], None);
    let answer = resize(2)?;
    let want = "Node didn't have enough allocatable resources: cpu, requested: 2000, allocatable: 1000";
    ensure!(answer.err.contains(want), "{answer:?}");
    ensure!(resize(1)?.code == Some(0), "a pod that fits was refused");
    Ok(())
}
