//! Conversion between the served versions of a kind.
use api::kinds::Kind;
use machinery::Object;

use crate::autoscaling::v1;

/// The fields of an event that have one name in core/v1 and another in events.k8s.io/v1
/// (pkg/apis/events/v1/conversion.go).
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Converts an object into another version of its kind.
pub fn convert(mut object: Object, to: &Kind) -> Object {
    if to.kind == "Event" {
        let to_core = to.group.is_empty();
        for &(core, events) in EVENT_FIELDS {
            let (from, into) = if to_core { (events, core) } else { (core, events) };
            if let Some(value) = object.0.remove(from) {
                object.0.insert(into.into(), value);
            }
        }
    }
    if to.kind == "HorizontalPodAutoscaler" {
        match (object.api_version(), &*to.version) {
            ("autoscaling/v2", "v1") => v1::from_stored(&mut object),
            ("autoscaling/v1", "v2") => v1::to_stored(&mut object),
            _ => {}
        }
    }
    object.set_type(&to.api_version(), &to.kind);
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_convert_there_and_back() {
        let core = api::kinds::by_kind("", "v1", "Event").unwrap();
        let events = api::kinds::by_kind("events.k8s.io", "v1", "Event").unwrap();
        let object: Object = serde_json::from_str(
            r#"{"apiVersion":"v1","kind":"Event","metadata":{"name":"a"},"message":"m","involvedObject":{"name":"p"},"count":2}"#,
        )
        .unwrap();
        let there = convert(object.clone(), events);
        assert_eq!(there.str_at(&["note"]), "m");
        assert_eq!(there.api_version(), "events.k8s.io/v1");
        assert_eq!(convert(there, core), object);
    }
}
