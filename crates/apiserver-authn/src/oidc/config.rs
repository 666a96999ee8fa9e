//! How tokens become users: from the `--oidc-*` flags, or from an AuthenticationConfiguration.
use serde::Deserialize;

/// Algorithms that tokens may be signed with.
pub const SIGNING_ALGORITHMS: &[&str] =
    &["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"];

/// One issuer and what its tokens mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtAuthenticator {
    /// The claim `iss`; under it the issuer's discovery document is found.
    pub issuer_url: String,
    /// Where the discovery document is, if not there.
    pub discovery_url: Option<String>,
    /// Client ids: one of them has to be an audience of the token.
    pub audiences: Vec<String>,
    /// PEM of the CA that the issuer's certificate has; the machine's own roots if absent.
    pub certificate_authority: Option<String>,
    /// The user's name.
    pub username: Mapping,
    /// The user's groups.
    pub groups: Option<Mapping>,
    /// The claim with the user's uid.
    pub uid: Option<String>,
    /// What has to be true of the claims.
    pub rules: Vec<ClaimRule>,
    /// Algorithms that are taken.
    pub signing_algorithms: Vec<String>,
}

/// A claim, and what is put before its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The claim.
    pub claim: String,
    /// The prefix; may be empty.
    pub prefix: String,
}

/// A claim that must have a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRule {
    /// The claim.
    pub claim: String,
    /// Its value.
    pub required_value: String,
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

fn bad<T>(why: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(why.into()))
}

/// The `--oidc-*` flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OidcFlags {
    /// `--oidc-issuer-url`.
    pub issuer_url: String,
    /// `--oidc-client-id`.
    pub client_id: String,
    /// The content of `--oidc-ca-file`.
    pub ca: Option<String>,
    /// `--oidc-username-claim`; `sub` if absent.
    pub username_claim: Option<String>,
    /// `--oidc-username-prefix`.
    pub username_prefix: Option<String>,
    /// `--oidc-groups-claim`.
    pub groups_claim: Option<String>,
    /// `--oidc-groups-prefix`.
    pub groups_prefix: Option<String>,
    /// `--oidc-signing-algs`; RS256 if empty.
    pub signing_algorithms: Vec<String>,
    /// `--oidc-required-claim`.
    pub required_claims: Vec<(String, String)>,
}

impl OidcFlags {
    /// What the flags mean.
    pub fn settled(self) -> Result<JwtAuthenticator, ConfigError> {
        check_url("oidc-issuer-url", &self.issuer_url)?;
        if self.client_id.is_empty() {
            return bad("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set");
        }
        if let Some(other) =
            self.signing_algorithms.iter().find(|a| !SIGNING_ALGORITHMS.contains(&a.as_str()))
        {
            return bad(format!(
                "oidc-signing-algs: unsupported algorithm {other:?}; known are {}",
                SIGNING_ALGORITHMS.join(", ")
            ));
        }
        let claim = self.username_claim.unwrap_or_else(|| "sub".into());
        let prefix = match self.username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) if !prefix.is_empty() => prefix.to_owned(),
            // So that two issuers cannot name the same user.
            _ if claim != "email" => format!("{}#", self.issuer_url),
            _ => String::new(),
        };
        let groups_prefix = self.groups_prefix.unwrap_or_default();
        Ok(JwtAuthenticator {
            issuer_url: self.issuer_url,
            discovery_url: None,
            audiences: vec![self.client_id],
            certificate_authority: self.ca,
            username: Mapping { claim, prefix },
            groups: self.groups_claim.map(|claim| Mapping { claim, prefix: groups_prefix }),
            uid: None,
            rules: self
                .required_claims
                .into_iter()
                .map(|(claim, required_value)| ClaimRule { claim, required_value })
                .collect(),
            signing_algorithms: if self.signing_algorithms.is_empty() {
                vec!["RS256".into()]
            } else {
                self.signing_algorithms
            },
        })
    }
}

fn check_url(what: &str, url: &str) -> Result<(), ConfigError> {
    let parsed: Result<http::Uri, _> = url.parse();
    let Ok(parsed) = parsed else { return bad(format!("{what}: {url:?} is not a URL")) };
    if parsed.scheme_str() != Some("https") || parsed.host().is_none_or(str::is_empty) {
        return bad(format!("{what}: {url:?} has invalid scheme, require 'https'"));
    }
    if url.contains(['?', '#']) || parsed.authority().is_some_and(|a| a.as_str().contains('@')) {
        return bad(format!("{what}: {url:?} must not have a user, query or fragment"));
    }
    Ok(())
}

/// Whether requests without credentials are let through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnonymousSetting {
    /// Whether they are.
    pub enabled: bool,
    /// To these paths only; empty: to all.
    pub paths: Vec<String>,
}

/// `AuthenticationConfiguration` of `apiserver.config.k8s.io`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticationConfiguration {
    /// Issuers.
    pub jwt: Vec<JwtAuthenticator>,
    /// Anonymous requests; absent: as the flag says.
    pub anonymous: Option<AnonymousSetting>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    jwt: Vec<FileJwt>,
    anonymous: Option<FileAnonymous>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileAnonymous {
    enabled: bool,
    #[serde(default)]
    conditions: Vec<FilePath>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePath {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileJwt {
    issuer: FileIssuer,
    #[serde(default)]
    claim_validation_rules: Vec<FileRule>,
    claim_mappings: FileMappings,
    #[serde(default)]
    user_validation_rules: Vec<FileRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileIssuer {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: Option<String>,
    certificate_authority: Option<String>,
    #[serde(default)]
    audiences: Vec<String>,
    audience_match_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileRule {
    #[serde(default)]
    claim: String,
    #[serde(default)]
    required_value: String,
    #[serde(default)]
    expression: String,
    #[serde(default, rename = "message")]
    _message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileMappings {
    username: FileMapping,
    #[serde(default)]
    groups: FileMapping,
    #[serde(default)]
    uid: FileMapping,
    #[serde(default)]
    extra: Vec<serde_json::Value>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct FileMapping {
    #[serde(default)]
    claim: String,
    prefix: Option<String>,
    #[serde(default)]
    expression: String,
}

const NO_EXPRESSIONS: &str = "CEL expressions are not supported here; use claim, prefix and requiredValue";

impl AuthenticationConfiguration {
    /// Reads the text of a file, YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: File = serde_saphyr::from_str(text).map_err(|e| ConfigError(e.to_string()))?;
        let known = ["v1", "v1beta1", "v1alpha1"].map(|v| format!("apiserver.config.k8s.io/{v}"));
        if file.kind != "AuthenticationConfiguration" || !known.contains(&file.api_version) {
            return bad(format!(
                "no kind {:?} is registered for version {:?}; want AuthenticationConfiguration of {}",
                file.kind, file.api_version, known[0]
            ));
        }
        let mut jwt: Vec<JwtAuthenticator> = Vec::new();
        for (i, one) in file.jwt.into_iter().enumerate() {
            let one = one.settled().map_err(|e| ConfigError(format!("jwt[{i}].{}", e.0)))?;
            if jwt.iter().any(|other| other.issuer_url == one.issuer_url) {
                return bad(format!("jwt[{i}].issuer.url: Duplicate value: {:?}", one.issuer_url));
            }
            jwt.push(one);
        }
        let anonymous = file.anonymous.map(|a| AnonymousSetting {
            enabled: a.enabled,
            paths: a.conditions.into_iter().map(|c| c.path).collect(),
        });
        if anonymous.as_ref().is_some_and(|a| !a.enabled && !a.paths.is_empty()) {
            return bad("anonymous.conditions: Invalid value: enabled should be set to true when conditions are defined");
        }
        Ok(Self { jwt, anonymous })
    }
}

impl FileJwt {
    fn settled(self) -> Result<JwtAuthenticator, ConfigError> {
        check_url("issuer.url", &self.issuer.url)?;
        if let Some(url) = &self.issuer.discovery_url {
            check_url("issuer.discoveryURL", url)?;
            if *url == self.issuer.url {
                return bad("issuer.discoveryURL: Invalid value: discoveryURL must be different from URL");
            }
        }
        if self.issuer.audiences.is_empty() {
            return bad("issuer.audiences: Required value: at least one jwt[].issuer.audiences is required");
        }
        if self.issuer.audiences.len() > 1 && self.issuer.audience_match_policy.as_deref() != Some("MatchAny") {
            return bad(
                "issuer.audienceMatchPolicy: Invalid value: audienceMatchPolicy must be set to MatchAny for multiple audiences",
            );
        }
        if !self.user_validation_rules.is_empty() {
            return bad(format!("userValidationRules: {NO_EXPRESSIONS}"));
        }
        if !self.claim_mappings.extra.is_empty() {
            return bad(format!("claimMappings.extra: {NO_EXPRESSIONS}"));
        }
        let mut rules = Vec::new();
        for (i, rule) in self.claim_validation_rules.into_iter().enumerate() {
            if !rule.expression.is_empty() {
                return bad(format!("claimValidationRules[{i}].expression: {NO_EXPRESSIONS}"));
            }
            if rule.claim.is_empty() {
                return bad(format!(
                    "claimValidationRules[{i}]: Required value: claim or expression is required"
                ));
            }
            rules.push(ClaimRule { claim: rule.claim, required_value: rule.required_value });
        }
        let mappings = self.claim_mappings;
        let username = mappings.username.settled("claimMappings.username")?;
        let username = username.ok_or_else(|| {
            ConfigError("claimMappings.username: Required value: claim or expression is required".into())
        })?;
        let uid = mappings.uid;
        if uid.prefix.is_some() {
            return bad("claimMappings.uid.prefix: unknown field");
        }
        if !uid.expression.is_empty() {
            return bad(format!("claimMappings.uid.expression: {NO_EXPRESSIONS}"));
        }
        Ok(JwtAuthenticator {
            issuer_url: self.issuer.url,
            discovery_url: self.issuer.discovery_url,
            audiences: self.issuer.audiences,
            certificate_authority: self.issuer.certificate_authority,
            username,
            groups: mappings.groups.settled("claimMappings.groups")?,
            uid: (!uid.claim.is_empty()).then_some(uid.claim),
            rules,
            signing_algorithms: SIGNING_ALGORITHMS.iter().map(|&a| a.to_owned()).collect(),
        })
    }
}

impl FileMapping {
    fn settled(self, path: &str) -> Result<Option<Mapping>, ConfigError> {
        if !self.expression.is_empty() {
            return bad(format!("{path}.expression: {NO_EXPRESSIONS}"));
        }
        if self.claim.is_empty() {
            return Ok(None);
        }
        let Some(prefix) = self.prefix else {
            return bad(format!(
                "{path}.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing"
            ));
        };
        Ok(Some(Mapping { claim: self.claim, prefix }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> OidcFlags {
        OidcFlags {
            issuer_url: "https://issuer.example".into(),
            client_id: "cox".into(),
            ..OidcFlags::default()
        }
    }

    #[test]
    fn prefixes_of_user_names() {
        let check = |claim: Option<&str>, prefix: Option<&str>, want: &str| {
            let made = OidcFlags {
                username_claim: claim.map(Into::into),
                username_prefix: prefix.map(Into::into),
                ..flags()
            };
            assert_eq!(made.settled().unwrap().username.prefix, want, "{claim:?} {prefix:?}");
        };
        check(None, None, "https://issuer.example#");
        check(Some("email"), None, "");
        check(Some("email"), Some("oidc:"), "oidc:");
        check(None, Some("-"), "");
        check(None, Some("oidc:"), "oidc:");
    }

    #[test]
    fn wrong_flags_are_told() {
        let why = |f: OidcFlags| f.settled().unwrap_err().0;
        assert!(why(OidcFlags { issuer_url: "http://a".into(), ..flags() }).contains("require 'https'"));
        assert!(why(OidcFlags { client_id: String::new(), ..flags() }).contains("oidc-client-id"));
        let none = OidcFlags { signing_algorithms: vec!["none".into()], ..flags() };
        assert!(why(none).contains("RS256, RS384"));
    }

    const FILE: &str = "
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: https://a.example
    audiences: [x, y]
    audienceMatchPolicy: MatchAny
  claimValidationRules:
  - claim: hd
    requiredValue: example.com
  claimMappings:
    username: {claim: sub, prefix: 'a:'}
    groups: {claim: roles, prefix: ''}
    uid: {claim: oid}
anonymous:
  enabled: true
  conditions:
  - path: /livez
";

    #[test]
    fn files_are_read() {
        let read = AuthenticationConfiguration::parse(FILE).unwrap();
        let jwt = &read.jwt[0];
        assert_eq!(jwt.audiences, ["x", "y"]);
        assert_eq!(jwt.username, Mapping { claim: "sub".into(), prefix: "a:".into() });
        assert_eq!(jwt.rules[0].required_value, "example.com");
        assert_eq!(jwt.uid.as_deref(), Some("oid"));
        assert_eq!(read.anonymous, Some(AnonymousSetting { enabled: true, paths: vec!["/livez".into()] }));
    }

    #[test]
    fn wrong_files_are_told() {
        let check = |from: &str, to: &str, want: &str| {
            let error = AuthenticationConfiguration::parse(&FILE.replace(from, to)).unwrap_err().0;
            assert!(error.contains(want), "{error}");
        };
        check("AuthenticationConfiguration", "Other", "no kind \"Other\"");
        check("    audienceMatchPolicy: MatchAny\n", "", "must be set to MatchAny");
        check("prefix: 'a:'", "expression: 'claims.sub'", "jwt[0].claimMappings.username");
        check(", prefix: 'a:'", "", "prefix is required");
        check("https://a.example", "http://a.example", "require 'https'");
        check("enabled: true", "enabled: false", "enabled should be set to true");
        check("  claimValidationRules", "  claimValidationRulez", "claimValidationRulez");
    }
}
