//! Which resources the server has now, CRDs included.
use kube::Client;
use kube::api::ApiResource;
use kube::core::discovery::v2::APIGroupDiscoveryList;

use crate::framework::Error;

/// One resource in its group's preferred version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Names of the kind.
    pub resource: ApiResource,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<String>,
}

impl Found {
    /// Whether the resource has this verb.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// What the server told.
#[derive(Debug, Default)]
pub struct Discovered {
    /// Each resource once, in the first version of its group that has it.
    pub resources: Vec<Found>,
    /// `group/version` of those it could not tell about.
    pub stale: Vec<String>,
}

/// Asks the server.
pub async fn discover(client: &Client) -> Result<Discovered, Error> {
    let core =
        client.list_core_api_versions_aggregated().await.map_err(Error::at("discover the core group"))?;
    let groups = client.list_api_groups_aggregated().await.map_err(Error::at("discover the groups"))?;
    let mut discovered = Discovered::default();
    read(&core, &mut discovered);
    read(&groups, &mut discovered);
    Ok(discovered)
}

fn read(list: &APIGroupDiscoveryList, into: &mut Discovered) {
    for group in &list.items {
        let group_name = group.metadata.as_ref().and_then(|m| m.name.clone()).unwrap_or_default();
        for version in &group.versions {
            let version_name = version.version.clone().unwrap_or_default();
            let api_version = if group_name.is_empty() {
                version_name.clone()
            } else {
                format!("{group_name}/{version_name}")
            };
            if version.freshness.as_deref() == Some("Stale") {
                into.stale.push(api_version);
                continue;
            }
            for resource in &version.resources {
                let plural = resource.resource.clone().unwrap_or_default();
                let known = into
                    .resources
                    .iter()
                    .any(|f| f.resource.group == group_name && f.resource.plural == plural);
                if known || plural.is_empty() {
                    continue;
                }
                let kind = resource.response_kind.as_ref().and_then(|k| k.kind.clone()).unwrap_or_default();
                into.resources.push(Found {
                    resource: ApiResource {
                        group: group_name.clone(),
                        version: version_name.clone(),
                        api_version: api_version.clone(),
                        kind,
                        plural,
                    },
                    namespaced: resource.scope.as_deref() == Some("Namespaced"),
                    verbs: resource.verbs.clone(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_version_wins_and_stale_ones_are_told() {
        let list: APIGroupDiscoveryList = serde_json::from_value(serde_json::json!({"items": [{
            "metadata": {"name": "autoscaling"},
            "versions": [
                {"version": "v2", "freshness": "Current", "resources": [
                    {"resource": "horizontalpodautoscalers", "responseKind": {"group": "", "version": "", "kind": "HorizontalPodAutoscaler"},
                     "scope": "Namespaced", "verbs": ["list", "delete"]}]},
                {"version": "v1", "freshness": "Current", "resources": [
                    {"resource": "horizontalpodautoscalers", "responseKind": {"kind": "HorizontalPodAutoscaler"},
                     "scope": "Namespaced", "verbs": ["list"]}]}]},
            {"metadata": {"name": "metrics.k8s.io"}, "versions": [{"version": "v1beta1", "freshness": "Stale"}]}]}))
        .unwrap();
        let mut found = Discovered::default();
        read(&list, &mut found);
        assert_eq!(found.stale, ["metrics.k8s.io/v1beta1"]);
        let [hpa] = &found.resources[..] else { panic!("{found:?}") };
        assert_eq!(hpa.resource.api_version, "autoscaling/v2");
        assert!(hpa.namespaced && hpa.can("delete") && !hpa.can("watch"));
    }
}
