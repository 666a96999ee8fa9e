//! Signs approved requests for upstream's four signer names, each with a key of its own or one for all.
//! Watches: CertificateSigningRequest (by key).  Writes: its status.
//! Invariants: signs nothing that is not approved, nothing that its signer name does not permit, nothing twice.
//!
//! The authority is read from its files for each signature: signing is rare, and so a renewed authority counts at once.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use client::{Cache, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::PostParams;
use kube::{Api, Client};
use pki::{Authority, CertificateRequest, PrivateKey};

use super::{
    KUBE_APISERVER_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN, condition, kubelet_client,
    kubelet_serving, parse, standing, usages, with_condition,
};
use crate::context::Context;
use crate::framework::{Controller, Error, Next, Wakes, unless_gone};

/// Shorter certificates are not made, whatever is asked for.
const SHORTEST: Duration = Duration::from_secs(600);

/// Where a signer's authority is: `--cluster-signing-cert-file` and `--cluster-signing-key-file`, or those of one signer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerFiles {
    /// Its certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// See the module.
pub struct CsrSigning {
    client: Client,
    requests: Cache<CertificateSigningRequest>,
    signers: BTreeMap<String, SignerFiles>,
    longest: Duration,
}

impl CsrSigning {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            requests: context.informers.cache(),
            signers: context.config.signers.clone(),
            longest: context.config.signing_duration,
        }
    }

    fn authority(files: &SignerFiles) -> Result<Authority, String> {
        let read = |path: &PathBuf| match pki::read(path) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err(format!("{} does not exist", path.display())),
            Err(error) => Err(crate::framework::chain(&error)),
        };
        let key = PrivateKey::from_pem(&read(&files.key)?);
        let key = key.map_err(|e| format!("{}: {e}", files.key.display()))?;
        Authority::load(&read(&files.certificate)?, key)
            .map_err(|e| format!("{}: {e}", files.certificate.display()))
    }
}

impl Controller for CsrSigning {
    const NAME: &'static str = "certificatesigningrequest-signing-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.requests);
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(seen) = self.requests.get(&key) else { return Ok(Next::Rest) };
        let Some(files) = self.signers.get(&seen.spec.signer_name) else { return Ok(Next::Rest) };
        let now = Timestamp::now();
        let changed = match plan(&seen, self.longest) {
            Plan::Nothing => return Ok(Next::Rest),
            Plan::Fail(why) => {
                tracing::info!(request = key.name, why, "certificate request failed");
                with_condition(&seen, condition("Failed", "SignerValidationFailure", why, Time(now)))
            }
            Plan::Sign(request, validity) => {
                let authority = Self::authority(files).map_err(Error::Unfinished)?;
                let usages = seen.spec.usages.clone().unwrap_or_default();
                let signed = authority
                    .sign_request(&request, &usages, validity, now)
                    .map_err(|e| Error::Unfinished(format!("error auto signing csr: {e}")))?;
                tracing::info!(request = key.name, signer = seen.spec.signer_name, "certificate signed");
                let mut changed = (*seen).clone();
                changed.status.get_or_insert_default().certificate = Some(ByteString(signed.into_bytes()));
                changed
            }
        };
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        let written = api.replace_status(&key.name, &PostParams::default(), &changed).await;
        unless_gone(written).map_err(Error::at("write what became of the request"))?;
        Ok(Next::Rest)
    }
}

enum Plan {
    Nothing,
    Fail(String),
    Sign(Box<CertificateRequest>, Duration),
}

fn plan(seen: &CertificateSigningRequest, longest: Duration) -> Plan {
    let at = standing(seen);
    if !at.approved || at.denied || at.failed || at.issued {
        return Plan::Nothing;
    }
    let request = match parse(&seen.spec) {
        Ok(request) => request,
        // Validation let it in, so this is about what our parser supports: trying again would not help.
        Err(error) => return Plan::Fail(error.to_string()),
    };
    let usages = usages(&seen.spec);
    let permitted = match seen.spec.signer_name.as_str() {
        KUBE_APISERVER_CLIENT => client_usages(seen.spec.usages.as_deref().unwrap_or_default()),
        KUBELET_CLIENT => kubelet_client(&request, &usages),
        KUBELET_SERVING => kubelet_serving(&request, &usages),
        LEGACY_UNKNOWN => Ok(()),
        _ => return Plan::Nothing,
    };
    match permitted {
        Err(why) => Plan::Fail(why),
        Ok(()) => Plan::Sign(Box::new(request), validity(seen.spec.expiration_seconds, longest)),
    }
}

fn client_usages(usages: &[String]) -> Result<(), String> {
    let optional = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|u| !optional.contains(&u.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if !usages.iter().any(|u| u == "client auth") {
        return Err("missing required usage for client certificate: client auth".into());
    }
    Ok(())
}

/// What was asked for, between ten minutes and what the operator allows.
fn validity(asked: Option<i32>, longest: Duration) -> Duration {
    let Some(seconds) = asked else { return longest };
    let asked = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    if asked > longest { longest } else { asked.max(SHORTEST) }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
    use pki::{KeyAlgorithm, Subject};

    use super::*;

    fn csr(signer: &str, usages: &[&str], conditions: &[&str]) -> CertificateSigningRequest {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let pem = key.request(&Subject::new("jane"), &[]).unwrap();
        let mut csr = CertificateSigningRequest {
            spec: CertificateSigningRequestSpec {
                request: ByteString(pem.into_bytes()),
                signer_name: signer.into(),
                usages: Some(usages.iter().map(|&u| u.into()).collect()),
                ..CertificateSigningRequestSpec::default()
            },
            ..CertificateSigningRequest::default()
        };
        for ty in conditions {
            csr = with_condition(&csr, condition(ty, "", String::new(), Time(Timestamp::UNIX_EPOCH)));
        }
        csr
    }

    #[test]
    fn only_what_is_approved_and_permitted_is_signed() {
        let check = |csr: CertificateSigningRequest, want: &str| {
            let got = match plan(&csr, Duration::from_secs(3600)) {
                Plan::Nothing => "nothing".to_owned(),
                Plan::Fail(why) => why,
                Plan::Sign(request, validity) => {
                    format!("{} {}", request.subject.common_name, validity.as_secs())
                }
            };
            assert_eq!(got, want);
        };
        let client: &[&str] = &["client auth"];
        check(csr(KUBE_APISERVER_CLIENT, client, &[]), "nothing");
        check(csr(KUBE_APISERVER_CLIENT, client, &["Approved"]), "jane 3600");
        check(csr(KUBE_APISERVER_CLIENT, client, &["Approved", "Failed"]), "nothing");
        check(csr(KUBE_APISERVER_CLIENT, client, &["Denied"]), "nothing");
        check(csr("example.com/mine", client, &["Approved"]), "nothing");
        check(
            csr(KUBE_APISERVER_CLIENT, &["server auth"], &["Approved"]),
            "invalid usage for client certificate: server auth",
        );
        check(
            csr(KUBE_APISERVER_CLIENT, &["digital signature"], &["Approved"]),
            "missing required usage for client certificate: client auth",
        );
        check(csr(KUBELET_CLIENT, client, &["Approved"]), "subject organization is not system:nodes");
        check(csr(LEGACY_UNKNOWN, &["server auth"], &["Approved"]), "jane 3600");
        let mut broken = csr(LEGACY_UNKNOWN, client, &["Approved"]);
        broken.spec.request = ByteString(b"hello".to_vec());
        check(broken, "not a PEM certificate request");
    }

    #[test]
    fn how_long_certificates_last() {
        let day = Duration::from_secs(86_400);
        for (asked, want) in [(None, 86_400), (Some(3600), 3600), (Some(1), 600), (Some(100_000), 86_400)] {
            assert_eq!(validity(asked, day).as_secs(), want, "{asked:?}");
        }
    }
}
