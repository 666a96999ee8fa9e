//! Who is who among a StatefulSet's pods: names, ordinals, claims.
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};

use crate::ownership::controller_ref;
use crate::pods;
use crate::revisions::HASH;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub fn set_name(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or("")
}

/// The ordinal in a pod's name, where the rest of it is the set's.
pub fn ordinal_of(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, ordinal) = pod.metadata.name.as_deref()?.rsplit_once('-')?;
    // "01" would be another pod's name.
    let number = ordinal.parse::<i32>().ok().filter(|n| n.to_string() == ordinal)?;
    (parent == set_name(set)).then_some(number)
}

/// The first ordinal.
pub fn start(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.ordinals.as_ref()?.start).unwrap_or(0)
}

/// The name of the revision that a pod is made of.
pub fn revision_of(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|l| l.get(HASH)).map_or("", String::as_str)
}

/// Whether the pod is as its name says.
pub fn has_identity(set: &StatefulSet, pod: &Pod) -> bool {
    let Some(ordinal) = ordinal_of(set, pod) else { return false };
    let label = |key: &str| pod.metadata.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
    label(POD_NAME) == pod.metadata.name.as_deref() && label(POD_INDEX) == Some(&*ordinal.to_string())
}

/// Sets the labels that go with the name.
pub fn add_identity(pod: &mut Pod, ordinal: i32) {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), name);
    labels.insert(POD_INDEX.into(), ordinal.to_string());
}

fn claim_name(template: &PersistentVolumeClaim, pod: &str) -> String {
    format!("{}-{pod}", template.metadata.name.as_deref().unwrap_or(""))
}

fn claim_templates(set: &StatefulSet) -> impl Iterator<Item = &PersistentVolumeClaim> {
    set.spec.iter().flat_map(|s| s.volume_claim_templates.iter().flatten())
}

/// The claims of one pod.
pub fn claims(set: &StatefulSet, pod: &Pod) -> Vec<PersistentVolumeClaim> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or("");
    let selector = set.spec.as_ref().and_then(|s| s.selector.match_labels.clone()).unwrap_or_default();
    claim_templates(set)
        .map(|template| {
            let mut claim = template.clone();
            claim.metadata.name = Some(claim_name(template, pod_name));
            claim.metadata.namespace.clone_from(&set.metadata.namespace);
            claim.metadata.labels.get_or_insert_default().extend(selector.clone());
            claim.status = None;
            claim
        })
        .collect()
}

/// The pod of one ordinal, from the template of one revision.
pub fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let name = format!("{}-{ordinal}", set_name(set));
    let mut pod = pods::from_template(template, set_name(set), controller_ref(set));
    pod.metadata.generate_name = Some(format!("{}-", set_name(set)));
    pod.metadata.name = Some(name.clone());
    pod.metadata.namespace.clone_from(&set.metadata.namespace);
    pod.metadata.labels.get_or_insert_default().insert(HASH.into(), revision.to_owned());
    add_identity(&mut pod, ordinal);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set.spec.as_ref().and_then(|s| s.service_name.clone()).filter(|s| !s.is_empty());
    let claimed = claim_templates(set).map(|template| Volume {
        name: template.metadata.name.clone().unwrap_or_default(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(template, &name),
            read_only: None,
        }),
        ..Volume::default()
    });
    let claimed: Vec<Volume> = claimed.collect();
    let volumes = spec.volumes.get_or_insert_default();
    // A claim takes the place of a volume of its name.
    volumes.retain(|v| !claimed.iter().any(|c| c.name == v.name));
    volumes.extend(claimed);
    if volumes.is_empty() {
        spec.volumes = None;
    }
    pod
}
