//! Which providers a resource has.
use std::collections::BTreeMap;
use std::sync::Arc;

use machinery::gvk::GroupResource;

use crate::provider::{self, Opened, Provider, TransformError};

/// Which resource a storage key belongs to.
#[derive(Debug, Default)]
pub struct Resources(BTreeMap<String, GroupResource>);

impl Resources {
    /// Knows the resources with these storage prefixes, which end with `/`. Resources that it does not know are custom
    /// ones, whose prefix tells group and plural.
    pub fn new(known: impl IntoIterator<Item = (String, GroupResource)>) -> Self {
        Self(known.into_iter().collect())
    }

    /// The resource of a key or of a prefix.
    pub fn of(&self, key: &str) -> Option<GroupResource> {
        let before = self.0.range::<str, _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)));
        if let Some((prefix, resource)) = before.last()
            && key.starts_with(prefix.as_str())
        {
            return Some(resource.clone());
        }
        let mut parts = key.strip_prefix("/registry/")?.split('/');
        let (group, plural) = (parts.next()?, parts.next()?);
        (group.contains('.') && parts.next().is_some()).then(|| GroupResource::new(group, plural))
    }
}

/// The providers of one or more resources, first to last.
pub(crate) type Providers = Vec<Arc<Provider>>;

/// The providers of all resources, by the rules of one configuration.
#[derive(Default)]
pub struct Transformers(BTreeMap<GroupResource, Providers>);

impl Transformers {
    /// Of these resources; groups and resources may be `*`.
    pub(crate) fn new(all: BTreeMap<GroupResource, Providers>) -> Self {
        Self(all)
    }

    /// The providers of a resource: those under its own name, else those of its group, else those of everything.
    pub(crate) fn of(&self, resource: &GroupResource) -> Option<&Providers> {
        self.0
            .get(resource)
            .or_else(|| self.0.get(&GroupResource::new(&resource.group, "*")))
            .or_else(|| self.0.get(&GroupResource::new("*", "*")))
    }

    /// All key servers in use, each once.
    pub(crate) fn kms(&self) -> Vec<Arc<crate::kms::Kms>> {
        let mut found: Vec<Arc<crate::kms::Kms>> = Vec::new();
        for provider in self.0.values().flat_map(|p| p.iter()) {
            if let Provider::Kms(kms) = &**provider
                && !found.iter().any(|known| Arc::ptr_eq(known, kms))
            {
                found.push(kms.clone());
            }
        }
        found
    }

    /// What is stored for a value of a resource under a key; `None`: the value itself.
    pub fn seal(
        &self,
        resource: &GroupResource,
        path: &str,
        data: &[u8],
    ) -> Result<Option<Vec<u8>>, TransformError> {
        match self.of(resource).and_then(|providers| providers.first()) {
            Some(provider) => provider.seal(path, data),
            None => Ok(None),
        }
    }

    /// What lies behind the stored value of a resource under a key.
    pub async fn open(
        &self,
        resource: &GroupResource,
        path: &str,
        data: &[u8],
    ) -> Result<Opened, TransformError> {
        match self.of(resource) {
            Some(providers) => provider::open(providers, path, data).await,
            None => Ok(Opened { value: None, stale: false }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_their_resource() {
        let resources = Resources::new([
            ("/registry/secrets/".to_owned(), GroupResource::new("", "secrets")),
            ("/registry/services/specs/".to_owned(), GroupResource::new("", "services")),
            ("/registry/ingress/".to_owned(), GroupResource::new("networking.k8s.io", "ingresses")),
        ]);
        let check = |key: &str, expect: &str| {
            assert_eq!(resources.of(key).map(|r| r.to_string()).unwrap_or_default(), expect, "{key}");
        };
        check("/registry/secrets/a/b", "secrets");
        check("/registry/secrets/", "secrets");
        check("/registry/services/specs/a/b", "services");
        check("/registry/services/endpoints/a/b", "");
        check("/registry/ingress/a/b", "ingresses.networking.k8s.io");
        check("/registry/example.com/widgets/a/b", "widgets.example.com");
        check("/registry/example.com/widgets", "");
        check("/registry/ranges/serviceips", "");
        check("/registry/a", "");
        check("/other", "");
    }
}
