//! Values by prefix, found by what begins with the prefix.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// A map from prefixes to values: finds the values of all prefixes of a key without looking at the others.
#[derive(Debug)]
pub struct PrefixMap<V>(BTreeMap<Arc<str>, V>);

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V> PrefixMap<V> {
    /// Whether there is no prefix.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of exactly this prefix.
    pub fn get_mut(&mut self, prefix: &str) -> Option<&mut V> {
        self.0.get_mut(prefix)
    }

    /// The value of exactly this prefix, made if there is none.
    pub fn entry(&mut self, prefix: Arc<str>) -> &mut V
    where
        V: Default,
    {
        self.0.entry(prefix).or_default()
    }

    /// Removes exactly this prefix.
    pub fn remove(&mut self, prefix: &str) -> Option<V> {
        self.0.remove(prefix)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values()
    }

    /// Calls `found` with the value of every prefix of `key`.
    pub fn prefixes_of(&self, key: &str, mut found: impl FnMut(&V)) {
        let mut probe = key;
        // Any prefix of the key is also a prefix of the greatest entry not above the key, as far as that one shares it.
        while let Some((entry, value)) =
            self.0.range::<str, _>((Bound::Unbounded, Bound::Included(probe))).next_back()
        {
            let common = common_prefix(entry, key);
            if common.len() == entry.len() {
                found(value);
                let Some((last, _)) = common.char_indices().next_back() else { return };
                probe = &key[..last];
            } else {
                probe = common;
            }
        }
    }
}

fn common_prefix<'a>(a: &str, b: &'a str) -> &'a str {
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let mut end = same;
    while !b.is_char_boundary(end) {
        end -= 1;
    }
    &b[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn exactly_the_prefixes_of_a_key_are_found(
            prefixes in proptest::collection::btree_set("[abä]{0,4}", 0..12),
            key in "[abä]{0,6}",
        ) {
            let mut map: PrefixMap<String> = PrefixMap::default();
            for prefix in &prefixes {
                *map.entry(prefix.as_str().into()) = prefix.clone();
            }
            let mut found = Vec::new();
            map.prefixes_of(&key, |prefix| found.push(prefix.clone()));
            found.sort();
            let expected: Vec<String> = prefixes.into_iter().filter(|prefix| key.starts_with(prefix.as_str())).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
