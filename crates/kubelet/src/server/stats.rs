//! What pods and the node use: `/stats/summary`, `/metrics`, `/metrics/resource`.

use std::collections::HashMap;
use std::fmt::Write;

use http::{Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use streaming::{Body, body};

use crate::desired::Directory;
use crate::labels;
use crate::node::facts;
use crate::pod::PodExt;
use crate::shared::Shared;

/// A pod's memory in use, from its cgroup, in bytes.
pub fn pod_memory(shared: &Shared, pod: &Pod) -> u64 {
    shared.cgroups.memory_in_use(&shared.cgroup(pod)).unwrap_or(0)
}

fn value(of: Option<&cri::v1::UInt64Value>) -> u64 {
    of.map_or(0, |value| value.value)
}

fn stamp(nanos: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(nanos))
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

async fn by_pod(shared: &Shared) -> HashMap<String, Vec<cri::v1::ContainerStats>> {
    let mut out: HashMap<String, Vec<cri::v1::ContainerStats>> = HashMap::new();
    for stats in shared.cri.list_container_stats(None).await.unwrap_or_default() {
        let uid =
            stats.attributes.as_ref().and_then(|attributes| attributes.labels.get(labels::POD_UID)).cloned();
        if let Some(uid) = uid {
            out.entry(uid).or_default().push(stats);
        }
    }
    out
}

fn name_of(stats: &cri::v1::ContainerStats) -> &str {
    stats
        .attributes
        .as_ref()
        .and_then(|attributes| attributes.labels.get(labels::CONTAINER_NAME))
        .map_or("", String::as_str)
}

/// The summary API's answer.
pub async fn summary(shared: &Shared, directory: &Directory) -> Value {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let readings = facts::readings(&shared.config);
    let stats = by_pod(shared).await;
    let pods: Vec<Value> = directory
        .views()
        .iter()
        .filter_map(|view| {
            let pod = view.pod.as_ref()?;
            let containers = stats.get(pod.uid()).map(Vec::as_slice).unwrap_or_default();
            let mut cpu = 0;
            let mut memory = 0;
            let list: Vec<Value> = containers
                .iter()
                .map(|stats| {
                    let used = value(stats.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds.as_ref()));
                    let rate = value(stats.cpu.as_ref().and_then(|cpu| cpu.usage_nano_cores.as_ref()));
                    let set = value(stats.memory.as_ref().and_then(|memory| memory.working_set_bytes.as_ref()));
                    cpu += used;
                    memory += set;
                    let time = stats.cpu.as_ref().map_or_else(|| now.clone(), |cpu| stamp(cpu.timestamp));
                    let mut layer = json!({"time": time});
                    if let Some(disk) = &stats.writable_layer {
                        layer["usedBytes"] = json!(value(disk.used_bytes.as_ref()));
                        layer["inodesUsed"] = json!(value(disk.inodes_used.as_ref()));
                    }
                    json!({
                        "name": name_of(stats),
                        "cpu": {"time": time, "usageNanoCores": rate, "usageCoreNanoSeconds": used},
                        "memory": {"time": time, "workingSetBytes": set},
                        "rootfs": layer,
                    })
                })
                .collect();
            Some(json!({
                "podRef": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()},
                "startTime": pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| &time.0),
                "containers": list,
                "cpu": {"time": now, "usageCoreNanoSeconds": cpu},
                "memory": {"time": now, "workingSetBytes": memory},
            }))
        })
        .collect();
    json!({
        "node": {
            "nodeName": shared.config.node_name,
            "cpu": {"time": now, "usageCoreNanoSeconds": node_cpu_nanos()},
            "memory": {
                "time": now,
                "availableBytes": readings.memory_available,
                "workingSetBytes": shared.memory.saturating_sub(readings.memory_available),
            },
            "fs": {
                "time": now,
                "availableBytes": readings.disk.0,
                "capacityBytes": readings.disk.1,
                "usedBytes": readings.disk.1.saturating_sub(readings.disk.0),
                "inodesFree": readings.inodes.0,
                "inodes": readings.inodes.1,
            },
            "rlimit": {"time": now, "maxpid": readings.pids.1, "curproc": readings.pids.0},
        },
        "pods": pods,
    })
}

/// CPU time of the whole machine but idling, in nanoseconds.
fn node_cpu_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    let all: u64 = ticks.iter().take(8).sum();
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    (all.saturating_sub(idle)).saturating_mul(1_000_000_000 / per_second)
}

fn text(out: String) -> Response<Body> {
    let mut response = body::text(StatusCode::OK, out.trim_end());
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}

/// Counters of the kubelet itself.
pub fn metrics(shared: &Shared, directory: &Directory) -> Response<Body> {
    let views = directory.views();
    let running: usize = views.iter().map(|view| view.actual.running().count()).sum();
    let ready = views.iter().filter(|view| view.actual.ready_sandbox().is_some()).count();
    let mut out = String::new();
    let mut gauge = |name: &str, help: &str, labels: &str, value: usize| {
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name}{labels} {value}\n");
    };
    gauge("kubelet_running_pods", "[ALPHA] Number of pods that have a running pod sandbox", "", ready);
    gauge(
        "kubelet_running_containers",
        "[ALPHA] Number of containers currently running",
        "{container_state=\"running\"}",
        running,
    );
    gauge(
        "kubelet_desired_pods",
        "[ALPHA] The number of pods the kubelet is being instructed to run.",
        "{static=\"\"}",
        views.len(),
    );
    let node = format!("{{node=\"{}\"}}", shared.config.node_name);
    gauge("kubelet_node_name", "[ALPHA] The node's name. The count is always 1.", &node, 1);
    text(out)
}

/// What containers and pods use, for the metrics server.
pub async fn resource_metrics(shared: &Shared, directory: &Directory) -> Response<Body> {
    let stats = by_pod(shared).await;
    let readings = facts::readings(&shared.config);
    let mut cpu = String::new();
    let mut memory = String::new();
    for view in directory.views() {
        let Some(pod) = &view.pod else { continue };
        for stats in stats.get(pod.uid()).map(Vec::as_slice).unwrap_or_default() {
            let labels = format!(
                "{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}}",
                name_of(stats),
                pod.namespace(),
                pod.name()
            );
            let used =
                value(stats.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds.as_ref())) as f64 / 1e9;
            let set = value(stats.memory.as_ref().and_then(|memory| memory.working_set_bytes.as_ref()));
            let time = stats.cpu.as_ref().map_or(0, |cpu| cpu.timestamp / 1_000_000);
            let _ = writeln!(cpu, "container_cpu_usage_seconds_total{labels} {used} {time}");
            let _ = writeln!(memory, "container_memory_working_set_bytes{labels} {set} {time}");
        }
    }
    let mut out = String::new();
    let _ = write!(
        out,
        "# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container in core-seconds\n\
         # TYPE container_cpu_usage_seconds_total counter\n{cpu}\
         # HELP container_memory_working_set_bytes [STABLE] Current working set of the container in bytes\n\
         # TYPE container_memory_working_set_bytes gauge\n{memory}\
         # HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the node in core-seconds\n\
         # TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total {}\n\
         # HELP node_memory_working_set_bytes [STABLE] Current working set of the node in bytes\n\
         # TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes {}\n",
        node_cpu_nanos() as f64 / 1e9,
        shared.memory.saturating_sub(readings.memory_available)
    );
    text(out)
}
