//! `ABAC`: a policy file, one rule a line. Upstream: pkg/auth/authorizer/abac and pkg/apis/abac, 1.36.
use async_trait::async_trait;
use machinery::request::{Attributes, UserInfo};
use serde_json::Value;

use crate::{Answer, Authorizer, NonResourceRule, ResourceRule, Rules};

/// Everybody who could be made out.
const AUTHENTICATED: &str = "system:authenticated";
/// The version of the rules.
const VERSION: &str = "abac.authorization.kubernetes.io/v1beta1";

/// A line that is no rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbacError {
    /// Which one, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

impl std::fmt::Display for AbacError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error reading policy file, line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for AbacError {}

/// One rule. Empty: says nothing about it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rule {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    non_resource_path: String,
}

/// The rules of a file: one that matches is a yes.
#[derive(Debug, Default)]
pub struct Abac(Vec<Rule>);

fn text(value: &Value, field: &str) -> Result<String, String> {
    match value.get(field) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("{field}: {other} is no string")),
    }
}

fn flag(value: &Value, field: &str) -> Result<bool, String> {
    match value.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err(format!("{field}: {other} is neither true nor false")),
    }
}

impl Rule {
    fn parse(line: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
        if !value.is_object() {
            return Err("it is no JSON object".into());
        }
        let (version, kind) = (text(&value, "apiVersion")?, text(&value, "kind")?);
        let mut rule = if version.is_empty() && kind.is_empty() {
            Self::before_versions(&value)?
        } else if version == VERSION && kind == "Policy" {
            let spec = value.get("spec").cloned().unwrap_or_default();
            Self {
                user: text(&spec, "user")?,
                group: text(&spec, "group")?,
                readonly: flag(&spec, "readonly")?,
                api_group: text(&spec, "apiGroup")?,
                resource: text(&spec, "resource")?,
                namespace: text(&spec, "namespace")?,
                non_resource_path: text(&spec, "nonResourcePath")?,
            }
        } else {
            return Err(format!("no kind {kind:?} is registered for version {version:?}"));
        };
        if rule.user == "*" || rule.group == "*" {
            rule.user = String::new();
            rule.group = AUTHENTICATED.into();
        }
        Ok(rule)
    }

    /// The form without a version: what is left out means everything.
    fn before_versions(value: &Value) -> Result<Self, String> {
        let or_all = |text: String| if text.is_empty() { "*".to_owned() } else { text };
        let (user, mut group) = (text(value, "user")?, text(value, "group")?);
        let (namespace, resource) = (text(value, "namespace")?, text(value, "resource")?);
        if user.is_empty() && group.is_empty() {
            group = AUTHENTICATED.into();
        }
        let everywhere = namespace.is_empty() && resource.is_empty();
        Ok(Self {
            user,
            group,
            readonly: flag(value, "readonly")?,
            api_group: "*".into(),
            resource: or_all(resource),
            namespace: or_all(namespace),
            non_resource_path: if everywhere { "*".into() } else { String::new() },
        })
    }

    fn is_about(&self, user: &UserInfo) -> bool {
        let named = !(self.user.is_empty() && self.group.is_empty());
        named
            && (self.user.is_empty() || self.user == user.name)
            && (self.group.is_empty() || user.in_group(&self.group))
    }

    fn matches(&self, attributes: &Attributes<'_>) -> bool {
        let request = attributes.request;
        let reads = matches!(request.verb.as_str(), "get" | "list" | "watch");
        if !self.is_about(attributes.user) || (self.readonly && !reads) {
            return false;
        }
        let fits = |rule: &str, value: &str| rule == "*" || rule == value;
        if request.is_resource {
            return fits(&self.namespace, &request.namespace)
                && fits(&self.resource, &request.resource)
                && fits(&self.api_group, &request.api_group);
        }
        match self.non_resource_path.strip_suffix('*') {
            Some(prefix) => request.path.starts_with(prefix.trim_end_matches('*')),
            None => self.non_resource_path == request.path,
        }
    }
}

impl Abac {
    /// Reads a policy file. Empty lines and those that begin with `#` say nothing.
    pub fn parse(file: &str) -> Result<Self, AbacError> {
        let lines = file.lines().map(str::trim).enumerate();
        let rules = lines
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(at, line)| Rule::parse(line).map_err(|why| AbacError { line: at + 1, why }));
        rules.collect::<Result<_, _>>().map(Self)
    }
}

#[async_trait]
impl Authorizer for Abac {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Answer {
        if self.0.iter().any(|rule| rule.matches(attributes)) {
            Answer::ALLOW
        } else {
            Answer::no_opinion("No policy matched.")
        }
    }

    fn rules_for(&self, user: &UserInfo, namespace: &str) -> Rules {
        let mut rules = Rules::default();
        for rule in &self.0 {
            if !rule.is_about(user) || (rule.namespace != "*" && rule.namespace != namespace) {
                continue;
            }
            let verbs: &[&str] = if rule.readonly { &["get", "list", "watch"] } else { &["*"] };
            let verbs: Vec<String> = verbs.iter().map(|&v| v.to_owned()).collect();
            if !rule.resource.is_empty() {
                rules.resource_rules.push(ResourceRule {
                    verbs: verbs.clone(),
                    api_groups: vec![rule.api_group.clone()],
                    resources: vec![rule.resource.clone()],
                    resource_names: Vec::new(),
                });
            }
            if !rule.non_resource_path.is_empty() {
                let non_resource_urls = vec![rule.non_resource_path.clone()];
                rules.non_resource_rules.push(NonResourceRule { verbs, non_resource_urls });
            }
        }
        rules
    }
}

#[cfg(test)]
mod tests {
    use machinery::request::RequestInfo;

    use super::*;

    fn versioned(spec: &str) -> String {
        format!("{{\"apiVersion\":\"{VERSION}\",\"kind\":\"Policy\",\"spec\":{spec}}}")
    }

    fn resource(verb: &str, namespace: &str, group: &str, resource: &str) -> RequestInfo {
        RequestInfo {
            verb: verb.into(),
            is_resource: true,
            namespace: namespace.into(),
            api_group: group.into(),
            resource: resource.into(),
            ..RequestInfo::default()
        }
    }

    fn path(verb: &str, path: &str) -> RequestInfo {
        RequestInfo { verb: verb.into(), path: path.into(), ..RequestInfo::default() }
    }

    async fn allows(file: &str, user: &UserInfo, request: &RequestInfo) -> bool {
        let abac = Abac::parse(file).unwrap();
        abac.authorize(&Attributes { user, request }).await.is_allowed()
    }

    #[tokio::test]
    async fn the_guides_policy_says_what_the_guide_says() {
        let file = [
            versioned(r#"{"user":"*", "nonResourcePath": "*", "readonly": true}"#),
            versioned(r#"{"user":"admin", "namespace": "*", "resource": "*", "apiGroup": "*"}"#),
            "# comment".into(),
            String::new(),
            versioned(r#"{"group":"system:serviceaccounts", "namespace": "*", "resource": "*", "apiGroup": "*", "nonResourcePath": "*"}"#),
        ]
        .join("\n");
        let admin = UserInfo::new("admin", &[AUTHENTICATED]);
        let other = UserInfo::new("other", &[AUTHENTICATED]);
        let account = UserInfo::new("system:serviceaccount:a:b", &["system:serviceaccounts", AUTHENTICATED]);
        let stranger = UserInfo::anonymous();
        let (write, read) = (resource("create", "a", "apps", "deployments"), path("get", "/version"));
        for (user, request, expect) in [
            (&admin, &write, true),
            (&admin, &read, true),
            (&other, &write, false),
            (&other, &read, true),
            (&other, &path("post", "/version"), false),
            (&account, &write, true),
            (&account, &path("post", "/x"), true),
            (&stranger, &read, false),
            (&stranger, &write, false),
        ] {
            assert_eq!(allows(&file, user, request).await, expect, "{} {request:?}", user.name);
        }
    }

    #[tokio::test]
    async fn a_rule_allows_what_it_names_and_no_more() {
        let bob = UserInfo::new("bob", &["dev", AUTHENTICATED]);
        let pods = resource("get", "a", "", "pods");
        let check = async |spec: &str, request: &RequestInfo, expect: bool| {
            assert_eq!(allows(&versioned(spec), &bob, request).await, expect, "{spec} {request:?}");
        };
        check(r#"{"user":"bob","namespace":"a","resource":"pods"}"#, &pods, true).await;
        check(r#"{"user":"bob","namespace":"b","resource":"pods"}"#, &pods, false).await;
        check(r#"{"user":"bob","namespace":"a","resource":"services"}"#, &pods, false).await;
        check(r#"{"user":"bob","namespace":"a","resource":"pods","apiGroup":"apps"}"#, &pods, false).await;
        check(r#"{"user":"eve","namespace":"a","resource":"pods"}"#, &pods, false).await;
        check(r#"{"group":"dev","namespace":"a","resource":"pods"}"#, &pods, true).await;
        check(r#"{"user":"bob","group":"ops","namespace":"a","resource":"pods"}"#, &pods, false).await;
        check(r#"{"namespace":"a","resource":"pods"}"#, &pods, false).await;
        check(r#"{"group":"*","namespace":"a","resource":"pods"}"#, &pods, true).await;
        let delete = resource("delete", "a", "", "pods");
        check(r#"{"user":"bob","namespace":"a","resource":"pods","readonly":true}"#, &delete, false).await;
        check(r#"{"user":"bob","namespace":"a","resource":"pods"}"#, &delete, true).await;
        check(r#"{"user":"bob","nonResourcePath":"/api*"}"#, &path("get", "/apis/x"), true).await;
        check(r#"{"user":"bob","nonResourcePath":"/api"}"#, &path("get", "/apis"), false).await;
        check(r#"{"user":"bob"}"#, &path("get", "/apis"), false).await;
    }

    #[tokio::test]
    async fn rules_without_a_version_mean_everything_they_leave_out() {
        let bob = UserInfo::new("bob", &[AUTHENTICATED]);
        for (rule, request, expect) in [
            (r#"{"user":"bob"}"#, resource("create", "a", "apps", "deployments"), true),
            (r#"{"user":"bob"}"#, path("get", "/x"), true),
            (r#"{"user":"eve"}"#, path("get", "/x"), false),
            (r#"{"readonly":true}"#, resource("get", "a", "", "pods"), true),
            (r#"{"readonly":true}"#, resource("create", "a", "", "pods"), false),
            (r#"{"namespace":"a"}"#, resource("get", "b", "", "pods"), false),
            (r#"{"namespace":"a"}"#, path("get", "/x"), false),
            ("{}", resource("delete", "b", "", "pods"), true),
        ] {
            assert_eq!(allows(rule, &bob, &request).await, expect, "{rule} {request:?}");
        }
        assert!(!allows("{}", &UserInfo::anonymous(), &path("get", "/x")).await);
    }

    #[test]
    fn a_bad_line_is_named() {
        let check = |file: &str, expect: &str| {
            let got = Abac::parse(file).unwrap_err().to_string();
            assert!(got.starts_with(expect), "{got}");
        };
        check("# a\n\n{", "error reading policy file, line 3: EOF while parsing");
        check("[]", "error reading policy file, line 1: it is no JSON object");
        check(
            r#"{"apiVersion":"v1","kind":"Pod"}"#,
            "error reading policy file, line 1: no kind \"Pod\" is registered for version \"v1\"",
        );
        check(r#"{"user":1}"#, "error reading policy file, line 1: user: 1 is no string");
        check(
            &versioned(r#"{"readonly":"yes"}"#),
            "error reading policy file, line 1: readonly: \"yes\" is neither true nor false",
        );
        assert!(Abac::parse("").unwrap().0.is_empty());
    }

    #[test]
    fn a_users_rules_are_listed() {
        let abac = Abac::parse(&versioned(
            r#"{"user":"bob","namespace":"*","resource":"pods","nonResourcePath":"/x","readonly":true}"#,
        ))
        .unwrap();
        let rules = abac.rules_for(&UserInfo::new("bob", &[]), "a");
        assert_eq!(rules.resource_rules[0].resources, ["pods"]);
        assert_eq!(rules.non_resource_rules[0].verbs, ["get", "list", "watch"]);
        assert_eq!(abac.rules_for(&UserInfo::new("eve", &[]), "a"), Rules::default());
    }
}
