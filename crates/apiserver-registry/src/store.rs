//! The generic store of one resource, and its writes.
use std::sync::Arc;
use std::time::Duration;

use api::kinds::Kind;
use apiserver_admission::{Attributes, Chain, Operation};
use apiserver_resources::Strategy;
use apiserver_watch_cache::Cache;
use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use machinery::gvk::{GroupResource, GroupVersionKind, GroupVersionResource};
use machinery::{FieldErrors, Object, StatusError, StatusResult, names};
use storage::{DeleteOutcome, Expect, KeyValue, Revision, SharedLeases, Storage, WriteOutcome};

use crate::delete::{self, Plan};
use crate::encode::{self, Header};
use crate::ownership::{self, Ownership};
use crate::request::{DeleteOptions, Write};

/// How often a write is tried again when another one came between, as upstream's patch (handlers/patch.go) does.
const ATTEMPTS: u32 = 5;
/// How often a generated name is drawn again when it is taken (registry/generic/registry/store.go).
const NAME_ATTEMPTS: u32 = 8;

/// An object as it stands in storage.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The tree, with its revision.
    pub object: Object,
    /// Its encoding, without.
    pub value: Bytes,
    /// The revision that wrote it.
    pub revision: Revision,
}

/// What became of a deletion.
#[derive(Debug, Clone)]
pub enum Deleted {
    /// It is gone; this was its last form.
    Gone(Stored),
    /// It is terminating.
    Pending(Stored),
}

/// What a kind needs beyond its strategy: resources that are taken and given back, such as service IPs.
#[async_trait]
pub trait Hook: Send + Sync {
    /// Before validation of a create. `old` is `None` on create.
    async fn allocate(&self, new: &mut Object, old: Option<&Object>, dry_run: bool) -> StatusResult<()>;
    /// Gives back what `allocate` took and `kept` does not use: after a failed write or a deletion.
    async fn release(&self, dropped: &Object, kept: Option<&Object>);
}

/// The generic store of one resource in its storage version.
pub struct Store {
    /// Row of the storage version.
    pub kind: Arc<Kind>,
    /// Current objects and recent events.
    pub cache: Arc<Cache>,
    header: Header,
    prefix: String,
    storage: Arc<dyn Storage>,
    leases: Arc<SharedLeases>,
    admission: Arc<Chain>,
    hook: Option<Arc<dyn Hook>>,
    ttl: Option<Duration>,
    gvk: GroupVersionKind,
    gvr: GroupVersionResource,
    gr: GroupResource,
}

/// What all stores share.
#[derive(Clone)]
pub struct Shared {
    /// Where objects are kept.
    pub storage: Arc<dyn Storage>,
    /// For objects that expire.
    pub leases: Arc<SharedLeases>,
    /// The admission plugins.
    pub admission: Arc<Chain>,
}

impl Store {
    /// A store for a kind. `ttl`: objects expire after it (events).
    pub fn new(
        kind: Arc<Kind>,
        cache: Arc<Cache>,
        shared: Shared,
        hook: Option<Arc<dyn Hook>>,
        ttl: Option<Duration>,
    ) -> Self {
        Self {
            header: Header::new(&kind),
            prefix: prefix(&kind),
            cache,
            storage: shared.storage,
            leases: shared.leases,
            admission: shared.admission,
            hook,
            ttl,
            gvk: kind.gvk(),
            gvr: kind.gvr(),
            gr: kind.group_resource(),
            kind,
        }
    }

    /// An object as JSON, from the bytes that are stored.
    pub fn json(&self, stored: &Stored) -> Vec<u8> {
        self.header.with_revision(&stored.value, stored.revision)
    }

    /// Group and plural of the resource.
    pub fn group_resource(&self) -> &GroupResource {
        &self.gr
    }

    /// The storage key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.kind.namespaced {
            format!("{}{namespace}/{name}", self.prefix)
        } else {
            format!("{}{name}", self.prefix)
        }
    }

    /// The storage prefix of a namespace, or of everything.
    pub fn key_prefix(&self, namespace: &str) -> String {
        if namespace.is_empty() { self.prefix.clone() } else { format!("{}{namespace}/", self.prefix) }
    }

    /// The storage itself.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The rules of a write: events are asked for more when they come by their own group.
    fn strategy_of(&self, write: &Write<'_>, subresource: &str) -> &'static dyn Strategy {
        if write.kind.group == "events.k8s.io" {
            return apiserver_resources::strategy_for(&write.kind.group, &write.kind.plural, subresource);
        }
        self.strategy(subresource)
    }

    fn strategy(&self, subresource: &str) -> &'static dyn Strategy {
        match subresource {
            // What the server itself assembles from the stored object and a checked request.
            "binding" => &AsGiven,
            // A scale is a change of the object's own `spec.replicas`.
            "scale" => apiserver_resources::strategy_for(&self.kind.group, &self.kind.plural, ""),
            _ => apiserver_resources::strategy_for(&self.kind.group, &self.kind.plural, subresource),
        }
    }

    fn stored(&self, kv: &KeyValue) -> StatusResult<Stored> {
        let object = encode::decode(&kv.value, kv.mod_revision)?;
        let value =
            if self.header.fits(&kv.value) { kv.value.clone() } else { self.header.encode(&object)? };
        Ok(Stored { object, value, revision: kv.mod_revision })
    }

    /// Reads the object from storage, not from the cache.
    pub async fn get_live(&self, namespace: &str, name: &str) -> StatusResult<Option<Stored>> {
        let (kv, _) = self.storage.get(&self.key(namespace, name), None).await.map_err(storage_error)?;
        kv.as_ref().map(|kv| self.stored(kv)).transpose()
    }

    fn not_found(&self, name: &str) -> StatusError {
        StatusError::not_found(&self.gr, name)
    }

    fn attributes<'a>(
        &'a self,
        write: &'a Write<'_>,
        operation: Operation,
        name: &'a str,
        object: Option<&'a mut Object>,
        old: Option<&'a Object>,
    ) -> Attributes<'a> {
        Attributes {
            operation,
            gvk: &self.gvk,
            gvr: &self.gvr,
            subresource: write.subresource,
            namespace: write.namespace,
            name,
            object,
            old,
            options: None,
            user: write.user,
            dry_run: write.dry_run,
            warnings: Vec::new(),
            annotations: Vec::new(),
        }
    }

    async fn mutate(
        &self,
        write: &Write<'_>,
        operation: Operation,
        object: &mut Object,
        old: Option<&Object>,
    ) -> StatusResult<()> {
        let name = object.name().to_owned();
        let mut attributes = self.attributes(write, operation, &name, Some(object), old);
        let admitted = self.admission.mutate(&mut attributes).await;
        for warning in std::mem::take(&mut attributes.warnings) {
            write.warnings.add(warning);
        }
        write.warnings.notes().add(attributes.annotations);
        admitted
    }

    async fn validate(
        &self,
        write: &Write<'_>,
        operation: Operation,
        object: Option<&mut Object>,
        old: Option<&Object>,
    ) -> StatusResult<()> {
        let name = object.as_deref().or(old).map(|o| o.name().to_owned()).unwrap_or_default();
        let mut attributes = self.attributes(write, operation, &name, object, old);
        let admitted = self.admission.validate(&mut attributes).await;
        write.warnings.notes().add(attributes.annotations);
        admitted
    }

    /// Creates an object. The name in it counts; `write.name` is empty.
    pub async fn create(&self, write: &Write<'_>, object: Object) -> StatusResult<Stored> {
        self.insert(write, object, Ownership::Tracked).await
    }

    async fn insert(
        &self,
        write: &Write<'_>,
        mut object: Object,
        ownership: Ownership,
    ) -> StatusResult<Stored> {
        let strategy = self.strategy("");
        self.before_create(write, &mut object)?;
        strategy.fill_defaults(&mut object);
        let generated = object.name().is_empty();
        if generated {
            let base = object.generate_name().to_owned();
            if base.is_empty() {
                return Err(self.name_required());
            }
            object.set(&["metadata", "name"], names::generate(&base));
        }
        ownership.note(&self.kind, write, &Object::default(), &mut object);
        self.mutate(write, Operation::Create, &mut object, None).await?;
        strategy.fill_defaults(&mut object);
        let mut errors = self.strategy_of(write, "").admit_create(&mut object);
        let name_rule = apiserver_resources::name_rule(&self.kind.group, &self.kind.plural);
        errors.splice(
            0..0,
            apiserver_resources::validate_object_meta(&object, self.kind.namespaced, name_rule),
        );
        if !errors.is_empty() {
            return Err(StatusError::invalid(&self.gvk, object.name(), &errors));
        }
        if let Some(hook) = &self.hook {
            hook.allocate(&mut object, None, write.dry_run).await?;
        }
        let result = self.store_new(write, &mut object, generated, ownership).await;
        if let (Err(e), Some(hook), false) = (&result, &self.hook, write.dry_run)
            && !may_have_happened(e)
        {
            hook.release(&object, None).await;
        }
        result
    }

    async fn store_new(
        &self,
        write: &Write<'_>,
        object: &mut Object,
        generated: bool,
        ownership: Ownership,
    ) -> StatusResult<Stored> {
        self.validate(write, Operation::Create, Some(object), None).await?;
        for warning in self.strategy("").warnings(object, None) {
            write.warnings.add(warning);
        }
        let mut attempts = if generated { NAME_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            let key = self.key(write.namespace, object.name());
            let value = self.header.encode(object)?;
            if write.dry_run {
                let (found, _) = self.storage.get(&key, None).await.map_err(storage_error)?;
                if found.is_none() {
                    return Ok(Stored { object: object.clone(), value, revision: Revision::ZERO });
                }
            } else {
                let lease = match self.ttl {
                    Some(ttl) => Some(self.leases.lease(ttl).await.map_err(storage_error)?),
                    None => None,
                };
                match self.storage.put(&key, value, Expect::Absent, lease).await {
                    Ok(WriteOutcome::Done(kv)) => return self.written(std::mem::take(object), &kv),
                    Ok(WriteOutcome::Mismatch { .. }) => {}
                    Err(e) if ownership.gives_way(&e, object) => {
                        attempts += 1;
                        continue;
                    }
                    Err(e) => return Err(storage_error(e)),
                }
            }
            if attempts == 0 {
                return Err(StatusError::already_exists(&self.gr, object.name()));
            }
            let base = object.generate_name().to_owned();
            object.set(&["metadata", "name"], names::generate(&base));
        }
    }

    fn written(&self, mut object: Object, kv: &KeyValue) -> StatusResult<Stored> {
        object.set(&["metadata", "resourceVersion"], kv.mod_revision.to_string());
        object.set_type(&self.kind.api_version(), &self.kind.kind);
        Ok(Stored { object, value: kv.value.clone(), revision: kv.mod_revision })
    }

    fn name_required(&self) -> StatusError {
        let path = machinery::FieldPath::new("metadata").child("name");
        let errors = [machinery::FieldError::required(&path, "name or generateName is required")];
        StatusError::invalid(&self.gvk, "", &errors)
    }

    fn before_create(&self, write: &Write<'_>, object: &mut Object) -> StatusResult<()> {
        if !object.resource_version().is_empty() {
            return Err(StatusError::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        self.set_namespace(write, object)?;
        for field in [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "generation",
        ] {
            object.remove(&["metadata", field]);
        }
        object.set(&["metadata", "uid"], uuid::Uuid::new_v4().to_string());
        object.set(&["metadata", "creationTimestamp"], delete::timestamp(Timestamp::now()));
        Ok(())
    }

    fn set_namespace(&self, write: &Write<'_>, object: &mut Object) -> StatusResult<()> {
        if !self.kind.namespaced {
            object.remove(&["metadata", "namespace"]);
            return Ok(());
        }
        let given = object.namespace();
        if !given.is_empty() && given != write.namespace {
            return Err(StatusError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        object.set(&["metadata", "namespace"], write.namespace);
        Ok(())
    }

    /// Replaces an object by what `change` makes of it. `change` runs again when another write came between, unless
    /// its result names a revision. Second: whether the object was created.
    pub async fn update(
        &self,
        write: &Write<'_>,
        change: impl FnMut(&Object) -> StatusResult<Object> + Send,
        when_absent: Option<Object>,
    ) -> StatusResult<(Stored, bool)> {
        let creates = self.strategy(write.subresource).allows_create_on_update();
        let absent = || when_absent.filter(|_| creates && write.subresource.is_empty()).map(Ok);
        self.replace(write, change, absent, Ownership::Tracked).await
    }

    pub(crate) async fn replace(
        &self,
        write: &Write<'_>,
        mut change: impl FnMut(&Object) -> StatusResult<Object> + Send,
        when_absent: impl FnOnce() -> Option<StatusResult<Object>> + Send,
        ownership: Ownership,
    ) -> StatusResult<(Stored, bool)> {
        let strategy = self.strategy(write.subresource);
        let key = self.key(write.namespace, write.name);
        for _ in 0..ATTEMPTS {
            let (found, _) = self.storage.get(&key, None).await.map_err(storage_error)?;
            let Some(found) = found else {
                let object = when_absent().ok_or_else(|| self.not_found(write.name))??;
                if ownership == Ownership::Settled && !object.uid().is_empty() {
                    let why = format!(
                        "uid mismatch: the provided object specified uid {}, and no existing object was found",
                        object.uid()
                    );
                    return Err(StatusError::conflict(&self.gr, write.name, &why));
                }
                return Ok((self.insert(write, object, ownership).await?, true));
            };
            let old = self.stored(&found)?;
            let mut new = change(&old.object)?;
            let asked = new.resource_version().to_owned();
            if !asked.is_empty() && asked != old.object.resource_version() {
                return Err(StatusError::stale(&self.gr, write.name));
            }
            self.before_update(write, &mut new, &old.object)?;
            strategy.fill_defaults(&mut new);
            ownership.note(&self.kind, write, &old.object, &mut new);
            self.mutate(write, Operation::Update, &mut new, Some(&old.object)).await?;
            strategy.fill_defaults(&mut new);
            let mut errors = self.strategy_of(write, write.subresource).admit_update(&mut new, &old.object);
            errors.splice(0..0, apiserver_resources::validate_object_meta_update(&new, &old.object));
            if !errors.is_empty() {
                return Err(StatusError::invalid(&self.gvk, write.name, &errors));
            }
            if let Some(hook) = &self.hook {
                hook.allocate(&mut new, Some(&old.object), write.dry_run).await?;
            }
            let stored = self.store_change(write, &key, &old, &mut new, ownership).await;
            if let Some(hook) = &self.hook
                && !write.dry_run
            {
                match &stored {
                    Ok(Some(_)) => hook.release(&old.object, Some(&new)).await,
                    // What both forms hold stays taken, since either may be the stored one.
                    Err(e) if may_have_happened(e) => {}
                    _ => hook.release(&new, Some(&old.object)).await,
                }
            }
            match stored? {
                Some(stored) => return Ok((stored, false)),
                None if asked.is_empty() || asked != old.object.resource_version() => {}
                None => {
                    // The writer named the revision it saw; only it can decide again.
                    return Err(StatusError::stale(&self.gr, write.name));
                }
            }
        }
        Err(StatusError::stale(&self.gr, write.name))
    }

    /// Refuses a replacement that does not name the revision it is about, where the kind asks for that. A patch is
    /// made from the stored object, so it is about that one anyway.
    pub fn check_conditional(&self, write: &Write<'_>, new: &Object) -> StatusResult<()> {
        if !new.resource_version().is_empty()
            || self.strategy_of(write, write.subresource).allows_unconditional_update()
        {
            return Ok(());
        }
        let path = machinery::FieldPath::new("metadata").child("resourceVersion");
        let errors = [machinery::FieldError::invalid(&path, 0, "must be specified for an update")];
        Err(StatusError::invalid(&self.gvk, write.name, &errors))
    }

    fn before_update(&self, write: &Write<'_>, new: &mut Object, old: &Object) -> StatusResult<()> {
        self.set_namespace(write, new)?;
        if !new.uid().is_empty() && new.uid() != old.uid() {
            let why = format!(
                "Precondition failed: UID in precondition: {}, UID in object meta: {}",
                new.uid(),
                old.uid()
            );
            return Err(StatusError::conflict(&self.gr, write.name, &why));
        }
        for field in [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "resourceVersion",
        ] {
            new.copy_from(old, &["metadata", field]);
        }
        Ok(())
    }

    /// `None`: another write came between.
    async fn store_change(
        &self,
        write: &Write<'_>,
        key: &str,
        old: &Stored,
        new: &mut Object,
        ownership: Ownership,
    ) -> StatusResult<Option<Stored>> {
        self.validate(write, Operation::Update, Some(new), Some(&old.object)).await?;
        for warning in self.strategy(write.subresource).warnings(new, Some(&old.object)) {
            write.warnings.add(warning);
        }
        ownership::keep_times(new, &old.object);
        let value = self.header.encode(new)?;
        new.set_type(&self.kind.api_version(), &self.kind.kind);
        if delete::finished(new, &old.object, self.strategy(write.subresource)) && !write.dry_run {
            return match self.storage.delete(key, Expect::At(old.revision)).await.map_err(storage_error)? {
                DeleteOutcome::Deleted { revision, .. } => {
                    if let Some(hook) = &self.hook {
                        hook.release(new, None).await;
                    }
                    let mut object = new.clone();
                    object.set(&["metadata", "resourceVersion"], revision.to_string());
                    Ok(Some(Stored { object, value, revision }))
                }
                DeleteOutcome::Mismatch { .. } => Ok(None),
            };
        }
        // Nothing changes, unless what is stored was sealed with a key that others have replaced.
        if write.dry_run
            || (value == old.value && !self.storage.is_stale(key).await.map_err(storage_error)?)
        {
            return Ok(Some(Stored { object: new.clone(), value, revision: old.revision }));
        }
        let lease = match self.ttl {
            Some(ttl) => Some(self.leases.lease(ttl).await.map_err(storage_error)?),
            None => None,
        };
        let at = Expect::At(old.revision);
        let mut outcome = self.storage.put(key, value, at, lease).await;
        if let Err(e) = &outcome
            && ownership.gives_way(e, new)
        {
            outcome = self.storage.put(key, self.header.encode(new)?, at, lease).await;
        }
        match outcome.map_err(storage_error)? {
            WriteOutcome::Done(kv) => Ok(Some(self.written(new.clone(), &kv)?)),
            WriteOutcome::Mismatch { .. } => Ok(None),
        }
    }

    /// Takes away what cannot be read.
    async fn delete_unread(&self, write: &Write<'_>, key: &str) -> StatusResult<Deleted> {
        let mut object = Object::default();
        object.set(&["metadata", "name"], write.name);
        let gone = |revision| Deleted::Gone(Stored { object: object.clone(), value: Bytes::new(), revision });
        if write.dry_run {
            return Ok(gone(Revision::ZERO));
        }
        match self.storage.delete(key, Expect::Any).await.map_err(storage_error)? {
            DeleteOutcome::Deleted { revision, .. } => {
                tracing::warn!(key, user = write.user.name, "an object that cannot be read was deleted");
                Ok(gone(revision))
            }
            DeleteOutcome::Mismatch { .. } => Err(self.not_found(write.name)),
        }
    }

    /// Deletes an object, or begins to.
    pub async fn delete(&self, write: &Write<'_>, options: &DeleteOptions) -> StatusResult<Deleted> {
        let strategy = self.strategy("");
        let key = self.key(write.namespace, write.name);
        let mut admitted = false;
        for _ in 0..ATTEMPTS {
            let found = match self.storage.get(&key, None).await {
                Err(e) if options.ignore_read_error && !e.retryable() => {
                    return self.delete_unread(write, &key).await;
                }
                found => found.map_err(storage_error)?.0,
            };
            let found = found.ok_or_else(|| self.not_found(write.name))?;
            let old = match self.stored(&found) {
                Err(_) if options.ignore_read_error => return self.delete_unread(write, &key).await,
                old => old?,
            };
            delete::preconditions(
                &old.object,
                options,
                &GroupResource::new(&self.kind.group, &self.kind.kind),
            )?;
            if !admitted {
                let mut attributes =
                    self.attributes(write, Operation::Delete, write.name, None, Some(&old.object));
                self.admission.mutate(&mut attributes).await?;
                self.validate(write, Operation::Delete, None, Some(&old.object)).await?;
                admitted = true;
            }
            let expect = Expect::At(old.revision);
            match delete::plan(&old.object, options, strategy, Timestamp::now()) {
                Plan::Nothing => return Ok(Deleted::Pending(old)),
                Plan::Remove if write.dry_run => return Ok(Deleted::Gone(old)),
                Plan::Remove => {
                    if let DeleteOutcome::Deleted { revision, .. } =
                        self.storage.delete(&key, expect).await.map_err(storage_error)?
                    {
                        if let Some(hook) = &self.hook {
                            hook.release(&old.object, None).await;
                        }
                        return Ok(Deleted::Gone(Stored { revision, ..old }));
                    }
                }
                Plan::Mark(marked) => {
                    let value = self.header.encode(&marked)?;
                    if write.dry_run {
                        return Ok(Deleted::Pending(Stored {
                            object: *marked,
                            value,
                            revision: old.revision,
                        }));
                    }
                    if let WriteOutcome::Done(kv) =
                        self.storage.put(&key, value, expect, None).await.map_err(storage_error)?
                    {
                        return Ok(Deleted::Pending(self.written(*marked, &kv)?));
                    }
                }
            }
        }
        Err(StatusError::stale(&self.gr, write.name))
    }
}

/// Takes the object as it is.
struct AsGiven;

impl Strategy for AsGiven {
    fn fill_defaults(&self, _object: &mut Object) {}

    fn admit_create(&self, _object: &mut Object) -> FieldErrors {
        FieldErrors::new()
    }

    fn admit_update(&self, _new: &mut Object, _old: &Object) -> FieldErrors {
        FieldErrors::new()
    }
}

/// The storage prefix of a kind, as upstream's server uses it.
pub fn prefix(kind: &Kind) -> String {
    format!("/registry/{}/", kind.key)
}

/// Cause in the answer to a write of which nobody knows whether it happened. A client that repeats it has to look first.
const OUTCOME_UNKNOWN: &str = "OutcomeUnknown";

/// Whether a write that failed so may be stored all the same.
fn may_have_happened(e: &StatusError) -> bool {
    let causes = e.0.details.as_ref().and_then(|d| d.causes.as_ref());
    causes.into_iter().flatten().any(|c| c.reason.as_deref() == Some(OUTCOME_UNKNOWN))
}

/// An error of storage as a client sees it.
pub fn storage_error(e: storage::Error) -> StatusError {
    match e {
        storage::Error::Compacted { .. } => {
            StatusError::expired("The resourceVersion for the provided watch is too old.")
        }
        // In the words of the store that clients know.
        storage::Error::ValueTooLarge { .. } => {
            let mut e = StatusError::new(500, "", "etcdserver: request is too large");
            e.0.reason = None;
            e
        }
        storage::Error::Indeterminate(_) => {
            StatusError::internal(&e).with_cause(OUTCOME_UNKNOWN, "", e.to_string())
        }
        storage::Error::FutureRevision { requested, current } => too_large_revision(requested, current),
        e if e.retryable() => StatusError::service_unavailable(e.to_string()).with_retry_after(1),
        e => StatusError::internal(e),
    }
}

/// 504 as upstream answers for a revision that is still to come (apiserver/pkg/storage/errors.go).
pub fn too_large_revision(requested: Revision, current: Revision) -> StatusError {
    StatusError::timeout(format!("Too large resource version: {requested}, current: {current}"), 1)
        .with_cause("ResourceVersionTooLarge", "", "Too large resource version")
}
