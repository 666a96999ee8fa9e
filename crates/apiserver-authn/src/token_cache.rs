//! Remembers for a few seconds who a token stands for, so that not every request checks a signature.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::{AuthnError, Now, TokenAuthenticator, TokenUser, sha256};

const TTL: Duration = Duration::from_secs(10);
const MAX_ENTRIES: usize = 4096;

/// Caches successes of another method; failures are asked anew each time. Keeps hashes, never tokens.
pub struct TokenCache {
    inner: Arc<dyn TokenAuthenticator>,
    now: Now,
    ttl: Duration,
    /// Makes the hashes of one process useless elsewhere.
    salt: [u8; 16],
    entries: Mutex<HashMap<[u8; 32], (SystemTime, TokenUser)>>,
}

impl TokenCache {
    /// A cache in front of `inner`.
    pub fn new(inner: Arc<dyn TokenAuthenticator>, now: Now) -> Self {
        Self::lasting(inner, now, TTL)
    }

    /// A cache that remembers for this long.
    pub fn lasting(inner: Arc<dyn TokenAuthenticator>, now: Now, ttl: Duration) -> Self {
        Self { inner, now, ttl, salt: *uuid::Uuid::new_v4().as_bytes(), entries: Mutex::default() }
    }
}

#[async_trait]
impl TokenAuthenticator for TokenCache {
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenUser>, AuthnError> {
        let wanted = audiences.join("\0");
        let key = sha256(&[&self.salt, &token.len().to_le_bytes(), token.as_bytes(), wanted.as_bytes()]);
        let now = (self.now)();
        {
            let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((until, user)) = entries.get(&key)
                && now < *until
            {
                return Ok(Some(user.clone()));
            }
        }
        let found = self.inner.authenticate_token(token, audiences).await?;
        if let Some(user) = &found {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            if entries.len() >= MAX_ENTRIES {
                entries.retain(|_, (until, _)| now < *until);
            }
            if entries.len() < MAX_ENTRIES {
                entries.insert(key, (now + self.ttl, user.clone()));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::UNIX_EPOCH;

    use machinery::request::UserInfo;

    use super::*;

    #[derive(Default)]
    struct Counts(AtomicU64);

    #[async_trait]
    impl TokenAuthenticator for Counts {
        async fn authenticate_token(
            &self,
            token: &str,
            _audiences: &[String],
        ) -> Result<Option<TokenUser>, AuthnError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let user = Arc::new(UserInfo::new(token, &[]));
            Ok((token != "unknown").then(|| TokenUser { user, audiences: Vec::new() }))
        }
    }

    #[tokio::test]
    async fn asks_again_after_ten_seconds_and_always_about_strangers() {
        let counts = Arc::new(Counts::default());
        let seconds = Arc::new(AtomicU64::new(0));
        let clock = seconds.clone();
        let now: Now = Arc::new(move || UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::Relaxed)));
        let cache = TokenCache::new(counts.clone(), now);
        let ask = async |token: &str, want: u64| {
            let user = cache.authenticate_token(token, &[]).await.unwrap();
            assert_eq!(user.map(|u| u.user.name.clone()), (token != "unknown").then(|| token.to_owned()));
            assert_eq!(counts.0.load(Ordering::Relaxed), want);
        };
        ask("a", 1).await;
        ask("a", 1).await;
        ask("b", 2).await;
        ask("unknown", 3).await;
        ask("unknown", 4).await;
        seconds.store(10, Ordering::Relaxed);
        ask("a", 5).await;
    }
}
