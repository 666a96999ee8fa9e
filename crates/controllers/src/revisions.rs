//! History of templates as ControllerRevisions, shared by DaemonSets and StatefulSets.
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use client::{Cache, ObjectKey};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource};
use machinery::label_selector::LabelSelector;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::framework::{Error, code, unless_gone};
use crate::hash::template_hash;
use crate::ownership::{claim_all, controller_of, controller_ref};

/// Label of pods and revisions.
pub const HASH: &str = "controller-revision-hash";

/// A template as history keeps it: a patch that replaces the template.
pub fn patch_of(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    if !template.is_object() {
        template = json!({});
    }
    // Upstream's encoding never omits these.
    for list in ["containers", "initContainers"] {
        for container in template["spec"][list].as_array_mut().into_iter().flatten() {
            if container["resources"].is_null() {
                container["resources"] = json!({});
            }
        }
    }
    if template["spec"]["initContainers"].is_null()
        && let Some(spec) = template["spec"].as_object_mut()
    {
        spec.remove("initContainers");
    }
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// The template that a revision keeps.
pub fn template_in(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// The hash in a revision's name and label.
pub fn hash_of(revision: &ControllerRevision) -> String {
    revision.metadata.labels.as_ref().and_then(|l| l.get(HASH)).cloned().unwrap_or_default()
}

/// What history says of the current template.
#[derive(Debug)]
pub enum Current {
    /// It is the newest.
    Newest(Arc<ControllerRevision>),
    /// It was there before: takes this number.
    Renumber(Arc<ControllerRevision>, i64),
    /// It is new: to be made with this number.
    New(i64),
}

/// Finds the current template among the revisions, which come back sorted by number.
pub fn find(template: &Value, revisions: &mut [Arc<ControllerRevision>]) -> Current {
    revisions.sort_by_key(|r| (r.revision, r.metadata.name.clone()));
    let newest = revisions.last().map_or(0, |r| r.revision);
    let same = |r: &&Arc<ControllerRevision>| r.data.as_ref().is_some_and(|d| d.0 == *template);
    match revisions.iter().rev().find(same) {
        Some(found) if found.revision == newest => Current::Newest(found.clone()),
        Some(found) => Current::Renumber(found.clone(), newest + 1),
        None => Current::New(newest + 1),
    }
}

/// History of one kind of owner.
pub struct History {
    client: Client,
    revisions: Cache<ControllerRevision>,
}

/// The outcome of [`History::bring_up_to_date`].
pub enum Updated {
    /// The current revision.
    To(Arc<ControllerRevision>),
    /// Another template took the name: try again with a higher collision count.
    Collision,
}

impl History {
    /// Over this cache.
    pub fn new(client: Client, revisions: Cache<ControllerRevision>) -> Self {
        Self { client, revisions }
    }

    /// The cache that is read.
    pub fn cache(&self) -> &Cache<ControllerRevision> {
        &self.revisions
    }

    /// The owner's revisions, adopted where they have no owner.
    pub async fn of<O>(
        &self,
        owner: &O,
        selector: &LabelSelector,
    ) -> Result<Vec<Arc<ControllerRevision>>, Error>
    where
        O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let namespace = owner.meta().namespace.as_deref().unwrap_or("");
        let uid = owner.meta().uid.as_deref();
        let all = self.revisions.list_in(namespace);
        let ours =
            all.into_iter().filter(|r| controller_of(&r.metadata).is_none_or(|o| Some(&*o.uid) == uid));
        claim_all(&self.client, owner, selector, ours.collect(), &[]).await
    }

    /// Makes the current template the newest revision.
    pub async fn bring_up_to_date<O>(
        &self,
        owner: &O,
        template: &PodTemplateSpec,
        collisions: Option<i32>,
        revisions: &mut [Arc<ControllerRevision>],
    ) -> Result<Updated, Error>
    where
        O: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let key = ObjectKey::of(owner);
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), &key.namespace);
        let data = patch_of(template);
        let number = match find(&data, revisions) {
            Current::Newest(revision) => return Ok(Updated::To(revision)),
            Current::Renumber(revision, number) => {
                let name = revision.metadata.name.as_deref().unwrap_or("");
                let patch = json!({"metadata": {"resourceVersion": revision.metadata.resource_version}, "revision": number});
                let written = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
                return Ok(Updated::To(Arc::new(written.map_err(Error::at("renumber a revision"))?)));
            }
            Current::New(number) => number,
        };
        let revision = make(owner, template, data, number, collisions);
        match api.create(&PostParams::default(), &revision).await {
            Ok(made) => Ok(Updated::To(Arc::new(made))),
            Err(error) if code(&error) == 409 => {
                let name = revision.metadata.name.as_deref().unwrap_or("");
                let live = api.get_opt(name).await.map_err(Error::at("read a revision"))?;
                match live.filter(|l| l.data == revision.data) {
                    Some(same) => Ok(Updated::To(Arc::new(same))),
                    None => Ok(Updated::Collision),
                }
            }
            Err(error) => Err(Error::at("create a revision")(error)),
        }
    }

    /// Deletes the oldest revisions beyond the limit that no pod is made of.
    pub async fn clean_up(
        &self,
        revisions: &[Arc<ControllerRevision>],
        limit: i32,
        in_use: impl Fn(&ControllerRevision) -> bool,
    ) -> Result<(), Error> {
        for revision in surplus(revisions, limit, in_use) {
            let key = ObjectKey::of(&**revision);
            let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), &key.namespace);
            let same = Preconditions { uid: revision.metadata.uid.clone(), resource_version: None };
            let deleted = api.delete(&key.name, &DeleteParams::default().preconditions(same)).await;
            unless_gone(deleted).map_err(Error::at("delete an old revision"))?;
        }
        Ok(())
    }
}

fn surplus(
    revisions: &[Arc<ControllerRevision>],
    limit: i32,
    in_use: impl Fn(&ControllerRevision) -> bool,
) -> Vec<&Arc<ControllerRevision>> {
    let mut unused: Vec<_> = revisions.iter().filter(|r| !in_use(r)).collect();
    unused.sort_by_key(|r| r.revision);
    let surplus = unused.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    unused.truncate(surplus);
    unused
}

fn make<O: Resource<DynamicType = ()>>(
    owner: &O,
    template: &PodTemplateSpec,
    data: Value,
    number: i64,
    collisions: Option<i32>,
) -> ControllerRevision {
    let hash = template_hash(&data, collisions);
    let name = owner.meta().name.as_deref().unwrap_or("");
    // Room for the hash within a name's length.
    let name = name.get(..name.len().min(242)).unwrap_or(name);
    let mut labels: BTreeMap<_, _> =
        template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    labels.insert(HASH.into(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: owner.meta().namespace.clone(),
            labels: Some(labels),
            annotations: owner.meta().annotations.clone(),
            owner_references: Some(vec![controller_ref(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(number: i64, image: &str) -> Arc<ControllerRevision> {
        let template = template(image);
        let mut made = make(&ControllerRevision::default(), &template, patch_of(&template), number, None);
        made.metadata.name = Some(image.into());
        Arc::new(made)
    }

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": image}]}})).unwrap()
    }

    #[test]
    fn history_keeps_the_template_as_a_replacing_patch() {
        let made = revision(1, "i");
        let text = serde_json::to_string(&made.data).unwrap();
        assert_eq!(
            text,
            r#"{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"image":"i","name":"c","resources":{}}]}}}}"#
        );
        assert_eq!(template_in(&made).unwrap().metadata, template("i").metadata);
    }

    #[test]
    fn the_current_template_is_found_renumbered_or_new() {
        let mut all = [revision(3, "c"), revision(1, "a"), revision(2, "b")];
        let find = |image, all: &mut [_]| match find(&patch_of(&template(image)), all) {
            Current::Newest(r) => (r.metadata.name.clone().unwrap(), r.revision),
            Current::Renumber(r, n) => (r.metadata.name.clone().unwrap(), n),
            Current::New(n) => ("new".into(), n),
        };
        assert_eq!(find("c", &mut all), ("c".into(), 3));
        assert_eq!(find("a", &mut all), ("a".into(), 4));
        assert_eq!(find("d", &mut all), ("new".into(), 4));
        assert_eq!(find("d", &mut []), ("new".into(), 1));
    }

    #[test]
    fn the_oldest_unused_go() {
        let all = [revision(3, "c"), revision(1, "a"), revision(2, "b"), revision(4, "d")];
        let gone = surplus(&all, 1, |r| r.revision == 1 || r.revision == 4);
        assert_eq!(gone.iter().map(|r| r.revision).collect::<Vec<_>>(), [2]);
    }
}
