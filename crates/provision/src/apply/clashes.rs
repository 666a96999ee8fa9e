//! What on a machine is in the way of a cluster's addresses, networks and ports, or too small for its part.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use net::host::{Route, parse_routes_v4};

use crate::spec::{ClusterSpec, Host, PodNetwork, Role};
use crate::{Finding, Severity};

/// Prints the facts, one in a line.
pub(super) const CLASHES: &str = r#"
say services "$(ls /var/lib/cox/services 2>/dev/null | tr '\n' ' ')"
say addresses "$(hostname -I 2>/dev/null || true)"
say memory "$(sed -n 's/^MemTotal:[[:space:]]*\([0-9]*\).*/\1/p' /proc/meminfo)"
say cgroups "$(cat /sys/fs/cgroup/cgroup.controllers 2>/dev/null || ls -m /sys/fs/cgroup 2>/dev/null | tr '\n' ' ')"
sed 's/^/route=/' /proc/net/route 2>/dev/null
ss -Hltnp 2>/dev/null | while read -r a b c at d who; do say port "$at $who"; done
true"#;

/// Memory that a part of a cluster needs, in KiB: below it nothing works for long.
const LEAST_MEMORY: u64 = 400 << 10;

/// Somebody who listens.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listener {
    address: IpAddr,
    port: u16,
    who: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Clashes {
    services: Vec<String>,
    addresses: Vec<IpAddr>,
    memory: Option<u64>,
    cgroups: String,
    routes: Vec<Route>,
    listeners: Vec<Listener>,
}

/// `0.0.0.0:22`, `[::1]:53`, `*:80`, with the link behind a percent sign.
fn listener(text: &str) -> Option<Listener> {
    let (at, who) = text.split_once(' ').unwrap_or((text, ""));
    let (address, port) = at.rsplit_once(':')?;
    let address = address.split('%').next()?.trim_matches(['[', ']']);
    let address = if address == "*" { Ipv4Addr::UNSPECIFIED.into() } else { address.parse().ok()? };
    // users:(("sshd",pid=12,fd=3))
    let who = who.split('"').nth(1).map(|name| {
        let pid = who.split("pid=").nth(1).and_then(|p| p.split(',').next()).unwrap_or("?");
        format!("{name} (pid {pid})")
    });
    Some(Listener { address, port: port.parse().ok()?, who: who.unwrap_or_else(|| "another process".into()) })
}

impl Clashes {
    pub(super) fn read(text: &str) -> Self {
        let mut found = Self::default();
        let mut routes = String::new();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "services" => found.services = value.split_whitespace().map(str::to_owned).collect(),
                "addresses" => {
                    found.addresses = value.split_whitespace().filter_map(|a| a.parse().ok()).collect();
                }
                "memory" => found.memory = value.trim().parse().ok(),
                "cgroups" => value.trim().clone_into(&mut found.cgroups),
                "route" => routes += &format!("{value}\n"),
                "port" => found.listeners.extend(listener(value)),
                _ => {}
            }
        }
        found.routes = parse_routes_v4(&routes);
        found
    }

    /// What stands in the way of a host's part in a cluster.
    pub(super) fn judge(&self, spec: &ClusterSpec, host: &Host) -> Vec<Finding> {
        let mut out = Vec::new();
        let mut error = |problem: String, next: &str| {
            out.push(Finding { severity: Severity::Error, problem, next: next.to_owned() });
        };
        if !self.addresses.is_empty() && !self.addresses.contains(&host.address) {
            let own: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
            error(
                format!("{} is no address of it; it has {}", host.address, own.join(", ")),
                "name the one that the other hosts reach; another one to log in at goes to ssh.host",
            );
        }
        for (port, what, service) in ports(spec, host) {
            // Of a cluster that runs already.
            if self.services.iter().any(|s| s == service) {
                continue;
            }
            let Some(listener) = self.listeners.iter().find(|l| l.port == port && self.clashes(l, host))
            else {
                continue;
            };
            let next = if listener.who.starts_with("kube") || listener.who.starts_with("k3s") {
                "another Kubernetes runs there: take the host out of it first (kubeadm reset, k3s-uninstall.sh), or use \
                 another host"
            } else {
                "stop it there, or use another host; `ss -ltnp` shows who listens"
            };
            error(format!("port {port} for the {what} is in use by {}", listener.who), next);
        }
        // Where the cluster runs there are routes to its pods.
        if host.is(Role::Worker) && self.services.is_empty() {
            for (network, field) in networks(spec) {
                let clash = self.routes.iter().find(|r| !r.is_default() && overlap(network, r.destination));
                if let Some(route) = clash {
                    error(
                        format!(
                            "network.{field} {network} overlaps its route to {} on {}: pods would not reach what is there, \
                             or nobody pods",
                            route.destination, route.link
                        ),
                        "choose another network in cluster.yaml; `ip route` on the host shows which are taken",
                    );
                }
            }
        }
        if host.is(Role::Worker) && !self.cgroups.is_empty() && !self.cgroups.contains("memory") {
            error(
                "its kernel offers no cgroup controller memory".into(),
                "on a Raspberry Pi add cgroup_enable=memory to the kernel's command line; else use a kernel that has it",
            );
        }
        if let Some(memory) = self.memory.filter(|m| *m < LEAST_MEMORY) {
            error(format!("it has {} MiB of memory", memory >> 10), "use a host with 512 MiB or more");
        }
        out
    }

    /// Ours listen on the host's address or on all, or on loopback.
    fn clashes(&self, listener: &Listener, host: &Host) -> bool {
        let at = listener.address;
        at.is_unspecified() || at == host.address || at.is_loopback()
    }
}

/// The ports of a host's parts: which, what for, and the service that takes it.
fn ports(spec: &ClusterSpec, host: &Host) -> Vec<(u16, &'static str, &'static str)> {
    let mut all = Vec::new();
    if host.is(Role::Worker) {
        all.extend([(10250, "kubelet", "kubelet"), (10053, "cluster DNS", "cox-dns")]);
    }
    if host.is(Role::ControlPlane) {
        all.push((spec.api_server.port, "API server", "kube-apiserver"));
    }
    if spec.etcd_hosts().iter().any(|h| h.name == host.name) {
        all.extend([2379, 2380, 2381].map(|port| (port, "etcd", "etcd")));
    }
    all
}

fn networks(spec: &ClusterSpec) -> Vec<(Ipv4Net, &'static str)> {
    let mut all = vec![(spec.network.service_cidr, "serviceCIDR")];
    // Who brings a pod network of their own may have it there already.
    if spec.network.pod_network != PodNetwork::None {
        all.push((spec.network.pod_cidr, "podCIDR"));
    }
    all
}

fn overlap(network: Ipv4Net, other: IpNet) -> bool {
    let network = IpNet::V4(network);
    network.contains(&other) || other.contains(&network)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "services=\naddresses=192.0.2.1 10.9.0.1 fe80::1\nmemory=2000000\ncgroups=cpuset cpu io memory pids\n\
        route=Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        route=eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        route=eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        port=0.0.0.0:22 users:((\"sshd\",pid=12,fd=3))\nport=[::1]:53\n";

    fn found(more: &str, role: &str) -> Vec<String> {
        let text = format!(
            "name: c\nhosts:\n- {{name: a, address: 192.0.2.1, roles: [{role}]}}\n- {{name: z, address: 192.0.2.9, roles: [control-plane]}}\n"
        );
        let text = if role.contains("control-plane") {
            text.replace("- {name: z, address: 192.0.2.9, roles: [control-plane]}\n", "")
        } else {
            text
        };
        let spec = ClusterSpec::read(&text, &|_| Ok(())).spec.expect("a cluster");
        let clashes = Clashes::read(&format!("{GOOD}{more}"));
        clashes.judge(&spec, &spec.hosts[0]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_in_the_way_is_told_at_once() {
        let check = |more: &str, role: &str, words: &[&str]| {
            let found = found(more, role);
            assert_eq!(found.len(), words.len(), "{more}: {found:?}");
            for (found, word) in found.iter().zip(words) {
                assert!(found.contains(word), "{word:?} in {found:?}");
            }
        };
        check("", "worker", &[]);
        check("addresses=198.51.100.7 \n", "worker", &["192.0.2.1 is no address of it; it has 198.51.100.7"]);
        let kubelet = "port=*:10250 users:((\"kubelet\",pid=77,fd=9))\n";
        check(
            kubelet,
            "worker",
            &["port 10250 for the kubelet is in use by kubelet (pid 77); another Kubernetes"],
        );
        check(&format!("{kubelet}services=kubelet cox-dns\n"), "worker", &[]);
        check(
            "port=192.0.2.1:6443\n",
            "control-plane, worker",
            &["port 6443 for the API server is in use by another process"],
        );
        check("port=192.0.2.1:6443\n", "worker", &[]);
        check("port=10.9.0.1:10250\n", "worker", &[]);
        // 10.244.0.0/20 behind wg0, and 10.0.0.0/8.
        let vpn = "route=wg0\t0000F40A\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0\n";
        check(vpn, "worker", &["network.podCIDR 10.244.0.0/16 overlaps its route to 10.244.0.0/20 on wg0"]);
        check(&format!("{vpn}services=kubelet\n"), "worker", &[]);
        let wide = "route=tun0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n";
        check(wide, "worker", &["network.serviceCIDR", "network.podCIDR"]);
        check("cgroups=cpu pids\n", "worker", &["no cgroup controller memory"]);
        check("memory=200000\n", "worker", &["195 MiB of memory"]);
        check(&format!("{kubelet}{vpn}memory=200000\n"), "worker", &["10250", "podCIDR", "memory"]);
        assert_eq!(Clashes::read("rubbish=\n=\nport=x\nroute=y\n"), Clashes::default());
    }
}
