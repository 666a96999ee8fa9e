//! Asks for a certificate by CertificateSigningRequest and waits for it.
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::api::PostParams;
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use pki::{AlternativeName, CertificateRequest, PrivateKey, Subject};
use sha2::{Digest as _, Sha512};

use super::Error;

/// What is asked for.
pub(super) struct Wanted<'a> {
    /// Name of the signer.
    pub signer: &'static str,
    /// `client auth` or `server auth`.
    pub purpose: &'static str,
    /// Who we are.
    pub subject: Subject,
    /// Names and addresses of a server.
    pub names: &'a [AlternativeName],
    /// Whether the same key asks under the same name again, so that a restart finds its request.
    pub named: bool,
    /// How long to wait.
    pub patience: Duration,
}

/// A certificate for this key.
pub(super) async fn ask(client: &Client, key: &PrivateKey, wanted: &Wanted<'_>) -> Result<String, Error> {
    let request = key.request(&wanted.subject, wanted.names)?;
    let mut object = CertificateSigningRequest {
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: wanted.signer.into(),
            usages: Some(vec!["digital signature".into(), wanted.purpose.into()]),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    if wanted.named {
        object.metadata.name = Some(name(key, wanted));
    } else {
        object.metadata.generate_name = Some("csr-".into());
    }
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let at = |step| move |source| Error::Api { step, source: Box::new(source) };
    let made = match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 && wanted.named => {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            let found = api.get(name).await.map_err(at("read our earlier certificate request"))?;
            let text = String::from_utf8_lossy(&found.spec.request.0);
            if !CertificateRequest::from_pem(&text).is_ok_and(|r| r.matches(key)) {
                return Err(Error::NotOurs);
            }
            found
        }
        other => other.map_err(at("create a certificate request"))?,
    };
    let name = made.metadata.name.unwrap_or_default();
    tracing::info!(request = name, signer = wanted.signer, "waiting for a certificate");
    let settled = await_condition(api, &name, |r: Option<&CertificateSigningRequest>| {
        r.is_none_or(|r| !matches!(outcome(r), Outcome::Pending))
    });
    let found = match tokio::time::timeout(wanted.patience, settled).await {
        Ok(found) => found.map_err(|e| Error::Watch(Box::new(e)))?.ok_or(Error::Deleted)?,
        Err(_) => return Err(Error::Unanswered { after: wanted.patience, signer: wanted.signer }),
    };
    match outcome(&found) {
        Outcome::Issued(certificate) => Ok(certificate),
        Outcome::Refused(what, message) => Err(Error::Refused { what, message }),
        Outcome::Pending => Err(Error::Deleted),
    }
}

/// The same for the same key, signer and subject.
fn name(key: &PrivateKey, wanted: &Wanted<'_>) -> String {
    let mut hash = Sha512::new();
    for part in [key.public_der(), wanted.subject.common_name.as_bytes(), wanted.signer.as_bytes()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let hex: String = hash.finalize().iter().take(20).map(|b| format!("{b:02x}")).collect();
    format!("node-csr-{hex}")
}

enum Outcome {
    Pending,
    Issued(String),
    Refused(&'static str, String),
}

fn outcome(request: &CertificateSigningRequest) -> Outcome {
    let Some(status) = &request.status else { return Outcome::Pending };
    for condition in status.conditions.iter().flatten().filter(|c| c.status == "True") {
        let message = || condition.message.clone().unwrap_or_default();
        match condition.type_.as_str() {
            "Denied" => return Outcome::Refused("denied", message()),
            "Failed" => return Outcome::Refused("failed", message()),
            _ => {}
        }
    }
    match &status.certificate {
        Some(pem) if !pem.0.is_empty() => Outcome::Issued(String::from_utf8_lossy(&pem.0).into_owned()),
        _ => Outcome::Pending,
    }
}
