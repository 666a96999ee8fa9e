//! Asks another server what a token is: TokenReview over HTTP. Upstream:
//! apiserver/plugin/pkg/authenticator/token/webhook, 1.36.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use machinery::request::UserInfo;
use serde_json::{Value, json};

use crate::http_client::SharedHttpClient;
use crate::{AuthnError, TokenAuthenticator, TokenUser, with_authenticated_group};

/// How often a question is asked before it counts as failed, and the first pause; each is half as long again.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// A server that knows tokens (`--authentication-token-webhook-config-file`).
pub struct TokenWebhook {
    /// Where it is.
    pub url: String,
    /// `v1` or `v1beta1` of TokenReview.
    pub version: String,
    /// How it is reached.
    pub http: SharedHttpClient,
    /// What tokens are for where a caller does not say.
    pub api_audiences: Vec<String>,
}

impl TokenWebhook {
    async fn ask(&self, body: &[u8]) -> Result<Value, String> {
        let mut pause = PAUSE;
        let mut tries = 1;
        loop {
            let why = match self.once(body).await {
                Ok(answer) => return Ok(answer),
                Err((why, true)) if tries < TRIES => why,
                Err((why, _)) => return Err(why),
            };
            tracing::debug!(error = why, tries, "the token webhook failed, asking again");
            tokio::time::sleep(pause).await;
            pause = pause * 3 / 2;
            tries += 1;
        }
    }

    /// The answer, or why there is none and whether to ask again.
    async fn once(&self, body: &[u8]) -> Result<Value, (String, bool)> {
        let request = http::Request::post(&self.url)
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .body(body.to_vec())
            .map_err(|e| (e.to_string(), false))?;
        let answer = self.http.call(request).await.map_err(|e| (e, true))?;
        let status = answer.status();
        if !status.is_success() {
            let again = status.is_server_error() || status == http::StatusCode::TOO_MANY_REQUESTS;
            return Err((format!("the token webhook answered {status}"), again));
        }
        serde_json::from_slice(answer.body())
            .map_err(|e| (format!("the token webhook did not answer with JSON: {e}"), false))
    }
}

#[async_trait]
impl TokenAuthenticator for TokenWebhook {
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenUser>, AuthnError> {
        let wanted = if audiences.is_empty() { &self.api_audiences } else { audiences };
        let review = json!({
            "apiVersion": format!("authentication.k8s.io/{}", self.version),
            "kind": "TokenReview",
            "metadata": {},
            "spec": {"token": token, "audiences": wanted},
            "status": {"user": {}},
        });
        let answer = self.ask(review.to_string().as_bytes()).await.map_err(AuthnError)?;
        read(&answer, wanted)
    }
}

fn read(answer: &Value, wanted: &[String]) -> Result<Option<TokenUser>, AuthnError> {
    let status = &answer["status"];
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    if status["authenticated"] != Value::Bool(true) {
        return match status["error"].as_str().filter(|e| !e.is_empty()) {
            Some(error) => Err(AuthnError(error.to_owned())),
            None => Ok(None),
        };
    }
    let told = list(&status["audiences"]);
    // A server that knows nothing of audiences answers for the API's own, which are those wanted.
    let audiences: Vec<String> = if told.is_empty() {
        wanted.to_vec()
    } else {
        told.into_iter().filter(|a| wanted.contains(a)).collect()
    };
    if audiences.is_empty() && !wanted.is_empty() {
        return Ok(None);
    }
    let user = &status["user"];
    let text = |key: &str| user[key].as_str().unwrap_or_default().to_owned();
    let extra: BTreeMap<String, Vec<String>> =
        user["extra"].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), list(v))).collect();
    let user = UserInfo { name: text("username"), uid: text("uid"), groups: list(&user["groups"]), extra };
    Ok(Some(TokenUser { user: Arc::new(with_authenticated_group(user)), audiences }))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::http_client::HttpClient;

    struct Script(Mutex<Vec<Result<(u16, Value), String>>>);

    #[async_trait]
    impl HttpClient for Script {
        async fn call(&self, request: http::Request<Vec<u8>>) -> Result<http::Response<Vec<u8>>, String> {
            let asked: Value = serde_json::from_slice(request.body()).unwrap();
            assert_eq!(asked["spec"], json!({"token": "t", "audiences": ["api"]}));
            let (code, body) = self.0.lock().unwrap().remove(0)?;
            Ok(http::Response::builder().status(code).body(body.to_string().into_bytes()).unwrap())
        }
    }

    async fn ask(script: Vec<Result<(u16, Value), String>>) -> Result<Option<TokenUser>, String> {
        let http = Arc::new(Script(Mutex::new(script)));
        let webhook = TokenWebhook {
            url: "https://w.example/".into(),
            version: "v1".into(),
            http: http.clone(),
            api_audiences: vec!["api".into()],
        };
        let answer = webhook.authenticate_token("t", &[]).await.map_err(|e| e.0);
        assert!(http.0.lock().unwrap().is_empty(), "every answer was asked for");
        answer
    }

    fn yes(audiences: &[&str]) -> Value {
        json!({"status": {"authenticated": true, "audiences": audiences,
            "user": {"username": "jane", "uid": "1", "groups": ["devs"], "extra": {"k": ["v"]}}}})
    }

    #[tokio::test(start_paused = true)]
    async fn answers_become_users() {
        let found = ask(vec![Ok((200, yes(&[])))]).await.unwrap().unwrap();
        assert_eq!((found.user.name.as_str(), found.audiences.as_slice()), ("jane", &["api".to_owned()][..]));
        assert_eq!(found.user.groups, ["devs", "system:authenticated"]);
        assert_eq!(found.user.extra["k"], ["v"]);
        assert!(ask(vec![Ok((200, yes(&["api", "x"])))]).await.unwrap().is_some());
        assert_eq!(ask(vec![Ok((200, yes(&["x"])))]).await.unwrap(), None);
        let no = json!({"status": {"authenticated": false}});
        assert_eq!(ask(vec![Ok((200, no))]).await.unwrap(), None);
        let why = json!({"status": {"authenticated": false, "error": "revoked"}});
        assert_eq!(ask(vec![Ok((200, why))]).await.unwrap_err(), "revoked");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_tried_again_and_refusals_are_not() {
        let down = || Err("connection refused".to_owned());
        let found = ask(vec![down(), Ok((503, json!({}))), Ok((429, json!({}))), Ok((200, yes(&[])))]).await;
        assert!(found.unwrap().is_some());
        assert!(ask(vec![Ok((403, json!({})))]).await.unwrap_err().contains("403"));
        assert_eq!(ask((0..5).map(|_| down()).collect()).await.unwrap_err(), "connection refused");
    }
}
