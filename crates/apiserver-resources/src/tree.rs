//! Reading and filling trees: a cursor that knows its path, and defaults that touch only what is empty.
//!
//! The decoder proved the types of a tree before it comes here, so what is of a wrong type reads as absent, as `null`
//! does. In tests the cursor checks every field name against the schema table.
use std::rc::Rc;

use machinery::{FieldError, FieldPath, Object};
use serde_json::{Map, Value};

/// A JSON object.
pub(crate) type Tree = Map<String, Value>;

#[derive(Debug)]
enum Step {
    Field(&'static str),
    Index(usize),
    Key(String),
}

#[derive(Debug)]
struct Node {
    parent: Option<Rc<Node>>,
    step: Step,
}

impl Node {
    fn path(&self) -> FieldPath {
        let parent = self.parent.as_ref().map_or_else(FieldPath::root, |p| p.path());
        match &self.step {
            Step::Field(name) => parent.child(name),
            Step::Index(i) => parent.index(*i),
            Step::Key(key) => parent.key(key),
        }
    }
}

/// A place in a tree: its value, if there is one, and its path.
#[derive(Debug, Clone)]
pub(crate) struct At<'v> {
    value: Option<&'v Value>,
    root: Option<&'v Tree>,
    node: Option<Rc<Node>>,
    #[cfg(test)]
    ty: Option<api::schema::Ty>,
}

fn not_null(value: &Value) -> bool {
    !value.is_null()
}

impl<'v> At<'v> {
    /// The root of an object.
    pub(crate) fn object(object: &'v Object) -> Self {
        Self {
            value: None,
            root: Some(&object.0),
            node: None,
            #[cfg(test)]
            ty: schema_check::of_object(object),
        }
    }

    fn down(&self, step: Step, value: Option<&'v Value>, #[cfg(test)] ty: Option<api::schema::Ty>) -> Self {
        Self {
            value: value.filter(|v| not_null(v)),
            root: None,
            node: Some(Rc::new(Node { parent: self.node.clone(), step })),
            #[cfg(test)]
            ty,
        }
    }

    /// A field of this struct.
    pub(crate) fn field(&self, name: &'static str) -> Self {
        let value = self.tree().and_then(|t| t.get(name));
        self.down(
            Step::Field(name),
            value,
            #[cfg(test)]
            schema_check::field(self.ty, name),
        )
    }

    /// A place below this one.
    pub(crate) fn fields(&self, names: &[&'static str]) -> Self {
        names.iter().fold(self.clone(), |at, name| at.field(name))
    }

    /// The entry of this map.
    pub(crate) fn key(&self, key: &str) -> Self {
        let value = self.tree().and_then(|t| t.get(key));
        self.down(
            Step::Key(key.to_owned()),
            value,
            #[cfg(test)]
            schema_check::item(self.ty),
        )
    }

    /// The items of this list.
    pub(crate) fn items(&self) -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator + '_ {
        let list: &'v [Value] = self.value.and_then(Value::as_array).map_or(&[], Vec::as_slice);
        list.iter().enumerate().map(|(i, v)| {
            self.down(
                Step::Index(i),
                Some(v),
                #[cfg(test)]
                schema_check::item(self.ty),
            )
        })
    }

    /// The entries of this map.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'v str, Self)> + '_ {
        self.tree().into_iter().flatten().map(|(k, v)| {
            let at = self.down(
                Step::Key(k.clone()),
                Some(v),
                #[cfg(test)]
                schema_check::item(self.ty),
            );
            (k.as_str(), at)
        })
    }

    /// The JSON object here.
    pub(crate) fn tree(&self) -> Option<&'v Tree> {
        self.root.or_else(|| self.value.and_then(Value::as_object))
    }

    /// The value here, unless absent.
    pub(crate) fn get(&self) -> Option<&'v Value> {
        self.value
    }

    /// Whether anything is written here.
    pub(crate) fn exists(&self) -> bool {
        self.value.is_some()
    }

    /// Whether nothing is here, or an empty text, list or map.
    pub(crate) fn is_empty(&self) -> bool {
        is_blank(self.value)
    }

    /// Length of the list here.
    pub(crate) fn len(&self) -> usize {
        self.value.and_then(Value::as_array).map_or(0, Vec::len)
    }

    /// The text here; empty where there is none.
    pub(crate) fn text(&self) -> &'v str {
        self.value.and_then(Value::as_str).unwrap_or("")
    }

    /// The integer here.
    pub(crate) fn int(&self) -> Option<i64> {
        self.value.and_then(Value::as_i64)
    }

    /// The integer here; zero where there is none.
    pub(crate) fn number(&self) -> i64 {
        self.int().unwrap_or(0)
    }

    /// The boolean here.
    pub(crate) fn bool(&self) -> Option<bool> {
        self.value.and_then(Value::as_bool)
    }

    /// Whether `true` is written here.
    pub(crate) fn is_true(&self) -> bool {
        self.bool() == Some(true)
    }

    /// The path.
    pub(crate) fn path(&self) -> FieldPath {
        self.node.as_ref().map_or_else(FieldPath::root, |n| n.path())
    }

    fn shown(&self) -> Value {
        self.value.cloned().unwrap_or_else(|| Value::String(String::new()))
    }

    /// `Required value` here.
    pub(crate) fn required(&self, detail: impl Into<String>) -> FieldError {
        FieldError::required(&self.path(), detail)
    }

    /// `Invalid value` here.
    pub(crate) fn invalid(&self, detail: impl Into<String>) -> FieldError {
        FieldError::invalid(&self.path(), self.shown(), detail)
    }

    /// `Invalid value` here, showing another value than the one that is here.
    pub(crate) fn invalid_as(&self, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        FieldError::invalid(&self.path(), value, detail)
    }

    /// `Too long` here.
    pub(crate) fn too_long(&self, max: usize) -> FieldError {
        FieldError::too_long(&self.path(), max)
    }

    /// `Too many` here.
    pub(crate) fn too_many(&self, max: usize) -> FieldError {
        FieldError::too_many(&self.path(), self.len(), max)
    }

    /// Whether the list here holds this text.
    pub(crate) fn lists(&self, text: &str) -> bool {
        self.items().any(|item| item.text() == text)
    }

    /// `Forbidden` here.
    pub(crate) fn forbidden(&self, detail: impl Into<String>) -> FieldError {
        FieldError::forbidden(&self.path(), detail)
    }

    /// `Duplicate value` here.
    pub(crate) fn duplicate(&self) -> FieldError {
        FieldError::duplicate(&self.path(), self.shown())
    }

    /// `Not found` here.
    pub(crate) fn not_found(&self) -> FieldError {
        FieldError::not_found(&self.path(), self.shown())
    }

    /// `Unsupported value` here.
    pub(crate) fn not_supported(&self, supported: &[&str]) -> FieldError {
        FieldError::not_supported(&self.path(), self.shown(), supported)
    }
}

fn is_blank(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(s)) => s.is_empty(),
        Some(Value::Array(a)) => a.is_empty(),
        Some(Value::Object(o)) => o.is_empty(),
        Some(_) => false,
    }
}

/// Structs that Go embeds by value: an empty one means the same as an absent one.
const VALUE_STRUCTS: [&str; 7] =
    ["resources", "metadata", "strategy", "updateStrategy", "template", "status", "selector"];

fn same_entry(key: &str, a: Option<&Value>, b: Option<&Value>) -> bool {
    let blank = |v: Option<&Value>| match v {
        Some(Value::Object(o)) => o.is_empty() && VALUE_STRUCTS.contains(&key),
        v => is_blank(v),
    };
    (blank(a) && blank(b)) || matches!((a, b), (Some(a), Some(b)) if same_value(a, b))
}

fn same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(k, v)| same_entry(k, Some(v), b.get(k)))
                && b.iter().all(|(k, v)| a.contains_key(k) || same_entry(k, None, Some(v)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_value(a, b))
        }
        _ => a == b,
    }
}

/// Whether two values mean the same, as upstream's semantic equality: nothing, `null`, an empty text and an empty list
/// are equal.
pub(crate) fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    (is_blank(a) && is_blank(b)) || matches!((a, b), (Some(a), Some(b)) if same_value(a, b))
}

/// The struct in a field, where there is one.
pub(crate) fn child<'t>(tree: &'t mut Tree, key: &str) -> Option<&'t mut Tree> {
    tree.get_mut(key)?.as_object_mut()
}

/// The struct in a field, made where there is none.
pub(crate) fn ensure<'t>(tree: &'t mut Tree, key: &str) -> &'t mut Tree {
    let slot = tree.entry(key).or_insert(Value::Null);
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    let Value::Object(map) = slot else { unreachable!("the slot was made an object above") };
    map
}

/// The struct at a path, where there is one.
pub(crate) fn below<'t>(tree: &'t mut Tree, path: &[&str]) -> Option<&'t mut Tree> {
    path.iter().try_fold(tree, |t, key| child(t, key))
}

/// The structs of the list in a field.
pub(crate) fn each<'t>(tree: &'t mut Tree, key: &str) -> impl Iterator<Item = &'t mut Tree> + use<'t> {
    tree.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Fills a text that is absent or empty.
pub(crate) fn default_text(tree: &mut Tree, key: &str, text: &str) {
    if text_of(tree, key).is_empty() && !tree.get(key).is_some_and(|v| !v.is_null() && !v.is_string()) {
        tree.insert(key.to_owned(), text.into());
    }
}

/// Fills a field that is absent.
pub(crate) fn default_value(tree: &mut Tree, key: &str, value: impl Into<Value>) {
    if !has(tree, key) {
        tree.insert(key.to_owned(), value.into());
    }
}

/// Fills a number that is absent or zero.
pub(crate) fn default_number(tree: &mut Tree, key: &str, number: i64) {
    if !has(tree, key) || tree.get(key).and_then(Value::as_i64) == Some(0) {
        tree.insert(key.to_owned(), number.into());
    }
}

/// Fills a struct that is absent with an empty one.
pub(crate) fn default_struct(tree: &mut Tree, key: &str) {
    default_value(tree, key, Map::new());
}

/// Whether a field is written and not `null`.
pub(crate) fn has(tree: &Tree, key: &str) -> bool {
    tree.get(key).is_some_and(not_null)
}

/// The text in a field; empty where there is none.
pub(crate) fn text_of<'t>(tree: &'t Tree, key: &str) -> &'t str {
    tree.get(key).and_then(Value::as_str).unwrap_or("")
}

/// Where an old field holds the first item of a newer list, fills the one from the other; the list wins.
pub(crate) fn sync_first(
    tree: &mut Tree,
    one: &str,
    list: &str,
    to_item: impl Fn(&Value) -> Value,
    from_item: impl Fn(&Value) -> Option<Value>,
) {
    let first = tree.get(list).and_then(Value::as_array).and_then(|items| items.first()).and_then(from_item);
    match (first, tree.get(one)) {
        (Some(first), _) => {
            tree.insert(one.to_owned(), first);
        }
        (None, Some(value)) if !is_blank(Some(value)) => {
            let item = to_item(value);
            tree.insert(list.to_owned(), vec![item].into());
        }
        _ => {}
    }
}

/// Drops a text that is empty, which Go leaves out.
pub(crate) fn drop_empty_text(tree: &mut Tree, key: &str) {
    if tree.get(key).is_some_and(|v| v == "") {
        tree.remove(key);
    }
}

/// Drops flags that Go leaves out when `false`.
pub(crate) fn drop_false(tree: &mut Tree, keys: &[&str]) {
    for key in keys {
        if tree.get(*key) == Some(&Value::Bool(false)) {
            tree.remove(*key);
        }
    }
}

#[cfg(test)]
mod schema_check {
    //! Makes a misspelt field name fail the tests.
    use api::schema::{Shape, Ty, get};
    use machinery::Object;

    pub(super) fn of_object(object: &Object) -> Option<Ty> {
        let (group, version) = object.api_version().split_once('/').unwrap_or(("", object.api_version()));
        api::kinds::by_kind(group, version, object.kind()).and_then(|k| k.schema).map(Ty::R)
    }

    pub(super) fn field(ty: Option<Ty>, name: &str) -> Option<Ty> {
        let Ty::R(id) = ty? else { panic!("no struct here to have field {name}") };
        let def = get(id);
        if !matches!(def.shape, Shape::Fields(_)) {
            return None;
        }
        Some(def.field(name).unwrap_or_else(|| panic!("{} has no field {name}", def.name)).ty)
    }

    pub(super) fn item(ty: Option<Ty>) -> Option<Ty> {
        match ty? {
            Ty::A(item) | Ty::M(item) => Some(*item),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_null_and_empty_mean_the_same() {
        let same = |a: Value, b: Value| same(Some(&a), Some(&b));
        assert!(same(json!({"a": null, "b": ""}), json!({"c": []})));
        assert!(same(json!({"resources": {}}), json!({})));
        assert!(!same(json!({"namespaceSelector": {}}), json!({})));
        assert!(!same(json!({"runAsUser": 0}), json!({})));
        assert!(!same(json!([1, 2]), json!([2, 1])));
    }

    #[test]
    fn a_cursor_knows_its_path() {
        let object = Object::from_value(json!({"a": [{"b": {"k": "v"}}]})).unwrap();
        let root = At::object(&object);
        let item = root.field("a").items().next().unwrap();
        let (key, at) = item.field("b").entries().next().map(|(k, v)| (k.to_owned(), v)).unwrap();
        assert_eq!((key.as_str(), at.text(), at.path().as_str()), ("k", "v", "a[0].b[k]"));
    }

    #[test]
    fn defaults_touch_only_what_is_empty() {
        let Value::Object(mut tree) = json!({"a": "", "b": "x", "c": 0, "d": null}) else { unreachable!() };
        default_text(&mut tree, "a", "1");
        default_text(&mut tree, "b", "1");
        default_number(&mut tree, "c", 3);
        default_value(&mut tree, "d", true);
        assert_eq!(Value::Object(tree), json!({"a": "1", "b": "x", "c": 3, "d": true}));
    }
}
