//! What has to be known of a type to say how its values merge.
use serde_json::Value;

/// A place in a schema: a type, and how its values merge there. What the number means, the schema knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(pub u64);

/// How the values at a place merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One value.
    Scalar(Scalar),
    /// A struct or map whose fields have owners of their own.
    Map,
    /// A struct or map that is one unit.
    AtomicMap,
    /// A list that is one unit.
    AtomicList,
    /// A list of scalars, each with owners of its own.
    Set,
    /// A list of structs that are told apart by keys.
    Keyed,
    /// Nothing is known: the value shows its form; maps merge, lists are one unit.
    Deduced,
}

/// What a scalar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// Text.
    Text,
    /// An integer or floating point number.
    Number,
    /// A boolean.
    Bool,
    /// Any of them.
    Any,
}

/// A field of a struct or an entry of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// Where it is.
    pub place: Place,
    /// The schema names this field; entries of maps have no such name.
    pub named: bool,
    /// It always has a value, if an empty one, where its parent has.
    pub always: bool,
}

/// How the values of a kind merge.
pub trait Schema: Send + Sync {
    /// How values merge at a place.
    fn form(&self, at: Place) -> Form;
    /// The field or entry with this name; `None` where the type has no such field.
    fn child(&self, at: Place, name: &str) -> Option<Child>;
    /// The items of a list.
    fn item(&self, at: Place) -> Place;
    /// The `index`th key of the items of a list.
    fn key(&self, at: Place, index: usize) -> Option<&str>;
    /// What a key is for an item that leaves it out.
    fn key_default(&self, item: Place, key: &str) -> Option<Value>;
}

/// A schema and a place in it.
#[derive(Clone, Copy)]
pub struct Typed<'a> {
    /// The schema.
    pub schema: &'a dyn Schema,
    /// The place.
    pub at: Place,
}

/// How a value is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    /// As one unit.
    Unit,
    /// By its entries.
    Entries,
    /// By its items, each of which has a name.
    Items,
}

impl<'a> Typed<'a> {
    pub(super) fn to(self, at: Place) -> Self {
        Self { at, ..self }
    }

    pub(super) fn form(self) -> Form {
        self.schema.form(self.at)
    }

    /// What a name leads to. Where the type has no such field, what is there shows its form itself.
    pub(super) fn child(self, name: &str) -> (Typed<'a>, Child) {
        match self.schema.child(self.at, name) {
            Some(child) => (self.to(child.place), child),
            None => {
                let child = Child { place: Place(0), named: false, always: false };
                (Typed { schema: &Deduced, at: Place(0) }, child)
            }
        }
    }

    pub(super) fn item(self) -> Self {
        self.to(self.schema.item(self.at))
    }

    /// How a value is walked here. A value that does not have the form it should have is one unit.
    pub(super) fn walk(self, value: &Value) -> Walk {
        match (self.form(), value) {
            (Form::Map | Form::Deduced, Value::Object(_)) => Walk::Entries,
            (Form::Set | Form::Keyed, Value::Array(_)) => Walk::Items,
            _ => Walk::Unit,
        }
    }
}

/// The schema of what has none.
#[derive(Debug, Clone, Copy)]
pub struct Deduced;

impl Schema for Deduced {
    fn form(&self, _at: Place) -> Form {
        Form::Deduced
    }

    fn child(&self, at: Place, _name: &str) -> Option<Child> {
        Some(Child { place: at, named: false, always: false })
    }

    fn item(&self, at: Place) -> Place {
        at
    }

    fn key(&self, _at: Place, _index: usize) -> Option<&str> {
        None
    }

    fn key_default(&self, _item: Place, _key: &str) -> Option<Value> {
        None
    }
}
