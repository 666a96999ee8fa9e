//! The controllers of the Certificates API: who approves, who signs, who tidies up. Upstream:
//! pkg/controller/certificates and pkg/apis/certificates/helpers.go, 1.36.
mod approving;
mod cleaner;
mod serving_names;
mod signing;

use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pki::CertificateRequest;

pub use approving::CsrApproving;
pub use cleaner::CsrCleaner;
pub use signing::{CsrSigning, SignerFiles};

/// Client certificates that the API server honours.
pub const KUBE_APISERVER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Client certificates of kubelets.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Serving certificates of kubelets.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Certificates with no promise about what they are good for.
pub const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

/// The conditions that decide what becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Standing {
    approved: bool,
    denied: bool,
    failed: bool,
    issued: bool,
}

fn standing(request: &CertificateSigningRequest) -> Standing {
    let status = request.status.as_ref();
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let has = |ty: &str| conditions.iter().any(|c| c.type_ == ty && c.status == "True");
    Standing {
        approved: has("Approved"),
        denied: has("Denied"),
        failed: has("Failed"),
        issued: status.and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty()),
    }
}

fn condition(ty: &str, reason: &str, message: String, now: Time) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: ty.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now),
    }
}

fn with_condition(
    request: &CertificateSigningRequest,
    condition: CertificateSigningRequestCondition,
) -> CertificateSigningRequest {
    let mut changed = request.clone();
    changed.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
    changed
}

/// What is asked for, if it can be read and its signature is good.
fn parse(spec: &CertificateSigningRequestSpec) -> Result<CertificateRequest, pki::Error> {
    CertificateRequest::from_pem(&String::from_utf8_lossy(&spec.request.0))
}

fn usages(spec: &CertificateSigningRequestSpec) -> BTreeSet<&str> {
    spec.usages.iter().flatten().map(String::as_str).collect()
}

/// Whether this is what a kubelet asks for as a client; the words are upstream's.
fn kubelet_client(request: &CertificateRequest, usages: &BTreeSet<&str>) -> Result<(), String> {
    let refuse = |why: &str| Err(why.to_owned());
    if request.subject.organizations != ["system:nodes"] {
        return refuse("subject organization is not system:nodes");
    }
    if !request.dns_names.is_empty() {
        return refuse("DNS subjectAltNames are not allowed");
    }
    if !request.emails.is_empty() {
        return refuse("Email subjectAltNames are not allowed");
    }
    if !request.addresses.is_empty() {
        return refuse("IP subjectAltNames are not allowed");
    }
    if !request.uris.is_empty() {
        return refuse("URI subjectAltNames are not allowed");
    }
    if !request.subject.common_name.starts_with("system:node:") {
        return refuse("subject common name does not begin with system:node:");
    }
    usages_are(usages, "client auth")
}

/// Whether this is what a kubelet asks for as a server.
fn kubelet_serving(request: &CertificateRequest, usages: &BTreeSet<&str>) -> Result<(), String> {
    let refuse = |why: &str| Err(why.to_owned());
    if request.subject.organizations != ["system:nodes"] {
        return refuse("subject organization is not system:nodes");
    }
    if request.dns_names.is_empty() && request.addresses.is_empty() {
        return refuse("DNS or IP subjectAltName is required");
    }
    if !request.emails.is_empty() {
        return refuse("Email subjectAltNames are not allowed");
    }
    if !request.uris.is_empty() {
        return refuse("URI subjectAltNames are not allowed");
    }
    usages_are(usages, "server auth")?;
    if !request.subject.common_name.starts_with("system:node:") {
        return refuse("subject common name does not begin with system:node:");
    }
    Ok(())
}

/// Digital signature and this purpose; key encipherment may be there (RSA) or not.
fn usages_are(usages: &BTreeSet<&str>, purpose: &'static str) -> Result<(), String> {
    let with_rsa = BTreeSet::from(["digital signature", "key encipherment", purpose]);
    let without = BTreeSet::from(["digital signature", purpose]);
    if *usages == with_rsa || *usages == without {
        return Ok(());
    }
    let list: Vec<&str> = with_rsa.into_iter().collect();
    Err(format!("usages did not match [{}]", list.join(" ")))
}

#[cfg(test)]
mod tests {
    use pki::{AlternativeName, KeyAlgorithm, PrivateKey, Subject};

    use super::*;

    fn request(name: &str, groups: &[&str], names: &[&str]) -> CertificateRequest {
        let subject =
            Subject { common_name: name.into(), organizations: groups.iter().map(|&g| g.into()).collect() };
        let names: Vec<AlternativeName> = names.iter().map(|n| AlternativeName::parse(n).unwrap()).collect();
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        CertificateRequest::from_pem(&key.request(&subject, &names).unwrap()).unwrap()
    }

    const NODES: &[&str] = &["system:nodes"];

    #[test]
    fn what_kubelets_may_ask_for_as_clients() {
        let good = ["client auth", "digital signature", "key encipherment"];
        let check = |r: CertificateRequest, usages: &[&'static str], want: &str| {
            let got = kubelet_client(&r, &usages.iter().copied().collect());
            assert_eq!(got.err().unwrap_or_default(), want);
        };
        check(request("system:node:a", NODES, &[]), &good, "");
        check(request("system:node:a", NODES, &[]), &good[..2], "");
        let others = "subject organization is not system:nodes";
        check(request("system:node:a", &["system:nodes", "system:masters"], &[]), &good, others);
        check(request("system:node:a", &[], &[]), &good, others);
        check(request("jane", NODES, &[]), &good, "subject common name does not begin with system:node:");
        check(request("system:node:a", NODES, &["a.b"]), &good, "DNS subjectAltNames are not allowed");
        check(request("system:node:a", NODES, &["10.0.0.1"]), &good, "IP subjectAltNames are not allowed");
        let usages = "usages did not match [client auth digital signature key encipherment]";
        check(request("system:node:a", NODES, &[]), &["client auth"], usages);
        check(request("system:node:a", NODES, &[]), &["server auth", "digital signature"], usages);
    }

    #[test]
    fn what_kubelets_may_ask_for_as_servers() {
        let good = ["server auth", "digital signature"];
        let check = |r: CertificateRequest, usages: &[&'static str], want: &str| {
            let got = kubelet_serving(&r, &usages.iter().copied().collect());
            assert_eq!(got.err().unwrap_or_default(), want);
        };
        check(request("system:node:a", NODES, &["a", "10.0.0.1"]), &good, "");
        check(request("system:node:a", NODES, &[]), &good, "DNS or IP subjectAltName is required");
        let usages = "usages did not match [digital signature key encipherment server auth]";
        check(request("system:node:a", NODES, &["a"]), &["client auth", "digital signature"], usages);
    }
}
