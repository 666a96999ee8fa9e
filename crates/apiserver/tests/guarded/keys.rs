//! A key server that is not there when the API server starts.
use std::time::Duration;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn configure(dir: &Path) {
    let socket = dir.join("kms.sock");
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{{resources: [secrets], \
         providers: [{{kms: {{apiVersion: v2, name: k, endpoint: 'unix://{}', timeout: 3s}}}}]}}]\n",
        socket.display()
    );
    std::fs::write(dir.join("encryption.yaml"), text).unwrap();
}

/// A request by the administrator's certificate: status and body; nothing where nobody listens yet.
async fn ask(dir: &Path, port: u16, path: &str) -> Option<(u16, String)> {
    let pki = ClusterPki::at(dir.join("pki"));
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    let trust = apiserver::OutboundTrust {
        authorities: Some(read(pki.authority().certificate)),
        identity: Some((read(pki.admin().certificate), read(pki.admin().key))),
        server_name: None,
    };
    let http = apiserver::Outbound::new(&trust).unwrap();
    let request = Request::get(format!("https://127.0.0.1:{port}{path}")).body(Vec::new()).unwrap();
    let answer = apiserver::HttpClient::call(&http, request).await.ok()?;
    Some((answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_waits_for_its_keys_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path());
    let state = plugin::state();
    let kms = plugin::start(dir.path(), &state);
    let live = start(dir.path(), None).await;
    live.ask("POST /api/v1/namespaces/default/secrets", &secret("x", "x")).await;
    live.stop().await;
    drop(kms);

    let port = base::ports::free_port().unwrap();
    let config = configured(dir.path(), None, port).await;
    let stop = CancellationToken::new();
    let starting = tokio::spawn(ApiServer::start(config, stop.clone()));
    let told = async {
        loop {
            if let Some((code, text)) = ask(dir.path(), port, "/readyz?verbose").await {
                assert_eq!(code, 500, "{text}");
                assert!(text.contains("[-]kms-providers failed"), "{text}");
                assert!(text.contains("[-]informer-sync failed"), "{text}");
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    // Nobody is served what was not read: not even what needs no key.
    let (code, text) = ask(dir.path(), port, "/api/v1/namespaces").await.unwrap();
    assert_eq!(code, 503, "{text}");
    assert!(text.contains("the server is starting"), "{text}");

    let _kms = plugin::start(dir.path(), &state);
    let server = tokio::time::timeout(PATIENCE, starting).await.unwrap().unwrap().unwrap();
    let ready = async {
        // The key server is asked for its health every few seconds.
        while ask(dir.path(), port, "/readyz").await.is_none_or(|(code, _)| code != 200) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.unwrap();
    let (code, text) = ask(dir.path(), port, "/api/v1/namespaces/default/secrets/x").await.unwrap();
    assert_eq!(code, 200, "{text}");
    stop.cancel();
    server.stopped().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_waits_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path());
    let state = plugin::state();
    let kms = plugin::start(dir.path(), &state);
    let live = start(dir.path(), None).await;
    live.ask("POST /api/v1/namespaces/default/secrets", &secret("x", "x")).await;
    live.stop().await;
    drop(kms);
    let config = configured(dir.path(), None, 0).await;
    let stop = CancellationToken::new();
    let starting = tokio::spawn(ApiServer::start(config, stop.clone()));
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.cancel();
    let ended = tokio::time::timeout(PATIENCE, starting).await.unwrap().unwrap();
    assert!(ended.err().is_some_and(|e| e.to_string().contains("asked to stop")));
}
