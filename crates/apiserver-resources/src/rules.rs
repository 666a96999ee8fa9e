//! How a resource's rules over its tree become a [`Strategy`].
use machinery::{FieldErrors, Object};
use serde_json::{Map, Value};

use crate::strategy::{Grace, Propagation, Strategy};
use crate::tree::{At, same};

/// What the shared part does for a kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// The kind has a `status` that plain writes may not touch.
    pub(crate) status: bool,
    /// The kind counts generations.
    pub(crate) generation: bool,
}

impl Facts {
    /// No status, no generation.
    pub(crate) const PLAIN: Self = Self { status: false, generation: false };
    /// Status without generation.
    pub(crate) const STATUS: Self = Self { status: true, generation: false };
    /// Generation without status.
    pub(crate) const GENERATION: Self = Self { status: false, generation: true };
    /// Both.
    pub(crate) const BOTH: Self = Self { status: true, generation: true };
}

/// Rules of one resource. [`Main`] makes them the strategy of the resource, [`OfStatus`] that of its `status`.
///
/// `ObjectMeta` is not theirs: the store checks it with [`crate::meta`].
pub(crate) trait Rules: Send + Sync + 'static {
    /// What the shared part does.
    const FACTS: Facts;

    /// Fills what the writer left out.
    fn fill_defaults(&self, _object: &mut Object) {}

    /// The `status` of a new object, whatever the writer sent.
    fn status_at_birth(&self, _object: &Object) -> Option<Value> {
        Some(Value::Object(Map::new()))
    }

    /// Runs after `status` was cleared and `generation` set.
    fn prepare_for_create(&self, _object: &mut Object) {}

    /// Runs after `status` was kept, before `generation` is raised.
    fn prepare_for_update(&self, _new: &mut Object, _old: &Object) {}

    /// Whether this change makes a new generation.
    fn changes_generation(&self, new: &Object, old: &Object) -> bool {
        differs_outside(new, old, &["metadata", "status"])
    }

    /// Every problem.
    fn validate(&self, _object: &At, _errors: &mut FieldErrors) {}

    /// Every problem of a change.
    fn validate_update(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
    }

    /// Runs on a write of `status`, after all but `metadata` and `status` was kept.
    fn prepare_for_status(&self, _new: &mut Object, _old: &Object) {}

    /// Every problem of a change of `status`.
    fn validate_status(&self, _new: &At, _old: &At, _errors: &mut FieldErrors) {}

    /// See [`Strategy::warnings`].
    fn warnings(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }

    /// The same for a write of `status`.
    fn status_warnings(&self, _new: &Object) -> Vec<String> {
        Vec::new()
    }

    /// See [`Strategy::allows_create_on_update`].
    fn allows_create_on_update(&self) -> bool {
        false
    }

    /// See [`Strategy::allows_unconditional_update`].
    fn allows_unconditional_update(&self) -> bool {
        true
    }

    /// See [`Strategy::grace`].
    fn grace(&self, _object: &Object, _requested: Option<i64>) -> Grace {
        Grace::Immediate
    }

    /// See [`Strategy::holds_deletion`].
    fn holds_deletion(&self, _object: &Object) -> bool {
        false
    }

    /// See [`Strategy::begin_deletion`].
    fn begin_deletion(&self, _object: &mut Object) {}

    /// See [`Strategy::default_propagation`].
    fn default_propagation(&self) -> Propagation {
        Propagation::Background
    }

    /// See [`Strategy::selectable_fields`].
    fn selectable_fields(&self, _object: &Object) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// Whether two objects differ in any top-level field but these.
pub(crate) fn differs_outside(new: &Object, old: &Object, ignored: &[&str]) -> bool {
    let counts = |key: &&String| !ignored.contains(&key.as_str()) && *key != "apiVersion" && *key != "kind";
    new.0.keys().chain(old.0.keys()).filter(counts).any(|key| !same(new.0.get(key), old.0.get(key)))
}

/// The strategy of a resource.
pub(crate) struct Main<R>(pub(crate) R);

impl<R: Rules> Strategy for Main<R> {
    fn fill_defaults(&self, object: &mut Object) {
        self.0.fill_defaults(object);
    }

    fn admit_create(&self, object: &mut Object) -> FieldErrors {
        if R::FACTS.status {
            match self.0.status_at_birth(object) {
                Some(status) => object.set(&["status"], status),
                None => {
                    object.remove(&["status"]);
                }
            }
        }
        if R::FACTS.generation {
            object.set(&["metadata", "generation"], 1);
        } else {
            object.remove(&["metadata", "generation"]);
        }
        self.0.prepare_for_create(object);
        let mut errors = FieldErrors::new();
        self.0.validate(&At::object(object), &mut errors);
        errors
    }

    fn admit_update(&self, new: &mut Object, old: &Object) -> FieldErrors {
        if R::FACTS.status {
            new.copy_from(old, &["status"]);
        }
        new.copy_from(old, &["metadata", "generation"]);
        self.0.prepare_for_update(new, old);
        if R::FACTS.generation && self.0.changes_generation(new, old) {
            new.set(&["metadata", "generation"], old.generation().unwrap_or(0) + 1);
        }
        let mut errors = FieldErrors::new();
        self.0.validate_update(&At::object(new), &At::object(old), &mut errors);
        errors
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        self.0.warnings(new, old)
    }

    fn allows_create_on_update(&self) -> bool {
        self.0.allows_create_on_update()
    }

    fn allows_unconditional_update(&self) -> bool {
        self.0.allows_unconditional_update()
    }

    fn grace(&self, object: &Object, requested: Option<i64>) -> Grace {
        self.0.grace(object, requested)
    }

    fn holds_deletion(&self, object: &Object) -> bool {
        self.0.holds_deletion(object)
    }

    fn begin_deletion(&self, object: &mut Object) {
        self.0.begin_deletion(object);
    }

    fn default_propagation(&self) -> Propagation {
        self.0.default_propagation()
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        self.0.selectable_fields(object)
    }
}

/// Keeps all of the old object but `metadata` and one field, which come from the new one.
pub(crate) fn keep_all_but(field: &str, new: &mut Object, old: &Object) {
    let mut kept = old.clone();
    kept.copy_from(new, &["metadata"]);
    kept.copy_from(old, &["metadata", "generation"]);
    kept.copy_from(new, &[field]);
    *new = kept;
}

/// The strategy of a resource's `status`.
pub(crate) struct OfStatus<R>(pub(crate) R);

impl<R: Rules> Strategy for OfStatus<R> {
    fn fill_defaults(&self, object: &mut Object) {
        self.0.fill_defaults(object);
    }

    fn admit_create(&self, _object: &mut Object) -> FieldErrors {
        FieldErrors::new()
    }

    fn admit_update(&self, new: &mut Object, old: &Object) -> FieldErrors {
        keep_all_but("status", new, old);
        self.0.prepare_for_status(new, old);
        let mut errors = FieldErrors::new();
        self.0.validate_status(&At::object(new), &At::object(old), &mut errors);
        errors
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        self.0.status_warnings(new)
    }

    fn holds_deletion(&self, object: &Object) -> bool {
        self.0.holds_deletion(object)
    }

    fn allows_unconditional_update(&self) -> bool {
        self.0.allows_unconditional_update()
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        self.0.selectable_fields(object)
    }
}
