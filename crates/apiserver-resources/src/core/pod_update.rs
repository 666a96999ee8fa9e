//! What may change in a pod that exists: by a plain update, by its status, and by its other subresources.
use machinery::{FieldError, FieldErrors, FieldPath, Object, names};
use serde_json::{Map, Value};

use crate::core::pod::Pod;
use crate::core::pod_spec::validation;
use crate::rules::Rules;
use crate::strategy::Strategy;
use crate::tree::{At, Tree, each, same};

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks a plain update.
pub(crate) fn validate(spec: &At, old: &At, errors: &mut FieldErrors) {
    let mut counts_differ = false;
    for list in ["containers", "initContainers"] {
        if spec.field(list).len() != old.field(list).len() {
            errors.push(spec.field(list).forbidden("pod updates may not add or remove containers"));
            counts_differ = true;
        }
    }
    if counts_differ {
        return;
    }
    if !validate_deadline(spec, old, errors) {
        return;
    }
    validate_gates(&spec.field("schedulingGates"), &old.field("schedulingGates"), errors);
    validate_tolerations(&spec.field("tolerations"), &old.field("tolerations"), errors);

    let (Some(new_tree), Some(old_tree)) = (spec.tree(), old.tree()) else { return };
    let mut munged = new_tree.clone();
    for list in ["containers", "initContainers"] {
        let images: Vec<Option<Value>> =
            old.field(list).items().map(|c| c.field("image").get().cloned()).collect();
        for (container, image) in each(&mut munged, list).zip(images) {
            put(container, "image", image);
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        put(&mut munged, field, old_tree.get(field).cloned());
    }
    let grace = |at: &At| at.field("terminationGracePeriodSeconds").int();
    if grace(old).is_some_and(|n| n < 0) && grace(spec) == Some(1) {
        put(
            &mut munged,
            "terminationGracePeriodSeconds",
            old_tree.get("terminationGracePeriodSeconds").cloned(),
        );
    }
    if !old.field("schedulingGates").is_empty() {
        allow_narrowing(&mut munged, spec, old, errors);
    }
    let (munged, old_value) = (Value::Object(munged), Value::Object(old_tree.clone()));
    if !same(Some(&munged), Some(&old_value)) {
        let mut lines = Vec::new();
        differences("", Some(&munged), Some(&old_value), &mut lines);
        errors.push(spec.forbidden(format!("{MAY_CHANGE}\n{}", lines.join("\n"))));
    }
}

fn put(tree: &mut Tree, field: &str, value: Option<Value>) {
    match value {
        Some(value) => {
            tree.insert(field.to_owned(), value);
        }
        None => {
            tree.remove(field);
        }
    }
}

/// Whether the rest is worth looking at.
fn validate_deadline(spec: &At, old: &At, errors: &mut FieldErrors) -> bool {
    let at = spec.field("activeDeadlineSeconds");
    match (at.int(), old.field("activeDeadlineSeconds").int()) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.push(at.invalid(format!("must be between 0 and {}, inclusive", i32::MAX)));
            false
        }
        (Some(new), Some(old)) if new > old => {
            errors.push(at.invalid("must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            errors.push(at.invalid_as(Value::Null, "must not update from a positive integer to nil value"));
            true
        }
        _ => true,
    }
}

fn validate_gates(gates: &At, old: &At, errors: &mut FieldErrors) {
    for gate in gates.items() {
        let name = gate.field("name");
        if !old.items().any(|g| g.field("name").text() == name.text()) {
            errors.push(gate.forbidden(format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                name.text()
            )));
        }
    }
}

/// Tolerations may be added; of those that exist only the seconds may change.
fn validate_tolerations(tolerations: &At, old: &At, errors: &mut FieldErrors) {
    let without_seconds = |at: &At| {
        let mut tree = at.tree().cloned().unwrap_or_default();
        tree.remove("tolerationSeconds");
        Value::Object(tree)
    };
    for before in old.items() {
        let kept =
            tolerations.items().any(|t| same(Some(&without_seconds(&t)), Some(&without_seconds(&before))));
        if !kept {
            errors.push(
                tolerations.forbidden("existing toleration can not be modified except its tolerationSeconds"),
            );
            return;
        }
    }
}

/// While gates hold a pod back, its node selector may gain entries.
fn allow_narrowing(munged: &mut Tree, spec: &At, old: &At, errors: &mut FieldErrors) {
    let (selector, before) = (spec.field("nodeSelector"), old.field("nodeSelector"));
    let kept = before.entries().all(|(key, value)| selector.key(key).get() == value.get());
    if kept {
        put(munged, "nodeSelector", before.get().cloned());
    } else {
        errors.push(FieldError::invalid(
            &selector.path(),
            selector.get().cloned().unwrap_or_default(),
            "only additions are allowed (no mutations or deletions)",
        ));
    }
    let path = ["affinity", "nodeAffinity"];
    let (affinity, was) = (spec.fields(&path), old.fields(&path));
    if same(affinity.get(), was.get()) {
        return;
    }
    validate_node_affinity(&affinity, &was, errors);
    match was.get() {
        Some(was) => {
            crate::tree::ensure(munged, "affinity").insert("nodeAffinity".into(), was.clone());
        }
        None => {
            if let Some(affinity) = crate::tree::child(munged, "affinity") {
                affinity.remove("nodeAffinity");
                if affinity.is_empty() && !old.field("affinity").exists() {
                    munged.remove("affinity");
                }
            }
        }
    }
}

/// Terms that say where a pod may run may only say more.
fn validate_node_affinity(new: &At, old: &At, errors: &mut FieldErrors) {
    let path = ["requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    let (terms, before) = (new.fields(&path), old.fields(&path));
    if before.is_empty() {
        return;
    }
    if terms.len() != before.len() {
        let shown = terms.get().cloned().unwrap_or(Value::Null);
        errors.push(
            terms.invalid_as(shown, "no additions/deletions to non-empty NodeSelectorTerms list are allowed"),
        );
        return;
    }
    for (term, was) in terms.items().zip(before.items()) {
        let lists = ["matchExpressions", "matchFields"];
        let empty = lists.iter().all(|list| was.field(list).is_empty());
        let kept = lists.iter().all(|list| {
            let mut now = term.field(list).items().map(|r| r.get().cloned()).collect::<Vec<_>>();
            now.truncate(was.field(list).len());
            now == was.field(list).items().map(|r| r.get().cloned()).collect::<Vec<_>>()
        });
        // A term that says nothing selects nothing, so adding to it would select more.
        if !kept || (empty && !same(term.get(), was.get())) {
            errors.push(term.invalid("only additions are allowed (no mutations or deletions)"));
        }
    }
}

/// One line for each leaf that differs.
fn differences(path: &str, new: Option<&Value>, old: Option<&Value>, lines: &mut Vec<String>) {
    const MAX_LINES: usize = 20;
    if same(new, old) || lines.len() >= MAX_LINES {
        return;
    }
    match (new, old) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))).collect();
            keys.sort();
            for key in keys {
                differences(&format!("{path}.{key}"), a.get(key), b.get(key), lines);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{i}]"), Some(a), Some(b), lines);
            }
        }
        _ => {
            let show = |v: Option<&Value>| v.map_or_else(|| "nil".to_owned(), Value::to_string);
            lines.push(format!("-\tspec{path}: {}", show(old)));
            lines.push(format!("+\tspec{path}: {}", show(new)));
        }
    }
}

/// A client that does not know `observedGeneration` may not take it back.
pub(crate) fn keep_observed_generations(new: &mut Object, old: &Object) {
    if new.at(&["status", "observedGeneration"]).is_none() {
        new.copy_from(old, &["status", "observedGeneration"]);
    }
    let before: Vec<(String, Value)> = old
        .list_at(&["status", "conditions"])
        .iter()
        .filter_map(|c| Some((c.get("type")?.as_str()?.to_owned(), c.get("observedGeneration")?.clone())))
        .collect();
    let Some(status) = crate::tree::child(&mut new.0, "status") else { return };
    for condition in each(status, "conditions") {
        let ty = crate::tree::text_of(condition, "type");
        if let Some((_, generation)) = before.iter().find(|(t, _)| t == ty)
            && !crate::tree::has(condition, "observedGeneration")
        {
            condition.insert("observedGeneration".into(), generation.clone());
        }
    }
}

/// Checks a write of the status.
pub(crate) fn validate_status(new: &At, old: &At, errors: &mut FieldErrors) {
    let status = new.field("status");
    let nominated = status.field("nominatedNodeName");
    if !nominated.is_empty() {
        crate::checks::text_rule(&nominated, names::dns1123_subdomain, errors);
    }
    let (class, old_class) = (status.field("qosClass"), old.fields(&["status", "qosClass"]));
    if !old_class.is_empty() {
        crate::checks::immutable(&class, &old_class, errors);
    }
    validate_status_parts(new, errors);
    // The kubelet never starts one of these again.
    for (i, before) in old.fields(&["status", "ephemeralContainerStatuses"]).items().enumerate() {
        let name = before.field("name").text();
        let list = status.field("ephemeralContainerStatuses");
        let now = list.items().find(|s| s.field("name").text() == name);
        if before.fields(&["state", "terminated"]).exists()
            && now.is_some_and(|now| !now.fields(&["state", "terminated"]).exists())
        {
            let path = list.path().index(i).child("state");
            errors.push(FieldError::forbidden(&path, "may not be transitioned to non-terminated state"));
        }
    }
    let policy = old.fields(&["spec", "restartPolicy"]);
    if policy.text() == "Always" {
        return;
    }
    // A container that ended for good stays ended.
    for (list, specs) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        for before in old.field("status").field(list).items() {
            let terminated = before.fields(&["state", "terminated"]);
            let failed = terminated.field("exitCode").int().unwrap_or(0) != 0;
            if !terminated.exists() || (policy.text() == "OnFailure" && failed) {
                continue;
            }
            let name = before.field("name").text();
            let own = new.field("spec").field(specs).items().find(|c| c.field("name").text() == name);
            let restarts = own.is_some_and(|c| c.field("restartPolicy").exists());
            let now = status.field(list).items().find(|s| s.field("name").text() == name);
            if let Some(now) = now
                && !restarts
                && !now.field("state").field("terminated").exists()
            {
                errors.push(now.field("state").forbidden("may not be transitioned to non-terminated state"));
            }
        }
    }
}

fn validate_status_parts(pod: &At, errors: &mut FieldErrors) {
    let status = pod.field("status");
    for condition in status.field("conditions").items() {
        let ty = condition.field("type");
        if !matches!(ty.text(), "PodScheduled" | "Ready" | "Initialized") {
            crate::checks::text_rule(&ty, names::qualified_name, errors);
        }
    }
    let claims = pod.fields(&["spec", "resourceClaims"]);
    let statuses = status.field("resourceClaimStatuses");
    for (i, claim) in statuses.items().enumerate() {
        let name = claim.field("name");
        if !claims.items().any(|c| c.field("name").text() == name.text()) {
            errors.push(name.invalid("must match the name of an entry in `spec.resourceClaims`"));
        }
        if statuses.items().take(i).any(|c| c.field("name").text() == name.text()) {
            errors.push(name.duplicate());
        }
    }
    for list in ["podIPs", "hostIPs"] {
        let list = status.field(list);
        for (i, item) in list.items().enumerate() {
            let ip = item.field("ip");
            for problem in crate::checks::ip(ip.text()) {
                errors.push(FieldError::invalid(&item.path(), ip.text(), problem));
            }
            if list.items().take(i).any(|before| before.field("ip").text() == ip.text()) {
                errors.push(FieldError::duplicate(&item.path(), ip.text()));
            }
        }
        let families: Vec<bool> = list.items().map(|item| item.field("ip").text().contains(':')).collect();
        if families.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
            errors.push(list.invalid("may specify no more than one IP for each IP family"));
        }
    }
}

/// Whether this pod only mirrors one that a node runs by itself.
fn is_static(pod: &Object) -> bool {
    pod.annotation("kubernetes.io/config.mirror").is_some()
}

/// `Forbidden` for the object as a whole.
fn nowhere(problem: &str) -> FieldError {
    FieldError::forbidden(&FieldPath::root(), problem)
}

/// Of the resources of containers only processor time and memory may change, and none may go.
fn validate_resize(spec: &At, old: &At, errors: &mut FieldErrors) {
    let of = |list: &At, name: &str| -> Option<Value> {
        let found = list.items().find(|c| c.field("name").text() == name)?;
        found.field("resources").get().cloned()
    };
    let mut others_change = false;
    for list in ["containers", "initContainers"] {
        for container in spec.field(list).items() {
            let Some(before) = of(&old.field(list), container.field("name").text()) else { continue };
            let now = container.field("resources");
            let plain_init = list == "initContainers" && container.field("restartPolicy").text() != "Always";
            if plain_init && !same(now.get(), Some(&before)) {
                errors.push(now.forbidden("resources for non-sidecar init containers are immutable"));
                continue;
            }
            for (part, word) in [("requests", "resource requests"), ("limits", "resource limits")] {
                let was = before.get(part).and_then(Value::as_object).cloned().unwrap_or_default();
                let is = now.tree().and_then(|t| t.get(part)?.as_object()).cloned().unwrap_or_default();
                if ["cpu", "memory"].iter().any(|name| was.contains_key(*name) && !is.contains_key(*name)) {
                    errors.push(now.forbidden(format!("{word} cannot be removed")));
                }
                let rest = |all: &Map<String, Value>| {
                    let mut all = all.clone();
                    all.retain(|name, _| !matches!(name.as_str(), "cpu" | "memory"));
                    all
                };
                others_change |= rest(&was) != rest(&is);
            }
        }
    }
    if others_change {
        errors.push(spec.forbidden("only cpu and memory resources are mutable"));
    }
}

/// A subresource that changes only some part of the specification.
fn keep_spec_but(new: &mut Object, old: &Object, take: impl FnOnce(&Object, &mut Object)) {
    let mut kept = old.clone();
    kept.copy_from(new, &["metadata"]);
    kept.copy_from(old, &["metadata", "generation"]);
    take(new, &mut kept);
    if !same(kept.at(&["spec"]), old.at(&["spec"])) {
        kept.set(&["metadata", "generation"], old.generation().unwrap_or(0) + 1);
    }
    *new = kept;
}

/// Rules of the `ephemeralcontainers` subresource.
pub(crate) struct EphemeralContainers;

impl Strategy for EphemeralContainers {
    fn fill_defaults(&self, object: &mut Object) {
        Pod.fill_defaults(object);
    }

    fn admit_create(&self, _object: &mut Object) -> FieldErrors {
        FieldErrors::new()
    }

    fn admit_update(&self, new: &mut Object, old: &Object) -> FieldErrors {
        keep_spec_but(new, old, |sent, kept| kept.copy_from(sent, &["spec", "ephemeralContainers"]));
        let mut errors = FieldErrors::new();
        let (at, before) = (At::object(new), At::object(old));
        validation::validate_pod_spec(&at.field("spec"), &mut errors);
        if is_static(old) {
            return vec![nowhere("static pods do not support ephemeral containers")];
        }
        let list = at.field("spec").field("ephemeralContainers");
        for was in before.field("spec").field("ephemeralContainers").items() {
            let name = was.field("name").text();
            let now = list.items().find(|c| c.field("name").text() == name);
            let change = match now {
                None => "removed",
                Some(now) if !same(now.get(), was.get()) => "changed",
                Some(_) => continue,
            };
            errors.push(
                list.forbidden(format!("existing ephemeral containers {name:?} may not be {change}\n")),
            );
        }
        errors
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        Pod.selectable_fields(object)
    }
}

/// Rules of the `resize` subresource: resources and resize policies of containers.
pub(crate) struct Resize;

fn by_name(list: &[Value]) -> Map<String, Value> {
    list.iter().filter_map(|c| Some((c.get("name")?.as_str()?.to_owned(), c.clone()))).collect()
}

impl Strategy for Resize {
    fn fill_defaults(&self, object: &mut Object) {
        Pod.fill_defaults(object);
    }

    fn admit_create(&self, _object: &mut Object) -> FieldErrors {
        FieldErrors::new()
    }

    fn admit_update(&self, new: &mut Object, old: &Object) -> FieldErrors {
        keep_spec_but(new, old, |sent, kept| {
            for list in ["containers", "initContainers"] {
                let wanted = by_name(sent.list_at(&["spec", list]));
                let Some(spec) = crate::tree::child(&mut kept.0, "spec") else { continue };
                for container in each(spec, list) {
                    let Some(from) = wanted.get(crate::tree::text_of(container, "name")) else { continue };
                    for field in ["resources", "resizePolicy"] {
                        put(container, field, from.get(field).cloned());
                    }
                }
            }
        });
        let mut errors = FieldErrors::new();
        let at = At::object(new);
        validation::validate_pod_spec(&at.field("spec"), &mut errors);
        if is_static(old) {
            errors.push(nowhere("static pods cannot be resized"));
        }
        if old.str_at(&["spec", "os", "name"]) == "windows" {
            errors.push(nowhere("windows pods cannot be resized"));
        }
        validate_resize(&at.field("spec"), &At::object(old).field("spec"), &mut errors);
        let (class, before) = (crate::core::pod_qos::qos_class(new), crate::core::pod_qos::qos_class(old));
        if class != before {
            errors.push(FieldError::invalid(
                &at.field("spec").path(),
                class,
                "Pod QOS Class may not change as a result of resizing",
            ));
        }
        errors
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        Pod.selectable_fields(object)
    }
}
