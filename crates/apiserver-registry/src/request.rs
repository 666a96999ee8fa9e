//! What a caller of the store says besides the object.
use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::kinds::Kind;
use machinery::request::UserInfo;

/// The facts of one write.
pub struct Write<'a> {
    /// Row of the kind, in the version of the request.
    pub kind: &'a Arc<Kind>,
    /// Empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// Name in the path; empty for create.
    pub name: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Who writes.
    pub user: &'a UserInfo,
    /// The field manager; empty: who owns which field is left as it is.
    pub manager: String,
    /// Everything but storing it.
    pub dry_run: bool,
    /// What the writer should know.
    pub warnings: &'a Warnings,
}

/// Warnings for the client, collected on the way; they reach it whatever becomes of the request.
#[derive(Debug, Default)]
pub struct Warnings(Notes);

/// What is found on the way, for the audit trail and for the client; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Notes(Arc<Mutex<Found>>);

#[derive(Debug, Default)]
struct Found {
    facts: Vec<(Cow<'static, str>, String)>,
    warnings: Vec<String>,
}

impl Notes {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds facts for the audit trail.
    pub fn add(&self, facts: impl IntoIterator<Item = (Cow<'static, str>, String)>) {
        self.found().facts.extend(facts);
    }

    /// All facts so far.
    pub fn take(&self) -> Vec<(Cow<'static, str>, String)> {
        std::mem::take(&mut self.found().facts)
    }

    /// All warnings so far.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.found().warnings)
    }
}

impl Warnings {
    /// Those among what is found on the way of a request.
    pub fn beside(notes: &Notes) -> Self {
        Self(notes.clone())
    }

    /// Where facts for the audit trail go.
    pub fn notes(&self) -> &Notes {
        &self.0
    }

    /// Adds one, unless it is there.
    pub fn add(&self, text: impl Into<String>) {
        let text = text.into();
        let mut found = self.0.found();
        if !found.warnings.contains(&text) {
            found.warnings.push(text);
        }
    }
}

/// `DeleteOptions`, decoded.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`.
    pub grace: Option<i64>,
    /// `preconditions.uid`.
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub resource_version: Option<String>,
    /// `propagationPolicy` or what `orphanDependents` means.
    pub propagation: Option<Propagation>,
    /// `ignoreStoreReadErrorWithClusterBreakingPotential`: what cannot be read goes unread, and nothing that hangs on
    /// it is told.
    pub ignore_read_error: bool,
}

/// `propagationPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// The object goes, the garbage collector deletes its dependents.
    Background,
    /// Dependents first.
    Foreground,
    /// Dependents stay.
    Orphan,
}
