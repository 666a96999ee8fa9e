//! What the claims of a token say about its bearer.
use machinery::request::UserInfo;
use serde_json::Value;

use super::config::{JwtAuthenticator, Mapping};
use crate::{CREDENTIAL_ID, with_authenticated_group};

fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(many) => many.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// At least one of our client ids has to be among the token's audiences.
pub(super) fn check_audience(claims: &Value, ours: &[String]) -> Result<(), String> {
    let listed = claims.get("aud").and_then(texts).unwrap_or_default();
    if listed.iter().any(|a| ours.contains(a)) {
        return Ok(());
    }
    match ours {
        [one] => {
            Err(format!("verify token: oidc: expected audience {one:?} got [{}]", quoted(&listed)))
        }
        many => Err(format!(
            "verify token: oidc: expected audience in [{}] got [{}]",
            quoted(many),
            quoted(&listed)
        )),
    }
}

fn quoted(list: &[String]) -> String {
    list.iter().map(|a| format!("{a:?}")).collect::<Vec<_>>().join(" ")
}

/// Expiry without, start with five minutes of leeway, as the library upstream uses has it.
pub(super) fn check_dates(claims: &Value, now: i64) -> Result<(), String> {
    const LEEWAY: i64 = 300;
    let at = |key: &str| claims.get(key).and_then(|v| v.as_i64().or_else(|| v.as_f64().map(|f| f as i64)));
    let time = |t: i64| jiff::Timestamp::from_second(t).map(|t| t.to_string()).unwrap_or_default();
    match at("exp") {
        Some(expires) if now < expires => {}
        expires => {
            let when = time(expires.unwrap_or(0));
            return Err(format!("verify token: oidc: token is expired (Token Expiry: {when})"));
        }
    }
    if let Some(from) = at("nbf").filter(|from| now + LEEWAY < *from) {
        return Err(format!(
            "verify token: oidc: current time {} before the nbf (not before) time: {}",
            time(now),
            time(from)
        ));
    }
    Ok(())
}

/// The user that verified claims name.
pub(super) fn user(claims: &Value, config: &JwtAuthenticator) -> Result<UserInfo, String> {
    let mut user = UserInfo::default();
    let Mapping { claim, prefix } = &config.username;
    let name = claims
        .get(claim)
        .and_then(Value::as_str)
        .ok_or_else(|| format!("parse username claims {claim:?}: claim not present"))?;
    // An address that its owner never confirmed names nobody.
    if claim == "email" && claims.get("email_verified").is_some_and(|v| v != &Value::Bool(true)) {
        return Err("email not verified".into());
    }
    if name.is_empty() {
        return Err(format!("parse username claims {claim:?}: claim is empty"));
    }
    user.name = format!("{prefix}{name}");
    if let Some(Mapping { claim, prefix }) = &config.groups
        && let Some(value) = claims.get(claim)
    {
        let groups = texts(value).ok_or_else(|| {
            format!("parse groups claim {claim:?}: json: cannot unmarshal claim into Go value of type []string")
        })?;
        user.groups = groups.into_iter().map(|g| format!("{prefix}{g}")).collect();
    }
    if let Some(claim) = &config.uid {
        let uid = claims.get(claim).and_then(Value::as_str);
        user.uid = uid.ok_or_else(|| format!("parse uid claim {claim:?}: claim not present"))?.to_owned();
    }
    for rule in &config.rules {
        let got = claims.get(&rule.claim);
        let got = got.ok_or_else(|| format!("required claim {} not present in ID token", rule.claim))?;
        let text = got.as_str().ok_or_else(|| format!("parse claim {}: not a string", rule.claim))?;
        if text != rule.required_value {
            return Err(format!(
                "required claim {} value does not match. Got = {text}, want = {}",
                rule.claim, rule.required_value
            ));
        }
    }
    if let Some(id) = claims.get("jti").and_then(Value::as_str) {
        user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
    }
    Ok(with_authenticated_group(user))
}
