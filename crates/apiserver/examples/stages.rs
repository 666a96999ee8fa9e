//! What each filter of the chain costs, and a whole request with RBAC and audit on, as CPU time of this process:
//! `cargo run --release -p apiserver --example stages`. `scripts/bench stages` does the same.
use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use apiserver::{
    Admission, ApiServer, AuthorizationMode, Body, Config, Selection, ServiceAccounts, Settings, TlsFiles,
    audit,
};
use apiserver_admission::{
    Attributes, Authorize, ClusterView, MakeNamespaces, Needs, Operation, QuotaWriter, Resource, Served,
    ServedKinds,
};
use apiserver_audit::{Begin, Stage};
use apiserver_authn::{AuthRequest, Authenticator as _, ClientCertificate};
use apiserver_authz::Authorizer as _;
use apiserver_authz::rbac::Rbac;
use async_trait::async_trait;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use machinery::gvk::{GroupVersionKind, GroupVersionResource};
use machinery::request::{Attributes as Question, RequestInfo, UserInfo};
use machinery::{Object, StatusResult};
use pki::{ClusterPki, PkiSpec};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use storage::{Embedded, Options};
use tokio_util::sync::CancellationToken;

type Failed = Box<dyn Error>;

/// Bindings among which the right one, or none, is found.
const BINDINGS: usize = 10_000;

fn row(what: &str, each: Duration, of: &str) {
    println!("| {what:<52} | {:>8.2} us | {of:<44} |", each.as_secs_f64() * 1e6);
}

/// CPU time of this process.
fn cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

async fn each<F: Future>(rounds: u32, mut work: impl FnMut(u32) -> F) -> Duration {
    for i in 0..rounds / 10 {
        black_box(work(i).await);
    }
    let before = cpu();
    for i in 0..rounds {
        black_box(work(rounds / 10 + i).await);
    }
    (cpu() - before) / rounds
}

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap_or_default()
}

fn binding(namespace: &str, name: &str, user: &str) -> Object {
    let kind = if namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" };
    object(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }))
}

fn pods(verb: &str) -> RequestInfo {
    RequestInfo {
        verb: verb.into(),
        is_resource: true,
        api_version: "v1".into(),
        resource: "pods".into(),
        namespace: "n7".into(),
        name: "web".into(),
        path: "/api/v1/namespaces/n7/pods/web".into(),
        ..RequestInfo::default()
    }
}

async fn authentication(pki: &ClusterPki) -> Result<(), Failed> {
    let authority = std::fs::read(pki.authority().certificate)?;
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(pki.admin().certificate)?.collect::<Result<_, _>>()?;
    let headers = HeaderMap::new();
    let asked = AuthRequest { client_certs: &chain, headers: &headers, path: "/api/v1/pods" };
    let fresh = || ClientCertificate::new(&authority, Arc::new(SystemTime::now));
    let first = fresh()?;
    row("authentication: client certificate, known", each(200_000, |_| first.authenticate(&asked)).await, "");
    let all = (0..2200).map(|_| fresh()).collect::<Result<Vec<_>, _>>()?;
    let unknown = each(2000, |i| all[i as usize].authenticate(&asked)).await;
    row("authentication: client certificate, first seen", unknown, "once a minute for each client");
    Ok(())
}

async fn authorization() {
    let rbac = Rbac::new();
    rbac.set(&object(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["get", "list", "watch"]}],
    })));
    for i in 0..BINDINGS {
        // Half of them hold everywhere; a fiftieth is about the one who asks, and does not help.
        let namespace = if i % 2 == 0 { String::new() } else { format!("n{}", i % 1000) };
        let user = if i % 100 == 1 { "jane".to_owned() } else { format!("user-{i}") };
        rbac.set(&binding(&namespace, &format!("b{i}"), &user));
    }
    let user = UserInfo::new("user-8", &["devs", "system:authenticated"]);
    let jane = UserInfo::new("jane", &["devs", "system:authenticated"]);
    let (get, delete) = (pods("get"), pods("delete"));
    let of = format!("{BINDINGS} bindings");
    let allowed = Question { user: &user, request: &get };
    row("authorization: RBAC, allowed", each(200_000, |_| rbac.authorize(&allowed)).await, &of);
    let denied = Question { user: &jane, request: &delete };
    row("authorization: RBAC, denied", each(200_000, |_| rbac.authorize(&denied)).await, &of);
    let message = each(200_000, |_| async { apiserver_authz::forbidden(&denied, "") }).await;
    row("authorization: the words of a denial", message, "");
}

async fn recording(dir: &Path) -> Result<(), Failed> {
    let info = pods("update");
    let user = UserInfo::new("system:node:a", &["system:nodes", "system:authenticated"]);
    for level in ["Metadata", "RequestResponse"] {
        let audit = match apiserver_audit::Audit::start(&trail(dir, level)?).await? {
            Some(audit) => audit,
            None => continue,
        };
        let body = format!(r#"{{"metadata":{{"name":"web"}},"spec":"{}"}}"#, "x".repeat(1000));
        let cost = each(20_000, |_| async {
            let begin = Begin {
                uri: "/api/v1/namespaces/n7/pods/web",
                request: &info,
                user: Some(&user),
                source_ips: vec!["127.0.0.1".into()],
                user_agent: "kubectl/v1.36.0 (linux/amd64) kubernetes/abcdef",
                audit_id: None,
                received: Timestamp::now(),
            };
            let Some(mut record) = audit.begin(begin) else { return };
            record.annotate("authorization.k8s.io/decision", "allow");
            record.annotate("authorization.k8s.io/reason", "RBAC: allowed by ClusterRoleBinding \"a\"");
            if record.wants_request() {
                record.request_object(body.as_bytes());
            }
            record.response_status(Status { code: Some(200), ..Status::default() });
            if record.wants_response() {
                record.response_object(body.as_bytes());
            }
            record.stage(Stage::ResponseComplete).await;
        });
        row(&format!("audit: {level}"), cost.await, "with the write of the line");
        audit.close().await;
    }
    Ok(())
}

/// A trail that is written line by line, as by default.
fn trail(dir: &Path, level: &str) -> Result<audit::Config, Failed> {
    let policy = dir.join("policy.yaml");
    let text = format!(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{{level: {level}}}]\n"
    );
    std::fs::write(&policy, text)?;
    let log = audit::LogConfig { max_backups: 1, ..audit::LogConfig::new(dir.join("audit.log")) };
    Ok(audit::Config { policy, log: Some(log), webhook: None })
}

/// A cluster of one namespace and one account.
struct Small;

#[async_trait]
impl ClusterView for Small {
    fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let there = [Resource::NAMESPACES, Resource::SERVICE_ACCOUNTS].contains(&resource);
        let value =
            json!({"metadata": {"name": name, "namespace": namespace}, "status": {"phase": "Active"}});
        there.then(|| Arc::new(object(value)))
    }

    fn list(&self, _: Resource, _: &str) -> Vec<Arc<Object>> {
        Vec::new()
    }

    async fn get_live(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
    ) -> StatusResult<Option<Arc<Object>>> {
        Ok(self.get(resource, namespace, name))
    }
}

#[async_trait]
impl Authorize for Small {
    async fn decide(&self, _: &UserInfo, _: &RequestInfo) -> Result<(), String> {
        Ok(())
    }
}

impl ServedKinds for Small {
    fn served(&self, _: &str, _: &str, _: &str) -> Option<Served> {
        None
    }
}

#[async_trait]
impl MakeNamespaces for Small {
    async fn make(&self, _: &str) -> StatusResult<()> {
        Ok(())
    }
}

#[async_trait]
impl QuotaWriter for Small {
    async fn write_status(&self, _: Object) -> StatusResult<()> {
        Ok(())
    }
}

async fn admission() -> Result<(), Failed> {
    let needs = Needs {
        cluster: Arc::new(Small),
        authorize: Arc::new(Small),
        kinds: Arc::new(Small),
        quota: Arc::new(Small),
        namespaces: Arc::new(Small),
        reviewers: Box::new(|_| Err("nobody is asked".into())),
        tolerations: apiserver::DefaultTolerationSeconds::default(),
    };
    let chain = Selection::with_node_restriction().build(&needs, &Settings::default())?;
    let map = object(json!({"metadata": {"name": "m", "namespace": "n"}, "data": {"k": "v"}}));
    let pod =
        object(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"serviceAccountName": "default",
        "containers": [{"name": "c", "image": "nginx:1", "resources": {"requests": {"cpu": "1"}}}]}}));
    let user = UserInfo::new("jane", &["devs"]);
    for (what, kind, plural, made) in
        [("ConfigMap", "ConfigMap", "configmaps", map), ("Pod", "Pod", "pods", pod)]
    {
        let (gvk, gvr) = (GroupVersionKind::new("", "v1", kind), GroupVersionResource::new("", "v1", plural));
        let cost = each(20_000, |_| async {
            let mut object = made.clone();
            let mut attributes = Attributes {
                operation: Operation::Create,
                gvk: &gvk,
                gvr: &gvr,
                subresource: "",
                namespace: "n",
                name: "x",
                object: Some(&mut object),
                old: None,
                options: None,
                user: &user,
                dry_run: false,
                warnings: Vec::new(),
                annotations: Vec::new(),
            };
            chain.mutate(&mut attributes).await.and(chain.validate(&mut attributes).await)
        });
        row(
            &format!("admission: create of a {what}"),
            cost.await,
            &format!("{} plugins, with a copy", chain.0.len()),
        );
    }
    Ok(())
}

fn request(method: &str, path: &str, body: &Value) -> Result<Request<Body>, Failed> {
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let body: Body = Full::new(bytes::Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync();
    let builder = Request::builder().method(method).uri(path);
    Ok(builder.header("content-type", "application/json").header("accept", "application/json").body(body)?)
}

async fn ask(server: &ApiServer, user: &Arc<UserInfo>, request: Request<Body>, want: StatusCode) {
    let answer = server.handle_local(user.clone(), request).await;
    let status = answer.status();
    let body = answer.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    assert_eq!(status, want, "{}", String::from_utf8_lossy(&body));
}

/// Requests by somebody whom RBAC allows; all but TLS and HTTP.
async fn whole(dir: &Path, pki: &ClusterPki, audited: bool) -> Result<(), Failed> {
    let store =
        Embedded::open(dir.join(format!("db-{audited}")), Options { sync: false, ..Options::default() })?;
    let keys = vec![pki.service_account_public_key()];
    let accounts = ServiceAccounts::new(pki.service_account_key(), keys, "https://kubernetes.default.svc");
    let tls = TlsFiles { certificate: pki.api_server().certificate, key: pki.api_server().key };
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        advertise: [192, 0, 2, 1].into(),
        authorization: vec![AuthorizationMode::Node, AuthorizationMode::Rbac],
        admission: Admission { plugins: Selection::with_node_restriction(), ..Admission::default() },
        audit: if audited { Some(trail(dir, "Metadata")?) } else { None },
        ..Config::new(Arc::new(store), tls, pki.authority().certificate, accounts)
    };
    let stop = CancellationToken::new();
    let server = ApiServer::start(config, stop.clone()).await?;
    let admin = Arc::new(UserInfo::new("admin", &["system:masters"]));
    let jane = Arc::new(UserInfo::new("jane", &["devs", "system:authenticated"]));
    let mut bound = binding("", "jane", "jane");
    bound.set(&["roleRef", "name"], "edit");
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    ask(&server, &admin, request("POST", bindings, &bound.into_value())?, StatusCode::CREATED).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "x".repeat(400)}});
    // The binding counts when the watch has told of it.
    while server.handle_local(jane.clone(), request("GET", maps, &Value::Null)?).await.status()
        != StatusCode::OK
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let of = if audited { "RBAC, audit at Metadata; no TLS, no HTTP" } else { "RBAC; no TLS, no HTTP" };
    let create = each(5000, |i| {
        let request = request("POST", maps, &map(&format!("m-{i}")));
        let (server, jane) = (&server, &jane);
        async move { ask(server, jane, request.unwrap_or_default(), StatusCode::CREATED).await }
    });
    row("whole request: create of a ConfigMap", create.await, of);
    let path = format!("{maps}/m-7");
    let get = each(20_000, |_| {
        let request = request("GET", &path, &Value::Null);
        let (server, jane) = (&server, &jane);
        async move { ask(server, jane, request.unwrap_or_default(), StatusCode::OK).await }
    });
    row("whole request: get of a ConfigMap", get.await, of);
    let refused = each(20_000, |_| {
        let request = request("GET", "/api/v1/nodes", &Value::Null);
        let (server, jane) = (&server, &jane);
        async move { ask(server, jane, request.unwrap_or_default(), StatusCode::FORBIDDEN).await }
    });
    row("whole request: one that is denied", refused.await, of);
    stop.cancel();
    server.stopped().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let dir = std::env::temp_dir().join(format!("stages-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let pki = ClusterPki::at(dir.join("pki"));
    pki.ensure(&PkiSpec::default(), Timestamp::now())?;
    println!("| {:<52} | {:>11} | {:<44} |", "what", "CPU each", "more");
    println!("| {} | {}: | {} |", "-".repeat(52), "-".repeat(10), "-".repeat(44));
    authentication(&pki).await?;
    authorization().await;
    recording(&dir).await?;
    admission().await?;
    whole(&dir, &pki, false).await?;
    whole(&dir, &pki, true).await?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
