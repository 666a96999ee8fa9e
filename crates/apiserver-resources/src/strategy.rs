//! The trait that the generic store drives, and its implementation for kinds without rules of their own.
use machinery::{FieldErrors, Object};

/// How long a deletion may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grace {
    /// Deleted at once.
    Immediate,
    /// Marked as terminating for this many seconds; another part deletes it.
    Seconds(i64),
}

/// What happens to dependents when the request does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// The garbage collector deletes them afterwards.
    Background,
    /// They lose their owner reference.
    Orphan,
}

/// Rules of one resource (or of one of its subresources, such as `status`), over objects as trees.
///
/// Order on create: `fill_defaults`, mutating admission, `fill_defaults`, [`Strategy::admit_create`], validating
/// admission, storage. Order on update: `fill_defaults`, mutating admission, `fill_defaults`,
/// [`Strategy::admit_update`], validating admission, storage. Only these three may change the object.
/// The store itself owns `metadata.{uid,creationTimestamp,deletionTimestamp,resourceVersion,managedFields}` and the
/// rules of `ObjectMeta` that all kinds share.
pub trait Strategy: Send + Sync + 'static {
    /// Fills what the writer left out; touches only what is empty. Idempotent.
    fn fill_defaults(&self, object: &mut Object);
    /// Clears what a writer may not set (`status`), sets `generation`, then finds every problem.
    fn admit_create(&self, object: &mut Object) -> FieldErrors;
    /// Keeps what this write may not change, raises `generation`, then finds every problem.
    fn admit_update(&self, new: &mut Object, old: &Object) -> FieldErrors;
    /// Warnings for the writer; `old` on update.
    fn warnings(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }
    /// Whether PUT of an absent object creates it.
    fn allows_create_on_update(&self) -> bool {
        false
    }
    /// Whether PUT without `resourceVersion` is taken.
    fn allows_unconditional_update(&self) -> bool {
        true
    }
    /// How long deletion takes, from the request's `gracePeriodSeconds`.
    fn grace(&self, _object: &Object, _requested: Option<i64>) -> Grace {
        Grace::Immediate
    }
    /// Whether the object itself holds its deletion, beyond `metadata.finalizers` (a namespace that is not empty yet).
    fn holds_deletion(&self, _object: &Object) -> bool {
        false
    }
    /// Shows in the object, beyond `metadata`, that its deletion has begun.
    fn begin_deletion(&self, _object: &mut Object) {}
    /// What happens to dependents when the request does not say.
    fn default_propagation(&self) -> Propagation {
        Propagation::Background
    }
    /// Selectable fields beyond `metadata.name` and `metadata.namespace`: always the same names in the same order.
    fn selectable_fields(&self, _object: &Object) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// Rules for kinds without rules of their own: `status` belongs to the status subresource, `generation` follows `spec`.
#[derive(Debug, Clone, Copy)]
pub struct Generic {
    /// The kind has a `status` subresource, so a plain write may not touch `status`.
    pub has_status: bool,
    /// The kind counts generations.
    pub has_generation: bool,
    /// These are the rules of the `status` subresource itself.
    pub is_status: bool,
}

impl Strategy for Generic {
    fn fill_defaults(&self, _object: &mut Object) {}

    fn admit_create(&self, object: &mut Object) -> FieldErrors {
        if self.has_status {
            object.remove(&["status"]);
        }
        if self.has_generation {
            object.set(&["metadata", "generation"], 1);
        } else {
            object.remove(&["metadata", "generation"]);
        }
        Vec::new()
    }

    fn admit_update(&self, new: &mut Object, old: &Object) -> FieldErrors {
        if self.is_status {
            let status = new.at(&["status"]).cloned();
            let metadata = new.at(&["metadata"]).cloned();
            *new = old.clone();
            if let Some(metadata) = metadata {
                new.set(&["metadata"], metadata);
            }
            new.copy_from(old, &["metadata", "generation"]);
            match status {
                Some(status) => new.set(&["status"], status),
                None => {
                    new.remove(&["status"]);
                }
            }
            return Vec::new();
        }
        if self.has_status {
            new.copy_from(old, &["status"]);
        }
        new.copy_from(old, &["metadata", "generation"]);
        if self.has_generation && new.at(&["spec"]) != old.at(&["spec"]) {
            new.set(&["metadata", "generation"], old.generation().unwrap_or(0) + 1);
        }
        Vec::new()
    }
}
