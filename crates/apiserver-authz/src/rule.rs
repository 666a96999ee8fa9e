//! One RBAC rule: what it matches, and which rules cover which.
use machinery::request::RequestInfo;
use serde_json::{Map, Value};

/// One rule of a Role or ClusterRole.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRule {
    /// API groups; `*` is all.
    pub api_groups: Vec<String>,
    /// Resources, `pods/log` for subresources; `*` is all, `*/scale` one subresource of all.
    pub resources: Vec<String>,
    /// Names; empty is all.
    pub resource_names: Vec<String>,
    /// Paths that are no resources; `*` at the end matches any rest.
    pub non_resource_urls: Vec<String>,
    /// Verbs; `*` is all.
    pub verbs: Vec<String>,
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|x| x == wanted)
}

fn has_or_star(list: &[String], wanted: &str) -> bool {
    list.iter().any(|x| x == wanted || x == "*")
}

/// Whether a rule's path matches a path: the same, `*`, or a prefix before `*` at the end.
fn url_matches(rule: &str, path: &str) -> bool {
    rule == path || rule.strip_suffix('*').is_some_and(|_| path.starts_with(rule.trim_end_matches('*')))
}

/// Whether a rule's resource matches a resource and subresource.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    if subresource.is_empty() {
        return rule == resource;
    }
    rule.split_once('/').is_some_and(|(r, s)| s == subresource && (r == resource || r == "*"))
}

impl PolicyRule {
    /// Reads one of `rules`. Never fails: what is absent matches nothing.
    pub fn from_value(value: &Value) -> Self {
        let list = |key: &str| -> Vec<String> {
            let items = value.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            api_groups: list("apiGroups"),
            resources: list("resources"),
            resource_names: list("resourceNames"),
            non_resource_urls: list("nonResourceURLs"),
            verbs: list("verbs"),
        }
    }

    /// As one of `rules`.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        let mut put = |key: &str, list: &[String]| {
            if !list.is_empty() {
                map.insert(key.to_owned(), list.into());
            }
        };
        put("apiGroups", &self.api_groups);
        put("resources", &self.resources);
        put("resourceNames", &self.resource_names);
        put("nonResourceURLs", &self.non_resource_urls);
        put("verbs", &self.verbs);
        Value::Object(map)
    }

    /// The rules of a role.
    pub fn all_of(role: &machinery::Object) -> Vec<Self> {
        role.list_at(&["rules"]).iter().map(Self::from_value).collect()
    }

    /// Whether the rule allows this request.
    pub fn allows(&self, request: &RequestInfo) -> bool {
        if !has_or_star(&self.verbs, &request.verb) {
            return false;
        }
        if request.is_resource {
            has_or_star(&self.api_groups, &request.api_group)
                && self.resources.iter().any(|r| resource_matches(r, &request.resource, &request.subresource))
                && (self.resource_names.is_empty() || has(&self.resource_names, &request.name))
        } else {
            self.non_resource_urls.iter().any(|u| url_matches(u, &request.path))
        }
    }

    /// As many rules with at most one item of each list.
    pub fn break_down(&self) -> Vec<Self> {
        let mut out = Vec::new();
        for verb in &self.verbs {
            for group in &self.api_groups {
                for resource in &self.resources {
                    let one = Self {
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        verbs: vec![verb.clone()],
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        out.push(one);
                        continue;
                    }
                    for name in &self.resource_names {
                        out.push(Self { resource_names: vec![name.clone()], ..one.clone() });
                    }
                }
            }
            for url in &self.non_resource_urls {
                out.push(Self {
                    non_resource_urls: vec![url.clone()],
                    verbs: vec![verb.clone()],
                    ..Self::default()
                });
            }
        }
        out
    }

    /// Whether this rule alone allows all that the (broken down) other one does.
    fn covers(&self, other: &Self) -> bool {
        let all = |mine: &[String], theirs: &[String]| has(mine, "*") || theirs.iter().all(|t| has(mine, t));
        let resources = || {
            has(&self.resources, "*")
                || other.resources.iter().all(|r| {
                    has(&self.resources, r)
                        || r.split_once('/').is_some_and(|(_, sub)| has(&self.resources, &format!("*/{sub}")))
                })
        };
        let names = || {
            self.resource_names.is_empty()
                || (!other.resource_names.is_empty() && all(&self.resource_names, &other.resource_names))
        };
        let urls = || {
            other
                .non_resource_urls
                .iter()
                .all(|u| self.non_resource_urls.iter().any(|mine| url_matches(mine, u)))
        };
        all(&self.verbs, &other.verbs)
            && all(&self.api_groups, &other.api_groups)
            && resources()
            && names()
            && urls()
    }

    /// The rule as upstream's texts show it.
    pub fn compact(&self) -> String {
        let mut parts = Vec::new();
        let mut part = |name: &str, list: &[String]| {
            if !list.is_empty() {
                parts.push(format!("{name}:{}", go_quoted(list)));
            }
        };
        part("APIGroups", &self.api_groups);
        part("Resources", &self.resources);
        part("NonResourceURLs", &self.non_resource_urls);
        part("ResourceNames", &self.resource_names);
        part("Verbs", &self.verbs);
        format!("{{{}}}", parts.join(", "))
    }
}

/// A list as Go's `%q` prints it.
pub fn go_quoted(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|s| format!("{s:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

/// What of `wanted` the rules in `owned` do not allow, broken down; empty where they allow it all.
pub fn missing(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    wanted
        .iter()
        .flat_map(PolicyRule::break_down)
        .filter(|one| !owned.iter().any(|rule| rule.covers(one)))
        .collect()
}

/// Joins rules about the same resource and name into one with all their verbs.
pub fn join_verbs(rules: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut out: Vec<PolicyRule> = Vec::new();
    for rule in rules {
        let simple = rule.non_resource_urls.is_empty()
            && rule.api_groups.len() == 1
            && rule.resources.len() == 1
            && rule.resource_names.len() <= 1;
        let same = |other: &&mut PolicyRule| {
            simple
                && other.api_groups == rule.api_groups
                && other.resources == rule.resources
                && other.resource_names == rule.resource_names
                && other.non_resource_urls.is_empty()
        };
        match out.iter_mut().find(same) {
            Some(other) => {
                for verb in rule.verbs {
                    if !has(&other.verbs, &verb) {
                        other.verbs.push(verb);
                    }
                }
            }
            None => out.push(rule),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(verb: &str, group: &str, resource: &str, name: &str) -> RequestInfo {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        RequestInfo {
            verb: verb.into(),
            is_resource: true,
            api_group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..RequestInfo::default()
        }
    }

    #[test]
    fn matches_resources_subresources_and_names() {
        let check = |rule: Value, request: RequestInfo, want: bool| {
            assert_eq!(PolicyRule::from_value(&rule).allows(&request), want, "{rule} {request:?}");
        };
        let pods = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
        check(pods.clone(), request("get", "", "pods", "x"), true);
        check(pods.clone(), request("list", "", "pods", ""), false);
        check(pods.clone(), request("get", "", "pods/log", "x"), false);
        check(pods, request("get", "apps", "pods", "x"), false);
        let star = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
        check(star, request("anything", "apps", "deployments/scale", "x"), true);
        let scale = json!({"apiGroups": ["*"], "resources": ["*/scale"], "verbs": ["get"]});
        check(scale.clone(), request("get", "apps", "deployments/scale", "x"), true);
        check(scale.clone(), request("get", "apps", "deployments/status", "x"), false);
        check(scale, request("get", "apps", "deployments", "x"), false);
        let named = json!({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"], "verbs": ["get", "list"]});
        check(named.clone(), request("get", "", "configmaps", "a"), true);
        check(named.clone(), request("get", "", "configmaps", "b"), false);
        check(named.clone(), request("list", "", "configmaps", ""), false);
        check(named, request("list", "", "configmaps", "a"), true);
    }

    #[test]
    fn matches_paths() {
        let check = |url: &str, path: &str, want: bool| {
            let rule = PolicyRule::from_value(&json!({"nonResourceURLs": [url], "verbs": ["get"]}));
            let request = RequestInfo { verb: "get".into(), path: path.into(), ..RequestInfo::default() };
            assert_eq!(rule.allows(&request), want, "{url} {path}");
        };
        check("/healthz", "/healthz", true);
        check("/healthz", "/healthz/ping", false);
        check("/healthz/*", "/healthz/ping", true);
        check("/healthz/*", "/healthz", false);
        check("/api*", "/apis", true);
        check("*", "/anything", true);
    }

    #[test]
    fn finds_what_is_not_covered() {
        let rules = |v: Value| -> Vec<PolicyRule> {
            v.as_array().unwrap().iter().map(PolicyRule::from_value).collect()
        };
        let check = |owned: Value, wanted: Value, want: &[&str]| {
            let missing = join_verbs(missing(&rules(owned), &rules(wanted)));
            let got: Vec<String> = missing.iter().map(PolicyRule::compact).collect();
            assert_eq!(got, want);
        };
        check(
            json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]),
            json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]),
            &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}"#],
        );
        check(
            json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]),
            json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["get"]}]),
            &[r#"{NonResourceURLs:["*"], Verbs:["get"]}"#],
        );
        check(
            json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get"]}]),
            json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
                   {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get"]}]),
            &[r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#],
        );
        check(
            json!([{"apiGroups": ["apps"], "resources": ["*/scale"], "verbs": ["get"]}, {"nonResourceURLs": ["/api/*"], "verbs": ["get"]}]),
            json!([{"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get"]}, {"nonResourceURLs": ["/api/v1"], "verbs": ["get"]}]),
            &[],
        );
    }
}
