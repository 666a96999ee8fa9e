//! Approves what kubelets ask for as clients, where a SubjectAccessReview says that they may; and as servers, where there
//! is the right `selfnodeserver`, which upstream gives nobody, and they ask for nothing but themselves.
//! Watches: CertificateSigningRequest (by key), Node (by its requests).  Writes: its approval, SubjectAccessReview.
//! Invariant: approves only what the signer would sign; what is not recognized waits for a person.
use client::{Cache, ObjectKey, Select};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::PostParams;
use kube::{Api, Client};

use super::serving_names::{Others, only_itself};
use super::{
    KUBELET_CLIENT, KUBELET_SERVING, condition, kubelet_client, kubelet_serving, parse, standing, usages,
    with_condition,
};
use crate::context::Context;
use crate::framework::{Controller, Error, Next, Wakes, unless_gone};

/// See the module.
pub struct CsrApproving {
    client: Client,
    requests: Cache<CertificateSigningRequest>,
    nodes: Cache<Node>,
    slices: Cache<EndpointSlice>,
    info: Cache<ConfigMap>,
    services: Vec<IpNet>,
}

impl CsrApproving {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        let info = Select {
            namespace: Some("kube-public".into()),
            fields: Some("metadata.name=cluster-info".into()),
            ..Select::default()
        };
        Self {
            client: context.client.clone(),
            requests: context.informers.cache(),
            nodes: context.informers.cache(),
            slices: context.informers.cache(),
            info: context.informers.cache_with(info),
            services: context.config.service_cidrs.clone(),
        }
    }

    /// Whether a server asks for itself alone.
    fn asks_for_itself(&self, seen: &CertificateSigningRequest) -> Result<(), Error> {
        let name = seen.spec.username.as_deref().and_then(|u| u.strip_prefix("system:node:"));
        let Some((name, request)) = name.zip(parse(&seen.spec).ok()) else { return Ok(()) };
        let Some(node) = self.nodes.get(&ObjectKey::cluster(name)) else {
            return Err(Error::Unfinished(format!(
                "node {name:?} asks for a serving certificate and is not there"
            )));
        };
        let info = self.info.list();
        let others = Others::than(
            name,
            &self.nodes.list(),
            &self.slices.list(),
            &self.services,
            info.first().map(|i| &**i),
        );
        only_itself(&request, &node, &others).map_err(|why| {
            Error::Unfinished(format!("serving certificate of node {name:?} is not approved: {why}"))
        })
    }

    async fn may(&self, seen: &CertificateSigningRequest, subresource: &str) -> Result<bool, Error> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: seen.spec.username.clone(),
                uid: seen.spec.uid.clone(),
                groups: seen.spec.groups.clone(),
                extra: seen.spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".into()),
                    resource: Some("certificatesigningrequests".into()),
                    verb: Some("create".into()),
                    subresource: Some(subresource.into()),
                    version: Some("*".into()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await;
        let answer = answer.map_err(Error::at("ask whether the request may be approved"))?;
        Ok(answer.status.is_some_and(|s| s.allowed))
    }
}

impl Controller for CsrApproving {
    const NAME: &'static str = "certificatesigningrequest-approving-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.requests);
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(seen) = self.requests.get(&key) else { return Ok(Next::Rest) };
        let recognized = recognize(&seen);
        if recognized == [SERVER] {
            self.asks_for_itself(&seen)?;
        }
        for way in &recognized {
            if !self.may(&seen, way.subresource).await? {
                continue;
            }
            let now = Time(Timestamp::now());
            let changed =
                with_condition(&seen, condition("Approved", "AutoApproved", way.message.into(), now));
            let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
            let written =
                api.replace_subresource("approval", &key.name, &PostParams::default(), &changed).await;
            unless_gone(written).map_err(Error::at("approve the request"))?;
            tracing::info!(
                request = key.name,
                requester = seen.spec.username,
                "certificate request approved"
            );
            return Ok(Next::Rest);
        }
        if !recognized.is_empty() {
            // The right to ask may come later, so this is looked at again.
            let names: Vec<&str> = recognized.iter().map(|w| w.subresource).collect();
            return Err(Error::Unfinished(format!(
                "recognized csr {:?} as {names:?} but subject access review was not approved",
                key.name
            )));
        }
        Ok(Next::Rest)
    }
}

/// A kind of request, the right it takes, and what approval says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    subresource: &'static str,
    message: &'static str,
}

const SELF: Way = Way {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const NODE: Way = Way {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

const SERVER: Way = Way {
    subresource: "selfnodeserver",
    message: "Auto approving self kubelet server certificate after SubjectAccessReview.",
};

/// The ways in which a request can be approved, in the order in which they are tried.
fn recognize(seen: &CertificateSigningRequest) -> Vec<Way> {
    let at = standing(seen);
    if at.approved || at.denied || at.issued {
        return Vec::new();
    }
    let Ok(request) = parse(&seen.spec) else { return Vec::new() };
    if seen.spec.signer_name == KUBELET_SERVING {
        let good = kubelet_serving(&request, &usages(&seen.spec)).is_ok();
        let own = seen.spec.username.as_deref() == Some(request.subject.common_name.as_str());
        return if good && own { vec![SERVER] } else { Vec::new() };
    }
    if seen.spec.signer_name != KUBELET_CLIENT {
        return Vec::new();
    }
    if kubelet_client(&request, &usages(&seen.spec)).is_err() {
        return Vec::new();
    }
    let own = seen.spec.username.as_deref() == Some(request.subject.common_name.as_str());
    if own { vec![SELF, NODE] } else { vec![NODE] }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
    use pki::{KeyAlgorithm, PrivateKey, Subject};

    use super::*;

    #[test]
    fn servers_are_recognized_where_they_ask_themselves() {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let subject = Subject::new("system:node:a").in_group("system:nodes");
        let pem = key.request(&subject, &[pki::AlternativeName::Dns("a".into())]).unwrap();
        let check = |by: &str, purpose: &str, want: &[Way]| {
            let csr = CertificateSigningRequest {
                spec: CertificateSigningRequestSpec {
                    request: ByteString(pem.clone().into_bytes()),
                    signer_name: KUBELET_SERVING.into(),
                    username: Some(by.into()),
                    usages: Some(vec![purpose.into(), "digital signature".into()]),
                    ..CertificateSigningRequestSpec::default()
                },
                ..CertificateSigningRequest::default()
            };
            assert_eq!(recognize(&csr), want, "{by} {purpose}");
        };
        check("system:node:a", "server auth", &[SERVER]);
        check("system:node:a", "client auth", &[]);
        check("system:node:b", "server auth", &[]);
        check("system:bootstrap:abcdef", "server auth", &[]);
    }

    #[test]
    fn only_kubelets_as_clients_are_recognized() {
        let check = |by: &str, signer: &str, name: &str, group: &str, want: &[Way]| {
            let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
            let pem = key.request(&Subject::new(name).in_group(group), &[]).unwrap();
            let csr = CertificateSigningRequest {
                spec: CertificateSigningRequestSpec {
                    request: ByteString(pem.into_bytes()),
                    signer_name: signer.into(),
                    username: Some(by.into()),
                    usages: Some(vec!["client auth".into(), "digital signature".into()]),
                    ..CertificateSigningRequestSpec::default()
                },
                ..CertificateSigningRequest::default()
            };
            assert_eq!(recognize(&csr), want, "{by} {signer} {name} {group}");
            let now = Time(Timestamp::UNIX_EPOCH);
            let denied = with_condition(&csr, condition("Denied", "", String::new(), now));
            assert!(recognize(&denied).is_empty());
        };
        let node = "system:node:a";
        check("system:bootstrap:abcdef", KUBELET_CLIENT, node, "system:nodes", &[NODE]);
        check(node, KUBELET_CLIENT, node, "system:nodes", &[SELF, NODE]);
        check("system:node:b", KUBELET_CLIENT, node, "system:nodes", &[NODE]);
        check(node, KUBELET_CLIENT, node, "system:masters", &[]);
        check(node, KUBELET_CLIENT, "root", "system:nodes", &[]);
        // A server has a name.
        check(node, KUBELET_SERVING, node, "system:nodes", &[]);
        check(node, super::super::KUBE_APISERVER_CLIENT, node, "system:nodes", &[]);
    }
}
