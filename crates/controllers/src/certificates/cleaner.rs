//! Deletes requests that nobody needs any more: an hour after they were issued, denied or failed, a day after they were
//! made and forgotten, and when their certificate has expired.
//! Watches: CertificateSigningRequest (by key).  Writes: its deletion.
use std::time::Duration;

use client::{Cache, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};
use pki::CertificateFacts;

use super::standing;
use crate::context::Context;
use crate::framework::{Controller, Error, Next, Wakes, unless_gone};

/// How long what is settled is kept.
const SETTLED: Duration = Duration::from_secs(3600);
/// How long what is pending, or approved and never issued, is kept.
const PENDING: Duration = Duration::from_secs(24 * 3600);

/// See the module.
pub struct CsrCleaner {
    client: Client,
    requests: Cache<CertificateSigningRequest>,
}

impl CsrCleaner {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self { client: context.client.clone(), requests: context.informers.cache() }
    }
}

impl Controller for CsrCleaner {
    const NAME: &'static str = "certificatesigningrequest-cleaner-controller";
    const WORKERS: usize = 1;

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.requests);
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(seen) = self.requests.get(&key) else { return Ok(Next::Rest) };
        let Some(at) = end(&seen) else { return Ok(Next::Rest) };
        if let Ok(left @ 1..) = u64::try_from(at.as_second() - Timestamp::now().as_second()) {
            return Ok(Next::After(Duration::from_secs(left)));
        }
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        let same = Preconditions {
            uid: seen.metadata.uid.clone(),
            resource_version: seen.metadata.resource_version.clone(),
        };
        let deleted = api.delete(&key.name, &DeleteParams::default().preconditions(same)).await;
        unless_gone(deleted).map_err(Error::at("delete an old certificate request"))?;
        tracing::debug!("old certificate request deleted");
        Ok(Next::Rest)
    }
}

/// When the request is no longer kept; `None` where that cannot be told.
fn end(seen: &CertificateSigningRequest) -> Option<Timestamp> {
    let at = standing(seen);
    let conditions = seen.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let since = |ty: &str, keep: Duration| {
        let condition = conditions.iter().find(|c| c.type_ == ty)?;
        condition.last_update_time.as_ref()?.0.checked_add(keep).ok()
    };
    let mut ends = Vec::new();
    if at.denied {
        ends.extend(since("Denied", SETTLED));
    }
    if at.failed {
        ends.extend(since("Failed", SETTLED));
    }
    if at.approved && at.issued {
        ends.extend(since("Approved", SETTLED));
        let certificate = seen.status.as_ref().and_then(|s| s.certificate.as_ref());
        let facts = certificate.map(|c| CertificateFacts::from_pem(&String::from_utf8_lossy(&c.0)));
        ends.extend(facts.and_then(Result::ok).map(|f| f.not_after));
    } else if at.approved {
        ends.extend(since("Approved", PENDING));
    }
    if conditions.is_empty() {
        ends.extend(seen.metadata.creation_timestamp.as_ref().and_then(|t| t.0.checked_add(PENDING).ok()));
    }
    ends.into_iter().min()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::super::{condition, with_condition};
    use super::*;

    #[test]
    fn how_long_requests_are_kept() {
        let hours = |n: i64| Timestamp::from_second(n * 3600).unwrap();
        let made = |conditions: &[(&str, i64)], certificate: Option<&[u8]>| {
            let mut csr = CertificateSigningRequest::default();
            csr.metadata.creation_timestamp = Some(Time(hours(0)));
            for (ty, at) in conditions {
                csr = with_condition(&csr, condition(ty, "", String::new(), Time(hours(*at))));
            }
            if let Some(certificate) = certificate {
                csr.status.get_or_insert_default().certificate = Some(ByteString(certificate.to_vec()));
            }
            end(&csr)
        };
        assert_eq!(made(&[], None), Some(hours(24)));
        assert_eq!(made(&[("Denied", 5)], None), Some(hours(6)));
        assert_eq!(made(&[("Approved", 5)], None), Some(hours(29)));
        assert_eq!(made(&[("Approved", 5)], Some(b"cannot be read")), Some(hours(6)));
        assert_eq!(made(&[("Approved", 5), ("Failed", 6)], None), Some(hours(7)));
        assert_eq!(made(&[("Other", 5)], None), None);
    }
}
