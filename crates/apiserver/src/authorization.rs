//! What one may: the authorizers that the configuration asks for, in its order. Upstream:
//! pkg/kubeapiserver/authorizer, 1.36.
use std::path::{Path, PathBuf};
use std::sync::Arc;

use apiserver_authn::Anonymous;
use apiserver_authz::abac::Abac;
use apiserver_authz::config::{self, WebhookMode};
use apiserver_authz::node::NodeAuthorizer;
use apiserver_authz::rbac::Rbac;
use apiserver_authz::webhook::{NoAnswer, ReviewServer, Webhook};
use apiserver_authz::{Answer, Authorizer, Rules, Union, always};
use async_trait::async_trait;
use machinery::request::{Attributes, UserInfo};
use pki::Fresh;

use crate::config::{AuthorizationMode, Config};
use crate::outbound::{Outbound, Unanswered};
use crate::server::StartError;
use crate::webhook_config::WebhookConfig;

/// Those who exist once, whatever the configuration says of their place.
#[derive(Clone)]
struct Standing {
    rbac: Arc<Rbac>,
    node: Arc<NodeAuthorizer>,
    abac: Option<Arc<Abac>>,
}

/// All who decide, as the configuration orders them. Where everybody may do everything, strangers are not let in.
pub(crate) fn authorizer(
    config: &mut Config,
    rbac: &Arc<Rbac>,
    node: &Arc<NodeAuthorizer>,
) -> Result<Arc<dyn Authorizer>, StartError> {
    let abac = config.authorization_policy.as_ref().map(abac).transpose()?.map(Arc::new);
    let standing = Standing { rbac: rbac.clone(), node: node.clone(), abac };
    let (authorizer, allows_all): (Arc<dyn Authorizer>, bool) = match config.authorization_config.clone() {
        None => {
            let allows_all = config.authorization.contains(&AuthorizationMode::AlwaysAllow);
            let union = union(&config.authorization, &standing).map_err(StartError::Setting)?;
            (Arc::new(union), allows_all)
        }
        Some(path) => {
            let made = Fresh::open(vec![path], move |all| {
                let text = all.first().and_then(|bytes| std::str::from_utf8(bytes).ok());
                let modes = config::parse(text.ok_or("it is not text")?).map_err(|e| e.to_string())?;
                let union = union(&modes, &standing)?;
                Ok(Read { union, allows_all: modes.contains(&AuthorizationMode::AlwaysAllow) })
            });
            let made = made.map_err(|e| StartError::File { path: e.path, why: e.why })?;
            let allows_all = made.get().allows_all;
            (Arc::new(Followed(made)), allows_all)
        }
    };
    if allows_all && config.anonymous != Anonymous::Refused {
        tracing::warn!("anonymous requests are not allowed with the AlwaysAllow authorizer, refusing them");
        config.anonymous = Anonymous::Refused;
    }
    Ok(authorizer)
}

fn abac(path: &PathBuf) -> Result<Abac, StartError> {
    let unusable = |why: String| StartError::File { path: path.clone(), why };
    let bytes = std::fs::read(path).map_err(|e| unusable(e.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| unusable("it is not text".into()))?;
    Abac::parse(&text).map_err(|e| unusable(e.to_string()))
}

fn union(modes: &[AuthorizationMode], standing: &Standing) -> Result<Union, String> {
    let mut all: Vec<Box<dyn Authorizer>> = vec![Box::new(always::PrivilegedGroups)];
    for mode in modes {
        all.push(match mode {
            AuthorizationMode::Node => Box::new(standing.node.clone()),
            AuthorizationMode::Rbac => Box::new(standing.rbac.clone()),
            AuthorizationMode::Abac => match &standing.abac {
                Some(abac) => Box::new(abac.clone()),
                None => return Err("authorization-mode ABAC's authorization policy file not passed".into()),
            },
            AuthorizationMode::AlwaysAllow => Box::new(always::AlwaysAllow),
            AuthorizationMode::AlwaysDeny => Box::new(always::AlwaysDeny),
            AuthorizationMode::Webhook(webhook) => Box::new(asks(webhook)?),
        });
    }
    Ok(Union(all))
}

fn asks(webhook: &WebhookMode) -> Result<Webhook, String> {
    let path: &Path = &webhook.kubeconfig;
    let unusable = |why: String| format!("cannot use {}: {why}", path.display());
    let found = WebhookConfig::read(path).map_err(unusable)?;
    let http = Outbound::new(&found.trust).map_err(unusable)?.within(webhook.timeout);
    let server = Asked { url: found.url, http };
    Ok(Webhook::new(Arc::new(server), webhook.options.clone()))
}

/// A server over HTTP.
struct Asked {
    url: String,
    http: Outbound,
}

#[async_trait]
impl ReviewServer for Asked {
    async fn review(&self, question: &[u8]) -> Result<Vec<u8>, NoAnswer> {
        let asked = self.http.ask(&self.url, question).await;
        asked.map_err(|Unanswered { why, again }| NoAnswer { why, again })
    }
}

/// What a file says.
struct Read {
    union: Union,
    allows_all: bool,
}

/// The authorizers of a file that may change.
struct Followed(Fresh<Read>);

#[async_trait]
impl Authorizer for Followed {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Answer {
        self.0.get().union.authorize(attributes).await
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules {
        self.0.get().union.rules_for(user, namespace)
    }
}
