//! How the values of built-in kinds merge in server-side apply, from the schema facts.
use machinery::fields::{Child, Form, Place, Scalar, Schema, Typed};
use serde_json::Value;

use crate::schema::{self, Field, List, Shape, Ty, TypeDef, TypeId};

/// The objects of a type; of a kind without one, only the metadata is known.
pub fn typed(schema: Option<TypeId>) -> Typed<'static> {
    Typed { schema: &BuiltIn, at: schema.map_or(CUSTOM, of_type) }
}

/// `ObjectMeta`, for the schemas of custom resources: its places are those of [`BuiltIn`].
pub fn object_meta() -> Place {
    of_type(schema::object_meta())
}

/// Whether a place is one of [`BuiltIn`]; other schemas must not use the numbers it uses.
pub fn is_built_in(at: Place) -> bool {
    at.0 & BUILT_IN != 0
}

/// The schema of all built-in kinds.
#[derive(Debug, Clone, Copy)]
pub struct BuiltIn;

const BUILT_IN: u64 = 1 << 63;
/// A custom resource.
const CUSTOM: Place = Place(BUILT_IN | 1 << 40);
/// What shows its form itself.
const UNKNOWN: Place = Place(BUILT_IN | 2 << 40);
/// Text.
const TEXT: Place = Place(BUILT_IN | 3 << 40);
/// The place is a type, not one of its fields.
const NO_FIELD: u16 = u16::MAX;

fn of_type(id: TypeId) -> Place {
    place(id, NO_FIELD, 0)
}

/// `depth`: how many lists and maps lie between the field and the place.
fn place(id: TypeId, field: u16, depth: u8) -> Place {
    Place(BUILT_IN | u64::from(depth) << 32 | u64::from(field) << 16 | u64::from(id))
}

/// What is at a place.
struct Found {
    id: TypeId,
    index: u16,
    depth: u8,
    ty: Ty,
    /// The field, where the place is the field itself.
    field: Option<&'static Field>,
}

fn find(at: Place) -> Option<Found> {
    if !is_built_in(at) || at.0 >> 40 & 0xff != 0 {
        return None;
    }
    let id = TypeId::try_from(at.0 & 0xffff).ok()?;
    let index = u16::try_from(at.0 >> 16 & 0xffff).ok()?;
    let depth = u8::try_from(at.0 >> 32 & 0xff).ok()?;
    if index == NO_FIELD {
        return Some(Found { id, index, depth, ty: Ty::R(id), field: None });
    }
    let field = schema::get(id).fields().get(usize::from(index))?;
    let mut ty = field.ty;
    for _ in 0..depth {
        ty = match ty {
            Ty::A(inner) | Ty::M(inner) => *inner,
            _ => return None,
        };
    }
    Some(Found { id, index, depth, ty, field: (depth == 0).then_some(field) })
}

impl Found {
    fn inside(&self) -> Place {
        place(self.id, self.index, self.depth + 1)
    }

    fn def(&self) -> Option<&'static TypeDef> {
        match self.ty {
            Ty::R(id) => Some(schema::get(id)),
            _ => None,
        }
    }

    fn form(&self) -> Form {
        let atomic = self.field.is_some_and(|f| f.atomic);
        match self.ty {
            Ty::Str | Ty::Bytes => Form::Scalar(Scalar::Text),
            Ty::Int32 | Ty::Int64 | Ty::Double => Form::Scalar(Scalar::Number),
            Ty::Bool => Form::Scalar(Scalar::Bool),
            Ty::Any => Form::Deduced,
            Ty::M(_) if atomic => Form::AtomicMap,
            Ty::M(_) => Form::Map,
            Ty::A(_) => match self.field.map(|f| (f.list, f.merge, f.merge_key)) {
                Some((List::Set, ..) | (List::Plain, true, "")) => Form::Set,
                Some((List::Map(_), ..) | (List::Plain, true, _)) => Form::Keyed,
                _ => Form::AtomicList,
            },
            Ty::R(id) => {
                let def = schema::get(id);
                match def.shape {
                    Shape::Fields(_) if atomic || def.atomic => Form::AtomicMap,
                    Shape::Fields(_) => Form::Map,
                    Shape::Anything => Form::Deduced,
                    Shape::Quantity | Shape::Time | Shape::MicroTime | Shape::IntOrString => {
                        Form::Scalar(Scalar::Any)
                    }
                }
            }
        }
    }
}

impl Schema for BuiltIn {
    fn form(&self, at: Place) -> Form {
        match at {
            CUSTOM => Form::Map,
            TEXT => Form::Scalar(Scalar::Text),
            _ => find(at).map_or(Form::Deduced, |f| f.form()),
        }
    }

    fn child(&self, at: Place, name: &str) -> Option<Child> {
        let unknown = Child { place: UNKNOWN, named: false, always: false };
        if at == CUSTOM {
            return Some(match name {
                "metadata" => Child { place: object_meta(), named: true, always: false },
                "apiVersion" | "kind" => Child { place: TEXT, named: true, always: false },
                _ => unknown,
            });
        }
        let Some(found) = find(at) else { return Some(unknown) };
        match (found.ty, found.def().map(|d| d.shape)) {
            (Ty::R(id), Some(Shape::Fields(fields))) => {
                let index = fields.binary_search_by(|f| f.name.cmp(name)).ok()?;
                let at = place(id, u16::try_from(index).ok()?, 0);
                Some(Child { place: at, named: true, always: fields[index].always })
            }
            (Ty::M(_), _) => Some(Child { place: found.inside(), named: false, always: false }),
            _ => Some(unknown),
        }
    }

    fn item(&self, at: Place) -> Place {
        match find(at) {
            Some(found) if matches!(found.ty, Ty::A(_)) => found.inside(),
            _ => UNKNOWN,
        }
    }

    fn key(&self, at: Place, index: usize) -> Option<&str> {
        let field = find(at)?.field?;
        match field.list {
            List::Map(keys) => keys.get(index).copied(),
            List::Plain if index == 0 && !field.merge_key.is_empty() => Some(field.merge_key),
            _ => None,
        }
    }

    /// The OpenAPI document leaves these out; they are `+default` in Go (core/v1/types.go).
    fn key_default(&self, item: Place, key: &str) -> Option<Value> {
        match (find(item)?.def()?.name, key) {
            ("io.k8s.api.core.v1.ContainerPort" | "io.k8s.api.core.v1.ServicePort", "protocol") => {
                Some("TCP".into())
            }
            ("io.k8s.api.core.v1.LocalObjectReference", "name") => Some("".into()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
