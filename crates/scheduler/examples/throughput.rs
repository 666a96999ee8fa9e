//! How many pods a second the cycle places, in memory: `throughput [NODES] [PODS] [plain|affinity|spread]`.
use std::sync::Arc;
use std::time::Instant;

use scheduler::cycle::Cycle;
use scheduler::framework::Framework;
use scheduler::{PodInfo, Snapshot};
use serde_json::{Value, json};

fn main() -> Result<(), serde_json::Error> {
    let mut args = std::env::args().skip(1);
    let mut number = |default| args.next().and_then(|a| a.parse().ok()).unwrap_or(default);
    let (nodes, pods): (usize, usize) = (number(5_000), number(10_000));
    let kind = args.next().unwrap_or_else(|| "plain".into());
    let mut snapshot = Snapshot::default();
    for i in 0..nodes {
        let node = json!({
            "metadata": { "name": format!("node-{i}"), "labels": { "zone": format!("z{}", i % 3), "kubernetes.io/hostname": format!("node-{i}") } },
            "status": { "allocatable": { "cpu": "16", "memory": "64Gi", "pods": "110" } },
        });
        snapshot.set_node(Arc::new(serde_json::from_value(node)?));
    }
    let mut waiting = Vec::with_capacity(pods);
    for i in 0..pods {
        let mut pod = json!({
            "metadata": { "name": format!("pod-{i}"), "namespace": "default", "uid": format!("uid-{i}"), "labels": { "app": format!("a{}", i % 100) } },
            "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "100m", "memory": "128Mi" } } }] },
        });
        rules(&mut pod["spec"], &kind, i % 100);
        waiting.push(Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod)?))));
    }
    let framework = Framework::default();
    let mut cycle = Cycle::new(0);
    let start = Instant::now();
    let mut placed = 0;
    for pod in waiting {
        if let Ok(placement) = cycle.schedule(&framework, &snapshot, &pod) {
            snapshot.place(pod, &placement.node);
            placed += 1;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{placed} of {pods} {kind} pods on {nodes} nodes: {seconds:.3} s, {:.0} pods/s",
        pods as f64 / seconds
    );
    Ok(())
}

fn rules(spec: &mut Value, kind: &str, app: usize) {
    let selector = json!({ "matchLabels": { "app": format!("a{app}") } });
    match kind {
        "affinity" => {
            spec["affinity"] = json!({ "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [{ "labelSelector": selector, "topologyKey": "zone" }] } });
        }
        "spread" => {
            spec["topologySpreadConstraints"] = json!([{ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector }]);
        }
        _ => {}
    }
}
