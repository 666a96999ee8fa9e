//! What is recorded of requests to a whole server.
use apiserver::audit::{Config as Audit, LogConfig};
use http_body::Body as _;

use super::*;

fn policy(dir: &Path, rules: &str) -> Option<Audit> {
    let policy = dir.join("policy.yaml");
    let text = format!(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{rules}]\n"
    );
    std::fs::write(&policy, text).unwrap();
    Some(Audit { policy, log: Some(LogConfig::new(dir.join("audit.log"))), webhook: None })
}

fn events(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("audit.log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What happened, in short: verb, object, user, code, decision.
fn short(event: &Value) -> String {
    let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or("-");
    format!(
        "{} {} {}/{} {} {} {}",
        text("/stage"),
        text("/verb"),
        text("/objectRef/resource"),
        text("/objectRef/name"),
        text("/user/username"),
        event["responseStatus"]["code"],
        text("/annotations/authorization.k8s.io~1decision"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_recorded_with_their_fate() {
    let dir = tempfile::tempdir().unwrap();
    let rules = "{level: None, nonResourceURLs: ['/healthz*']}, \
        {level: Metadata, resources: [{group: '', resources: [secrets]}]}, {level: RequestResponse}";
    let live = start(dir.path(), policy(dir.path(), rules)).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    live.ask(&format!("POST {secrets}"), &secret("x", "hunter2")).await;
    live.ask(&format!("GET {secrets}/x"), "").await;
    let map = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"m-"},"data":{"a":"b"}}"#;
    live.ask("POST /api/v1/namespaces/default/configmaps", map).await;
    let (status, _) = live.ask_as("eve", &format!("GET {secrets}/x"), &[("audit-id", "mine")], "").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    live.ask(&format!("DELETE {secrets}/x"), "").await;
    live.ask_as("admin@system:masters", "GET /healthz", &[], "").await;
    let acting = [("impersonate-user", "bob"), ("user-agent", "curl/1")];
    live.ask_as("admin@system:masters", &format!("GET {secrets}"), &acting, "").await;
    live.stop().await;

    let events = events(dir.path());
    let got: Vec<String> = events.iter().map(short).collect();
    assert_eq!(
        got,
        [
            "ResponseComplete create secrets/x admin 201 allow",
            "ResponseComplete get secrets/x admin 200 allow",
            "ResponseComplete create configmaps/- admin 201 allow",
            "ResponseComplete get secrets/x eve 403 forbid",
            "ResponseComplete delete secrets/x admin 200 allow",
            "ResponseComplete list secrets/- admin 403 forbid",
        ]
    );
    let whole = std::fs::read_to_string(dir.path().join("audit.log")).unwrap();
    assert!(!whole.contains("hunter2") && !whole.contains("aHVudGVyMg"));
    assert_eq!(events[2]["requestObject"]["data"]["a"], "b");
    assert!(events[2]["responseObject"]["metadata"]["name"].as_str().unwrap().starts_with("m-"));
    assert_eq!(events[3]["auditID"], "mine");
    assert_eq!(events[3]["responseStatus"]["reason"], "Forbidden");
    assert_eq!(events[3]["responseStatus"]["status"], "Failure");
    assert_eq!(events[4]["responseStatus"]["status"], "Success");
    assert_eq!(events[5]["impersonatedUser"]["username"], "bob");
    assert_eq!(events[5]["userAgent"], "curl/1");
    assert_eq!(events[5]["requestURI"], *secrets);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_recorded_when_it_begins_and_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let live = start(dir.path(), policy(dir.path(), "{level: Metadata}")).await;
    let user = Arc::new(UserInfo::new("admin", &["system:masters"]));
    let request = Request::get("/api/v1/configmaps?watch=1").body(empty()).unwrap();
    let answer = live.server.handle_local(user, request).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.headers().contains_key("audit-id"));
    assert!(!answer.body().is_end_stream());
    assert_eq!(
        events(dir.path()).iter().map(short).collect::<Vec<_>>(),
        ["ResponseStarted watch configmaps/- admin 200 allow"]
    );
    drop(answer);
    let ended = async {
        while events(dir.path()).len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), ended).await.unwrap();
    let events = events(dir.path());
    assert_eq!(short(&events[1]), "ResponseComplete watch configmaps/- admin 200 allow");
    assert_eq!(events[0]["auditID"], events[1]["auditID"]);
    live.stop().await;
}

fn empty() -> Body {
    http_body_util::Full::new(bytes::Bytes::new()).map_err(|never| match never {}).boxed_unsync()
}

/// A request over TLS, without a client certificate.
async fn over_tls(live: &Live, request: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(live.authority())
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = tokio::net::TcpStream::connect(live.server.address()).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("kubernetes.default").unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_recorded_without_their_token() {
    let dir = tempfile::tempdir().unwrap();
    let live = start(dir.path(), policy(dir.path(), "{level: Metadata}")).await;
    let request = "GET /api/v1/secrets HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
        X-Forwarded-For: 192.0.2.7\r\nAuthorization: Bearer stolen-token\r\n\r\n";
    let answer = over_tls(&live, request).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    live.stop().await;
    let events = events(dir.path());
    assert_eq!(short(&events[0]), "ResponseStarted list secrets/- - 401 -");
    assert_eq!(events[0]["responseStatus"]["message"], "Authentication failed, attempted: bearer");
    assert_eq!(events[0]["sourceIPs"], serde_json::json!(["192.0.2.7", "127.0.0.1"]));
    assert!(!std::fs::read_to_string(dir.path().join("audit.log")).unwrap().contains("stolen-token"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_plugins_find_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let pods = "{level: Metadata, resources: [{group: '', resources: [pods]}]}, {level: None}";
    let live = start(dir.path(), policy(dir.path(), pods)).await;
    let namespace = r#"{"metadata":{"name":"n","labels":{"pod-security.kubernetes.io/audit":"baseline",
        "pod-security.kubernetes.io/enforce":"privileged"}}}"#;
    live.ask("POST /api/v1/namespaces", namespace).await;
    live.ask("POST /api/v1/namespaces/n/serviceaccounts", r#"{"metadata":{"name":"default"}}"#).await;
    let pod = r#"{"metadata":{"name":"p"},"spec":{"hostPID":true,"containers":[{"name":"c","image":"x"}]}}"#;
    live.ask("POST /api/v1/namespaces/n/pods", pod).await;
    live.stop().await;
    let events = events(dir.path());
    let annotations = &events[0]["annotations"];
    assert_eq!(annotations["pod-security.kubernetes.io/enforce-policy"], "privileged:latest");
    let violates = "would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)";
    assert_eq!(annotations["pod-security.kubernetes.io/audit-violations"], violates);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_has_a_name() {
    let dir = tempfile::tempdir().unwrap();
    // With and without a trail.
    for audited in [None, policy(dir.path(), "{level: None}")] {
        let live = start(dir.path(), audited).await;
        for (path, given) in
            [("/api/v1/namespaces", None), ("/nothing", Some("mine")), ("/livez", Some("yours"))]
        {
            let user = Arc::new(UserInfo::new("eve", &[]));
            let mut request = Request::get(path);
            if let Some(given) = given {
                request = request.header("audit-id", given);
            }
            let body: Body = http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync();
            let answer = live.server.handle_local(user, request.body(body).unwrap()).await;
            let name = answer.headers()["audit-id"].to_str().unwrap().to_owned();
            assert_eq!(given.unwrap_or(&name), name, "{path}");
            assert!(!name.is_empty());
        }
        live.stop().await;
    }
}
