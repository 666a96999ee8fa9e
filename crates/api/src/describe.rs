//! What types and fields are for, as `kubectl explain` shows it.
use std::borrow::Cow;
use std::collections::HashMap;

/// Made by `build/describe.rs`, which says how it is laid out.
const TEXT: &str = include_str!(concat!(env!("OUT_DIR"), "/descriptions.txt"));

/// Finds descriptions. Made for one document and dropped with it: nobody asks twice.
pub(crate) struct Descriptions(HashMap<&'static str, Block>);

/// A type's text, and the lines of its fields.
#[derive(Clone, Copy)]
struct Block {
    text: &'static str,
    fields: &'static str,
}

fn unescape(text: &'static str) -> Cow<'static, str> {
    if !text.contains('\\') {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => {}
            },
            (c, false) => out.push(c),
        }
    }
    out.into()
}

impl Descriptions {
    pub(crate) fn new() -> Self {
        let mut all = HashMap::new();
        let mut rest = TEXT;
        while let Some((line, after)) = rest.split_once('\n') {
            // The fields of a type begin with a tab.
            let end =
                after.match_indices('\n').map(|(at, _)| at + 1).find(|at| !after[*at..].starts_with('\t'));
            let length = if after.starts_with('\t') { end.unwrap_or(after.len()) } else { 0 };
            if let Some((name, text)) = line.split_once('\t') {
                all.insert(name, Block { text, fields: &after[..length] });
            }
            rest = &after[length..];
        }
        Self(all)
    }

    /// What a type is for.
    pub(crate) fn of_type(&self, name: &str) -> Option<Cow<'static, str>> {
        self.0.get(name).map(|block| block.text).filter(|text| !text.is_empty()).map(unescape)
    }

    /// What a field of a type is for.
    pub(crate) fn of_field(&self, name: &str, field: &str) -> Option<Cow<'static, str>> {
        let of_all = match field {
            "apiVersion" => {
                "APIVersion defines the versioned schema of this representation of an object. Servers should convert \
                 recognized schemas to the latest internal value, and may reject unrecognized values. More info: \
                 https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"
            }
            "kind" => {
                "Kind is a string value representing the REST resource this object represents. Servers may infer this \
                 from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
                 https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"
            }
            _ => "",
        };
        let lines = self.0.get(name)?.fields.lines();
        let own =
            lines.filter_map(|l| l.trim_start_matches('\t').split_once('\t')).find(|(f, _)| *f == field);
        own.map(|(_, text)| unescape(text)).or_else(|| (!of_all.is_empty()).then_some(of_all.into()))
    }
}

/// What one field of a type is for; the type by its full name, as in `io.k8s.api.core.v1.Pod`. Reads through all there
/// is: who asks often keeps the answer.
pub fn field(ty: &str, field: &str) -> Option<Cow<'static, str>> {
    let start = match TEXT.strip_prefix(ty).is_some_and(|rest| rest.starts_with('\t')) {
        true => 0,
        false => TEXT.find(&format!("\n{ty}\t"))? + 1,
    };
    let lines = TEXT[start..].lines().skip(1).take_while(|line| line.starts_with('\t'));
    let own = lines.filter_map(|l| l[1..].split_once('\t')).find(|(name, _)| *name == field);
    own.map(|(_, text)| unescape(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_fields_are_described() {
        let all = Descriptions::new();
        assert!(all.0.len() > 500, "{}", all.0.len());
        let pod = "io.k8s.api.core.v1.Pod";
        assert!(all.of_type(pod).is_some_and(|t| t.starts_with("Pod is a collection of containers")));
        assert!(
            all.of_field(pod, "spec").is_some_and(|t| t.starts_with("Specification of the desired behavior"))
        );
        assert!(all.of_field(pod, "kind").is_some_and(|t| t.starts_with("Kind is a string value")));
        assert!(all.of_field(pod, "frobs").is_none() && all.of_type("frobs").is_none());
        let port = all.of_field("io.k8s.api.core.v1.ContainerPort", "containerPort").unwrap_or_default();
        assert!(port.contains("0 < x < 65536"), "{port}");
        assert_eq!(field("io.k8s.api.core.v1.ContainerPort", "containerPort"), Some(port));
        assert_eq!(field("io.k8s.api.core.v1.ContainerPort", "frobs"), None);
        assert_eq!(field("io.k8s.api.core.v1.Container", "containerPort"), None);
    }

    /// How many types and fields that are served have no description: none may be lost when the API moves on.
    #[test]
    fn nearly_everything_is_described() {
        let all = Descriptions::new();
        let (mut with, mut without) = (0, Vec::new());
        for kind in crate::kinds::KINDS.iter() {
            let Some(id) = kind.schema else { continue };
            let def = crate::schema::get(id);
            for field in def.fields() {
                match all.of_field(def.name, field.name) {
                    Some(_) => with += 1,
                    None => without.push(format!("{} {}", def.name, field.name)),
                }
            }
        }
        assert!(without.len() * 20 < with, "{} of {with}: {without:?}", without.len());
    }
}
