//! Create, update, patch, delete.
use api::decode::{FieldValidation, Media as BodyMedia, Target};
use api::merge::TypeMerge;
use api::schema::TypeId;
use apiserver_registry::{DeleteOptions, Deleted, Propagation, Store, Stored, Warnings, Write};
use apiserver_watch_cache::CachedObject;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode};
use machinery::gvk::GroupVersionKind;
use machinery::request::RequestInfo;
use machinery::{Object, StatusError, StatusResult, patch};
use serde_json::Value;

use crate::body::{self, Body};
use crate::context::Context;
use crate::field_manager::{field_manager, force, invalid_options};
use crate::negotiate::{Agreed, Form, Media};
use crate::query::Query;
use crate::read;
use crate::respond;

/// How many objects of a collection are deleted at once (`--delete-collection-workers`).
const DELETE_WORKERS: usize = 8;

/// `Content-Type` without parameters; JSON where it is absent.
pub fn content_type(headers: &HeaderMap) -> &str {
    headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split(';').next())
        .map(str::trim)
        .filter(|v| !v.is_empty())
        .unwrap_or("application/json")
}

/// The form of a body. `protobuf`: whether what it is to be has a protobuf form.
pub fn body_media(headers: &HeaderMap, protobuf: bool) -> StatusResult<BodyMedia> {
    match content_type(headers) {
        "application/json" | "*/*" => Ok(BodyMedia::Json),
        "application/yaml" => Ok(BodyMedia::Yaml),
        api::proto::CONTENT_TYPE if protobuf => Ok(BodyMedia::Protobuf),
        _ => Err(StatusError::unsupported_media_type(crate::negotiate::served(protobuf))),
    }
}

fn field_validation(context: &Context) -> StatusResult<FieldValidation> {
    let query = context.query();
    let asked = query.get("fieldValidation");
    FieldValidation::parse(asked).ok_or_else(|| {
        let path = machinery::FieldPath::new("fieldValidation");
        let e = machinery::FieldError::not_supported(&path, asked, &["", "Ignore", "Strict", "Warn"]);
        invalid_options(context, &[e])
    })
}

/// Decodes a body into an object of a kind and checks its fields.
pub fn decode(
    context: &Context,
    bytes: &[u8],
    target: &Target<'_>,
    warnings: &Warnings,
) -> StatusResult<Object> {
    let media = body_media(&context.headers, target.schema.is_some())?;
    let decoded = api::decode::decode(bytes, media, target, field_validation(context)?)?;
    for warning in decoded.warnings {
        warnings.add(warning);
    }
    Ok(decoded.object)
}

/// The facts of a write for the store.
pub fn write<'a>(context: &'a Context, warnings: &'a Warnings) -> StatusResult<Write<'a>> {
    Ok(Write {
        kind: &context.kind,
        namespace: &context.info.namespace,
        name: &context.info.name,
        subresource: &context.info.subresource,
        user: &context.user,
        manager: field_manager(context)?,
        dry_run: context.dry_run()?,
        warnings,
    })
}

/// Answers with what was stored.
pub fn answer(
    context: &Context,
    store: &Store,
    status: StatusCode,
    stored: Stored,
) -> StatusResult<Response<Body>> {
    let agreed = context.negotiate()?;
    let plain = agreed == (Agreed { media: Media::Json, form: Form::Object });
    let response = if plain && context.is_storage_version(store) {
        respond::bytes(status, agreed.media.content_type(), store.json(&stored))
    } else {
        read::one(context, agreed, status, context.from_storage(stored.object))
    };
    Ok(response)
}

/// Serves `create`.
pub async fn create(
    context: &Context,
    store: &Store,
    request: Request<Body>,
) -> StatusResult<Response<Body>> {
    context.negotiate()?;
    let warnings = Warnings::beside(&context.notes);
    let bytes = body::read(request.into_body()).await?;
    let object = decode(context, &bytes, &Target::of(&context.kind), &warnings)?;
    let stored = store.create(&write(context, &warnings)?, context.to_storage(object)).await?;
    answer(context, store, StatusCode::CREATED, stored)
}

/// Serves `update`.
pub async fn update(
    context: &Context,
    store: &Store,
    request: Request<Body>,
) -> StatusResult<Response<Body>> {
    context.negotiate()?;
    let warnings = Warnings::beside(&context.notes);
    let bytes = body::read(request.into_body()).await?;
    let mut object = decode(context, &bytes, &Target::of(&context.kind), &warnings)?;
    if object.name().is_empty() {
        object.set(&["metadata", "name"], context.info.name.as_str());
    }
    if object.name() != context.info.name {
        return Err(StatusError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object.name(),
            context.info.name
        )));
    }
    let object = context.to_storage(object);
    let absent = object.clone();
    let write = write(context, &warnings)?;
    let change = |_: &Object| store.check_conditional(&write, &object).map(|()| object.clone());
    let (stored, created) = store.update(&write, change, Some(absent)).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    answer(context, store, status, stored)
}

/// The patch types that are served.
pub const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    APPLY,
];

/// The content type of server-side apply.
const APPLY: &str = "application/apply-patch+yaml";

/// How a patch is written.
enum PatchType {
    Json,
    Merge,
    Strategic,
}

/// A patch, applied as often as it takes.
pub struct Patch {
    ty: PatchType,
    bytes: Bytes,
}

impl Patch {
    /// Takes a patch by its content type.
    pub fn new(headers: &HeaderMap, bytes: Bytes) -> StatusResult<Self> {
        let ty = match content_type(headers) {
            "application/json-patch+json" => PatchType::Json,
            "application/merge-patch+json" => PatchType::Merge,
            "application/strategic-merge-patch+json" => PatchType::Strategic,
            _ => return Err(StatusError::unsupported_media_type(PATCH_TYPES)),
        };
        Ok(Self { ty, bytes })
    }

    /// Applies it to an object in the version of the request.
    pub fn apply(&self, original: Object, schema: Option<TypeId>) -> StatusResult<Object> {
        let original = original.into_value();
        let patched = match (&self.ty, schema) {
            (PatchType::Json, _) => patch::json_patch(&original, &self.bytes)?,
            (PatchType::Merge, _) => patch::merge_patch(&original, &self.bytes)?,
            (PatchType::Strategic, Some(schema)) => {
                patch::strategic_merge_patch(&original, &self.bytes, &TypeMerge::new(schema))?
            }
            // The type of a custom resource says nothing about merging.
            (PatchType::Strategic, None) => {
                return Err(StatusError::unsupported_media_type(&[PATCH_TYPES[0], PATCH_TYPES[1], APPLY]));
            }
        };
        Object::from_value(patched)
            .ok_or_else(|| StatusError::bad_request("the patch does not leave an object"))
    }
}

/// Whether a patch is a server-side apply.
pub fn is_apply(headers: &HeaderMap) -> bool {
    content_type(headers) == APPLY
}

/// Decodes the configuration of a server-side apply. Second: whether to take fields from their owners.
pub fn applied(
    context: &Context,
    bytes: &[u8],
    target: &Target<'_>,
    warnings: &Warnings,
) -> StatusResult<(Object, bool)> {
    let force = force(context, true)?;
    let decoded = api::decode::decode_applied(bytes, target, field_validation(context)?)?;
    for warning in decoded.warnings {
        warnings.add(warning);
    }
    Ok((decoded.object, force))
}

/// Serves `patch`.
pub async fn patch(context: &Context, store: &Store, request: Request<Body>) -> StatusResult<Response<Body>> {
    context.negotiate()?;
    let warnings = Warnings::beside(&context.notes);
    let headers = request.headers().clone();
    let bytes = body::read(request.into_body()).await?;
    if is_apply(&headers) {
        let (config, force) = applied(context, &bytes, &Target::of(&context.kind), &warnings)?;
        let (stored, created) = store.apply(&write(context, &warnings)?, config, force).await?;
        let status = if created { StatusCode::CREATED } else { StatusCode::OK };
        return answer(context, store, status, stored);
    }
    let patch = Patch::new(&headers, bytes)?;
    force(context, false)?;
    let validation = field_validation(context)?;
    let change = |old: &Object| {
        let current = context.from_storage(old.clone());
        let mut patched = patch.apply(current, context.kind.schema)?;
        // A revision that the patch left alone is not one that the client asked for.
        if patched.resource_version() == old.resource_version() {
            patched.remove(&["metadata", "resourceVersion"]);
        }
        if patched.name() != old.name() {
            return Err(StatusError::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                patched.name(),
                old.name()
            )));
        }
        let checked = api::decode::check_patched(patched, context.kind.schema, validation)?;
        for warning in checked.warnings {
            warnings.add(warning);
        }
        let mut object = checked.object;
        object.set_type(&context.kind.api_version(), &context.kind.kind);
        Ok(context.to_storage(object))
    };
    let (stored, _) = store.update(&write(context, &warnings)?, change, None).await?;
    answer(context, store, StatusCode::OK, stored)
}

/// Reads `DeleteOptions` from body and query.
pub fn delete_options(context: &Context, bytes: &[u8]) -> StatusResult<(DeleteOptions, bool)> {
    let value: Value = if bytes.is_empty() {
        Value::Null
    } else {
        match body_media(&context.headers, true)? {
            BodyMedia::Json => serde_json::from_slice(bytes).map_err(|e| {
                StatusError::bad_request(format!("couldn't get version/kind; json parse error: {e}"))
            })?,
            BodyMedia::Yaml => {
                let text = std::str::from_utf8(bytes).map_err(|e| StatusError::bad_request(e.to_string()))?;
                serde_saphyr::from_str(text).map_err(|e| StatusError::bad_request(e.to_string()))?
            }
            BodyMedia::Protobuf => api::proto::decode_delete_options(bytes)?,
        }
    };
    deletion(context, &value)
}

const IGNORE_READ_ERROR: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

fn ignore_read_error(value: &Value, query: &Query<'_>) -> bool {
    value.get(IGNORE_READ_ERROR).and_then(Value::as_bool).unwrap_or_else(|| query.flag(IGNORE_READ_ERROR))
}

/// Of what cannot be read nothing else can be asked.
fn alone(options: &DeleteOptions, dry_run: bool) -> StatusResult<()> {
    let preconditions = options.uid.is_some() || options.resource_version.is_some();
    let others = [
        ("dryRun", dry_run),
        ("gracePeriodSeconds", options.grace.is_some()),
        ("propagationPolicy", options.propagation.is_some()),
        ("preconditions", preconditions),
    ];
    let path = machinery::FieldPath::new(IGNORE_READ_ERROR);
    let errors: Vec<machinery::FieldError> = others
        .iter()
        .filter(|(_, set)| *set)
        .map(|(name, _)| {
            machinery::FieldError::invalid(&path, true, format!("cannot be set together with .{name}"))
        })
        .collect();
    if errors.is_empty() {
        return Ok(());
    }
    let options = GroupVersionKind::new("meta.k8s.io", "v1", "DeleteOptions");
    Err(StatusError::invalid(&options, "", &errors))
}

/// Reads `DeleteOptions` from a tree and from the query.
pub fn deletion(context: &Context, value: &Value) -> StatusResult<(DeleteOptions, bool)> {
    let query = context.query();
    if !value.is_null() && !value.is_object() {
        return Err(StatusError::bad_request("the body of a deletion must be DeleteOptions"));
    }
    if let Some(kind) = value.get("kind").and_then(Value::as_str)
        && kind != "DeleteOptions"
    {
        return Err(StatusError::bad_request(format!(
            "decoded object cannot be converted to DeleteOptions: {kind}"
        )));
    }
    let policy = match value.get("propagationPolicy").and_then(Value::as_str) {
        Some(policy) => policy.to_owned(),
        None => query.get("propagationPolicy").to_owned(),
    };
    let orphan = value
        .get("orphanDependents")
        .and_then(Value::as_bool)
        .or_else(|| query.has("orphanDependents").then(|| query.flag("orphanDependents")));
    let propagation = match (policy.as_str(), orphan) {
        ("", None) => None,
        ("", Some(true)) => Some(Propagation::Orphan),
        ("", Some(false)) | ("Background", None) => Some(Propagation::Background),
        ("Foreground", None) => Some(Propagation::Foreground),
        ("Orphan", None) => Some(Propagation::Orphan),
        (_, given) => {
            let path = machinery::FieldPath::new("propagationPolicy");
            let e = if given.is_some() {
                machinery::FieldError::invalid(
                    &path,
                    policy.as_str(),
                    "orphanDependents and deletionPropagation cannot be both set",
                )
            } else {
                machinery::FieldError::not_supported(
                    &path,
                    policy.as_str(),
                    &["Foreground", "Background", "Orphan", "nil"],
                )
            };
            return Err(StatusError::invalid(
                &GroupVersionKind::new("meta.k8s.io", "v1", "DeleteOptions"),
                "",
                &[e],
            ));
        }
    };
    let text = |field: &str| value.pointer(field).and_then(Value::as_str).map(str::to_owned);
    let grace = match value.get("gracePeriodSeconds").and_then(Value::as_i64) {
        Some(grace) => Some(grace),
        None => query.integer("gracePeriodSeconds")?,
    };
    let asked = value.get("dryRun").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if let Some(other) = asked.iter().find(|v| *v != "All") {
        let path = machinery::FieldPath::new("dryRun");
        let e = machinery::FieldError::not_supported(&path, other.clone(), &["All"]);
        return Err(StatusError::invalid(
            &GroupVersionKind::new("meta.k8s.io", "v1", "DeleteOptions"),
            "",
            &[e],
        ));
    }
    let dry = !asked.is_empty();
    let options = DeleteOptions {
        grace,
        uid: text("/preconditions/uid"),
        resource_version: text("/preconditions/resourceVersion"),
        propagation,
        ignore_read_error: ignore_read_error(value, &query),
    };
    let dry = dry || context.dry_run()?;
    if options.ignore_read_error {
        alone(&options, dry)?;
    }
    Ok((options, dry))
}

/// Serves `delete`.
pub async fn delete(
    context: &Context,
    store: &Store,
    request: Request<Body>,
) -> StatusResult<Response<Body>> {
    let agreed = context.negotiate()?;
    let bytes = body::read(request.into_body()).await?;
    let (options, dry_run) = delete_options(context, &bytes)?;
    if options.ignore_read_error {
        let verb = "unsafe-delete-ignore-read-errors".to_owned();
        let asked = RequestInfo { verb, ..context.info.clone() };
        context.server.authorize(&context.user, &asked).await?;
    }
    let warnings = Warnings::beside(&context.notes);
    let write = Write { dry_run, ..write(context, &warnings)? };
    let kind = &context.kind;
    let response = match store.delete(&write, &options).await? {
        // A pod that is gone is answered with its last form, as upstream does (`returnDeletedObject`).
        Deleted::Gone(stored) if kind.plural == "pods" && kind.group.is_empty() => {
            read::one(context, agreed, StatusCode::OK, context.from_storage(stored.object))
        }
        Deleted::Gone(stored) => respond::deleted(
            agreed.media,
            &kind.group,
            &kind.plural,
            stored.object.name(),
            stored.object.uid(),
        ),
        Deleted::Pending(stored) => {
            read::one(context, agreed, StatusCode::OK, context.from_storage(stored.object))
        }
    };
    Ok(response)
}

/// Serves `deletecollection`.
pub async fn delete_collection(
    context: &Context,
    store: &Store,
    request: Request<Body>,
) -> StatusResult<Response<Body>> {
    let agreed = context.negotiate()?;
    let bytes = body::read(request.into_body()).await?;
    let (options, dry_run) = delete_options(context, &bytes)?;
    let warnings = Warnings::beside(&context.notes);
    let listed = read::list_options(context)?;
    let page = store.list(&context.info.namespace, &listed).await?;
    for some in page.items.into_vec().chunks(DELETE_WORKERS) {
        let deletions =
            some.iter().map(|item| delete_one(context, store, item, &options, dry_run, &warnings));
        for result in futures::future::join_all(deletions).await {
            match result {
                // Somebody else deleted it first.
                Err(e) if e.code() != 404 => return Err(e),
                _ => {}
            }
        }
    }
    Ok(respond::deleted(agreed.media, &context.kind.group, &context.kind.plural, "", ""))
}

async fn delete_one(
    context: &Context,
    store: &Store,
    item: &CachedObject,
    options: &DeleteOptions,
    dry_run: bool,
    warnings: &Warnings,
) -> StatusResult<Deleted> {
    let write = Write {
        namespace: &item.facts.namespace,
        name: &item.facts.name,
        dry_run,
        ..write(context, warnings)?
    };
    store.delete(&write, options).await
}
