//! Bootstrap tokens: `id.secret`, kept as secrets in `kube-system`, with which a new node asks for its certificate.
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::Object;
use machinery::request::UserInfo;

use crate::service_account::ServiceAccountGetter;
use crate::{AuthnError, Now, TokenAuthenticator, TokenUser, unix_seconds, with_authenticated_group};

/// Reads bootstrap tokens.
pub struct BootstrapTokens {
    cluster: Arc<dyn ServiceAccountGetter>,
    now: Now,
}

impl BootstrapTokens {
    /// Looks secrets up through `cluster`.
    pub fn new(cluster: Arc<dyn ServiceAccountGetter>, now: Now) -> Self {
        Self { cluster, now }
    }
}

/// The id and the secret of a token in its usual form.
fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

/// The user of a token, given the secret with its id; `None` where it is not good (any more).
fn user(secret: &Object, id: &str, token_secret: &str, now: i64) -> Option<UserInfo> {
    if secret.str_at(&["type"]) != "bootstrap.kubernetes.io/token" || secret.is_deleting() {
        return None;
    }
    let data = |key: &str| -> String {
        let decoded = STANDARD.decode(secret.str_at(&["data", key])).unwrap_or_default();
        String::from_utf8(decoded).unwrap_or_default()
    };
    let stored = data("token-secret");
    if stored.is_empty()
        || aws_lc_rs::constant_time::verify_slices_are_equal(stored.as_bytes(), token_secret.as_bytes())
            .is_err()
        || data("token-id") != id
        || data("usage-bootstrap-authentication") != "true"
    {
        return None;
    }
    let expiration = data("expiration");
    if !expiration.is_empty() {
        let expires: jiff::Timestamp = expiration.parse().ok()?;
        if now >= expires.as_second() {
            return None;
        }
    }
    let mut groups = vec!["system:bootstrappers".to_owned()];
    let extra = data("auth-extra-groups");
    for group in extra.split(',').filter(|g| !g.is_empty()) {
        let rest = group.strip_prefix("system:bootstrappers:")?;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let last = rest.bytes().last()?;
        if rest.len() > 256 || !plain(last) || !rest.bytes().all(|b| plain(b) || b == b':' || b == b'-') {
            return None;
        }
        if !groups.iter().any(|g| g == group) {
            groups.push(group.to_owned());
        }
    }
    Some(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
}

#[async_trait]
impl TokenAuthenticator for BootstrapTokens {
    async fn authenticate_token(
        &self,
        token: &str,
        _audiences: &[String],
    ) -> Result<Option<TokenUser>, AuthnError> {
        let Some((id, token_secret)) = split(token) else { return Ok(None) };
        let name = format!("bootstrap-token-{id}");
        let Some(secret) = self.cluster.secret("kube-system", &name).await else { return Ok(None) };
        let user = user(&secret, id, token_secret, unix_seconds((self.now)()));
        Ok(user.map(|u| TokenUser { user: Arc::new(with_authenticated_group(u)), audiences: Vec::new() }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_whole_unexpired_token_counts() {
        let secret = |change: &[(&str, &str)]| {
            let mut data = vec![
                ("token-id", "abcdef"),
                ("token-secret", "0123456789abcdef"),
                ("usage-bootstrap-authentication", "true"),
                ("expiration", "2030-01-01T00:00:00Z"),
                ("auth-extra-groups", "system:bootstrappers:workers"),
            ];
            data.extend_from_slice(change);
            let data: serde_json::Map<_, _> =
                data.into_iter().map(|(k, v)| (k.to_owned(), STANDARD.encode(v).into())).collect();
            Object::from_value(json!({"type": "bootstrap.kubernetes.io/token", "data": data})).unwrap()
        };
        let check = |change: &[(&str, &str)], token: &str, want: bool| {
            let found = split(token).and_then(|(id, s)| user(&secret(change), id, s, 1_800_000_000));
            assert_eq!(found.is_some(), want, "{change:?} {token}");
        };
        let good = "abcdef.0123456789abcdef";
        check(&[], good, true);
        check(&[], "abcdef.0123456789abcdee", false);
        check(&[], "abcdef.0123456789abcde", false);
        check(&[("expiration", "2020-01-01T00:00:00Z")], good, false);
        check(&[("usage-bootstrap-authentication", "false")], good, false);
        check(&[("auth-extra-groups", "system:masters")], good, false);
        let user = user(&secret(&[]), "abcdef", "0123456789abcdef", 0).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:workers"]);
    }
}
