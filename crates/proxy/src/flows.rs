//! UDP flows that the kernel still sends to endpoints that are gone.
//!
//! A flow keeps its endpoint for as long as packets come; TCP notices that nobody answers, UDP does not.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

use base::Chain;
use net::conntrack::{self, Flow};

use crate::desired::{Port, Protocol};

/// Which endpoints may answer for an address and port; for node ports any of the node's addresses.
#[derive(Default)]
struct Answers {
    at_address: HashMap<(Ipv4Addr, u16), HashSet<(Ipv4Addr, u16)>>,
    at_node: HashMap<u16, HashSet<(Ipv4Addr, u16)>>,
}

/// The flows to these Service ports that somebody answers who should not.
///
/// A port without endpoints stands for one that is gone: all its flows are stale.
pub fn stale<'a>(flows: &[Flow], ports: impl Iterator<Item = &'a Port>, node: &[Ipv4Addr]) -> Vec<Flow> {
    let mut answers = Answers::default();
    for port in ports.filter(|p| p.protocol == Protocol::Udp) {
        let targets = || port.cluster.iter().chain(&port.local).map(|t| (t.address, t.port));
        let addresses = port.cluster_ips.iter().chain(&port.external_ips).chain(&port.load_balancer_ips);
        for address in addresses {
            answers.at_address.entry((*address, port.port)).or_default().extend(targets());
        }
        if let Some(node_port) = port.node_port {
            answers.at_node.entry(node_port).or_default().extend(targets());
        }
    }
    let expected = |flow: &Flow| {
        let at_node = node.contains(&flow.destination).then(|| answers.at_node.get(&flow.destination_port));
        answers.at_address.get(&(flow.destination, flow.destination_port)).or(at_node.flatten())
    };
    flows
        .iter()
        .filter(|f| expected(f).is_some_and(|e| !e.contains(&(f.answered_by, f.answered_from))))
        .copied()
        .collect()
}

/// Forgets such flows of the ports given. Without a `conntrack` on the host nothing happens but a warning.
pub async fn forget_stale(ports: &[Port], node: &[Ipv4Addr]) {
    if !ports.iter().any(|p| p.protocol == Protocol::Udp) {
        return;
    }
    let flows = match conntrack::udp_flows().await {
        Ok(flows) => flows,
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "cannot look for UDP flows to endpoints that are gone");
            return;
        }
    };
    let stale = stale(&flows, ports.iter(), node);
    for flow in &stale {
        if let Err(error) = conntrack::forget(flow).await {
            tracing::warn!(error = %Chain(&error), ?flow, "cannot forget a UDP flow");
        }
    }
    if !stale.is_empty() {
        tracing::debug!(flows = stale.len(), "forgot UDP flows to endpoints that are gone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Target;

    #[test]
    fn only_flows_to_endpoints_that_are_gone_are_stale() {
        let (vip, node, old, new) = ([10, 96, 0, 10], [192, 0, 2, 2], [10, 244, 0, 3], [10, 244, 0, 4]);
        let flow = |destination: [u8; 4], destination_port, answered_by: [u8; 4]| Flow {
            source: [10, 244, 0, 9].into(),
            source_port: 40_000,
            destination: destination.into(),
            destination_port,
            answered_by: answered_by.into(),
            answered_from: 5353,
        };
        let port = Port {
            name: String::new(),
            protocol: Protocol::Udp,
            port: 53,
            cluster_ips: vec![vip.into()],
            external_ips: vec![],
            load_balancer_ips: vec![],
            source_ranges: vec![],
            node_port: Some(30_053),
            affinity: None,
            internal_local: false,
            external_local: false,
            cluster: vec![Target { address: new.into(), port: 5353 }],
            local: vec![],
        };
        let flows = [
            flow(vip, 53, old),
            flow(vip, 53, new),
            // Nothing rewrote it: the first packet came before there was an endpoint.
            flow(vip, 53, vip),
            flow(vip, 54, old),
            flow(node, 30_053, old),
            flow([192, 0, 2, 7], 30_053, old),
        ];
        let stale_of = |port: &Port| stale(&flows, [port].into_iter(), &[node.into()]);
        assert_eq!(stale_of(&port), [flows[0], flows[2], flows[4]]);
        assert_eq!(stale_of(&Port { cluster: vec![], ..port.clone() }).len(), 4);
        assert_eq!(stale_of(&Port { protocol: Protocol::Tcp, ..port }), []);
    }
}
