//! Whether a host will do, judged from its facts: what is wrong, the likely cause, the next step.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};

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
    /// TCP ports to listen on.
    pub ports: Vec<WantedPort>,
    /// Networks the cluster will use.
    pub networks: Vec<WantedNetwork>,
    /// Other clusters that run pods on this machine.
    pub neighbours: Vec<Neighbour>,
    /// Processes of this cluster that run already: what they hold is no clash.
    pub own_processes: Vec<i32>,
    /// Whether the cluster's pods may be running already, with routes to them.
    pub running: bool,
}

/// A TCP port to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedPort {
    /// The address.
    pub address: IpAddr,
    /// The port; 0 is any.
    pub port: u16,
    /// What for.
    pub what: String,
    /// The flag that chooses another.
    pub flag: &'static str,
}

/// A network that the cluster will use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedNetwork {
    /// The network.
    pub network: IpNet,
    /// What for.
    pub what: &'static str,
    /// The flag that chooses another.
    pub flag: &'static str,
}

/// Another cluster that runs pods on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbour {
    /// Its name.
    pub name: String,
    /// Its networks, of pods and of Services.
    pub networks: Vec<IpNet>,
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
    for WantedPort { address, port, what, flag } in wish.ports.iter().filter(|p| p.port != 0) {
        let clash = facts.listeners.iter().find(|l| {
            l.port == *port
                && (l.address == *address || l.address.is_unspecified() || address.is_unspecified())
        });
        let Some(listener) = clash else { continue };
        let (who, next) = match &listener.process {
            Some((pid, _)) if wish.own_processes.contains(pid) => continue,
            Some((pid, name)) if name == "cox" => (
                format!("{name} (pid {pid})"),
                format!(
                    "that is another cluster: choose another port with {flag}, or stop it with `cox down --name …`"
                ),
            ),
            Some((pid, name)) => {
                (format!("{name} (pid {pid})"), format!("stop it, or choose another port with {flag}"))
            }
            None => (
                "another process".to_owned(),
                format!("find it with `ss -ltnp`, or choose another port with {flag}"),
            ),
        };
        out.push(error(format!("port {port} for the {what} is in use by {who}"), next));
    }
}

fn networks(facts: &Facts, wish: &Wish, out: &mut Vec<Finding>) {
    let choose = |wanted: &WantedNetwork| {
        let own = wish.networks.iter().filter(|other| *other != wanted).map(|other| other.network);
        let neighbours = wish.neighbours.iter().flat_map(|n| n.networks.iter().copied());
        let routes = facts.routes.iter().filter(|r| !r.is_default()).map(|r| r.destination);
        let taken: Vec<IpNet> = own.chain(neighbours).chain(routes).collect();
        match free_network(wanted.network, &taken) {
            Some(free) => format!("choose another, for example {} {free}", wanted.flag),
            None => format!("choose another with {}", wanted.flag),
        }
    };
    for (i, wanted) in wish.networks.iter().enumerate() {
        let WantedNetwork { network, what, .. } = wanted;
        for other in wish.networks[i + 1..].iter().filter(|other| overlap(network, &other.network)) {
            out.push(error(
                format!("the {what} {network} and the {} {} overlap", other.what, other.network),
                choose(wanted),
            ));
        }
        let near = wish.neighbours.iter().find_map(|neighbour| {
            Some((neighbour, neighbour.networks.iter().find(|other| overlap(network, other))?))
        });
        if let Some((neighbour, other)) = near {
            out.push(error(
                format!(
                    "the {what} {network} overlaps {other} of cluster {:?}, which runs on this machine",
                    neighbour.name
                ),
                choose(wanted),
            ));
            // Routes to its pods say the same once more.
            continue;
        }
        let clash = facts.routes.iter().find(|r| {
            // Routes to single pods on our own links are there while the cluster runs.
            let own = wish.running && r.link.starts_with("veth") && network.contains(&r.destination);
            !r.is_default() && !own && overlap(network, &r.destination)
        });
        if let Some(route) = clash {
            out.push(error(
                format!("the {what} {network} overlaps the route to {} on {}", route.destination, route.link),
                format!(
                    "hosts on that route could not be reached from pods, or pods from this host: {}",
                    choose(wanted)
                ),
            ));
        }
    }
}

/// A private IPv4 network of the same size that nobody uses: those behind it first, then the rest of 10.0.0.0/8.
fn free_network(like: IpNet, taken: &[IpNet]) -> Option<IpNet> {
    let IpNet::V4(like) = like else { return None };
    let (size, first) = (1_u64 << (32 - like.prefix_len()), u64::from(u32::from(Ipv4Addr::new(10, 0, 0, 0))));
    let (last, start) = (first + (1 << 24), u64::from(u32::from(like.network())));
    let behind = (1..).map(|i| start + i * size).take_while(|n| (first..last).contains(n));
    let all = (0..).map(|i| first + i * size).take_while(|n| *n < last);
    behind
        .chain(all)
        .take(4096)
        .filter_map(|n| Ipv4Net::new(u32::try_from(n).ok()?.into(), like.prefix_len()).ok().map(IpNet::V4))
        .find(|candidate| !taken.iter().any(|t| overlap(candidate, t)))
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

    fn net(cidr: &str) -> IpNet {
        cidr.parse().expect("a cidr")
    }

    fn wish() -> Wish {
        let network = |network: &str, what, flag| WantedNetwork { network: net(network), what, flag };
        Wish {
            node: true,
            ports: vec![WantedPort {
                address: [0, 0, 0, 0].into(),
                port: 6443,
                what: "API server".into(),
                flag: "--secure-port",
            }],
            networks: vec![
                network("10.244.0.0/16", "pod network", "--cluster-cidr"),
                network("10.96.0.0/12", "service network", "--service-cidr"),
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
        let cluster = found(listen([0, 0, 0, 0], Some((3, "cox"))));
        assert!(
            cluster[0].contains("another cluster") && cluster[0].contains("--secure-port"),
            "{cluster:?}"
        );
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
        assert!(found(|_, w| w.networks[0].network = net("10.97.0.0/16"))[0].contains("overlap"));
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
    fn networks_of_another_cluster_are_told_with_what_to_choose() {
        let beside = |networks: &[&str]| {
            let networks = networks.iter().map(|n| net(n)).collect();
            found(|f, w| {
                f.routes.push(route("10.244.0.7/32", "veth1a2b"));
                w.neighbours = vec![Neighbour { name: "a".into(), networks }];
            })
        };
        assert_eq!(
            beside(&["10.244.0.0/16", "10.96.0.0/12"]),
            [
                "Error: the pod network 10.244.0.0/16 overlaps 10.244.0.0/16 of cluster \"a\", which runs on this \
                 machine; choose another, for example --cluster-cidr 10.245.0.0/16",
                "Error: the service network 10.96.0.0/12 overlaps 10.96.0.0/12 of cluster \"a\", which runs on this \
                 machine; choose another, for example --service-cidr 10.112.0.0/12",
            ]
        );
        assert_eq!(
            found(|_, w| {
                w.neighbours = vec![Neighbour { name: "a".into(), networks: vec![net("10.245.0.0/16")] }];
            }),
            [""; 0]
        );
    }

    #[test]
    fn free_networks_are_free() {
        let free = |like: &str, taken: &[&str]| {
            let taken: Vec<IpNet> = taken.iter().map(|t| net(t)).collect();
            free_network(net(like), &taken).map(|n| n.to_string())
        };
        assert_eq!(
            free("10.244.0.0/16", &["10.245.0.0/16", "10.246.0.0/15"]).as_deref(),
            Some("10.248.0.0/16")
        );
        // At the end it goes round, and outside of 10.0.0.0/8 it goes there.
        assert_eq!(free("10.240.0.0/12", &[]).as_deref(), Some("10.0.0.0/12"));
        assert_eq!(free("172.16.0.0/16", &["10.0.0.0/24"]).as_deref(), Some("10.1.0.0/16"));
        assert_eq!(free("10.0.0.0/8", &["10.1.0.0/16"]), None);
        assert_eq!(free("fd00::/48", &[]), None);
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
