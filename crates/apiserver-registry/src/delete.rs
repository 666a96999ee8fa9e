//! Deletion: preconditions, grace, finalizers. Upstream: apiserver/pkg/registry/rest/delete.go and
//! apiserver/pkg/registry/generic/registry/store.go, 1.36.
use apiserver_resources::{Grace, Propagation as DefaultPropagation, Strategy};
use jiff::{SignedDuration, Timestamp};
use machinery::gvk::GroupResource;
use machinery::{Object, StatusError, StatusResult};
use serde_json::Value;

use crate::request::{DeleteOptions, Propagation};

/// Finalizer that makes the garbage collector orphan dependents.
pub const ORPHAN: &str = "orphan";
/// Finalizer that makes the garbage collector delete dependents first.
pub const FOREGROUND: &str = "foregroundDeletion";

/// What a deletion request does to an object.
#[derive(Debug, PartialEq)]
pub enum Plan {
    /// Removes it.
    Remove,
    /// Stores this terminating form; someone else finishes.
    Mark(Box<Object>),
    /// It is terminating already; nothing changes.
    Nothing,
}

/// Checks the preconditions of a deletion. `kind` is what upstream calls the resource here: group and kind.
pub fn preconditions(object: &Object, options: &DeleteOptions, kind: &GroupResource) -> StatusResult<()> {
    let name = object.name();
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != object.uid()) {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            object.uid()
        );
        return Err(StatusError::conflict(kind, name, &why));
    }
    if let Some(version) = options.resource_version.as_deref().filter(|v| *v != object.resource_version()) {
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
            object.resource_version()
        );
        return Err(StatusError::conflict(kind, name, &why));
    }
    Ok(())
}

/// Decides what a deletion does.
pub fn plan(object: &Object, options: &DeleteOptions, strategy: &dyn Strategy, now: Timestamp) -> Plan {
    let grace = strategy.grace(object, options.grace);
    let finalizers = finalizers_after(object, options, strategy);
    let held = !finalizers.is_empty() || strategy.holds_deletion(object);
    let finalizers_changed = finalizers.len() != object.finalizers().count()
        || object.finalizers().zip(&finalizers).any(|(a, b)| a != b);

    if object.is_deleting() {
        let old = object.deletion_grace_period_seconds().unwrap_or(0);
        let until = object.deletion_timestamp().parse::<Timestamp>().unwrap_or(now);
        if old > 0 {
            // Only less time than before may be asked for.
            let asked = options.grace.map(|seconds| if seconds < 0 { 1 } else { seconds });
            let Some(asked) = asked.filter(|seconds| *seconds < old) else { return Plan::Nothing };
            if asked == 0 && !held {
                return Plan::Remove;
            }
            let until = until - SignedDuration::from_secs(old - asked);
            // What is over already leaves others a moment to see it.
            let (until, asked) = if until < now { (now, asked.min(1)) } else { (until, asked) };
            let mut marked = object.clone();
            mark(&mut marked, until, asked, &finalizers);
            return Plan::Mark(Box::new(marked));
        }
        if !held {
            return Plan::Remove;
        }
        if !finalizers_changed && object.deletion_grace_period_seconds() == Some(0) {
            return Plan::Nothing;
        }
        let mut marked = object.clone();
        mark(&mut marked, until, 0, &finalizers);
        return Plan::Mark(Box::new(marked));
    }

    let seconds = match grace {
        Grace::Immediate => 0,
        Grace::Seconds(s) => s.max(0),
    };
    if seconds == 0 && !held {
        return Plan::Remove;
    }
    let mut marked = object.clone();
    mark(&mut marked, now + SignedDuration::from_secs(seconds), seconds, &finalizers);
    strategy.begin_deletion(&mut marked);
    // Terminating is a change of what is wanted, so kinds that count generations count it.
    if let Some(generation) = object.generation() {
        marked.set(&["metadata", "generation"], generation + 1);
    }
    Plan::Mark(Box::new(marked))
}

fn mark(object: &mut Object, until: Timestamp, grace: i64, finalizers: &[String]) {
    object.set(&["metadata", "deletionTimestamp"], timestamp(until));
    object.set(&["metadata", "deletionGracePeriodSeconds"], grace);
    if finalizers.is_empty() {
        object.remove(&["metadata", "finalizers"]);
    } else {
        let list: Vec<Value> = finalizers.iter().map(|f| f.as_str().into()).collect();
        object.set(&["metadata", "finalizers"], list);
    }
}

/// Whole seconds in UTC, as `metav1.Time` prints.
pub fn timestamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The finalizers after the garbage collector's own were set by the propagation policy.
fn finalizers_after(object: &Object, options: &DeleteOptions, strategy: &dyn Strategy) -> Vec<String> {
    let has = |name: &str| object.finalizers().any(|f| f == name);
    let (orphan, foreground) = match options.propagation {
        Some(Propagation::Orphan) => (true, false),
        Some(Propagation::Foreground) => (false, true),
        Some(Propagation::Background) => (false, false),
        None if has(ORPHAN) || has(FOREGROUND) => (has(ORPHAN), has(FOREGROUND)),
        None => (strategy.default_propagation() == DefaultPropagation::Orphan, false),
    };
    let mut out: Vec<String> =
        object.finalizers().filter(|&f| f != ORPHAN && f != FOREGROUND).map(str::to_owned).collect();
    if orphan {
        out.push(ORPHAN.into());
    }
    if foreground {
        out.push(FOREGROUND.into());
    }
    out
}

/// Whether an update of a terminating object took away the last thing that held it.
pub fn finished(new: &Object, old: &Object, strategy: &dyn Strategy) -> bool {
    let held = |o: &Object| o.finalizers().next().is_some() || strategy.holds_deletion(o);
    new.is_deleting() && held(old) && !held(new) && new.deletion_grace_period_seconds().unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use apiserver_resources::Generic;
    use serde_json::json;

    use super::*;

    const PLAIN: Generic = Generic { has_status: false, has_generation: false, is_status: false };

    fn object(metadata: Value) -> Object {
        Object::from_value(json!({ "metadata": metadata })).unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn without_finalizers_it_goes_at_once() {
        assert_eq!(
            plan(&object(json!({"name": "a"})), &DeleteOptions::default(), &PLAIN, now()),
            Plan::Remove
        );
    }

    #[test]
    fn a_finalizer_makes_it_terminate() {
        let o = object(json!({"name": "a", "finalizers": ["x/y"]}));
        let Plan::Mark(marked) = plan(&o, &DeleteOptions::default(), &PLAIN, now()) else { panic!() };
        assert_eq!(marked.deletion_timestamp(), "2026-01-01T00:00:00Z");
        assert_eq!(marked.deletion_grace_period_seconds(), Some(0));
        assert_eq!(plan(&marked, &DeleteOptions::default(), &PLAIN, now()), Plan::Nothing);
        assert!(!finished(&marked, &marked, &PLAIN));
        let mut free = (*marked).clone();
        free.remove(&["metadata", "finalizers"]);
        assert!(finished(&free, &marked, &PLAIN));
    }

    #[test]
    fn foreground_adds_its_finalizer() {
        let options = DeleteOptions { propagation: Some(Propagation::Foreground), ..Default::default() };
        let Plan::Mark(marked) = plan(&object(json!({"name": "a"})), &options, &PLAIN, now()) else {
            panic!()
        };
        assert_eq!(marked.finalizers().collect::<Vec<_>>(), [FOREGROUND]);
    }

    #[test]
    fn time_only_gets_less() {
        let terminating = |seconds: i64| {
            let left = timestamp(now() + SignedDuration::from_secs(seconds));
            object(json!({"name": "a", "deletionTimestamp": left, "deletionGracePeriodSeconds": 30}))
        };
        let asked = |seconds: Option<i64>, left: i64| {
            let options = DeleteOptions { grace: seconds, ..DeleteOptions::default() };
            match plan(&terminating(left), &options, &PLAIN, now()) {
                Plan::Mark(marked) => {
                    let until: Timestamp = marked.deletion_timestamp().parse().unwrap();
                    let left = until.duration_since(now()).as_secs();
                    format!("{left} of {}", marked.deletion_grace_period_seconds().unwrap())
                }
                other => format!("{other:?}"),
            }
        };
        assert_eq!(asked(None, 20), "Nothing");
        assert_eq!(asked(Some(30), 20), "Nothing");
        assert_eq!(asked(Some(25), 20), "15 of 25");
        assert_eq!(asked(Some(5), 20), "0 of 1", "ten seconds are over");
        assert_eq!(asked(Some(-1), 30), "1 of 1");
        assert_eq!(asked(Some(0), 20), "Remove");
    }

    #[test]
    fn a_foreign_uid_is_a_conflict() {
        let options = DeleteOptions { uid: Some("u2".into()), ..Default::default() };
        let gr = GroupResource::new("", "pods");
        let e = preconditions(&object(json!({"name": "a", "uid": "u1"})), &options, &gr).unwrap_err();
        assert_eq!(e.code(), 409);
    }
}
