//! `CertificateApproval`, `CertificateSigning` and `CertificateSubjectRestriction`: who may let a certificate come to be.
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::request::UserInfo;
use machinery::{Object, StatusResult};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::{Attributes, Authorize, Operation, Plugin};

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";

/// May the user approve (or deny) requests for this signer?
pub struct CertificateApproval(pub Arc<dyn Authorize>);
/// May the user put certificates into requests for this signer?
pub struct CertificateSigning(pub Arc<dyn Authorize>);
/// Nobody asks for a client certificate of the group that may do anything.
#[derive(Debug, Clone, Copy)]
pub struct CertificateSubjectRestriction;

/// `ClusterTrustBundleAttest`: who publishes the trust of a signer has to be allowed to speak for it.
pub struct ClusterTrustBundleAttest(pub Arc<dyn Authorize>);

/// Whether a verb is given for the signer by name, or for all signers of its domain.
async fn may(authorize: &dyn Authorize, user: &UserInfo, verb: &str, signer: &str) -> bool {
    if authorize.may(user, verb, signer).await {
        return true;
    }
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    authorize.may(user, verb, &format!("{domain}/*")).await
}

fn signer(a: &Attributes<'_>) -> String {
    // The old object is what is really stored; a request must not choose another signer for the question.
    let of = a.old.or(a.object());
    of.map_or("", |o| o.str_at(&["spec", "signerName"])).to_owned()
}

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        if !a.is_sub(GROUP, REQUESTS, "approval") {
            return Ok(());
        }
        let signer = signer(a);
        if may(&*self.0, a.user, "approve", &signer).await {
            return Ok(());
        }
        Err(a.forbidden(format!("user not permitted to approve requests with signerName {signer:?}")))
    }
}

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        let (Some(new), Some(old)) = (a.object(), a.old) else { return Ok(()) };
        let certificate = |o: &Object| o.str_at(&["status", "certificate"]).to_owned();
        let failed = |o: &Object| o.list_at(&["status", "conditions"]).iter().any(|c| c["type"] == "Failed");
        // Only who sets the certificate, or says that it failed, acts as the signer.
        let signs = certificate(new) != certificate(old) || failed(new) != failed(old);
        if !a.is_sub(GROUP, REQUESTS, "status") || !signs {
            return Ok(());
        }
        let signer = signer(a);
        if may(&*self.0, a.user, "sign", &signer).await {
            return Ok(());
        }
        Err(a.forbidden(format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}

/// Whether two objects differ at most in what the garbage collector changes.
fn only_ownership_differs(new: &Object, old: &Object) -> bool {
    let bare = |object: &Object| {
        let mut object = object.clone();
        for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion", "generation"] {
            object.remove(&["metadata", field]);
        }
        object
    };
    bare(new) == bare(old)
}

#[async_trait]
impl Plugin for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        let is_bundle = a.gvr.group == GROUP && a.gvr.resource == "clustertrustbundles";
        let Some(new) = a.object().filter(|_| is_bundle) else { return Ok(()) };
        // The new object's: that no update changes the signer, validation sees to.
        let signer = new.str_at(&["spec", "signerName"]);
        if signer.is_empty() || a.old.is_some_and(|old| only_ownership_differs(new, old)) {
            return Ok(());
        }
        if may(&*self.0, a.user, "attest", signer).await {
            return Ok(());
        }
        Err(a.forbidden(format!("user not permitted to attest for signerName {signer:?}")))
    }
}

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
        let Some(request) = a.object().filter(|_| a.is(GROUP, REQUESTS)) else { return Ok(()) };
        if request.str_at(&["spec", "signerName"]) != SIGNER {
            return Ok(());
        }
        let pem = STANDARD.decode(request.str_at(&["spec", "request"])).unwrap_or_default();
        let asks = organizations(&pem).map_err(|why| a.forbidden(format!("failed to parse CSR: {why}")))?;
        if asks.iter().any(|o| o == "system:masters") {
            return Err(
                a.forbidden(format!("use of {SIGNER} signer with system:masters group is not allowed"))
            );
        }
        Ok(())
    }
}

fn organizations(pem: &[u8]) -> Result<Vec<String>, &'static str> {
    let (_, block) =
        x509_parser::pem::parse_x509_pem(pem).map_err(|_| "PEM block type must be CERTIFICATE REQUEST")?;
    let (_, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|_| "malformed certificate request")?;
    let subject = &request.certification_request_info.subject;
    Ok(subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use machinery::request::RequestInfo;
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Ask, object};

    struct Only(&'static str, &'static str);

    #[async_trait]
    impl Authorize for Only {
        async fn decide(&self, user: &UserInfo, request: &RequestInfo) -> Result<(), String> {
            assert_eq!((&*request.api_group, &*request.resource), ("certificates.k8s.io", "signers"));
            let allowed = user.name == "jane" && (&*request.verb, &*request.name) == (self.0, self.1);
            if allowed { Ok(()) } else { Err(String::new()) }
        }
    }

    fn change(subresource: &'static str, status: Value) -> Ask {
        let csr = |status: Value| {
            object(
                json!({"metadata": {"name": "r"}, "spec": {"signerName": "example.com/x"}, "status": status}),
            )
        };
        Ask {
            subresource,
            old: Some(csr(json!({}))),
            object: Some(csr(status)),
            ..Ask::new(Operation::Update, (GROUP, REQUESTS), "CertificateSigningRequest")
        }
    }

    #[tokio::test]
    async fn approval_and_signing_need_their_verbs() {
        let plugin = |may: Only| CertificateApproval(Arc::new(may));
        let approve = || change("approval", json!({"conditions": [{"type": "Approved"}]}));
        assert!(approve().run(&plugin(Only("approve", "example.com/x"))).await.is_ok());
        assert!(approve().run(&plugin(Only("approve", "example.com/*"))).await.is_ok());
        assert_eq!(
            approve().run(&plugin(Only("approve", "example.com/y"))).await.unwrap_err(),
            "certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: user not permitted to approve requests with \
             signerName \"example.com/x\""
        );
        let signing = |may: Only| CertificateSigning(Arc::new(may));
        let sign = || change("status", json!({"certificate": "abc"}));
        assert!(sign().run(&signing(Only("sign", "example.com/x"))).await.is_ok());
        assert!(sign().run(&signing(Only("approve", "example.com/x"))).await.is_err());
        assert!(change("status", json!({})).run(&signing(Only("", ""))).await.is_ok());
    }

    #[tokio::test]
    async fn a_signers_trust_needs_its_verb() {
        let bundle = |signer: &str, pem: &str, owner: Value| {
            object(json!({"metadata": {"name": "b", "ownerReferences": owner},
                "spec": {"signerName": signer, "trustBundle": pem}}))
        };
        let ask = |old: Option<Object>, new: Object| Ask {
            object: Some(new),
            operation: if old.is_some() { Operation::Update } else { Operation::Create },
            old,
            ..Ask::new(Operation::Create, (GROUP, "clustertrustbundles"), "ClusterTrustBundle")
        };
        let plugin = |may: Only| ClusterTrustBundleAttest(Arc::new(may));
        let (of, none) = (|pem: &str| bundle("example.com/x", pem, json!([])), || Only("", ""));
        assert!(ask(None, of("p")).run(&plugin(Only("attest", "example.com/x"))).await.is_ok());
        assert!(ask(None, of("p")).run(&plugin(Only("attest", "example.com/*"))).await.is_ok());
        let refused = ask(None, of("p")).run(&plugin(Only("sign", "example.com/x"))).await.unwrap_err();
        assert!(
            refused.ends_with("user not permitted to attest for signerName \"example.com/x\""),
            "{refused}"
        );
        assert!(ask(None, bundle("", "p", json!([]))).run(&plugin(none())).await.is_ok());
        assert!(ask(Some(of("p")), of("q")).run(&plugin(none())).await.is_err());
        let owned = bundle("example.com/x", "p", json!([{"name": "o"}]));
        assert!(ask(Some(of("p")), owned).run(&plugin(none())).await.is_ok());
    }

    #[tokio::test]
    async fn nobody_asks_to_be_master() {
        let request = |group: &str| {
            let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
            let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
            let csr = json!({"metadata": {"name": "r"},
                "spec": {"signerName": "kubernetes.io/kube-apiserver-client", "request": STANDARD.encode(pem)}});
            Ask {
                object: Some(object(csr)),
                ..Ask::new(Operation::Create, (GROUP, REQUESTS), "CertificateSigningRequest")
            }
        };
        assert!(request("devs").run(&CertificateSubjectRestriction).await.is_ok());
        let refused = request("system:masters").run(&CertificateSubjectRestriction).await.unwrap_err();
        assert!(
            refused.ends_with(
                "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
            ),
            "{refused}"
        );
    }
}
