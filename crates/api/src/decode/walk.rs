//! One pass over the input, led by the schema: makes the tree, notes what is wrong and where.
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::scalar;
use crate::schema::{self, Field, Shape, Ty, TypeDef};

/// The deepest nesting: below what the JSON parser takes, so that what was stored can be read again inside a list.
const MAX_DEPTH: u32 = 100;
/// As many problems as upstream reports.
const MAX_PROBLEMS: usize = 100;

/// Where the walk is, and what it found.
pub(super) struct Walk {
    /// Unknown and duplicate fields, in the order of the input.
    pub problems: Vec<String>,
    /// Whether a field was given twice.
    pub duplicates: bool,
    /// Why the input cannot be an object of this type, in Go's words.
    pub error: Option<String>,
    /// YAML tells of duplicates by line, elsewhere.
    pub silent_duplicates: bool,
    report: bool,
    custom: bool,
    path: Vec<Step>,
    depth: u32,
}

enum Step {
    Field(&'static str, &'static TypeDef),
    Key(String),
    Index(usize),
}

impl Walk {
    /// `custom`: the object is a custom resource, all of which is watched for duplicates.
    pub(super) fn new(report: bool, custom: bool) -> Self {
        Self {
            problems: Vec::new(),
            duplicates: false,
            error: None,
            silent_duplicates: false,
            report,
            custom,
            path: Vec::new(),
            depth: 0,
        }
    }

    fn note(&mut self, problem: &str, key: &str) {
        if !self.report || self.problems.len() >= MAX_PROBLEMS {
            return;
        }
        let mut text = format!("{problem} field \"");
        for step in &self.path {
            match step {
                Step::Field(name, _) => {
                    text.push_str(name);
                    text.push('.');
                }
                Step::Key(name) => {
                    text.push_str(name);
                    text.push('.');
                }
                Step::Index(i) => {
                    if text.ends_with('.') {
                        text.pop();
                    }
                    text.push_str(&format!("[{i}]."));
                }
            }
        }
        text.push_str(key);
        text.push('"');
        if !self.problems.contains(&text) {
            self.problems.push(text);
        }
    }

    fn unknown(&mut self, key: &str) {
        self.note("unknown", key);
    }

    fn duplicate(&mut self, key: &str) {
        self.duplicates = true;
        if !self.silent_duplicates {
            self.note("duplicate", key);
        }
    }

    /// Go's `UnmarshalTypeError`, kept aside: the error that travels through serde only ends the walk.
    fn mismatch<E: de::Error>(&mut self, found: &str, wanted: &str) -> E {
        let mut holder = None;
        let mut fields = Vec::new();
        for step in &self.path {
            if let Step::Field(name, def) = step {
                fields.push(*name);
                holder = Some(def.short_name());
            }
        }
        self.fail(match holder {
            Some(holder) => format!(
                "json: cannot unmarshal {found} into Go struct field {holder}.{} of type {wanted}",
                fields.join(".")
            ),
            None => format!("json: cannot unmarshal {found} into Go value of type {wanted}"),
        })
    }

    fn fail<E: de::Error>(&mut self, problem: String) -> E {
        let error = E::custom(&problem);
        self.error.get_or_insert(problem);
        error
    }

    fn enter<E: de::Error>(&mut self) -> Result<(), E> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fail("exceeded max depth".to_owned()));
        }
        Ok(())
    }
}

/// The name Go gives a type.
fn go_type(ty: Ty) -> String {
    match ty {
        Ty::Str => "string".to_owned(),
        Ty::Bytes => "[]uint8".to_owned(),
        Ty::Bool => "bool".to_owned(),
        Ty::Int32 => "int32".to_owned(),
        Ty::Int64 => "int64".to_owned(),
        Ty::Double => "float64".to_owned(),
        Ty::Any => "interface {}".to_owned(),
        Ty::A(item) => format!("[]{}", go_type(*item)),
        Ty::M(value) => format!("map[string]{}", go_type(*value)),
        Ty::R(id) => {
            let name = schema::get(id).name;
            let mut parts = name.rsplit('.');
            let (kind, package) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            format!("{package}.{kind}")
        }
    }
}

/// Reads a value of one type. `None`: null, which Go takes for an absent field.
pub(super) struct Typed<'w> {
    pub walk: &'w mut Walk,
    pub ty: Ty,
    /// The object itself, which tells a custom resource's metadata from a field of that name further down.
    pub root: bool,
}

/// What null is in a list or a map, where it cannot be absent.
fn zero(ty: Ty) -> Value {
    match ty {
        Ty::Str | Ty::Bytes => Value::from(""),
        Ty::Bool => Value::from(false),
        Ty::Int32 | Ty::Int64 | Ty::Double => Value::from(0),
        Ty::Any => Value::Null,
        Ty::A(_) => Value::Array(Vec::new()),
        Ty::M(_) => Value::Object(Map::new()),
        Ty::R(id) => match schema::get(id).shape {
            Shape::Fields(_) => Value::Object(Map::new()),
            Shape::Quantity => Value::from("0"),
            Shape::IntOrString => Value::from(0),
            Shape::Anything | Shape::Time | Shape::MicroTime => Value::Null,
        },
    }
}

fn is_any(ty: Ty) -> bool {
    match ty {
        Ty::Any => true,
        Ty::R(id) => matches!(schema::get(id).shape, Shape::Anything),
        _ => false,
    }
}

fn is_container(ty: Ty) -> bool {
    match ty {
        Ty::Any | Ty::A(_) | Ty::M(_) => true,
        Ty::R(id) => matches!(schema::get(id).shape, Shape::Fields(_) | Shape::Anything),
        _ => false,
    }
}

impl<'de> DeserializeSeed<'de> for Typed<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Typed<'_> {
    fn shape(&self) -> Option<Shape> {
        match self.ty {
            Ty::R(id) => Some(schema::get(id).shape),
            _ => None,
        }
    }

    fn number<E: de::Error>(self, number: Number) -> Result<Option<Value>, E> {
        let wanted = match (self.ty, self.shape()) {
            (Ty::Any, _) | (_, Some(Shape::Anything)) | (Ty::Double, _) => {
                return Ok(Some(number.into()));
            }
            (Ty::Int64, _) if number.is_i64() => return Ok(Some(number.into())),
            (Ty::Int32, _) | (_, Some(Shape::IntOrString))
                if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) =>
            {
                return Ok(Some(number.into()));
            }
            (_, Some(Shape::Quantity)) => {
                return match scalar::quantity(&number.to_string()) {
                    Ok(()) => Ok(Some(Value::from(number.to_string()))),
                    Err(e) => Err(self.walk.fail(e)),
                };
            }
            (_, Some(Shape::IntOrString)) => {
                let problem = format!("json: cannot unmarshal number {number} into Go value of type int32");
                return Err(self.walk.fail(problem));
            }
            (_, Some(Shape::Time | Shape::MicroTime)) => {
                let problem = "json: cannot unmarshal number into Go value of type string";
                return Err(self.walk.fail(problem.to_owned()));
            }
            (Ty::Int32 | Ty::Int64, _) => {
                return Err(self.walk.mismatch(&format!("number {number}"), &go_type(self.ty)));
            }
            (ty, _) => go_type(ty),
        };
        Err(self.walk.mismatch("number", &wanted))
    }

    fn text<E: de::Error>(self, text: &str, owned: Option<String>) -> Result<Option<Value>, E> {
        let checked = match (self.ty, self.shape()) {
            (Ty::Str | Ty::Any, _) | (_, Some(Shape::Anything | Shape::IntOrString)) => Ok(None),
            (Ty::Bytes, _) => scalar::base64(text),
            (_, Some(Shape::Quantity)) => scalar::quantity(text).map(|()| None),
            (_, Some(Shape::Time)) => scalar::time(text),
            (_, Some(Shape::MicroTime)) => scalar::micro_time(text),
            (ty, _) => return Err(self.walk.mismatch("string", &go_type(ty))),
        };
        match checked {
            Ok(None) => Ok(Some(Value::String(owned.unwrap_or_else(|| text.to_owned())))),
            Ok(Some(normal)) => Ok(Some(Value::String(normal))),
            Err(problem) => Err(self.walk.fail(problem)),
        }
    }

    fn fields<'de, A: MapAccess<'de>>(
        self,
        mut map: A,
        def: &'static TypeDef,
    ) -> Result<Option<Value>, A::Error> {
        let mut out = Map::new();
        let mut seen: u128 = 0;
        while let Some(key) = map.next_key_seed(FieldKey(def))? {
            let (index, field) = match key {
                Ok(known) => known,
                Err(name) => {
                    self.walk.unknown(&name);
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let bit = 1_u128.checked_shl(index).unwrap_or(0);
            if seen & bit != 0 {
                self.walk.duplicate(field.name);
            }
            seen |= bit;
            self.walk.path.push(Step::Field(field.name, def));
            let value = map.next_value_seed(Typed { walk: self.walk, ty: field.ty, root: false })?;
            self.walk.path.pop();
            match value {
                Some(value) => {
                    out.insert(field.name.to_owned(), value);
                }
                None => {
                    out.remove(field.name);
                }
            }
        }
        Ok(Some(Value::Object(out)))
    }

    fn entries<'de, A: MapAccess<'de>>(self, mut map: A, ty: Ty) -> Result<Option<Value>, A::Error> {
        let mut out = Map::new();
        let nested = is_container(ty);
        let duplicates = !is_any(ty) || self.walk.custom;
        let quantities = matches!(ty, Ty::R(id) if matches!(schema::get(id).shape, Shape::Quantity));
        while let Some(key) = map.next_key_seed(AnyKey)? {
            if duplicates && out.contains_key(&key) {
                self.walk.duplicate(&key);
            }
            let metadata = self.root && key == "metadata";
            let ty = match key.as_str() {
                "metadata" if self.root => Ty::R(schema::object_meta()),
                "apiVersion" | "kind" if self.root => Ty::Str,
                _ => ty,
            };
            if nested {
                self.walk.path.push(Step::Key(key.clone()));
            }
            let value = map.next_value_seed(Typed { walk: self.walk, ty, root: false })?;
            if nested {
                self.walk.path.pop();
            }
            let value = match value {
                Some(Value::String(text)) if quantities => Value::String(scalar::milli_quantity(text)),
                Some(value) => value,
                None if metadata => continue,
                None => zero(ty),
            };
            out.insert(key, value);
        }
        Ok(Some(Value::Object(out)))
    }
}

impl<'de> Visitor<'de> for Typed<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&go_type(self.ty))
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Self::Value, E> {
        match (self.ty, self.shape()) {
            (Ty::Bool | Ty::Any, _) | (_, Some(Shape::Anything)) => Ok(Some(Value::Bool(v))),
            (_, Some(Shape::IntOrString)) => {
                Err(self.walk.fail("json: cannot unmarshal bool into Go value of type int32".into()))
            }
            (_, Some(Shape::Time | Shape::MicroTime)) => {
                Err(self.walk.fail("json: cannot unmarshal bool into Go value of type string".into()))
            }
            (_, Some(Shape::Quantity)) => Err(self.walk.fail(scalar::not_a_quantity())),
            (ty, _) => Err(self.walk.mismatch("bool", &go_type(ty))),
        }
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Self::Value, E> {
        self.number(v.into())
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Self::Value, E> {
        self.number(v.into())
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Self::Value, E> {
        match Number::from_f64(v) {
            Some(number) => self.number(number),
            None => Err(self.walk.fail(format!("json: unsupported value: {v}"))),
        }
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
        self.text(v, None)
    }

    fn visit_string<E: de::Error>(self, v: String) -> Result<Self::Value, E> {
        // The borrow and the owned text cannot both go in: types that keep the text as it is take the owned one.
        match (self.ty, self.shape()) {
            (Ty::Str | Ty::Any, _) | (_, Some(Shape::Anything | Shape::IntOrString)) => {
                Ok(Some(Value::String(v)))
            }
            _ => self.text(&v, None),
        }
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let item = match (self.ty, self.shape()) {
            (Ty::A(item), _) => *item,
            (Ty::Any, _) | (_, Some(Shape::Anything)) => Ty::Any,
            (_, Some(Shape::IntOrString)) => {
                return Err(self
                    .walk
                    .fail("json: cannot unmarshal array into Go value of type int32".into()));
            }
            (_, Some(Shape::Time | Shape::MicroTime)) => {
                return Err(self
                    .walk
                    .fail("json: cannot unmarshal array into Go value of type string".into()));
            }
            (_, Some(Shape::Quantity)) => return Err(self.walk.fail(scalar::not_a_quantity())),
            (ty, _) => return Err(self.walk.mismatch("array", &go_type(ty))),
        };
        let nested = is_container(item);
        self.walk.enter()?;
        let mut out = Vec::new();
        loop {
            if nested {
                self.walk.path.push(Step::Index(out.len()));
            }
            let next = seq.next_element_seed(Typed { walk: self.walk, ty: item, root: false })?;
            if nested {
                self.walk.path.pop();
            }
            let Some(value) = next else { break };
            out.push(value.unwrap_or_else(|| zero(item)));
        }
        self.walk.depth -= 1;
        Ok(Some(Value::Array(out)))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        self.walk.enter()?;
        match self.ty {
            Ty::M(value) => self.leave(|this| this.entries(map, *value)),
            Ty::Any => self.leave(|this| this.entries(map, Ty::Any)),
            Ty::R(id) => {
                let def = schema::get(id);
                match def.shape {
                    Shape::Fields(_) => self.leave(|this| this.fields(map, def)),
                    Shape::Anything => self.leave(|this| this.entries(map, Ty::Any)),
                    Shape::IntOrString => Err(self
                        .walk
                        .fail("json: cannot unmarshal object into Go value of type int32".into())),
                    Shape::Time | Shape::MicroTime => Err(self
                        .walk
                        .fail("json: cannot unmarshal object into Go value of type string".into())),
                    Shape::Quantity => Err(self.walk.fail(scalar::not_a_quantity())),
                }
            }
            ty => Err(self.walk.mismatch("object", &go_type(ty))),
        }
    }
}

impl Typed<'_> {
    /// Reads what is one level down. An error ends the whole walk, so it may leave the path as it is.
    fn leave<T, E>(self, read: impl FnOnce(Typed<'_>) -> Result<T, E>) -> Result<T, E> {
        let result = read(Typed { walk: &mut *self.walk, ty: self.ty, root: self.root });
        self.walk.depth -= 1;
        result
    }
}

/// A key of a struct: the field with its place, or the name nobody knows.
struct FieldKey(&'static TypeDef);

impl<'de> DeserializeSeed<'de> for FieldKey {
    type Value = Result<(u32, &'static Field), String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldKey {
    type Value = Result<(u32, &'static Field), String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
        let fields = self.0.fields();
        Ok(fields
            .binary_search_by(|f| f.name.cmp(key))
            .map(|i| (u32::try_from(i).unwrap_or(u32::MAX), &fields[i]))
            .map_err(|_| key.to_owned()))
    }
}

/// A key of a map.
struct AnyKey;

impl<'de> DeserializeSeed<'de> for AnyKey {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for AnyKey {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<String, E> {
        Ok(key.to_owned())
    }

    fn visit_string<E: de::Error>(self, key: String) -> Result<String, E> {
        Ok(key)
    }
}
