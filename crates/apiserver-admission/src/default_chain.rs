//! The plugins that run unless flags say otherwise, in upstream's order.
use std::sync::Arc;

use crate::{
    Chain, ClusterView, DefaultIngressClass, DefaultStorageClass, DefaultTolerationSeconds, LimitRanger,
    NamespaceLifecycle, NodeRestriction, PersistentVolumeClaimResize, Priority, RuntimeClass, ServiceAccount,
    StorageObjectInUseProtection, TaintNodesByCondition,
};

/// Upstream's default plugins (kubeapiserver/options/plugins.go), and `NodeRestriction` as kubeadm turns it on.
pub fn default_chain(cluster: Arc<dyn ClusterView>) -> Chain {
    Chain(vec![
        Box::new(NamespaceLifecycle(cluster.clone())),
        Box::new(LimitRanger(cluster.clone())),
        Box::new(ServiceAccount(cluster.clone())),
        Box::new(NodeRestriction(cluster.clone())),
        Box::new(TaintNodesByCondition),
        Box::new(Priority(cluster.clone())),
        Box::new(DefaultTolerationSeconds),
        Box::new(DefaultStorageClass(cluster.clone())),
        Box::new(StorageObjectInUseProtection),
        Box::new(PersistentVolumeClaimResize(cluster.clone())),
        Box::new(RuntimeClass(cluster.clone())),
        Box::new(DefaultIngressClass(cluster)),
    ])
}
