//! `OwnerReferencesPermissionEnforcement` (off unless asked for): nobody has the garbage collector delete what they may
//! not delete, or hold up the deletion of what they may not hold up. Upstream: plugin/pkg/admission/gc, 1.36.
use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use machinery::request::RequestInfo;
use machinery::{Object, StatusResult};
use serde_json::Value;

use crate::{Attributes, Authorize, Operation, Plugin, ServedKinds};

/// The plugin.
pub struct OwnerReferences {
    /// Knows who may do what.
    pub authorize: Arc<dyn Authorize>,
    /// Knows which resource an owner belongs to.
    pub kinds: Arc<dyn ServedKinds>,
}

fn references(object: &Object) -> &[Value] {
    object.list_at(&["metadata", "ownerReferences"])
}

fn text<'a>(reference: &'a Value, key: &str) -> &'a str {
    reference.get(key).and_then(Value::as_str).unwrap_or("")
}

fn blocks(reference: &&Value) -> bool {
    reference.get("blockOwnerDeletion").and_then(Value::as_bool) == Some(true)
}

/// References that hold up an owner's deletion and did not before.
fn newly_blocking<'a>(new: &'a Object, old: Option<&Object>) -> Vec<&'a Value> {
    let before: BTreeSet<&str> =
        old.into_iter().flat_map(references).filter(blocks).map(|r| text(r, "uid")).collect();
    references(new).iter().filter(blocks).filter(|r| !before.contains(text(r, "uid"))).collect()
}

#[async_trait]
impl Plugin for OwnerReferences {
    fn name(&self) -> &'static str {
        "OwnerReferencesPermissionEnforcement"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        // Old kubelets garble them there, and the status of a pod cannot change them.
        if a.is_sub("", "pods", "status") {
            return Ok(());
        }
        let Some(new) = a.object() else { return Ok(()) };
        let old = a.old.filter(|_| a.operation == Operation::Update);
        if references(new) == old.map_or(&[][..], references) {
            return Ok(());
        }
        // Who makes a thing could as well not have made it.
        if a.operation != Operation::Create {
            let delete = RequestInfo {
                verb: "delete".into(),
                is_resource: true,
                api_group: a.gvr.group.clone(),
                api_version: a.gvr.version.clone(),
                namespace: a.namespace.into(),
                resource: a.gvr.resource.clone(),
                subresource: a.subresource.into(),
                name: a.name.into(),
                ..RequestInfo::default()
            };
            if let Err(why) = self.authorize.decide(a.user, &delete).await {
                let why = format!("cannot set an ownerRef on a resource you can't delete: {why}, <nil>");
                return Err(a.forbidden(why));
            }
        }
        let blocking = newly_blocking(new, old);
        if blocking.is_empty() {
            return Ok(());
        }
        let finalize =
            |group: &str, version: &str, resource: &str, namespace: &str, name: &str| RequestInfo {
                verb: "update".into(),
                is_resource: true,
                api_group: group.into(),
                api_version: version.into(),
                namespace: namespace.into(),
                resource: resource.into(),
                subresource: "finalizers".into(),
                name: name.into(),
                ..RequestInfo::default()
            };
        if self.authorize.decide(a.user, &finalize("*", "*", "*", "", "*")).await.is_ok() {
            return Ok(());
        }
        for reference in blocking {
            let (api_version, kind) = (text(reference, "apiVersion"), text(reference, "kind"));
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            let Some(served) = self.kinds.served(group, version, kind) else {
                return Err(a.forbidden(format!(
                    "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion \
                     {api_version} Kind {kind}: no matches for kind {kind:?} in version {api_version:?}"
                )));
            };
            let namespace = if served.namespaced { a.namespace } else { "" };
            let request = finalize(group, version, &served.plural, namespace, text(reference, "name"));
            if let Err(why) = self.authorize.decide(a.user, &request).await {
                return Err(a.forbidden(format!(
                    "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers \
                     on: {why}, <nil>"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use machinery::request::UserInfo;
    use serde_json::json;

    use super::*;
    use crate::Served;
    use crate::testing::{Ask, object};

    struct Rules;

    #[async_trait]
    impl Authorize for Rules {
        async fn decide(&self, user: &UserInfo, request: &RequestInfo) -> Result<(), String> {
            let what = format!("{} {}/{}", request.verb, request.resource, request.subresource);
            let allowed = match (user.name.as_str(), what.as_str()) {
                ("root", _) => true,
                ("deleter", "delete pods/" | "delete pods/resize") => true,
                ("finalizer", "delete pods/" | "update replicasets/finalizers") => request.namespace == "a",
                ("noder", "delete pods/" | "update nodes/finalizers") => {
                    request.verb == "delete" || (request.namespace.is_empty() && request.name == "o")
                }
                _ => false,
            };
            if allowed { Ok(()) } else { Err(String::new()) }
        }
    }

    impl ServedKinds for Rules {
        fn served(&self, group: &str, _version: &str, kind: &str) -> Option<Served> {
            let (plural, namespaced) = match (group, kind) {
                ("apps", "ReplicaSet") => ("replicasets", true),
                ("", "Node") => ("nodes", false),
                _ => return None,
            };
            Some(Served { plural: plural.into(), namespaced })
        }
    }

    fn owner(api_version: &str, kind: &str, blocks: bool) -> Value {
        json!([{"apiVersion": api_version, "kind": kind, "name": "o", "uid": "1", "blockOwnerDeletion": blocks}])
    }

    #[tokio::test]
    async fn owners_are_named_by_who_may() {
        let plugin = OwnerReferences { authorize: Arc::new(Rules), kinds: Arc::new(Rules) };
        let none = json!([]);
        let loose = owner("apps/v1", "ReplicaSet", false);
        let tight = owner("apps/v1", "ReplicaSet", true);
        let node = owner("v1", "Node", true);
        let unknown = owner("x/v1", "Thing", true);
        let delete = "cannot set an ownerRef on a resource you can't delete: , <nil>";
        let block = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>";
        let no_kind = "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion x/v1 Kind \
                       Thing: no matches for kind \"Thing\" in version \"x/v1\"";
        for (user, subresource, before, after, want) in [
            ("nobody", "", None, &none, None),
            ("nobody", "", None, &loose, None),
            ("nobody", "", None, &tight, Some(block)),
            ("finalizer", "", None, &tight, None),
            ("nobody", "", Some(&loose), &loose, None),
            ("nobody", "", Some(&none), &loose, Some(delete)),
            ("nobody", "", Some(&loose), &none, Some(delete)),
            ("nobody", "status", Some(&loose), &none, None),
            ("deleter", "", Some(&none), &loose, None),
            ("deleter", "resize", Some(&none), &loose, None),
            ("deleter", "", Some(&none), &tight, Some(block)),
            ("deleter", "", Some(&loose), &tight, Some(block)),
            ("deleter", "", Some(&tight), &loose, None),
            ("finalizer", "", Some(&loose), &tight, None),
            ("finalizer", "", Some(&none), &node, Some(block)),
            ("noder", "", Some(&none), &node, None),
            ("deleter", "", Some(&none), &unknown, Some(no_kind)),
            ("root", "", Some(&none), &unknown, None),
        ] {
            let pod = |owners: &Value| {
                object(json!({"metadata": {"name": "p", "namespace": "a", "ownerReferences": owners}}))
            };
            let operation = if before.is_some() { Operation::Update } else { Operation::Create };
            let ask = Ask {
                subresource,
                object: Some(pod(after)),
                old: before.map(pod),
                user: UserInfo::new(user, &[]),
                ..Ask::new(operation, ("", "pods"), "Pod")
            };
            let want = want.map(|why| format!("pods \"p\" is forbidden: {why}"));
            assert_eq!(ask.run(&plugin).await.err(), want, "{user} {before:?} {after}");
        }
    }
}
