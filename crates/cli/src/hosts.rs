//! A local cluster of several hosts: what was asked for, what follows from it, and where it is kept.
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::Ipv4Net;
use pki::ClusterPki;
use provision::local::{LocalHosts, free_network};
use provision::plan::{PlanOptions, Trust};
use provision::spec::ClusterSpec;
use provision::{Facts, Layout, find_program};
use serde::{Deserialize, Serialize};

use crate::args::{Up, Which};
use crate::cluster;
use crate::output::Failure;

/// What a cluster of several hosts is like. Kept beside its data, so that every later command agrees with the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// How many hosts run pods.
    pub nodes: usize,
    /// How many of them are control planes too.
    pub control_planes: usize,
    /// Port of this machine's loopback address that leads to the API servers.
    pub secure_port: u16,
    /// Network of the pods.
    pub cluster_cidr: Ipv4Net,
    /// Network of the Services.
    pub service_cidr: Ipv4Net,
    /// Network of the hosts.
    pub host_cidr: Ipv4Net,
}

/// The file that keeps the settings, in the cluster's directory.
const SETTINGS: &str = "hosts.json";
/// Most hosts on one machine: their addresses come out of one small network.
const MOST: usize = 100;

/// A local cluster of several hosts.
#[derive(Debug, Clone)]
pub struct HostsCluster {
    /// Where it is kept.
    pub layout: Layout,
    /// What it is like.
    pub settings: Settings,
}

fn unusable(path: &std::path::Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("cannot use {}: {why}", path.display()), "")
}

impl HostsCluster {
    /// The cluster as it was brought up last; `None` if there is none, or it is not of several hosts.
    pub fn kept(which: &Which) -> Result<Option<Self>, Failure> {
        let layout = cluster::layout(which)?;
        let path = layout.root().join(SETTINGS);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let settings = serde_json::from_slice(&bytes).map_err(|e| unusable(&path, &e))?;
                Ok(Some(Self { layout, settings }))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(unusable(&path, &e)),
        }
    }

    /// The cluster that `up` is about; `None` if one host will do. Without a word about hosts a cluster keeps those it
    /// has.
    pub fn wanted(options: &Up) -> Result<Option<Self>, Failure> {
        let kept = Self::kept(&options.which)?;
        let asked = options.nodes.is_some() || options.control_planes.is_some();
        let (Some(kept), false) = (&kept, asked) else { return Self::asked(options, kept) };
        let settings = Settings {
            secure_port: options.secure_port.unwrap_or(kept.settings.secure_port),
            ..kept.settings.clone()
        };
        Ok(Some(Self { layout: kept.layout.clone(), settings }))
    }

    fn asked(options: &Up, kept: Option<Self>) -> Result<Option<Self>, Failure> {
        let nodes = options.nodes.unwrap_or(1);
        let control_planes = options.control_planes.unwrap_or(1);
        if nodes == 0 || control_planes == 0 {
            return Err(Failure::new(
                "a cluster has at least one node and one control plane",
                "for a control plane alone there is --no-node",
            ));
        }
        if control_planes > nodes {
            return Err(Failure::new(
                format!("{control_planes} control planes do not fit into {nodes} nodes"),
                "--nodes counts all hosts, and the first ones are control planes too; raise --nodes",
            ));
        }
        if nodes > MOST {
            return Err(Failure::new(
                format!("{nodes} hosts are too many for one machine"),
                format!("at most {MOST}"),
            ));
        }
        if nodes == 1 {
            return match kept {
                Some(kept) => Err(kept.other(nodes, control_planes)),
                None => Ok(None),
            };
        }
        let layout = cluster::layout(&options.which)?;
        if layout.root().join(cluster::SETTINGS).exists() {
            return Err(Failure::new(
                format!("cluster {:?} lives in this machine itself, without hosts of its own", layout.name()),
                "take another --name, or remove it with `cox down --purge`",
            ));
        }
        let refused = [
            ("--no-node", options.no_node),
            ("--foreground", options.foreground),
            ("--node-name", options.node_name.is_some()),
            ("--node-ip", options.node_ip.is_some()),
            ("--etcd-servers", !options.etcd.etcd_servers.is_empty()),
        ];
        if let Some((flag, _)) = refused.iter().find(|(_, given)| *given) {
            return Err(Failure::new(
                format!("{flag} is for a cluster of one host"),
                "leave it out beside --nodes",
            ));
        }
        let host_cidr = match &kept {
            Some(kept) if kept.settings.control_planes != control_planes || kept.settings.nodes > nodes => {
                return Err(kept.other(nodes, control_planes));
            }
            Some(kept) => kept.settings.host_cidr,
            None => free_network(layout.root(), &net::host::routes()).ok_or_else(|| {
                Failure::new(
                    "no network is free for the hosts: routes of this machine lead to all of 10.200.0.0/16",
                    "see `ip route`; a VPN that takes all of 10.0.0.0/8 has to be off",
                )
            })?,
        };
        let settings = Settings {
            nodes,
            control_planes,
            secure_port: options.secure_port.unwrap_or(6443),
            cluster_cidr: options.cluster_cidr,
            service_cidr: options.service_cidr,
            host_cidr,
        };
        Ok(Some(Self { layout, settings }))
    }

    fn other(&self, nodes: usize, control_planes: usize) -> Failure {
        let Settings { nodes: has, control_planes: leads, .. } = self.settings;
        Failure::new(
            format!(
                "cluster {:?} has {has} nodes, {leads} of them control planes, and cannot become one of {nodes} and \
                 {control_planes}",
                self.layout.name()
            ),
            "nodes can be added; for all else make another with --name, or remove it with `cox down --purge` first",
        )
    }

    /// Keeps the settings for later commands.
    pub fn keep(&self) -> Result<(), Failure> {
        let path = self.layout.root().join(SETTINGS);
        let mut text = serde_json::to_vec_pretty(&self.settings).map_err(|e| Failure::of(&e))?;
        text.push(b'\n');
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, text)
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|e| unusable(&path, &e))
    }

    /// The cluster as `cluster.yaml` would describe it.
    pub fn spec(&self) -> ClusterSpec {
        let settings = &self.settings;
        let mut spec = ClusterSpec::local(
            self.layout.name(),
            settings.nodes,
            settings.control_planes,
            settings.host_cidr,
        );
        spec.network.pod_cidr = settings.cluster_cidr;
        spec.network.service_cidr = settings.service_cidr;
        spec.network.cluster_dns =
            std::net::Ipv4Addr::from(u32::from(settings.service_cidr.network()).saturating_add(10));
        spec
    }

    /// The hosts.
    pub fn hosts(&self) -> Result<LocalHosts, Failure> {
        let program = std::env::current_exe()
            .map_err(|e| Failure::new(format!("cannot find this program: {e}"), ""))?;
        Ok(LocalHosts::new(&self.layout, self.settings.host_cidr, program))
    }

    /// Where things lie on the hosts, and what this machine needs containerd to be told.
    pub fn plan_options(&self) -> PlanOptions {
        let facts = Facts::gather(self.layout.root(), &[]);
        let mut options = PlanOptions::system();
        // A kernel is not set up by its guests.
        options.paths.at_boot = None;
        options.paths.cni_bin.clone_from(&facts.cni_bin_dir);
        options.containerd.cni_bin_dir.clone_from(&facts.cni_bin_dir);
        options.containerd.snapshotter = facts.snapshotter().to_owned();
        options.containerd.restrict_oom_score = !facts.can_lower_oom_score;
        let programs = &mut options.paths.programs;
        for (program, path) in [
            ("etcd", &mut programs.etcd),
            ("containerd", &mut programs.containerd),
            ("runc", &mut programs.runc),
        ] {
            if let Some(found) = find_program(program) {
                *path = found;
            }
        }
        options
    }

    /// Everything that proves who is who.
    pub fn trust(&self, spec: &ClusterSpec) -> Result<Trust, Failure> {
        let (trust, report) =
            Trust::ensure(&self.layout.pki(), spec, jiff::Timestamp::now()).map_err(|e| Failure::of(&e))?;
        for warning in &report.warnings {
            tracing::warn!("{warning}");
        }
        Ok(trust)
    }

    /// The admin kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        ClusterPki::kubeconfig(&self.layout.kubeconfigs(), "admin")
    }

    /// Where this machine reaches the API servers.
    pub fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.settings.secure_port)
    }

    /// A host as what plans are carried out on.
    pub fn host(hosts: &LocalHosts, name: &str) -> Arc<dyn provision::apply::Host> {
        Arc::new(hosts.host(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(dir: &std::path::Path) -> HostsCluster {
        let settings = Settings {
            nodes: 3,
            control_planes: 3,
            secure_port: 6443,
            cluster_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.32.0.0/24".parse().unwrap(),
            host_cidr: "10.200.7.0/24".parse().unwrap(),
        };
        HostsCluster { layout: Layout::new(dir, "a").unwrap(), settings }
    }

    fn up(dir: &std::path::Path, more: &[&str]) -> Up {
        use clap::Parser as _;
        let dir = dir.display().to_string();
        let line = ["cox", "up", "--name", "a", "--data-dir", &dir];
        match crate::args::Cli::try_parse_from(line.iter().chain(more)).unwrap().command {
            crate::args::Command::Up(options) => *options,
            _ => panic!("another verb"),
        }
    }

    #[test]
    fn hosts_are_counted_as_nodes_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let ask = |more: &[&str]| HostsCluster::wanted(&up(dir.path(), more));
        assert!(ask(&[]).unwrap().is_none());
        assert!(ask(&["--nodes=1"]).unwrap().is_none());
        assert!(ask(&["--control-planes=3"]).unwrap_err().what.contains("do not fit"));
        assert!(ask(&["--nodes=3", "--no-node"]).unwrap_err().what.contains("--no-node"));

        let cluster = cluster(dir.path());
        std::fs::create_dir_all(cluster.layout.root()).unwrap();
        cluster.keep().unwrap();
        assert_eq!(ask(&[]).unwrap().unwrap().settings, cluster.settings);
        let more = ask(&["--nodes=4", "--control-planes=3"]).unwrap().unwrap();
        assert_eq!((more.settings.nodes, more.settings.host_cidr), (4, cluster.settings.host_cidr));
        for other in [&["--nodes=2", "--control-planes=2"][..], &["--nodes=3"], &["--nodes=1"]] {
            assert!(ask(other).unwrap_err().what.contains("cannot become"), "{other:?}");
        }
    }

    #[test]
    fn the_first_hosts_are_control_planes_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = cluster(dir.path());
        cluster.settings.control_planes = 1;
        let spec = cluster.spec();
        let roles: Vec<usize> = spec.hosts.iter().map(|h| h.roles.len()).collect();
        assert_eq!(roles, [2, 1, 1]);
        assert_eq!(spec.network.cluster_dns.to_string(), "10.32.0.10");
    }
}
