//! Owners of fields and server-side apply, asked of a whole API server in this process.
use std::net::SocketAddr;
use std::sync::Arc;

use apiserver::{ApiServer, Config, ServiceAccounts, TlsFiles};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use jiff::Timestamp;
use machinery::request::UserInfo;
use pki::{ClusterPki, PkiSpec};
use serde_json::{Value, json};
use storage::{Embedded, Options};
use tokio_util::sync::CancellationToken;

const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

struct Live {
    server: ApiServer,
    stop: CancellationToken,
    _data: tempfile::TempDir,
}

impl Live {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let pki = ClusterPki::at(data.path().join("pki"));
        let spec = PkiSpec { service_cidrs: vec!["10.96.0.0/12".parse().unwrap()], ..PkiSpec::default() };
        pki.ensure(&spec, Timestamp::now()).unwrap();
        let storage = Embedded::open(data.path().join("db"), Options::default()).unwrap();
        let serving = pki.api_server();
        let accounts = ServiceAccounts::new(
            pki.service_account_key(),
            vec![pki.service_account_public_key()],
            "https://kubernetes.default.svc",
        );
        let tls = TlsFiles { certificate: serving.certificate, key: serving.key };
        let config = Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            // Only written down, as the address of the `kubernetes` Service; loopback may not be one.
            advertise: [192, 0, 2, 1].into(),
            ..Config::new(Arc::new(storage), tls, pki.authority().certificate, accounts)
        };
        let stop = CancellationToken::new();
        let server = ApiServer::start(config, stop.clone()).await.unwrap();
        Self { server, stop, _data: data }
    }

    async fn ask(&self, method: &str, path: &str, content: &str, body: &Value) -> (StatusCode, Value) {
        let user = Arc::new(UserInfo::new("me", &["system:masters", "system:authenticated"]));
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let body = Full::from(body).map_err(|never| match never {}).boxed_unsync();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .header("user-agent", "tester/1.0 (linux)")
            .body(body)
            .unwrap();
        let response = self.server.handle_local(user, request).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn create(&self, path: &str, body: &Value) -> Value {
        let (status, object) = self.ask("POST", path, "application/json", body).await;
        assert_eq!(status, 201, "{object}");
        object
    }

    async fn get(&self, path: &str) -> Value {
        self.ask("GET", path, "application/json", &Value::Null).await.1
    }

    async fn put(&self, path: &str, body: &Value) -> Value {
        let (status, object) = self.ask("PUT", path, "application/json", body).await;
        assert_eq!(status, 200, "{object}");
        object
    }

    async fn apply(&self, path: &str, manager: &str, body: &Value) -> (StatusCode, Value) {
        let mark = if path.contains('?') { '&' } else { '?' };
        self.ask("PATCH", &format!("{path}{mark}fieldManager={manager}"), APPLY, body).await
    }

    async fn end(self) {
        self.stop.cancel();
        self.server.stopped().await;
    }
}

fn entry<'a>(object: &'a Value, manager: &str, subresource: &str) -> &'a Value {
    let fits = |e: &&Value| e["manager"] == manager && e["subresource"].as_str().unwrap_or("") == subresource;
    let list = object["metadata"]["managedFields"].as_array();
    list.and_then(|l| l.iter().find(fits)).unwrap_or(&Value::Null)
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

fn whole(replicas: i64) -> Value {
    deployment(json!({
        "replicas": replicas,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "x:1", "resources": {"requests": {"cpu": "1000m"}}}]},
        },
    }))
}

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const WEB: &str = "/apis/apps/v1/namespaces/default/deployments/web";

#[tokio::test]
async fn every_write_is_tracked() {
    let live = Live::start().await;
    let created = live.create(DEPLOYMENTS, &whole(1)).await;
    let mine = entry(&created, "tester", "");
    assert_eq!(mine["operation"], "Update");
    assert_eq!(mine["apiVersion"], "apps/v1");
    assert_eq!(mine["fieldsType"], "FieldsV1");
    assert_eq!(mine["time"], created["metadata"]["creationTimestamp"]);
    let fields = &mine["fieldsV1"];
    assert_eq!(fields["f:spec"]["f:replicas"], json!({}));
    assert_eq!(fields["f:spec"]["f:progressDeadlineSeconds"], json!({}), "defaults are the creator's");
    assert_eq!(fields["f:status"], Value::Null);
    assert_eq!(fields["f:metadata"], Value::Null);

    // Nothing changed: the same revision, and no new owner.
    let mut same = created.clone();
    same["metadata"]["resourceVersion"] = Value::Null;
    let path = format!("{WEB}?fieldManager=other");
    assert_eq!(live.put(&path, &same).await, created);

    // Through the status, only the status is owned.
    let mut status = created.clone();
    status["metadata"]["resourceVersion"] = Value::Null;
    status["spec"]["replicas"] = 9.into();
    status["status"] = json!({"replicas": 1, "observedGeneration": 1});
    let stored = live.put(&format!("{WEB}/status?fieldManager=controller"), &status).await;
    assert_eq!(stored["spec"]["replicas"], 1);
    assert_eq!(
        entry(&stored, "controller", "status")["fieldsV1"],
        json!({"f:status": {"f:observedGeneration": {}, "f:replicas": {}}})
    );

    // A scale is the scaler's.
    let scale = json!({"spec": {"replicas": 3}});
    let (code, scaled) = live.ask("PATCH", &format!("{WEB}/scale"), MERGE, &scale).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (StatusCode::OK, &json!(3)));
    assert_eq!(scaled["metadata"]["managedFields"], Value::Null);
    let now = live.get(WEB).await;
    assert_eq!(entry(&now, "tester", "scale")["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(entry(&now, "tester", "scale")["apiVersion"], "apps/v1");
    assert_eq!(entry(&now, "tester", "")["fieldsV1"]["f:spec"]["f:replicas"], Value::Null);

    // Then an apply conflicts with the scaler, and may be forced.
    let (code, refused) = live.apply(WEB, "me", &deployment(json!({"replicas": 5}))).await;
    assert_eq!(code, 409);
    assert_eq!(refused["reason"], "Conflict");
    assert_eq!(
        refused["message"],
        "Apply failed with 1 conflict: conflict with \"tester\" with subresource \"scale\" using apps/v1: .spec.replicas"
    );
    assert_eq!(refused["details"]["causes"][0]["field"], ".spec.replicas");
    let (code, forced) =
        live.apply(&format!("{WEB}?force=true"), "me", &deployment(json!({"replicas": 5}))).await;
    assert_eq!(code, 200, "{forced}");
    assert_eq!(forced["spec"]["replicas"], 5);
    assert_eq!(entry(&forced, "me", "")["operation"], "Apply");
    assert_eq!(entry(&forced, "tester", "scale"), &Value::Null);

    // What the server itself writes is its own.
    let namespace = live.get("/api/v1/namespaces/default").await;
    assert_eq!(namespace["metadata"]["managedFields"][0]["manager"], "kube-apiserver");
    live.end().await;
}

#[tokio::test]
async fn an_apply_creates_changes_and_rests() {
    let live = Live::start().await;
    let (code, created) = live.apply(WEB, "me", &whole(2)).await;
    assert_eq!(code, 201, "{created}");
    let spec = &entry(&created, "me", "")["fieldsV1"]["f:spec"];
    assert_eq!(spec["f:progressDeadlineSeconds"], Value::Null, "defaults are nobody's");
    assert_eq!(
        spec["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"],
        json!({".": {}, "f:name": {}, "f:image": {}, "f:resources": {"f:requests": {"f:cpu": {}}}})
    );
    // The quantity is stored in another form than it is applied in, which is no change.
    let (code, again) = live.apply(WEB, "me", &whole(2)).await;
    assert_eq!((code, &again), (StatusCode::OK, &created));

    let (code, dry) = live.apply(&format!("{WEB}?dryRun=All"), "me", &whole(4)).await;
    assert_eq!((code, &dry["spec"]["replicas"]), (StatusCode::OK, &json!(4)));
    assert_eq!(live.get(WEB).await, created);

    // Given up, the replicas are back at their default.
    let mut less = whole(2);
    less["spec"].as_object_mut().unwrap().remove("replicas");
    let (_, changed) = live.apply(WEB, "me", &less).await;
    assert_eq!(changed["spec"]["replicas"], 1);
    assert_eq!(changed["metadata"]["generation"], 2);

    let mut stale = whole(3);
    stale["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"].clone();
    assert_eq!(live.apply(WEB, "me", &stale).await.0, 409);
    stale["metadata"]["resourceVersion"] = changed["metadata"]["resourceVersion"].clone();
    assert_eq!(live.apply(WEB, "me", &stale).await.0, 200);
    live.end().await;
}

#[tokio::test]
async fn bad_applies_are_refused() {
    let live = Live::start().await;
    let path = |name: &str| format!("/api/v1/namespaces/default/configmaps/{name}");
    let map = |metadata: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
    for (query, config, code, text) in [
        (
            "",
            map(json!({"name": "a"})),
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        (
            "fieldManager=me",
            map(json!({"name": "b"})),
            400,
            "the name of the object (b) does not match the name on the URL (a)",
        ),
        (
            "fieldManager=me",
            map(json!({"name": "a", "uid": "u"})),
            409,
            "Operation cannot be fulfilled on configmaps \"a\": uid mismatch: the provided object specified uid u, and no existing object was found",
        ),
        (
            "fieldManager=me",
            map(json!({"name": "a", "managedFields": []})),
            400,
            "metadata.managedFields must be nil",
        ),
        (
            "fieldManager=me",
            json!({"apiVersion": "v1", "kind": "Secret"}),
            400,
            "invalid object type: /v1, Kind=Secret",
        ),
        (
            "fieldManager=me",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "dota": {}}),
            500,
            "failed to create typed patch object (/a; /v1, Kind=ConfigMap): .dota: field not declared in schema",
        ),
    ] {
        let (status, answer) = live.ask("PATCH", &format!("{}?{query}", path("a")), APPLY, &config).await;
        assert_eq!((status.as_u16(), answer["message"].as_str()), (code, Some(text)), "{config}");
    }
    let (code, answer) = live.ask("PATCH", &format!("{}?force=true", path("a")), MERGE, &json!({})).await;
    assert_eq!(code, 422);
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("force: Forbidden: may not be specified for non-apply patch")
    );
    let long = format!("{}?fieldManager={}", "/api/v1/namespaces/default/configmaps", "x".repeat(129));
    let (code, answer) = live.ask("POST", &long, "application/json", &map(json!({"name": "a"}))).await;
    assert_eq!(code, 422, "{answer}");
    // Nothing of a status is applied to what is not there.
    let pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "status": {"phase": "Running"}});
    let (code, _) = live.apply("/api/v1/namespaces/default/pods/a/status", "me", &pod).await;
    assert_eq!(code, 404);
    live.end().await;
}

#[tokio::test]
async fn statuses_and_scales_are_applied() {
    let live = Live::start().await;
    live.create(DEPLOYMENTS, &whole(1)).await;
    let status = |conditions: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 7},
            "status": {"conditions": conditions}})
    };
    let condition = |ty: &str| json!({"type": ty, "status": "True", "reason": "R", "message": "m"});
    let path = format!("{WEB}/status");
    live.apply(&path, "one", &status(json!([condition("A")]))).await;
    let (code, both) = live.apply(&path, "two", &status(json!([condition("B")]))).await;
    assert_eq!(code, 200, "{both}");
    assert_eq!(both["spec"]["replicas"], 1);
    assert_eq!(both["status"]["conditions"].as_array().map(Vec::len), Some(2));
    assert_eq!(entry(&both, "two", "status")["fieldsV1"]["f:spec"], Value::Null);

    let scale = |replicas: i64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": replicas}});
    let path = format!("{WEB}/scale");
    let (code, refused) = live.apply(&path, "scaler", &scale(4)).await;
    assert_eq!(code, 409, "{refused}");
    let (code, scaled) = live.apply(&format!("{path}?force=true"), "scaler", &scale(4)).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (StatusCode::OK, &json!(4)));
    let now = live.get(WEB).await;
    let mine = entry(&now, "scaler", "scale");
    assert_eq!(mine["operation"], "Apply");
    assert_eq!(mine["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    live.end().await;
}

#[tokio::test]
async fn events_have_owners_in_both_versions() {
    let live = Live::start().await;
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": "e", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "x/y", "reportingInstance": "i",
        "action": "A", "reason": "R", "type": "Normal", "note": "n",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "p"},
    });
    let created = live.create("/apis/events.k8s.io/v1/namespaces/default/events", &event).await;
    let mine = entry(&created, "tester", "");
    assert_eq!(mine["apiVersion"], "events.k8s.io/v1");
    assert_eq!(mine["fieldsV1"]["f:note"], json!({}));
    let (code, patched) = live
        .ask("PATCH", "/api/v1/namespaces/default/events/e?fieldManager=two", MERGE, &json!({"message": "m"}))
        .await;
    assert_eq!(code, 200, "{patched}");
    assert_eq!(entry(&patched, "two", "")["fieldsV1"], json!({"f:message": {}}));
    assert_eq!(entry(&patched, "tester", "")["fieldsV1"]["f:note"], Value::Null);
    live.end().await;
}

#[tokio::test]
async fn an_owner_in_one_version_is_asked_by_another() {
    let live = Live::start().await;
    let path =
        |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    let target = json!({"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"});
    let first = json!({
        "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"scaleTargetRef": target, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50},
    });
    let created = live.create(&path("v1"), &first).await;
    let mine = entry(&created, "tester", "");
    assert_eq!(mine["apiVersion"], "autoscaling/v1");
    assert_eq!(mine["fieldsV1"]["f:spec"]["f:targetCPUUtilizationPercentage"], json!({}));

    let wanted = |utilization: i64| {
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"scaleTargetRef": target, "maxReplicas": 3, "metrics": [{"type": "Resource", "resource":
                {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": utilization}}}]},
        })
    };
    let h = format!("{}/h", path("v2"));
    let (code, shared) = live.apply(&h, "me", &wanted(50)).await;
    assert_eq!(code, 200, "the same value is no conflict: {shared}");
    let (code, refused) = live.apply(&h, "me", &wanted(60)).await;
    assert_eq!(code, 409, "{refused}");
    assert_eq!(
        refused["message"],
        "Apply failed with 1 conflict: conflict with \"tester\" using autoscaling/v1: .spec.targetCPUUtilizationPercentage"
    );
    let (_, forced) = live.apply(&format!("{h}?force=true"), "me", &wanted(60)).await;
    let theirs = &entry(&forced, "tester", "")["fieldsV1"]["f:spec"];
    assert_eq!(theirs["f:targetCPUUtilizationPercentage"], Value::Null);
    assert_eq!(theirs["f:maxReplicas"], json!({}));
    live.end().await;
}
