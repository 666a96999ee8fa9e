//! Reading many objects: which revision, which page, which selectors. Upstream: apiserver/pkg/storage/cacher and
//! apiserver/pkg/storage/continue.go, 1.36.
use std::sync::Arc;
use std::time::Duration;

use apiserver_watch_cache::{CachedObject, Error as CacheError, Snapshot};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use machinery::field_selector::FieldSelector;
use machinery::label_selector::LabelSelector;
use machinery::{StatusError, StatusResult};
use serde::{Deserialize, Serialize};
use storage::{Revision, prefix_end};

use crate::facts::Decoder;
pub use crate::items::Items;
use crate::store::{Store, storage_error, too_large_revision};

/// How long a reader waits for a revision that is still to come.
const WAIT: Duration = Duration::from_secs(3);

/// `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// `NotOlderThan`.
    NotOlderThan,
    /// `Exact`.
    Exact,
}

/// Which objects are wanted.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// By label.
    pub labels: LabelSelector,
    /// By field.
    pub fields: FieldSelector,
}

impl Selection {
    /// Whether everything is wanted.
    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an object is wanted.
    pub fn matches(&self, object: &CachedObject) -> bool {
        let facts = &object.facts;
        (self.labels.is_empty() || self.labels.matches(|key| facts.label(key)))
            && (self.fields.is_empty()
                || self.fields.matches(|field| match field {
                    "metadata.name" => Some(&*facts.name),
                    "metadata.namespace" => Some(&*facts.namespace),
                    other => facts.field(other),
                }))
    }
}

/// What a list request asks for.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Selectors.
    pub selection: Selection,
    /// `resourceVersion`; `None` where it is unset.
    pub resource_version: Option<Revision>,
    /// `resourceVersionMatch`.
    pub version_match: Option<Match>,
    /// `limit`; 0: no limit.
    pub limit: usize,
    /// `continue`; empty: the first page.
    pub continue_token: String,
}

/// A page of objects at one revision.
#[derive(Debug)]
pub struct Page {
    /// The objects in key order.
    pub items: Items,
    /// The revision of the list.
    pub revision: Revision,
    /// Token of the next page; empty on the last.
    pub continue_token: String,
    /// How many objects follow this page; `None` where selectors make it unknown.
    pub remaining: Option<u64>,
}

/// What a `continue` token says. The form is upstream's.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

impl Token {
    fn encode(revision: Revision, start: &str) -> String {
        let token = Self {
            v: "meta.k8s.io/v1".into(),
            rv: i64::try_from(revision.0).unwrap_or(i64::MAX),
            start: start.to_owned(),
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    fn decode(text: &str) -> StatusResult<Self> {
        let bad = |why: &str| StatusError::bad_request(format!("continue key is not valid: {why}"));
        let trimmed = text.trim_end_matches('=');
        let bytes = URL_SAFE_NO_PAD
            .decode(trimmed)
            .or_else(|_| STANDARD_NO_PAD.decode(trimmed))
            .map_err(|_| bad("illegal base64 data"))?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|e| bad(&e.to_string()))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(bad("server does not recognize this encoded version"));
        }
        if token.rv == 0 || token.start.is_empty() {
            return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        if token.start.split('/').any(|part| part == "..") {
            return Err(bad(&token.start));
        }
        Ok(token)
    }
}

/// What a `continue` token of a client says: the revision of the list, and where it goes on.
pub fn read_token(text: &str) -> StatusResult<(i64, String)> {
    Token::decode(text).map(|token| (token.rv, token.start))
}

/// An error of the cache as a client sees it.
pub fn cache_error(e: CacheError) -> StatusError {
    match e {
        CacheError::Expired { .. } => {
            StatusError::expired("The resourceVersion for the provided list is too old.")
        }
        CacheError::Closed => StatusError::service_unavailable(e.to_string()).with_retry_after(1),
        CacheError::Storage(e) => storage_error(e),
    }
}

impl Store {
    /// A snapshot that reflects every write acknowledged before the call.
    pub async fn fresh(&self) -> StatusResult<Snapshot> {
        let now = self.storage().now().await.map_err(storage_error)?;
        self.at_least(now).await
    }

    /// Waits until the cache has come to a revision.
    pub async fn reach(&self, revision: Revision) -> StatusResult<()> {
        match tokio::time::timeout(WAIT, self.cache.wait_until(revision)).await {
            Ok(result) => result.map_err(cache_error),
            Err(_) => {
                let current = self.storage().now().await.map_err(storage_error)?;
                Err(too_large_revision(revision, current))
            }
        }
    }

    /// A snapshot not older than a revision.
    pub async fn at_least(&self, revision: Revision) -> StatusResult<Snapshot> {
        self.reach(revision).await?;
        Ok(self.cache.snapshot())
    }

    /// Reads one object as it is now, or not older than a revision.
    pub async fn get(
        &self,
        namespace: &str,
        name: &str,
        not_older: Option<Revision>,
    ) -> StatusResult<Arc<CachedObject>> {
        let revision = match not_older {
            Some(revision) => revision,
            None => self.storage().now().await.map_err(storage_error)?,
        };
        if revision > Revision::ZERO {
            self.reach(revision).await?;
        }
        let key = self.key(namespace, name);
        match self.cache.get(&key) {
            Some(object) => Ok(object),
            None => {
                // An object that cannot be read is not cached, but it is there.
                if self.cache.unreadable(&key).is_some_and(|first| *first == *key) {
                    self.readable(&key).await?;
                }
                Err(StatusError::not_found(self.group_resource(), name))
            }
        }
    }

    /// An error where something with a key that begins so cannot be read.
    async fn readable(&self, prefix: &str) -> StatusResult<()> {
        let Some(key) = self.cache.unreadable(prefix) else { return Ok(()) };
        let (found, _) = self.storage().get(&key, None).await.map_err(storage_error)?;
        match found.map(|kv| CachedObject::decode(&kv, &Decoder::new(&self.kind))) {
            Some(Err(e)) => Err(StatusError::internal(format!("unable to decode key {key:?}: {e}"))),
            readable => {
                // A key that was missing has come back, or the object has gone: the cache will learn of it.
                if readable.is_some() {
                    self.cache.relist();
                }
                let why = format!("the object at {key:?} is being read again");
                Err(StatusError::service_unavailable(why).with_retry_after(1))
            }
        }
    }

    /// Reads a page of a namespace, or of all where it is empty. What cannot be read makes it fail.
    pub async fn list(&self, namespace: &str, options: &ListOptions) -> StatusResult<Page> {
        let prefix = self.key_prefix(namespace);
        let page = self.page(&prefix, options).await?;
        self.readable(&prefix).await?;
        Ok(page)
    }

    async fn page(&self, prefix: &str, options: &ListOptions) -> StatusResult<Page> {
        if !options.continue_token.is_empty() {
            return self.next_page(prefix, options).await;
        }
        let snapshot = match (options.resource_version, options.version_match) {
            (Some(revision), Some(Match::Exact)) => self.exact(revision).await?,
            (None, _) => self.fresh().await?,
            (Some(Revision::ZERO), _) => self.cache.snapshot(),
            // What clients from before `resourceVersionMatch` mean when they ask for pages.
            (Some(revision), None) if options.limit > 0 => self.exact(revision).await?,
            (Some(revision), _) => self.at_least(revision).await?,
        };
        // Who takes any state takes all of it: such lists have no pages (cacher.go, `computeListLimit`).
        let limit = if options.resource_version == Some(Revision::ZERO) { 0 } else { options.limit };
        let page = page(&snapshot, prefix, prefix, limit, &options.selection);
        if !page.continue_token.is_empty() {
            // The next page is read at this revision.
            self.cache.pin(snapshot);
        }
        Ok(page)
    }

    async fn exact(&self, revision: Revision) -> StatusResult<Snapshot> {
        self.reach(revision).await?;
        self.cache.snapshot_at(revision).await.map_err(cache_error)
    }

    async fn next_page(&self, prefix: &str, options: &ListOptions) -> StatusResult<Page> {
        if options.resource_version.is_some_and(|revision| revision > Revision::ZERO) {
            let why = "specifying resource version is not allowed when using continue";
            return Err(StatusError::bad_request(why));
        }
        let token = Token::decode(&options.continue_token)?;
        let start = format!("{prefix}{}", token.start);
        // A negative revision asks for the rest at the present one: what the answer to an expired token offers.
        let snapshot = match u64::try_from(token.rv) {
            Ok(revision) => self.exact(Revision(revision)).await.map_err(|e| offer_rest(e, &token.start))?,
            Err(_) => self.fresh().await?,
        };
        let page = page(&snapshot, prefix, &start, options.limit, &options.selection);
        if token.rv < 0 && !page.continue_token.is_empty() {
            // From here on the rest is one consistent list again.
            self.cache.pin(snapshot);
        }
        Ok(page)
    }
}

/// Puts a token for the rest of the list into the answer to an expired one (etcd3/errors.go).
fn offer_rest(mut e: StatusError, start: &str) -> StatusError {
    if e.code() == 410 {
        let token = Token { v: "meta.k8s.io/v1".into(), rv: -1, start: start.to_owned() };
        let text = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default());
        e.0.metadata.continue_ = Some(text);
        e.0.message = Some(
            "The provided continue parameter is too old to display a consistent list result. You can start a new \
             list without the continue parameter, or use the continue token in this response to retrieve the \
             remainder of the results. Continuing with the provided token results in an inconsistent list - objects \
             that were created, modified, or deleted between the time the first chunk was returned and now may show \
             up in the list."
                .into(),
        );
    }
    e
}

fn page(snapshot: &Snapshot, prefix: &str, start: &str, limit: usize, selection: &Selection) -> Page {
    let end = prefix_end(prefix);
    let revision = snapshot.revision;
    let everything = selection.is_everything();
    let mut wanted =
        snapshot.objects.range(start, &end).filter(|o| everything || selection.matches(o)).cloned();
    let whole = |items| Page { items, revision, continue_token: String::new(), remaining: None };
    if limit == 0 {
        return whole(if everything {
            Items::range(snapshot.objects.clone(), start, &end)
        } else {
            wanted.collect::<Vec<_>>().into()
        });
    }
    let items: Vec<Arc<CachedObject>> = wanted.by_ref().take(limit).collect();
    let last = items.last().map_or("", |o| &*o.key);
    let next = format!("{last}\0");
    let rest = if everything {
        // The map knows how much follows; walking there would cost as much as sending it.
        snapshot.objects.count(if items.is_empty() { start } else { &next }, &end) as u64
    } else {
        u64::from(wanted.next().is_some())
    };
    if rest == 0 {
        return whole(items.into());
    }
    Page {
        revision,
        continue_token: Token::encode(revision, next.strip_prefix(prefix).unwrap_or(&next)),
        remaining: everything.then_some(rest),
        items: items.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_back() {
        let text = Token::encode(Revision(7), "default/a\0");
        let token = Token::decode(&text).unwrap();
        assert_eq!((token.rv, token.start.as_str()), (7, "default/a\0"));
    }

    #[test]
    fn broken_tokens_are_bad_requests() {
        for text in ["*", "e30", "bm90IGpzb24"] {
            let e = Token::decode(text).unwrap_err();
            assert_eq!(e.code(), 400, "{text}");
        }
    }
}
