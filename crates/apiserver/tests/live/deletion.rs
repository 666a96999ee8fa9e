//! What a deletion may ask for, and what comes of it.
use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Live, MAPS, Who, request};

async fn delete(live: &Live, path: &str, options: Option<&Value>) -> Result<Answer> {
    let body = options.map_or_else(Bytes::new, |options| options.to_string().into());
    live.send(Who::Admin, request(Method::DELETE, path, "application/json", body)).await
}

fn finalizers(object: &Value) -> Vec<&str> {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dependents_wait_go_or_stay_as_asked() -> Result<()> {
    let live = Live::start().await?;
    for (n, (query, options, expected)) in [
        ("", None, None),
        ("", Some(json!({"propagationPolicy": "Background"})), None),
        ("", Some(json!({"propagationPolicy": "Foreground"})), Some("foregroundDeletion")),
        ("", Some(json!({"propagationPolicy": "Orphan"})), Some("orphan")),
        ("", Some(json!({"orphanDependents": true})), Some("orphan")),
        ("", Some(json!({"orphanDependents": false})), None),
        ("?propagationPolicy=Orphan", None, Some("orphan")),
        ("?orphanDependents=true", None, Some("orphan")),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("a-{n}");
        live.create(MAPS, &json!({"metadata": {"name": name}})).await?;
        let path = format!("{MAPS}/{name}");
        let answer = delete(&live, &format!("{path}{query}"), options.as_ref()).await?;
        ensure!(answer.status == 200, "{query} {options:?}: {}", answer.text());
        let left = live.get(&path).await?;
        match expected {
            None => ensure!(left.status == 404 && answer.json()["kind"] == "Status", "{query} {options:?}"),
            Some(finalizer) => {
                let object = left.json();
                ensure!(finalizers(&object) == [finalizer], "{query} {options:?}: {object}");
                ensure!(object["metadata"]["deletionTimestamp"].is_string(), "{object}");
                ensure!(object["metadata"]["deletionGracePeriodSeconds"] == 0, "{object}");
                ensure!(answer.json() == object, "the answer is the object as it is now");
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused() -> Result<()> {
    let live = Live::start().await?;
    let made = live.create(MAPS, &json!({"metadata": {"name": "a"}})).await?;
    let path = format!("{MAPS}/a");
    for (options, code, expected) in [
        (json!({"propagationPolicy": "Sideways"}), 422, "propagationPolicy: Unsupported value: \"Sideways\""),
        (
            json!({"propagationPolicy": "Orphan", "orphanDependents": true}),
            422,
            "orphanDependents and deletionPropagation cannot be both set",
        ),
        (json!({"dryRun": ["Some"]}), 422, "dryRun: Unsupported value: "),
        (json!({"kind": "Pod", "apiVersion": "v1"}), 400, "DeleteOptions"),
        (
            json!({"preconditions": {"uid": "b"}}),
            409,
            "Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition (b) does not match the UID in record (",
        ),
        (
            json!({"preconditions": {"resourceVersion": "1"}}),
            409,
            "the ResourceVersion in the precondition (1) does not match the ResourceVersion in record (",
        ),
    ] {
        let (got, reason, message) = delete(&live, &path, Some(&options)).await?.error();
        ensure!(got == code && message.contains(expected), "{options}: {got} {reason} {message}");
    }
    ensure!(live.get(&path).await?.json() == made, "nothing of it changed the object");
    let exact = json!({"preconditions": {"uid": made["metadata"]["uid"],
        "resourceVersion": made["metadata"]["resourceVersion"]}});
    ensure!(delete(&live, &path, Some(&exact)).await?.status == 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_on_nodes_get_the_time_they_ask_for() -> Result<()> {
    let live = Live::start().await?;
    let root = "/api/v1/namespaces/default";
    live.create(&format!("{root}/serviceaccounts"), &json!({"metadata": {"name": "default"}})).await?;
    let pods = format!("{root}/pods");
    for (name, options, seconds) in [
        ("own", json!({}), Some(30)),
        ("asked", json!({"gracePeriodSeconds": 7}), Some(7)),
        ("negative", json!({"gracePeriodSeconds": -5}), Some(1)),
        ("none", json!({"gracePeriodSeconds": 0}), None),
    ] {
        let spec = json!({"nodeName": "n", "containers": [{"name": "c", "image": "i"}]});
        live.create(&pods, &json!({"metadata": {"name": name}, "spec": spec})).await?;
        let answer = delete(&live, &format!("{pods}/{name}"), Some(&options)).await?;
        let now = live.get(&format!("{pods}/{name}")).await?;
        let Some(seconds) = seconds else {
            ensure!(now.status == 404, "{}", now.text());
            continue;
        };
        ensure!(
            answer.json()["metadata"]["deletionGracePeriodSeconds"] == seconds,
            "{name}: {}",
            answer.text()
        );
        // Less time later is taken, more is not.
        for (asked, becomes) in [(seconds + 50, seconds), (seconds.min(5) - 1, seconds.min(5) - 1)] {
            let options = json!({"gracePeriodSeconds": asked});
            delete(&live, &format!("{pods}/{name}"), Some(&options)).await?;
            let now = live.get(&format!("{pods}/{name}")).await?;
            match becomes {
                0 => ensure!(now.status == 404, "{name}: {}", now.text()),
                becomes => {
                    let grace = &now.json()["metadata"]["deletionGracePeriodSeconds"];
                    ensure!(*grace == becomes, "{name} asked {asked}: {grace}");
                }
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_go_by_selector_and_policy() -> Result<()> {
    let live = Live::start().await?;
    live.config_maps(6).await?;
    let dry = delete(&live, &format!("{MAPS}?labelSelector=parity%3D0&dryRun=All"), None).await?;
    ensure!(dry.status == 200 && live.get(MAPS).await?.json()["items"].as_array().map(Vec::len) == Some(6));
    let orphan = json!({"propagationPolicy": "Orphan"});
    let some = delete(&live, &format!("{MAPS}?labelSelector=parity%3D0"), Some(&orphan)).await?;
    ensure!(some.status == 200, "{}", some.text());
    let left = live.get(MAPS).await?.json();
    let held = |item: &&Value| finalizers(item) == ["orphan"];
    ensure!(left["items"].as_array().map(|items| items.iter().filter(held).count()) == Some(3), "{left}");
    let one = delete(&live, &format!("{MAPS}?fieldSelector=metadata.name%3Dmap-001"), None).await?;
    ensure!(one.status == 200 && live.get(&format!("{MAPS}/map-001")).await?.status == 404);
    ensure!(live.get(&format!("{MAPS}/map-003")).await?.status == 200);
    Ok(())
}
