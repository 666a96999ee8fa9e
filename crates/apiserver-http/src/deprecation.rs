//! Versions of kinds that are on their way out. Upstream: k8s.io/api/*/*/zz_generated.prerelease-lifecycle.go, 1.36.
use api::kinds::Kind;

/// What a client that uses this version is told.
pub fn warning(kind: &Kind) -> Option<String> {
    let (since, gone, instead) = match (&*kind.group, &*kind.version, &*kind.kind) {
        ("", "v1", "ComponentStatus") => (19, None, ""),
        ("", "v1", "Endpoints") => (33, None, "discovery.k8s.io/v1 EndpointSlice"),
        ("admissionregistration.k8s.io", "v1alpha1", _) => (35, Some(38), ""),
        ("certificates.k8s.io", "v1alpha1", "ClusterTrustBundle") => (34, Some(37), ""),
        ("coordination.k8s.io", "v1beta1", "LeaseCandidate") => (36, Some(39), ""),
        ("coordination.k8s.io", "v1alpha2", "LeaseCandidate") => (35, Some(38), ""),
        ("networking.k8s.io", "v1beta1", "IPAddress" | "ServiceCIDR") => (34, Some(37), ""),
        ("resource.k8s.io", "v1alpha3", "DeviceTaintRule") => (36, Some(39), ""),
        ("resource.k8s.io", "v1beta1", _) => (35, Some(38), ""),
        ("resource.k8s.io", "v1beta2", kind) if kind != "DeviceTaintRule" => (36, Some(39), ""),
        ("storage.k8s.io", "v1beta1", "VolumeAttributesClass") => {
            (34, Some(37), "storage.k8s.io/v1 VolumeAttributesClass")
        }
        _ => return None,
    };
    let mut text = format!("{} {} is deprecated in v1.{since}+", kind.api_version(), kind.kind);
    if let Some(gone) = gone {
        text.push_str(&format!(", unavailable in v1.{gone}+"));
    }
    if !instead.is_empty() {
        text.push_str(&format!("; use {instead}"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_say_so() {
        let told = |group: &str, version: &str, kind: &str| {
            api::kinds::by_kind(group, version, kind).and_then(warning).unwrap_or_default()
        };
        assert_eq!(
            told("", "v1", "Endpoints"),
            "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
        );
        assert_eq!(told("", "v1", "ComponentStatus"), "v1 ComponentStatus is deprecated in v1.19+");
        assert_eq!(
            told("resource.k8s.io", "v1beta1", "ResourceClaim"),
            "resource.k8s.io/v1beta1 ResourceClaim is deprecated in v1.35+, unavailable in v1.38+"
        );
        assert_eq!(told("resource.k8s.io", "v1beta2", "DeviceTaintRule"), "");
        assert_eq!(told("", "v1", "Pod"), "");
    }
}
