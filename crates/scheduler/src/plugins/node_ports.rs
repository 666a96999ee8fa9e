//! Two pods cannot open the same port of a host.
use crate::framework::{Filter, Plugin, Prepared, Rejection, Wakes};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const REASON: &str = "node(s) didn't have free ports for the requested pod ports";

/// Filters by host ports.
pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn wakes(&self) -> Wakes {
        Wakes::NODE_ADD.or(Wakes::POD_GONE)
    }
}

impl Filter for NodePorts {
    fn prepare<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Prepared<'a> {
        if pod.ports.is_empty() {
            return Prepared::Skip;
        }
        Prepared::Judge(Box::new(move |node: &NodeInfo| {
            let taken = pod.ports.iter().any(|want| node.ports.iter().any(|has| has.conflicts(want)));
            if taken { Err(Rejection::resolvable(REASON)) } else { Ok(()) }
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::verdict;
    use crate::testing::{info, pod};

    #[test]
    fn ports_conflict_by_number_protocol_and_address() {
        let spec = |port: Value| json!({"containers": [{"name": "c", "ports": [port]}]});
        let check = |want: Value, free: bool| {
            let mut node = info("a", json!({}));
            node.add_pod(pod(
                "other",
                spec(json!({"containerPort": 1, "hostPort": 80, "hostIP": "127.0.0.1"})),
            ));
            let got = verdict(&NodePorts, &pod("p", spec(want.clone())), &Snapshot::default(), &node);
            assert_eq!(got, if free { "" } else { REASON }, "{want}");
        };
        check(json!({"containerPort": 80}), true);
        check(json!({"containerPort": 1, "hostPort": 80}), false);
        check(json!({"containerPort": 1, "hostPort": 80, "hostIP": "0.0.0.0"}), false);
        check(json!({"containerPort": 1, "hostPort": 80, "hostIP": "127.0.0.2"}), true);
        check(json!({"containerPort": 1, "hostPort": 80, "protocol": "UDP"}), true);
        check(json!({"containerPort": 1, "hostPort": 81}), true);
    }
}
