//! A map that holds so many entries and no more.
use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// A map that forgets what was not used for longest, once it is full.
#[derive(Debug)]
pub struct Lru<K, V> {
    most: usize,
    /// Counts uses: a later use has a higher number.
    uses: u64,
    entries: HashMap<K, (u64, V)>,
    by_use: BTreeMap<u64, K>,
}

impl<K: Clone + Eq + Hash, V> Lru<K, V> {
    /// Holds `most` entries, one at least.
    pub fn new(most: usize) -> Self {
        Self { most: most.max(1), uses: 0, entries: HashMap::new(), by_use: BTreeMap::new() }
    }

    /// An entry, which counts as used now.
    pub fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (used, value) = self.entries.get_mut(key)?;
        if let Some(owned) = self.by_use.remove(used) {
            self.uses += 1;
            *used = self.uses;
            self.by_use.insert(self.uses, owned);
        }
        Some(value)
    }

    /// Puts an entry in; the one that was not used for longest goes where there is no room.
    pub fn insert(&mut self, key: K, value: V) {
        self.uses += 1;
        if let Some((used, _)) = self.entries.insert(key.clone(), (self.uses, value)) {
            self.by_use.remove(&used);
        }
        self.by_use.insert(self.uses, key);
        while self.entries.len() > self.most {
            let Some((_, oldest)) = self.by_use.pop_first() else { return };
            self.entries.remove(&oldest);
        }
    }

    /// Takes an entry out.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (used, value) = self.entries.remove(key)?;
        self.by_use.remove(&used);
        Some(value)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_what_was_not_used_for_longest() {
        let mut lru: Lru<String, u32> = Lru::new(2);
        lru.insert("a".into(), 1);
        lru.insert("b".into(), 2);
        assert_eq!(lru.get_mut("a"), Some(&mut 1));
        lru.insert("c".into(), 3);
        assert_eq!((lru.get_mut("b").is_none(), lru.len()), (true, 2));
        lru.insert("a".into(), 4);
        assert_eq!((lru.get_mut("a").copied(), lru.get_mut("c").copied()), (Some(4), Some(3)));
        assert_eq!((lru.remove("a"), lru.remove("a"), lru.len()), (Some(4), None, 1));
        for i in 0..1000 {
            lru.insert(i.to_string(), i);
        }
        assert_eq!((lru.len(), lru.by_use.len()), (2, 2));
        assert!(!lru.is_empty());
    }
}
