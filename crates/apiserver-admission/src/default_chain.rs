//! The plugins that run unless flags say otherwise, in upstream's order.
use std::sync::Arc;

use crate::{
    Chain, ClusterView, DefaultTolerationSeconds, NamespaceLifecycle, Priority, ServiceAccount,
    StorageObjectInUseProtection, TaintNodesByCondition,
};

/// Upstream's default plugins (kubeapiserver/options/plugins.go), and `NodeRestriction` as kubeadm turns it on.
pub fn default_chain(cluster: Arc<dyn ClusterView>) -> Chain {
    Chain(vec![
        Box::new(NamespaceLifecycle(cluster.clone())),
        Box::new(ServiceAccount(cluster.clone())),
        Box::new(TaintNodesByCondition),
        Box::new(Priority(cluster)),
        Box::new(DefaultTolerationSeconds),
        Box::new(StorageObjectInUseProtection),
    ])
}
