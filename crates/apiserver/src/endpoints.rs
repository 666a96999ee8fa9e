//! Which endpoint serves which resource.
use std::collections::BTreeMap;
use std::sync::Arc;

use apiserver_http::Endpoint;
use apiserver_http::endpoints::{
    Binding, Component, ComponentStatuses, Eviction, KubeletAccess, NodeProxy, PodLog, PodStream, Review,
    Scale, ServiceAccountToken, StreamKind,
};

/// Group, plural and subresource.
pub type Key = (String, String, String);

/// The endpoints of a server. Without access to kubelets their subresources are not served.
pub fn endpoints(
    kubelet: Option<KubeletAccess>,
    tokens: ServiceAccountToken,
    components: Vec<Arc<dyn Component>>,
) -> BTreeMap<Key, Arc<dyn Endpoint>> {
    let mut all: BTreeMap<Key, Arc<dyn Endpoint>> = BTreeMap::new();
    let mut add = |group: &str, plural: &str, subresource: &str, endpoint: Arc<dyn Endpoint>| {
        all.insert((group.into(), plural.into(), subresource.into()), endpoint);
    };
    let scale = Arc::new(Scale);
    add("apps", "deployments", "scale", scale.clone());
    add("apps", "replicasets", "scale", scale.clone());
    add("apps", "statefulsets", "scale", scale.clone());
    add("", "replicationcontrollers", "scale", scale);
    let binding = Arc::new(Binding);
    add("", "pods", "binding", binding.clone());
    add("", "bindings", "", binding);
    add("", "pods", "eviction", Arc::new(Eviction));
    add("", "serviceaccounts", "token", Arc::new(tokens));
    let review = Arc::new(Review);
    for plural in [
        "subjectaccessreviews",
        "selfsubjectaccessreviews",
        "localsubjectaccessreviews",
        "selfsubjectrulesreviews",
    ] {
        add("authorization.k8s.io", plural, "", review.clone());
    }
    for plural in ["tokenreviews", "selfsubjectreviews"] {
        add("authentication.k8s.io", plural, "", review.clone());
    }
    add("", "componentstatuses", "", Arc::new(ComponentStatuses(components)));
    if let Some(access) = kubelet {
        add("", "pods", "log", Arc::new(PodLog(access.clone())));
        for (name, kind) in [
            ("exec", StreamKind::Exec),
            ("attach", StreamKind::Attach),
            ("portforward", StreamKind::PortForward),
        ] {
            add("", "pods", name, Arc::new(PodStream(access.clone(), kind)));
        }
        let proxy = Arc::new(NodeProxy(access));
        for plural in ["nodes", "pods", "services"] {
            add("", plural, "proxy", proxy.clone());
        }
    }
    all
}
