//! `PodSecurity`: the Pod Security Standards, as labels of the namespace ask for them. Upstream:
//! pod-security-admission/{admission,policy}, 1.36.
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use machinery::field::aggregate;
use machinery::{Object, StatusError, StatusResult};
use serde_json::Value;

use crate::settings::ConfigError;
use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

mod baseline;
mod policy;
mod restricted;
mod spec;

use policy::{Exemptions, Level, LevelVersion, Policy};
use spec::PodSpec;

/// What the audit trail calls what it is told.
const ENFORCED: &str = "pod-security.kubernetes.io/enforce-policy";
const VIOLATES: &str = "pod-security.kubernetes.io/audit-violations";
const EXEMPT: &str = "pod-security.kubernetes.io/exempt";
const UNREADABLE: &str = "pod-security.kubernetes.io/error";

/// Pods of a namespace that are looked at when its labels change, at most.
const MOST_PODS: usize = 3000;

/// The plugin.
pub struct PodSecurity {
    cluster: Arc<dyn ClusterView>,
    defaults: Policy,
    exempt: Exemptions,
}

/// One broken rule: which, and who breaks it.
#[derive(Debug, PartialEq)]
struct Violation {
    reason: String,
    detail: String,
}

type Check = fn(&PodSpec<'_>) -> Option<Violation>;

fn violation(reason: impl Into<String>, detail: impl Into<String>) -> Option<Violation> {
    Some(Violation { reason: reason.into(), detail: detail.into() })
}

/// Spec and metadata of a pod or of a pod template.
type Template<'a> = (&'a Value, Option<&'a Value>);

/// What a pod breaks of a level, in upstream's order.
fn violations(of: LevelVersion, (spec, metadata): Template<'_>) -> Vec<Violation> {
    let pod = PodSpec { spec, metadata, version: of.version };
    let strict = of.level == Level::Restricted;
    let mut found = Vec::new();
    if of.level == Level::Privileged {
        return found;
    }
    for check in baseline::CHECKS {
        let replaced = strict && check.replaced.is_some_and(|since| of.version.since(since));
        if of.version.since(check.since) && !replaced {
            found.extend((check.check)(&pod));
        }
    }
    if strict {
        for (since, check) in restricted::CHECKS {
            found.extend(of.version.since(since).then(|| check(&pod)).flatten());
        }
    }
    found
}

/// The same as one text; `None` where nothing is broken.
fn broken(of: LevelVersion, template: Template<'_>) -> Option<String> {
    let found = violations(of, template);
    let texts: Vec<String> = found.iter().map(|v| format!("{} ({})", v.reason, v.detail)).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// The pod template of a workload.
fn template<'a>(a: &Attributes<'_>, object: &'a Object) -> Option<Template<'a>> {
    let path: &[&str] = match (a.gvr.group.as_str(), a.gvr.resource.as_str()) {
        _ if !a.subresource.is_empty() => return None,
        ("", "podtemplates") => &["template"],
        ("", "replicationcontrollers")
        | ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets")
        | ("batch", "jobs") => &["spec", "template"],
        ("batch", "cronjobs") => &["spec", "jobTemplate", "spec", "template"],
        _ => return None,
    };
    let template = object.at(path)?;
    Some((template.get("spec")?, template.get("metadata")))
}

/// Subresources that say nothing of what a pod may do.
const HARMLESS: [&str; 8] =
    ["attach", "binding", "eviction", "exec", "log", "portforward", "proxy", "status"];

/// Whether an update of a pod can change what it may do.
fn is_significant(new: &Object, old: &Object) -> bool {
    let annotation = |name: &str| new.annotation(name) != old.annotation(name);
    if annotation("seccomp.security.alpha.kubernetes.io/pod") {
        return true;
    }
    let changed = |new: &Value, old: &Value| {
        let name = new["name"].as_str().unwrap_or("");
        new["image"] != old["image"]
            || annotation(&format!("container.seccomp.security.alpha.kubernetes.io/{name}"))
    };
    for list in ["containers", "initContainers"] {
        let (new, old) = (new.list_at(&["spec", list]), old.list_at(&["spec", list]));
        if new.len() != old.len() || new.iter().zip(old).any(|(n, o)| changed(n, o)) {
            return true;
        }
    }
    let before = old.list_at(&["spec", "ephemeralContainers"]);
    new.list_at(&["spec", "ephemeralContainers"])
        .iter()
        .any(|n| before.iter().find(|o| o["name"] == n["name"]).is_none_or(|o| changed(n, o)))
}

fn runtime_class(template: Template<'_>) -> &str {
    template.0["runtimeClassName"].as_str().unwrap_or("")
}

/// A pod or a pod template to judge, and what holds for it.
struct Case<'a> {
    template: Template<'a>,
    policy: Policy,
    /// What is wrong with the namespace's labels.
    unreadable: String,
    /// Whether it is a pod: templates are warned of, and their pods refused.
    enforced: bool,
}

/// What there is to do.
enum Found<'a> {
    Nothing,
    /// Somebody or something is let through unseen.
    Exempt(&'static str),
    Case(Case<'a>),
}

/// For the client, and for the audit trail.
#[derive(Default)]
struct Told {
    warnings: Vec<String>,
    annotations: Vec<(&'static str, String)>,
}

impl PodSecurity {
    /// The plugin without a configuration: what labels do not ask for is not looked at.
    pub fn new(cluster: Arc<dyn ClusterView>) -> Self {
        Self { cluster, defaults: Policy::default(), exempt: Exemptions::default() }
    }

    /// With a `PodSecurityConfiguration`.
    pub fn from_config(cluster: Arc<dyn ClusterView>, config: Option<&Value>) -> Result<Self, ConfigError> {
        let (defaults, exempt) = policy::configuration(config)?;
        Ok(Self { cluster, defaults, exempt })
    }

    /// The object as a case, where there is something to judge.
    async fn case<'a>(&self, a: &Attributes<'_>, object: &'a Object) -> StatusResult<Found<'a>> {
        let is_pod = a.gvr.group.is_empty() && a.gvr.resource == "pods";
        let template = if is_pod {
            let unchanged =
                a.operation == Operation::Update && a.old.is_some_and(|old| !is_significant(object, old));
            if HARMLESS.contains(&a.subresource) || unchanged {
                return Ok(Found::Nothing);
            }
            object.at(&["spec"]).map(|spec| (spec, object.at(&["metadata"])))
        } else {
            template(a, object)
        };
        let Some(template) = template else { return Ok(Found::Nothing) };
        let exemptions = [
            (self.exempt.has_namespace(a.namespace), "namespace"),
            (self.exempt.has_user(&a.user.name), "user"),
            (self.exempt.has_runtime_class(runtime_class(template)), "runtimeClass"),
        ];
        if let Some((_, why)) = exemptions.into_iter().find(|(exempt, _)| *exempt) {
            return Ok(Found::Exempt(why));
        }
        let found = match self.cluster.get(Resource::NAMESPACES, "", a.namespace) {
            Some(namespace) => Some(namespace),
            None => self.cluster.get_live(Resource::NAMESPACES, "", a.namespace).await?,
        };
        let Some(namespace) = found else {
            return Err(StatusError::internal(format!("failed to lookup namespace {:?}", a.namespace)));
        };
        let (policy, errors) = self.defaults.of(&namespace);
        let unreadable = if errors.is_empty() { String::new() } else { aggregate(&errors) };
        Ok(Found::Case(Case { template, policy, unreadable, enforced: is_pod }))
    }

    /// What is said of the pods that a namespace has, when its labels become stricter.
    fn warn_of_pods(&self, name: &str, new: LevelVersion) -> Vec<String> {
        let pods = self.cluster.list(Resource::PODS, name);
        // By what they break: the first of the pods, and how many there are.
        let mut by_reason: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for pod in pods.iter().take(MOST_PODS) {
            let Some(spec) = pod.at(&["spec"]) else { continue };
            let template = (spec, pod.at(&["metadata"]));
            if self.exempt.has_runtime_class(runtime_class(template)) {
                continue;
            }
            let reasons: Vec<String> = violations(new, template).into_iter().map(|v| v.reason).collect();
            if reasons.is_empty() {
                continue;
            }
            let entry = by_reason.entry(reasons.join(", ")).or_insert_with(|| (pod.name().to_owned(), 0));
            entry.1 += 1;
            if pod.name() < entry.0.as_str() {
                entry.0 = pod.name().to_owned();
            }
        }
        let mut warnings = Vec::new();
        if pods.len() > MOST_PODS {
            warnings.push(format!(
                "new PodSecurity enforce level only checked against the first {MOST_PODS} of {} existing pods",
                pods.len()
            ));
        }
        if !by_reason.is_empty() {
            warnings.push(format!(
                "existing pods in namespace {name:?} violate the new PodSecurity enforce level {:?}",
                new.to_string()
            ));
        }
        let mut told: Vec<String> = by_reason
            .into_iter()
            .map(|(reason, (pod, count))| match count {
                1 => format!("{pod}: {reason}"),
                2 => format!("{pod} (and 1 other pod): {reason}"),
                many => format!("{pod} (and {} other pods): {reason}", many - 1),
            })
            .collect();
        told.sort();
        warnings.extend(told);
        warnings
    }

    /// Labels that say nothing sensible are not taken; those that were there may stay.
    fn namespace(&self, a: &Attributes<'_>, new: &Object) -> StatusResult<Vec<String>> {
        let (policy, errors) = self.defaults.of(new);
        let (before, known) = match a.old {
            Some(old) => self.defaults.of(old),
            None => (policy, Vec::new()),
        };
        if !errors.is_empty() && errors != known {
            return Err(StatusError::invalid(a.gvk, new.name(), &errors));
        }
        let (new_level, old_level) = (policy.enforce, before.enforce);
        let relaxed = new_level.version == old_level.version && new_level.level <= old_level.level;
        if relaxed || new_level.level == Level::Privileged || self.exempt.has_namespace(new.name()) {
            return Ok(Vec::new());
        }
        Ok(self.warn_of_pods(new.name(), new_level))
    }
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        let told = {
            let Some(object) = a.object() else { return Ok(()) };
            if a.is("", "namespaces") {
                Told { warnings: self.namespace(a, object)?, ..Told::default() }
            } else {
                match self.case(a, object).await? {
                    Found::Case(case) => case.told(),
                    Found::Exempt(why) => {
                        Told { annotations: vec![(EXEMPT, why.to_owned())], ..Told::default() }
                    }
                    Found::Nothing => Told::default(),
                }
            }
        };
        a.warnings.extend(told.warnings);
        a.annotations.extend(told.annotations.into_iter().map(|(key, value)| (key.into(), value)));
        Ok(())
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        let Some(object) = a.object() else { return Ok(()) };
        if a.is("", "namespaces") {
            return self.namespace(a, object).map(drop);
        }
        let case = match self.case(a, object).await? {
            Found::Case(case) if case.enforced => case,
            _ => return Ok(()),
        };
        match broken(case.policy.enforce, case.template) {
            Some(why) => {
                let level = case.policy.enforce.to_string();
                Err(a.forbidden(format!("violates PodSecurity {level:?}: {why}")))
            }
            None => Ok(()),
        }
    }
}

impl Case<'_> {
    fn told(&self) -> Told {
        let mut told = Told::default();
        let would = |of: LevelVersion| {
            broken(of, self.template)
                .map(|why| format!("would violate PodSecurity {:?}: {why}", of.to_string()))
        };
        if !self.unreadable.is_empty() {
            told.annotations.push((UNREADABLE, format!("Failed to parse policy: {}", self.unreadable)));
        }
        let mut refused = false;
        if self.enforced {
            told.annotations.push((ENFORCED, self.policy.enforce.to_string()));
            refused = broken(self.policy.enforce, self.template).is_some();
        }
        told.annotations.extend(would(self.policy.audit).map(|why| (VIOLATES, why)));
        // A refusal already says it all.
        if !refused {
            told.warnings.extend(would(self.policy.warn));
        }
        told
    }
}

#[cfg(test)]
mod tests;
