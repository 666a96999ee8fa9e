//! Configuration and storage that pods are given, and what they may do with their token.
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Cluster, eventually};

use crate::HELLO;

pub fn configuration(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("configuration")?;
    kubectl.run("create configmap plain --from-literal=color=blue --from-literal=file.txt=content")?;
    kubectl.run("create secret generic hidden --from-literal=password=s3cret")?;
    let host = tempfile::tempdir()?;
    std::fs::write(host.path().join("from-host"), "host data")?;
    kubectl.feed(
        "apply",
        &format!(
            r#"
apiVersion: v1
kind: Pod
metadata:
  name: user
  labels: {{tier: test}}
  annotations: {{note: kept}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: user
    image: {HELLO}
    command: [sh, -c, "sleep 3600"]
    env:
    - name: COLOR
      valueFrom: {{configMapKeyRef: {{name: plain, key: color}}}}
    - name: PASSWORD
      valueFrom: {{secretKeyRef: {{name: hidden, key: password}}}}
    - name: OWN_NAME
      valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}
    - name: OWN_IP
      valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}
    - name: LIMIT
      valueFrom: {{resourceFieldRef: {{resource: limits.memory, divisor: 1Mi}}}}
    - name: COMPOSED
      value: "$(COLOR)-$(UNKNOWN)-$$(COLOR)"
    envFrom:
    - prefix: CM_
      configMapRef: {{name: plain}}
    resources: {{limits: {{memory: 64Mi, cpu: 500m}}}}
    volumeMounts:
    - {{name: config, mountPath: /config}}
    - {{name: secret, mountPath: /secret, readOnly: true}}
    - {{name: scratch, mountPath: /scratch}}
    - {{name: memory, mountPath: /memory}}
    - {{name: host, mountPath: /host}}
    - {{name: downward, mountPath: /downward}}
  - name: other
    image: {HELLO}
    command: [sh, -c, "sleep 3600"]
    volumeMounts:
    - {{name: scratch, mountPath: /scratch}}
  volumes:
  - {{name: config, configMap: {{name: plain}}}}
  - {{name: secret, secret: {{secretName: hidden, defaultMode: 0400}}}}
  - {{name: scratch, emptyDir: {{}}}}
  - {{name: memory, emptyDir: {{medium: Memory, sizeLimit: 8Mi}}}}
  - {{name: host, hostPath: {{path: {host}, type: Directory}}}}
  - name: downward
    downwardAPI:
      items:
      - {{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}
"#,
            host = host.path().display()
        ),
    )?;
    kubectl.run("wait pod user --for=condition=Ready --timeout=90s")?;
    let inside = |script: &str| kubectl.args(&["exec", "user", "-c", "user", "--", "sh", "-c", script]);
    let check = |script: &str, want: &str| -> Result<()> {
        let got = inside(script)?;
        ensure!(got.trim_end() == want, "{script}: {got:?}, not {want:?}");
        Ok(())
    };
    check("echo $COLOR $PASSWORD $OWN_NAME $CM_color", "blue s3cret user blue")?;
    check("echo \"$COMPOSED\"", "blue-$(UNKNOWN)-$(COLOR)")?;
    check("echo $LIMIT", "64")?;
    check("echo $OWN_IP", &kubectl.field("pod user", ".status.podIP")?)?;
    check("cat /config/color /config/file.txt", "bluecontent")?;
    check("cat /secret/password; stat -L -c %a /secret/password", "s3cret400")?;
    check("cat /host/from-host", "host data")?;
    check("cat /downward/labels", "tier=\"test\"")?;
    check("mount | grep ' /memory ' | cut -d' ' -f5", "tmpfs")?;
    inside("echo shared > /scratch/file")?;
    let other = kubectl.args(&["exec", "user", "-c", "other", "--", "cat", "/scratch/file"])?;
    ensure!(other == "shared\n", "{other:?}");
    ensure!(inside("env")?.contains("KUBERNETES_SERVICE_HOST=10.96.0.1"));
    // A volume follows its config map.
    kubectl.args(&["patch", "configmap", "plain", "-p", r#"{"data":{"color":"green"}}"#])?;
    eventually("the volume shows the new value", Duration::from_secs(90), || {
        check("cat /config/color", "green")
    })?;
    // A pod that refers to something that is not there waits, says so, and starts once it is.
    kubectl.feed(
        "apply",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: early}}\nspec:\n  containers:\n  - name: c\n    image: {HELLO}\n    \
             env: [{{name: A, valueFrom: {{configMapKeyRef: {{name: later, key: a}}}}}}]\n"
        ),
    )?;
    eventually("CreateContainerConfigError", Duration::from_secs(30), || {
        let reason = kubectl.field("pod early", ".status.containerStatuses[0].state.waiting.reason")?;
        ensure!(reason == "CreateContainerConfigError", "{reason}");
        Ok(())
    })?;
    kubectl.run("create configmap later --from-literal=a=b")?;
    kubectl.run("wait pod early --for=condition=Ready --timeout=90s")?;
    kubectl.run("delete namespace configuration --wait --timeout=120s")?;
    Ok(())
}

pub fn api_from_a_pod(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("api")?;
    kubectl.run("create serviceaccount reader")?;
    kubectl.run("create role pod-reader --verb=get,list --resource=pods")?;
    kubectl.run("create rolebinding reads --role=pod-reader --serviceaccount=api:reader")?;
    kubectl.feed(
        "apply",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: asker}}\nspec:\n  serviceAccountName: reader\n  \
             terminationGracePeriodSeconds: 1\n  containers: [{{name: c, image: {HELLO}, command: [sh, -c, 'sleep 3600']}}]\n"
        ),
    )?;
    kubectl.run("wait pod asker --for=condition=Ready --timeout=90s")?;
    let token = kubectl.args(&[
        "exec",
        "asker",
        "--",
        "cat",
        "/var/run/secrets/kubernetes.io/serviceaccount/token",
    ])?;
    let authority = kubectl.args(&[
        "exec",
        "asker",
        "--",
        "cat",
        "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
    ])?;
    let namespace = kubectl.args(&[
        "exec",
        "asker",
        "--",
        "cat",
        "/var/run/secrets/kubernetes.io/serviceaccount/namespace",
    ])?;
    ensure!(namespace == "api", "{namespace}");
    // The token and the CA that the pod has, used as the pod would.
    let dir = tempfile::tempdir()?;
    let ca = dir.path().join("ca.crt");
    std::fs::write(&ca, authority)?;
    let ask = |path: &str| -> Result<String> {
        let url = format!("https://127.0.0.1:{}{path}", cluster.port());
        let header = format!("Authorization: Bearer {token}");
        let output = std::process::Command::new("curl")
            .args(["-sS", "--max-time", "10", "--cacert"])
            .arg(&ca)
            .args(["-H", &header, &url])
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    let pods = ask("/api/v1/namespaces/api/pods")?;
    ensure!(pods.contains("\"PodList\"") && pods.contains("asker"), "{pods}");
    let secrets = ask("/api/v1/namespaces/api/secrets")?;
    let words = "secrets is forbidden: User \\\"system:serviceaccount:api:reader\\\" cannot list resource \
                 \\\"secrets\\\" in API group \\\"\\\" in the namespace \\\"api\\\"";
    ensure!(secrets.contains(words), "{secrets}");
    ensure!(ask("/api/v1/namespaces/default/pods")?.contains("\"reason\":\"Forbidden\""));
    // The API is where the pod's environment says it is.
    let from_pod = kubectl.args(&[
        "exec",
        "asker",
        "--",
        "sh",
        "-c",
        "nc -w 3 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null && echo open",
    ])?;
    ensure!(from_pod.contains("open"), "{from_pod}");
    // The token dies with its pod.
    kubectl.run("delete pod asker --wait")?;
    eventually("the token is refused", Duration::from_secs(60), || {
        let answer = ask("/api/v1/namespaces/api/pods")?;
        ensure!(answer.contains("\"code\":401"), "{answer}");
        Ok(())
    })?;
    let made = kubectl.run("create token reader --duration=10m")?;
    ensure!(made.trim().split('.').count() == 3, "not a JWT");
    kubectl.run("delete namespace api --wait --timeout=120s")?;
    Ok(())
}
