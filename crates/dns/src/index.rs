//! Everything that can be asked for, kept so that a question costs one look-up.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use client::ObjectKey;
use hickory_proto::rr::Name;

use crate::records::{Entry, Target};

/// What is known of the cluster.
#[derive(Debug)]
pub struct Index {
    domain: Name,
    /// By `service.namespace`, in lower case as Kubernetes has it.
    services: HashMap<Box<[u8]>, Entry>,
    namespaces: HashSet<Box<[u8]>>,
    /// Which Service calls an address by which name.
    names: HashMap<IpAddr, BTreeMap<ObjectKey, Name>>,
    serial: u32,
}

impl Index {
    /// Knows nothing yet of this domain.
    pub fn new(domain: Name) -> Self {
        Self {
            domain,
            services: HashMap::new(),
            namespaces: HashSet::new(),
            names: HashMap::new(),
            serial: 0,
        }
    }

    /// The domain.
    pub fn domain(&self) -> &Name {
        &self.domain
    }

    /// Grows with every change.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// A Service by the labels of its name, in lower case.
    pub fn service(&self, service: &[u8], namespace: &[u8]) -> Option<&Entry> {
        // Longer ones are no names of ours; shorter ones need no memory of their own.
        let mut key = [0_u8; 127];
        let length = service.len() + 1 + namespace.len();
        let place = key.get_mut(..length)?;
        place[..service.len()].copy_from_slice(service);
        place[service.len()] = b'.';
        place[service.len() + 1..].copy_from_slice(namespace);
        self.services.get(&*place)
    }

    /// Whether there is such a namespace.
    pub fn has_namespace(&self, namespace: &[u8]) -> bool {
        self.namespaces.contains(namespace)
    }

    /// The names of an address.
    pub fn names(&self, ip: IpAddr) -> impl Iterator<Item = &Name> {
        self.names.get(&ip).into_iter().flat_map(BTreeMap::values)
    }

    /// Notes that a namespace is there or not.
    pub fn set_namespace(&mut self, name: &str, there: bool) {
        if there {
            self.namespaces.insert(name.as_bytes().into());
        } else {
            self.namespaces.remove(name.as_bytes());
        }
    }

    /// Notes what a Service has to say now.
    pub fn set_service(&mut self, key: &ObjectKey, entry: Option<Entry>, serial: u32) {
        let place = format!("{}.{}", key.name, key.namespace).into_bytes().into_boxed_slice();
        if self.services.get(&place) == entry.as_ref() {
            return;
        }
        self.serial = serial.max(self.serial.wrapping_add(1));
        if let Some(old) = self.services.remove(&place) {
            for ip in addresses(&old) {
                if let Some(names) = self.names.get_mut(&ip) {
                    names.remove(key);
                    if names.is_empty() {
                        self.names.remove(&ip);
                    }
                }
            }
        }
        let Some(entry) = entry else { return };
        if let Ok(base) = self.service_name(key) {
            match &entry.target {
                Target::Cluster(ips) => {
                    for ip in ips {
                        self.names.entry(*ip).or_default().insert(key.clone(), base.clone());
                    }
                }
                Target::Headless(endpoints) => {
                    for endpoint in endpoints {
                        if let Ok(name) = base.prepend_label(&*endpoint.hostname) {
                            self.names.entry(endpoint.ip).or_default().insert(key.clone(), name);
                        }
                    }
                }
                Target::Alias(_) => {}
            }
        }
        self.services.insert(place, entry);
    }

    fn service_name(&self, key: &ObjectKey) -> Result<Name, hickory_proto::ProtoError> {
        let labels = [key.name.as_bytes(), key.namespace.as_bytes(), b"svc"];
        Name::from_labels(labels)?.append_domain(&self.domain)
    }
}

fn addresses(entry: &Entry) -> Vec<IpAddr> {
    match &entry.target {
        Target::Cluster(ips) => ips.clone(),
        Target::Headless(endpoints) => endpoints.iter().map(|e| e.ip).collect(),
        Target::Alias(_) => Vec::new(),
    }
}
