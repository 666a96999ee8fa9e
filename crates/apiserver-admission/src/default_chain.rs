//! The plugins that run unless flags say otherwise, in upstream's order.
use std::sync::Arc;

use crate::{
    Authorize, CertificateApproval, CertificateSigning, CertificateSubjectRestriction, Chain, ClusterView,
    DefaultIngressClass, DefaultStorageClass, DefaultTolerationSeconds, LimitRanger, NamespaceLifecycle,
    NodeRestriction, PersistentVolumeClaimResize, PodSecurity, Priority, QuotaWriter, ResourceQuota,
    RuntimeClass, ServiceAccount, StorageObjectInUseProtection, TaintNodesByCondition,
};

/// Upstream's default plugins (kubeapiserver/options/plugins.go), and `NodeRestriction` as kubeadm turns it on.
///
/// Without the certificate plugins and `ResourceQuota`, which need more of the server: see [`full_chain`].
pub fn default_chain(cluster: Arc<dyn ClusterView>) -> Chain {
    Chain(vec![
        Box::new(NamespaceLifecycle(cluster.clone())),
        Box::new(LimitRanger(cluster.clone())),
        Box::new(ServiceAccount(cluster.clone())),
        Box::new(NodeRestriction(cluster.clone())),
        Box::new(TaintNodesByCondition),
        Box::new(PodSecurity(cluster.clone())),
        Box::new(Priority(cluster.clone())),
        Box::new(DefaultTolerationSeconds),
        Box::new(DefaultStorageClass(cluster.clone())),
        Box::new(StorageObjectInUseProtection),
        Box::new(PersistentVolumeClaimResize(cluster.clone())),
        Box::new(RuntimeClass(cluster.clone())),
        Box::new(CertificateSubjectRestriction),
        Box::new(DefaultIngressClass(cluster)),
    ])
}

/// [`default_chain`] with the certificate plugins, and `ResourceQuota` last.
pub fn full_chain(
    cluster: Arc<dyn ClusterView>,
    authorize: Arc<dyn Authorize>,
    quota: Arc<dyn QuotaWriter>,
) -> Chain {
    let mut chain = default_chain(cluster.clone());
    chain.0.push(Box::new(CertificateApproval(authorize.clone())));
    chain.0.push(Box::new(CertificateSigning(authorize)));
    chain.0.push(Box::new(ResourceQuota::new(cluster, quota)));
    chain
}
