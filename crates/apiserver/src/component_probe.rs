//! A part in another process, as `componentstatuses` asks it: by its `/healthz`. Upstream: pkg/probe/http, 1.36.
use std::time::Duration;

use apiserver_authn::HttpClient as _;
use apiserver_http::endpoints::Component;
use async_trait::async_trait;
use http::{Request, StatusCode};

use crate::outbound::Outbound;

/// How long an answer may take.
const TIME: Duration = Duration::from_secs(20);

/// Asks a part over HTTP.
pub struct HttpProbe {
    name: String,
    url: String,
    http: Outbound,
    /// What is shown of an answer that is good: its body if absent.
    shown: Option<&'static str>,
}

impl HttpProbe {
    /// A controller manager or scheduler on this host, which shows a certificate that only it knows.
    pub fn local(name: &str, port: u16) -> Self {
        let url = format!("https://127.0.0.1:{port}/healthz");
        Self { name: name.into(), url, http: Outbound::unverified(), shown: None }
    }

    /// A member of etcd, by its client URL.
    pub fn etcd(index: usize, server: &str, http: Outbound) -> Self {
        let url = format!("{}/health", server.trim_end_matches('/'));
        Self { name: format!("etcd-{index}"), url, http, shown: Some("ok") }
    }

    async fn ask(&self) -> Result<String, String> {
        let request = Request::get(&self.url).body(Vec::new()).map_err(|e| e.to_string())?;
        let wrong = |why: String| format!("Get \"{}\": {why}", self.url);
        let answer = match tokio::time::timeout(TIME, self.http.call(request)).await {
            Ok(answer) => answer.map_err(wrong)?,
            Err(_) => return Err(wrong(format!("no answer within {}s", TIME.as_secs()))),
        };
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        if answer.status() != StatusCode::OK {
            return Err(format!("HTTP probe failed with statuscode: {}: {text}", answer.status().as_u16()));
        }
        Ok(self.shown.map_or(text, str::to_owned))
    }
}

#[async_trait]
impl Component for HttpProbe {
    fn name(&self) -> &str {
        &self.name
    }

    async fn probe(&self) -> Result<String, String> {
        self.ask().await
    }
}
