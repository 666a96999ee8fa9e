//! What a caller of the store says besides the object.
use std::borrow::Cow;
use std::sync::{Arc, Mutex};

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

/// Warnings for the client, collected on the way.
#[derive(Debug, Default)]
pub struct Warnings {
    texts: Mutex<Vec<String>>,
    notes: Notes,
}

/// Facts for the audit trail that are found on the way; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Notes(Arc<Mutex<Vec<(Cow<'static, str>, String)>>>);

impl Notes {
    /// Adds some.
    pub fn add(&self, facts: impl IntoIterator<Item = (Cow<'static, str>, String)>) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).extend(facts);
    }

    /// All so far.
    pub fn take(&self) -> Vec<(Cow<'static, str>, String)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

impl Warnings {
    /// None yet; what is found for the audit trail goes to `notes`.
    pub fn beside(notes: &Notes) -> Self {
        Self { texts: Mutex::default(), notes: notes.clone() }
    }

    /// Where facts for the audit trail go.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Adds one, unless it is there.
    pub fn add(&self, text: impl Into<String>) {
        let text = text.into();
        let mut all = self.texts.lock().unwrap_or_else(|e| e.into_inner());
        if !all.contains(&text) {
            all.push(text);
        }
    }

    /// All so far.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.texts.lock().unwrap_or_else(|e| e.into_inner()))
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
