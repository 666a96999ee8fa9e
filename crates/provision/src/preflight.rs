//! Whether a host will do, judged from its facts: what is wrong, the likely cause, the next step.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use crate::{
    CgroupMode, Facts,
    binaries::{CNI_PACKAGE, PROGRAMS},
};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works without, with less.
    Warning,
    /// It cannot work.
    Error,
}

/// Something about the host that someone has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is the case.
    pub problem: String,
    /// What to do.
    pub next: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.problem, self.next)
    }
}

/// What the host shall do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Whether it shall run pods.
    pub node: bool,
    /// TCP ports to listen on: address, port, and what for.
    pub ports: Vec<(IpAddr, u16, String)>,
    /// Networks the cluster will use, and what for.
    pub networks: Vec<(IpNet, String)>,
    /// Processes of this cluster that run already: what they hold is no clash.
    pub own_processes: Vec<i32>,
    /// Whether the cluster's pods may be running already, with routes to them.
    pub running: bool,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Everything that stands in the way, errors first.
pub fn check(facts: &Facts, wish: &Wish) -> Vec<Finding> {
    let mut out = Vec::new();
    if wish.node {
        node(facts, &mut out);
    }
    ports(facts, wish, &mut out);
    if wish.node {
        networks(facts, wish, &mut out);
    }
    disk(facts, wish, &mut out);
    out.sort_by_key(|f| std::cmp::Reverse(f.severity));
    out
}

fn error(problem: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { severity: Severity::Error, problem: problem.into(), next: next.into() }
}

fn warning(problem: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { severity: Severity::Warning, problem: problem.into(), next: next.into() }
}

fn node(facts: &Facts, out: &mut Vec<Finding>) {
    if !facts.root {
        out.push(error(
            "a node needs root: it makes namespaces, mounts and cgroups",
            "run again with sudo, or with --no-node for a control plane alone",
        ));
    }
    let mut packages: Vec<&str> = Vec::new();
    let mut absent: Vec<&str> = Vec::new();
    for needed in PROGRAMS.iter().filter(|n| !facts.programs.get(n.program).is_some_and(Option::is_some)) {
        match needed.without {
            Some(what) => out.push(warning(
                format!("{} is not installed: {what}", needed.program),
                format!("apt-get install {}", needed.package),
            )),
            None => {
                absent.push(needed.program);
                packages.push(needed.package);
            }
        }
    }
    if !facts.missing_plugins.is_empty() {
        absent.push("the CNI plugins");
        packages.push(CNI_PACKAGE);
    }
    packages.dedup();
    if !absent.is_empty() {
        out.push(error(
            format!("not installed: {}", absent.join(", ")),
            format!("apt-get install {}", packages.join(" ")),
        ));
    }
    match facts.cgroups {
        CgroupMode::Absent => out.push(error(
            "no cgroup hierarchy is mounted at /sys/fs/cgroup",
            "mount it (mount -t cgroup2 none /sys/fs/cgroup); inside a container, give it access to cgroups",
        )),
        CgroupMode::V1 | CgroupMode::V2 if !facts.missing_controllers.is_empty() => out.push(error(
            format!("the kernel offers no cgroup controller {}", facts.missing_controllers.join(", ")),
            "on a Raspberry Pi add cgroup_enable=memory to the kernel's command line; else use a kernel that has it",
        )),
        CgroupMode::V1 | CgroupMode::V2 => {}
    }
    if facts.snapshotter() != "overlayfs" {
        let why = if facts.overlay { "lies on an overlay itself" } else { "has a kernel without overlay" };
        out.push(warning(
            format!("the data directory {why}: image layers are copied, which takes time and space"),
            "put --data-dir on a plain file system (ext4, xfs)",
        ));
    }
}

fn ports(facts: &Facts, wish: &Wish, out: &mut Vec<Finding>) {
    for (address, port, what) in wish.ports.iter().filter(|p| p.1 != 0) {
        let clash = facts.listeners.iter().find(|l| {
            l.port == *port
                && (l.address == *address || l.address.is_unspecified() || address.is_unspecified())
        });
        let Some(listener) = clash else { continue };
        let (who, next) = match &listener.process {
            Some((pid, _)) if wish.own_processes.contains(pid) => continue,
            Some((pid, name)) if name == "cox" => (
                format!("{name} (pid {pid})"),
                "that is another cluster: choose another port, or stop it with `cox down --name …`"
                    .to_owned(),
            ),
            Some((pid, name)) => {
                (format!("{name} (pid {pid})"), format!("stop it, or choose another port for the {what}"))
            }
            None => (
                "another process".to_owned(),
                format!("find it with `ss -ltnp`, or choose another port for the {what}"),
            ),
        };
        out.push(error(format!("port {port} for the {what} is in use by {who}"), next));
    }
}

fn networks(facts: &Facts, wish: &Wish, out: &mut Vec<Finding>) {
    for (i, (network, what)) in wish.networks.iter().enumerate() {
        for (other, other_what) in &wish.networks[i + 1..] {
            if overlap(network, other) {
                out.push(error(
                    format!("the {what} {network} and the {other_what} {other} overlap"),
                    "choose networks that do not",
                ));
            }
        }
        let clash = facts.routes.iter().find(|r| {
            // Routes to single pods on our own links are there while the cluster runs.
            let own = wish.running && r.link.starts_with("veth") && network.contains(&r.destination);
            !r.is_default() && !own && overlap(network, &r.destination)
        });
        if let Some(route) = clash {
            out.push(error(
                format!("the {what} {network} overlaps the route to {} on {}", route.destination, route.link),
                "hosts on that route could not be reached from pods, or pods from this host: choose another network",
            ));
        }
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn disk(facts: &Facts, wish: &Wish, out: &mut Vec<Finding>) {
    let (least, good) = if wish.node { (512 * MIB, 2 * GIB) } else { (64 * MIB, 256 * MIB) };
    let next = "free some space, or choose a --data-dir on another disk";
    match facts.disk_free {
        Some(free) if free < least => {
            out.push(error(
                format!("only {} MiB are free where the data goes, {} are needed", free / MIB, least / MIB),
                next,
            ));
        }
        Some(free) if free < good => {
            out.push(warning(format!("only {} MiB are free where the data goes", free / MIB), next));
        }
        _ => {}
    }
    if facts.inodes_free.is_some_and(|i| i < 10_000) {
        out.push(error(
            "almost no inodes are free where the data goes",
            "remove files there, or choose another --data-dir",
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use net::host::Route;

    use super::*;
    use crate::Listener;

    fn good() -> Facts {
        Facts {
            root: true,
            programs: PROGRAMS
                .iter()
                .map(|n| (n.program, Some(PathBuf::from("/usr/bin").join(n.program))))
                .collect(),
            cni_bin_dir: "/usr/lib/cni".into(),
            missing_plugins: Vec::new(),
            listeners: Vec::new(),
            routes: vec![route("0.0.0.0/0", "eth0"), route("192.0.2.0/24", "eth0")],
            disk_free: Some(50 * GIB),
            inodes_free: None,
            cgroups: CgroupMode::V2,
            missing_controllers: Vec::new(),
            overlay: true,
            data_on_overlay: false,
            can_lower_oom_score: true,
        }
    }

    fn route(destination: &str, link: &str) -> Route {
        Route { destination: destination.parse().expect("a cidr"), link: link.into() }
    }

    fn wish() -> Wish {
        let net = |c: &str| c.parse().expect("a cidr");
        Wish {
            node: true,
            ports: vec![([0, 0, 0, 0].into(), 6443, "API server".into())],
            networks: vec![
                (net("10.244.0.0/16"), "pod network".into()),
                (net("10.96.0.0/12"), "service network".into()),
            ],
            ..Wish::default()
        }
    }

    fn found(change: impl FnOnce(&mut Facts, &mut Wish)) -> Vec<String> {
        let (mut facts, mut wish) = (good(), wish());
        change(&mut facts, &mut wish);
        check(&facts, &wish).iter().map(|f| format!("{:?}: {f}", f.severity)).collect()
    }

    #[test]
    fn a_good_host_has_no_findings() {
        assert_eq!(found(|_, _| {}), [""; 0]);
    }

    #[test]
    fn missing_programs_name_their_packages() {
        assert_eq!(
            found(|f, _| {
                for program in ["containerd", "ctr", "nft", "conntrack"] {
                    f.programs.insert(program, None);
                }
                f.missing_plugins = vec!["ptp"];
            }),
            [
                "Error: not installed: containerd, ctr, nft, the CNI plugins; apt-get install containerd nftables \
                 containernetworking-plugins",
                "Warning: conntrack is not installed: UDP clients of a Service may go on talking to a pod that is \
                 gone; apt-get install conntrack",
            ]
        );
    }

    #[test]
    fn without_a_node_neither_root_nor_programs_are_needed() {
        assert_eq!(
            found(|f, w| {
                f.root = false;
                f.programs.clear();
                f.cgroups = CgroupMode::Absent;
                w.node = false;
            }),
            [""; 0]
        );
        assert!(found(|f, _| f.root = false)[0].contains("--no-node"));
    }

    #[test]
    fn a_port_in_use_names_its_owner() {
        let listen = |address: [u8; 4], process: Option<(i32, &'static str)>| {
            move |f: &mut Facts, w: &mut Wish| {
                let process = process.map(|(p, n)| (p, n.to_owned()));
                f.listeners.push(Listener { address: address.into(), port: 6443, process });
                w.own_processes.push(77);
            }
        };
        let one = found(listen([127, 0, 0, 1], Some((12, "nginx"))));
        assert!(
            one[0].starts_with("Error: port 6443 for the API server is in use by nginx (pid 12);"),
            "{one:?}"
        );
        assert!(found(listen([0, 0, 0, 0], None))[0].contains("another process"));
        assert!(found(listen([0, 0, 0, 0], Some((3, "cox"))))[0].contains("another cluster"));
        assert_eq!(found(listen([0, 0, 0, 0], Some((77, "cox")))), [""; 0]);
    }

    #[test]
    fn networks_clash_with_routes_and_each_other() {
        let one = found(|f, _| f.routes.push(route("10.100.0.0/16", "wg0")));
        assert_eq!(one.len(), 1);
        assert!(
            one[0].contains("service network 10.96.0.0/12 overlaps the route to 10.100.0.0/16 on wg0"),
            "{one:?}"
        );
        assert!(
            found(|_, w| w.networks[0].0 = "10.97.0.0/16".parse().expect("a cidr"))[0].contains("overlap")
        );
        // A pod of the running cluster.
        let pod = |running| {
            found(move |f, w| {
                f.routes.push(route("10.244.0.7/32", "veth1a2b"));
                w.running = running;
            })
        };
        assert_eq!(pod(true), [""; 0]);
        assert_eq!(pod(false).len(), 1);
    }

    #[test]
    fn a_full_disk_is_seen_before_it_hurts() {
        assert!(found(|f, _| f.disk_free = Some(100 * MIB))[0].starts_with("Error: only 100 MiB"));
        assert!(found(|f, _| f.disk_free = Some(GIB))[0].starts_with("Warning: only 1024 MiB"));
        assert!(found(|f, _| f.inodes_free = Some(3))[0].contains("inodes"));
    }

    #[test]
    fn cgroups_have_to_be_there() {
        assert!(found(|f, _| f.cgroups = CgroupMode::Absent)[0].contains("cgroup"));
        assert!(found(|f, _| f.missing_controllers = vec!["memory"])[0].contains("controller memory"));
        assert!(found(|f, _| f.data_on_overlay = true)[0].starts_with("Warning"));
    }
}
