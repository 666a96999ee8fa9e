//! What names, label keys and values may look like. Each check gives all problems, in upstream's words
//! (apimachinery/pkg/util/validation); none means valid.
use rand::seq::IndexedRandom;

const LABEL_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_MSG: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const SUBDOMAIN_MSG: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const DNS1035_FMT: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const DNS1035_MSG: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const QUALIFIED_FMT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_MSG: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE_FMT: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const LABEL_VALUE_MSG: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const WILDCARD_MSG: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
const C_IDENTIFIER_MSG: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
const ENV_MSG: &str = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit";
const RELAXED_ENV_MSG: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
const CONFIG_KEY_MSG: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
const HTTP_HEADER_MSG: &str = "a valid HTTP header must consist of alphanumeric characters or '-'";
const PERCENT_MSG: &str = "a valid percent string must be a numeric string followed by an ending '%'";

/// Longest DNS label and label value.
pub const MAX_LABEL: usize = 63;
/// Longest DNS subdomain.
pub const MAX_SUBDOMAIN: usize = 253;

/// What is said of a text that is too long.
pub fn max_len_error(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// What is said of a text that does not match a pattern.
pub fn regex_error(msg: &str, fmt: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{msg} (regex used for validation is '{fmt}')");
    }
    let mut text = format!("{msg} (e.g. ");
    for (i, example) in examples.iter().enumerate() {
        if i > 0 {
            text.push_str(" or ");
        }
        text.push_str(&format!("'{example}', "));
    }
    text.push_str(&format!("regex used for validation is '{fmt}')"));
    text
}

fn is_lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Non-empty; inside as `inside` says, first and last as `edge` says.
fn bounded_by(text: &str, edge: impl Fn(u8) -> bool, inside: impl Fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        [one] => edge(*one),
        [first, middle @ .., last] => edge(*first) && edge(*last) && middle.iter().all(|&b| inside(b)),
    }
}

fn is_label(text: &str) -> bool {
    bounded_by(text, is_lower_alnum, |b| is_lower_alnum(b) || b == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_qualified_part(text: &str) -> bool {
    bounded_by(text, |b| b.is_ascii_alphanumeric(), |b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// A lower-case RFC 1123 label.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > MAX_LABEL {
        errors.push(max_len_error(MAX_LABEL));
    }
    if !is_label(value) {
        errors.push(if is_subdomain(value) {
            "must not contain dots".to_owned()
        } else {
            regex_error(LABEL_MSG, LABEL_FMT, &["my-name", "123-abc"])
        });
    }
    errors
}

/// A lower-case RFC 1123 subdomain.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > MAX_SUBDOMAIN {
        errors.push(max_len_error(MAX_SUBDOMAIN));
    }
    if !is_subdomain(value) {
        errors.push(regex_error(SUBDOMAIN_MSG, SUBDOMAIN_FMT, &["example.com"]));
    }
    errors
}

/// A subdomain that starts with `*.`.
pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > MAX_SUBDOMAIN {
        errors.push(max_len_error(MAX_SUBDOMAIN));
    }
    if !value.strip_prefix("*.").is_some_and(is_subdomain) {
        errors.push(regex_error(WILDCARD_MSG, &format!("\\*\\.{SUBDOMAIN_FMT}"), &["*.example.com"]));
    }
    errors
}

/// A lower-case RFC 1035 label.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > MAX_LABEL {
        errors.push(max_len_error(MAX_LABEL));
    }
    if !(is_label(value) && value.as_bytes()[0].is_ascii_lowercase()) {
        errors.push(regex_error(DNS1035_MSG, DNS1035_FMT, &["my-name", "abc-123"]));
    }
    errors
}

/// A fully qualified domain name: a subdomain of at least two labels.
pub fn fully_qualified_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["Required value".to_owned()];
    }
    let errors = dns1123_subdomain(value);
    if !errors.is_empty() {
        return errors;
    }
    if value.split('.').count() < 3 {
        return vec!["should be a domain with at least three segments separated by dots".to_owned()];
    }
    Vec::new()
}

/// A key of labels, annotations and the like: `[subdomain/]name`.
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let examples = ["MyName", "my.name", "123-abc"];
    let mut parts = value.split('/');
    let (first, second, third) = (parts.next().unwrap_or(""), parts.next(), parts.next());
    let name = match (second, third) {
        (None, _) => first,
        (Some(name), None) => {
            if first.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(dns1123_subdomain(first).into_iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        (Some(_), Some(_)) => {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_error(QUALIFIED_MSG, QUALIFIED_FMT, &examples)
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > MAX_LABEL {
        errors.push(format!("name part {}", max_len_error(MAX_LABEL)));
    }
    if !is_qualified_part(name) {
        errors.push(format!("name part {}", regex_error(QUALIFIED_MSG, QUALIFIED_FMT, &examples)));
    }
    errors
}

/// The value of a label.
pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > MAX_LABEL {
        errors.push(max_len_error(MAX_LABEL));
    }
    if !(value.is_empty() || is_qualified_part(value)) {
        errors.push(regex_error(LABEL_VALUE_MSG, LABEL_VALUE_FMT, &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// An identifier of the C language.
pub fn c_identifier(value: &str) -> Vec<String> {
    let ok = match value.as_bytes() {
        [first, rest @ ..] => {
            (first.is_ascii_alphabetic() || *first == b'_')
                && rest.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
        }
        [] => false,
    };
    if ok {
        return Vec::new();
    }
    vec![regex_error(C_IDENTIFIER_MSG, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

fn dot_errors(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if value.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// The name of an environment variable, as `envFrom` once demanded it.
pub fn env_var_name(value: &str) -> Vec<String> {
    let ok = !value.is_empty()
        && !value.as_bytes()[0].is_ascii_digit()
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let mut errors = Vec::new();
    if !ok {
        errors.push(regex_error(
            ENV_MSG,
            "[-._a-zA-Z][-._a-zA-Z0-9]*",
            &["my.env-name", "MY_ENV.NAME", "MyEnvName1"],
        ));
    }
    errors.extend(dot_errors(value));
    errors
}

/// The name of an environment variable.
pub fn relaxed_env_var_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    let ok = value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    if ok { Vec::new() } else { vec![regex_error(RELAXED_ENV_MSG, "^[ -<>-~]+$", &[])] }
}

/// A key of a ConfigMap or a Secret.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > MAX_SUBDOMAIN {
        errors.push(max_len_error(MAX_SUBDOMAIN));
    }
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        errors.push(regex_error(CONFIG_KEY_MSG, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    errors.extend(dot_errors(value));
    errors
}

/// The name of an HTTP header.
pub fn http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![regex_error(HTTP_HEADER_MSG, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// A percentage such as `25%`.
pub fn percent(value: &str) -> Vec<String> {
    let ok = value.strip_suffix('%').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    if ok { Vec::new() } else { vec![regex_error(PERCENT_MSG, "[0-9]+%", &["1%", "93%"])] }
}

/// The name of a port.
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 15 {
        errors.push(max_len_error(15));
    }
    if value.is_empty() || !value.bytes().all(|b| is_lower_alnum(b) || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// The number of a port.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

/// A name that stands alone in a path.
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ['/', '%'].iter().filter(|c| value.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// The base of a generated name as it is to be checked: a dash at its end will not be the end.
pub fn mask_trailing_dash(base: &str) -> String {
    match base.strip_suffix('-') {
        // As upstream: the dash and what is before it make room for one letter.
        Some(rest) if !rest.is_empty() => {
            let mut chars = rest.chars();
            chars.next_back();
            format!("{}a", chars.as_str())
        }
        _ => base.to_owned(),
    }
}

/// Makes a name from `metadata.generateName`: at most 58 bytes of the base and 5 random characters.
pub fn generate(base: &str) -> String {
    const SUFFIX: usize = 5;
    let mut end = base.len().min(MAX_LABEL - SUFFIX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], random_suffix(SUFFIX))
}

/// Random characters that make no words: no vowels, nothing that looks alike.
pub fn random_suffix(len: usize) -> String {
    let mut rng = rand::rng();
    (0..len).filter_map(|_| b"bcdfghjklmnpqrstvwxz2456789".choose(&mut rng)).map(|&b| char::from(b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_upstream_accepts() {
        let long = "a".repeat(64);
        type Check = fn(&str) -> Vec<String>;
        let table: &[(Check, &[&str], &[&str])] = &[
            (dns1123_label, &["a", "1", "a-b", "0a"], &["", "A", "-a", "a-", "a.b", "a_b", &long]),
            (dns1123_subdomain, &["a", "a.b", "1.2", &long], &["", ".", "a.", ".a", "a..b", "A.b", "a_b"]),
            (dns1035_label, &["a", "a1", "a-b"], &["", "1a", "-a", "a-", "a.b"]),
            (qualified_name, &["a", "A_b.c", "x.y/Z", "1/2"], &["", "/a", "a/", "a/b/c", "X/a", "-a", &long]),
            (label_value, &["", "a", "A_1.b"], &["-", "a-", "a b", "a/b", &long]),
            (config_map_key, &["a", ".a", "A_b-c", "a.b"], &["", ".", "..", "..a", "a/b"]),
            (port_name, &["http", "a-1"], &["", "1", "a--b", "-a", "a-", "Http", "abcdefghijklmnop"]),
            (wildcard_dns1123_subdomain, &["*.a", "*.a.b"], &["*", "*.", "a.b", "*.*"]),
            (c_identifier, &["a", "_1"], &["", "1a", "a-b"]),
            (percent, &["1%", "100%"], &["", "%", "1", "-1%"]),
        ];
        for (i, (check, good, bad)) in table.iter().enumerate() {
            for value in *good {
                assert!(check(value).is_empty(), "row {i}: {value} is valid: {:?}", check(value));
            }
            for value in *bad {
                assert!(!check(value).is_empty(), "row {i}: {value} is not valid");
            }
        }
    }

    #[test]
    fn speaks_upstreams_words() {
        assert_eq!(
            dns1123_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(qualified_name("/a"), ["prefix part must be non-empty"]);
        assert_eq!(label_value(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    }

    #[test]
    fn generated_names_fit_a_label() {
        let name = generate(&"x".repeat(80));
        assert_eq!(name.len(), 63);
        assert!(generate("web-").starts_with("web-"));
        assert_eq!(generate("web-").len(), 9);
        assert_ne!(generate("web-"), generate("web-"));
        assert!(generate("ä".repeat(40).as_str()).len() <= 63);
        assert_eq!(mask_trailing_dash("ab-"), "aa");
        assert_eq!(mask_trailing_dash("-"), "-");
    }
}
