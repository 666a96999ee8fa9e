//! Query parameters.
use std::borrow::Cow;

use machinery::{StatusError, StatusResult};

/// The decoded query of a request.
#[derive(Debug, Default)]
pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Decodes a query string.
    pub fn parse(text: &'a str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).collect())
    }

    /// The first value of a parameter; empty where it is absent.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(k, _)| k == name).map_or("", |(_, v)| v)
    }

    /// All values of a parameter.
    pub fn all<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| &**v)
    }

    /// Whether a parameter is there.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(k, _)| k == name)
    }

    /// A boolean as upstream converts it: anything but `0`, `false` and nothing is true.
    pub fn flag(&self, name: &str) -> bool {
        let value = self.get(name);
        self.has(name)
            && !matches!(value.to_ascii_lowercase().as_str(), "0" | "false")
            && !(value.is_empty() && name != "watch" && name != "follow")
    }

    /// An integer; a bad one is a bad request.
    pub fn integer(&self, name: &str) -> StatusResult<Option<i64>> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                StatusError::bad_request(format!(
                    "unable to parse query parameter {name}: strconv.ParseInt: parsing {text:?}: invalid syntax"
                ))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let q = Query::parse("labelSelector=a%3Db%2Cc&watch=1&limit=5&command=a&command=b+c");
        assert_eq!(q.get("labelSelector"), "a=b,c");
        assert!(q.flag("watch"));
        assert!(!q.flag("pretty"));
        assert_eq!(q.integer("limit").unwrap(), Some(5));
        assert_eq!(q.all("command").collect::<Vec<_>>(), ["a", "b c"]);
        assert!(Query::parse("limit=x").integer("limit").is_err());
    }
}
