//! Brings the kernel's rules to what is wanted: only what changed, each time as one transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use client::ObjectKey;
use net::nft::{self, Nft};
use serde_json::Value;

use crate::desired::Port;
use crate::objects::{Claims, Objects, Transaction};
use crate::rules::{self, Base, HOOKS, MAPS};

/// Our table in the kernel, and what we believe is in it.
pub struct Table {
    nft: Nft,
    name: String,
    base: Base,
    services: BTreeMap<ObjectKey, Objects>,
    claims: Claims,
    /// Whether the kernel holds what we believe.
    trusted: bool,
}

/// What a sync did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The whole table was written.
    pub whole: bool,
    /// Chains and elements that were written or removed.
    pub changes: usize,
}

impl Table {
    /// Knows nothing of the kernel yet: the first sync writes all.
    pub fn new(name: String, base: Base) -> Self {
        let (services, claims) = (BTreeMap::new(), Claims::default());
        Self { nft: Nft::default(), name, base, services, claims, trusted: false }
    }

    /// Makes the table serve these Services' ports as given; no ports means that the Service is gone.
    ///
    /// After an error the next call writes the whole table.
    pub async fn sync(&mut self, changed: &[(&ObjectKey, &[Port])]) -> Result<Applied, nft::Error> {
        let mut transaction = Transaction::default();
        let none = Objects::default();
        for (key, ports) in changed {
            let new = rules::service(key, ports, &self.base);
            let old = self.services.get(*key).unwrap_or(&none);
            transaction.change(old, &new);
            self.claims.change(key, old, &new, &mut transaction);
            if new == none {
                self.services.remove(*key);
            } else {
                self.services.insert((*key).clone(), new);
            }
        }
        let trusted = std::mem::replace(&mut self.trusted, false);
        let applied = if trusted {
            if !transaction.is_empty() {
                self.nft.apply(&transaction.script(&self.name)).await?;
            }
            Applied { whole: false, changes: transaction.size() }
        } else {
            self.write_whole().await?
        };
        self.trusted = true;
        Ok(applied)
    }

    /// Looks whether somebody else changed the table; if so, the next sync writes it whole.
    pub async fn verify(&mut self) -> Result<bool, nft::Error> {
        let found = match self.nft.list(&["table", "ip", &self.name]).await {
            Ok(found) => Shape::read(&found),
            Err(error) if error.is_missing_object() => Shape::default(),
            Err(error) => return Err(error),
        };
        self.trusted = found == self.shape();
        Ok(self.trusted)
    }

    /// Replaces whatever is in the kernel under our name, within one transaction; clients stay with their endpoints.
    async fn write_whole(&mut self) -> Result<Applied, nft::Error> {
        let kept = self.affinities().await?;
        let mut transaction = Transaction::default();
        let none = Objects::default();
        transaction.change(&none, &rules::base(&self.base));
        for objects in self.services.values() {
            transaction.change(&none, objects);
        }
        self.claims.all(&mut transaction);
        let script = whole(&self.name, &self.base, &transaction, &kept);
        self.nft.apply(&script).await?;
        Ok(Applied { whole: true, changes: transaction.size() })
    }

    /// Lines that put the clients of session affinity back where they are now.
    async fn affinities(&self) -> Result<String, nft::Error> {
        let sets = match self.nft.list(&["sets", "table", "ip", &self.name]).await {
            Ok(sets) => sets,
            // No table yet.
            Err(error) if error.is_missing_object() => return Ok(String::new()),
            Err(error) => return Err(error),
        };
        let wanted: BTreeSet<&str> =
            self.services.values().flat_map(|o| o.timeouts.keys()).map(String::as_str).collect();
        Ok(remember(&self.name, &sets, &wanted))
    }

    fn shape(&self) -> Shape {
        let mut shape = Shape::default();
        let base = rules::base(&self.base);
        for objects in self.services.values().chain([&base]) {
            for (chain, rules) in &objects.chains {
                shape.chains.insert(chain.clone(), rules.len());
            }
        }
        let mut elements = Transaction::default();
        self.claims.all(&mut elements);
        for collection in elements.new_elements().map(|(c, _)| c) {
            *shape.elements.entry(collection.to_owned()).or_default() += 1;
        }
        let addresses = base.elements.len();
        if addresses > 0 {
            shape.elements.insert("nodeport-ips".into(), addresses);
        }
        shape
    }
}

/// How many rules each chain has, and how many elements each of our own sets and maps has.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shape {
    chains: HashMap<String, usize>,
    elements: HashMap<String, usize>,
}

impl Shape {
    fn read(objects: &[Value]) -> Self {
        let mut shape = Self::default();
        for object in objects {
            if let Some(name) = object["chain"]["name"].as_str() {
                shape.chains.entry(name.to_owned()).or_default();
            } else if let Some(chain) = object["rule"]["chain"].as_str() {
                *shape.chains.entry(chain.to_owned()).or_default() += 1;
            } else {
                let collection = if object["map"].is_object() { &object["map"] } else { &object["set"] };
                // The kernel itself fills the sets of session affinity.
                if let (Some(name), Some(elements)) =
                    (collection["name"].as_str(), collection["elem"].as_array())
                    && collection["timeout"].is_null()
                {
                    shape.elements.insert(name.to_owned(), elements.len());
                }
            }
        }
        shape
    }
}

fn whole(table: &str, base: &Base, transaction: &Transaction, kept: &str) -> String {
    // To delete needs something to be there.
    let mut out = format!("add table ip {table}\ndelete table ip {table}\nadd table ip {table}\n");
    for (map, key) in MAPS {
        let _ = writeln!(out, "add map ip {table} {map} {{ type {key} : verdict; }}");
    }
    for hook in HOOKS {
        let _ = writeln!(out, "add chain ip {table} {} {{ {}; }}", hook.chain, hook.at);
    }
    out.push_str(&transaction.script(table));
    for (collection, key) in rules::base(base).elements.keys() {
        let _ = writeln!(out, "add element ip {table} {collection} {{ {key} }}");
    }
    out.push_str(kept);
    out
}

/// The still living elements of the sets that are wanted.
fn remember(table: &str, sets: &[Value], wanted: &BTreeSet<&str>) -> String {
    let mut out = String::new();
    for set in sets.iter().map(|s| &s["set"]) {
        let Some(name) = set["name"].as_str().filter(|n| wanted.contains(n)) else { continue };
        for element in set["elem"].as_array().into_iter().flatten().map(|e| &e["elem"]) {
            let client = element["val"].as_str().and_then(|v| v.parse::<std::net::Ipv4Addr>().ok());
            if let (Some(client), Some(left)) = (client, element["expires"].as_u64().filter(|s| *s > 0)) {
                let _ = writeln!(out, "add element ip {table} {name} {{ {client} expires {left}s }}");
            }
        }
    }
    out
}

/// Removes a table with everything in it; `false` if there is none.
pub async fn cleanup(table: &str) -> Result<bool, nft::Error> {
    match Nft::default().apply(&format!("delete table ip {table}\n")).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_missing_object() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The chains of other tables that drop whatever they do not name, pods' traffic too.
pub async fn forward_drops(own: &str) -> Result<Vec<String>, nft::Error> {
    Ok(dropping(&Nft::default().list(&["chains"]).await?, own))
}

fn dropping(chains: &[Value], own: &str) -> Vec<String> {
    let text = |chain: &Value, field: &str| chain[field].as_str().unwrap_or_default().to_owned();
    let chains = chains.iter().map(|c| &c["chain"]);
    chains
        .filter(|c| c["hook"] == "forward" && c["policy"] == "drop" && c["table"] != own)
        .map(|c| format!("{} {} {}", text(c, "family"), text(c, "table"), text(c, "name")))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn clients_stay_with_endpoints_that_stay() {
        let sets = [
            json!({"metainfo": {}}),
            json!({"set": {"name": "affinity-A", "elem": [
                {"elem": {"val": "10.0.0.9", "timeout": 10800, "expires": 99}},
                {"elem": {"val": "rubbish", "expires": 99}},
                {"elem": {"val": "10.0.0.8", "expires": 0}}]}}),
            json!({"set": {"name": "affinity-gone", "elem": [{"elem": {"val": "10.0.0.9", "expires": 99}}]}}),
            json!({"set": {"name": "cluster-ips", "elem": ["10.96.0.1"]}}),
        ];
        let wanted = BTreeSet::from(["affinity-A", "affinity-B"]);
        assert_eq!(remember("t", &sets, &wanted), "add element ip t affinity-A { 10.0.0.9 expires 99s }\n");
    }

    #[test]
    fn finds_firewalls_that_drop_what_is_forwarded() {
        let chain = |family: &str, table: &str, hook: &str, policy: &str| json!({"chain": {"family": family, "table": table, "name": "FORWARD", "hook": hook, "policy": policy}});
        let chains = [
            json!({"metainfo": {}}),
            chain("ip", "filter", "forward", "drop"),
            chain("ip", "filter", "input", "drop"),
            chain("inet", "firewalld", "forward", "accept"),
            chain("ip", "own", "forward", "drop"),
        ];
        assert_eq!(dropping(&chains, "own"), ["ip filter FORWARD"]);
    }
}
