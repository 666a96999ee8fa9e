//! Server-side apply.
use std::borrow::Cow;
use std::collections::BTreeMap;

use super::compare::compare;
use super::element::Element;
use super::extract::{extract, problems};
use super::managed::{Entry, Managed, Operation};
use super::merge::merge;
use super::remove::{reconcile, remove, with_structs};
use super::schema::Typed;
use super::scope::{Scope, Versions, strip};
use super::set::FieldSet;
use super::update::{difference, put};
use crate::gvk::GroupVersionKind;
use crate::{Object, StatusError};

/// The annotation of client-side apply.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager that takes over from client-side apply.
const KUBECTL: &str = "kubectl";
/// Who owns what was there before owners were tracked.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// A field that somebody else owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Who.
    pub manager: String,
    /// How the owner shows: `"kubectl" using apps/v1`.
    shown: String,
    path: Vec<Element>,
}

impl Conflict {
    /// The field, for example `.spec.replicas`.
    pub fn field(&self) -> String {
        self.path.iter().map(ToString::to_string).collect()
    }
}

/// Why a configuration was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own some of its fields, and have them otherwise.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The request cannot be meant so.
    #[error("{0}")]
    BadRequest(String),
    /// It does not fit the schema.
    #[error("{0}")]
    Untyped(String),
}

impl From<ApplyError> for StatusError {
    fn from(e: ApplyError) -> Self {
        let message = e.to_string();
        match e {
            ApplyError::BadRequest(_) => Self::bad_request(message),
            ApplyError::Untyped(_) => Self::new(500, "", message),
            ApplyError::Conflicts(conflicts) => {
                let mut error = Self::new(409, "Conflict", message);
                for conflict in conflicts {
                    let message = format!("conflict with {}", conflict.shown);
                    error = error.with_cause("FieldManagerConflict", &conflict.field(), message);
                }
                error
            }
        }
    }
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.shown, one.field());
    }
    let mut by_manager: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for conflict in conflicts {
        by_manager.entry(&conflict.shown).or_default().push(format!("- {}", conflict.field()));
    }
    let managers: Vec<String> = by_manager
        .into_iter()
        .map(|(manager, fields)| format!("conflicts with {manager}:\n{}", fields.join("\n")))
        .collect();
    format!("Apply failed with {} conflicts: {}", conflicts.len(), managers.join("\n"))
}

/// Whether a configuration may be applied: it says nothing of managedFields and fits its schema.
pub fn fits(ty: Typed<'_>, config: &Object) -> Result<(), ApplyError> {
    if config.at(&["metadata", "managedFields"]).is_some_and(|m| !m.is_null()) {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    let found = problems(ty, &config.0);
    if !found.is_empty() {
        let list = match found.as_slice() {
            [one] => one.clone(),
            all => format!("errors:\n  {}", all.join("\n  ")),
        };
        let gvk = GroupVersionKind::from_api_version(config.api_version(), config.kind());
        return Err(ApplyError::Untyped(format!(
            "failed to create typed patch object ({}/{}; {}/{}, Kind={}): {list}",
            config.namespace(),
            config.name(),
            gvk.group,
            gvk.version,
            gvk.kind
        )));
    }
    Ok(())
}

/// Applies a configuration that [`fits`], in the version of the request to an object in the version that is stored (`live`; without
/// metadata where there is none yet). Gives the object in the version of the request.
pub fn apply(
    versions: &dyn Versions,
    scope: &Scope<'_>,
    live: &Object,
    config: &Object,
    force: bool,
) -> Result<Object, ApplyError> {
    let Some(ty) = versions.typed(scope.api_version) else {
        return Err(ApplyError::BadRequest(format!("there is no version {}", scope.api_version)));
    };
    let managed = Managed::decode(live.at(&["metadata", "managedFields"]))
        .map_err(|e| ApplyError::Untyped(format!("failed to decode managed fields: {e}")))?;
    let mut bare = live.clone();
    put(&mut bare, None);
    let attempt = Attempt { versions, scope, ty, live: &bare, config };
    let managed = attempt.tracked(managed);
    let applied = match attempt.run(managed.clone(), force) {
        Err(ApplyError::Conflicts(conflicts)) if scope.manager() == KUBECTL => {
            let left = attempt.without_client_side(conflicts);
            if !left.is_empty() {
                return Err(ApplyError::Conflicts(left));
            }
            attempt.run(managed, true)
        }
        other => other,
    };
    let mut applied = applied?;
    if scope.manager() == KUBECTL && applied.annotation(LAST_APPLIED).is_some_and(|a| !a.is_empty()) {
        applied.set(&["metadata", "annotations", LAST_APPLIED], last_applied(config));
    }
    Ok(applied)
}

/// What client-side apply would note of a configuration.
fn last_applied(config: &Object) -> String {
    let mut config = config.clone();
    config.remove(&["metadata", "annotations", LAST_APPLIED]);
    format!("{}\n", config.into_value())
}

struct Attempt<'a> {
    versions: &'a dyn Versions,
    scope: &'a Scope<'a>,
    ty: Typed<'a>,
    /// In the version that is stored, without managedFields.
    live: &'a Object,
    config: &'a Object,
}

impl Attempt<'_> {
    /// Where owners are not tracked yet, one owns all there is.
    fn tracked(&self, mut managed: Managed) -> Managed {
        if managed.0.is_empty() {
            let empty = Object::default();
            let diff = difference(self.versions, self.scope, &empty, self.live, self.scope.api_version);
            managed.0.push(Entry {
                manager: BEFORE_FIRST_APPLY.to_owned(),
                operation: Operation::Update,
                fields: diff.unwrap_or_default().changed,
                ..self.entry()
            });
            managed.drop_empty();
        }
        for entry in &mut managed.0 {
            if let Some(ty) = self.versions.typed(&entry.api_version) {
                reconcile(ty, &mut entry.fields);
            }
        }
        managed
    }

    fn entry(&self) -> Entry {
        Entry {
            manager: self.scope.manager().to_owned(),
            operation: Operation::Apply,
            api_version: self.scope.api_version.to_owned(),
            subresource: self.scope.subresource.to_owned(),
            time: Some(self.scope.now.to_owned()),
            fields: FieldSet::default(),
        }
    }

    fn run(&self, mut managed: Managed, force: bool) -> Result<Object, ApplyError> {
        let mut own = self.entry();
        own.fields = extract(self.ty, &self.config.0);
        self.scope.reset.filter(&mut own.fields);
        let last = managed.take(&own);
        let live = self.versions.convert(self.live, self.scope.api_version);
        let merged = Object(merge(self.ty, &live.0, &self.config.0));
        let mut new = match &last {
            Some(last) => self.prune(merged, last, &own, &managed),
            None => merged,
        };

        let mut conflicts = Vec::new();
        let (before, after) = (self.live, &new);
        managed.0.retain_mut(|entry| {
            let diff = difference(self.versions, self.scope, before, after, &entry.api_version);
            let Some(diff) = diff else { return false };
            let taken = entry.fields.intersection(&diff.changed);
            taken.each(&mut |path| conflicts.push(conflict(entry, path)));
            entry.fields.subtract(&taken);
            entry.fields.subtract(&diff.removed);
            !entry.fields.is_empty()
        });
        if !force && !conflicts.is_empty() {
            conflicts.sort_by(|a: &Conflict, b| a.shown.cmp(&b.shown));
            return Err(ApplyError::Conflicts(conflicts));
        }

        strip(&mut own.fields);
        // What did not change keeps its time, so that applying again changes nothing.
        if let Some(last) = last
            && last.fields == own.fields
            && last.api_version == own.api_version
            && *live == new
        {
            own.time = last.time;
        }
        managed.0.push(own);
        managed.drop_empty();
        put(&mut new, managed.encode());
        Ok(new)
    }

    /// Takes out what the applier owned and does not apply any more, unless somebody else owns it too, or it holds
    /// something that stays.
    fn prune(&self, merged: Object, last: &Entry, own: &Entry, others: &Managed) -> Object {
        let versions = self.versions;
        let Some(ty) = versions.typed(&last.api_version) else { return merged };
        let merged = versions.convert(&merged, &last.api_version).into_owned();
        let last_fields = with_structs(ty, &last.fields);
        let mut pruned = Object(remove(ty, merged.0.clone(), &last_fields));

        let mut owned: BTreeMap<&str, FieldSet> = BTreeMap::new();
        for entry in others.0.iter().chain([own]) {
            owned.entry(&entry.api_version).or_default().union(entry.fields.clone());
        }
        let mut whole = merged;
        for (version, owned) in &owned {
            let Some(ty) = versions.typed(version) else { continue };
            whole = versions.convert(&whole, version).into_owned();
            pruned = versions.convert(&pruned, version).into_owned();
            let mut gone = with_structs(ty, &extract(ty, &whole.0));
            gone.subtract(&with_structs(ty, &extract(ty, &pruned.0)));
            gone.subtract(&with_structs(ty, owned));
            pruned = Object(remove(ty, whole.0.clone(), &gone));
        }

        // Only what was owned goes.
        whole = versions.convert(&whole, &last.api_version).into_owned();
        pruned = versions.convert(&pruned, &last.api_version).into_owned();
        let mut gone = with_structs(ty, &extract(ty, &whole.0));
        gone.subtract(&with_structs(ty, &extract(ty, &pruned.0)));
        let gone = gone.intersection(&last_fields);
        let pruned = Object(remove(ty, whole.0, &gone));
        versions.convert(&pruned, self.scope.api_version).into_owned()
    }

    /// The conflicts that client-side apply does not explain: a field that it set, and that is still as it set it, may
    /// be taken over.
    fn without_client_side(&self, conflicts: Vec<Conflict>) -> Vec<Conflict> {
        let Some(allowed) = self.client_side() else { return conflicts };
        conflicts.into_iter().filter(|c| !allowed.has(&c.path)).collect()
    }

    fn client_side(&self) -> Option<FieldSet> {
        let text = self.live.annotation(LAST_APPLIED)?;
        let last: Object = serde_json::from_str(text).ok()?;
        if last.api_version() != self.scope.api_version || !problems(self.ty, &last.0).is_empty() {
            return None;
        }
        let live: Cow<'_, Object> = self.versions.convert(self.live, self.scope.api_version);
        let diff = compare(self.ty, &last.0, &live.0);
        let mut set = extract(self.ty, &last.0);
        set.subtract(&diff.changed);
        set.subtract(&diff.removed);
        Some(set)
    }
}

fn conflict(entry: &Entry, path: &[&Element]) -> Conflict {
    let mut shown = format!("{:?}", entry.manager);
    if !entry.subresource.is_empty() {
        shown.push_str(&format!(" with subresource {:?}", entry.subresource));
    }
    if entry.operation == Operation::Update {
        shown.push_str(&format!(" using {}", entry.api_version));
    }
    Conflict {
        manager: entry.manager.clone(),
        shown,
        path: path.iter().map(|&element| element.clone()).collect(),
    }
}
