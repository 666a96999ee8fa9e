//! Keeps flow schemas and priority levels as they ship, as far as nobody said otherwise, and says of each schema whether
//! its level is there. Upstream: pkg/registry/flowcontrol/ensurer and apiserver/pkg/util/flowcontrol, 1.36.
use std::collections::BTreeSet;
use std::sync::Arc;

use apiserver_registry::{DeleteOptions, Registry, Store, Warnings, Write, encode, timestamp};
use apiserver_watch_cache::Scope;
use jiff::Timestamp;
use machinery::request::UserInfo;
use machinery::{Object, StatusResult};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{AUTO_UPDATE, flow_schemas, priority_levels};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// Who writes the conditions.
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";
/// Who writes the rest.
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";
/// What no server goes without.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// One thing to put right.
#[derive(Debug, PartialEq)]
enum Act {
    /// Is missing.
    Create(Object),
    /// Has another specification than it ships with.
    Restore(Object),
    /// Shipped once.
    Delete(String),
    /// The condition `Dangling` of a schema is not what it should be.
    Condition(String, Value),
}

/// Whether the server keeps the specification; until somebody says otherwise, as long as nobody changed it.
fn kept(object: &Object) -> bool {
    match object.annotation(AUTO_UPDATE) {
        Some(text) => matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True"),
        None => object.generation() == Some(1),
    }
}

/// What becomes of the objects of one kind. `shipped`: as they ship.
fn upkeep(found: &[Object], shipped: Vec<Object>) -> Vec<Act> {
    let names: BTreeSet<String> = shipped.iter().map(|o| o.name().to_owned()).collect();
    let mut acts = Vec::new();
    for wanted in shipped {
        let Some(there) = found.iter().find(|o| o.name() == wanted.name()) else {
            acts.push(Act::Create(wanted));
            continue;
        };
        let mandatory = MANDATORY.contains(&wanted.name());
        let differs = there.at(&["spec"]) != wanted.at(&["spec"]);
        let unsaid = mandatory && there.annotation(AUTO_UPDATE) != Some("true");
        if unsaid || (differs && (mandatory || kept(there))) {
            acts.push(Act::Restore(wanted));
        }
    }
    let gone = found.iter().filter(|o| !names.contains(o.name()) && o.annotation(AUTO_UPDATE).is_some());
    acts.extend(gone.filter(|o| kept(o)).map(|o| Act::Delete(o.name().to_owned())));
    acts
}

/// Whether each schema's level is there.
fn conditions(schemas: &[Object], levels: &[Object], now: Timestamp) -> Vec<Act> {
    let known: BTreeSet<&str> = levels.iter().map(Object::name).collect();
    let wanted = |schema: &Object| {
        let level = schema.str_at(&["spec", "priorityLevelConfiguration", "name"]);
        let (status, reason, rest) = if known.contains(level) {
            ("False", "Found", "and it exists")
        } else {
            ("True", "NotFound", "but there is no such object")
        };
        let message = format!(
            "This FlowSchema references the PriorityLevelConfiguration object named {level:?} {rest}"
        );
        let found = schema.list_at(&["status", "conditions"]).iter().find(|c| c["type"] == "Dangling");
        let same = |c: &Value| c["status"] == status && c["reason"] == reason && c["message"] == *message;
        if found.is_some_and(same) {
            return None;
        }
        let condition = json!({"type": "Dangling", "status": status, "lastTransitionTime": timestamp(now),
            "reason": reason, "message": message});
        Some(Act::Condition(schema.name().to_owned(), condition))
    };
    schemas.iter().filter(|schema| !schema.is_deleting()).filter_map(wanted).collect()
}

/// Acts on one store, as the server itself.
struct Keeper {
    store: Arc<Store>,
    user: UserInfo,
}

impl Keeper {
    fn all(&self) -> Vec<Object> {
        let snapshot = self.store.cache.snapshot();
        snapshot.objects.iter().filter_map(|o| encode::decode(&o.value, o.revision).ok()).collect()
    }

    async fn act(&self, act: &Act) -> StatusResult<()> {
        let warnings = Warnings::default();
        let write = |name, subresource, manager: &str| Write {
            kind: &self.store.kind,
            namespace: "",
            name,
            subresource,
            user: &self.user,
            manager: manager.to_owned(),
            dry_run: false,
            warnings: &warnings,
        };
        match act {
            Act::Create(object) => {
                self.store.create(&write("", "", PRODUCER), object.clone()).await.map(drop)
            }
            Act::Restore(wanted) => {
                let change = |old: &Object| {
                    let mut new = old.clone();
                    new.remove(&["metadata", "resourceVersion"]);
                    new.copy_from(wanted, &["spec"]);
                    new.set(&["metadata", "annotations", AUTO_UPDATE], "true");
                    Ok(new)
                };
                self.store.update(&write(wanted.name(), "", PRODUCER), change, None).await.map(drop)
            }
            Act::Delete(name) => {
                self.store.delete(&write(name, "", PRODUCER), &DeleteOptions::default()).await.map(drop)
            }
            Act::Condition(name, condition) => {
                let change = |old: &Object| {
                    let mut new = old.clone();
                    new.remove(&["metadata", "resourceVersion"]);
                    let others = old.list_at(&["status", "conditions"]).iter();
                    let mut all: Vec<Value> = others.filter(|c| c["type"] != "Dangling").cloned().collect();
                    all.push(condition.clone());
                    new.set(&["status", "conditions"], all);
                    Ok(new)
                };
                self.store.update(&write(name, "status", CONSUMER), change, None).await.map(drop)
            }
        }
    }

    async fn do_all(&self, acts: &[Act]) {
        for act in acts {
            match self.act(act).await {
                // Another server was first, or the object is gone: what comes next shows it.
                Err(e) if !matches!(e.code(), 404 | 409) => {
                    tracing::warn!(error = %e, "an object of flow control was not put right");
                }
                _ => {}
            }
        }
    }
}

/// Looks whenever one of the objects changes, until `stop`.
pub fn keep(registry: &Registry, stop: CancellationToken) {
    let keeper = |plural: &str| {
        let store = registry.store(GROUP, plural)?.clone();
        Some(Keeper { store, user: UserInfo::new("system:apiserver", &["system:masters"]) })
    };
    let (Some(schemas), Some(levels)) = (keeper("flowschemas"), keeper("prioritylevelconfigurations")) else {
        return;
    };
    tokio::spawn(async move {
        loop {
            let watch = |keeper: &Keeper| {
                keeper.store.cache.watch_initial(Scope::prefix(keeper.store.key_prefix(""))).1
            };
            let (mut of_schemas, mut of_levels) = (watch(&schemas), watch(&levels));
            loop {
                let (schemas_now, levels_now) = (schemas.all(), levels.all());
                levels.do_all(&upkeep(&levels_now, priority_levels())).await;
                schemas.do_all(&upkeep(&schemas_now, flow_schemas())).await;
                schemas.do_all(&conditions(&schemas_now, &levels_now, Timestamp::now())).await;
                let changed = tokio::select! {
                    () = stop.cancelled() => return,
                    batch = of_schemas.next_batch() => batch.map(drop),
                    batch = of_levels.next_batch() => batch.map(drop),
                };
                if changed.is_err() {
                    break;
                }
            }
            if schemas.store.cache.ready().await.is_err() || levels.store.cache.ready().await.is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(mut object: Object) -> Object {
        object.set(&["metadata", "generation"], 1);
        object
    }

    #[test]
    fn what_ships_is_kept_unless_somebody_says_otherwise() {
        let shipped = || flow_schemas().into_iter().take(3).collect::<Vec<_>>();
        let found: Vec<Object> = shipped().into_iter().map(stored).collect();
        assert_eq!(upkeep(&found, shipped()), []);
        assert_eq!(upkeep(&found[1..], shipped()), [Act::Create(shipped()[0].clone())]);
        let changed = |i: usize, auto: Option<&str>| {
            let mut found = found.clone();
            found[i].set(&["spec", "matchingPrecedence"], 77);
            match auto {
                Some(auto) => found[i].set(&["metadata", "annotations", AUTO_UPDATE], auto),
                None => {
                    found[i].set(&["metadata", "generation"], 2);
                    found[i].remove(&["metadata", "annotations"]);
                }
            }
            upkeep(&found, shipped()).len()
        };
        assert_eq!(changed(2, Some("true")), 1);
        assert_eq!(changed(2, Some("false")), 0, "it is somebody else's now");
        assert_eq!(changed(2, None), 0, "somebody changed it");
        assert_eq!(found[0].name(), "exempt");
        assert_eq!(changed(0, Some("false")), 1, "a server does not go without it");
        let mut own = found[1].clone();
        own.set(&["metadata", "name"], "shipped-once");
        let with = [&found[..], &[own.clone()]].concat();
        assert_eq!(upkeep(&with, shipped()), [Act::Delete("shipped-once".into())]);
        own.remove(&["metadata", "annotations"]);
        assert_eq!(upkeep(&[&found[..], &[own]].concat(), shipped()), []);
    }

    #[test]
    fn a_schema_says_whether_its_level_is_there() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let schema = Object::from_value(json!({"metadata": {"name": "s"},
            "spec": {"priorityLevelConfiguration": {"name": "l"}}}))
        .unwrap();
        let level = Object::from_value(json!({"metadata": {"name": "l"}})).unwrap();
        let [Act::Condition(name, missing)] = &conditions(&[schema.clone()], &[], now)[..] else { panic!() };
        assert_eq!(
            (name.as_str(), &missing["status"], &missing["reason"]),
            ("s", &json!("True"), &json!("NotFound"))
        );
        let with = conditions(&[schema.clone()], std::slice::from_ref(&level), now);
        let [Act::Condition(_, found)] = &with[..] else { panic!() };
        assert_eq!((&found["status"], &found["reason"]), (&json!("False"), &json!("Found")));
        let mut told = schema;
        told.set(&["status", "conditions"], json!([found]));
        assert_eq!(conditions(&[told], &[level], now), []);
    }
}
