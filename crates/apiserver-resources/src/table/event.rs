//! Cells of events, in either of their groups.
use jiff::Timestamp;
use machinery::Object;
use serde_json::Value;

use super::since;

/// The text at the first of two fields that has one: the core group's name for it, then the other's.
fn either<'o>(event: &'o Object, core: &[&str], own: &[&str]) -> &'o str {
    match event.str_at(core) {
        "" => event.str_at(own),
        text => text,
    }
}

fn source(event: &Object) -> String {
    let component = match either(event, &["source", "component"], &["deprecatedSource", "component"]) {
        "" => either(event, &["reportingComponent"], &["reportingController"]),
        component => component,
    };
    let host = match either(event, &["source", "host"], &["deprecatedSource", "host"]) {
        "" => event.str_at(&["reportingInstance"]),
        host => host,
    };
    if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") }
}

pub(super) fn event(event: &Object, now: Timestamp) -> Vec<Value> {
    let first = match either(event, &["firstTimestamp"], &["deprecatedFirstTimestamp"]) {
        "" => since(event.str_at(&["eventTime"]), now),
        first => since(first, now),
    };
    let mut last = match either(event, &["lastTimestamp"], &["deprecatedLastTimestamp"]) {
        "" => first.clone(),
        last => since(last, now),
    };
    let mut count = event.i64_at(&["count"]).or_else(|| event.i64_at(&["deprecatedCount"])).unwrap_or(0);
    if event.at(&["series"]).is_some() {
        last = since(event.str_at(&["series", "lastObservedTime"]), now);
        count = event.i64_at(&["series", "count"]).unwrap_or(0);
    } else if count == 0 {
        // An event that happened once has no count in the newer group.
        count = 1;
    }
    let involved = |field: &str| either(event, &["involvedObject", field], &["regarding", field]);
    let kind = involved("kind").to_lowercase();
    let object = match involved("name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        last.into(),
        event.str_at(&["type"]).into(),
        event.str_at(&["reason"]).into(),
        object.into(),
        involved("fieldPath").into(),
        source(event).into(),
        either(event, &["message"], &["note"]).trim().into(),
        first.into(),
        count.into(),
        event.name().into(),
    ]
}
