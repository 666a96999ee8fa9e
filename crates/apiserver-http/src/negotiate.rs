//! Which form of an answer the client asked for. Upstream: apiserver/pkg/endpoints/handlers/negotiation, 1.36.
use http::HeaderMap;
use http::header::ACCEPT;
use machinery::{StatusError, StatusResult};

/// Form of the bytes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Media {
    /// The `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => api::proto::CONTENT_TYPE,
        }
    }
}

/// What stands for the object in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The object itself.
    Object,
    /// `meta.k8s.io/v1` `Table`.
    Table,
    /// `meta.k8s.io/v1` `PartialObjectMetadata`.
    Partial,
}

/// What was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// Form of the bytes.
    pub media: Media,
    /// What stands for the object.
    pub form: Form,
}

/// The media types a client may ask for and send; a custom resource has all but the last.
pub const SERVED: &[&str] = &["application/json", "application/yaml", api::proto::CONTENT_TYPE];

/// [`SERVED`], or what of it serves when there is no protobuf form.
pub fn served(protobuf: bool) -> &'static [&'static str] {
    if protobuf { SERVED } else { &SERVED[..2] }
}

/// One media range of an `Accept` header.
#[derive(Debug, Clone, PartialEq)]
pub struct Range<'a> {
    /// `type/subtype`.
    pub media: &'a str,
    /// Parameters but `q`.
    pub params: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl Range<'_> {
    /// A parameter; empty where it is absent.
    pub fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(k, _)| *k == name).map_or("", |(_, v)| v)
    }
}

/// The media ranges of the `Accept` headers, best first, at most 32.
pub fn ranges(headers: &HeaderMap) -> Vec<Range<'_>> {
    let mut all: Vec<Range<'_>> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .take(32)
        .filter_map(|text| {
            let mut parts = text.split(';').map(str::trim);
            let media = parts.next().filter(|m| !m.is_empty())?;
            let mut range = Range { media, params: Vec::new(), quality: 1.0 };
            for (k, v) in parts.filter_map(|p| p.split_once('=')) {
                let v = v.trim_matches('"');
                if k == "q" {
                    range.quality = v.parse().unwrap_or(0.0);
                } else {
                    range.params.push((k, v));
                }
            }
            (range.quality > 0.0).then_some(range)
        })
        .collect();
    all.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    all
}

/// Agrees on an answer. `forms`: whether Table and PartialObjectMetadata can be had; `protobuf`: whether protobuf can.
pub fn negotiate(headers: &HeaderMap, forms: bool, protobuf: bool) -> StatusResult<Agreed> {
    let ranges = ranges(headers);
    if ranges.is_empty() {
        return Ok(Agreed { media: Media::Json, form: Form::Object });
    }
    for range in &ranges {
        let media = match range.media {
            "application/json" | "application/*" | "*/*" => Media::Json,
            "application/yaml" => Media::Yaml,
            api::proto::CONTENT_TYPE if protobuf => Media::Protobuf,
            _ => continue,
        };
        let form = match (range.param("as"), range.param("g"), range.param("v")) {
            ("", _, _) => Form::Object,
            // A table has no protobuf form.
            ("Table", "meta.k8s.io", "v1" | "v1beta1") if forms && media != Media::Protobuf => Form::Table,
            ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1" | "v1beta1") if forms => {
                Form::Partial
            }
            _ => continue,
        };
        return Ok(Agreed { media, form });
    }
    Err(StatusError::not_acceptable(served(protobuf)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, expect: Option<(Media, Form)>) {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        let got = negotiate(&headers, true, true).ok().map(|a| (a.media, a.form));
        assert_eq!(got, expect, "{accept}");
    }

    #[test]
    fn the_first_form_that_can_be_had_is_taken() {
        check("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Some((Media::Json, Form::Table)));
        check("application/vnd.kubernetes.protobuf,application/json", Some((Media::Protobuf, Form::Object)));
        check("application/json,application/vnd.kubernetes.protobuf", Some((Media::Json, Form::Object)));
        check(
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1;g=meta.k8s.io",
            Some((Media::Json, Form::Table)),
        );
        check("application/yaml;q=0.5,application/json;q=0.2", Some((Media::Yaml, Form::Object)));
        check("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", Some((Media::Json, Form::Partial)));
        check("application/vnd.kubernetes.protobuf", Some((Media::Protobuf, Form::Object)));
        check("*/*", Some((Media::Json, Form::Object)));
    }
}
