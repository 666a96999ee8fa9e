//! Service account tokens for one pod: asked for once, asked for anew at four fifths of their life.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection};
use kube::Api;
use kube::api::PostParams;

use crate::pod::PodExt;

const DAY: Duration = Duration::from_secs(24 * 3600);
const DEFAULT_LIFE: i64 = 3600;

/// A token and its time.
#[derive(Clone)]
struct Token {
    text: String,
    issued: Timestamp,
    expires: Timestamp,
}

impl Token {
    /// When to ask for the next one: at four fifths of its life, or after a day.
    fn refresh_at(&self) -> Timestamp {
        let life = Duration::try_from(self.expires.duration_since(self.issued)).unwrap_or_default();
        self.issued.checked_add((life * 4 / 5).min(DAY)).unwrap_or(self.expires)
    }
}

/// The tokens of one pod by audience and wanted life.
#[derive(Clone, Default)]
pub struct Tokens(HashMap<(String, i64), Token>);

impl Tokens {
    /// The token for a projection, and when it is to be refreshed.
    pub async fn get(
        &mut self,
        client: &kube::Client,
        pod: &Pod,
        projection: &ServiceAccountTokenProjection,
        now: Timestamp,
    ) -> Result<(String, Timestamp), String> {
        let audience = projection.audience.clone().unwrap_or_default();
        let seconds = projection.expiration_seconds.unwrap_or(DEFAULT_LIFE);
        let key = (audience.clone(), seconds);
        if let Some(token) = self.0.get(&key).filter(|token| now < token.refresh_at()) {
            return Ok((token.text.clone(), token.refresh_at()));
        }
        match request(client, pod, &audience, seconds, now).await {
            Ok(token) => {
                let answer = (token.text.clone(), token.refresh_at());
                self.0.insert(key, token);
                Ok(answer)
            }
            // The old one still works for a while; ask again soon.
            Err(error) => match self.0.get(&key).filter(|token| now < token.expires) {
                Some(token) => Ok((
                    token.text.clone(),
                    now.checked_add(Duration::from_secs(60)).unwrap_or(token.expires),
                )),
                None => Err(format!("failed to fetch token: {error}")),
            },
        }
    }
}

async fn request(
    client: &kube::Client,
    pod: &Pod,
    audience: &str,
    seconds: i64,
    now: Timestamp,
) -> Result<Token, String> {
    let account =
        pod.spec().service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let ask = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(if audience.is_empty() { vec![] } else { vec![audience.to_owned()] }),
            expiration_seconds: Some(seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name().to_owned()),
                uid: Some(pod.uid().to_owned()),
            }),
        }),
        ..Default::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), pod.namespace());
    let answer: TokenRequest = accounts
        .create_subresource("token", account, &PostParams::default(), &ask)
        .await
        .map_err(|error| match error {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        })?;
    let status = answer.status.ok_or("the API server answered without a token")?;
    match (status.token, status.expiration_timestamp) {
        (Some(text), Some(expires)) => Ok(Token { text, issued: now, expires: expires.0 }),
        _ => Err("the API server answered without a token".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_refreshed_at_four_fifths_of_their_life() {
        let at = |second| Timestamp::from_second(second).expect("time");
        let token = |life| Token { text: String::new(), issued: at(0), expires: at(life) };
        assert_eq!(token(3600).refresh_at(), at(2880));
        assert_eq!(token(365 * 86400).refresh_at(), at(86400));
    }
}
