use serde_json::json;

use super::*;
use crate::actual::Sandbox;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("time")
}

fn pod(policy: &str, inits: serde_json::Value, containers: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"restartPolicy": policy, "initContainers": inits, "containers": containers},
    }))
    .expect("pod")
}

fn app(name: &str) -> serde_json::Value {
    json!({"name": name, "image": "i"})
}

fn sandbox(attempt: u32, ready: bool) -> Sandbox {
    Sandbox {
        id: format!("s{attempt}"),
        attempt,
        ready,
        ips: vec!["10.0.0.2".into()],
        created_at: at(i64::from(attempt) + 1),
        host_network: false,
    }
}

fn record(name: &str, sandbox: &str, phase: Phase, exit_code: i32) -> ContainerRecord {
    ContainerRecord {
        id: format!("{name}-{sandbox}"),
        name: name.into(),
        sandbox: sandbox.into(),
        phase,
        restart_count: 0,
        hash: labels::container_hash(name, "i"),
        created_at: at(5),
        started_at: Some(at(6)),
        finished_at: (phase == Phase::Exited).then(|| at(10)),
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "i".into(),
        image_id: String::new(),
        log_path: String::new(),
        termination_file: None,
        annotations: Default::default(),
    }
}

#[derive(Default)]
struct Case {
    memory: BTreeMap<String, Memory>,
    unhealthy: BTreeMap<String, Unhealthy>,
    started: BTreeSet<String>,
    busy: BTreeSet<String>,
    ending: bool,
}

impl Case {
    fn plan(&self, pod: &Pod, sandboxes: Vec<Sandbox>, containers: Vec<ContainerRecord>) -> Plan {
        let actual = PodRuntime { sandboxes, containers, ..Default::default() };
        plan(&Seen {
            pod,
            actual: &actual,
            memory: &self.memory,
            unhealthy: &self.unhealthy,
            started: &self.started,
            busy: &self.busy,
            ending: self.ending,
            now: at(12),
        })
    }
}

fn starts(plan: &Plan) -> Option<&str> {
    plan.start.as_ref().map(|start| start.name.as_str())
}

fn kills(plan: &Plan) -> Vec<&str> {
    plan.kill.iter().map(|kill| kill.name.as_str()).collect()
}

#[test]
fn a_new_pod_gets_a_sandbox_first() {
    let plan = Case::default().plan(&pod("Always", json!([]), json!([app("a")])), vec![], vec![]);
    assert_eq!(plan.sandbox, SandboxStep::Create { attempt: 0, replaces: false });
    assert_eq!(starts(&plan), None);
}

#[test]
fn init_containers_run_one_after_the_other() {
    let pod = pod("Always", json!([app("i1"), app("i2")]), json!([app("a")]));
    let case = Case::default();
    assert_eq!(starts(&case.plan(&pod, vec![sandbox(0, true)], vec![])), Some("i1"));
    let running = case.plan(&pod, vec![sandbox(0, true)], vec![record("i1", "s0", Phase::Running, 0)]);
    assert_eq!(starts(&running), None);
    let first_done = vec![record("i1", "s0", Phase::Exited, 0)];
    assert_eq!(starts(&case.plan(&pod, vec![sandbox(0, true)], first_done)), Some("i2"));
    let both_done = vec![record("i1", "s0", Phase::Exited, 0), record("i2", "s0", Phase::Exited, 0)];
    assert_eq!(starts(&case.plan(&pod, vec![sandbox(0, true)], both_done)), Some("a"));
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let containers = vec![record("i1", "s0", Phase::Exited, 1)];
    let never = pod("Never", json!([app("i1")]), json!([app("a")]));
    let ended = Case::default().plan(&never, vec![sandbox(0, true)], containers.clone());
    assert!(ended.finished);
    assert_eq!(ended.sandbox, SandboxStep::Stop);
    let always = pod("Always", json!([app("i1")]), json!([app("a")]));
    assert_eq!(starts(&Case::default().plan(&always, vec![sandbox(0, true)], containers)), Some("i1"));
}

#[test]
fn a_sidecar_holds_back_what_follows_until_it_has_started() {
    let side = json!({"name": "side", "image": "i", "restartPolicy": "Always"});
    let pod = pod("Never", json!([side]), json!([app("a")]));
    let running = || vec![record("side", "s0", Phase::Running, 0)];
    assert_eq!(starts(&Case::default().plan(&pod, vec![sandbox(0, true)], running())), None);
    let started = Case { started: BTreeSet::from(["side-s0".to_owned()]), ..Default::default() };
    assert_eq!(starts(&started.plan(&pod, vec![sandbox(0, true)], running())), Some("a"));
}

#[test]
fn sidecars_stop_after_the_work_is_done() {
    let side = |name: &str| json!({"name": name, "image": "i", "restartPolicy": "Always"});
    let pod = pod("Never", json!([side("s1"), side("s2")]), json!([app("a")]));
    let case = Case { started: ["s1-s0", "s2-s0"].map(String::from).into(), ..Default::default() };
    let mut containers = vec![
        record("s1", "s0", Phase::Running, 0),
        record("s2", "s0", Phase::Running, 0),
        record("a", "s0", Phase::Exited, 0),
    ];
    let plan = case.plan(&pod, vec![sandbox(0, true)], containers.clone());
    assert!(plan.finished);
    assert_eq!(kills(&plan), ["s2"]);
    containers[1].phase = Phase::Exited;
    assert_eq!(kills(&case.plan(&pod, vec![sandbox(0, true)], containers.clone())), ["s1"]);
    containers[0].phase = Phase::Exited;
    assert_eq!(case.plan(&pod, vec![sandbox(0, true)], containers).sandbox, SandboxStep::Stop);
}

#[test]
fn restart_policies_decide_after_an_exit() {
    let check = |policy: &str, exit_code: i32, again: bool| {
        let containers = vec![record("a", "s0", Phase::Exited, exit_code)];
        let plan = Case::default().plan(
            &pod(policy, json!([]), json!([app("a")])),
            vec![sandbox(0, true)],
            containers,
        );
        assert_eq!((starts(&plan).is_some(), plan.finished), (again, !again), "{policy} {exit_code}");
    };
    check("Always", 0, true);
    check("Always", 1, true);
    check("OnFailure", 0, false);
    check("OnFailure", 1, true);
    check("Never", 0, false);
    check("Never", 1, false);
}

#[test]
fn a_crashing_container_waits_in_upstreams_words() {
    let mut memory = Memory::default();
    memory.crash.advance(at(1), at(1));
    let case = Case { memory: BTreeMap::from([("a".to_owned(), memory)]), ..Default::default() };
    let containers = vec![record("a", "s0", Phase::Exited, 1)];
    let plan = case.plan(&pod("Always", json!([]), json!([app("a")])), vec![sandbox(0, true)], containers);
    assert_eq!(starts(&plan), None);
    assert_eq!(plan.wake_at, Some(at(20)));
    assert_eq!(plan.waits[0].reason, "CrashLoopBackOff");
    assert_eq!(plan.waits[0].message, "back-off 10s restarting failed container=a pod=p_n(u)");
}

#[test]
fn an_unhealthy_container_is_killed_once() {
    let mut case =
        Case { unhealthy: BTreeMap::from([("a-s0".to_owned(), Unhealthy::Liveness)]), ..Default::default() };
    let pod = pod("Always", json!([]), json!([app("a")]));
    let containers = || vec![record("a", "s0", Phase::Running, 0)];
    let plan = case.plan(&pod, vec![sandbox(0, true)], containers());
    assert_eq!(plan.kill[0].message, "Container a failed liveness probe, will be restarted");
    case.busy.insert("a".into());
    assert!(case.plan(&pod, vec![sandbox(0, true)], containers()).kill.is_empty());
}

#[test]
fn a_changed_image_restarts_the_container() {
    let pod = pod("Always", json!([]), json!([{"name": "a", "image": "other"}]));
    let plan = Case::default().plan(&pod, vec![sandbox(0, true)], vec![record("a", "s0", Phase::Running, 0)]);
    assert_eq!(plan.kill[0].message, "Container a definition changed, will be restarted");
}

#[test]
fn a_lost_sandbox_is_replaced_and_counts_up() {
    let pod = pod("Always", json!([]), json!([app("a")]));
    let plan =
        Case::default().plan(&pod, vec![sandbox(3, false)], vec![record("a", "s3", Phase::Exited, 137)]);
    assert_eq!(plan.sandbox, SandboxStep::Create { attempt: 4, replaces: true });
    let next = Case::default().plan(
        &pod,
        vec![sandbox(4, true), sandbox(3, false)],
        vec![record("a", "s3", Phase::Exited, 137)],
    );
    assert_eq!(next.start, Some(Start { name: "a".into(), restart_count: 1, failed_at: Some(at(10)) }));
}

#[test]
fn a_finished_pod_is_not_revived_when_its_sandbox_goes() {
    let pod = pod("OnFailure", json!([]), json!([app("a")]));
    let plan = Case::default().plan(&pod, vec![sandbox(0, false)], vec![record("a", "s0", Phase::Exited, 0)]);
    assert!(plan.finished);
    assert_eq!(plan.sandbox, SandboxStep::Keep);
}

#[test]
fn an_ending_pod_stops_all_then_its_sandbox() {
    let case = Case { ending: true, ..Default::default() };
    let pod = pod("Always", json!([]), json!([app("a"), app("b")]));
    let running = vec![record("a", "s0", Phase::Running, 0), record("b", "s0", Phase::Running, 0)];
    assert_eq!(kills(&case.plan(&pod, vec![sandbox(0, true)], running)), ["a", "b"]);
    let stopped = vec![record("a", "s0", Phase::Exited, 0), record("b", "s0", Phase::Exited, 0)];
    assert_eq!(case.plan(&pod, vec![sandbox(0, true)], stopped).sandbox, SandboxStep::Stop);
}

#[test]
fn exit_code_rules_of_a_container_come_before_policy() {
    let rule = json!({"name": "a", "image": "i", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]});
    let pod = pod("Never", json!([]), json!([rule]));
    let (role, container) = pod.container("a").expect("container");
    assert!(restarts_after(&pod, role, container, 42));
    assert!(!restarts_after(&pod, role, container, 1));
}
