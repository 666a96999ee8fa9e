use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, DeploymentStrategy, ReplicaSet,
    ReplicaSetStatus, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::revision::{self, DESIRED_REPLICAS, HASH_LABEL, MAX_REPLICAS, REVISION};
use super::rollout::{Plan, Seen, plan};
use super::scale::{resolve, wanted};
use crate::framework::Next;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn deployment(image: &str, replicas: i32, surge: &str, unavailable: &str) -> Deployment {
    let bound = |text: &str| text.parse().map_or_else(|_| IntOrString::String(text.into()), IntOrString::Int);
    let labels = Some([("app".to_owned(), "web".to_owned())].into());
    let container = Container { name: "c".into(), image: Some(image.into()), ..Container::default() };
    Deployment {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("ns".into()),
            uid: Some("d-uid".into()),
            generation: Some(1),
            ..ObjectMeta::default()
        },
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            selector: LabelSelector { match_labels: labels.clone(), match_expressions: None },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels, ..ObjectMeta::default() }),
                spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
            },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(bound(surge)),
                    max_unavailable: Some(bound(unavailable)),
                }),
            }),
            progress_deadline_seconds: Some(600),
            revision_history_limit: Some(10),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// A little cluster: what the controller writes, and pods that come up as told.
struct Sim {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    clock: i64,
    events: Vec<String>,
}

impl Sim {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: Vec::new(), clock: 0, events: Vec::new() }
    }

    fn step(&mut self) -> Plan {
        self.clock += 1;
        let old_pods_running = {
            let new = revision::find_new(&self.deployment, &self.sets).map(|s| s.metadata.uid.clone());
            self.sets.iter().any(|s| Some(&s.metadata.uid) != new.as_ref() && replicas_of(s) > 0)
        };
        let seen = Seen { deployment: self.deployment.clone(), sets: self.sets.clone(), old_pods_running };
        let plan = plan(&seen, at(self.clock));
        self.deployment = plan.deployment.clone();
        for set in &plan.update {
            let old = self.sets.iter_mut().find(|s| s.metadata.uid == set.metadata.uid).unwrap();
            *old = set.clone();
        }
        self.sets.retain(|s| !plan.delete.iter().any(|d| d.metadata.uid == s.metadata.uid));
        if let Some(mut made) = plan.create.clone() {
            made.metadata.uid = Some(format!("rs-{}", self.clock));
            made.metadata.creation_timestamp = Some(Time(at(self.clock)));
            self.sets.push(made);
        }
        self.events.extend(plan.events.clone());
        plan
    }

    /// All wanted pods exist; those of the sets in `broken` never get available.
    fn pods_follow(&mut self, broken: &[&str]) {
        for set in &mut self.sets {
            let size = wanted(set);
            let name = set.metadata.uid.clone().unwrap();
            let up = if broken.contains(&&*name) { 0 } else { size };
            set.status = Some(ReplicaSetStatus {
                replicas: size,
                ready_replicas: Some(up),
                available_replicas: Some(up),
                observed_generation: set.metadata.generation,
                ..ReplicaSetStatus::default()
            });
        }
    }

    /// Steps until nothing changes any more, checking the promise on the way. Returns sizes after each step.
    fn settle(&mut self, least: i32, most: i32) -> Vec<Vec<i32>> {
        let mut seen = Vec::new();
        for _ in 0..100 {
            let before = self.deployment.clone();
            let plan = self.step();
            self.pods_follow(&[]);
            let sizes: Vec<i32> = self.sets.iter().map(wanted).collect();
            let all: i32 = sizes.iter().sum();
            assert!(all <= most && all >= least, "{least}..={most}: {sizes:?}");
            let wrote = plan.create.is_some() || !plan.update.is_empty() || !plan.delete.is_empty();
            if !wrote && self.deployment == before && plan.next == Next::Rest {
                return seen;
            }
            seen.push(sizes);
        }
        panic!("never settles: {seen:?}");
    }

    fn condition(&self, ty: &str) -> Option<&DeploymentCondition> {
        self.deployment.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == ty)
    }

    fn reason(&self, ty: &str) -> &str {
        self.condition(ty).and_then(|c| c.reason.as_deref()).unwrap_or("")
    }

    fn set_image(&mut self, image: &str) {
        let template = &mut self.deployment.spec.as_mut().unwrap().template;
        template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }
}

fn replicas_of(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |s| s.replicas)
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> &'a str {
    meta.annotations.as_ref().and_then(|a| a.get(key)).map_or("", String::as_str)
}

#[test]
fn the_first_rollout_makes_one_numbered_set() {
    let mut sim = Sim::new(deployment("a", 3, "25%", "25%"));
    sim.deployment.metadata.annotations =
        Some([("kubernetes.io/change-cause".to_owned(), "why".to_owned())].into());
    let first = sim.step();
    let made = first.create.unwrap();
    let hash = made.metadata.labels.as_ref().unwrap()[HASH_LABEL].clone();
    assert_eq!(made.metadata.name.as_deref(), Some(&*format!("web-{hash}")));
    let spec = made.spec.as_ref().unwrap();
    assert_eq!(spec.selector.match_labels.as_ref().unwrap()[HASH_LABEL], hash);
    assert_eq!(
        spec.template.as_ref().unwrap().metadata.as_ref().unwrap().labels.as_ref().unwrap()[HASH_LABEL],
        hash
    );
    assert_eq!(annotation(&made.metadata, REVISION), "1");
    assert_eq!(annotation(&made.metadata, DESIRED_REPLICAS), "3");
    assert_eq!(annotation(&made.metadata, MAX_REPLICAS), "4");
    assert_eq!(annotation(&made.metadata, "kubernetes.io/change-cause"), "why");
    assert_eq!(annotation(&sim.deployment.metadata, REVISION), "1");
    assert_eq!(sim.events, [format!("Scaled up replica set web-{hash} from 0 to 3")]);
    assert_eq!(sim.reason("Progressing"), "NewReplicaSetCreated");
    assert_eq!(sim.reason("Available"), "MinimumReplicasUnavailable");

    sim.pods_follow(&[]);
    sim.settle(3, 3);
    assert_eq!(sim.reason("Progressing"), "NewReplicaSetAvailable");
    assert_eq!(sim.reason("Available"), "MinimumReplicasAvailable");
    let status = sim.deployment.status.clone().unwrap();
    assert_eq!(
        (status.replicas, status.updated_replicas, status.unavailable_replicas),
        (Some(3), Some(3), None)
    );
    let again = sim.step();
    assert_eq!(again.deployment.status, Some(status), "settled means nothing to write");
}

#[test]
fn rolling_updates_stay_within_their_bounds() {
    // replicas, surge, unavailable, fewest and most wanted on the way
    for (replicas, surge, unavailable, least, most) in [
        (10, "25%", "25%", 8, 13),
        (10, "3", "0", 10, 13),
        (10, "0", "3", 7, 10),
        (10, "0", "0", 9, 10),
        (1, "25%", "25%", 1, 2),
        (4, "100%", "0", 4, 8),
    ] {
        let mut sim = Sim::new(deployment("a", replicas, surge, unavailable));
        sim.settle(0, replicas);
        sim.set_image("b");
        let steps = sim.settle(least, most);
        assert_eq!(sim.sets.iter().map(wanted).collect::<Vec<_>>(), [0, replicas], "{steps:?}");
        assert_eq!(annotation(&sim.deployment.metadata, REVISION), "2");
        assert_eq!(sim.reason("Progressing"), "NewReplicaSetAvailable");
    }
}

#[test]
fn rolling_back_renumbers_the_old_set_and_remembers() {
    let mut sim = Sim::new(deployment("a", 2, "1", "0"));
    sim.settle(0, 2);
    sim.set_image("b");
    sim.settle(2, 3);
    sim.set_image("a");
    sim.settle(2, 3);
    assert_eq!(sim.sets.len(), 2);
    assert_eq!(wanted(&sim.sets[0]), 2);
    assert_eq!(annotation(&sim.sets[0].metadata, REVISION), "3");
    assert_eq!(annotation(&sim.sets[0].metadata, "deployment.kubernetes.io/revision-history"), "1");
    assert_eq!(annotation(&sim.deployment.metadata, REVISION), "3");
}

#[test]
fn a_huge_adopted_revision_is_counted_on() {
    let mut sim = Sim::new(deployment("a", 1, "1", "0"));
    sim.settle(0, 1);
    let huge = (REVISION.to_owned(), "3546343826724305832".to_owned());
    sim.sets[0].metadata.annotations.as_mut().unwrap().extend([huge]);
    sim.set_image("b");
    sim.settle(1, 2);
    assert_eq!(annotation(&sim.sets[1].metadata, REVISION), "3546343826724305833");
}

#[test]
fn a_stuck_rollout_keeps_the_old_pods_and_times_out() {
    let mut sim = Sim::new(deployment("a", 4, "1", "1"));
    sim.settle(0, 4);
    sim.set_image("bad");
    sim.step();
    let bad = sim.sets[1].metadata.uid.clone().unwrap();
    let mut last = Next::Rest;
    for _ in 0..10 {
        sim.pods_follow(&[&bad]);
        last = sim.step().next;
    }
    assert_eq!(sim.sets.iter().map(wanted).collect::<Vec<_>>(), [3, 2]);
    assert!(matches!(last, Next::After(d) if d.as_secs() <= 601), "{last:?}");
    sim.clock += 700;
    sim.step();
    assert_eq!(sim.reason("Progressing"), "ProgressDeadlineExceeded");
    assert_eq!(sim.condition("Progressing").unwrap().status, "False");
    let update = sim.step();
    assert_eq!(update.next, Next::Rest);
    // Unhealthy pods of old templates go before healthy ones.
    sim.set_image("c");
    sim.step();
    sim.pods_follow(&[&bad]);
    sim.step();
    assert!(
        wanted(&sim.sets[1]) < 2 && wanted(&sim.sets[0]) == 3,
        "{:?}",
        sim.sets.iter().map(wanted).collect::<Vec<_>>()
    );
}

#[test]
fn resizing_during_a_rollout_shares_proportionally() {
    let mut sim = Sim::new(deployment("a", 10, "3", "2"));
    sim.settle(0, 10);
    sim.set_image("b");
    sim.step();
    let bad = sim.sets[1].metadata.uid.clone().unwrap();
    for _ in 0..5 {
        sim.pods_follow(&[&bad]);
        sim.step();
    }
    assert_eq!(sim.sets.iter().map(wanted).collect::<Vec<_>>(), [8, 5]);
    sim.deployment.spec.as_mut().unwrap().replicas = Some(15);
    sim.step();
    // 18 in all: 5 more, shared as 8 to 5.
    assert_eq!(sim.sets.iter().map(wanted).collect::<Vec<_>>(), [11, 7]);
    assert_eq!(annotation(&sim.sets[0].metadata, DESIRED_REPLICAS), "15");
    assert_eq!(annotation(&sim.sets[1].metadata, MAX_REPLICAS), "18");
}

#[test]
fn recreate_waits_until_the_old_pods_are_gone() {
    let mut d = deployment("a", 3, "1", "0");
    d.spec.as_mut().unwrap().strategy =
        Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None });
    let mut sim = Sim::new(d);
    sim.settle(0, 3);
    sim.set_image("b");
    sim.step();
    assert_eq!(sim.sets.iter().map(wanted).collect::<Vec<_>>(), [0]);
    assert!(sim.step().create.is_none(), "pods of the old set still run");
    sim.pods_follow(&[]);
    assert_eq!(wanted(&sim.step().create.unwrap()), 3);
}

#[test]
fn paused_scales_but_does_not_roll() {
    let mut sim = Sim::new(deployment("a", 3, "1", "0"));
    sim.settle(0, 3);
    sim.set_image("b");
    sim.deployment.spec.as_mut().unwrap().paused = Some(true);
    sim.deployment.spec.as_mut().unwrap().replicas = Some(5);
    sim.step();
    assert_eq!(sim.sets.iter().map(wanted).collect::<Vec<_>>(), [5]);
    assert_eq!(sim.reason("Progressing"), "DeploymentPaused");
    sim.deployment.spec.as_mut().unwrap().paused = Some(false);
    sim.pods_follow(&[]);
    sim.step();
    assert_eq!(sim.sets.len(), 2);
}

#[test]
fn history_beyond_the_limit_goes() {
    let mut sim = Sim::new(deployment("a", 1, "1", "0"));
    sim.deployment.spec.as_mut().unwrap().revision_history_limit = Some(1);
    for image in ["a", "b", "c", "d"] {
        sim.set_image(image);
        sim.settle(0, 2);
    }
    let revisions: Vec<_> = sim.sets.iter().map(|s| annotation(&s.metadata, REVISION)).collect();
    assert_eq!(revisions, ["3", "4"]);
}

#[test]
fn failures_of_a_set_are_told_and_foreign_conditions_kept() {
    let mut sim = Sim::new(deployment("a", 1, "1", "0"));
    let foreign =
        DeploymentCondition { type_: "Mine".into(), status: "True".into(), ..DeploymentCondition::default() };
    sim.deployment.status =
        Some(DeploymentStatus { conditions: Some(vec![foreign]), ..DeploymentStatus::default() });
    sim.step();
    sim.sets[0].status = Some(
        serde_json::from_value(serde_json::json!({"replicas": 0, "conditions": [
            {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}]}))
        .unwrap(),
    );
    sim.step();
    assert_eq!(sim.reason("ReplicaFailure"), "FailedCreate");
    assert!(sim.condition("Mine").is_some());
    sim.pods_follow(&[]);
    sim.step();
    assert!(sim.condition("ReplicaFailure").is_none() && sim.condition("Mine").is_some());
}

#[test]
fn percentages_round_as_told() {
    for (text, of, up, down) in [("25%", 10, 3, 2), ("0%", 10, 0, 0), ("100%", 3, 3, 3), ("33%", 3, 1, 0)] {
        let value = IntOrString::String(text.into());
        assert_eq!(
            (resolve(Some(&value), of, true), resolve(Some(&value), of, false)),
            (up, down),
            "{text} of {of}"
        );
    }
}
