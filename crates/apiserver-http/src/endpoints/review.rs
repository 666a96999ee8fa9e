//! The review kinds: questions about who one is and what one may, answered and never stored. Upstream:
//! pkg/registry/authorization and pkg/registry/authentication, 1.36.
use apiserver_authz::review as access;
use apiserver_registry::{Warnings, timestamp};
use async_trait::async_trait;
use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use machinery::request::{Attributes, UserInfo};
use machinery::{Object, StatusError, StatusResult};
use serde_json::{Map, Value, json};

use crate::body::{self, Body};
use crate::context::{Context, Endpoint};
use crate::respond;

/// Serves the review kinds of `authorization.k8s.io` and `authentication.k8s.io`.
pub struct Review;

fn user_value(user: &UserInfo) -> Value {
    let mut value = Map::new();
    value.insert("username".into(), user.name.clone().into());
    if !user.uid.is_empty() {
        value.insert("uid".into(), user.uid.clone().into());
    }
    if !user.groups.is_empty() {
        value.insert("groups".into(), user.groups.clone().into());
    }
    if !user.extra.is_empty() {
        value.insert("extra".into(), json!(user.extra));
    }
    value.into()
}

async fn token_review(context: &Context, review: &mut Object) -> StatusResult<()> {
    let token = review.str_at(&["spec", "token"]).to_owned();
    if token.is_empty() {
        return Err(StatusError::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences: Vec<String> = review
        .list_at(&["spec", "audiences"])
        .iter()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let status = match context.server.tokens.authenticate_token(&token, &audiences).await {
        Ok(Some(found)) => {
            let mut status = json!({ "authenticated": true, "user": user_value(&found.user) });
            if !found.audiences.is_empty() {
                status["audiences"] = found.audiences.into();
            }
            status
        }
        Ok(None) => json!({ "user": {} }),
        Err(e) => json!({ "user": {}, "error": e.to_string() }),
    };
    review.set(&["status"], status);
    // The token has served its purpose; it is not sent back.
    review.remove(&["spec", "token"]);
    Ok(())
}

async fn answer(context: &Context, review: &mut Object) -> StatusResult<()> {
    match review.kind().to_owned().as_str() {
        "TokenReview" => token_review(context, review).await,
        "SelfSubjectReview" => {
            review.set(&["status", "userInfo"], user_value(&context.user));
            Ok(())
        }
        "SelfSubjectRulesReview" => {
            let namespace = access::rules_review_namespace(review)?.to_owned();
            let rules = context.server.authorizer.rules_for(&context.user, &namespace);
            access::set_rules_review_status(review, &rules);
            Ok(())
        }
        kind => {
            let asked = access::access_review_request(review, &context.info.namespace)?;
            let user = match kind {
                "SelfSubjectAccessReview" => (*context.user).clone(),
                _ => access::access_review_user(review),
            };
            let attributes = Attributes { user: &user, request: &asked };
            let answer = context.server.authorizer.authorize(&attributes).await;
            access::set_access_review_status(review, &answer);
            Ok(())
        }
    }
}

#[async_trait]
impl Endpoint for Review {
    async fn serve(&self, context: &Context, request: Request<Body>) -> StatusResult<Response<Body>> {
        let media = context.media()?;
        if context.info.verb != "create" {
            return Err(StatusError::method_not_supported(
                &context.kind.group_resource(),
                &context.info.verb,
            ));
        }
        let bytes = body::read(request.into_body()).await?;
        let warnings = Warnings::default();
        let mut review = context.decode(&bytes, &context.kind, &warnings)?;
        if review.kind() == "SelfSubjectReview" {
            review.set(&["metadata", "creationTimestamp"], timestamp(Timestamp::now()));
        }
        answer(context, &mut review).await?;
        let mut response = respond::object(StatusCode::CREATED, media, &review);
        respond::warn(&mut response, &warnings.take());
        Ok(response)
    }
}
