//! What a stranger can send, each kind of bytes as one function that must neither panic nor run away. The fuzz targets
//! call these, and so does a test in `crates/apiserver` that CI runs, with fewer inputs.
#![allow(dead_code)]
use std::borrow::Cow;
use std::fmt::{Debug, Display};
use std::str::FromStr;

use api::decode::{FieldValidation, Media, Target, decode};
use api::kinds::{KINDS, Kind};
use api::merge::TypeMerge;
use machinery::field_selector::FieldSelector;
use machinery::fields::{self, Managed, Reset, Scope, Typed, Versions};
use machinery::label_selector::LabelSelector;
use machinery::patch::{json_patch, merge_patch, strategic_merge_patch};
use machinery::{Object, Quantity};
use serde_json::Value;

/// The kind that the first byte chooses, and the rest.
fn kind(data: &[u8]) -> Option<(&'static Kind, &[u8])> {
    let (first, rest) = data.split_first()?;
    let with_schema: Vec<&Kind> =
        KINDS.iter().filter(|k| k.schema.is_some() && k.has_verb("create")).collect();
    Some((with_schema.get(usize::from(*first) % with_schema.len())?, rest))
}

fn body(data: &[u8], media: Media) {
    let Some((kind, bytes)) = kind(data) else { return };
    let target = Target::of(kind);
    let custom = Target { schema: None, ..Target::of(kind) };
    for target in [&target, &custom] {
        let read = |bytes: &[u8], media, validation| decode(bytes, media, target, validation).ok();
        let strict = read(bytes, media, FieldValidation::Strict);
        let lax = read(bytes, media, FieldValidation::Ignore);
        if let Some(strict) = strict {
            assert_eq!(lax.as_ref().map(|l| &l.object), Some(&strict.object), "what strict takes is taken");
        }
        if let Some(lax) = lax {
            let again = serde_json::to_vec(&lax.object).expect("a tree has a JSON form");
            let again = read(&again, Media::Json, FieldValidation::Strict).expect("what was checked is good");
            assert_eq!(again.object, lax.object, "decoding is done once and for all");
        }
    }
}

/// A JSON body.
pub fn json(data: &[u8]) {
    body(data, Media::Json);
}

/// A YAML body.
pub fn yaml(data: &[u8]) {
    body(data, Media::Yaml);
}

/// A protobuf body.
pub fn protobuf(data: &[u8]) {
    let Some((kind, bytes)) = kind(data) else { return };
    let target = Target::of(kind);
    let _ = api::proto::decode_delete_options(bytes);
    let Ok(object) = api::proto::decode_protobuf(bytes, &target) else { return };
    let Ok(again) = api::proto::encode_object(&object.0) else { return };
    let again = api::proto::decode_protobuf(&again, &target).expect("what we write can be read");
    assert_eq!(again, object);
}

/// Label and field selectors.
pub fn selectors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(selector) = LabelSelector::parse(text) {
        let canonical = selector.to_string();
        let again = LabelSelector::parse(&canonical).expect("what we write can be read");
        assert_eq!(again.to_string(), canonical);
        assert_eq!(again.matches(|_| None), selector.matches(|_| None));
        assert_eq!(again.matches(|_| Some("a")), selector.matches(|_| Some("a")));
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let _ = selector.matches(|_| Some("a"));
        for requirement in selector.requirements() {
            let _ = selector.exact(&requirement.field);
        }
    }
}

fn reads_back<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let canonical = value.to_string();
        let again = canonical.parse::<T>().ok();
        assert_eq!(again.as_ref(), Some(&value), "{text:?} is {canonical:?}");
    }
}

/// Quantities.
pub fn quantities(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    reads_back::<Quantity>(text);
    let (first, second) = text.split_once(' ').unwrap_or((text, "1"));
    if let (Ok(a), Ok(b)) = (first.parse::<Quantity>(), second.parse::<Quantity>()) {
        let _ = (a.add(&b), a.sub(&b), a.value(), a.milli_value(), a.as_f64(), a.cmp(&b));
    }
}

/// A patch of each type, on an object; a zero byte is between them.
pub fn patches(data: &[u8]) {
    let Some((kind, rest)) = kind(data) else { return };
    let Some(at) = rest.iter().position(|b| *b == 0) else { return };
    let Ok(original) = serde_json::from_slice::<Value>(&rest[..at]) else { return };
    let patch = &rest[at + 1..];
    let mut results = vec![json_patch(&original, patch), merge_patch(&original, patch)];
    if let Some(schema) = kind.schema {
        results.push(strategic_merge_patch(&original, patch, &TypeMerge::new(schema)));
    }
    for patched in results.into_iter().flatten() {
        if let Some(object) = Object::from_value(patched) {
            let _ = api::decode::check_patched(object, kind.schema, FieldValidation::Strict);
        }
    }
}

/// The versions of a kind that has one.
struct One(&'static Kind);

impl Versions for One {
    fn typed(&self, api_version: &str) -> Option<Typed<'_>> {
        (self.0.api_version() == api_version).then(|| api::fields::typed(self.0.schema))
    }

    fn convert<'a>(&self, object: &'a Object, _api_version: &str) -> Cow<'a, Object> {
        Cow::Borrowed(object)
    }
}

/// `managedFields` of an object, and a configuration that is applied to it; a zero byte is between them.
pub fn owned_fields(data: &[u8]) {
    let Some((kind, rest)) = kind(data) else { return };
    let at = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
    let Ok(list) = serde_json::from_slice::<Value>(&rest[..at]) else { return };
    if let Ok(managed) = Managed::decode(Some(&list)) {
        let written = managed.encode();
        let again = Managed::decode(written.as_ref()).expect("what we write can be read");
        assert_eq!(again.encode(), written);
    }
    let mut live = Object::default();
    live.set_type(&kind.api_version(), &kind.kind);
    live.set(&["metadata", "name"], "a");
    live.set(&["metadata", "uid"], "u");
    live.set(&["metadata", "managedFields"], list);
    let (api_version, versions) = (kind.api_version(), One(kind));
    let scope = Scope {
        manager: "me",
        api_version: &api_version,
        subresource: "",
        now: "2026-01-01T00:00:00Z",
        reset: Reset::Below(&[&["status"]]),
    };
    let mut updated = live.clone();
    updated.set(&["metadata", "labels"], serde_json::json!({"a": "b"}));
    fields::update(&versions, &scope, &live, &mut updated);
    let config = rest.get(at + 1..).and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    let Some(mut config) = config.and_then(Object::from_value) else { return };
    config.set_type(&kind.api_version(), &kind.kind);
    if fields::fits(api::fields::typed(kind.schema), &config).is_err() {
        return;
    }
    let Ok(applied) = fields::apply(&versions, &scope, &live, &config, true) else { return };
    // Whoever applies the same again changes nothing.
    let again =
        fields::apply(&versions, &scope, &applied, &config, false).expect("there is nobody to conflict with");
    let without = |mut object: Object| {
        object.remove(&["metadata", "managedFields"]);
        object
    };
    assert_eq!(without(again), without(applied));
}

/// Tokens of `continue`.
pub fn continue_tokens(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok((revision, start)) = apiserver_registry::list::read_token(text) {
        assert!(revision != 0 && !start.is_empty() && !start.split('/').any(|p| p == ".."));
    }
}
