//! `PodSecurity`: the Pod Security Standards, as labels of the namespace ask for them.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::{Object, StatusResult};
use serde_json::Value;

use crate::{Attributes, ClusterView, Operation, Plugin, Resource};

mod baseline;
mod restricted;
mod spec;

use spec::PodSpec;

/// The plugin.
pub struct PodSecurity(pub Arc<dyn ClusterView>);

/// How much a pod may do to its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
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

/// A level and its version, as a label of the namespace names them; `None` where nothing is asked for.
fn asked(namespace: &Object, mode: &str) -> Option<(Level, String)> {
    let level = match namespace.label(&format!("pod-security.kubernetes.io/{mode}"))? {
        "privileged" => Level::Privileged,
        "baseline" => Level::Baseline,
        // A level that cannot be read must not let anything through.
        _ => Level::Restricted,
    };
    let version = namespace.label(&format!("pod-security.kubernetes.io/{mode}-version")).unwrap_or("latest");
    let name = match level {
        Level::Privileged => return None,
        Level::Baseline => "baseline",
        Level::Restricted => "restricted",
    };
    Some((level, format!("{name}:{version}")))
}

/// What a pod breaks of a level, as one text.
fn broken(level: Level, spec: &PodSpec<'_>) -> Option<String> {
    let mut checks: Vec<Check> = baseline::ALWAYS.to_vec();
    if level == Level::Restricted {
        checks.extend(restricted::CHECKS);
    } else {
        checks.extend(baseline::UNLESS_RESTRICTED);
    }
    let texts: Vec<String> = checks
        .iter()
        .filter_map(|check| check(spec))
        .map(|v| format!("{} ({})", v.reason, v.detail))
        .collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// The pod template of a workload.
fn template<'a>(a: &Attributes<'_>, object: &'a Object) -> Option<(&'a Value, Option<&'a Value>)> {
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

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        let warning = {
            let Some(object) = a.object() else { return Ok(()) };
            let pod = (a.is("", "pods") && a.operation == Operation::Create)
                .then(|| object.at(&["spec"]).map(|spec| (spec, object.at(&["metadata"]))))
                .flatten();
            let Some((spec, metadata)) = pod.or_else(|| template(a, object)) else { return Ok(()) };
            let Some(namespace) = self.0.get(Resource::NAMESPACES, "", a.namespace) else { return Ok(()) };
            let warned = asked(&namespace, "warn");
            // A refusal already says it all.
            let enforced = asked(&namespace, "enforce").filter(|_| a.is("", "pods"));
            let spec = PodSpec { spec, metadata };
            match (warned, enforced) {
                (_, Some((level, _))) if broken(level, &spec).is_some() => None,
                (Some((level, shown)), _) => {
                    broken(level, &spec).map(|why| format!("would violate PodSecurity {shown:?}: {why}"))
                }
                _ => None,
            }
        };
        a.warnings.extend(warning);
        Ok(())
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        let Some(pod) = a.object() else { return Ok(()) };
        // Of a pod that is there, only ephemeral containers can change what it may do.
        let judged = match a.operation {
            Operation::Create => a.is("", "pods"),
            _ => a.is_sub("", "pods", "ephemeralcontainers"),
        };
        if !judged {
            return Ok(());
        }
        let namespace = match self.0.get(Resource::NAMESPACES, "", a.namespace) {
            Some(namespace) => Some(namespace),
            None => self.0.get_live(Resource::NAMESPACES, "", a.namespace).await?,
        };
        let Some((level, shown)) = namespace.and_then(|n| asked(&n, "enforce")) else { return Ok(()) };
        let Some(spec) = pod.at(&["spec"]) else { return Ok(()) };
        match broken(level, &PodSpec { spec, metadata: pod.at(&["metadata"]) }) {
            Some(why) => Err(a.forbidden(format!("violates PodSecurity {shown:?}: {why}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
