//! A piece of a rule set, and the way from one to the next as a single transaction.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};
use std::fmt::Write as _;

use client::ObjectKey;

/// Named things of our table, as the lines that make them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Chains and their rules, in order.
    pub chains: BTreeMap<String, Vec<String>>,
    /// Sets and their definition.
    pub sets: BTreeMap<String, &'static str>,
    /// Timeout of the elements of a set, where it has one.
    pub timeouts: BTreeMap<String, u32>,
    /// Elements of the table's maps and sets: which collection and key, to what they lead (empty in sets).
    pub elements: BTreeMap<(&'static str, String), String>,
}

impl Objects {
    /// Adds a chain with its rules.
    pub fn chain(&mut self, name: impl Into<String>, rules: Vec<String>) {
        self.chains.insert(name.into(), rules);
    }

    /// Adds an element; the first one for a key stays.
    pub fn element(&mut self, collection: &'static str, key: String, value: impl Into<String>) {
        self.elements.entry((collection, key)).or_insert(value.into());
    }
}

/// What to change, in the order the kernel needs it; see [`Transaction::script`].
#[derive(Debug, Default)]
pub struct Transaction {
    new_sets: Vec<String>,
    new_chains: Vec<String>,
    /// Chains with their rules; whether they have rules already.
    rules: Vec<(String, Vec<String>, bool)>,
    gone_elements: Vec<(&'static str, String)>,
    new_elements: Vec<(&'static str, String, String)>,
    gone_chains: Vec<String>,
    gone_sets: Vec<String>,
}

impl Transaction {
    /// Adds the way from `old` to `new`, elements aside.
    pub fn change(&mut self, old: &Objects, new: &Objects) {
        for (name, kind) in &new.sets {
            if !old.sets.contains_key(name) {
                let timeout = new.timeouts.get(name).map(|t| format!("timeout {t}s; ")).unwrap_or_default();
                self.new_sets.push(format!("{name} {{ {kind} {timeout}}}"));
            }
        }
        for (name, rules) in &new.chains {
            match old.chains.get(name) {
                Some(known) if known == rules => {}
                known => {
                    if known.is_none() {
                        self.new_chains.push(name.clone());
                    }
                    self.rules.push((name.clone(), rules.clone(), known.is_some()));
                }
            }
        }
        self.gone_chains.extend(old.chains.keys().filter(|n| !new.chains.contains_key(*n)).cloned());
        self.gone_sets.extend(old.sets.keys().filter(|n| !new.sets.contains_key(*n)).cloned());
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.new_sets.is_empty()
            && self.rules.is_empty()
            && self.gone_elements.is_empty()
            && self.new_elements.is_empty()
            && self.gone_chains.is_empty()
            && self.gone_sets.is_empty()
    }

    /// The elements that it adds: collection and key.
    pub fn new_elements(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.new_elements.iter().map(|(collection, key, _)| (*collection, key.as_str()))
    }

    /// How many chains and elements it touches.
    pub fn size(&self) -> usize {
        self.rules.len() + self.gone_elements.len() + self.new_elements.len() + self.gone_chains.len()
    }

    /// The lines for nft. What is pointed to exists before what points to it, and goes after it.
    pub fn script(&self, table: &str) -> String {
        let mut out = String::new();
        let mut line = |text: std::fmt::Arguments<'_>| {
            let _ = out.write_fmt(text);
            out.push('\n');
        };
        for set in &self.new_sets {
            line(format_args!("add set ip {table} {set}"));
        }
        for chain in &self.new_chains {
            line(format_args!("add chain ip {table} {chain}"));
        }
        for (chain, rules, filled) in &self.rules {
            if *filled {
                line(format_args!("flush chain ip {table} {chain}"));
            }
            for rule in rules {
                line(format_args!("add rule ip {table} {chain} {rule}"));
            }
        }
        for (collection, key) in &self.gone_elements {
            line(format_args!("delete element ip {table} {collection} {{ {key} }}"));
        }
        for (collection, key, value) in &self.new_elements {
            if value.is_empty() {
                line(format_args!("add element ip {table} {collection} {{ {key} }}"));
            } else {
                line(format_args!("add element ip {table} {collection} {{ {key} : {value} }}"));
            }
        }
        for chain in &self.gone_chains {
            line(format_args!("flush chain ip {table} {chain}"));
        }
        for chain in &self.gone_chains {
            line(format_args!("delete chain ip {table} {chain}"));
        }
        for set in &self.gone_sets {
            line(format_args!("delete set ip {table} {set}"));
        }
        out
    }
}

/// Who wants which element: two Services may claim one external address and port, and only one can have it.
#[derive(Debug, Default)]
pub struct Claims {
    elements: HashMap<(&'static str, String), BTreeMap<ObjectKey, String>>,
}

impl Claims {
    /// Replaces what one Service claims, and puts the elements whose holder changes into `transaction`.
    pub fn change(&mut self, owner: &ObjectKey, old: &Objects, new: &Objects, transaction: &mut Transaction) {
        for (at, value) in &old.elements {
            if new.elements.get(at) == Some(value) {
                continue;
            }
            self.with(at, transaction, |claims| {
                claims.remove(owner);
            });
        }
        for (at, value) in &new.elements {
            if old.elements.get(at) == Some(value) {
                continue;
            }
            self.with(at, transaction, |claims| {
                claims.insert(owner.clone(), value.clone());
            });
        }
    }

    /// Every element as it should be.
    pub fn all(&self, transaction: &mut Transaction) {
        for ((collection, key), claims) in &self.elements {
            if let Some(value) = claims.values().next() {
                transaction.new_elements.push((collection, key.clone(), value.clone()));
            }
        }
        transaction.new_elements.sort();
    }

    fn with(
        &mut self,
        at: &(&'static str, String),
        transaction: &mut Transaction,
        change: impl FnOnce(&mut BTreeMap<ObjectKey, String>),
    ) {
        let mut entry = match self.elements.entry(at.clone()) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert_entry(BTreeMap::new()),
        };
        let before = entry.get().values().next().cloned();
        change(entry.get_mut());
        let after = entry.get().values().next().cloned();
        if entry.get().is_empty() {
            entry.remove();
        }
        transaction.element(at, before, after);
    }
}

impl Transaction {
    /// Notes an element's change, and takes it back where a later one of the same transaction undoes it.
    fn element(&mut self, at: &(&'static str, String), before: Option<String>, after: Option<String>) {
        if before == after {
            return;
        }
        if let Some(before) = before {
            let added = (at.0, at.1.clone(), before);
            match self.new_elements.iter().rposition(|e| *e == added) {
                Some(at) => {
                    self.new_elements.swap_remove(at);
                }
                None => self.gone_elements.push(at.clone()),
            }
        }
        if let Some(after) = after {
            self.new_elements.push((at.0, at.1.clone(), after));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(chain: &[(&str, &str)], elements: &[(&'static str, &str, &str)]) -> Objects {
        Objects {
            chains: chain.iter().map(|(n, r)| ((*n).into(), vec![(*r).into()])).collect(),
            elements: elements.iter().map(|(c, k, v)| ((*c, (*k).into()), (*v).into())).collect(),
            ..Objects::default()
        }
    }

    #[test]
    fn what_stays_is_not_written() {
        let old = objects(&[("a", "one"), ("b", "two"), ("c", "three")], &[]);
        let new = objects(&[("a", "one"), ("b", "other"), ("d", "four")], &[]);
        let mut t = Transaction::default();
        t.change(&old, &new);
        let expected = "add chain ip t d\nflush chain ip t b\nadd rule ip t b other\n\
                        add rule ip t d four\nflush chain ip t c\ndelete chain ip t c\n";
        assert_eq!(t.script("t"), expected);
        let mut t = Transaction::default();
        t.change(&new, &new);
        assert!(t.is_empty());
    }

    #[test]
    fn one_of_two_claims_holds_and_the_other_takes_over() {
        let (a, b) = (ObjectKey::new("n", "a"), ObjectKey::new("n", "b"));
        let none = Objects::default();
        let (of_a, of_b) = (objects(&[], &[("m", "k", "goto a")]), objects(&[], &[("m", "k", "goto b")]));
        let mut claims = Claims::default();
        let mut step = |owner: &ObjectKey, old: &Objects, new: &Objects| {
            let mut t = Transaction::default();
            claims.change(owner, old, new, &mut t);
            t.script("t")
        };
        assert_eq!(step(&b, &none, &of_b), "add element ip t m { k : goto b }\n");
        assert_eq!(
            step(&a, &none, &of_a),
            "delete element ip t m { k }\nadd element ip t m { k : goto a }\n"
        );
        assert_eq!(step(&b, &of_b, &none), "");
        assert_eq!(step(&a, &of_a, &none), "delete element ip t m { k }\n");
    }

    #[test]
    fn an_element_that_moves_between_services_in_one_transaction_is_changed_once() {
        let (a, b) = (ObjectKey::new("n", "a"), ObjectKey::new("n", "b"));
        let none = Objects::default();
        let (of_a, of_b) = (objects(&[], &[("m", "k", "goto a")]), objects(&[], &[("m", "k", "goto b")]));
        let mut claims = Claims::default();
        claims.change(&b, &none, &of_b, &mut Transaction::default());
        let mut t = Transaction::default();
        claims.change(&a, &none, &of_a, &mut t);
        claims.change(&b, &of_b, &none, &mut t);
        claims.change(&a, &of_a, &none, &mut t);
        assert_eq!(t.script("t"), "delete element ip t m { k }\n");
    }
}
