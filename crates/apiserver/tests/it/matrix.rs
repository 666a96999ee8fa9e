//! Every verb on every resource and subresource that the server has a route for, as each kind of user, compared with
//! `matrix.txt`, which people review. After a wanted change: `COX_WRITE_SNAPSHOTS=1 cargo test -p apiserver`.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use apiserver::{
    Admission, Anonymous, ApiServer, AuthorizationMode, Body, Config, KubeletClient, Route, Selection,
    ServiceAccounts, TlsFiles,
};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use machinery::request::UserInfo;
use pki::{ClusterPki, PkiSpec};
use storage::{Embedded, Options};
use tokio_util::sync::CancellationToken;

/// Verbs in the order of the columns' letters.
const VERBS: &[(&str, char)] = &[
    ("get", 'g'),
    ("list", 'l'),
    ("watch", 'w'),
    ("create", 'c'),
    ("update", 'u'),
    ("patch", 'p'),
    ("delete", 'd'),
    ("deletecollection", 'D'),
];

/// The namespace in which `admin` is one.
const OWN: &str = "team";
/// A namespace in which nobody has rights.
const OTHER: &str = "kube-system";

struct Bench {
    server: ApiServer,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

async fn start() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let pki = ClusterPki::at(dir.path().join("pki"));
    pki.ensure(&PkiSpec::default(), jiff::Timestamp::now()).unwrap();
    let (serving, kubelet) = (pki.api_server(), pki.api_server_kubelet_client());
    let storage = Arc::new(Embedded::open(dir.path().join("db"), Options::default()).unwrap());
    let tls = TlsFiles { certificate: serving.certificate, key: serving.key };
    let keys = vec![pki.service_account_public_key()];
    let accounts = ServiceAccounts::new(pki.service_account_key(), keys, "https://kubernetes.default.svc");
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        advertise: [192, 0, 2, 1].into(),
        anonymous: Anonymous::Everywhere,
        admission: Admission { plugins: Selection::with_node_restriction(), ..Admission::default() },
        authorization: vec![AuthorizationMode::Node, AuthorizationMode::Rbac],
        kubelet: Some(KubeletClient {
            certificate: kubelet.certificate,
            key: kubelet.key,
            authority: pki.authority().certificate,
        }),
        ..Config::new(storage, tls, pki.authority().certificate, accounts)
    };
    let stop = CancellationToken::new();
    let server = ApiServer::start(config, stop.clone()).await.unwrap();
    Bench { server, stop, _dir: dir }
}

fn user(name: &str, groups: &[&str]) -> Arc<UserInfo> {
    Arc::new(UserInfo::new(name, groups))
}

fn admin() -> Arc<UserInfo> {
    user("admin", &["system:masters", "system:authenticated"])
}

impl Bench {
    async fn ask(
        &self,
        user: &Arc<UserInfo>,
        method: &str,
        target: &str,
        body: &str,
    ) -> (StatusCode, String) {
        let content_type =
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body: Body = http_body_util::Full::new(bytes::Bytes::from(body.to_owned()))
            .map_err(|never| match never {})
            .boxed_unsync();
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("content-type", content_type)
            .body(body)
            .unwrap();
        let response = self.server.handle_local(user.clone(), request).await;
        let status = response.status();
        // The body of a watch has no end; what matters is known.
        if status.is_success() && target.contains("watch=true") {
            return (status, String::new());
        }
        let bytes = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        (status, String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn make(&self, target: &str, body: &str) {
        let (status, text) = self.ask(&admin(), "POST", target, body).await;
        assert!(status.is_success(), "{target}: {text}");
    }
}

/// Method and target of a verb on a route; `None` where HTTP has no way to say it.
fn request(route: &Route, verb: &str, namespace: &str) -> Option<(&'static str, String)> {
    let mut path = if route.group.is_empty() {
        format!("/api/{}", route.version)
    } else {
        format!("/apis/{}/{}", route.group, route.version)
    };
    if route.namespaced {
        let _ = write!(path, "/namespaces/{namespace}");
    }
    let _ = write!(path, "/{}", route.plural);
    // What is made with the collection's path has no name.
    let of_collection =
        route.subresource.is_empty() && matches!(verb, "list" | "watch" | "create" | "deletecollection");
    if !of_collection {
        path.push_str("/some-name");
    }
    if !route.subresource.is_empty() {
        let _ = write!(path, "/{}", route.subresource);
    }
    let (method, query) = match verb {
        "get" => ("GET", ""),
        "list" if of_collection => ("GET", ""),
        "watch" if of_collection => ("GET", "?watch=true&timeoutSeconds=1"),
        "create" => ("POST", "?dryRun=All"),
        "update" => ("PUT", "?dryRun=All"),
        "patch" => ("PATCH", "?dryRun=All"),
        "delete" => ("DELETE", "?dryRun=All"),
        "deletecollection" if of_collection => ("DELETE", "?dryRun=All"),
        _ => return None,
    };
    Some((method, format!("{path}{query}")))
}

/// Whether authorization said no; admission answers with 403 too, in other words.
fn is_refused(status: StatusCode, text: &str) -> bool {
    status == StatusCode::FORBIDDEN && text.contains("\\\" cannot ")
}

/// The letters of the verbs that authorization lets through. All verbs are tried, whether the route has them or not:
/// authorization comes first.
async fn letters(bench: &Bench, user: &Arc<UserInfo>, route: &Route, namespace: &str) -> String {
    let mut out = String::new();
    for (verb, letter) in VERBS {
        let Some((method, target)) = request(route, verb, namespace) else { continue };
        let (status, text) = bench.ask(user, method, &target, "{}").await;
        assert_ne!(status, StatusCode::UNAUTHORIZED, "{target}");
        assert!(
            status != StatusCode::INTERNAL_SERVER_ERROR || !text.contains("panicked"),
            "{method} {target}"
        );
        if !is_refused(status, &text) {
            out.push(*letter);
        }
    }
    if out.is_empty() { "-".into() } else { out }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what() {
    let bench = start().await;
    bench.make("/api/v1/namespaces", &format!(r#"{{"metadata":{{"name":"{OWN}"}}}}"#)).await;
    bench
        .make(
            &format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{OWN}/rolebindings"),
            r#"{"metadata":{"name":"admin"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole",
                "name":"admin"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"jane"}]}"#,
        )
        .await;
    let authenticated = "system:authenticated";
    let users = [
        ("anonymous", Arc::new(UserInfo::anonymous())),
        (
            "account",
            user(
                &format!("system:serviceaccount:{OWN}:default"),
                &["system:serviceaccounts", &format!("system:serviceaccounts:{OWN}"), authenticated],
            ),
        ),
        ("node", user("system:node:n1", &["system:nodes", authenticated])),
        ("admin", user("jane", &[authenticated])),
        ("cluster-admin", admin()),
    ];
    // Until the new binding is seen.
    let jane = &users[3].1;
    for _ in 0..200 {
        if bench.ask(jane, "GET", &format!("/api/v1/namespaces/{OWN}/pods"), "").await.0 == StatusCode::OK {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }

    let mut routes = bench.server.routes();
    routes.sort();
    assert!(routes.len() > 100, "the table of routes has {} lines", routes.len());
    let mut table = BTreeMap::new();
    for route in &routes {
        let mut line = String::new();
        for (_, who) in &users {
            let _ = write!(line, " {:<8}", letters(&bench, who, route, OWN).await);
        }
        let slash = if route.subresource.is_empty() { "" } else { "/" };
        let group = if route.group.is_empty() { "core" } else { &route.group };
        let name = format!("{group}/{} {}{slash}{}", route.version, route.plural, route.subresource);
        table.insert(name, line.trim_end().to_owned());

        // What is one's own namespace's does not spill over into another.
        if route.namespaced {
            let elsewhere = letters(&bench, jane, route, OTHER).await;
            let every = letters(&bench, &users[1].1, route, OWN).await;
            assert_eq!(elsewhere, every, "{route:?} in another namespace");
        }
    }
    let mut text = String::from(
        "# Verbs that are not forbidden, as anonymous, a service account, a node, an admin of the namespace, and\n\
         # cluster-admin: get list watch create update patch delete Deletecollection; - is none.\n",
    );
    let mut paths = BTreeMap::new();
    for path in bench.server.paths() {
        let mut line = String::new();
        for (_, who) in &users {
            let (status, text) = bench.ask(who, "GET", &path, "").await;
            let _ = write!(line, " {:<8}", if is_refused(status, &text) { "-" } else { "g" });
        }
        paths.insert(path, line.trim_end().to_owned());
    }
    for (name, line) in table.iter().chain(&paths) {
        let _ = writeln!(text, "{name:<72}{line}");
    }
    bench.stop.cancel();
    compare(&text);
}

fn compare(text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/matrix.txt");
    if std::env::var_os("COX_WRITE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let reviewed = std::fs::read_to_string(&path).expect("the reviewed table");
    let changed: Vec<String> = text
        .lines()
        .filter(|line| !reviewed.lines().any(|l| l == *line))
        .map(|line| format!("now      {line}"))
        .chain(
            reviewed
                .lines()
                .filter(|line| !text.lines().any(|l| l == *line))
                .map(|line| format!("reviewed {line}")),
        )
        .collect();
    assert!(changed.is_empty(), "who may do what has changed; review it:\n{}", changed.join("\n"));
}

/// Nobody gets past authorization by the spelling of a path, a method, or a route that does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_escapes() {
    let bench = start().await;
    // Neither authenticated nor anonymous: no default role is theirs.
    let nobody = user("nobody", &[]);
    let mut targets: Vec<String> = bench.server.paths();
    for route in bench.server.routes() {
        for (verb, _) in VERBS {
            targets.extend(request(&route, verb, "default").map(|(_, target)| target));
        }
    }
    targets.extend(
        [
            "/",
            "//",
            "/api//v1/secrets",
            "//api/v1/secrets",
            "/api/v1/secrets/",
            "/api/v1//secrets",
            "/api/v1/namespaces/default/../kube-system/secrets",
            "/api/v1/namespaces/%2e%2e/secrets",
            "/api/v1/namespaces/default%2fsecrets",
            "/api/v1/watch/secrets",
            "/api/v1/proxy/nodes/a",
            "/api/v1/watch/namespaces/default/secrets/a",
            "/api/V1/secrets",
            "/API/v1/secrets",
            "/api/v2/secrets",
            "/apis/none.example/v1/things",
            "/apis/apps/v1/secrets",
            "/metrics",
            "/debug/pprof",
            "/logs",
            "/healthz/../api/v1/secrets",
            "/version/../api/v1/secrets",
            "/livez/%2e%2e/api/v1/secrets",
            "/openid/v1/jwks/",
            "/swagger.json",
            "/api/v1/namespaces/default/pods/a/exec/b",
            "/api/v1/nodes/a/proxy/pods",
            "/api/v1/namespaces/default/services/https:a:443/proxy/x",
        ]
        .map(str::to_owned),
    );
    for target in targets {
        for method in
            ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "PROPFIND"]
        {
            if method == "CONNECT" {
                // Takes an authority in place of a path; the parser refuses it before us.
                continue;
            }
            let (status, text) = bench.ask(&nobody, method, &target, "").await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{method} {target}: {text}");
        }
    }
    bench.stop.cancel();
}
