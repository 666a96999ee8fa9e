//! What conformance tests ask of each kind ("should support … API operations", "should run through the lifecycle of"):
//! one object of every kind that is served by default, through every verb, on a live server.
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use api::kinds::Kind;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderValue, Method};
use machinery::patch;
use serde_json::{Value, json};

use crate::harness::{Answer, Live, PATIENCE, Who, request};
use crate::watch::Events;

const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// A kind and a good object of it, which the tables of its rules have.
struct Good {
    kind: &'static Kind,
    object: Value,
}

fn good() -> Result<Vec<Good>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../apiserver-resources/cases");
    let read = |path: &Path| -> Result<Good> {
        let file: Value = serde_saphyr::from_str(&std::fs::read_to_string(path)?)?;
        let full = file["kind"].as_str().unwrap_or_default();
        let (api_version, kind) = full.rsplit_once('/').context("a kind")?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = api::kinds::by_kind(group, version, kind).context("a known kind")?;
        let mut object = json!({"apiVersion": api_version, "kind": &*kind.kind, "metadata": {"name": "x"}});
        object = patch::merge_patch(&object, &serde_json::to_vec(&file["good"])?)?;
        Ok(Good { kind, object })
    };
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        all.push(read(&path).with_context(|| path.display().to_string())?);
    }
    all.retain(|good| good.kind.served_by_default());
    all.sort_by(|a, b| (&a.kind.group, &a.kind.plural).cmp(&(&b.kind.group, &b.kind.plural)));
    Ok(all)
}

impl Good {
    /// Names as the kind takes them.
    fn name(&self, n: usize) -> String {
        let given = self.object["metadata"]["name"].as_str().unwrap_or("x");
        match &*self.kind.plural {
            "ipaddresses" => format!("10.96.9.{}", 7 + n),
            "customresourcedefinitions" => format!("foos{}.example.com", "x".repeat(n)),
            "certificatesigningrequests" | "roles" | "clusterroles" => format!("any-{n}"),
            _ if given == "x" => format!("thing-{n}"),
            given if n == 0 => given.to_owned(),
            given => format!("{given}-{n}"),
        }
    }

    fn at(&self, namespace: &str) -> String {
        let kind = self.kind;
        let root = if kind.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", kind.group) };
        let scope = if kind.namespaced { format!("/namespaces/{namespace}") } else { String::new() };
        format!("{root}/{}{scope}/{}", kind.version, kind.plural)
    }

    fn object(&self, namespace: &str, n: usize) -> Value {
        let mut object = self.object.clone();
        object["metadata"]["name"] = self.name(n).into();
        object["metadata"]["labels"] = json!({"lifecycle": namespace});
        match &*self.kind.plural {
            "customresourcedefinitions" => {
                let plural = format!("foos{}", "x".repeat(n));
                let word = format!("Foo{}", "x".repeat(n));
                object["spec"]["names"] = json!({"plural": plural, "kind": word});
            }
            "events" => {
                let field = if self.kind.group.is_empty() { "involvedObject" } else { "regarding" };
                object[field]["namespace"] = namespace.into();
            }
            // One network for each.
            "nodes" => object["spec"]["podCIDR"] = format!("10.244.{n}.0/24").into(),
            _ => {}
        }
        object
    }
}

async fn write(live: &Live, method: Method, path: &str, media: &str, body: &Value) -> Result<Answer> {
    let mut request = request(method, path, "application/json", serde_json::to_vec(body)?);
    request.headers_mut().insert("content-type", HeaderValue::from_str(media)?);
    live.send(Who::Admin, request).await
}

fn metadata<'v>(object: &'v Value, field: &str) -> &'v str {
    object["metadata"][field].as_str().unwrap_or("")
}

/// The namespace of one kind, with what pods need.
async fn namespace(live: &Live, name: &str) -> Result<()> {
    live.create("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await?;
    let accounts = format!("/api/v1/namespaces/{name}/serviceaccounts");
    live.create(&accounts, &json!({"metadata": {"name": "default"}})).await.map(drop)
}

async fn lifecycle(live: &Live, good: &Good, namespace: &str) -> Result<()> {
    let path = good.at(namespace);
    let item = format!("{path}/{}", good.name(0));
    let selected = format!("{path}?labelSelector=lifecycle%3D{namespace}");
    let wanted = good.object(namespace, 0);

    // Nothing is stored by a dry run, and fields that are not there are told or refused.
    let dry = write(live, Method::POST, &format!("{path}?dryRun=All"), "application/json", &wanted).await?;
    ensure!(dry.status == 201, "dry: {}", dry.text());
    ensure!(live.get(&item).await?.status == 404, "a dry run stored it");
    let mut odd = wanted.clone();
    odd["frobs"] = 1.into();
    let strict = format!("{path}?fieldValidation=Strict");
    let refused = write(live, Method::POST, &strict, "application/json", &odd).await?;
    ensure!(
        refused.status == 400 && refused.error().2.contains("unknown field \"frobs\""),
        "{}",
        refused.text()
    );
    let warn = format!("{path}?fieldValidation=Warn&dryRun=All");
    let warned = write(live, Method::POST, &warn, "application/json", &odd).await?;
    ensure!(
        warned
            .headers
            .get_all("warning")
            .iter()
            .any(|w| w.as_bytes() == b"299 - \"unknown field \\\"frobs\\\"\"")
    );

    // Create, get, list.
    let before = live.get(&path).await?.json();
    let created = live.create(&path, &wanted).await?;
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        ensure!(!metadata(&created, field).is_empty(), "{field}: {created}");
    }
    ensure!(created["metadata"]["managedFields"].is_array(), "{created}");
    let again = write(live, Method::POST, &path, "application/json", &wanted).await?;
    ensure!(again.error().1 == "AlreadyExists", "{}", again.text());
    // The server itself says of a flow schema whether its priority level is there.
    let told_on = good.kind.plural == "flowschemas";
    let mut got = live.get(&item).await?.json();
    let began = std::time::Instant::now();
    while told_on && got["status"]["conditions"].as_array().is_none_or(Vec::is_empty) {
        ensure!(began.elapsed() < PATIENCE, "{got}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        got = live.get(&item).await?.json();
    }
    ensure!(told_on || got == created, "{got} is not {created}");
    let list = live.get(&selected).await?.json();
    ensure!(
        list["kind"] == good.kind.list_kind() && list["items"].as_array().map(Vec::len) == Some(1),
        "{list}"
    );
    if good.kind.namespaced {
        let all = good.at("").replace("/namespaces//", "/");
        let everywhere = live.get(&format!("{all}?labelSelector=lifecycle%3D{namespace}")).await?.json();
        ensure!(everywhere["items"].as_array().map(Vec::len) == Some(1), "in all namespaces: {everywhere}");
    }
    for (accept, kind) in [
        ("application/json;as=Table;g=meta.k8s.io;v=v1", "Table"),
        ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", "PartialObjectMetadataList"),
    ] {
        let list = live.get_as(&selected, accept).await?.json();
        ensure!(list["kind"] == kind, "{list}");
        ensure!(list["rows"].as_array().or(list["items"].as_array()).map(Vec::len) == Some(1), "{list}");
    }
    let message = live.get_as(&item, "application/vnd.kubernetes.protobuf").await?;
    ensure!(message.body.starts_with(b"k8s\0"), "{:?}", message.headers);

    // Watch what follows.
    let from = metadata(&before, "resourceVersion");
    let watch = format!("{selected}&watch=1&resourceVersion={from}");
    let mut events = Events::open(live, &watch, "application/json").await?;
    ensure!(events.brief().await? == format!("ADDED {}", good.name(0)));
    if told_on {
        ensure!(events.brief().await? == format!("MODIFIED {}", good.name(0)));
    }

    // Patches of each type, update, apply.
    let mut last = got;
    for (media, body) in [
        (MERGE, json!({"metadata": {"annotations": {"one": "merge"}}})),
        (STRATEGIC, json!({"metadata": {"annotations": {"two": "strategic"}}})),
        (JSON_PATCH, json!([{"op": "add", "path": "/metadata/annotations/three", "value": "json"}])),
    ] {
        let patched = write(live, Method::PATCH, &item, media, &body).await?;
        ensure!(patched.status == 200, "{media}: {}", patched.text());
        ensure!(
            metadata(&patched.json(), "resourceVersion") != metadata(&last, "resourceVersion"),
            "{media}"
        );
        last = patched.json();
        let event = events.next().await?.context("an event")?;
        ensure!(event["type"] == "MODIFIED" && event["object"] == last, "{media}: {event}");
    }
    let stale = last.clone();
    last["metadata"]["annotations"]["four"] = "update".into();
    let updated = write(live, Method::PUT, &item, "application/json", &last).await?;
    ensure!(updated.status == 200, "update: {}", updated.text());
    last = updated.json();
    ensure!(last["metadata"]["annotations"].as_object().map(serde_json::Map::len) == Some(4), "{last}");
    let mut conflicting = stale;
    conflicting["metadata"]["annotations"]["four"] = "late".into();
    let conflict = write(live, Method::PUT, &item, "application/json", &conflicting).await?;
    ensure!(conflict.error().1 == "Conflict", "{}", conflict.text());
    let config = json!({"apiVersion": last["apiVersion"], "kind": last["kind"],
        "metadata": {"name": good.name(0), "annotations": {"five": "apply"}}});
    let apply = format!("{item}?fieldManager=lifecycle");
    let applied = write(live, Method::PATCH, &apply, APPLY, &config).await?;
    ensure!(applied.status == 200, "apply: {}", applied.text());
    let managers = applied.json()["metadata"]["managedFields"].clone();
    let of_apply = |m: &Value| m["manager"] == "lifecycle" && m["operation"] == "Apply";
    ensure!(managers.as_array().is_some_and(|list| list.iter().any(of_apply)), "{managers}");

    // Subresources that are the object itself.
    if good.kind.subresource("status").is_some() {
        let status = format!("{item}/status");
        let seen = live.get(&status).await?;
        ensure!(
            seen.status == 200 && metadata(&seen.json(), "uid") == metadata(&last, "uid"),
            "{}",
            seen.text()
        );
        let written = write(live, Method::PUT, &status, "application/json", &seen.json()).await?;
        ensure!(written.status == 200, "status: {}", written.text());
        ensure!(written.json()["spec"] == seen.json()["spec"], "status changed the specification");
        let empty = write(live, Method::PATCH, &status, MERGE, &json!({"metadata": {}})).await?;
        ensure!(empty.status == 200, "status: {}", empty.text());
    }
    delete(live, good, namespace, &last, &mut events).await
}

/// Takes the finalizer away that keeps what may be in use, as its controller would.
async fn let_go(live: &Live, item: &str) -> Result<()> {
    let held = live.get(item).await?.json();
    ensure!(!metadata(&held, "deletionTimestamp").is_empty(), "{held}");
    let free = json!({"metadata": {"finalizers": null}});
    let freed = write(live, Method::PATCH, item, MERGE, &free).await?;
    ensure!(freed.status == 200, "{}", freed.text());
    Ok(())
}

/// Deletes one, and the rest as a collection.
async fn delete(live: &Live, good: &Good, namespace: &str, last: &Value, events: &mut Events) -> Result<()> {
    let path = good.at(namespace);
    let item = format!("{path}/{}", good.name(0));
    let selected = format!("{path}?labelSelector=lifecycle%3D{namespace}");
    let other = json!({"preconditions": {"uid": "another"}});
    let refused = write(live, Method::DELETE, &item, "application/json", &other).await?;
    ensure!(refused.error().1 == "Conflict", "{}", refused.text());
    let dry = write(live, Method::DELETE, &item, "application/json", &json!({"dryRun": ["All"]})).await?;
    ensure!(dry.status == 200 && live.get(&item).await?.status == 200, "dry: {}", dry.text());
    let exact = json!({"propagationPolicy": "Background", "preconditions": {"uid": metadata(last, "uid")}});
    let deleted = write(live, Method::DELETE, &item, "application/json", &exact).await?;
    ensure!(deleted.status == 200, "delete: {}", deleted.text());
    let lingers = good.kind.plural == "namespaces";
    if lingers {
        let held = live.get(&item).await?;
        ensure!(held.json()["status"]["phase"] == "Terminating", "{}", held.text());
        return Ok(());
    }
    let in_use = matches!(
        &*good.kind.plural,
        "persistentvolumes" | "persistentvolumeclaims" | "volumeattributesclasses"
    );
    if in_use {
        let_go(live, &item).await?;
    }
    ensure!(live.get(&item).await?.status == 404, "it is there still");
    let gone = loop {
        let event = events.next().await?.context("an event")?;
        if event["type"] != "MODIFIED" {
            break event;
        }
    };
    ensure!(gone["type"] == "DELETED" && metadata(&gone["object"], "uid") == metadata(last, "uid"), "{gone}");
    if !good.kind.has_verb("deletecollection") {
        return Ok(());
    }
    for n in 1..4 {
        live.create(&path, &good.object(namespace, n)).await?;
    }
    let mut kept = good.object(namespace, 4);
    kept["metadata"]["labels"] = json!({"lifecycle": "kept"});
    live.create(&path, &kept).await?;
    let page = live.get(&format!("{selected}&limit=2")).await?.json();
    ensure!(
        page["items"].as_array().map(Vec::len) == Some(2) && !metadata(&page, "continue").is_empty(),
        "{page}"
    );
    let background = json!({"propagationPolicy": "Background"});
    let collection = write(live, Method::DELETE, &selected, "application/json", &background).await?;
    ensure!(collection.status == 200, "{}", collection.text());
    for n in (1..4).filter(|_| in_use) {
        let_go(live, &format!("{path}/{}", good.name(n))).await?;
    }
    let left = live.get(&selected).await?.json();
    ensure!(left["items"] == json!([]), "{left}");
    let kept = format!("{path}/{}", good.name(4));
    ensure!(live.get(&kept).await?.status == 200, "what was not selected is gone too");
    live.send(Who::Admin, request(Method::DELETE, &kept, "application/json", Bytes::new())).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_goes_through_every_verb() -> Result<()> {
    let live = Live::start().await?;
    let all = good()?;
    ensure!(all.len() > 50, "{}", all.len());
    for i in 0..all.len() {
        namespace(&live, &format!("kind-{i}")).await?;
    }
    let tried = futures::stream::iter(all.iter().enumerate()).map(|(i, good)| {
        let live = &live;
        async move {
            let kind = format!("{}/{}", good.kind.api_version(), good.kind.kind);
            lifecycle(live, good, &format!("kind-{i}")).await.err().map(|e| format!("{kind}: {e:#}"))
        }
    });
    let failed: Vec<String> = tried.buffer_unordered(4).filter_map(|e| async { e }).collect().await;
    ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}
