//! What recording costs: `cargo run --release -p apiserver-audit --example cost`.
use std::sync::Arc;
use std::time::Instant;

use apiserver_audit::{Audit, Batch, Begin, Config, LogConfig, Mode, Stage};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use machinery::request::{RequestInfo, UserInfo};

const ROUNDS: u32 = 100_000;

async fn request(audit: &Arc<Audit>, info: &RequestInfo, user: &UserInfo, body: &[u8]) {
    let begin = Begin {
        uri: "/api/v1/namespaces/default/pods/web",
        request: info,
        user: Some(user),
        source_ips: vec!["127.0.0.1".into()],
        user_agent: "kubectl/v1.36.0 (linux/amd64) kubernetes/abcdef",
        audit_id: None,
        received: Timestamp::now(),
    };
    let Some(mut record) = audit.begin(begin) else { return };
    record.stage(Stage::RequestReceived).await;
    record.annotate("authorization.k8s.io/decision", "allow");
    record.annotate(
        "authorization.k8s.io/reason",
        "RBAC: allowed by ClusterRoleBinding \"a\" of ClusterRole \"b\" to User \"c\"",
    );
    if record.wants_request() {
        record.request_object(body);
    }
    record.response_status(Status { code: Some(200), ..Status::default() });
    record.response_object(body);
    record.stage(Stage::ResponseComplete).await;
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("audit-cost-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let rules = "{level: None, users: [nobody]}, {level: None, verbs: [watch]}";
    let info = RequestInfo {
        path: "/api/v1/namespaces/default/pods/web".into(),
        verb: "update".into(),
        is_resource: true,
        api_version: "v1".into(),
        namespace: "default".into(),
        resource: "pods".into(),
        name: "web".into(),
        ..RequestInfo::default()
    };
    let user = UserInfo::new("system:node:a", &["system:nodes", "system:authenticated"]);
    let body = format!(r#"{{"metadata":{{"name":"web"}},"spec":"{}"}}"#, "x".repeat(4000));
    for (level, mode) in [
        ("None", Mode::Blocking),
        ("Metadata", Mode::Blocking),
        ("Metadata", Mode::Batch),
        ("RequestResponse", Mode::Blocking),
    ] {
        let policy = dir.join("policy.yaml");
        let text = format!(
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{rules}, {{level: {level}}}]\n"
        );
        std::fs::write(&policy, text)?;
        let log = LogConfig {
            mode,
            batch: Batch { buffer: 1_000_000, ..Batch::log() },
            max_backups: 1,
            ..LogConfig::new(dir.join("audit.log"))
        };
        let Some(audit) = Audit::start(&Config { policy, log: Some(log), webhook: None }).await? else {
            continue;
        };
        let began = Instant::now();
        for _ in 0..ROUNDS {
            request(&audit, &info, &user, body.as_bytes()).await;
        }
        let each = began.elapsed() / ROUNDS;
        audit.close().await;
        println!("{level:<16} {mode:?}: {each:?} a request, {:?} with the queue", began.elapsed() / ROUNDS);
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
