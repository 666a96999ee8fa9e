//! kube-rs: typed API, reflector, watcher in both modes, controller.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Client, Config, ResourceExt as _};

use crate::harness::{Live, PATIENCE};

async fn client(live: &Live) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(live.kubeconfig()?)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

fn map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([("value".to_owned(), value.to_owned())])),
        ..ConfigMap::default()
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let waited = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.with_context(|| what.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_written_read_and_refused() -> Result<()> {
    let live = Live::start().await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&live).await?);
    let made = maps.create(&PostParams::default(), &map("a", "1")).await?;
    ensure!(made.uid().is_some() && made.resource_version().is_some());
    let patch = serde_json::json!({ "data": { "value": "2" } });
    let patched = maps.patch("a", &PatchParams::default(), &Patch::Merge(&patch)).await?;
    ensure!(patched.data.as_ref().is_some_and(|d| d["value"] == "2"));
    let stale = maps.replace("a", &PostParams::default(), &made).await;
    ensure!(
        matches!(&stale, Err(kube::Error::Api(e)) if e.code == 409 && e.reason == "Conflict"),
        "{stale:?}"
    );
    let listed = maps.list(&ListParams::default().limit(1)).await?;
    ensure!(listed.items.len() == 1);
    let metadata = maps.list_metadata(&ListParams::default()).await?;
    ensure!(metadata.items.iter().any(|m| m.name_any() == "a"));
    maps.delete("a", &DeleteParams::default()).await?;
    ensure!(maps.get_opt("a").await?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reflectors_follow_in_both_ways_of_listing() -> Result<()> {
    let live = Live::start().await?;
    live.config_maps(7).await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&live).await?);
    // Pages that end in the middle, and the list that comes as a watch.
    for config in [watcher::Config::default().page_size(3), watcher::Config::default().streaming_lists()] {
        let (store, writer) = reflector::store();
        let stream = watcher(maps.clone(), config).default_backoff().reflect(writer).applied_objects();
        let task = tokio::spawn(stream.for_each(|_| std::future::ready(())));
        tokio::time::timeout(PATIENCE, store.wait_until_ready()).await.context("it is never ready")??;
        ensure!(store.len() == 7, "{}", store.len());
        maps.create(&PostParams::default(), &map("later", "1")).await?;
        until("the new one", || store.len() == 8).await?;
        maps.delete("later", &DeleteParams::default()).await?;
        until("the deletion", || store.len() == 7).await?;
        task.abort();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_owns_and_restores() -> Result<()> {
    struct Seen {
        client: Client,
        runs: AtomicUsize,
    }
    async fn reconcile(owner: Arc<ConfigMap>, seen: Arc<Seen>) -> Result<Action, kube::Error> {
        seen.runs.fetch_add(1, Ordering::SeqCst);
        let maps: Api<ConfigMap> = Api::default_namespaced(seen.client.clone());
        let name = format!("{}-child", owner.name_any());
        if owner.labels().contains_key("parent") && maps.get_opt(&name).await?.is_none() {
            let mut child = map(&name, "mine");
            child.metadata.owner_references = owner_reference(&owner);
            maps.create(&PostParams::default(), &child).await?;
        }
        Ok(Action::await_change())
    }
    fn owner_reference(
        owner: &ConfigMap,
    ) -> Option<Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference>> {
        use kube::Resource as _;
        owner.controller_owner_ref(&()).map(|r| vec![r])
    }
    let live = Live::start().await?;
    let client = client(&live).await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let seen = Arc::new(Seen { client, runs: AtomicUsize::new(0) });
    let parents = watcher::Config::default().labels("parent");
    let controller = Controller::new(maps.clone(), parents)
        .owns(maps.clone(), watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(1)), seen.clone());
    let task = tokio::spawn(controller.for_each(|_| std::future::ready(())));
    let mut parent = map("p", "1");
    parent.metadata.labels = Some(BTreeMap::from([("parent".into(), "true".into())]));
    maps.create(&PostParams::default(), &parent).await?;
    let child = async || {
        let waited = async {
            loop {
                if let Some(child) = maps.get_opt("p-child").await? {
                    return Ok::<_, kube::Error>(child);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        Ok::<_, anyhow::Error>(tokio::time::timeout(PATIENCE, waited).await.context("no child")??)
    };
    let first = child().await?;
    maps.delete("p-child", &DeleteParams::default()).await?;
    let second = child().await?;
    ensure!(first.uid() != second.uid() && seen.runs.load(Ordering::SeqCst) >= 2);
    task.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_narrow_what_is_watched() -> Result<()> {
    let live = Live::start().await?;
    let client = client(&live).await?;
    let accounts = serde_json::json!({ "metadata": { "name": "default" } });
    live.create("/api/v1/namespaces/default/serviceaccounts", &accounts).await?;
    let pods: Api<Pod> = Api::default_namespaced(client);
    let config = watcher::Config::default().fields("spec.nodeName=one");
    let mut events = Box::pin(watcher(pods.clone(), config).applied_objects());
    for (name, node) in [("a", "two"), ("b", "one")] {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": name },
            "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "i" }] },
        }))?;
        pods.create(&PostParams::default(), &pod).await?;
    }
    let first = tokio::time::timeout(PATIENCE, events.next()).await?.context("an event")??;
    ensure!(first.name_any() == "b", "{}", first.name_any());
    Ok(())
}
