//! v1 ConfigMap: rules on the way in.
use machinery::{FieldErrors, names};

use crate::core::key_value::{self, MAX_SIZE};
use crate::rules::{Facts, Rules};
use crate::tree::At;

/// Rules of config maps.
pub(crate) struct ConfigMap;

impl Rules for ConfigMap {
    const FACTS: Facts = Facts::PLAIN;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let (data, binary) = (object.field("data"), object.field("binaryData"));
        let mut size = 0;
        for (key, value) in data.entries() {
            key_value::check_key(&value, key, names::config_map_key, errors);
            if binary.key(key).exists() {
                errors.push(machinery::FieldError::invalid(
                    &value.path(),
                    key,
                    "duplicate of key present in binaryData",
                ));
            }
            size += value.text().len();
        }
        for (key, value) in binary.entries() {
            key_value::check_key(&value, key, names::config_map_key, errors);
            if data.key(key).exists() {
                errors.push(machinery::FieldError::invalid(
                    &value.path(),
                    key,
                    "duplicate of key present in data",
                ));
            }
            size += key_value::decoded_len(value.text());
        }
        if size > MAX_SIZE {
            errors.push(machinery::FieldError::too_long(&machinery::FieldPath::root(), MAX_SIZE));
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        key_value::check_immutable(new, old, &["data", "binaryData"], errors);
        self.validate(new, errors);
    }
}

#[cfg(test)]
mod tests {
    use machinery::Object;
    use serde_json::{Value, json};

    use crate::strategy_for;

    fn config_map(rest: Value) -> Object {
        let mut object = Object::from_value(rest).unwrap();
        object.set_type("v1", "ConfigMap");
        object
    }

    fn on_update(old: Value, new: Value) -> Vec<String> {
        strategy_for("", "configmaps", "")
            .admit_update(&mut config_map(new), &config_map(old))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn keys_are_file_names_and_appear_once() {
        let mut bad = config_map(json!({"data": {"..": "", "k": "v"}, "binaryData": {"k": "AA=="}}));
        let errors = strategy_for("", "configmaps", "").admit_create(&mut bad);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts[0], "data[..]: Invalid value: \"..\": must not be '..'");
        assert_eq!(texts[1], "data[k]: Invalid value: \"k\": duplicate of key present in binaryData");
        assert_eq!(texts[2], "binaryData[k]: Invalid value: \"k\": duplicate of key present in data");
    }

    #[test]
    fn an_immutable_map_keeps_its_data_and_its_mark() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        assert_eq!(
            on_update(old.clone(), json!({"immutable": true, "data": {"a": "2"}})),
            ["data: Forbidden: field is immutable when `immutable` is set"]
        );
        assert_eq!(
            on_update(old.clone(), json!({"data": {"a": "1"}})),
            ["immutable: Forbidden: field is immutable when `immutable` is set"]
        );
        assert!(
            on_update(
                old,
                json!({"immutable": true, "data": {"a": "1"}, "metadata": {"labels": {"a": "b"}}})
            )
            .is_empty()
        );
    }
}
