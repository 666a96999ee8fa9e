//! A pod that names its node runs nowhere else.
use crate::framework::{Filter, Plugin, Prepared, Rejection, Wakes};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, node_of};
use crate::snapshot::Snapshot;

const REASON: &str = "node(s) didn't match the requested node name";

/// Filters by `spec.nodeName`.
pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn wakes(&self) -> Wakes {
        Wakes::NODE_ADD
    }
}

impl Filter for NodeName {
    fn prepare<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Prepared<'a> {
        let wanted = node_of(&pod.pod);
        if wanted.is_empty() {
            return Prepared::Skip;
        }
        Prepared::Judge(Box::new(move |node: &NodeInfo| {
            if node.name == wanted { Ok(()) } else { Err(Rejection::unresolvable(REASON)) }
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::verdict;
    use crate::testing::{info, pod};

    #[test]
    fn only_the_named_node_will_do() {
        let check = |spec, expect: &str| {
            let got = verdict(&NodeName, &pod("p", spec), &Snapshot::default(), &info("a", json!({})));
            assert_eq!(got, expect);
        };
        check(json!({"containers": []}), "");
        check(json!({"containers": [], "nodeName": "a"}), "");
        check(json!({"containers": [], "nodeName": "b"}), REASON);
    }
}
