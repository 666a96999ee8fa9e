//! Checks of what surrounds expressions in CEL; whether they compile is for those who run them.
use machinery::{FieldErrors, names};

use crate::checks;
use crate::tree::At;

const MAX_CONDITIONS: usize = 64;

/// Words that CEL keeps for itself.
const RESERVED: [&str; 19] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
];

/// Checks the conditions under which something is called.
pub(super) fn validate_match_conditions(conditions: &At, errors: &mut FieldErrors) {
    if conditions.len() > MAX_CONDITIONS {
        errors.push(conditions.too_many(MAX_CONDITIONS));
    }
    for (i, condition) in conditions.items().enumerate() {
        let (name, expression) = (condition.field("name"), condition.field("expression"));
        if expression.text().trim().is_empty() {
            errors.push(expression.required(""));
        }
        checks::required_text(&name, names::qualified_name, errors);
        let repeated = conditions.items().take(i).any(|c| c.field("name").text() == name.text());
        if !name.text().is_empty() && repeated {
            errors.push(name.duplicate());
        }
    }
}

/// Checks the variables of a policy.
pub(super) fn validate_variables(variables: &At, errors: &mut FieldErrors) {
    for variable in variables.items() {
        let name = variable.field("name");
        if name.text().trim().is_empty() {
            errors.push(name.required("name is not specified"));
        } else if !is_identifier(name.text()) {
            errors.push(name.invalid("name is not a valid CEL identifier"));
        }
        required_expression(&variable.field("expression"), errors);
    }
}

/// `expression is not specified` where there is none.
pub(super) fn required_expression(expression: &At, errors: &mut FieldErrors) {
    if expression.text().trim().is_empty() {
        errors.push(expression.required("expression is not specified"));
    }
}

fn is_identifier(name: &str) -> bool {
    names::c_identifier(name).is_empty() && !RESERVED.contains(&name)
}
