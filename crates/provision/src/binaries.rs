//! Programs of the host that a node needs, and the Debian packages they come in.

use std::{
    env,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// A program and where to get it.
pub(crate) struct Needed {
    pub program: &'static str,
    pub package: &'static str,
    /// What is amiss without it; `None`: nothing works.
    pub without: Option<&'static str>,
}

/// What a node needs beyond a kernel.
pub(crate) const PROGRAMS: [Needed; 6] = [
    Needed { program: "containerd", package: "containerd", without: None },
    Needed { program: "ctr", package: "containerd", without: None },
    Needed { program: "runc", package: "runc", without: None },
    Needed { program: "nft", package: "nftables", without: None },
    Needed {
        program: "conntrack",
        package: "conntrack",
        without: Some("UDP clients of a Service may go on talking to a pod that is gone"),
    },
    Needed { program: "iptables", package: "iptables", without: Some("containers cannot have a hostPort") },
];

pub(crate) const CNI_PACKAGE: &str = "containernetworking-plugins";

/// The CNI plugins that the pod network uses.
pub(crate) const CNI_PLUGINS: [&str; 4] = ["ptp", "host-local", "portmap", "loopback"];

/// Where distributions and upstream's releases put CNI plugins.
const CNI_DIRECTORIES: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// Where administrators' programs live: not always in the search path of the one who calls us.
pub(crate) const SYSTEM_PATH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Finds a program in the search path and in the system's directories.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let told: Vec<PathBuf> = env::split_paths(&path).filter(|d| d.is_absolute()).collect();
    told.into_iter()
        .chain(SYSTEM_PATH.iter().map(PathBuf::from))
        .map(|d| d.join(name))
        .find(|p| is_executable(p))
}

/// The search path that programs started by us get: ours, and the system's directories behind it.
pub(crate) fn search_path() -> std::ffi::OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut all: Vec<PathBuf> = env::split_paths(&path).filter(|d| d.is_absolute()).collect();
    for directory in SYSTEM_PATH.iter().map(PathBuf::from) {
        if !all.contains(&directory) {
            all.push(directory);
        }
    }
    env::join_paths(all).unwrap_or(path)
}

/// The directory that has most of the CNI plugins we use, and those it lacks.
pub fn find_cni_plugins() -> (PathBuf, Vec<&'static str>) {
    CNI_DIRECTORIES
        .iter()
        .map(|d| (PathBuf::from(d), missing_plugins(Path::new(d))))
        .min_by_key(|(_, missing)| missing.len())
        .unwrap_or_default()
}

fn missing_plugins(directory: &Path) -> Vec<&'static str> {
    CNI_PLUGINS.into_iter().filter(|p| !is_executable(&directory.join(p))).collect()
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_and_absent_ones_are_not() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-anywhere"), None);
    }

    #[test]
    fn plugins_are_counted_by_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(missing_plugins(dir.path()), CNI_PLUGINS);
        for plugin in ["ptp", "portmap"] {
            let path = dir.path().join(plugin);
            std::fs::write(&path, "").expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        }
        std::fs::write(dir.path().join("loopback"), "not executable").expect("written");
        assert_eq!(missing_plugins(dir.path()), ["host-local", "loopback"]);
    }
}
