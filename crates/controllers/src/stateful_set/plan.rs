//! The next step of a StatefulSet, from what is seen.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

use super::identity::{self, has_identity, ordinal_of, revision_of, start};
use crate::deployment::resolve;
use crate::framework::Next;
use crate::pods;

/// Everything the decision depends on.
pub struct Seen {
    pub set: StatefulSet,
    /// The pods it controls.
    pub pods: Vec<Arc<Pod>>,
    /// Name and template of the revision to come from.
    pub current: (String, PodTemplateSpec),
    /// Name and template of the revision to go to.
    pub update: (String, PodTemplateSpec),
}

/// What to write.
#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<Pod>,
    pub delete: Vec<Arc<Pod>>,
    /// Pods to be given their labels back.
    pub identify: Vec<Arc<Pod>>,
    pub status: StatefulSetStatus,
    pub next: Next,
}

fn is_created(pod: &Pod) -> bool {
    !pods::phase(pod).is_empty()
}

fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

fn is_healthy(pod: &Pod) -> bool {
    is_running_and_ready(pod) && !pods::is_terminating(pod)
}

struct Work<'a> {
    seen: &'a Seen,
    now: Timestamp,
    in_order: bool,
    min_ready: i32,
    replicas: Vec<(i32, Option<Arc<Pod>>)>,
    /// Beyond the ordinals wanted; the highest first.
    condemned: Vec<Arc<Pod>>,
    plan: Plan,
}

/// Decides the next step.
pub fn plan(seen: &Seen, now: Timestamp) -> Plan {
    let spec = seen.set.spec.clone().unwrap_or_default();
    let first = start(&seen.set);
    let end = first + spec.replicas.unwrap_or(1);
    let mut by_ordinal: BTreeMap<i32, Arc<Pod>> =
        seen.pods.iter().filter_map(|p| Some((ordinal_of(&seen.set, p)?, p.clone()))).collect();
    let mut work = Work {
        seen,
        now,
        in_order: spec.pod_management_policy.as_deref() != Some("Parallel"),
        min_ready: spec.min_ready_seconds.unwrap_or(0),
        replicas: (first..end).map(|i| (i, by_ordinal.remove(&i))).collect(),
        condemned: by_ordinal.into_values().rev().collect(),
        plan: Plan::default(),
    };
    work.plan.status = work.status();
    if seen.set.metadata.deletion_timestamp.is_none() {
        let _ = work.scale();
    }
    work.complete_update();
    let waiting = work.seen.pods.iter().filter_map(|p| pods::until_available(p, work.min_ready, now)).min();
    work.plan.next = waiting.map_or(Next::Rest, |left: Duration| Next::After(left));
    work.plan
}

/// Nothing more in this pass.
struct Wait;

impl Work<'_> {
    fn is_available(&self, pod: &Pod) -> bool {
        is_running_and_ready(pod) && pods::is_available(pod, self.min_ready, self.now)
    }

    fn status(&self) -> StatefulSetStatus {
        let before = self.seen.set.status.clone().unwrap_or_default();
        let all: Vec<&Arc<Pod>> =
            self.replicas.iter().filter_map(|(_, p)| p.as_ref()).chain(&self.condemned).collect();
        let count =
            |keep: &dyn Fn(&Pod) -> bool| i32::try_from(all.iter().filter(|p| keep(p)).count()).unwrap_or(0);
        let of = |revision: &str| {
            count(&|p| is_created(p) && !pods::is_terminating(p) && revision_of(p) == revision)
        };
        let some = |n: i32| (n != 0).then_some(n);
        let (current, update) = (&self.seen.current.0, &self.seen.update.0);
        StatefulSetStatus {
            replicas: count(&is_created),
            ready_replicas: some(count(&is_running_and_ready)),
            available_replicas: Some(count(&|p| self.is_available(p))),
            current_replicas: some(of(current)),
            updated_replicas: some(of(update)),
            current_revision: Some(current.clone()),
            update_revision: Some(update.clone()),
            observed_generation: self.seen.set.metadata.generation,
            collision_count: before.collision_count.or(Some(0)),
            conditions: before.conditions,
        }
    }

    fn rolling(&self) -> Option<(i32, i32)> {
        let strategy = self.seen.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
        if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
            return None;
        }
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let wanted = i32::try_from(self.replicas.len()).unwrap_or(0);
        let unavailable = match rolling.and_then(|r| r.max_unavailable.as_ref()) {
            None => 1,
            some => resolve(some, wanted, true).max(1),
        };
        Some((rolling.and_then(|r| r.partition).unwrap_or(0), unavailable))
    }

    fn new_pod(&self, ordinal: i32) -> Pod {
        let status = self.seen.set.status.clone().unwrap_or_default();
        let has_partition = self.seen.set.spec.as_ref().is_some_and(|s| {
            s.update_strategy
                .as_ref()
                .and_then(|u| u.rolling_update.as_ref()?.partition)
                .is_some_and(|p| p > 0)
        });
        let first = start(&self.seen.set);
        let stays = match self.rolling() {
            None => false,
            Some((partition, _)) if has_partition => ordinal < first + partition,
            Some(_) => ordinal < first + status.current_replicas.unwrap_or(0),
        };
        let (revision, template) = if stays { &self.seen.current } else { &self.seen.update };
        identity::pod(&self.seen.set, template, revision, ordinal)
    }

    fn scale(&mut self) -> Result<(), Wait> {
        let unhealthy: Vec<Option<String>> = self
            .replicas
            .iter()
            .filter(|(_, p)| p.as_ref().is_none_or(|p| !is_healthy(p)))
            .map(|(_, p)| p.as_ref().and_then(|p| p.metadata.uid.clone()))
            .chain(self.condemned.iter().rev().filter(|p| !is_healthy(p)).map(|p| p.metadata.uid.clone()))
            .collect();
        let first_unhealthy = unhealthy.first().cloned().flatten();
        for i in 0..self.replicas.len() {
            let (ordinal, pod) = self.replicas[i].clone();
            self.replica(ordinal, pod)?;
        }
        for pod in self.condemned.clone() {
            if pods::is_terminating(&pod) {
                if self.in_order {
                    return Err(Wait);
                }
                continue;
            }
            let blocked =
                !self.is_available(&pod) && first_unhealthy.is_some() && pod.metadata.uid != first_unhealthy;
            if self.in_order && blocked {
                return Err(Wait);
            }
            self.plan.delete.push(pod);
            if self.in_order {
                return Err(Wait);
            }
        }
        self.update();
        Ok(())
    }

    fn replica(&mut self, ordinal: i32, pod: Option<Arc<Pod>>) -> Result<(), Wait> {
        let Some(pod) = pod else {
            let new = self.new_pod(ordinal);
            let counter = if revision_of(&new) == self.seen.update.0 {
                &mut self.plan.status.updated_replicas
            } else {
                &mut self.plan.status.current_replicas
            };
            *counter = Some(counter.unwrap_or(0) + 1);
            if self.seen.current.0 == self.seen.update.0 {
                self.plan.status.current_replicas = self.plan.status.updated_replicas;
            }
            self.plan.status.replicas += 1;
            self.plan.create.push(new);
            return if self.in_order { Err(Wait) } else { Ok(()) };
        };
        if pods::is_terminal(&pod) {
            // The name is free again once the pod is out of storage.
            if !pods::is_terminating(&pod) {
                self.plan.delete.push(pod);
            }
            return Err(Wait);
        }
        if self.in_order && (pods::is_terminating(&pod) || !self.is_available(&pod)) {
            return Err(Wait);
        }
        if !pods::is_terminating(&pod) && !has_identity(&self.seen.set, &pod) {
            self.plan.identify.push(pod);
        }
        Ok(())
    }

    /// Deletes pods of old revisions from the highest ordinal down, as many at a time as allowed.
    fn update(&mut self) {
        let Some((partition, most_unavailable)) = self.rolling() else { return };
        let first = start(&self.seen.set);
        let mut unavailable = 0;
        if most_unavailable > 1 {
            let down = |p: &Option<Arc<Pod>>| {
                p.as_ref().is_none_or(|p| !self.is_available(p) || pods::is_terminating(p))
            };
            unavailable = self.replicas.iter().filter(|(_, p)| down(p)).count();
        }
        let mut room = usize::try_from(most_unavailable).unwrap_or(1).saturating_sub(unavailable);
        for (ordinal, pod) in self.replicas.iter().rev() {
            if *ordinal < first + partition {
                return;
            }
            let Some(pod) = pod else { continue };
            let old = revision_of(pod) != self.seen.update.0;
            if old && !pods::is_terminating(pod) {
                // A pod that serves nobody costs nothing.
                let broken = !is_healthy(pod);
                if !broken && room == 0 {
                    return;
                }
                let counter = &mut self.plan.status.current_replicas;
                *counter = counter.map(|n| n - 1).filter(|n| *n > 0);
                self.plan.delete.push(pod.clone());
                room = room.saturating_sub(1);
                if most_unavailable == 1 {
                    return;
                }
            } else if most_unavailable == 1 && (!is_healthy(pod) || !self.is_available(pod)) {
                return;
            }
        }
    }

    fn complete_update(&mut self) {
        let wanted = i32::try_from(self.replicas.len()).unwrap_or(0);
        let status = &mut self.plan.status;
        let all = |n: Option<i32>| n.unwrap_or(0) == wanted;
        let rolling = self.seen.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref()?.type_.as_deref())
            != Some("OnDelete");
        if rolling && all(status.updated_replicas) && all(status.ready_replicas) && status.replicas == wanted
        {
            status.current_replicas = status.updated_replicas;
            status.current_revision.clone_from(&status.update_revision);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    struct Sim {
        set: StatefulSet,
        pods: Vec<Pod>,
        revisions: Vec<String>,
    }

    impl Sim {
        fn new(spec: Value) -> Self {
            let mut whole = json!({"selector": {"matchLabels": {"a": "b"}}, "serviceName": "svc",
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}});
            whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            let set = serde_json::from_value(
                json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": whole}),
            )
            .unwrap();
            Self { set, pods: Vec::new(), revisions: vec!["web-1".into()] }
        }

        fn step(&mut self) -> Plan {
            let template = self.set.spec.clone().unwrap().template;
            let update = self.revisions.last().unwrap().clone();
            let current =
                self.set.status.as_ref().and_then(|s| s.current_revision.clone()).unwrap_or(update.clone());
            let seen = Seen {
                set: self.set.clone(),
                pods: self.pods.iter().cloned().map(Arc::new).collect(),
                current: (current, template.clone()),
                update: (update, template),
            };
            let plan = plan(&seen, Timestamp::now());
            self.set.status = Some(plan.status.clone());
            self.pods.retain(|p| !plan.delete.iter().any(|d| d.metadata.name == p.metadata.name));
            for mut pod in plan.create.clone() {
                pod.metadata.uid = pod.metadata.name.clone();
                pod.status.get_or_insert_default().phase = Some("Pending".into());
                self.pods.push(pod);
            }
            plan
        }

        fn up(&mut self, name: &str, phase: &str) {
            let pod = self.pods.iter_mut().find(|p| p.metadata.name.as_deref() == Some(name)).unwrap();
            pod.status = serde_json::from_value(json!({"phase": phase, "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}))
            .unwrap();
        }

        fn all_up(&mut self) {
            for name in self.names() {
                self.up(&name, "Running");
            }
        }

        fn settle(&mut self) {
            for _ in 0..50 {
                let before = (self.set.clone(), self.pods.clone());
                self.step();
                self.all_up();
                if before == (self.set.clone(), self.pods.clone()) {
                    return;
                }
            }
            panic!("never settles");
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> = self.pods.iter().map(|p| p.metadata.name.clone().unwrap()).collect();
            names.sort();
            names
        }

        fn revisions(&self) -> Vec<&str> {
            let mut pods: Vec<_> = self.pods.iter().collect();
            pods.sort_by_key(|p| p.metadata.name.clone());
            pods.into_iter().map(revision_of).collect()
        }

        fn status(&self) -> StatefulSetStatus {
            self.set.status.clone().unwrap()
        }
    }

    #[test]
    fn pods_come_in_order_and_go_in_reverse() {
        let mut sim = Sim::new(json!({"replicas": 3}));
        sim.step();
        assert_eq!(sim.names(), ["web-0"]);
        assert!(sim.step().create.is_empty(), "web-0 is not ready");
        sim.up("web-0", "Running");
        sim.step();
        assert_eq!(sim.names(), ["web-0", "web-1"]);
        sim.settle();
        let status = sim.status();
        assert_eq!(
            (status.replicas, status.ready_replicas, status.current_replicas, status.updated_replicas),
            (3, Some(3), Some(3), Some(3))
        );
        sim.set.spec.as_mut().unwrap().replicas = Some(1);
        sim.step();
        assert_eq!(sim.names(), ["web-0", "web-1"]);
        sim.up("web-0", "Pending");
        assert!(sim.step().delete.is_empty(), "scaling down halts while a pod is unhealthy");
        sim.settle();
        assert_eq!(sim.names(), ["web-0"]);
    }

    #[test]
    fn parallel_waits_for_nobody() {
        let mut sim =
            Sim::new(json!({"replicas": 3, "podManagementPolicy": "Parallel", "ordinals": {"start": 5}}));
        sim.step();
        assert_eq!(sim.names(), ["web-5", "web-6", "web-7"]);
    }

    #[test]
    fn ended_pods_are_replaced() {
        for phase in ["Failed", "Succeeded"] {
            let mut sim = Sim::new(json!({"replicas": 2}));
            sim.settle();
            sim.up("web-0", phase);
            sim.step();
            assert_eq!(sim.names(), ["web-1"]);
            sim.step();
            assert_eq!(sim.names(), ["web-0", "web-1"]);
        }
    }

    #[test]
    fn updates_go_from_the_top_one_by_one_down_to_the_partition() {
        let mut sim = Sim::new(
            json!({"replicas": 3, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}),
        );
        sim.settle();
        sim.revisions.push("web-2".into());
        assert_eq!(sim.step().delete[0].metadata.name.as_deref(), Some("web-2"));
        sim.step();
        assert_eq!(sim.revisions(), ["web-1", "web-1", "web-2"]);
        assert!(sim.step().delete.is_empty(), "the new pod is not ready");
        sim.settle();
        assert_eq!(sim.revisions(), ["web-1", "web-2", "web-2"]);
        let status = sim.status();
        assert_eq!(
            (status.current_revision.as_deref(), status.current_replicas, status.updated_replicas),
            (Some("web-1"), Some(1), Some(2))
        );
        // A pod below the partition comes back as it was.
        sim.pods.retain(|p| p.metadata.name.as_deref() != Some("web-0"));
        sim.settle();
        assert_eq!(sim.revisions(), ["web-1", "web-2", "web-2"]);
        let strategy = sim.set.spec.as_mut().unwrap().update_strategy.as_mut().unwrap();
        strategy.rolling_update.as_mut().unwrap().partition = Some(0);
        sim.settle();
        assert_eq!(sim.revisions(), ["web-2", "web-2", "web-2"]);
        assert_eq!(sim.status().current_revision.as_deref(), Some("web-2"));
    }

    #[test]
    fn on_delete_leaves_pods_alone() {
        let mut sim = Sim::new(json!({"replicas": 2, "updateStrategy": {"type": "OnDelete"}}));
        sim.settle();
        sim.revisions.push("web-2".into());
        sim.settle();
        assert_eq!(sim.revisions(), ["web-1", "web-1"]);
        sim.pods.retain(|p| p.metadata.name.as_deref() != Some("web-1"));
        sim.settle();
        assert_eq!(sim.revisions(), ["web-1", "web-2"]);
    }

    #[test]
    fn pods_have_their_name_labels_and_claims() {
        let mut sim = Sim::new(
            json!({"replicas": 1, "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}),
        );
        let pod = sim.step().create.remove(0);
        let claims = identity::claims(&sim.set, &pod);
        assert_eq!(claims[0].metadata.name.as_deref(), Some("data-web-0"));
        let pod = serde_json::to_value(&pod).unwrap();
        assert_eq!(
            pod["spec"]["volumes"],
            json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}}])
        );
        assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("web-0"), &json!("svc")));
        assert_eq!(
            pod["metadata"]["labels"],
            json!({"a": "b", "controller-revision-hash": "web-1", "statefulset.kubernetes.io/pod-name": "web-0", "apps.kubernetes.io/pod-index": "0"})
        );
    }
}
