//! Which service account each controller writes as. Upstream: cmd/kube-controller-manager/app, and the roles in
//! plugin/pkg/auth/authorizer/rbac/bootstrappolicy/controller_policy.go, 1.36.
use std::sync::Arc;

use kube::Client;

/// Gives the client of a service account in `kube-system`; the same client for all where they share one identity.
pub type ClientFor = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// The service account of a controller, by the name that `--controllers` knows it by.
pub fn account(controller: &str) -> &str {
    match controller {
        "serviceaccount-controller" => "service-account-controller",
        "endpoints-controller" => "endpoint-controller",
        "garbage-collector-controller" => "generic-garbage-collector",
        "root-ca-certificate-publisher-controller" => "root-ca-cert-publisher",
        "node-ipam-controller" | "node-lifecycle-controller" | "taint-eviction-controller" => {
            "node-controller"
        }
        "pod-garbage-collector-controller" => "pod-garbage-collector",
        "token-cleaner-controller" => "token-cleaner",
        "bootstrap-signer-controller" => "bootstrap-signer",
        "certificatesigningrequest-approving-controller"
        | "certificatesigningrequest-cleaner-controller"
        | "certificatesigningrequest-signing-controller" => "certificate-controller",
        "daemonset-controller" => "daemon-set-controller",
        "replicationcontroller-controller" => "replication-controller",
        "service-cidr-controller" => "service-cidrs-controller",
        "statefulset-controller" => "statefulset-controller",
        same => same,
    }
}
