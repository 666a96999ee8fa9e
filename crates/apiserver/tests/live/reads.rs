//! Which objects a list shows, at which revision, in which form.
use anyhow::{Result, ensure};
use base64::Engine as _;
use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::harness::{Live, MAPS, Who, request};

fn token(revision: i64, start: &str) -> String {
    let token = json!({ "v": "meta.k8s.io/v1", "rv": revision, "start": start });
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_list_options_are_told_in_upstreams_words() -> Result<()> {
    let live = Live::start().await?.forgetful().await?;
    let options = r#"ListOptions.meta.k8s.io "" is invalid: "#;
    let page = token(5, "a");
    let both = format!("continue={page}&resourceVersion=5");
    let matched = format!("continue={page}&resourceVersion=5&resourceVersionMatch=Exact");
    for (query, code, expected) in [
        (
            "resourceVersionMatch=Exact",
            422,
            format!(
                "{options}resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
            ),
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=0",
            422,
            format!(
                "{options}resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""
            ),
        ),
        (
            "resourceVersionMatch=Newest&resourceVersion=1",
            422,
            format!("{options}resourceVersionMatch: Unsupported value: \"Newest\": supported values: "),
        ),
        (
            matched.as_str(),
            422,
            format!(
                "{options}resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided"
            ),
        ),
        (
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=1",
            422,
            format!("{options}sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
        ),
        (both.as_str(), 400, "specifying resource version is not allowed when using continue".to_owned()),
        (
            "resourceVersion=x",
            422,
            "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax"
                .to_owned(),
        ),
        ("continue=*", 400, "continue key is not valid".to_owned()),
        ("labelSelector=a%3D%3D%3Db", 400, "unable to parse requirement".to_owned()),
        ("fieldSelector=a", 400, "invalid selector: 'a'; can't understand 'a'".to_owned()),
        ("timeout=soon", 400, "invalid timeout specified in the request URL".to_owned()),
        (
            "watch=1&sendInitialEvents=true",
            422,
            format!(
                "{options}resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            ),
        ),
        (
            "watch=1&resourceVersionMatch=NotOlderThan",
            422,
            format!(
                "{options}resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            ),
        ),
        ("resourceVersion=99999999", 504, "Too large resource version: 99999999, current: ".to_owned()),
        (
            "resourceVersion=1&resourceVersionMatch=Exact",
            410,
            "The resourceVersion for the provided list is too old.".to_owned(),
        ),
    ] {
        let answer = live.get(&format!("{MAPS}?{query}")).await?;
        let (got, reason, message) = answer.error();
        ensure!(
            got == code && message.contains(&expected),
            "{query}: {got} {reason} {message:?}, want {expected:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_one_state_and_say_what_remains() -> Result<()> {
    let live = Live::start().await?;
    live.config_maps(6).await?;
    let names = |list: &serde_json::Value| -> Vec<String> {
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|i| i["metadata"]["name"].as_str().unwrap_or("").to_owned()).collect()
    };
    let first = live.get(&format!("{MAPS}?limit=2")).await?.json();
    let revision = first["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
    // kube-root-ca.crt needs a controller: all that is here is ours.
    ensure!(names(&first) == ["map-000", "map-001"], "{first}");
    ensure!(first["metadata"]["remainingItemCount"] == 4, "{}", first["metadata"]);
    live.create(MAPS, &json!({ "metadata": { "name": "map-002a" } })).await?;
    live.send(Who::Admin, request(Method::DELETE, &format!("{MAPS}/map-003"), "application/json", ""))
        .await?;
    let next = |list: &serde_json::Value, limit: usize| {
        format!("{MAPS}?limit={limit}&continue={}", list["metadata"]["continue"].as_str().unwrap_or(""))
    };
    let second = live.get(&next(&first, 2)).await?.json();
    ensure!(names(&second) == ["map-002", "map-003"], "the state of the first page: {second}");
    ensure!(second["metadata"]["resourceVersion"] == revision.as_str(), "{}", second["metadata"]);
    let last = live.get(&next(&second, 500)).await?.json();
    ensure!(names(&last) == ["map-004", "map-005"], "{last}");
    ensure!(
        last["metadata"].get("continue").is_none() && last["metadata"].get("remainingItemCount").is_none()
    );

    // With a selector nobody knows how many follow.
    let some = live.get(&format!("{MAPS}?limit=1&labelSelector=parity%3D0")).await?.json();
    ensure!(
        some["metadata"].get("remainingItemCount").is_none() && some["metadata"].get("continue").is_some()
    );
    // Who takes any state takes it whole; who names a revision and a limit means exactly that one.
    let any = live.get(&format!("{MAPS}?limit=1&resourceVersion=0")).await?.json();
    ensure!(names(&any).len() == 6 && any["metadata"].get("continue").is_none(), "{any}");
    let exact = live.get(&format!("{MAPS}?limit=10&resourceVersion={revision}")).await?.json();
    ensure!(names(&exact).contains(&"map-003".to_owned()), "{exact}");
    let newer = live.get(&format!("{MAPS}?resourceVersion={revision}")).await?.json();
    ensure!(!names(&newer).contains(&"map-003".to_owned()), "{newer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_comes_with_one_for_the_rest() -> Result<()> {
    let live = Live::start().await?;
    live.config_maps(5).await?;
    let live = live.forgetful().await?;
    let old = token(1, "map-001\0");
    let answer = live.get(&format!("{MAPS}?limit=1&continue={old}")).await?;
    let (code, reason, message) = answer.error();
    ensure!((code, reason.as_str()) == (410, "Expired"), "{code} {reason} {message}");
    ensure!(message.contains("use the continue token in this response"), "{message}");
    let rest = answer.json()["metadata"]["continue"].as_str().unwrap_or("").to_owned();
    let page = live.get(&format!("{MAPS}?limit=1&continue={rest}")).await?.json();
    ensure!(page["items"][0]["metadata"]["name"] == "map-002", "{page}");
    // From here on it is consistent again.
    live.create(MAPS, &json!({ "metadata": { "name": "map-002a" } })).await?;
    let token = page["metadata"]["continue"].as_str().unwrap_or("");
    let page = live.get(&format!("{MAPS}?continue={token}")).await?.json();
    ensure!(page["items"].as_array().map(Vec::len) == Some(2), "{page}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_selected_by_is_told_for_each_kind() -> Result<()> {
    let live = Live::start().await?;
    for (path, fields) in [
        (
            "/api/v1/pods",
            "spec.nodeName=a,spec.restartPolicy=b,spec.schedulerName=c,spec.serviceAccountName=d,spec.hostNetwork=true,status.phase=e,status.podIP=f,status.nominatedNodeName=g",
        ),
        (
            "/api/v1/events",
            "involvedObject.kind=a,involvedObject.namespace=b,involvedObject.name=c,involvedObject.uid=d,involvedObject.apiVersion=e,involvedObject.resourceVersion=f,involvedObject.fieldPath=g,reason=h,reportingComponent=i,source=j,type=k",
        ),
        ("/api/v1/namespaces", "status.phase=Active"),
        ("/api/v1/nodes", "spec.unschedulable=true"),
        ("/api/v1/secrets", "type=Opaque"),
        ("/api/v1/services", "spec.clusterIP=10.96.0.1,spec.type=ClusterIP"),
        ("/api/v1/replicationcontrollers", "status.replicas=1"),
        ("/apis/resource.k8s.io/v1/resourceslices", "spec.driver=d,spec.nodeName=n"),
        ("/apis/batch/v1/jobs", "status.successful=1"),
        ("/apis/certificates.k8s.io/v1/certificatesigningrequests", "spec.signerName=a"),
        ("/api/v1/configmaps", "metadata.name=a,metadata.namespace!=b"),
    ] {
        let fields = fields.replace('=', "%3D");
        let answer = live.get(&format!("{path}?fieldSelector={fields}")).await?;
        ensure!(answer.status == 200, "{path}: {}", answer.text());
    }
    for (path, expected) in [
        ("/api/v1/pods", "field label not supported: spec.x"),
        ("/api/v1/nodes", "field label not supported: spec.x"),
        (
            "/apis/resource.k8s.io/v1/resourceslices",
            "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: spec.x",
        ),
        (
            "/apis/apps/v1/deployments",
            "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        ("/apis/batch/v1/jobs", "field label \"spec.x\" not supported for Job"),
        (
            "/api/v1/configmaps",
            "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
    ] {
        let (code, reason, message) = live.get(&format!("{path}?fieldSelector=spec.x%3D1")).await?.error();
        ensure!(
            (code, reason.as_str(), message.as_str()) == (400, "BadRequest", expected),
            "{path}: {message}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_that_cannot_be_had_are_refused() -> Result<()> {
    let live = Live::start().await?;
    let (code, reason, message) = live.get_as(MAPS, "text/html").await?.error();
    ensure!((code, reason.as_str()) == (406, "NotAcceptable"), "{code} {reason}");
    ensure!(message.starts_with("only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"), "{message}");
    let mut post = request(Method::POST, MAPS, "application/json", "x");
    post.headers_mut().insert("content-type", "text/plain".parse()?);
    let (code, reason, message) = live.send(Who::Admin, post).await?.error();
    ensure!((code, reason.as_str()) == (415, "UnsupportedMediaType"), "{code} {reason}");
    ensure!(message.starts_with("the body of the request was in an unknown format - accepted media types include: application/json"), "{message}");
    let answer = live.get_as(MAPS, "application/json;as=Table;g=meta.k8s.io;v=v1").await?;
    ensure!(answer.json()["kind"] == "Table");
    let answer =
        live.get_as(MAPS, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").await?;
    ensure!(answer.json()["kind"] == "PartialObjectMetadataList");
    let answer = live.get_as(MAPS, "application/vnd.kubernetes.protobuf").await?;
    ensure!(answer.body.starts_with(b"k8s\0"));
    let (code, ..) = live.get_as(MAPS, "application/json;as=Nothing;g=meta.k8s.io;v=v1").await?.error();
    ensure!(code == 406, "{code}");
    // What has no metadata has no table.
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}).to_string();
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let (code, ..) = live.send(Who::Admin, request(Method::POST, path, table, review)).await?.error();
    ensure!(code == 406, "{code}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_are_compressed_for_who_asks() -> Result<()> {
    use std::io::Read as _;
    let live = Live::start().await?;
    for n in 0..40 {
        let object =
            json!({ "metadata": { "name": format!("large-{n:02}") }, "data": { "x": "y".repeat(6000) } });
        live.create(MAPS, &object).await?;
    }
    let ask = |path: &str| {
        let mut get = request(Method::GET, path, "application/json", Bytes::new());
        get.headers_mut().insert("accept-encoding", "gzip".parse().expect("a header"));
        get
    };
    let plain = live.get(MAPS).await?;
    ensure!(plain.header("content-encoding").is_empty() && plain.body.len() > 200_000);
    let packed = live.send(Who::Admin, ask(MAPS)).await?;
    ensure!(packed.header("content-encoding") == "gzip" && packed.header("vary").contains("Accept-Encoding"));
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&packed.body[..]).read_to_end(&mut text)?;
    ensure!(text == plain.body && packed.body.len() < text.len() / 5, "{}", packed.body.len());
    let small = live.send(Who::Admin, ask(&format!("{MAPS}?limit=5"))).await?;
    ensure!(small.header("content-encoding").is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn flow_schemas_stand_in_the_order_they_are_tried_and_know_their_levels() -> Result<()> {
    let live = Live::start().await?;
    let path = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
    let own = json!({ "metadata": { "name": "a" }, "spec": { "matchingPrecedence": 450,
        "priorityLevelConfiguration": { "name": "missing" } } });
    live.create(path, &own).await?;
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let began = std::time::Instant::now();
    loop {
        let rows = live.get_as(path, table).await?.json();
        let cell = |row: &serde_json::Value, n: usize| match &row["cells"][n] {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let rows = rows["rows"].as_array().cloned().unwrap_or_default();
        let shown: Vec<String> =
            rows.iter().map(|row| format!("{} {}", cell(row, 0), cell(row, 5))).collect();
        if rows.iter().all(|row| cell(row, 5) != "?") {
            let order =
                ["exempt False", "probes False", "system-leader-election False", "system-node-high False"];
            ensure!(shown[..4] == order && shown[4] == "a True" && shown.len() == 12, "{shown:?}");
            break;
        }
        ensure!(began.elapsed() < crate::harness::PATIENCE, "{shown:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // What a server does not go without comes back.
    let gone = request(Method::DELETE, &format!("{path}/catch-all"), "application/json", "");
    ensure!(live.send(Who::Admin, gone).await?.status == 200);
    while live.get(&format!("{path}/catch-all")).await?.status != 200 {
        ensure!(began.elapsed() < crate::harness::PATIENCE, "it stays away");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    Ok(())
}
