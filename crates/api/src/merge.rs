//! What the schema table says about strategic merge patches.
use machinery::patch::{MergeField, MergeSchema};

use crate::schema::{self, Shape, Ty, TypeId};

/// The merge rules of one type.
#[derive(Debug, Clone, Copy)]
pub struct TypeMerge(Ty);

impl TypeMerge {
    /// The rules of a named type.
    pub fn new(id: TypeId) -> Self {
        Self(Ty::R(id))
    }
}

/// The rules for what is inside a value: of a list, for its items.
fn inside(ty: Ty) -> Option<Box<dyn MergeSchema>> {
    match ty {
        Ty::A(item) => inside(*item),
        Ty::M(_) => Some(Box::new(TypeMerge(ty))),
        Ty::R(id) => match schema::get(id).shape {
            Shape::Fields(_) => Some(Box::new(TypeMerge(ty))),
            _ => None,
        },
        _ => None,
    }
}

impl MergeSchema for TypeMerge {
    fn name(&self) -> &str {
        match self.0 {
            Ty::R(id) => schema::get(id).short_name(),
            _ => "map",
        }
    }

    fn field(&self, name: &str) -> Option<MergeField<'_>> {
        match self.0 {
            Ty::M(value) => {
                Some(MergeField { schema: inside(*value), merge: false, replace: false, merge_key: "" })
            }
            Ty::R(id) => {
                let field = schema::get(id).field(name)?;
                Some(MergeField {
                    schema: inside(field.ty),
                    merge: field.merge,
                    replace: false,
                    merge_key: field.merge_key,
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use machinery::patch::strategic_merge_patch;
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_merge_by_name_and_tolerations_replace() {
        let id = schema::by_name("io.k8s.api.core.v1.Pod").expect("a type");
        let original = json!({"spec": {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 80, "name": "p"}]}], "tolerations": [{"key": "k"}]}});
        let patch = json!({"spec": {"containers": [{"name": "a", "image": "y", "ports": [{"containerPort": 80, "name": "q"}]}], "tolerations": [{"key": "l"}]}});
        let got = strategic_merge_patch(&original, patch.to_string().as_bytes(), &TypeMerge::new(id));
        assert_eq!(got.map_err(|e| e.to_string()), Ok(patch));
    }

    #[test]
    fn status_maps_merge_and_conditions_merge_by_type() {
        let id = schema::by_name("io.k8s.api.core.v1.Node").expect("a type");
        let original = json!({"status": {"capacity": {"cpu": "1"}, "conditions": [{"type": "Ready", "status": "True"}]}});
        let patch = json!({"status": {"capacity": {"x/y": "2"}, "conditions": [{"type": "NetworkUnavailable", "status": "False"}]}});
        let got = strategic_merge_patch(&original, patch.to_string().as_bytes(), &TypeMerge::new(id));
        assert_eq!(
            got.map_err(|e| e.to_string()),
            Ok(
                json!({"status": {"capacity": {"cpu": "1", "x/y": "2"}, "conditions": [{"type": "NetworkUnavailable", "status": "False"}, {"type": "Ready", "status": "True"}]}})
            )
        );
    }
}
