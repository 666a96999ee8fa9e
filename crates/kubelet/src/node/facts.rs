//! Facts about the machine, read from the kernel's files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::NodeSystemInfo;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::amount::kibibytes;
use crate::config::{Config, KUBELET_VERSION};
use crate::reconcilers::eviction::Readings;

/// The machine's memory in bytes.
pub fn total_memory() -> u64 {
    meminfo("MemTotal:")
}

fn meminfo(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// The CPUs that this process may use.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The oom_score_adj below which this process cannot set another's: its own, unless it may lower scores.
pub fn lowest_oom_score() -> i64 {
    const CAP_SYS_RESOURCE: u64 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).map(str::trim);
    let may_lower = effective
        .and_then(|hex| u64::from_str_radix(hex, 16).ok())
        .is_some_and(|bits| bits & (1 << CAP_SYS_RESOURCE) != 0);
    if may_lower {
        return -1000;
    }
    fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn disk(path: &Path) -> Option<rustix::fs::StatVfs> {
    let mut at = path;
    loop {
        match rustix::fs::statvfs(at) {
            Ok(found) => return Some(found),
            Err(_) => at = at.parent()?,
        }
    }
}

/// What the node has left.
pub fn readings(config: &Config) -> Readings {
    let disk = disk(&config.root_dir);
    let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let tasks = loadavg
        .split_whitespace()
        .nth(3)
        .and_then(|tasks| tasks.split('/').nth(1))
        .and_then(|all| all.parse().ok());
    Readings {
        memory_available: meminfo("MemAvailable:"),
        disk: disk
            .as_ref()
            .map_or((0, 0), |disk| (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)),
        inodes: disk.as_ref().map_or((0, 0), |disk| (disk.f_ffree, disk.f_files)),
        pids: (tasks.unwrap_or(0), number("/proc/sys/kernel/pid_max").unwrap_or(0)),
    }
}

/// `status.capacity`.
pub fn capacity(config: &Config) -> BTreeMap<String, Quantity> {
    let space = disk(&config.root_dir).map_or(0, |disk| disk.f_blocks * disk.f_frsize);
    let mut out = BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpus().to_string())),
        ("memory".to_owned(), kibibytes(total_memory())),
        ("ephemeral-storage".to_owned(), kibibytes(space)),
        ("pods".to_owned(), Quantity(config.max_pods.to_string())),
    ]);
    for entry in fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let size = name
            .to_str()
            .and_then(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok());
        let pages = fs::read_to_string(entry.path().join("nr_hugepages"))
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok());
        if let (Some(size), Some(pages)) = (size, pages) {
            let label =
                if size % (1 << 20) == 0 { format!("{}Gi", size >> 20) } else { format!("{}Mi", size >> 10) };
            let amount = machinery::Quantity::from_bytes(i64::try_from(size * pages * 1024).unwrap_or(0));
            out.insert(format!("hugepages-{label}"), amount.to_wire());
        }
    }
    out
}

/// `status.allocatable`: the capacity less what eviction keeps free.
pub fn allocatable(config: &Config) -> BTreeMap<String, Quantity> {
    let mut out = capacity(config);
    out.insert("memory".into(), kibibytes(total_memory().saturating_sub(config.eviction.memory_available)));
    let space = disk(&config.root_dir).map_or(0, |disk| disk.f_blocks * disk.f_frsize);
    let kept = space / 100 * u64::from(config.eviction.nodefs_available);
    out.insert("ephemeral-storage".into(), Quantity((space - kept).to_string()));
    out
}

/// Go's name of the machine's architecture.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "riscv64" => "riscv64",
        "powerpc64" => "ppc64le",
        "s390x" => "s390x",
        "arm" => "arm",
        "x86" => "386",
        other => other,
    }
}

/// `status.nodeInfo`; `runtime` is `name://version`.
pub fn system_info(runtime: &str) -> NodeSystemInfo {
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os_image = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or("Linux".to_owned(), |name| name.trim_matches('"').to_owned());
    let machine_id = read("/etc/machine-id");
    let system_uuid = read("/sys/class/dmi/id/product_uuid");
    NodeSystemInfo {
        architecture: architecture().into(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: runtime.to_owned(),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.into(),
        system_uuid: if system_uuid.is_empty() { machine_id.clone() } else { system_uuid },
        machine_id,
        operating_system: "linux".into(),
        os_image,
        swap: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_and_room() {
        let config = Config { root_dir: "/nonexistent/deep".into(), ..Config::new("n") };
        assert!(total_memory() > 0);
        let readings = readings(&config);
        assert!(readings.disk.1 > 0 && readings.memory_available > 0 && readings.pids.1 > 0);
        let (capacity, allocatable) = (capacity(&config), allocatable(&config));
        let bytes = |map: &BTreeMap<String, Quantity>| crate::amount::value(&map["memory"]).expect("memory");
        assert!(bytes(&allocatable) < bytes(&capacity));
        assert_eq!(capacity["pods"].0, "110");
    }
}
