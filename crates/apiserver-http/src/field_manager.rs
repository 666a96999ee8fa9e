//! Who owns what a request sets: the parameters `fieldManager` and `force`.
use http::header::USER_AGENT;
use machinery::gvk::GroupVersionKind;
use machinery::{FieldError, FieldPath, StatusError, StatusResult};

use crate::context::{Context, options_kind};

/// The longest name of a field manager (apimachinery/pkg/apis/meta/v1/validation, `FieldManagerMaxLength`).
const MAX_MANAGER: usize = 128;

/// Who owns what this request sets: the parameter `fieldManager`, or the first word of the user agent.
pub fn field_manager(context: &Context) -> StatusResult<String> {
    let query = context.query();
    let asked = query.get("fieldManager");
    if asked.is_empty() {
        let agent = context.headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("");
        let manager = manager_of_agent(agent);
        return Ok(if manager.is_empty() { "unknown".to_owned() } else { manager });
    }
    let path = FieldPath::new("fieldManager");
    let mut errors = Vec::new();
    if asked.len() > MAX_MANAGER {
        errors.push(FieldError::too_long(&path, MAX_MANAGER));
    }
    for (i, c) in asked.char_indices().filter(|(_, c)| !is_print(*c)) {
        let problem = format!("invalid character {} (at position {i})", describe(c));
        errors.push(FieldError::invalid(&path, asked, problem));
    }
    if errors.is_empty() { Ok(asked.to_owned()) } else { Err(invalid_options(context, &errors)) }
}

/// What Go takes for printable, as far as names of managers go.
fn is_print(c: char) -> bool {
    c == ' ' || !(c.is_control() || c.is_whitespace())
}

/// Go's `%#U`.
fn describe(c: char) -> String {
    format!("U+{:04X}", u32::from(c))
}

fn manager_of_agent(agent: &str) -> String {
    let mut manager = String::new();
    for c in agent.split('/').next().unwrap_or("").chars().filter(|c| is_print(*c)) {
        if manager.len() + c.len_utf8() > MAX_MANAGER {
            break;
        }
        manager.push(c);
    }
    manager
}

/// 422 about the options of a request.
pub fn invalid_options(context: &Context, errors: &[FieldError]) -> StatusError {
    let options = GroupVersionKind::new("meta.k8s.io", "v1", options_kind(&context.info.verb));
    StatusError::invalid(&options, "", errors)
}

/// `force` of a patch. An apply needs a `fieldManager` of its own; other patches know no force.
pub fn force(context: &Context, applies: bool) -> StatusResult<bool> {
    let query = context.query();
    let mut errors = Vec::new();
    if applies && query.get("fieldManager").is_empty() {
        let path = FieldPath::new("fieldManager");
        errors.push(FieldError::required(&path, "is required for apply patch"));
    }
    if !applies && query.has("force") {
        let path = FieldPath::new("force");
        errors.push(FieldError::forbidden(&path, "may not be specified for non-apply patch"));
    }
    if errors.is_empty() { Ok(query.flag("force")) } else { Err(invalid_options(context, &errors)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_agent_names_the_manager() {
        for (agent, manager) in [
            ("kubectl/v1.36.0 (linux/amd64) kubernetes/abc", "kubectl"),
            ("kube-controller-manager", "kube-controller-manager"),
            ("", ""),
            ("a\tb c/1", "ab c"),
        ] {
            assert_eq!(manager_of_agent(agent), manager, "{agent:?}");
        }
        assert_eq!(manager_of_agent(&"x".repeat(200)).len(), 128);
        assert_eq!(manager_of_agent(&"ü".repeat(65)).chars().count(), 64);
    }
}
