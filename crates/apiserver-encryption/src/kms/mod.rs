//! A key server, spoken to by KMS v2 over its socket: it keeps the key that encrypts keys, we keep the keys that
//! encrypt data. Upstream: apiserver/pkg/storage/value/encrypt/envelope/kmsv2 and
//! apiserver/pkg/server/options/encryptionconfig, 1.36.
//!
//! One seed is made when the server starts and whenever the key server names another key; the key server encrypts it,
//! and every value is stored beside that encrypted seed. So a read asks the key server only for seeds not seen before,
//! and a write never does.
mod envelope;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::aes::{ExtendedGcm, Gcm};
use crate::provider::{CipherError, Opened, TransformError, random};

/// The messages, client and server of KMS v2, generated from `proto/kms.proto`.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub mod v2 {
    tonic::include_proto!("v2");
}

use v2::key_management_service_client::KeyManagementServiceClient;
use v2::{
    DecryptRequest, EncryptRequest, EncryptedDekSourceType, EncryptedObject, StatusRequest, StatusResponse,
};

/// How often a healthy key server is asked for its state, and thereby for the name of its key.
const HEALTHY: Duration = Duration::from_secs(60);
/// How often one that is not healthy is asked.
const UNHEALTHY: Duration = Duration::from_secs(10);
/// How long a seed may be written with after the key server was last healthy: whoever rotates the key waits so long
/// and then knows that nothing is written with the old one.
const WRITABLE: Duration = Duration::from_secs(3 * 60);
/// Keys of old seeds that are kept ready.
const SEEDS: usize = 1000;

/// What opens values: made from a seed, or (older releases of upstream) a key itself.
enum DataKey {
    Seed(ExtendedGcm),
    Key(Gcm),
}

impl DataKey {
    fn new(source: EncryptedDekSourceType, plain: &[u8]) -> Result<Self, CipherError> {
        Ok(match source {
            EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed => Self::Seed(ExtendedGcm::new(plain)?),
            EncryptedDekSourceType::AesGcmKey => Self::Key(Gcm::new(plain)?),
        })
    }

    fn open(&self, path: &str, data: &[u8]) -> Result<Vec<u8>, CipherError> {
        match self {
            Self::Seed(key) => key.open(path, data),
            Self::Key(key) => key.open(path, data),
        }
    }

    fn seal(&self, path: &str, data: &[u8], out: &mut Vec<u8>) -> Result<(), CipherError> {
        match self {
            Self::Seed(key) => key.seal(path, data, out),
            Self::Key(key) => key.seal(path, data, out),
        }
    }
}

/// What values are written with.
struct Current {
    /// The object without its data.
    envelope: EncryptedObject,
    key: Arc<DataKey>,
    expires: Instant,
}

/// Names a seed by all that says how it is encrypted.
type SeedId = [u8; 32];

/// One key server.
pub(crate) struct Kms {
    name: String,
    mark: Vec<u8>,
    timeout: Duration,
    client: KeyManagementServiceClient<Channel>,
    current: RwLock<Option<Arc<Current>>>,
    seeds: Mutex<HashMap<SeedId, Arc<DataKey>>>,
    health: Mutex<Result<(), String>>,
    asking: Mutex<Option<AbortHandle>>,
}

impl Drop for Kms {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.asking).take() {
            task.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Key names are not secret, but upstream shows only their hashes.
fn hashed(key_id: &str) -> String {
    if key_id.is_empty() {
        return String::new();
    }
    Sha256::digest(key_id).iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The path of the socket; `@` begins a name that is no file.
fn socket(endpoint: &str) -> String {
    let path = endpoint.strip_prefix("unix:").unwrap_or(endpoint);
    let path = path.strip_prefix("//").unwrap_or(path);
    match path.strip_prefix("/@").or_else(|| path.strip_prefix('@')) {
        Some(name) => format!("\0{name}"),
        None => path.to_owned(),
    }
}

fn channel(endpoint: &str) -> Channel {
    let path = socket(endpoint);
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    }))
}

impl Kms {
    /// A key server at an endpoint. It is asked for its state once, and from then on by [`Kms::keep_asking`].
    pub(crate) async fn new(name: &str, endpoint: &str, timeout: Duration) -> Arc<Self> {
        let kms = Arc::new(Self {
            name: name.to_owned(),
            mark: format!("k8s:enc:kms:v2:{name}:").into_bytes(),
            timeout,
            client: KeyManagementServiceClient::new(channel(endpoint)),
            current: RwLock::default(),
            seeds: Mutex::default(),
            health: Mutex::new(Ok(())),
            asking: Mutex::default(),
        });
        kms.probe().await;
        kms
    }

    /// Asks for the state again and again, until the last user of this key server is gone.
    pub(crate) fn keep_asking(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        let mut pause = if self.health().is_ok() { HEALTHY } else { UNHEALTHY };
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                let Some(kms) = weak.upgrade() else { return };
                pause = if kms.probe().await { HEALTHY } else { UNHEALTHY };
            }
        });
        *lock(&self.asking) = Some(task.abort_handle());
    }

    /// What its values begin with.
    pub(crate) fn mark(&self) -> &[u8] {
        &self.mark
    }

    /// Whether it was healthy when it was asked last.
    pub(crate) fn health(&self) -> Result<(), String> {
        lock(&self.health).clone()
    }

    async fn call<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, String> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => {
                Err(format!("rpc error: code = {:?} desc = {}", status.code(), status.message()))
            }
            Err(_) => Err("rpc error: code = DeadlineExceeded desc = context deadline exceeded".into()),
        }
    }
    /// Asks for the state once; says whether it is healthy.
    pub(crate) async fn probe(&self) -> bool {
        let result = self.follow().await;
        let mut health = lock(&self.health);
        match (&*health, &result) {
            (Ok(()), Err(error)) => {
                tracing::warn!(provider = self.name, error, "a KMS provider is not healthy")
            }
            (Err(_), Ok(())) => tracing::info!(provider = self.name, "a KMS provider is healthy again"),
            _ => {}
        }
        *health = result;
        health.is_ok()
    }

    /// Asks for the state, and takes a new seed if the key has another name now.
    async fn follow(&self) -> Result<(), String> {
        let status = self.call(self.client.clone().status(StatusRequest {})).await.map_err(|e| {
            format!(
                "failed to perform status section of the healthz check for KMS Provider {}, error: {e}",
                self.name
            )
        })?;
        healthy(&self.name, &status)?;
        let current = self.current().filter(|current| current.envelope.key_id == status.key_id);
        let (envelope, key) = match current {
            Some(current) => (current.envelope.clone(), current.key.clone()),
            None => self.new_seed(&status.key_id).await?,
        };
        let next = Current { envelope, key, expires: Instant::now() + WRITABLE };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(next));
        Ok(())
    }

    async fn new_seed(&self, key_id: &str) -> Result<(EncryptedObject, Arc<DataKey>), String> {
        let seed: [u8; 32] = random().map_err(|e| e.to_string())?;
        let source = EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed;
        let key = Arc::new(DataKey::new(source, &seed).map_err(|e| e.to_string())?);
        let request = EncryptRequest { plaintext: seed.to_vec(), uid: uuid::Uuid::new_v4().to_string() };
        let answer = self
            .call(self.client.clone().encrypt(request))
            .await
            .map_err(|e| format!("failed to encrypt DEK, error: {e}"))?;
        let envelope = EncryptedObject {
            encrypted_data: Vec::new(),
            key_id: answer.key_id,
            encrypted_dek_source: answer.ciphertext,
            annotations: answer.annotations,
            encrypted_dek_source_type: source.into(),
        };
        envelope::check(&envelope)?;
        if envelope.key_id != key_id {
            return Err(format!(
                "failed to rotate DEK: KMS Provider {} is at keyID hash {:?} and encrypted with {:?}",
                self.name,
                hashed(key_id),
                hashed(&envelope.key_id)
            ));
        }
        self.remember(envelope::seed_id(&envelope), key.clone());
        tracing::info!(provider = self.name, key = hashed(key_id), "values are sealed with a new seed");
        Ok((envelope, key))
    }

    fn current(&self) -> Option<Arc<Current>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, id: SeedId, key: Arc<DataKey>) {
        let mut seeds = lock(&self.seeds);
        if seeds.len() >= SEEDS {
            // There are about as many as there were starts of servers; whoever has more asks again.
            seeds.clear();
        }
        seeds.insert(id, key);
    }

    /// What is stored for a value.
    pub(crate) fn seal(&self, path: &str, data: &[u8]) -> Result<Vec<u8>, TransformError> {
        let current = self.current().ok_or_else(|| {
            let why = self.health().err().unwrap_or_else(|| "it was not asked yet".into());
            TransformError::Unavailable(format!("got unexpected nil transformer: {why}"))
        })?;
        if Instant::now() > current.expires {
            return Err(TransformError::Unavailable(format!(
                "encryptedDEKSource with keyID hash {:?} expired: KMS Provider {} is not healthy",
                hashed(&current.envelope.key_id),
                self.name
            )));
        }
        let mut text = Vec::with_capacity(data.len() + 64);
        current.key.seal(path, data, &mut text)?;
        let mut out = self.mark.clone();
        envelope::write(&current.envelope, &text, &mut out);
        Ok(out)
    }

    /// What lies behind what [`Kms::seal`] made, without its mark.
    pub(crate) async fn open(&self, path: &str, data: &[u8]) -> Result<Opened, TransformError> {
        let object = envelope::read(data).map_err(TransformError::Refused)?;
        let id = envelope::seed_id(&object);
        let known = lock(&self.seeds).get(&id).cloned();
        let key = match known {
            Some(key) => key,
            None => {
                let key = self.decrypt(&object).await?;
                self.remember(id, key.clone());
                key
            }
        };
        let value = key.open(path, &object.encrypted_data)?;
        let stale = self.current().is_some_and(|current| {
            current.envelope.key_id != object.key_id
                || current.envelope.encrypted_dek_source_type != object.encrypted_dek_source_type
        });
        Ok(Opened { value: Some(value), stale })
    }

    async fn decrypt(&self, object: &EncryptedObject) -> Result<Arc<DataKey>, TransformError> {
        let request = DecryptRequest {
            ciphertext: object.encrypted_dek_source.clone(),
            uid: uuid::Uuid::new_v4().to_string(),
            key_id: object.key_id.clone(),
            annotations: object.annotations.clone(),
        };
        let answer = self
            .call(self.client.clone().decrypt(request))
            .await
            .map_err(|e| TransformError::Unavailable(format!("failed to decrypt DEK, error: {e}")))?;
        Ok(Arc::new(DataKey::new(object.encrypted_dek_source_type(), &answer.plaintext)?))
    }
}

/// Whether an answer to `Status` is good; all that is wrong with it.
fn healthy(name: &str, status: &StatusResponse) -> Result<(), String> {
    let mut wrong = Vec::new();
    if status.healthz != "ok" {
        wrong.push(format!("got unexpected healthz status: {}", status.healthz));
    }
    if !matches!(status.version.as_str(), "v2" | "v2beta1") {
        wrong.push(format!("expected KMSv2 API version v2, got {}", status.version));
    }
    if status.key_id.is_empty() {
        wrong.push("expected KMSv2 KeyID to be set, got empty keyID".into());
    }
    match wrong.as_slice() {
        [] => Ok(()),
        [one] => Err(format!("kmsv2 Provider {name} is not healthy, error: {one}")),
        many => Err(format!("kmsv2 Provider {name} is not healthy, error: [{}]", many.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_sockets() {
        for (endpoint, expect) in [
            ("unix:///run/kms.sock", "/run/kms.sock"),
            ("unix:/run/kms.sock", "/run/kms.sock"),
            ("unix:///@name", "\0name"),
            ("unix://@name", "\0name"),
        ] {
            assert_eq!(socket(endpoint), expect);
        }
    }

    #[test]
    fn an_unhealthy_answer_says_all_that_is_wrong() {
        let check = |version: &str, healthz: &str, key_id: &str, expect: &str| {
            let status =
                StatusResponse { version: version.into(), healthz: healthz.into(), key_id: key_id.into() };
            assert_eq!(healthy("k", &status).err().unwrap_or_default(), expect);
        };
        check("v2", "ok", "1", "");
        check("v2beta1", "ok", "1", "");
        check("v2", "bad", "1", "kmsv2 Provider k is not healthy, error: got unexpected healthz status: bad");
        check(
            "v1",
            "ok",
            "",
            "kmsv2 Provider k is not healthy, error: [expected KMSv2 API version v2, got v1, expected KMSv2 KeyID to be set, got empty keyID]",
        );
    }
}
