//! Decides when the node is short of something, and which pod has to go: pure.

use k8s_openapi::api::core::v1::Pod;

use crate::config::EvictionThresholds;
use crate::pod::PodExt;
use crate::resources;

/// What the node has left.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Readings {
    /// Memory that processes could still get, in bytes.
    pub memory_available: u64,
    /// The node's file system: free and all bytes.
    pub disk: (u64, u64),
    /// The node's file system: free and all inodes.
    pub inodes: (u64, u64),
    /// Process ids: in use and the most there can be.
    pub pids: (u64, u64),
}

/// What the node is short of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Memory.
    pub memory: bool,
    /// Disk space or inodes.
    pub disk: bool,
    /// Process ids.
    pub pid: bool,
}

fn below(part: (u64, u64), percent: u8) -> bool {
    part.1 > 0 && u128::from(part.0) * 100 < u128::from(part.1) * u128::from(percent)
}

/// What the readings mean by the thresholds.
pub fn pressure(readings: &Readings, thresholds: &EvictionThresholds) -> Pressure {
    Pressure {
        memory: readings.memory_available < thresholds.memory_available,
        disk: below(readings.disk, thresholds.nodefs_available)
            || below(readings.inodes, thresholds.nodefs_inodes_free),
        pid: readings.pids.1 > 0 && readings.pids.0 * 100 > readings.pids.1 * 95,
    }
}

/// A pod and what it uses.
pub struct Candidate<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its memory in use, in bytes.
    pub memory: u64,
}

/// The pod to evict for memory: over its request first, then the lowest priority, then the most over its request.
pub fn victim<'a>(candidates: &[Candidate<'a>]) -> Option<&'a Pod> {
    let rank = |candidate: &Candidate<'_>| {
        let requested: i64 =
            candidate.pod.spec().containers.iter().filter_map(|c| resources::request(c, "memory")).sum();
        let over = i128::from(candidate.memory) - i128::from(requested);
        let priority = candidate.pod.spec().priority.unwrap_or(0);
        (over <= 0, priority, -over)
    };
    let evictable = |candidate: &&Candidate<'_>| {
        let critical = candidate.pod.spec().priority.is_some_and(|priority| priority >= 2_000_000_000);
        !critical && !candidate.pod.is_static() && candidate.pod.metadata.deletion_timestamp.is_none()
    };
    candidates.iter().filter(evictable).min_by_key(|candidate| rank(candidate)).map(|candidate| candidate.pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pressure_begins_below_the_thresholds() {
        let fine =
            Readings { memory_available: 1 << 30, disk: (50, 100), inodes: (50, 100), pids: (10, 100) };
        let thresholds = EvictionThresholds::default();
        assert_eq!(pressure(&fine, &thresholds), Pressure::default());
        assert!(pressure(&Readings { memory_available: 1 << 20, ..fine }, &thresholds).memory);
        assert!(pressure(&Readings { disk: (9, 100), ..fine }, &thresholds).disk);
        assert!(pressure(&Readings { inodes: (4, 100), ..fine }, &thresholds).disk);
        assert!(pressure(&Readings { pids: (96, 100), ..fine }, &thresholds).pid);
    }

    #[test]
    fn the_pod_over_its_request_goes_first() {
        let pod = |name: &str, request: &str, priority: i32| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [
                {"name": "c", "resources": {"requests": {"memory": request}}}]}}),
            )
            .expect("pod")
        };
        let (within, over, critical) =
            (pod("within", "1Gi", -10), pod("over", "1Mi", 0), pod("critical", "0", 2_000_000_000));
        let candidates = [&within, &over, &critical].map(|pod| Candidate { pod, memory: 100 << 20 });
        assert_eq!(victim(&candidates).map(PodExt::name), Some("over"));
        assert!(victim(&[]).is_none());
    }
}
