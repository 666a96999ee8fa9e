//! The flags of the API server about who one is, and about TLS.
use std::path::{Path, PathBuf};
use std::time::Duration;

use apiserver::{
    Anonymous, Authentication, AuthenticationConfiguration, CipherSuiteName, FrontProxy, MinVersion,
    OidcFlags, RequestHeaderNames, SniCertificate, TlsOptions, TokenWebhookConfig,
};
use clap::Args;

use super::go_duration;
use crate::output::Failure;

/// Flags about who one is, with upstream's names.
#[derive(Args, Debug)]
pub struct AuthenticationFlags {
    /// Whether requests without credentials are anonymous rather than refused; they are if absent.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    anonymous_auth: Option<bool>,
    /// An AuthenticationConfiguration: issuers of tokens, and which paths anonymous requests may reach.
    #[arg(long)]
    authentication_config: Option<PathBuf>,
    /// Issuer of ID tokens, an https URL.
    #[arg(long)]
    oidc_issuer_url: Option<String>,
    /// The audience that ID tokens must have.
    #[arg(long)]
    oidc_client_id: Option<String>,
    /// CA of the issuer's certificate; the machine's own roots if absent.
    #[arg(long)]
    oidc_ca_file: Option<PathBuf>,
    /// The claim with the user's name; sub if absent.
    #[arg(long)]
    oidc_username_claim: Option<String>,
    /// Put before user names; - for nothing.
    #[arg(long)]
    oidc_username_prefix: Option<String>,
    /// The claim with the user's groups.
    #[arg(long)]
    oidc_groups_claim: Option<String>,
    /// Put before groups.
    #[arg(long)]
    oidc_groups_prefix: Option<String>,
    /// Algorithms that ID tokens may be signed with; RS256 if absent.
    #[arg(long, value_delimiter = ',')]
    oidc_signing_algs: Vec<String>,
    /// A claim that ID tokens must have, as key=value; may be given more than once.
    #[arg(long, value_delimiter = ',', value_parser = pair)]
    oidc_required_claim: Vec<(String, String)>,
    /// Kubeconfig of a server that is asked about tokens.
    #[arg(long)]
    authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of TokenReview that it is sent.
    #[arg(long, default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    authentication_token_webhook_version: String,
    /// How long its answers are kept.
    #[arg(long, default_value = "2m0s", value_parser = go_duration)]
    authentication_token_webhook_cache_ttl: Duration,
    /// CA of proxies that say for whom they speak.
    #[arg(long)]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Common names that such proxies may have; any if absent.
    #[arg(long, value_delimiter = ',')]
    requestheader_allowed_names: Vec<String>,
    /// Headers with the user's name.
    #[arg(long, value_delimiter = ',', default_value = "x-remote-user")]
    requestheader_username_headers: Vec<String>,
    /// Headers with the user's uid.
    #[arg(long, value_delimiter = ',')]
    requestheader_uid_headers: Vec<String>,
    /// Headers with groups.
    #[arg(long, value_delimiter = ',', default_value = "x-remote-group")]
    requestheader_group_headers: Vec<String>,
    /// Prefixes of headers with extra facts.
    #[arg(long, value_delimiter = ',', default_value = "x-remote-extra-")]
    requestheader_extra_headers_prefix: Vec<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("want key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn read(path: &Path, flag: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|e| Failure::new(format!("cannot read {}: {e}", path.display()), format!("see --{flag}")))
}

impl AuthenticationFlags {
    /// What the flags mean, and which anonymous requests are let through.
    pub fn settled(self) -> Result<(Authentication, Anonymous), Failure> {
        let wrong = |what: &str, flag: &str| Failure::new(what, format!("see --{flag}"));
        let mut authentication = Authentication::default();
        let mut anonymous =
            if self.anonymous_auth.unwrap_or(true) { Anonymous::Everywhere } else { Anonymous::Refused };
        let any_oidc = self.oidc_issuer_url.is_some() || self.oidc_client_id.is_some();
        if let Some(path) = &self.authentication_config {
            if any_oidc {
                let what = "authentication-config file and oidc-* flags are mutually exclusive";
                return Err(wrong(what, "authentication-config"));
            }
            let file =
                AuthenticationConfiguration::parse(&read(path, "authentication-config")?).map_err(|e| {
                    Failure::new(format!("{}: {e}", path.display()), "see --authentication-config")
                })?;
            authentication.jwt = file.jwt;
            if let Some(setting) = file.anonymous {
                if self.anonymous_auth.is_some() {
                    let what = "--anonymous-auth flag cannot be set when anonymous field is configured in authentication \
                                configuration file";
                    return Err(wrong(what, "anonymous-auth"));
                }
                anonymous = match (setting.enabled, setting.paths) {
                    (false, _) => Anonymous::Refused,
                    (true, paths) if paths.is_empty() => Anonymous::Everywhere,
                    (true, paths) => Anonymous::Paths(paths),
                };
            }
        } else if any_oidc {
            let ca = self.oidc_ca_file.as_deref().map(|path| read(path, "oidc-ca-file")).transpose()?;
            let flags = OidcFlags {
                issuer_url: self.oidc_issuer_url.unwrap_or_default(),
                client_id: self.oidc_client_id.unwrap_or_default(),
                ca,
                username_claim: self.oidc_username_claim,
                username_prefix: self.oidc_username_prefix,
                groups_claim: self.oidc_groups_claim,
                groups_prefix: self.oidc_groups_prefix,
                signing_algorithms: self.oidc_signing_algs,
                required_claims: self.oidc_required_claim,
            };
            authentication.jwt = vec![flags.settled().map_err(|e| wrong(&e.to_string(), "oidc-issuer-url"))?];
        }
        authentication.webhook =
            self.authentication_token_webhook_config_file.map(|file| TokenWebhookConfig {
                file,
                version: self.authentication_token_webhook_version,
                cache_ttl: self.authentication_token_webhook_cache_ttl,
            });
        authentication.front_proxy = self.requestheader_client_ca_file.map(|client_ca| FrontProxy {
            client_ca,
            allowed_names: self.requestheader_allowed_names,
            headers: RequestHeaderNames {
                username: self.requestheader_username_headers,
                uid: self.requestheader_uid_headers,
                group: self.requestheader_group_headers,
                extra_prefixes: self.requestheader_extra_headers_prefix,
            },
        });
        Ok((authentication, anonymous))
    }
}

/// Flags about TLS, with upstream's names.
#[derive(Args, Debug)]
pub struct TlsFlags {
    /// The lowest version of TLS: VersionTLS12 or VersionTLS13.
    #[arg(long, default_value = "VersionTLS12")]
    tls_min_version: MinVersion,
    /// Cipher suites of TLS 1.2 by the names of Go; all that are known if absent.
    #[arg(long, value_delimiter = ',')]
    tls_cipher_suites: Vec<CipherSuiteName>,
    /// Certificate for other names, as CERT,KEY or CERT,KEY:NAME,*.NAME; may be given more than once.
    #[arg(long)]
    tls_sni_cert_key: Vec<SniCertificate>,
}

impl TlsFlags {
    /// What the flags mean.
    pub fn settled(self) -> TlsOptions {
        TlsOptions {
            min_version: self.tls_min_version,
            cipher_suites: self.tls_cipher_suites,
            sni: self.tls_sni_cert_key,
        }
    }
}
