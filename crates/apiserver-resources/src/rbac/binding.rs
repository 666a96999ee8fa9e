//! rbac.authorization.k8s.io/v1 RoleBinding and ClusterRoleBinding: rules on the way in.
use machinery::{FieldErrors, Object, names};

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::{At, child, default_text, each, same, text_of};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Rules of role bindings.
pub(crate) struct RoleBinding;

/// Rules of cluster role bindings.
pub(crate) struct ClusterRoleBinding;

fn fill(object: &mut Object) {
    if let Some(role) = child(&mut object.0, "roleRef") {
        default_text(role, "apiGroup", GROUP);
    }
    for subject in each(&mut object.0, "subjects") {
        if matches!(text_of(subject, "kind"), "User" | "Group") {
            default_text(subject, "apiGroup", GROUP);
        }
    }
}

fn validate_binding(object: &At, roles: &[&str], namespaced: bool, errors: &mut FieldErrors) {
    let role = object.field("roleRef");
    checks::one_of(&role.field("apiGroup"), &[GROUP], errors);
    checks::one_of(&role.field("kind"), roles, errors);
    let name = role.field("name");
    if name.text().is_empty() {
        errors.push(name.required(""));
    } else {
        checks::text_rule(&name, names::path_segment, errors);
    }
    for subject in object.field("subjects").items() {
        validate_subject(&subject, namespaced, errors);
    }
}

fn validate_subject(subject: &At, namespaced: bool, errors: &mut FieldErrors) {
    let (kind, name, group) = (subject.field("kind"), subject.field("name"), subject.field("apiGroup"));
    if name.text().is_empty() {
        errors.push(name.required(""));
    }
    match kind.text() {
        "ServiceAccount" => {
            if !name.text().is_empty() {
                checks::text_rule(&name, names::dns1123_subdomain, errors);
            }
            if !group.text().is_empty() {
                errors.push(group.not_supported(&[""]));
            }
            if !namespaced && subject.field("namespace").is_empty() {
                errors.push(subject.field("namespace").required(""));
            }
        }
        "User" | "Group" => {
            if group.text() != GROUP {
                errors.push(group.not_supported(&[GROUP]));
            }
        }
        _ => errors.push(kind.not_supported(&["ServiceAccount", "User", "Group"])),
    }
}

fn validate_change(new: &At, old: &At, errors: &mut FieldErrors) {
    if !same(new.field("roleRef").get(), old.field("roleRef").get()) {
        errors.push(new.field("roleRef").invalid("cannot change roleRef"));
    }
}

impl Rules for RoleBinding {
    const FACTS: Facts = Facts::PLAIN;

    fn fill_defaults(&self, object: &mut Object) {
        fill(object);
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_binding(object, &["Role", "ClusterRole"], true, errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        validate_change(new, old, errors);
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

impl Rules for ClusterRoleBinding {
    const FACTS: Facts = Facts::PLAIN;

    fn fill_defaults(&self, object: &mut Object) {
        fill(object);
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_binding(object, &["ClusterRole"], false, errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        validate_change(new, old, errors);
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::strategy_for;

    fn binding() -> Object {
        let mut object = Object::from_value(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "b", "namespace": "n"}, "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]}))
        .unwrap();
        strategy_for(GROUP, "rolebindings", "").fill_defaults(&mut object);
        object
    }

    #[test]
    fn groups_are_filled_in() {
        let mut b = binding();
        assert_eq!(b.str_at(&["roleRef", "apiGroup"]), GROUP);
        assert_eq!(b.list_at(&["subjects"])[0]["apiGroup"], GROUP);
        assert_eq!(b.list_at(&["subjects"])[1].get("apiGroup"), None);
        assert!(strategy_for(GROUP, "rolebindings", "").admit_create(&mut b).is_empty());
    }

    #[test]
    fn the_role_stays() {
        let mut new = binding();
        new.set(&["roleRef", "name"], "other");
        let errors = strategy_for(GROUP, "rolebindings", "").admit_update(&mut new, &binding());
        assert_eq!(
            errors[0].to_string(),
            "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Role\",\"name\":\"other\"}: cannot change roleRef"
        );
    }
}
