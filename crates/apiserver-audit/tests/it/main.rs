//! Audit from outside: events in a file and at a webhook, in one binary.
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use apiserver_audit::{
    Audit, AuditError, Batch, Begin, Config, LogConfig, Mode, Record, Stage, Truncate, WebhookConfig,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use machinery::request::{RequestInfo, UserInfo};
use serde_json::Value;

const EVERYTHING: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: RequestResponse}]\n";
const METADATA: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";

fn config(dir: &Path, policy: &str) -> Config {
    let path = dir.join("policy.yaml");
    std::fs::write(&path, policy).unwrap();
    Config { policy: path, log: Some(LogConfig::new(dir.join("audit.log"))), webhook: None }
}

async fn start(config: &Config) -> Arc<Audit> {
    Audit::start(config).await.unwrap().unwrap()
}

fn info() -> RequestInfo {
    RequestInfo {
        path: "/api/v1/namespaces/default/secrets".into(),
        verb: "create".into(),
        is_resource: true,
        api_version: "v1".into(),
        namespace: "default".into(),
        resource: "secrets".into(),
        ..RequestInfo::default()
    }
}

fn begin(audit: &Arc<Audit>) -> Record {
    let (request, user) = (info(), UserInfo::new("tim", &["humans"]));
    let begin = Begin {
        uri: "/api/v1/namespaces/default/secrets?fieldManager=x",
        request: &request,
        user: Some(&user),
        source_ips: vec!["127.0.0.1".into()],
        user_agent: "kubectl/v1.36.0",
        audit_id: None,
        received: Timestamp::now(),
    };
    audit.begin(begin).unwrap()
}

/// One request with a secret in it, from its beginning to its end.
async fn request(audit: &Arc<Audit>) {
    let mut record = begin(audit);
    assert!(record.stage(Stage::RequestReceived).await);
    record.annotate("authorization.k8s.io/decision", "allow");
    record.request_object(
        br#"{"kind":"Secret","metadata":{"name":"x","managedFields":[]},"data":{"p":"hunter2"}}"#,
    );
    record.response_status(Status { code: Some(201), ..Status::default() });
    record.response_object(br#"{"metadata":{"name":"x"},"data":{"p":"hunter2"}}"#);
    record.stage(Stage::ResponseComplete).await;
}

fn events(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn every_stage_is_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), EVERYTHING);
    let audit = start(&config).await;
    request(&audit).await;
    let events = events(&dir.path().join("audit.log"));
    assert_eq!(events.len(), 2);
    assert_eq!(
        (&events[0]["stage"], &events[1]["stage"]),
        (&"RequestReceived".into(), &"ResponseComplete".into())
    );
    assert_eq!(events[0]["auditID"], events[1]["auditID"]);
    assert_eq!(events[1]["kind"], "Event");
    assert_eq!(events[1]["apiVersion"], "audit.k8s.io/v1");
    assert_eq!(events[1]["objectRef"]["name"], "x");
    assert_eq!(events[1]["responseStatus"]["code"], 201);
    assert_eq!(events[1]["requestObject"]["data"]["p"], "hunter2");
    assert_eq!(events[1]["responseObject"]["data"]["p"], "hunter2");
    let mode = std::fs::metadata(dir.path().join("audit.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn metadata_tell_nothing_secret() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), METADATA);
    request(&start(&config).await).await;
    let text = std::fs::read_to_string(dir.path().join("audit.log")).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert!(!text.contains("hunter2") && !text.contains("Object\":"), "{text}");
    assert!(text.contains(r#""name":"x""#));
}

#[tokio::test]
async fn managed_fields_are_left_out_on_demand() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), &format!("{EVERYTHING}omitManagedFields: true\n"));
    request(&start(&config).await).await;
    let text = std::fs::read_to_string(dir.path().join("audit.log")).unwrap();
    assert!(text.contains("hunter2") && !text.contains("managedFields"));
}

#[tokio::test]
async fn a_queue_is_written_before_the_end_and_never_grows_without_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), METADATA);
    let log = config.log.as_mut().unwrap();
    (log.mode, log.batch) = (Mode::Batch, Batch { buffer: 10, ..Batch::log() });
    let audit = start(&config).await;
    // Nothing runs in between, so that what does not fit is dropped.
    for _ in 0..50 {
        let mut record = begin(&audit);
        assert!(record.stage(Stage::ResponseComplete).await);
    }
    audit.close().await;
    let written = events(&dir.path().join("audit.log")).len();
    assert!((10..50).contains(&written), "{written}");
}

#[tokio::test]
async fn large_events_lose_their_objects_or_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), EVERYTHING);
    let log = config.log.as_mut().unwrap();
    log.truncate = Some(Truncate { max_event: 800, max_batch: 10_000 });
    let audit = start(&config).await;
    let mut record = begin(&audit);
    record.request_object(format!(r#"{{"data":"{}"}}"#, "x".repeat(1000)).as_bytes());
    record.stage(Stage::ResponseComplete).await;
    let mut record = begin(&audit);
    record.annotate("example.com/long", "y".repeat(1000));
    record.stage(Stage::ResponseComplete).await;
    request(&audit).await;
    let events = events(&dir.path().join("audit.log"));
    assert_eq!(events.len(), 3);
    assert_eq!(events[0]["annotations"]["audit.k8s.io/truncated"], "true");
    assert!(events[0].get("requestObject").is_none());
    assert!(events[2].get("requestObject").is_some());
}

#[tokio::test]
async fn a_request_is_refused_only_where_that_was_asked_for() {
    // Writing to this device fails as a full disk does.
    if !Path::new("/dev/full").exists() {
        println!("skipped: there is no /dev/full");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (mode, served) in [(Mode::Blocking, true), (Mode::BlockingStrict, false)] {
        let mut config = config(dir.path(), EVERYTHING);
        config.log = Some(LogConfig { mode, ..LogConfig::new("/dev/full") });
        let audit = start(&config).await;
        let mut record = begin(&audit);
        assert_eq!(record.stage(Stage::RequestReceived).await, served);
        assert!(record.stage(Stage::ResponseComplete).await);
    }
}

#[tokio::test]
async fn what_cannot_be_used_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Config { policy: dir.path().join("no"), log: None, webhook: None };
    assert!(matches!(Audit::start(&missing).await, Err(AuditError::Read { .. })));
    let bad = config(dir.path(), "kind: Policy\napiVersion: audit.k8s.io/v1\n");
    let text = Audit::start(&bad).await.err().unwrap().to_string();
    assert!(
        text.starts_with("loading audit policy file: loaded illegal policy with 0 rules: from file "),
        "{text}"
    );
    let mut nowhere = config(dir.path(), EVERYTHING);
    nowhere.log = None;
    assert!(Audit::start(&nowhere).await.unwrap().is_none());
}

/// Takes one request for each of these answers; gives path and body.
fn server(answers: &'static [&'static str]) -> (String, mpsc::Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/audit/in", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = Vec::new();
            let mut buffer = [0; 65536];
            let body = loop {
                let n = stream.read(&mut buffer).unwrap();
                text.extend_from_slice(&buffer[..n]);
                let whole = String::from_utf8_lossy(&text).into_owned();
                let Some((head, body)) = whole.split_once("\r\n\r\n") else { continue };
                let length = head
                    .lines()
                    .find_map(|l| l.to_lowercase().strip_prefix("content-length: ").map(str::to_owned))
                    .and_then(|l| l.parse::<usize>().ok())
                    .unwrap_or(0);
                if body.len() >= length {
                    break body.to_owned();
                }
            };
            let path = String::from_utf8_lossy(&text).split(' ').nth(1).unwrap().to_owned();
            write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            sender.send((path, body)).unwrap();
        }
    });
    (address, receiver)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_gets_lists_and_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let (address, received) = server(&["500 Internal Server Error", "200 OK"]);
    let kubeconfig = dir.path().join("webhook.kubeconfig");
    std::fs::write(
        &kubeconfig,
        format!(
            "apiVersion: v1\nkind: Config\nclusters: [{{name: a, cluster: {{server: '{address}'}}}}]\n\
             users: [{{name: a, user: {{}}}}]\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\ncurrent-context: a\n"
        ),
    )
    .unwrap();
    let mut config = config(dir.path(), METADATA);
    config.log = None;
    config.webhook = Some(WebhookConfig {
        backoff: Duration::from_millis(10),
        batch: Batch { max: 3, ..Batch::webhook() },
        ..WebhookConfig::new(kubeconfig)
    });
    let audit = start(&config).await;
    for _ in 0..3 {
        request(&audit).await;
    }
    let wait = Duration::from_secs(30);
    let (first, second) = tokio::task::spawn_blocking(move || {
        (received.recv_timeout(wait).unwrap(), received.recv_timeout(wait).unwrap())
    })
    .await
    .unwrap();
    assert_eq!(first, second);
    assert_eq!(first.0, "/audit/in");
    let list: Value = serde_json::from_str(&first.1).unwrap();
    assert_eq!(list["kind"], "EventList");
    assert_eq!(list["items"].as_array().unwrap().len(), 3);
    assert_eq!(list["items"][0]["verb"], "create");
    audit.close().await;
}
