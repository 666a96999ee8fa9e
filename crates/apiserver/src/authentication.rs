//! Who one is: the methods that the configuration asks for, in upstream's order.
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiserver_authn::oidc::{JwtAuthenticator, OidcTokens};
use apiserver_authn::service_account::{
    LegacyTokens, ServiceAccountTokens, SigningKey, TokenIssuer, VerifyKeys, openid_configuration,
};
use apiserver_authn::{
    Authenticator, BearerToken, BootstrapTokens, ClientCertificate, RequestHeader, RequestHeaderNames,
    TokenAuthenticator, TokenCache, TokenFile, TokenUnion, TokenWebhook, Union, system_time,
};
use pki::Fresh;
use serde_json::Value;

use crate::config::Config;
use crate::outbound::{Outbound, OutboundTrust};
use crate::server::StartError;
use crate::view::View;
use crate::webhook_config::WebhookConfig;

/// A front proxy (`--requestheader-*`).
#[derive(Debug, Clone)]
pub struct FrontProxy {
    /// `--requestheader-client-ca-file`.
    pub client_ca: PathBuf,
    /// `--requestheader-allowed-names`; empty: any.
    pub allowed_names: Vec<String>,
    /// Names of its headers.
    pub headers: RequestHeaderNames,
}

/// A server that knows tokens.
#[derive(Debug, Clone)]
pub struct TokenWebhookConfig {
    /// `--authentication-token-webhook-config-file`.
    pub file: PathBuf,
    /// `--authentication-token-webhook-version`.
    pub version: String,
    /// `--authentication-token-webhook-cache-ttl`.
    pub cache_ttl: Duration,
}

/// Methods beyond certificates, token files and service accounts.
#[derive(Debug, Clone, Default)]
pub struct Authentication {
    /// Issuers of ID tokens.
    pub jwt: Vec<JwtAuthenticator>,
    /// A server that is asked about tokens that nobody here knows.
    pub webhook: Option<TokenWebhookConfig>,
    /// A proxy that says for whom it speaks.
    pub front_proxy: Option<FrontProxy>,
}

/// Everything about who one is.
pub(crate) struct Identity {
    pub requests: Box<dyn Authenticator>,
    pub tokens: Arc<dyn TokenAuthenticator>,
    pub issuer: TokenIssuer,
    pub discovery: Value,
    pub jwks: Value,
}

fn unusable(path: &std::path::Path) -> impl Fn(&dyn std::fmt::Display) -> StartError + '_ {
    move |e| StartError::File { path: path.to_owned(), why: e.to_string() }
}

fn text(path: &PathBuf) -> Result<String, StartError> {
    let bytes = std::fs::read(path).map_err(|e| unusable(path)(&e))?;
    String::from_utf8(bytes).map_err(|_| unusable(path)(&"it is not text"))
}

fn fresh<T>(
    path: &std::path::Path,
    make: impl Fn(&[u8]) -> Result<T, String> + Send + Sync + 'static,
) -> Result<Fresh<T>, StartError> {
    let made = Fresh::open(vec![path.to_owned()], move |all| make(all.first().map_or(&[], Vec::as_slice)));
    made.map_err(|e| StartError::File { path: e.path, why: e.why })
}

/// The authenticators that the configuration asks for.
pub(crate) fn identity(config: &Config, view: Arc<View>) -> Result<Identity, StartError> {
    let accounts = &config.service_accounts;
    let mut keys = VerifyKeys::default();
    for path in &accounts.keys {
        keys.add_pem(&text(path)?).map_err(|e| unusable(path)(&e))?;
    }
    let keys = Arc::new(keys);
    let signing = SigningKey::from_pem(&text(&accounts.signing_key)?)
        .map_err(|e| unusable(&accounts.signing_key)(&e))?;
    let audiences = if accounts.audiences.is_empty() {
        vec![accounts.issuer.clone()]
    } else {
        accounts.audiences.clone()
    };
    let now = system_time();
    let mut methods: Vec<Box<dyn TokenAuthenticator>> = Vec::new();
    if let Some(path) = &config.token_file {
        methods.push(Box::new(TokenFile::parse(&text(path)?).map_err(|e| unusable(path)(&e))?));
    }
    methods.push(Box::new(LegacyTokens {
        api_audiences: audiences.clone(),
        keys: keys.clone(),
        cluster: view.clone(),
        now: now.clone(),
    }));
    let mut issuers = vec![accounts.issuer.clone()];
    issuers.extend(accounts.former_issuers.iter().cloned());
    methods.push(Box::new(ServiceAccountTokens {
        issuers,
        api_audiences: audiences.clone(),
        keys: keys.clone(),
        cluster: view.clone(),
        now: now.clone(),
    }));
    if config.bootstrap_tokens {
        methods.push(Box::new(BootstrapTokens::new(view, now.clone())));
    }
    for jwt in &config.authentication.jwt {
        let trust =
            OutboundTrust { authorities: jwt.certificate_authority.clone(), ..OutboundTrust::default() };
        let http = Outbound::new(&trust)
            .map_err(|e| StartError::Setting(format!("OIDC issuer {}: {e}", jwt.issuer_url)))?;
        methods.push(Box::new(OidcTokens::new(jwt.clone(), Arc::new(http), audiences.clone(), now.clone())));
    }
    let mut tokens: Arc<dyn TokenAuthenticator> =
        Arc::new(TokenCache::new(Arc::new(TokenUnion(methods)), now.clone()));
    if let Some(webhook) = &config.authentication.webhook {
        let failed = unusable(&webhook.file);
        let found = WebhookConfig::read(&webhook.file).map_err(|e| failed(&e))?;
        let asks = TokenWebhook {
            url: found.url,
            version: webhook.version.clone(),
            http: Arc::new(Outbound::new(&found.trust).map_err(|e| failed(&e))?),
            api_audiences: audiences.clone(),
        };
        let cached = TokenCache::lasting(Arc::new(asks), now.clone(), webhook.cache_ttl);
        tokens = Arc::new(TokenUnion(vec![Box::new(tokens), Box::new(cached)]));
    }
    let mut requests: Vec<Box<dyn Authenticator>> = Vec::new();
    if let Some(proxy) = config.authentication.front_proxy.clone() {
        let now = now.clone();
        requests.push(Box::new(fresh(&proxy.client_ca.clone(), move |ca| {
            Ok(RequestHeader {
                proxy: ClientCertificate::new(ca, now.clone()).map_err(|e| e.to_string())?,
                allowed_names: proxy.allowed_names.clone(),
                headers: proxy.headers.clone(),
            })
        })?));
    }
    if let Some(client_ca) = &config.client_ca {
        requests.push(Box::new(fresh(client_ca, move |ca| {
            ClientCertificate::new(ca, now.clone()).map_err(|e| e.to_string())
        })?));
    }
    requests.push(Box::new(BearerToken(tokens.clone())));
    let jwks_uri = format!("https://{}:{}/openid/v1/jwks", config.advertise, config.listen.port());
    Ok(Identity {
        requests: Box::new(Union::new(requests, config.anonymous.clone())),
        tokens,
        discovery: openid_configuration(&accounts.issuer, &jwks_uri, &keys),
        jwks: keys.jwks(),
        issuer: TokenIssuer {
            issuer: accounts.issuer.clone(),
            api_audiences: audiences,
            max_expiration: accounts.max_token_expiration.map(|d| d.as_secs().try_into().unwrap_or(i64::MAX)),
            extend_expiration: accounts.extend_token_expiration,
            key: Arc::new(signing),
        },
    })
}
