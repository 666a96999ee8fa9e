//! What a local cluster has beyond upstream's own objects: the rights of the cluster DNS.
use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, PostParams};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// The account that the DNS acts as, in `kube-system`; named as in kubeadm's clusters.
pub const DNS_ACCOUNT: &str = "coredns";

async fn ensure<K>(api: &Api<K>, object: serde_json::Value) -> Result<()>
where
    K: Resource + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let typed: K = serde_json::from_value(object)?;
    match api.create(&PostParams::default(), &typed).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        Err(e) => Err(e).context("cannot create the objects of the cluster DNS"),
    }
}

/// Creates what is missing.
pub async fn install(client: Client) -> Result<()> {
    let name = json!({ "name": "system:coredns" });
    ensure::<ServiceAccount>(
        &Api::namespaced(client.clone(), "kube-system"),
        json!({ "metadata": { "name": DNS_ACCOUNT } }),
    )
    .await?;
    ensure::<ClusterRole>(
        &Api::all(client.clone()),
        json!({
            "metadata": name,
            "rules": [
                { "apiGroups": [""], "resources": ["services", "endpoints", "pods", "namespaces"], "verbs": ["list", "watch"] },
                { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
            ],
        }),
    )
    .await?;
    ensure::<ClusterRoleBinding>(
        &Api::all(client),
        json!({
            "metadata": name,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns" },
            "subjects": [{ "kind": "ServiceAccount", "name": DNS_ACCOUNT, "namespace": "kube-system" }],
        }),
    )
    .await
}
