//! The review kinds: questions about who one is and what one may, answered and never stored. Upstream:
//! pkg/registry/authorization and pkg/registry/authentication, 1.36.
use api::decode::Target;
use apiserver_authn::review as identity;
use apiserver_authz::review as access;
use apiserver_registry::{Warnings, timestamp};
use async_trait::async_trait;
use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use machinery::request::Attributes;
use machinery::{Object, StatusError, StatusResult};

use crate::body::{self, Body};
use crate::context::{Context, Endpoint};
use crate::respond;

/// Serves the review kinds of `authorization.k8s.io` and `authentication.k8s.io`.
pub struct Review;

async fn token_review(context: &Context, review: &mut Object) -> StatusResult<()> {
    let (token, audiences) = identity::token_review_question(review)?;
    let answer = context.server.tokens.authenticate_token(token, &audiences).await;
    identity::set_token_review_status(review, answer);
    Ok(())
}

async fn answer(context: &Context, review: &mut Object) -> StatusResult<()> {
    match review.kind().to_owned().as_str() {
        "TokenReview" => token_review(context, review).await,
        "SelfSubjectReview" => {
            identity::set_self_review_status(review, &context.user);
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
        let warnings = Warnings::beside(&context.notes);
        let mut review = context.decode(&bytes, &Target::of(&context.kind), &warnings)?;
        if review.kind() == "SelfSubjectReview" {
            review.set(&["metadata", "creationTimestamp"], timestamp(Timestamp::now()));
        }
        answer(context, &mut review).await?;
        let response = respond::object(StatusCode::CREATED, media, &review);
        Ok(response)
    }
}
