//! Removes pods that nobody will remove: bound to Nodes that are gone, deleted before they had a Node, or ended and
//! too many.
//! Watches: Pod, Node.  Writes: Pod/status to Failed, Pod delete with no grace.
//! Invariant: a Node counts as gone only after a quarantine and a live read.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use client::{Cache, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use crate::context::Context;
use crate::framework::{Controller, Error, Next, Wakes, unless_gone};
use crate::pods::{self, whole_seconds};

const SWEEP: &str = "sweep";
/// As upstream's period.
const SOON: Duration = Duration::from_secs(20);
/// A Node that was seen just now may be back.
const QUARANTINE: Duration = Duration::from_secs(40);

/// See the module.
pub struct PodGc {
    client: Client,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    threshold: usize,
}

impl PodGc {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            pods: context.pods.cache.clone(),
            nodes: context.informers.cache(),
            threshold: context.config.terminated_pod_threshold,
        }
    }

    async fn remove(&self, pod: &Pod, orphan: bool) -> Result<(), Error> {
        let key = ObjectKey::of(pod);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        if !pods::is_terminal(pod) {
            let mut status = json!({"phase": "Failed"});
            if orphan {
                status["conditions"] = json!([{
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "DeletionByPodGC",
                    "message": "PodGC: node no longer exists",
                    "lastTransitionTime": whole_seconds(Timestamp::now()),
                }]);
            }
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
            let patched =
                api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            if unless_gone(patched).map_err(Error::at("mark a pod as failed"))?.is_none() {
                return Ok(());
            }
        }
        let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams::default().grace_period(0).preconditions(same);
        unless_gone(api.delete(&key.name, &params).await).map_err(Error::at("remove a pod"))?;
        tracing::info!(pod = %key, "pod removed, nobody else would");
        Ok(())
    }
}

impl Controller for PodGc {
    const NAME: &'static str = "pod-garbage-collector-controller";
    const WORKERS: usize = 1;

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.reads(&self.pods);
        wakes.reads(&self.nodes);
        let queue = wakes.queue();
        queue.add_after(ObjectKey::cluster(SWEEP), QUARANTINE);
        let (mut pods, nodes, waker) = (self.pods.changes(), self.nodes.clone(), queue.clone());
        wakes.beside(async move {
            loop {
                let change = pods.next().await;
                let Some(pod) = &change.new else { continue };
                let node = pods::node_name(pod);
                let lost = !node.is_empty() && nodes.get(&ObjectKey::cluster(node)).is_none();
                if lost || pods::is_terminal(pod) || (node.is_empty() && pods::is_terminating(pod)) {
                    waker.add_after(ObjectKey::cluster(SWEEP), SOON);
                }
            }
        });
        let mut nodes = self.nodes.changes();
        wakes.beside(async move {
            loop {
                if nodes.next().await.new.is_none() {
                    queue.add_after(ObjectKey::cluster(SWEEP), QUARANTINE);
                }
            }
        });
    }

    async fn reconcile(&self, _: ObjectKey) -> Result<Next, Error> {
        let pods = self.pods.list();
        let nodes = self.nodes.list().iter().filter_map(|n| n.metadata.name.clone()).collect();
        let plan = plan(&pods, &nodes, self.threshold);
        for pod in plan.unneeded {
            self.remove(pod, false).await?;
        }
        let api: Api<Node> = Api::all(self.client.clone());
        for (node, pods) in plan.orphans {
            if api.get_metadata_opt(&node).await.map_err(Error::at("read a node"))?.is_some() {
                continue;
            }
            for pod in pods {
                self.remove(pod, true).await?;
            }
        }
        Ok(Next::Rest)
    }
}

#[derive(Debug, Default)]
struct Plan<'a> {
    unneeded: Vec<&'a Pod>,
    orphans: Vec<(String, Vec<&'a Pod>)>,
}

fn plan<'a>(pods: &'a [Arc<Pod>], nodes: &BTreeSet<String>, threshold: usize) -> Plan<'a> {
    let mut plan = Plan::default();
    let mut ended: Vec<&Pod> = Vec::new();
    for pod in pods {
        let node = pods::node_name(pod);
        if !node.is_empty() && !nodes.contains(node) {
            match plan.orphans.iter_mut().find(|(name, _)| name == node) {
                Some((_, pods)) => pods.push(pod),
                None => plan.orphans.push((node.to_owned(), vec![pod])),
            }
        } else if node.is_empty() && pods::is_terminating(pod) {
            plan.unneeded.push(pod);
        } else if pods::is_terminal(pod) {
            ended.push(pod);
        }
    }
    if threshold > 0 && ended.len() > threshold {
        ended.sort_by_key(|p| (p.metadata.creation_timestamp.as_ref().map(|t| t.0), p.metadata.name.clone()));
        ended.truncate(ended.len() - threshold);
        plan.unneeded.extend(ended);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str, phase: &str, created: i64, going: bool) -> Arc<Pod> {
        let mut value = json!({"metadata": {"name": name, "creationTimestamp": Timestamp::from_second(created).unwrap().to_string()},
            "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase}});
        if going {
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn finds_what_nobody_removes() {
        let pods = [
            pod("lives", "n", "Running", 1, false),
            pod("going", "n", "Running", 1, true),
            pod("lost", "gone", "Running", 1, false),
            pod("unscheduled", "", "Pending", 1, false),
            pod("unscheduled-going", "", "Pending", 1, true),
            pod("old", "n", "Succeeded", 10, false),
            pod("older", "n", "Failed", 5, false),
            pod("new", "n", "Succeeded", 20, false),
        ];
        let nodes = ["n".to_owned()].into();
        let names = |pods: &[&Pod]| pods.iter().map(|p| p.metadata.name.clone().unwrap()).collect::<Vec<_>>();
        let some = plan(&pods, &nodes, 2);
        assert_eq!(names(&some.unneeded), ["unscheduled-going", "older"]);
        assert_eq!(
            (some.orphans[0].0.as_str(), names(&some.orphans[0].1)),
            ("gone", vec!["lost".to_owned()])
        );
        assert_eq!(names(&plan(&pods, &nodes, 0).unneeded), ["unscheduled-going"]);
        assert_eq!(names(&plan(&pods, &nodes, 3).unneeded), ["unscheduled-going"]);
    }
}
