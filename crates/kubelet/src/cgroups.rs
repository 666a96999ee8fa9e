//! The cgroups of pods: names, limits and removal, on cgroup v1, hybrid and v2.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::resources::{PERIOD, PodLimits, weight};

/// Where the cgroup hierarchies are mounted.
#[derive(Debug, Clone)]
pub struct Cgroups {
    root: String,
    unified: Option<PathBuf>,
    v1: Vec<(Vec<String>, PathBuf)>,
}

const KINDS: [&str; 2] = ["burstable", "besteffort"];

impl Cgroups {
    /// Looks where cgroups are mounted; pods live below `root` (`/` on most machines).
    pub fn detect(root: &str) -> io::Result<Cgroups> {
        Ok(Cgroups::from_mountinfo(&fs::read_to_string("/proc/self/mountinfo")?, root))
    }

    fn from_mountinfo(mountinfo: &str, root: &str) -> Cgroups {
        let mut found =
            Cgroups { root: format!("/{}", root.trim_matches('/')), unified: None, v1: Vec::new() };
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let Some(point) = before.split(' ').nth(4) else { continue };
            let mut fields = after.split(' ');
            let (kind, options) = (fields.next(), fields.nth(1).unwrap_or_default());
            if kind == Some("cgroup2") {
                found.unified = Some(point.into());
            } else if kind == Some("cgroup") {
                let controllers =
                    options.split(',').filter(|word| !matches!(*word, "rw" | "ro")).map(str::to_owned);
                found.v1.push((controllers.collect(), point.into()));
            }
        }
        found
    }

    /// Whether only cgroup v2 is in use.
    pub fn is_v2(&self) -> bool {
        self.v1.is_empty() && self.unified.is_some()
    }

    fn kubepods(&self) -> String {
        format!("{}/kubepods", self.root.trim_end_matches('/'))
    }

    /// The pod's cgroup as the runtime is told it.
    pub fn pod(&self, uid: &str, qos_class: &str) -> String {
        match qos_class {
            "Guaranteed" => format!("{}/pod{uid}", self.kubepods()),
            other => format!("{}/{}/pod{uid}", self.kubepods(), other.to_lowercase()),
        }
    }

    fn v1_mount(&self, controller: &str) -> Option<&Path> {
        self.v1
            .iter()
            .find(|(controllers, _)| controllers.iter().any(|name| name == controller))
            .map(|(_, path)| path.as_path())
    }

    fn hierarchies(&self) -> impl Iterator<Item = &Path> {
        self.v1.iter().map(|(_, path)| path.as_path()).chain(self.unified.as_deref())
    }

    /// Makes the cgroups above all pods.
    pub fn prepare_node(&self) -> io::Result<()> {
        let base = self.kubepods();
        self.make(&base)?;
        for kind in KINDS {
            self.make(&format!("{base}/{kind}"))?;
        }
        self.write_shares(&format!("{base}/besteffort"), 2)
    }

    /// Makes a pod's cgroup and sets its limits.
    pub fn prepare_pod(&self, cgroup: &str, limits: &PodLimits) -> io::Result<()> {
        self.make(cgroup)?;
        self.write_shares(cgroup, limits.shares)?;
        let quota = limits.quota.unwrap_or(-1);
        if self.is_v2() {
            let quota = if quota < 0 { "max".to_owned() } else { quota.to_string() };
            self.write_v2(cgroup, "cpu.max", &format!("{quota} {PERIOD}"))?;
            let memory = limits.memory.map_or("max".to_owned(), |bytes| bytes.to_string());
            self.write_v2(cgroup, "memory.max", &memory)?;
        } else {
            self.write_v1("cpu", cgroup, "cpu.cfs_period_us", &PERIOD.to_string())?;
            self.write_v1("cpu", cgroup, "cpu.cfs_quota_us", &quota.to_string())?;
            self.write_v1(
                "memory",
                cgroup,
                "memory.limit_in_bytes",
                &limits.memory.unwrap_or(-1).to_string(),
            )?;
        }
        Ok(())
    }

    fn make(&self, cgroup: &str) -> io::Result<()> {
        let relative = cgroup.trim_start_matches('/');
        if let (true, Some(mount)) = (self.is_v2(), &self.unified) {
            // Controllers reach a child only when each level above hands them down.
            let mut path = mount.clone();
            for part in relative.split('/') {
                let _ = fs::write(path.join("cgroup.subtree_control"), "+cpu +cpuset +memory +pids +io");
                path.push(part);
                match fs::create_dir(&path) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
            }
            return match fs::write(path.join("cgroup.subtree_control"), "+cpu +cpuset +memory +pids") {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        for controller in ["cpu", "memory"] {
            if let Some(mount) = self.v1_mount(controller) {
                fs::create_dir_all(mount.join(relative))?;
            }
        }
        Ok(())
    }

    fn write_shares(&self, cgroup: &str, shares: i64) -> io::Result<()> {
        if self.is_v2() {
            self.write_v2(cgroup, "cpu.weight", &weight(shares).to_string())
        } else {
            self.write_v1("cpu", cgroup, "cpu.shares", &shares.to_string())
        }
    }

    fn write_v1(&self, controller: &str, cgroup: &str, file: &str, value: &str) -> io::Result<()> {
        match self.v1_mount(controller) {
            Some(mount) => fs::write(mount.join(cgroup.trim_start_matches('/')).join(file), value),
            None => Ok(()),
        }
    }

    fn write_v2(&self, cgroup: &str, file: &str, value: &str) -> io::Result<()> {
        match &self.unified {
            // A controller that the machine does not hand down cannot limit anything.
            Some(mount) => match fs::write(mount.join(cgroup.trim_start_matches('/')).join(file), value) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            },
            None => Ok(()),
        }
    }

    /// Memory in use by a cgroup, in bytes.
    pub fn memory_in_use(&self, cgroup: &str) -> Option<u64> {
        let relative = cgroup.trim_start_matches('/');
        let path = if self.is_v2() {
            self.unified.as_ref()?.join(relative).join("memory.current")
        } else {
            self.v1_mount("memory")?.join(relative).join("memory.usage_in_bytes")
        };
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// Removes a cgroup with everything below it from all hierarchies; processes left inside are ended first.
    pub fn remove(&self, cgroup: &str) -> io::Result<()> {
        for mount in self.hierarchies() {
            let path = mount.join(cgroup.trim_start_matches('/'));
            if path.is_dir() {
                remove_tree(&path)?;
            }
        }
        Ok(())
    }

    /// UIDs of pods that have a cgroup.
    pub fn pods(&self) -> Vec<(String, String)> {
        let base = self.kubepods();
        let mut found: Vec<(String, String)> = Vec::new();
        for mount in self.hierarchies() {
            for level in [base.clone(), format!("{base}/{}", KINDS[0]), format!("{base}/{}", KINDS[1])] {
                let Ok(entries) = fs::read_dir(mount.join(level.trim_start_matches('/'))) else { continue };
                for entry in entries.flatten() {
                    let name = entry.file_name();
                    let Some(uid) = name.to_str().and_then(|name| name.strip_prefix("pod")) else { continue };
                    let cgroup = format!("{level}/pod{uid}");
                    if !found.iter().any(|(_, known)| *known == cgroup) {
                        found.push((uid.to_owned(), cgroup));
                    }
                }
            }
        }
        found
    }

    /// Removes what `prepare_node` made, where nothing is left in it.
    pub fn remove_node(&self) {
        let base = self.kubepods();
        for mount in self.hierarchies() {
            for level in [format!("{base}/{}", KINDS[0]), format!("{base}/{}", KINDS[1]), base.clone()] {
                let _ = fs::remove_dir(mount.join(level.trim_start_matches('/')));
            }
        }
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    if let Ok(processes) = fs::read_to_string(path.join("cgroup.procs")) {
        for process in
            processes.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n\
31 25 0:27 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
32 25 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn tells_versions_apart() {
        let hybrid = Cgroups::from_mountinfo(HYBRID, "/");
        assert!(!hybrid.is_v2());
        assert_eq!(hybrid.v1_mount("cpu"), Some(Path::new("/sys/fs/cgroup/cpu")));
        assert_eq!(hybrid.hierarchies().count(), 3);
        let pure = Cgroups::from_mountinfo("30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "/");
        assert!(pure.is_v2());
    }

    #[test]
    fn names_follow_the_qos_class() {
        let plain = Cgroups::from_mountinfo(HYBRID, "/");
        assert_eq!(plain.pod("u", "Burstable"), "/kubepods/burstable/podu");
        assert_eq!(plain.pod("u", "Guaranteed"), "/kubepods/podu");
        assert_eq!(
            Cgroups::from_mountinfo(HYBRID, "cox/a").pod("u", "BestEffort"),
            "/cox/a/kubepods/besteffort/podu"
        );
    }
}
