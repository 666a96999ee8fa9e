//! v1 Secret: rules on the way in.
use base64::Engine as _;
use machinery::{FieldError, FieldErrors, Object, names};
use serde_json::Value;

use crate::checks;
use crate::core::key_value::{self, MAX_SIZE};
use crate::rules::{Facts, Rules};
use crate::tree::{At, default_text, ensure};

/// Rules of secrets.
pub(crate) struct Secret;

impl Rules for Secret {
    const FACTS: Facts = Facts::PLAIN;

    fn fill_defaults(&self, object: &mut Object) {
        // `stringData` is for writing only: its entries win over those of `data`.
        if let Some(Value::Object(plain)) = object.remove(&["stringData"]) {
            let data = ensure(&mut object.0, "data");
            for (key, value) in plain {
                let text = value.as_str().unwrap_or("");
                data.insert(key, base64::engine::general_purpose::STANDARD.encode(text).into());
            }
        }
        default_text(&mut object.0, "type", "Opaque");
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let data = object.field("data");
        let mut size = 0;
        for (key, value) in data.entries() {
            key_value::check_key(&value, key, names::config_map_key, errors);
            size += key_value::decoded_len(value.text());
        }
        if size > MAX_SIZE {
            errors.push(FieldError::too_long(&data.path(), MAX_SIZE));
        }
        validate_type(object, &data, errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        checks::immutable(&new.field("type"), &old.field("type"), errors);
        key_value::check_immutable(new, old, &["data"], errors);
        self.validate(new, errors);
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![("type", object.str_at(&["type"]).to_owned())]
    }
}

fn decoded(data: &At, key: &str) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(data.key(key).get()?.as_str()?).ok()
}

fn validate_json(data: &At, key: &str, errors: &mut FieldErrors) {
    let at = data.key(key);
    match decoded(data, key) {
        None => errors.push(at.required("")),
        Some(bytes) => {
            if let Err(e) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
                // The content is secret, so the error never shows it.
                errors.push(FieldError::invalid(&at.path(), "<secret contents redacted>", e.to_string()));
            }
        }
    }
}

fn validate_type(object: &At, data: &At, errors: &mut FieldErrors) {
    match object.field("type").text() {
        "kubernetes.io/service-account-token" => {
            let annotations = object.field("metadata").field("annotations");
            let name = annotations.key("kubernetes.io/service-account.name");
            checks::required(&name, errors);
        }
        "kubernetes.io/dockercfg" => validate_json(data, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => validate_json(data, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth" if !data.key("username").exists() && !data.key("password").exists() => {
            errors.push(data.key("username").required(""));
            errors.push(data.key("password").required(""));
        }
        "kubernetes.io/ssh-auth" => checks::required(&data.key("ssh-privatekey"), errors),
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !data.key(key).exists() {
                    errors.push(data.key(key).required(""));
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::strategy_for;

    fn secret(rest: Value) -> Object {
        let mut object = Object::from_value(rest).unwrap();
        object.set_type("v1", "Secret");
        strategy_for("", "secrets", "").fill_defaults(&mut object);
        object
    }

    fn problems(rest: Value) -> Vec<String> {
        strategy_for("", "secrets", "")
            .admit_create(&mut secret(rest))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn plain_text_wins_over_encoded_text_and_is_not_kept() {
        let s = secret(json!({"data": {"a": "eA==", "b": "eQ=="}, "stringData": {"a": "z"}}));
        assert_eq!(s.at(&["data"]), Some(&json!({"a": "eg==", "b": "eQ=="})));
        assert_eq!((s.at(&["stringData"]), s.str_at(&["type"])), (None, "Opaque"));
    }

    #[test]
    fn each_type_has_its_keys() {
        assert!(problems(json!({"data": {"a": "eA=="}})).is_empty());
        assert_eq!(
            problems(json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}})),
            ["data[tls.key]: Required value"]
        );
        assert_eq!(
            problems(json!({"type": "kubernetes.io/service-account-token"})),
            ["metadata.annotations[kubernetes.io/service-account.name]: Required value"]
        );
    }

    #[test]
    fn the_type_stays() {
        let mut new = secret(json!({"type": "b"}));
        let errors = strategy_for("", "secrets", "").admit_update(&mut new, &secret(json!({"type": "a"})));
        assert_eq!(errors[0].to_string(), "type: Invalid value: \"b\": field is immutable");
    }
}
