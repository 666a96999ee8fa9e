//! The facts of the proto files about messages: numbers, types, and what becomes of zero values.
use crate::generated::proto::MESSAGES;

/// Index of a message in the table.
pub type MessageId = u16;

/// One message.
#[derive(Debug)]
pub struct Message {
    /// Name of the type, as the schema table has it.
    pub name: &'static str,
    /// What its JSON looks like.
    pub form: Form,
    /// The fields by number.
    pub fields: &'static [Field],
}

impl Message {
    /// Finds a field by its number.
    pub fn field(&self, number: u32) -> Option<&'static Field> {
        let at = self.fields.binary_search_by_key(&number, |f| f.number);
        at.ok().map(|i| &self.fields[i])
    }
}

/// What the JSON of a message looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// An object of its fields.
    Plain,
    /// RFC 3339 with whole seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// The text alone.
    Quantity,
    /// An integer or a string.
    IntOrString,
    /// Any object: JSON, or a message in an envelope.
    Raw,
    /// Any JSON.
    Json,
    /// The list alone.
    Items,
    /// A schema or a list.
    OrArray,
    /// A schema or a boolean.
    OrBool,
}

/// One field.
#[derive(Debug)]
pub struct Field {
    /// Number on the wire.
    pub number: u32,
    /// JSON name.
    pub name: &'static str,
    /// Type of one value.
    pub ty: Ty,
    /// How many values there are, and where they go.
    pub many: Many,
    /// A zero value means something: in Go the field is a pointer, or it is required. Go writes all other fields even
    /// when they were not set.
    pub keep: bool,
}

/// Type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    /// Text.
    Str,
    /// Bytes; base64 in JSON.
    Bytes,
    /// A boolean.
    Bool,
    /// 32-bit signed integer.
    Int32,
    /// 64-bit signed integer.
    Int64,
    /// A floating point number.
    Double,
    /// A message.
    M(MessageId),
}

/// How many values a field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Many {
    /// At most one.
    One,
    /// A list.
    List,
    /// A map from text.
    Map,
    /// One message whose fields lie in the JSON object of its parent.
    Inline,
}

/// The message with this index.
pub fn get(id: MessageId) -> &'static Message {
    &MESSAGES[usize::from(id)]
}

/// Finds a message by the name of its type.
pub fn by_name(name: &str) -> Option<MessageId> {
    let at = MESSAGES.binary_search_by(|m| m.name.cmp(name));
    at.ok().and_then(|i| MessageId::try_from(i).ok())
}

/// Finds the message of a kind, of the list of a kind, or of what every group speaks (`Status`, `DeleteOptions`).
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<MessageId> {
    if let Some(id) = crate::kinds::by_kind(group, version, kind).and_then(|k| k.schema) {
        return by_name(crate::schema::get(id).name);
    }
    if let Some(items) = kind.strip_suffix("List")
        && let Some(id) = crate::kinds::by_kind(group, version, items).and_then(|k| k.schema)
    {
        return by_name(&format!("{}List", crate::schema::get(id).name));
    }
    let meta = |kind: &str| by_name(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"));
    match (group, version, kind) {
        (
            "" | "meta.k8s.io",
            "v1",
            "Status" | "APIVersions" | "APIGroup" | "APIGroupList" | "APIResourceList",
        ) => meta(kind),
        ("meta.k8s.io", "v1", "PartialObjectMetadata" | "PartialObjectMetadataList") => meta(kind),
        (_, _, "DeleteOptions") => meta(kind),
        // What subresources speak and no resource is.
        _ => {
            let subresources = crate::generated::kinds::KINDS.iter().flat_map(|k| k.subresources.iter());
            let mut found =
                subresources.filter(|s| s.group == group && s.version == version && s.kind == kind);
            by_name(crate::schema::get(found.find_map(|s| s.schema)?).name)
        }
    }
}
