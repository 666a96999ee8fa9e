//! Runs the tables under `cases/`: for each kind a good object, its defaults, and changes that are wrong.
//!
//! A file names its kind (`apps/v1/Deployment`) and gives a `good` object. Each row of `create` is a merge patch over
//! it (`with`), the `errors` it earns, and what it is `then`, by JSON pointer. Rows of `update` and of subresources
//! have a patch for the old object (`from`) too. An error that ends in `…` may go on.
use std::collections::BTreeSet;
use std::path::PathBuf;

use api::kinds::Kind;
use machinery::{FieldErrors, Object, patch};
use serde_json::{Value, json};

use crate::{name_rule, strategy_for, validate_object_meta, validate_object_meta_update};

struct Case {
    kind: &'static Kind,
    good: Value,
    file: String,
}

fn rows<'v>(file: &'v Value, table: &str) -> &'v [Value] {
    file.get(table).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

impl Case {
    fn new(name: &str, file: &Value) -> Self {
        let full = file["kind"].as_str().unwrap_or_default();
        let (api_version, kind) = full.rsplit_once('/').unwrap_or_default();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = api::kinds::by_kind(group, version, kind).unwrap_or_else(|| panic!("{name}: no {full}"));
        Self { kind, good: file["good"].clone(), file: name.to_owned() }
    }

    /// The good object, patched, as the store has it before the rules run.
    fn object(&self, patches: &[Option<&Value>]) -> Object {
        let mut value = json!({"metadata": {"name": "x", "uid": "u"}});
        if self.kind.namespaced {
            value["metadata"]["namespace"] = "default".into();
        }
        for part in [Some(&self.good)].iter().chain(patches).flatten() {
            value = patch::merge_patch(&value, &serde_json::to_vec(part).unwrap()).unwrap();
        }
        let mut object = Object::from_value(value).unwrap();
        object.set_type(&self.kind.api_version(), &self.kind.kind);
        let mut value = object.into_value();
        let problems = api::decode::check(self.kind.schema, &mut value);
        assert_eq!(problems, Ok(Vec::new()), "{}: {patches:?}", self.file);
        Object::from_value(value).unwrap()
    }

    fn create(&self, mut object: Object) -> (Object, FieldErrors) {
        let strategy = strategy_for(&self.kind.group, &self.kind.plural, "");
        strategy.fill_defaults(&mut object);
        let mut errors = strategy.admit_create(&mut object);
        let rule = name_rule(&self.kind.group, &self.kind.plural);
        errors.splice(0..0, validate_object_meta(&object, self.kind.namespaced, rule));
        (object, errors)
    }

    fn update(&self, subresource: &str, mut new: Object, old: &Object) -> (Object, FieldErrors) {
        let strategy = strategy_for(&self.kind.group, &self.kind.plural, subresource);
        strategy.fill_defaults(&mut new);
        let mut errors = strategy.admit_update(&mut new, old);
        errors.splice(0..0, validate_object_meta_update(&new, old));
        (new, errors)
    }

    /// An object that is stored already; its rules may have been others then.
    fn stored(&self, from: Option<&Value>) -> Object {
        let status = from.and_then(|f| f.get("status")).cloned();
        let (mut object, _) = self.create(self.object(&[from]));
        if let Some(status) = status {
            let with = json!({ "status": status });
            let merged =
                patch::merge_patch(&object.into_value(), &serde_json::to_vec(&with).unwrap()).unwrap();
            object = Object::from_value(merged).unwrap();
        }
        object
    }

    fn judge(&self, row: &Value, object: &Object, errors: &FieldErrors) {
        let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let wanted: Vec<&str> = rows(row, "errors").iter().filter_map(Value::as_str).collect();
        let fits = |(found, wanted): (&String, &&str)| match wanted.strip_suffix('…') {
            Some(start) => found.starts_with(start),
            None => found == wanted,
        };
        let same = found.len() == wanted.len() && found.iter().zip(&wanted).all(fits);
        assert!(same, "{}: {}\n   found {found:#?}\n  wanted {wanted:#?}", self.file, row["with"]);
        let tree = Value::Object(object.0.clone());
        for (pointer, wanted) in row.get("then").and_then(Value::as_object).into_iter().flatten() {
            let found = tree.pointer(pointer).cloned().unwrap_or(Value::Null);
            assert_eq!(&found, wanted, "{}: {} {pointer}", self.file, row["with"]);
        }
    }

    fn run(&self, file: &Value) {
        let (good, errors) = self.create(self.object(&[]));
        assert_eq!(errors, [], "{}: the good one", self.file);
        assert_eq!(self.update("", good.clone(), &good).1, [], "{}: no change", self.file);
        for row in rows(file, "create") {
            let (object, errors) = self.create(self.object(&[row.get("with")]));
            self.judge(row, &object, &errors);
        }
        let subresources = self.kind.subresources.iter().map(|s| &*s.name);
        for subresource in [""].into_iter().chain(subresources) {
            let table = if subresource.is_empty() { "update" } else { subresource };
            for row in rows(file, table) {
                let old = self.stored(row.get("from"));
                let bytes = serde_json::to_vec(&row["with"]).unwrap();
                let new = patch::merge_patch(&Value::Object(old.0.clone()), &bytes).unwrap();
                let (new, errors) = self.update(subresource, Object::from_value(new).unwrap(), &old);
                self.judge(row, &new, &errors);
            }
        }
    }
}

fn files() -> Vec<(String, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut all: Vec<(String, Value)> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let value = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
            (name, value)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn every_kind_fills_and_refuses_as_upstream() {
    let failed: Vec<String> = files()
        .iter()
        .filter_map(|(name, file)| {
            let run = || Case::new(name, file).run(file);
            let problem = std::panic::catch_unwind(run).err()?;
            let text = problem.downcast_ref::<String>().cloned();
            Some(text.or_else(|| problem.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn every_kind_has_a_table() {
    let tabled: BTreeSet<String> =
        files().iter().filter_map(|(_, file)| Some(file["kind"].as_str()?.to_owned())).collect();
    let kinds = api::kinds::KINDS.iter().filter(|k| k.served_by_default() && k.has_verb("update"));
    let without: Vec<String> = kinds
        .map(|k| format!("{}/{}", k.api_version(), k.kind))
        // Kept as v1 Event and autoscaling/v2, which have theirs; the last one is served by an aggregator.
        .filter(|k| {
            !matches!(
                k.as_str(),
                "events.k8s.io/v1/Event"
                    | "autoscaling/v1/HorizontalPodAutoscaler"
                    | "apiregistration.k8s.io/v1/APIService"
            )
        })
        .filter(|k| !tabled.contains(k))
        .collect();
    assert_eq!(without, [""; 0]);
}
