//! `serviceaccounts/token`: issues tokens. Upstream: pkg/registry/core/serviceaccount/storage/token.go, 1.36.
use api::decode::Target;
use apiserver_admission::Operation;
use apiserver_authn::service_account::{Bound, TokenIssuer, bound_ref, prepare_token_request};
use apiserver_registry::{Warnings, timestamp};
use async_trait::async_trait;
use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use machinery::{Object, StatusError, StatusResult};

use crate::body::{self, Body};
use crate::context::{Context, Endpoint};
use crate::respond;

/// Serves `serviceaccounts/token`.
pub struct ServiceAccountToken(pub TokenIssuer);

async fn find(context: &Context, plural: &str, namespace: &str, name: &str) -> StatusResult<Option<Object>> {
    let store = context.server.registry.store("", plural).ok_or_else(StatusError::no_such_path)?;
    Ok(store.get_live(namespace, name).await?.map(|s| s.object))
}

async fn need(context: &Context, plural: &str, namespace: &str, name: &str) -> StatusResult<Object> {
    let gr = machinery::gvk::GroupResource::new("", plural);
    find(context, plural, namespace, name).await?.ok_or_else(|| StatusError::not_found(&gr, name))
}

/// Admission sees the request as a creation: `NodeRestriction` holds kubelets to the pods of their node.
async fn admit(context: &Context, token: &mut Object) -> StatusResult<()> {
    let gvk = machinery::gvk::GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
    context.admit(Operation::Create, &gvk, token, context.dry_run()?).await
}

#[async_trait]
impl Endpoint for ServiceAccountToken {
    async fn serve(&self, context: &Context, request: Request<Body>) -> StatusResult<Response<Body>> {
        let media = context.media()?;
        let kind = &context.kind;
        if context.info.verb != "create" {
            return Err(StatusError::method_not_supported(&kind.group_resource(), &context.info.verb));
        }
        let speaks = kind.subresource("token").ok_or_else(StatusError::no_such_path)?;
        let (namespace, name) = (&context.info.namespace, &context.info.name);
        let bytes = body::read(request.into_body()).await?;
        let warnings = Warnings::beside(&context.notes);
        let mut token = context.decode(&bytes, &Target::of_subresource(speaks), &warnings)?;
        if !token.name().is_empty() && token.name() != name {
            return Err(StatusError::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({name})",
                token.name()
            )));
        }
        let account = need(context, "serviceaccounts", namespace, name).await?;
        token.set(&["metadata", "name"], name.as_str());
        token.set(&["metadata", "namespace"], namespace.as_str());
        prepare_token_request(&mut token)?;
        admit(context, &mut token).await?;
        let reference = bound_ref(&token)?;
        let (mut object, mut node) = (None, None);
        if let Some(reference) = &reference {
            let (plural, namespace) = match reference.kind.as_str() {
                "Pod" => ("pods", namespace.as_str()),
                "Secret" => ("secrets", namespace.as_str()),
                _ => ("nodes", ""),
            };
            let found = need(context, plural, namespace, &reference.name).await?;
            let node_name = found.str_at(&["spec", "nodeName"]);
            if plural == "pods" && !node_name.is_empty() {
                node = find(context, "nodes", "", node_name).await?;
            }
            object = Some(found);
        }
        let bound = match (&reference, &object) {
            (Some(reference), Some(object)) => match reference.kind.as_str() {
                "Pod" => Bound::Pod(object, node.as_ref()),
                "Secret" => Bound::Secret(object),
                _ => Bound::Node(object),
            },
            _ => Bound::No,
        };
        let now = Timestamp::now();
        for warning in self.0.issue(&mut token, &account, bound, now.as_second())? {
            warnings.add(warning);
        }
        token.set(&["metadata", "creationTimestamp"], timestamp(now));
        let response = respond::object(StatusCode::CREATED, media, &token);
        Ok(response)
    }
}
