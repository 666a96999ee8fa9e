use serde_json::{Value, json};

use super::*;
use crate::actual::Sandbox;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("time")
}

fn record(name: &str, phase: Phase, exit_code: i32, restart_count: i32) -> ContainerRecord {
    ContainerRecord {
        id: format!("{name}{restart_count}"),
        name: name.into(),
        sandbox: "s".into(),
        phase,
        restart_count,
        hash: String::new(),
        created_at: at(5),
        started_at: Some(at(6)),
        finished_at: (phase == Phase::Exited).then(|| at(10)),
        exit_code,
        reason: if exit_code == 0 { "Completed".into() } else { "Error".into() },
        message: String::new(),
        image: "i:1".into(),
        image_id: "sha256:1".into(),
        log_path: String::new(),
        termination_file: None,
        annotations: Default::default(),
    }
}

struct Case {
    pod: Pod,
    actual: PodRuntime,
    memory: BTreeMap<String, Memory>,
    ready: BTreeSet<String>,
    terminal: bool,
    verdict: Option<Verdict>,
}

impl Case {
    fn new(policy: &str, inits: Value, status: Value) -> Case {
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3},
            "spec": {"restartPolicy": policy, "initContainers": inits, "containers": [{"name": "a", "image": "i:1"}]},
            "status": status,
        }))
        .expect("pod");
        Case {
            pod,
            actual: PodRuntime::default(),
            memory: BTreeMap::new(),
            ready: BTreeSet::new(),
            terminal: false,
            verdict: None,
        }
    }

    fn sandbox(mut self) -> Case {
        self.actual.sandboxes = vec![Sandbox {
            id: "s".into(),
            attempt: 0,
            ready: true,
            ips: vec!["10.0.0.2".into()],
            created_at: at(4),
            host_network: false,
        }];
        self
    }

    fn with(mut self, records: Vec<ContainerRecord>) -> Case {
        self.actual.containers = records;
        self
    }

    fn generate(&self) -> PodStatus {
        let started = self.actual.running().map(|record| record.id.clone()).collect();
        generate(&Seen {
            pod: &self.pod,
            actual: &self.actual,
            memory: &self.memory,
            ready: &self.ready,
            started: &started,
            terminal: self.terminal,
            verdict: self.verdict.as_ref(),
            host_ips: &["192.0.2.1".parse().expect("ip")],
            now: at(100),
        })
    }
}

fn condition(status: &PodStatus, kind: &str) -> (String, String, String) {
    let found =
        status.conditions.iter().flatten().find(|condition| condition.type_ == kind).expect("condition");
    (
        found.status.clone(),
        found.reason.clone().unwrap_or_default(),
        found.message.clone().unwrap_or_default(),
    )
}

fn holds(status: &str, reason: &str, message: &str) -> (String, String, String) {
    (status.into(), reason.into(), message.into())
}

fn app(status: &PodStatus) -> &ContainerStatus {
    &status.container_statuses.as_ref().expect("statuses")[0]
}

fn waiting(status: &ContainerStatus) -> Option<&str> {
    status.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

#[test]
fn a_new_pod_is_pending_and_says_why() {
    let status = Case::new("Always", json!([]), json!({})).generate();
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(waiting(app(&status)), Some("ContainerCreating"));
    assert_eq!(condition(&status, "PodReadyToStartContainers").0, "False");
    assert_eq!(condition(&status, "Initialized").0, "True");
    let unready = holds("False", "ContainersNotReady", "containers with unready status: [a]");
    assert_eq!(condition(&status, "Ready"), unready);
    assert_eq!(condition(&status, "ContainersReady"), unready);
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.1"));
}

#[test]
fn a_running_ready_pod() {
    let mut case =
        Case::new("Always", json!([]), json!({})).sandbox().with(vec![record("a", Phase::Running, 0, 0)]);
    assert_eq!(case.generate().phase.as_deref(), Some("Running"));
    assert_eq!(condition(&case.generate(), "Ready").0, "False");
    case.ready.insert("a0".into());
    let status = case.generate();
    assert_eq!(condition(&status, "Ready"), holds("True", "", ""));
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.2"));
    assert_eq!(app(&status).container_id.as_deref(), Some("containerd://a0"));
    assert_eq!((app(&status).ready, app(&status).started), (true, Some(true)));
}

#[test]
fn init_containers_hold_back_the_rest() {
    let inits = json!([{"name": "i1", "image": "i"}, {"name": "i2", "image": "i"}]);
    let case = Case::new("Always", inits, json!({})).sandbox().with(vec![record("i1", Phase::Exited, 0, 0)]);
    let status = case.generate();
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(
        condition(&status, "Initialized"),
        holds("False", "ContainersNotInitialized", "containers with incomplete status: [i2]")
    );
    assert_eq!(waiting(app(&status)), Some("PodInitializing"));
    let inits = status.init_container_statuses.expect("inits");
    assert!(inits[0].ready);
    assert_eq!(waiting(&inits[1]), Some("PodInitializing"));
}

#[test]
fn a_crashing_container_waits_with_its_last_end() {
    let mut case = Case::new("Always", json!([]), json!({}))
        .sandbox()
        .with(vec![record("a", Phase::Exited, 1, 1), record("a", Phase::Exited, 2, 0)]);
    let before = case.generate();
    assert_eq!(
        app(&before).state.as_ref().and_then(|state| state.terminated.as_ref()).map(|end| end.exit_code),
        Some(1)
    );
    assert_eq!(before.phase.as_deref(), Some("Running"));
    let memory =
        Memory { waiting: Some(("CrashLoopBackOff".into(), "back-off".into())), ..Default::default() };
    case.memory.insert("a".into(), memory);
    let status = case.generate();
    assert_eq!(waiting(app(&status)), Some("CrashLoopBackOff"));
    let last = app(&status).last_state.as_ref().and_then(|state| state.terminated.as_ref()).expect("last");
    assert_eq!((last.exit_code, app(&status).restart_count), (1, 1));
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn ends_are_told_by_policy_and_exit_code() {
    let check = |policy: &str, exit_code: i32, terminal: bool, expect: &str| {
        let mut case = Case::new(policy, json!([]), json!({})).sandbox().with(vec![record(
            "a",
            Phase::Exited,
            exit_code,
            0,
        )]);
        case.terminal = terminal;
        assert_eq!(case.generate().phase.as_deref(), Some(expect), "{policy} {exit_code} {terminal}");
    };
    check("Never", 0, true, "Succeeded");
    check("Never", 1, true, "Failed");
    check("OnFailure", 0, true, "Succeeded");
    check("OnFailure", 1, false, "Running");
    check("Always", 0, false, "Running");
    check("Always", 0, true, "Succeeded");
    check("Always", 137, true, "Failed");
}

#[test]
fn completed_pods_keep_their_address_and_say_so() {
    let mut case = Case::new(
        "Never",
        json!([]),
        json!({"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}], "phase": "Running"}),
    )
    .with(vec![record("a", Phase::Exited, 0, 0)]);
    case.terminal = true;
    let status = case.generate();
    assert_eq!(condition(&status, "Ready"), holds("False", "PodCompleted", ""));
    assert_eq!(condition(&status, "Initialized"), holds("True", "PodCompleted", ""));
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.9"));
    case.actual.containers[0].exit_code = 1;
    assert_eq!(condition(&case.generate(), "ContainersReady"), holds("False", "PodFailed", ""));
}

#[test]
fn a_deadline_fails_the_pod_once_nothing_runs() {
    let mut case = Case::new("Always", json!([]), json!({"phase": "Running"})).sandbox().with(vec![record(
        "a",
        Phase::Running,
        0,
        0,
    )]);
    case.verdict =
        Some(Verdict { reason: "DeadlineExceeded".into(), message: "m".into(), disruption: false });
    assert_eq!(case.generate().phase.as_deref(), Some("Running"));
    case.actual.containers[0].phase = Phase::Exited;
    case.terminal = true;
    let status = case.generate();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
}

#[test]
fn a_lost_container_is_counted_and_restart_counts_never_fall() {
    let known = json!({"containerStatuses": [{"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 4,
        "containerID": "containerd://gone", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]});
    let status = Case::new("Always", json!([]), known.clone()).sandbox().generate();
    assert_eq!(app(&status).restart_count, 5);
    let last = app(&status).last_state.as_ref().and_then(|state| state.terminated.as_ref()).expect("last");
    assert_eq!((last.exit_code, last.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
    let rerun = Case::new("Always", json!([]), known).sandbox().with(vec![record("a", Phase::Running, 0, 0)]);
    assert_eq!(app(&rerun.generate()).restart_count, 4);
}

#[test]
fn readiness_gates_hold_back_ready_alone() {
    let mut case =
        Case::new("Always", json!([]), json!({})).sandbox().with(vec![record("a", Phase::Running, 0, 0)]);
    case.ready.insert("a0".into());
    case.pod.spec.get_or_insert_default().readiness_gates =
        Some(vec![k8s_openapi::api::core::v1::PodReadinessGate { condition_type: "x/y".into() }]);
    let status = case.generate();
    assert_eq!(condition(&status, "ContainersReady").0, "True");
    assert_eq!(
        condition(&status, "Ready"),
        holds(
            "False",
            "ReadinessGatesNotReady",
            "corresponding condition of pod readiness gate \"x/y\" does not exist."
        )
    );
}

#[test]
fn patches_carry_only_what_changed() {
    let case =
        Case::new("Always", json!([]), json!({})).sandbox().with(vec![record("a", Phase::Running, 0, 0)]);
    let status = case.generate();
    let everything = patch("u", &PodStatus::default(), &status).expect("first");
    assert_eq!(everything["metadata"]["uid"], "u");
    assert_eq!(everything["status"]["phase"], "Running");
    // What went over the wire has lost fractions of seconds.
    let wire: PodStatus =
        serde_json::from_value(serde_json::to_value(&status).expect("json")).expect("status");
    assert_eq!(patch("u", &wire, &status), None);
    let mut foreign = wire.clone();
    foreign.conditions.get_or_insert_default().push(PodCondition {
        type_: "x/y".into(),
        status: "True".into(),
        ..Default::default()
    });
    assert_eq!(patch("u", &foreign, &status), None);
    let failed = PodStatus { phase: Some("Failed".into()), ..status };
    let change = patch("u", &wire, &failed).expect("change");
    assert_eq!(change["status"], json!({"phase": "Failed"}));
}

/// A pod whose sandbox was lost, with its machine say, gets another address: kept beside the old one, which a merge by
/// address would do, the API refuses both.
#[test]
fn a_new_address_takes_the_place_of_the_old_one() {
    let case =
        Case::new("Always", json!([]), json!({})).sandbox().with(vec![record("a", Phase::Running, 0, 0)]);
    let status = case.generate();
    let mut before = status.clone();
    before.pod_ip = Some("10.9.9.9".into());
    before.pod_ips = Some(vec![PodIP { ip: "10.9.9.9".into() }]);
    let change = patch("u", &before, &status).expect("change");
    let address = status.pod_ip.expect("an address");
    let want = json!({ "podIP": address, "podIPs": [{ "ip": address }, { "$patch": "replace" }] });
    assert_eq!(change["status"], want);
}

#[test]
fn a_condition_that_comes_true_loses_its_reason() {
    let mut case =
        Case::new("Always", json!([]), json!({})).sandbox().with(vec![record("a", Phase::Running, 0, 0)]);
    let unready = case.generate();
    case.ready.insert("a0".into());
    let change = patch("u", &unready, &case.generate()).expect("change");
    let conditions = change["status"]["conditions"].as_array().expect("list").clone();
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready").expect("ready");
    assert_eq!(
        (&ready["status"], &ready["reason"], &ready["message"]),
        (&json!("True"), &Value::Null, &Value::Null)
    );
    assert!(ready.as_object().expect("object").contains_key("message"));
}

#[test]
fn transition_times_stay_while_nothing_changes() {
    let mut case = Case::new("Always", json!([]), json!({}));
    let first = case.generate();
    case.pod.status = serde_json::from_value(serde_json::to_value(&first).expect("json")).expect("status");
    let time =
        |status: &PodStatus| status.conditions.as_ref().map(|list| list[2].last_transition_time.clone());
    assert_eq!(time(&first), time(&case.generate()));
}
