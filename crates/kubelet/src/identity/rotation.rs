//! When a certificate is replaced, and the loop that does it.
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use pki::{CertificateFacts, KeyAlgorithm, PrivateKey};
use tokio_util::sync::CancellationToken;

use super::store::Held;
use super::{CertificateStore, Error, request};

/// How long one request is waited for before another is made.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// The longest between two tries.
const SLOWEST: Duration = Duration::from_secs(300);
/// A sleep that is not cut would not notice when the clock is set.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// When to replace a certificate: at 70 to 90 % of its life, as `jitter` (0 to 1) says, so that not all nodes ask at once.
pub(super) fn deadline(facts: &CertificateFacts, jitter: f64) -> Timestamp {
    let life = (facts.not_after.as_second() - facts.not_before.as_second()).max(0) as f64;
    let share = 0.7 + 0.2 * jitter.clamp(0.0, 1.0);
    Timestamp::from_second(facts.not_before.as_second() + (life * share).round() as i64)
        .unwrap_or(facts.not_after)
}

/// Certificates start a little before they are issued; one that lasts only minutes would else be due at once, again and
/// again.
fn half_of_what_is_left(facts: &CertificateFacts, now: Timestamp) -> Timestamp {
    let left = (facts.not_after.as_second() - now.as_second()).max(0);
    Timestamp::from_second(now.as_second() + left / 2).unwrap_or(now)
}

/// One certificate that is kept fresh.
pub(super) struct Rotation<F, G> {
    pub store: CertificateStore,
    /// With whom the API server speaks when the next one is asked for.
    pub client: Client,
    pub signer: &'static str,
    pub purpose: &'static str,
    pub subject: pki::Subject,
    /// Names a server answers to, now; a certificate without one of them is replaced.
    pub names: F,
    /// Takes a new certificate into use.
    pub renewed: G,
}

impl<F, G> Rotation<F, G>
where
    F: Fn() -> Vec<pki::AlternativeName> + Send,
    G: FnMut(&Held) + Send,
{
    /// Keeps the certificate fresh until stopped. `held` is what is in use.
    pub async fn run(mut self, mut held: Option<CertificateFacts>, stop: CancellationToken) {
        let mut failures = 0u32;
        let mut soonest = Timestamp::MIN;
        loop {
            let due = held.as_ref().filter(|f| self.covers(f)).map(|f| deadline(f, rand::random()));
            if let Some(due) = due {
                let due = due.max(soonest);
                tracing::debug!(signer = self.signer, at = %due, "certificate is replaced");
                if !sleep_until(due, &stop).await {
                    return;
                }
            }
            let renewed = tokio::select! {
                () = stop.cancelled() => return,
                renewed = self.renew() => renewed,
            };
            match renewed {
                Ok(new) => {
                    failures = 0;
                    tracing::info!(signer = self.signer, until = %new.facts.not_after, "new certificate in use");
                    (self.renewed)(&new);
                    soonest = half_of_what_is_left(&new.facts, Timestamp::now());
                    held = Some(new.facts);
                }
                Err(error) => {
                    tracing::warn!(signer = self.signer, error = %base::Chain(&error), "no new certificate");
                    let delay = Duration::from_secs(2).saturating_mul(1 << failures.min(8)).min(SLOWEST);
                    failures += 1;
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(delay) => {}
                    }
                    // Go straight on to the next try: what is in use is due, or missing.
                    held = held.filter(|f| Timestamp::now() < deadline(f, 0.0));
                }
            }
        }
    }

    fn covers(&self, facts: &CertificateFacts) -> bool {
        (self.names)().iter().all(|name| facts.names.contains(name))
    }

    async fn renew(&self) -> Result<Held, Error> {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
        let names = (self.names)();
        let wanted = request::Wanted {
            signer: self.signer,
            purpose: self.purpose,
            subject: self.subject.clone(),
            names: &names,
            named: false,
            patience: PATIENCE,
        };
        let certificate = request::ask(&self.client, &key, &wanted).await?;
        self.store.update(&certificate, &key, Timestamp::now())
    }
}

/// Whether the time came before the stop.
async fn sleep_until(due: Timestamp, stop: &CancellationToken) -> bool {
    loop {
        let Ok(left) = Duration::try_from(due.duration_since(Timestamp::now())) else { return true };
        if left.is_zero() {
            return true;
        }
        tokio::select! {
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(left.min(LONGEST_SLEEP)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use pki::{Authority, Subject};

    use super::*;

    #[test]
    fn replaced_between_seventy_and_ninety_percent_of_its_life() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let hours = |n: u64| Duration::from_secs(n * 3600);
        let ca = Authority::create(&Subject::new("ca"), KeyAlgorithm::EcdsaP256, hours(1000), now).unwrap();
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let csr = pki::CertificateRequest::from_pem(&key.request(&Subject::new("a"), &[]).unwrap()).unwrap();
        let pem = ca.sign_request(&csr, &["client auth"], hours(100), now).unwrap();
        let facts = CertificateFacts::from_pem(&pem).unwrap();
        assert_eq!(deadline(&facts, 0.0).to_string(), "2026-01-03T21:55:00Z");
        assert_eq!(deadline(&facts, 1.0).to_string(), "2026-01-04T17:55:00Z");

        let short = ca.sign_request(&csr, &["client auth"], Duration::from_secs(40), now).unwrap();
        let short = CertificateFacts::from_pem(&short).unwrap();
        assert!(deadline(&short, 0.0) < now, "due as soon as it is there");
        assert_eq!(half_of_what_is_left(&short, now).to_string(), "2026-01-01T00:00:20Z");
    }
}
