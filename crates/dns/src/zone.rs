//! Answers for names of the cluster: the Kubernetes DNS specification, version 1.1.0, over an [`Index`].

use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;

use crate::index::Index;
use crate::records::{Entry, Port, Target, undashed};

/// What does not change while it runs.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Seconds for which answers may be kept.
    pub ttl: u32,
    /// Addresses under which this DNS is known.
    pub dns_ips: Vec<IpAddr>,
    /// Networks whose addresses only we can name.
    pub networks: Vec<IpNet>,
}

/// An answer, before it is a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The records asked for, and some that are asked for next.
    Found {
        /// What was asked for.
        answers: Vec<Record>,
        /// What helps.
        additionals: Vec<Record>,
    },
    /// Another name: this record, and whatever that name has.
    Alias(Record),
    /// The name is there, the type is not.
    NoData(Record),
    /// There is no such name.
    NoName(Record),
    /// Somebody else's name.
    Foreign,
}

/// The specification's version.
const VERSION: &str = "1.1.0";
/// Names of ours have at most `_port._protocol.service.namespace.svc` before the domain.
const MAX_LABELS: usize = 5;

impl Zone {
    /// Answers a question. `name` has to be in lower case; `spelled` is how it was asked.
    pub fn answer(&self, index: &Index, name: &Name, spelled: &Name, kind: RecordType) -> Answer {
        let domain = index.domain();
        if !domain.zone_of(name) {
            return self.reverse(index, name, spelled, kind);
        }
        let question = Question { zone: self, index, spelled, kind };
        let count = usize::from(name.num_labels().saturating_sub(domain.num_labels()));
        let mut labels: [&[u8]; MAX_LABELS] = [b""; MAX_LABELS];
        if count > MAX_LABELS {
            return question.no_name();
        }
        for (place, label) in labels.iter_mut().zip(name.iter()).take(count) {
            *place = label;
        }
        match &labels[..count] {
            [] => question.apex(),
            [b"dns-version"] => {
                question.only(RecordType::TXT, || RData::TXT(TXT::new(vec![VERSION.to_owned()])))
            }
            [b"ns", b"dns"] => question.addresses(self.dns_ips.iter().copied()),
            [b"dns" | b"svc" | b"pod"] => question.no_data(),
            [namespace, b"svc" | b"pod"] if index.has_namespace(namespace) => question.no_data(),
            [ip, namespace, b"pod"] if index.has_namespace(namespace) => match undashed(ip) {
                Some(ip) => question.addresses([ip]),
                None => question.no_name(),
            },
            [service, namespace, b"svc"] => match index.service(service, namespace) {
                Some(entry) => question.service(entry),
                None => question.no_name(),
            },
            [below, service, namespace, b"svc"] => match index.service(service, namespace) {
                Some(entry) => question.below(entry, below),
                None => question.no_name(),
            },
            [port, protocol, service, namespace, b"svc"] => match index.service(service, namespace) {
                Some(entry) => question.port(entry, port, protocol),
                None => question.no_name(),
            },
            _ => question.no_name(),
        }
    }

    fn reverse(&self, index: &Index, name: &Name, spelled: &Name, kind: RecordType) -> Answer {
        let Ok(net) = name.parse_arpa_name() else { return Answer::Foreign };
        let mut question = Question { zone: self, index, spelled, kind };
        if net.prefix_len() == net.max_prefix_len() {
            let names: Vec<_> = index.names(net.addr()).cloned().collect();
            if !names.is_empty() {
                if kind != RecordType::PTR {
                    return question.no_data();
                }
                let answers = names.into_iter().map(|n| question.record(RData::PTR(PTR(n)))).collect();
                return Answer::Found { answers, additionals: Vec::new() };
            }
        }
        if !self.networks.iter().any(|n| n.contains(&net)) {
            return Answer::Foreign;
        }
        // The world would not know either, and would take its time to say so.
        let zone = name.trim_to(2);
        question.spelled = &zone;
        let soa = question.soa(zone.clone());
        if net.prefix_len() == net.max_prefix_len() { Answer::NoName(soa) } else { Answer::NoData(soa) }
    }
}

struct Question<'a> {
    zone: &'a Zone,
    index: &'a Index,
    spelled: &'a Name,
    kind: RecordType,
}

impl Question<'_> {
    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.spelled.clone(), self.zone.ttl, data)
    }

    fn soa(&self, owner: Name) -> Record {
        let domain = self.index.domain();
        let below = |labels: &[&str]| {
            labels.iter().rev().try_fold(domain.clone(), |n, l| n.prepend_label(*l)).unwrap_or(domain.clone())
        };
        let (server, mail) = (below(&["ns", "dns"]), below(&["hostmaster"]));
        let ttl = self.zone.ttl;
        let soa = SOA::new(server, mail, self.index.serial(), 7200, 1800, 86_400, ttl);
        Record::from_rdata(owner, ttl, RData::SOA(soa))
    }

    fn no_data(&self) -> Answer {
        Answer::NoData(self.soa(self.index.domain().clone()))
    }

    fn no_name(&self) -> Answer {
        Answer::NoName(self.soa(self.index.domain().clone()))
    }

    fn found(&self, answers: Vec<Record>) -> Answer {
        if answers.is_empty() { self.no_data() } else { Answer::Found { answers, additionals: Vec::new() } }
    }

    fn only(&self, kind: RecordType, data: impl FnOnce() -> RData) -> Answer {
        if self.kind == kind { self.found(vec![self.record(data())]) } else { self.no_data() }
    }

    fn apex(&self) -> Answer {
        let domain = self.index.domain();
        match self.kind {
            RecordType::SOA => self.found(vec![self.soa(domain.clone())]),
            RecordType::NS => {
                match Name::from_labels([b"ns".as_slice(), b"dns"]).and_then(|n| n.append_domain(domain)) {
                    Ok(server) => {
                        let additionals = self.host_records(&server, self.zone.dns_ips.iter().copied());
                        Answer::Found { answers: vec![self.record(RData::NS(NS(server)))], additionals }
                    }
                    Err(_) => self.no_data(),
                }
            }
            _ => self.no_data(),
        }
    }

    fn addresses(&self, ips: impl IntoIterator<Item = IpAddr>) -> Answer {
        let data = ips.into_iter().filter_map(|ip| address(ip, Some(self.kind)));
        self.found(data.map(|d| self.record(d)).collect())
    }

    fn host_records(&self, name: &Name, ips: impl IntoIterator<Item = IpAddr>) -> Vec<Record> {
        let data = ips.into_iter().filter_map(|ip| address(ip, None));
        data.map(|d| Record::from_rdata(name.clone(), self.zone.ttl, d)).collect()
    }

    fn service(&self, entry: &Entry) -> Answer {
        match &entry.target {
            Target::Alias(name) => Answer::Alias(self.record(RData::CNAME(CNAME(name.clone())))),
            _ if self.kind == RecordType::SRV => self.ports(entry, self.spelled, |_| true),
            Target::Cluster(ips) => self.addresses(ips.iter().copied()),
            // A headless Service without endpoints is there all the same.
            Target::Headless(endpoints) => self.addresses(endpoints.iter().map(|e| e.ip)),
        }
    }

    /// `hostname.service...` or the middle of `_port._protocol.service...`.
    fn below(&self, entry: &Entry, label: &[u8]) -> Answer {
        if let Some(protocol) = label.strip_prefix(b"_") {
            let known = named(&entry.ports).any(|p| p.protocol.as_bytes() == protocol);
            return if known { self.no_data() } else { self.no_name() };
        }
        let mut hosts = entry.endpoints().iter().filter(|e| e.hostname.as_bytes() == label).peekable();
        if hosts.peek().is_none() {
            return self.no_name();
        }
        if self.kind == RecordType::SRV {
            let ports = hosts.flat_map(|e| e.ports.iter().map(|p| (p.port, 1)));
            let records = ports.map(|(port, count)| self.srv(port, count, self.spelled.clone()));
            return self.found(records.collect());
        }
        self.addresses(hosts.map(|e| e.ip))
    }

    fn port(&self, entry: &Entry, port: &[u8], protocol: &[u8]) -> Answer {
        let (Some(port), Some(protocol)) = (port.strip_prefix(b"_"), protocol.strip_prefix(b"_")) else {
            return self.no_name();
        };
        let matches = |p: &Port| p.name.as_bytes() == port && p.protocol.as_bytes() == protocol;
        // An alias has no ports of its own.
        if matches!(entry.target, Target::Alias(_)) || !named(&entry.ports).any(matches) {
            return self.no_name();
        }
        if self.kind != RecordType::SRV {
            return self.no_data();
        }
        // The Service's own name follows the port and the protocol.
        let labels = self.spelled.iter().skip(2);
        match Name::from_labels(labels) {
            Ok(mut service) => {
                service.set_fqdn(true);
                self.ports(entry, &service, matches)
            }
            Err(_) => self.no_name(),
        }
    }

    fn ports(&self, entry: &Entry, service: &Name, wanted: impl Fn(&Port) -> bool) -> Answer {
        let (mut answers, mut additionals) = (Vec::new(), Vec::new());
        match &entry.target {
            Target::Cluster(ips) => {
                let ports: Vec<_> = entry.ports.iter().filter(|p| wanted(p)).collect();
                answers.extend(ports.iter().map(|p| self.srv(p.port, ports.len(), service.clone())));
                additionals = self.host_records(service, ips.iter().copied());
            }
            Target::Headless(endpoints) => {
                let count = endpoints.iter().flat_map(|e| &e.ports).filter(|p| wanted(p)).count();
                for endpoint in endpoints {
                    let Ok(host) = service.prepend_label(&*endpoint.hostname) else { continue };
                    for port in endpoint.ports.iter().filter(|p| wanted(p)) {
                        answers.push(self.srv(port.port, count, host.clone()));
                    }
                    additionals.extend(self.host_records(&host, [endpoint.ip]));
                }
            }
            Target::Alias(_) => {}
        }
        if answers.is_empty() { self.no_data() } else { Answer::Found { answers, additionals } }
    }

    /// `count` records share the weight of one hundred.
    fn srv(&self, port: u16, count: usize, target: Name) -> Record {
        let weight = u16::try_from(100 / count.max(1)).unwrap_or(1).max(1);
        self.record(RData::SRV(SRV::new(0, weight, port, target)))
    }
}

fn named(ports: &[Port]) -> impl Iterator<Item = &Port> {
    ports.iter().filter(|p| !p.name.is_empty())
}

/// The record of an address, if it is of the kind asked for.
fn address(ip: IpAddr, kind: Option<RecordType>) -> Option<RData> {
    match (ip, kind) {
        (IpAddr::V4(ip), None | Some(RecordType::A)) => Some(RData::A(A(ip))),
        (IpAddr::V6(ip), None | Some(RecordType::AAAA)) => Some(RData::AAAA(AAAA(ip))),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
