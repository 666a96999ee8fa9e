//! Walks rules as the kernel does, for the part of the language that our rules use; anything else is a test failure.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::objects::Objects;
use crate::rules::HOOKS;

/// The first packet of a connection.
#[derive(Clone, Debug)]
pub struct Packet {
    source: Ipv4Addr,
    protocol: String,
    destination: Ipv4Addr,
    port: u16,
    mark: u32,
    masqueraded: bool,
}

impl Packet {
    /// `source protocol destination:port`
    pub fn parse(text: &str) -> Self {
        let words: Vec<_> = text.split(' ').collect();
        let (destination, port) = words[2].split_once(':').expect("address:port");
        Self {
            source: super::ip(words[0]),
            protocol: words[1].into(),
            destination: super::ip(destination),
            port: port.parse().expect("a port"),
            mark: 0,
            masqueraded: false,
        }
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Arrives { at: String, masqueraded: bool },
    Dropped,
    Reset,
    Unreachable,
}

enum Verdict {
    /// The end of a chain, or `return`.
    Back,
    Accept,
    End(Fate),
}

/// A table with a node around it.
pub struct Tracer {
    objects: Objects,
    node: Ipv4Addr,
    /// What session affinity remembers: set and client.
    remembered: BTreeSet<(String, Ipv4Addr)>,
    /// Where to turn at each fork, and how many ways each had.
    turns: RefCell<(Vec<usize>, Vec<usize>)>,
}

impl Tracer {
    pub fn new(objects: Objects, node: Ipv4Addr) -> Self {
        Self { objects, node, remembered: BTreeSet::new(), turns: RefCell::default() }
    }

    /// Lets the client have talked to this endpoint.
    pub fn remember(&mut self, endpoint: &str, client: Ipv4Addr) {
        let sets = self.objects.sets.keys().filter(|s| s.contains(&format!("__{endpoint}/")));
        self.remembered = sets.map(|s| (s.clone(), client)).collect();
        assert_eq!(self.remembered.len(), 1);
    }

    /// All that can become of a packet, over every random choice.
    pub fn send(&self, packet: &Packet) -> BTreeSet<Fate> {
        let mut fates = BTreeSet::new();
        let mut turns = Vec::new();
        loop {
            *self.turns.borrow_mut() = (turns, Vec::new());
            fates.insert(self.travel(packet.clone()));
            let (mut taken, ways) = self.turns.take();
            taken.truncate(ways.len());
            taken.resize(ways.len(), 0);
            while let Some(last) = taken.pop() {
                if last + 1 < ways[taken.len()] {
                    taken.push(last + 1);
                    break;
                }
            }
            if taken.is_empty() {
                return fates;
            }
            turns = taken;
        }
    }

    fn travel(&self, mut packet: Packet) -> Fate {
        let own = |ip: Ipv4Addr| ip == self.node || ip.is_loopback();
        let begin = if own(packet.source) { "output" } else { "prerouting" };
        if let Err(fate) = self.hook(begin, &mut packet) {
            return fate;
        }
        let mut rest = match (begin, own(packet.destination)) {
            ("output", true) => vec!["postrouting", "input"],
            ("output", false) => vec!["postrouting"],
            (_, true) => vec!["input"],
            (_, false) => vec!["forward", "postrouting"],
        };
        rest.reverse();
        while let Some(hook) = rest.pop() {
            if let Err(fate) = self.hook(hook, &mut packet) {
                return fate;
            }
        }
        Fate::Arrives {
            at: format!("{}:{}", packet.destination, packet.port),
            masqueraded: packet.masqueraded,
        }
    }

    fn hook(&self, hook: &str, packet: &mut Packet) -> Result<(), Fate> {
        let mut chains: BTreeMap<i32, &str> = BTreeMap::new();
        for h in HOOKS {
            let words: Vec<_> = h.at.split(' ').collect();
            if words[3] == hook {
                chains.insert(words[5].parse().expect("a priority"), h.chain);
            }
        }
        for chain in chains.values() {
            if let Verdict::End(fate) = self.chain(chain, packet) {
                return Err(fate);
            }
        }
        Ok(())
    }

    fn chain(&self, name: &str, packet: &mut Packet) -> Verdict {
        let rules = self.objects.chains.get(name).unwrap_or_else(|| panic!("no chain {name}"));
        for rule in rules {
            match self.rule(rule, packet) {
                None => {}
                Some(verdict) => return verdict,
            }
        }
        Verdict::Back
    }

    /// `None`: on to the next rule.
    fn rule(&self, rule: &str, packet: &mut Packet) -> Option<Verdict> {
        let words: Vec<&str> = rule.split(' ').collect();
        let mut rest = words.as_slice();
        loop {
            rest = match rest {
                [] => return None,
                ["ct", "state", "new", rest @ ..] => rest,
                ["oifname", "!=", "\"lo\"", rest @ ..] => {
                    self.holds(packet.destination != self.node, rest)?
                }
                ["meta", "l4proto", p @ ("tcp" | "udp"), rest @ ..] => {
                    self.holds(packet.protocol == *p, rest)?
                }
                [p @ ("tcp" | "udp"), "dport", port, rest @ ..] => {
                    self.holds(packet.protocol == *p && packet.port.to_string() == *port, rest)?
                }
                ["fib", "saddr", "type", "local", rest @ ..] => {
                    self.holds(packet.source == self.node, rest)?
                }
                ["ip", "daddr", ".", "meta", "l4proto", ".", "th", "dport", "vmap", map] => {
                    let key = format!("{} . {} . {}", packet.destination, packet.protocol, packet.port);
                    return self.lookup(map, key, packet);
                }
                ["meta", "l4proto", ".", "th", "dport", "vmap", map] => {
                    return self.lookup(map, format!("{} . {}", packet.protocol, packet.port), packet);
                }
                ["ip", field, "!=", net, rest @ ..] => self.holds(!self.within(field, net, packet), rest)?,
                ["ip", field, net, rest @ ..] => self.holds(self.within(field, net, packet), rest)?,
                ["meta", "mark", "&", mask, "!=", "0", rest @ ..] => {
                    self.holds(packet.mark & number(mask) != 0, rest)?
                }
                ["meta", "mark", "set", "meta", "mark", "|", bits, rest @ ..] => {
                    packet.mark |= number(bits);
                    rest
                }
                ["meta", "mark", "set", "meta", "mark", "&", bits, rest @ ..] => {
                    packet.mark &= number(bits);
                    rest
                }
                ["update", set, "{", "ip", "saddr", "}", rest @ ..] => {
                    assert!(self.objects.sets.contains_key(&set[1..]), "{set}");
                    rest
                }
                ["numgen", "random", "mod", n, "vmap", "{", choices @ .., "}"] => {
                    let choices = choices.join(" ");
                    let choices: Vec<_> = choices.split(", ").collect();
                    assert_eq!(choices.len().to_string(), *n);
                    let turn = self.turn(choices.len());
                    let verdict =
                        choices[turn].strip_prefix(&format!("{turn} : ")).expect("choices in order");
                    return self.verdict(verdict, packet);
                }
                ["dnat", "to", to] => {
                    let (address, port) = to.split_once(':').expect("address:port");
                    (packet.destination, packet.port) = (super::ip(address), port.parse().expect("a port"));
                    return Some(Verdict::Accept);
                }
                ["masquerade", "fully-random"] => {
                    packet.masqueraded = true;
                    return Some(Verdict::Accept);
                }
                verdict => return self.verdict(&verdict.join(" "), packet),
            };
        }
    }

    fn holds<'a, 'b>(&self, holds: bool, rest: &'a [&'b str]) -> Option<&'a [&'b str]> {
        holds.then_some(rest)
    }

    fn verdict(&self, verdict: &str, packet: &mut Packet) -> Option<Verdict> {
        match verdict.split_once(' ') {
            Some(("goto", chain)) => Some(self.chain(chain, packet)),
            Some(("jump", chain)) => match self.chain(chain, packet) {
                Verdict::Back => None,
                other => Some(other),
            },
            _ => match verdict {
                "return" => Some(Verdict::Back),
                "drop" => Some(Verdict::End(Fate::Dropped)),
                "reject" => Some(Verdict::End(Fate::Unreachable)),
                "reject with tcp reset" => Some(Verdict::End(Fate::Reset)),
                other => panic!("what is `{other}`?"),
            },
        }
    }

    fn lookup(&self, map: &str, key: String, packet: &mut Packet) -> Option<Verdict> {
        let (map, _) = crate::rules::MAPS.iter().find(|(m, _)| *m == &map[1..]).expect("a map of ours");
        let verdict = self.objects.elements.get(&(*map, key))?.clone();
        self.verdict(&verdict, packet)
    }

    fn within(&self, field: &str, net: &str, packet: &Packet) -> bool {
        let address = match field {
            "saddr" => packet.source,
            "daddr" => packet.destination,
            other => panic!("what is ip {other}?"),
        };
        match net.strip_prefix('@') {
            Some(set) if set.starts_with("affinity-") => self.remembered.contains(&(set.to_owned(), address)),
            Some(set) => {
                let found = |(c, k): &(&str, String)| *c == set && *k == address.to_string();
                assert!(self.objects.sets.contains_key(set), "no set {set}");
                self.objects.elements.keys().any(found)
            }
            None => match net.parse::<Ipv4Net>() {
                Ok(net) => net.contains(&address),
                Err(_) => address == super::ip(net),
            },
        }
    }

    fn turn(&self, ways: usize) -> usize {
        let mut turns = self.turns.borrow_mut();
        let turn = turns.0.get(turns.1.len()).copied().unwrap_or(0);
        turns.1.push(ways);
        turn
    }
}

fn number(text: &str) -> u32 {
    u32::from_str_radix(text.trim_start_matches("0x"), 16).expect("a hexadecimal number")
}
