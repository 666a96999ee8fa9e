//! `ServiceAccount`: every pod has one, and a token of it in every container that does not decline.
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use machinery::{Object, StatusResult, names};
use serde_json::{Value, json};

use crate::pod_refs::{self, is_mirror};
use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

const DEFAULT: &str = "default";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A value that marks tokens made for old clients: the issuer lets them live a year.
const EXPIRATION_SECONDS: i64 = 3607;
/// The controller that makes `default` may be a moment behind the namespace.
const ATTEMPTS_FOR_DEFAULT: u32 = 10;
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The plugin.
pub struct ServiceAccount(pub Arc<dyn ClusterView>);

impl ServiceAccount {
    async fn account(&self, a: &Attributes<'_>, name: &str) -> StatusResult<Arc<Object>> {
        if let Some(account) = self.0.get(Resource::SERVICE_ACCOUNTS, a.namespace, name) {
            return Ok(account);
        }
        let attempts = if name == DEFAULT { ATTEMPTS_FOR_DEFAULT } else { 1 };
        for attempt in 0..attempts {
            if attempt != 0 {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            if let Some(account) = self.0.get_live(Resource::SERVICE_ACCOUNTS, a.namespace, name).await? {
                return Ok(account);
            }
        }
        Err(a.forbidden(format!(
            "error looking up service account {}/{name}: serviceaccount {name:?} not found",
            a.namespace
        )))
    }
}

fn concerns(a: &Attributes<'_>) -> bool {
    a.is("", "pods")
}

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        if !concerns(a) {
            return Ok(());
        }
        let Some(pod) = a.object_mut().filter(|pod| !is_mirror(pod)) else { return Ok(()) };
        let name = match pod.str_at(&["spec", "serviceAccountName"]) {
            "" => DEFAULT.to_owned(),
            name => name.to_owned(),
        };
        pod.set(&["spec", "serviceAccountName"], name.as_str());
        pod.set(&["spec", "serviceAccount"], name.as_str());
        let account = self.account(a, &name).await?;
        let Some(pod) = a.object_mut() else { return Ok(()) };
        let automount = pod
            .bool_at(&["spec", "automountServiceAccountToken"])
            .or_else(|| account.bool_at(&["automountServiceAccountToken"]));
        if automount.unwrap_or(true) {
            mount_token(pod);
        }
        let pull_secrets = account.list_at(&["imagePullSecrets"]);
        if pod.list_at(&["spec", "imagePullSecrets"]).is_empty() && !pull_secrets.is_empty() {
            pod.set(&["spec", "imagePullSecrets"], pull_secrets);
        }
        Ok(())
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        let Some(pod) = a.object().filter(|_| concerns(a)) else { return Ok(()) };
        let name = pod.str_at(&["spec", "serviceAccountName"]);
        if is_mirror(pod) {
            let projects_token = pod
                .list_at(&["spec", "volumes"])
                .iter()
                .flat_map(pod_refs::projections)
                .any(|source| source.get("serviceAccountToken").is_some());
            let why = if !name.is_empty() {
                "a mirror pod may not reference service accounts"
            } else if !pod_refs::secrets(pod).is_empty() {
                "a mirror pod may not reference secrets"
            } else if projects_token {
                "a mirror pod may not use ServiceAccountToken volume projections"
            } else {
                return Ok(());
            };
            return Err(a.forbidden(why));
        }
        if name.is_empty() {
            return Err(a.forbidden(format!(
                "no service account specified for pod {}/{}",
                a.namespace,
                pod.name()
            )));
        }
        let account = self.account(a, name).await?;
        if account.annotation("kubernetes.io/enforce-mountable-secrets") == Some("true") {
            mountable_only(pod, &account).map_err(|why| a.forbidden(why))?;
        }
        Ok(())
    }
}

/// Adds the token's volume, and mounts it in each container that has nothing there yet.
fn mount_token(pod: &mut Object) {
    let existing = pod
        .list_at(&["spec", "volumes"])
        .iter()
        .filter_map(|v| v.get("name")?.as_str())
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let volume = existing.clone().unwrap_or_else(|| names::generate(VOLUME_PREFIX));
    let mount = json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH});
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let Some(Value::Array(containers)) = pod.0.get_mut("spec").and_then(|s| s.get_mut(list)) else {
            continue;
        };
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            if mounts.is_null() {
                *mounts = json!([]);
            }
            let Some(mounts) = mounts.as_array_mut() else { continue };
            if !mounts.iter().any(|m| m.get("mountPath").and_then(Value::as_str) == Some(MOUNT_PATH)) {
                mounts.push(mount.clone());
                needed = true;
            }
        }
    }
    if existing.is_none() && needed {
        let mut volumes = pod.list_at(&["spec", "volumes"]).to_vec();
        volumes.push(token_volume(&volume));
        pod.set(&["spec", "volumes"], volumes);
    }
}

fn token_volume(name: &str) -> Value {
    let namespace =
        json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": EXPIRATION_SECONDS}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [namespace]}},
            ],
        },
    })
}

/// The account lists the only secrets its pods may use.
fn mountable_only(pod: &Object, account: &Object) -> Result<(), String> {
    let listed = |list: &str, name: &str| {
        account.list_at(&[list]).iter().any(|s| s.get("name").and_then(Value::as_str) == Some(name))
    };
    let account_name = account.name();
    let text = |v: &Value, path: &[&str]| -> Option<String> {
        path.iter().try_fold(v, |v, key| v.get(key))?.as_str().filter(|s| !s.is_empty()).map(str::to_owned)
    };
    for volume in pod.list_at(&["spec", "volumes"]) {
        if let Some(secret) = text(volume, &["secret", "secretName"]).filter(|s| !listed("secrets", s)) {
            return Err(format!(
                "volume with secret.secretName={secret:?} is not allowed because service account {account_name} does not \
                 reference that secret"
            ));
        }
    }
    for (list, container) in pod_refs::containers(pod) {
        let kind = match list {
            "initContainers" => "init container",
            "ephemeralContainers" => "ephemeral container",
            _ => "container",
        };
        let name = text(container, &["name"]).unwrap_or_default();
        let items = |list: &str| container.get(list).and_then(Value::as_array).into_iter().flatten();
        for env in items("env") {
            let secret = text(env, &["valueFrom", "secretKeyRef", "name"]).filter(|s| !listed("secrets", s));
            if let Some(secret) = secret {
                let variable = text(env, &["name"]).unwrap_or_default();
                return Err(format!(
                    "{kind} {name} with envVar {variable} referencing secret.secretName={secret:?} is not allowed because \
                     service account {account_name} does not reference that secret"
                ));
            }
        }
        for from in items("envFrom") {
            if let Some(secret) = text(from, &["secretRef", "name"]).filter(|s| !listed("secrets", s)) {
                return Err(format!(
                    "{kind} {name} with envFrom referencing secret.secretName={secret:?} is not allowed because service \
                     account {account_name} does not reference that secret"
                ));
            }
        }
    }
    for (i, secret) in pod.list_at(&["spec", "imagePullSecrets"]).iter().enumerate() {
        if let Some(name) = text(secret, &["name"]).filter(|s| !listed("imagePullSecrets", s)) {
            return Err(format!(
                "imagePullSecrets[{i}].name={name:?} is not allowed because service account {account_name} does not \
                 reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ask, FakeCluster};

    fn plugin(account: Value) -> ServiceAccount {
        let mut account = account;
        account["metadata"]["namespace"] = "a".into();
        account["metadata"]["name"] = "default".into();
        ServiceAccount(Arc::new(FakeCluster::default().with(Resource::SERVICE_ACCOUNTS, account)))
    }

    fn pod(spec: Value) -> Ask {
        Ask::create_pod(json!({"metadata": {"name": "p", "namespace": "a"}, "spec": spec}))
    }

    #[tokio::test]
    async fn mounts_a_token_of_the_default_account() {
        let plugin = plugin(json!({"metadata": {}, "imagePullSecrets": [{"name": "pull"}]}));
        let spec = json!({"initContainers": [{"name": "i"}], "containers": [
            {"name": "c"}, {"name": "own", "volumeMounts": [{"name": "x", "mountPath": MOUNT_PATH}]}]});
        let pod = pod(spec).run(&plugin).await.unwrap();
        assert_eq!(pod.str_at(&["spec", "serviceAccountName"]), "default");
        assert_eq!(pod.str_at(&["spec", "serviceAccount"]), "default");
        assert_eq!(pod.at(&["spec", "imagePullSecrets"]), Some(&json!([{"name": "pull"}])));
        let [volume] = pod.list_at(&["spec", "volumes"]) else { panic!("one volume") };
        let name = volume["name"].as_str().unwrap();
        assert!(name.starts_with(VOLUME_PREFIX) && name.len() == VOLUME_PREFIX.len() + 5, "{name}");
        let want = json!({"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]});
        assert_eq!(volume["projected"], want);
        let mount = json!([{"name": name, "readOnly": true, "mountPath": MOUNT_PATH}]);
        assert_eq!(pod.list_at(&["spec", "initContainers"])[0]["volumeMounts"], mount);
        assert_eq!(pod.list_at(&["spec", "containers"])[0]["volumeMounts"], mount);
        assert_eq!(pod.list_at(&["spec", "containers"])[1]["volumeMounts"].as_array().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn pods_and_accounts_may_decline_and_the_pod_has_the_last_word() {
        let declining = plugin(json!({"metadata": {}, "automountServiceAccountToken": false}));
        let mounted = async |spec: Value| {
            !pod(spec).run(&declining).await.unwrap().list_at(&["spec", "volumes"]).is_empty()
        };
        assert!(!mounted(json!({"containers": [{}]})).await);
        assert!(mounted(json!({"containers": [{}], "automountServiceAccountToken": true})).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_absent_account_is_refused() {
        let plugin = plugin(json!({"metadata": {}}));
        let refused =
            pod(json!({"serviceAccountName": "bot", "containers": []})).run(&plugin).await.unwrap_err();
        assert_eq!(
            refused,
            r#"pods "p" is forbidden: error looking up service account a/bot: serviceaccount "bot" not found"#
        );
        let elsewhere = json!({"metadata": {"name": "p", "namespace": "b"}, "spec": {"containers": []}});
        let refused = Ask::create_pod(elsewhere).run(&plugin).await.unwrap_err();
        assert_eq!(
            refused,
            r#"pods "p" is forbidden: error looking up service account b/default: serviceaccount "default" not found"#
        );
    }

    #[tokio::test]
    async fn mirror_pods_stay_as_they_are() {
        let plugin = plugin(json!({"metadata": {}}));
        let mirror = |spec: Value| {
            Ask::create_pod(json!({"metadata": {"name": "p", "namespace": "a",
                "annotations": {"kubernetes.io/config.mirror": "x"}}, "spec": spec}))
        };
        let spec = json!({"containers": [{"name": "c"}]});
        assert_eq!(mirror(spec.clone()).run(&plugin).await.unwrap().at(&["spec"]), Some(&spec));
        for (spec, want) in [
            (json!({"serviceAccountName": "x"}), "a mirror pod may not reference service accounts"),
            (json!({"volumes": [{"secret": {"secretName": "s"}}]}), "a mirror pod may not reference secrets"),
            (
                json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {}}]}}]}),
                "a mirror pod may not use ServiceAccountToken volume projections",
            ),
        ] {
            assert_eq!(
                mirror(spec).run(&plugin).await.unwrap_err(),
                format!("pods \"p\" is forbidden: {want}")
            );
        }
    }

    #[tokio::test]
    async fn an_account_may_restrict_secrets() {
        let plugin =
            plugin(json!({"metadata": {"annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
            "secrets": [{"name": "ok"}]}));
        let run = async |secret: &str| {
            pod(json!({"volumes": [{"secret": {"secretName": secret}}]})).run(&plugin).await
        };
        assert!(run("ok").await.is_ok());
        assert_eq!(
            run("other").await.unwrap_err(),
            r#"pods "p" is forbidden: volume with secret.secretName="other" is not allowed because service account default does not reference that secret"#
        );
    }
}
