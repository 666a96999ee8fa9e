//! The facts of the OpenAPI document about types: fields, list and patch semantics.

use crate::generated::schema::TYPES;

/// Index of a type in the schema table.
pub type TypeId = u16;

/// One named type.
#[derive(Debug)]
pub struct TypeDef {
    /// Definition name, for example `io.k8s.api.core.v1.PodSpec`.
    pub name: &'static str,
    /// What its JSON looks like.
    pub shape: Shape,
    /// Server-side apply treats a value of this type as one unit.
    pub atomic: bool,
}

impl TypeDef {
    /// Name of the type without its package, as Go names it.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// The fields by name; empty where the shape is no struct.
    pub fn fields(&self) -> &'static [Field] {
        match self.shape {
            Shape::Fields(fields) => fields,
            _ => &[],
        }
    }

    /// Finds a field. Fields are sorted by name.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        let fields = self.fields();
        fields.binary_search_by(|f| f.name.cmp(name)).ok().map(|i| &fields[i])
    }
}

/// What the JSON of a named type looks like.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// An object with these fields, sorted by name.
    Fields(&'static [Field]),
    /// Any JSON value, kept as it is.
    Anything,
    /// A quantity: string or number.
    Quantity,
    /// RFC 3339 with whole seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// An integer or a string.
    IntOrString,
}

/// One field of a struct.
#[derive(Debug)]
pub struct Field {
    /// JSON name.
    pub name: &'static str,
    /// Type of the value.
    pub ty: Ty,
    /// Whether Go always writes it.
    pub required: bool,
    /// How lists merge in server-side apply.
    pub list: List,
    /// Key that identifies an item in a strategic merge patch; empty: none.
    pub merge_key: &'static str,
    /// Strategic merge patch merges this list or map instead of replacing it.
    pub merge: bool,
    /// Strategic merge patch drops what `$retainKeys` does not name.
    pub retain_keys: bool,
    /// Server-side apply treats this map as one unit.
    pub atomic: bool,
    /// Go always has a value here, if an empty one: a struct that is no pointer, a list or map that is never left out.
    pub always: bool,
}

/// Type of a field's value.
#[derive(Debug, Clone, Copy)]
pub enum Ty {
    /// A string.
    Str,
    /// Base64 text.
    Bytes,
    /// A boolean.
    Bool,
    /// 32-bit signed integer.
    Int32,
    /// 64-bit signed integer.
    Int64,
    /// A floating point number.
    Double,
    /// Any JSON value.
    Any,
    /// A named type.
    R(TypeId),
    /// A list.
    A(&'static Ty),
    /// A map from string.
    M(&'static Ty),
}

/// `x-kubernetes-list-type` of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// Nothing is said; for a list this means atomic.
    Plain,
    /// Replaced as a whole.
    Atomic,
    /// Scalars without repetition.
    Set,
    /// Objects identified by these keys.
    Map(&'static [&'static str]),
}

/// The type with this index.
pub fn get(id: TypeId) -> &'static TypeDef {
    &TYPES[usize::from(id)]
}

/// Finds a type by its definition name.
pub fn by_name(name: &str) -> Option<TypeId> {
    TYPES.binary_search_by(|t| t.name.cmp(name)).ok().and_then(|i| TypeId::try_from(i).ok())
}

/// The index of `ObjectMeta`.
pub fn object_meta() -> TypeId {
    by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("the table has ObjectMeta")
}
