//! Which rules belong to which resource.
use machinery::Object;

use crate::rules::{Main, OfStatus};
use crate::strategy::{Generic, Strategy};
use crate::{
    admissionregistration, apiextensions, apps, autoscaling, batch, certificates, coordination, core,
    discovery, flowcontrol, networking, node, policy, rbac, resource, scheduling, storage,
};

/// The rules of a resource, or of one of its subresources.
pub fn strategy_for(group: &str, plural: &str, subresource: &str) -> &'static dyn Strategy {
    let found = match subresource {
        "" => main(group, plural),
        "status" => status(group, plural),
        _ => other(group, plural, subresource),
    };
    found.unwrap_or_else(|| generic(group, plural, subresource))
}

fn main(group: &str, plural: &str) -> Option<&'static dyn Strategy> {
    Some(match (group, plural) {
        ("", "configmaps") => &Main(core::config_map::ConfigMap),
        ("", "endpoints") => &Main(core::endpoints::Endpoints),
        ("", "events") => &Main(core::event::Event),
        ("", "limitranges") => &Main(core::limit_range::LimitRange),
        ("", "namespaces") => &Main(core::namespace::Namespace),
        ("", "nodes") => &Main(core::node::Node),
        ("", "persistentvolumeclaims") => &Main(core::persistent_volume_claim::PersistentVolumeClaim),
        ("", "persistentvolumes") => &Main(core::persistent_volume::PersistentVolume),
        ("", "pods") => &Main(core::pod::Pod),
        ("", "podtemplates") => &Main(core::pod_template::PodTemplate),
        ("", "replicationcontrollers") => &Main(core::replication_controller::ReplicationController),
        ("", "resourcequotas") => &Main(core::resource_quota::ResourceQuota),
        ("", "secrets") => &Main(core::secret::Secret),
        ("", "serviceaccounts") => &Main(core::service_account::ServiceAccount),
        ("", "services") => &Main(core::service::Service),
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => {
            &Main(admissionregistration::admission_policy::MutatingPolicy)
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings") => {
            &Main(admissionregistration::admission_policy::PolicyBinding { validating: false })
        }
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations") => {
            &Main(admissionregistration::webhook_configuration::WebhookConfiguration { mutating: true })
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => {
            &Main(admissionregistration::admission_policy::ValidatingPolicy)
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => {
            &Main(admissionregistration::admission_policy::PolicyBinding { validating: true })
        }
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations") => {
            &Main(admissionregistration::webhook_configuration::WebhookConfiguration { mutating: false })
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            &Main(apiextensions::custom_resource_definition::CustomResourceDefinition)
        }
        ("apps", "controllerrevisions") => &Main(apps::controller_revision::ControllerRevision),
        ("apps", "daemonsets") => &Main(apps::daemon_set::DaemonSet),
        ("apps", "deployments") => &Main(apps::deployment::Deployment),
        ("apps", "replicasets") => &Main(apps::replica_set::ReplicaSet),
        ("apps", "statefulsets") => &Main(apps::stateful_set::StatefulSet),
        ("autoscaling", "horizontalpodautoscalers") => {
            &Main(autoscaling::horizontal_pod_autoscaler::HorizontalPodAutoscaler)
        }
        ("batch", "cronjobs") => &Main(batch::cron_job::CronJob),
        ("batch", "jobs") => &Main(batch::job::Job),
        ("certificates.k8s.io", "certificatesigningrequests") => {
            &Main(certificates::signing_request::SigningRequest)
        }
        ("certificates.k8s.io", "clustertrustbundles") => &certificates::beta::CLUSTER_TRUST_BUNDLE,
        ("certificates.k8s.io", "podcertificaterequests") => &certificates::beta::POD_CERTIFICATE_REQUEST,
        ("coordination.k8s.io", "leases") => &Main(coordination::lease::Lease),
        ("discovery.k8s.io", "endpointslices") => &Main(discovery::endpoint_slice::EndpointSlice),
        ("events.k8s.io", "events") => &Main(core::event::NewEvent),
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => &Main(flowcontrol::flow_schema::FlowSchema),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => {
            &Main(flowcontrol::priority_level::PriorityLevel)
        }
        ("networking.k8s.io", "ingressclasses") => &Main(networking::ingress_class::IngressClass),
        ("networking.k8s.io", "ingresses") => &Main(networking::ingress::Ingress),
        ("networking.k8s.io", "ipaddresses") => &Main(networking::address::IpAddress),
        ("networking.k8s.io", "networkpolicies") => &Main(networking::network_policy::NetworkPolicy),
        ("networking.k8s.io", "servicecidrs") => &Main(networking::address::ServiceCidr),
        ("node.k8s.io", "runtimeclasses") => &Main(node::runtime_class::RuntimeClass),
        ("policy", "poddisruptionbudgets") => &Main(policy::disruption_budget::PodDisruptionBudget),
        ("rbac.authorization.k8s.io", "clusterrolebindings") => &Main(rbac::binding::ClusterRoleBinding),
        ("rbac.authorization.k8s.io", "clusterroles") => &Main(rbac::role::ClusterRole),
        ("rbac.authorization.k8s.io", "rolebindings") => &Main(rbac::binding::RoleBinding),
        ("rbac.authorization.k8s.io", "roles") => &Main(rbac::role::Role),
        ("resource.k8s.io", "deviceclasses") => &Main(resource::device_class::DeviceClass),
        ("resource.k8s.io", "resourceclaims") => &Main(resource::claim::ResourceClaim),
        ("resource.k8s.io", "resourceclaimtemplates") => &Main(resource::claim::ResourceClaimTemplate),
        ("resource.k8s.io", "resourceslices") => &Main(resource::slice::ResourceSlice),
        ("scheduling.k8s.io", "priorityclasses") => &Main(scheduling::priority_class::PriorityClass),
        ("storage.k8s.io", "csidrivers") => &Main(storage::csi::CsiDriver),
        ("storage.k8s.io", "csinodes") => &Main(storage::csi::CsiNode),
        ("storage.k8s.io", "csistoragecapacities") => &Main(storage::csi::CsiStorageCapacity),
        ("storage.k8s.io", "storageclasses") => &Main(storage::storage_class::StorageClass),
        ("storage.k8s.io", "volumeattachments") => &Main(storage::volume_attachment::VolumeAttachment),
        ("storage.k8s.io", "volumeattributesclasses") => &Main(storage::storage_class::VolumeAttributesClass),
        _ => return None,
    })
}

fn status(group: &str, plural: &str) -> Option<&'static dyn Strategy> {
    Some(match (group, plural) {
        ("", "namespaces") => &OfStatus(core::namespace::Namespace),
        ("", "nodes") => &OfStatus(core::node::Node),
        ("", "persistentvolumeclaims") => &OfStatus(core::persistent_volume_claim::PersistentVolumeClaim),
        ("", "persistentvolumes") => &OfStatus(core::persistent_volume::PersistentVolume),
        ("", "pods") => &OfStatus(core::pod::Pod),
        ("", "replicationcontrollers") => &OfStatus(core::replication_controller::ReplicationController),
        ("", "resourcequotas") => &OfStatus(core::resource_quota::ResourceQuota),
        ("", "services") => &OfStatus(core::service::Service),
        ("apps", "daemonsets") => &OfStatus(apps::daemon_set::DaemonSet),
        ("apps", "deployments") => &OfStatus(apps::deployment::Deployment),
        ("apps", "replicasets") => &OfStatus(apps::replica_set::ReplicaSet),
        ("apps", "statefulsets") => &OfStatus(apps::stateful_set::StatefulSet),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => {
            &OfStatus(admissionregistration::admission_policy::ValidatingPolicy)
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            &OfStatus(apiextensions::custom_resource_definition::CustomResourceDefinition)
        }
        ("autoscaling", "horizontalpodautoscalers") => {
            &OfStatus(autoscaling::horizontal_pod_autoscaler::HorizontalPodAutoscaler)
        }
        ("certificates.k8s.io", "certificatesigningrequests") => {
            &OfStatus(certificates::signing_request::SigningRequest)
        }
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => &OfStatus(flowcontrol::flow_schema::FlowSchema),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => {
            &OfStatus(flowcontrol::priority_level::PriorityLevel)
        }
        ("resource.k8s.io", "resourceclaims") => &OfStatus(resource::claim::ResourceClaim),
        ("networking.k8s.io", "ingresses") => &OfStatus(networking::ingress::Ingress),
        ("networking.k8s.io", "servicecidrs") => &OfStatus(networking::address::ServiceCidr),
        ("policy", "poddisruptionbudgets") => &OfStatus(policy::disruption_budget::PodDisruptionBudget),
        ("storage.k8s.io", "volumeattachments") => &OfStatus(storage::volume_attachment::VolumeAttachment),
        ("batch", "cronjobs") => &OfStatus(batch::cron_job::CronJob),
        ("batch", "jobs") => &OfStatus(batch::job::Job),
        _ => return None,
    })
}

fn other(group: &str, plural: &str, subresource: &str) -> Option<&'static dyn Strategy> {
    Some(match (group, plural, subresource) {
        ("", "namespaces", "finalize") => &core::namespace::Finalize,
        ("", "pods", "ephemeralcontainers") => &core::pod_update::EphemeralContainers,
        ("", "pods", "resize") => &core::pod_update::Resize,
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => {
            &certificates::signing_request::Approval
        }
        _ => return None,
    })
}

/// Whether a field selector may name this field of a resource.
pub fn supported_field(group: &str, plural: &str, field: &str) -> bool {
    match (group, plural, field) {
        (_, _, "metadata.name") => true,
        // Kinds with a list of their own that leave it out.
        (
            "" | "certificates.k8s.io" | "resource.k8s.io",
            "nodes"
            | "namespaces"
            | "certificatesigningrequests"
            | "clustertrustbundles"
            | "podcertificaterequests"
            | "resourceslices",
            "metadata.namespace",
        ) => false,
        (_, _, "metadata.namespace") => true,
        // The first is an old name; no pod has a value for the second.
        ("", "pods", "spec.host" | "status.podIPs") => true,
        _ => {
            let known = strategy_for(group, plural, "").selectable_fields(&Object::default());
            known.iter().any(|(name, _)| *name == field)
        }
    }
}

/// What stored objects call a selectable field, where the served version has another name for it.
pub fn stored_field(group: &str, plural: &str, field: &str) -> Option<&'static str> {
    match (group, plural) {
        ("events.k8s.io", "events") => core::event::core_field(field),
        ("", "pods") if field == "spec.host" => Some("spec.nodeName"),
        _ => None,
    }
}

const fn rules(has_status: bool, has_generation: bool, is_status: bool) -> Generic {
    Generic { has_status, has_generation, is_status }
}

fn generic(group: &str, plural: &str, subresource: &str) -> &'static Generic {
    if subresource == "status" {
        return &const { rules(true, true, true) };
    }
    let has_status = api::kinds::KINDS
        .iter()
        .any(|k| k.group == group && k.plural == plural && k.subresource("status").is_some());
    match (has_status, counts_generations(group, plural)) {
        (true, true) => &const { rules(true, true, false) },
        (true, false) => &const { rules(true, false, false) },
        (false, true) => &const { rules(false, true, false) },
        (false, false) => &const { rules(false, false, false) },
    }
}

/// Kinds without rules of their own whose `metadata.generation` upstream sets. Custom resources all have it.
fn counts_generations(group: &str, plural: &str) -> bool {
    match group {
        "flowcontrol.apiserver.k8s.io" => true,
        "resource.k8s.io" => matches!(plural, "devicetaintrules"),
        _ => !api::kinds::KINDS.iter().any(|k| k.group == group),
    }
}

#[cfg(test)]
mod tests {
    //! Every strategy runs over a sample that has every field, so that the cursor's check of names sees them all.
    use api::kinds::{KINDS, Kind};
    use api::schema::{self, Shape, Ty};
    use serde_json::{Map, Value, json};

    use super::*;

    /// A value with every field that the type has, down to some depth.
    fn sample(ty: Ty, depth: usize) -> Value {
        within(ty, depth, &mut Vec::new())
    }

    /// `above`: types that hold this value; one that holds itself ends there.
    fn within(ty: Ty, depth: usize, above: &mut Vec<schema::TypeId>) -> Value {
        match ty {
            Ty::Str => "x".into(),
            Ty::Bytes => "eA==".into(),
            Ty::Bool => true.into(),
            Ty::Int32 | Ty::Int64 => 1.into(),
            Ty::Double => json!(1.5),
            Ty::Any => json!({}),
            Ty::A(item) => vec![within(*item, depth, above)].into(),
            Ty::M(item) => json!({"k": within(*item, depth, above)}),
            Ty::R(id) => match schema::get(id).shape {
                Shape::Fields(_) if depth == 0 || above.contains(&id) => json!({}),
                Shape::Fields(fields) => {
                    above.push(id);
                    let all = fields.iter().map(|f| (f.name.to_owned(), within(f.ty, depth - 1, above)));
                    let all = all.collect::<Map<_, _>>();
                    above.pop();
                    Value::Object(all)
                }
                Shape::Anything => json!({}),
                Shape::Quantity => "1".into(),
                Shape::Time => "2026-01-01T00:00:00Z".into(),
                Shape::MicroTime => "2026-01-01T00:00:00.000000Z".into(),
                Shape::IntOrString => 1.into(),
            },
        }
    }

    fn of_kind(kind: &Kind, depth: usize) -> Option<Object> {
        let mut object = Object::from_value(sample(Ty::R(kind.schema?), depth))?;
        object.set_type(&kind.api_version(), &kind.kind);
        Some(object)
    }

    fn stored() -> impl Iterator<Item = &'static Kind> {
        // Rules see objects as they are stored.
        let elsewhere =
            |k: &Kind| k.group == "events.k8s.io" || (k.group == "autoscaling" && k.version == "v1");
        KINDS.iter().filter(move |k| k.has_verb("update") && k.served_by_default() && !elsewhere(k))
    }

    #[test]
    fn every_rule_reads_fields_that_exist() {
        const DEEP: usize = 14;
        for kind in stored() {
            for object in [of_kind(kind, DEEP), of_kind(kind, 2), of_kind(kind, 1)].into_iter().flatten() {
                let subresources = kind.subresources.iter().map(|s| &*s.name);
                for subresource in [""].into_iter().chain(subresources) {
                    let strategy = strategy_for(&kind.group, &kind.plural, subresource);
                    let mut new = object.clone();
                    strategy.fill_defaults(&mut new);
                    let mut changed = of_kind(kind, 3).unwrap_or_default();
                    strategy.admit_create(&mut new.clone());
                    strategy.admit_update(&mut new, &object);
                    strategy.admit_update(&mut changed, &object);
                    strategy.warnings(&object, None);
                }
            }
        }
    }

    #[test]
    fn defaults_are_fields_that_exist_and_come_once() {
        for kind in stored() {
            for depth in 1..9 {
                let Some(mut object) = of_kind(kind, depth) else { continue };
                let strategy = strategy_for(&kind.group, &kind.plural, "");
                strategy.fill_defaults(&mut object);
                let once = object.clone();
                strategy.fill_defaults(&mut object);
                assert_eq!(object, once, "{} {depth}", kind.kind);
                strategy.admit_create(&mut object);
                let mut value = object.into_value();
                let problems = api::decode::check(kind.schema, &mut value);
                assert_eq!(problems, Ok(Vec::new()), "{} {depth}", kind.kind);
            }
        }
    }

    #[test]
    fn a_write_without_change_makes_no_new_generation() {
        for kind in stored() {
            let Some(mut object) = of_kind(kind, 6) else { continue };
            let strategy = strategy_for(&kind.group, &kind.plural, "");
            strategy.fill_defaults(&mut object);
            strategy.admit_create(&mut object);
            let mut again = object.clone();
            strategy.fill_defaults(&mut again);
            strategy.admit_update(&mut again, &object);
            assert_eq!(again, object, "{}", kind.kind);
        }
    }

    #[test]
    fn field_selectors_know_upstreams_fields() {
        for (group, plural, field) in [
            ("", "pods", "spec.nodeName"),
            ("", "pods", "status.phase"),
            ("", "events", "involvedObject.uid"),
            ("", "events", "source"),
            ("", "nodes", "spec.unschedulable"),
            ("", "namespaces", "status.phase"),
            ("", "secrets", "type"),
            ("", "services", "spec.type"),
            ("", "replicationcontrollers", "status.replicas"),
            ("", "pods", "spec.host"),
            ("", "pods", "status.podIPs"),
            ("certificates.k8s.io", "clustertrustbundles", "spec.signerName"),
            ("certificates.k8s.io", "podcertificaterequests", "spec.podName"),
            ("resource.k8s.io", "resourceslices", "spec.driver"),
            ("batch", "jobs", "status.successful"),
            ("certificates.k8s.io", "certificatesigningrequests", "spec.signerName"),
            ("", "configmaps", "metadata.name"),
        ] {
            assert!(supported_field(group, plural, field), "{plural} {field}");
        }
        assert!(!supported_field("", "configmaps", "data"));
        assert!(!supported_field("", "pods", "spec.hostname"));
        assert!(!supported_field("", "nodes", "metadata.namespace"));
        assert!(!supported_field("apps", "replicasets", "status.replicas"));
        assert!(supported_field("", "persistentvolumes", "metadata.namespace"));
        assert_eq!(stored_field("", "pods", "spec.host"), Some("spec.nodeName"));
    }

    #[test]
    fn who_may_create_by_update_and_who_has_to_name_a_revision() {
        let creates = [
            "clusterrolebindings",
            "clusterroles",
            "endpoints",
            "events",
            "leases",
            "limitranges",
            "rolebindings",
            "roles",
            "runtimeclasses",
            "services",
        ];
        let conditional = [
            "csidrivers",
            "csinodes",
            "csistoragecapacities",
            "customresourcedefinitions",
            "leases",
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicybindings",
            "mutatingwebhookconfigurations",
            "poddisruptionbudgets",
            "runtimeclasses",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "validatingwebhookconfigurations",
            "volumeattachments",
        ];
        for kind in KINDS.iter().filter(|k| k.version == "v1" && k.group != "apiregistration.k8s.io") {
            let strategy = strategy_for(&kind.group, &kind.plural, "");
            let plural = &*kind.plural;
            assert_eq!(strategy.allows_create_on_update(), creates.contains(&plural), "{plural}");
            assert_eq!(!strategy.allows_unconditional_update(), conditional.contains(&plural), "{plural}");
        }
    }

    #[test]
    fn kinds_without_generation_stay_without() {
        for (group, plural, expected) in [
            ("", "configmaps", None),
            ("", "services", None),
            ("", "nodes", None),
            ("coordination.k8s.io", "leases", None),
            ("", "pods", Some(1)),
            ("apps", "statefulsets", Some(1)),
            ("discovery.k8s.io", "endpointslices", Some(1)),
            ("networking.k8s.io", "ingresses", Some(1)),
            ("policy", "poddisruptionbudgets", Some(1)),
            ("flowcontrol.apiserver.k8s.io", "flowschemas", Some(1)),
            ("example.com", "foos", Some(1)),
            ("resource.k8s.io", "deviceclasses", Some(1)),
        ] {
            let mut object = Object::default();
            object.set(&["metadata", "generation"], 9);
            strategy_for(group, plural, "").admit_create(&mut object);
            assert_eq!(object.generation(), expected, "{plural}");
        }
    }
}
