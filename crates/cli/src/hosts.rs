//! A cluster of several hosts: what was asked for, what follows from it, and where it is kept.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pki::ClusterPki;
use provision::apply::Host;
use provision::local::{LocalHosts, free_network};
use provision::plan::{HostPlan, HostTraits, PlanOptions, Trust};
use provision::spec::{ClusterSpec, LoadBalancer, Network, Provider, Role, Topology};
use provision::{Facts, Layout, SshHost, find_program};

use crate::args::{Up, Which};
use crate::cluster;
use crate::cluster_file;
use crate::output::Failure;

/// The file with what machines are like that are reached over ssh.
const TRAITS: &str = "traits.json";
/// Most hosts on one machine: their addresses come out of one small network.
const MOST: usize = 100;

/// A cluster of several hosts, in namespaces of this machine or over ssh. Its `cluster.yaml`, with nothing left out, is
/// kept beside its data, so that every later command agrees with the first.
#[derive(Debug, Clone)]
pub struct HostsCluster {
    /// Where it is kept.
    pub layout: Layout,
    /// What it shall be.
    pub spec: ClusterSpec,
}

/// The hosts of a cluster, by who provides them.
#[derive(Debug, Clone)]
pub enum Hosts {
    /// Namespaces of this machine.
    Local(LocalHosts),
    /// Machines over ssh.
    Ssh {
        /// Directory of the sockets of connections.
        control: PathBuf,
        /// Where the program lies on them.
        cox: PathBuf,
        /// Directory of the packages that they may lack.
        packages: Option<PathBuf>,
    },
}

impl Hosts {
    /// One of them, as what plans are carried out on.
    pub fn host(&self, host: &provision::spec::Host) -> Arc<dyn Host> {
        match self {
            Self::Local(hosts) => Arc::new(hosts.host(&host.name)),
            Self::Ssh { control, cox, packages } => {
                Arc::new(SshHost::new(host, control, cox).with_packages(packages.as_deref()))
            }
        }
    }
}

fn unusable(path: &Path, why: &dyn Display) -> Failure {
    Failure::new(format!("cannot use {}: {why}", path.display()), "")
}

/// Where the description of a cluster is kept.
fn kept_file(layout: &Layout) -> PathBuf {
    layout.root().join(cluster_file::DEFAULT)
}

/// Where it is kept what it was before a change that is not complete yet.
fn former_file(layout: &Layout) -> PathBuf {
    layout.root().join("cluster.former.yaml")
}

impl HostsCluster {
    /// The cluster as it was brought up last; `None` if there is none, or it is not of several hosts.
    pub fn kept(which: &Which) -> Result<Option<Self>, Failure> {
        Self::at(cluster::layout(which)?)
    }

    /// The cluster that is kept there.
    pub fn at(layout: Layout) -> Result<Option<Self>, Failure> {
        let path = kept_file(&layout);
        if !path.try_exists().map_err(|e| unusable(&path, &e))? {
            return Ok(None);
        }
        let spec = cluster_file::judged(&path, cluster_file::read(&path)?)?;
        Ok(Some(Self { layout, spec }))
    }

    /// The cluster that `up` is about; `None` if one host will do. Without a word about hosts a cluster keeps those it
    /// has.
    pub fn wanted(options: &Up) -> Result<Option<Self>, Failure> {
        if let Some(file) = options.which.file() {
            let given = [
                ("--nodes", options.nodes.is_some()),
                ("--control-planes", options.control_planes.is_some()),
            ];
            if let Some((flag, _)) = given.into_iter().chain(of_one_host(options)).find(|(_, given)| *given) {
                return Err(Failure::new(
                    format!("{flag} does not go with {}, which says what the cluster is", file.display()),
                    "leave it out, or name another cluster with --name",
                ));
            }
            return Self::described(file, &options.which, options.secure_port).map(Some);
        }
        let kept = Self::kept(&options.which)?;
        let asked = options.nodes.is_some() || options.control_planes.is_some();
        let (Some(mut kept), false) = (kept.clone(), asked) else { return Self::asked(options, kept) };
        if let Some(port) = options.secure_port {
            kept.spec.api_server.local_port = port;
        }
        Ok(Some(kept))
    }

    /// As the file of a command describes it, with another port of this machine if one is given.
    pub fn described(file: &Path, which: &Which, port: Option<u16>) -> Result<Self, Failure> {
        let mut spec = cluster_file::load(file)?;
        // Later commands are given from elsewhere.
        for path in spec.hosts.iter_mut().filter_map(|h| h.ssh.key.as_mut()).chain(&mut spec.packages) {
            *path = std::path::absolute(&*path).map_err(|e| unusable(path, &e))?;
        }
        if let Some(port) = port {
            spec.api_server.local_port = port;
        }
        let layout = cluster::layout(which)?;
        let kept = Self::at(layout.clone())?;
        refuse_one_host(&layout)?;
        match kept {
            Some(kept) if kept.spec.provider != spec.provider => {
                return Err(Failure::new(
                    format!("cluster {:?} is of other hosts: {}", spec.name, kept.whose()),
                    "take another name in the file, or remove that cluster with `cox down --purge`",
                ));
            }
            Some(kept) if spec.provider == Provider::Local => settle_addresses(&kept.spec, &mut spec),
            _ => {}
        }
        Ok(Self { layout, spec })
    }

    /// Who provides the hosts, for people.
    fn whose(&self) -> &'static str {
        match self.spec.provider {
            Provider::Local => "namespaces of this machine",
            Provider::Ssh => "machines over ssh",
        }
    }

    /// How many hosts run pods.
    pub fn nodes(&self) -> usize {
        self.spec.hosts_with(Role::Worker).count()
    }

    /// How many hosts are control planes.
    pub fn control_planes(&self) -> usize {
        self.spec.hosts_with(Role::ControlPlane).count()
    }

    fn asked(options: &Up, kept: Option<Self>) -> Result<Option<Self>, Failure> {
        let had = kept.as_ref().map_or((1, 1), |k| (k.nodes(), k.control_planes()));
        let nodes = options.nodes.unwrap_or(had.0);
        let control_planes = options.control_planes.unwrap_or(had.1.min(nodes));
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
        if nodes == 1 && kept.is_none() {
            return Ok(None);
        }
        let layout = cluster::layout(&options.which)?;
        refuse_one_host(&layout)?;
        let etcd = ("--etcd-servers", !options.etcd.etcd_servers.is_empty());
        if let Some((flag, _)) = of_one_host(options).into_iter().chain([etcd]).find(|(_, given)| *given) {
            return Err(Failure::new(
                format!("{flag} is for a cluster of one host"),
                "leave it out beside --nodes",
            ));
        }
        if let Some(kept) = kept {
            return kept.resized(options, nodes, control_planes).map(Some);
        }
        let host_cidr = free_network(layout.root(), &net::host::routes()).ok_or_else(|| {
            Failure::new(
                "no network is free for the hosts: routes of this machine lead to all of 10.200.0.0/16",
                "see `ip route`; a VPN that takes all of 10.0.0.0/8 has to be off",
            )
        })?;
        let mut spec = ClusterSpec::local(layout.name(), nodes, control_planes, host_cidr);
        spec.api_server.local_port = options.secure_port.unwrap_or(6443);
        spec.network.pod_cidr = options.cluster_cidr;
        spec.network.service_cidr = options.service_cidr;
        spec.network.cluster_dns = tenth(options.service_cidr);
        Ok(Some(Self { layout, spec }))
    }

    /// The same cluster with another number of hosts: those that are there already stay as they are.
    fn resized(mut self, options: &Up, nodes: usize, control_planes: usize) -> Result<Self, Failure> {
        let name = self.layout.name().to_owned();
        let mut wanted = ClusterSpec::local(&name, nodes, control_planes, self.spec.network.host_cidr);
        let numbered = |host: &provision::spec::Host| {
            host.name.strip_prefix(&format!("{name}-")).is_some_and(|n| n.parse::<usize>().is_ok())
        };
        if self.spec.provider != Provider::Local || !self.spec.hosts.iter().all(numbered) {
            return Err(Failure::new(
                format!("the hosts of cluster {name:?} are those of its file, not a number"),
                format!(
                    "edit that file and give it with -f; {} is what holds now",
                    kept_file(&self.layout).display()
                ),
            ));
        }
        for host in &mut wanted.hosts {
            if let Some(kept) = self.spec.host(&host.name) {
                *host = provision::spec::Host { roles: host.roles.clone(), ..kept.clone() };
            }
        }
        self.spec.hosts = wanted.hosts;
        // What keeps objects only ever grows; so does what leads to those that serve them.
        if self.spec.etcd == Topology::Embedded {
            self.spec.etcd = wanted.etcd;
        }
        if self.spec.api_server.load_balancer == LoadBalancer::None {
            self.spec.api_server.load_balancer = wanted.api_server.load_balancer;
        }
        if let Some(port) = options.secure_port {
            self.spec.api_server.local_port = port;
        }
        // Those that are not the defaults were asked for.
        let network = &mut self.spec.network;
        let usual = Network::default();
        if options.cluster_cidr != usual.pod_cidr {
            network.pod_cidr = options.cluster_cidr;
        }
        if options.service_cidr != usual.service_cidr && options.service_cidr != network.service_cidr {
            network.service_cidr = options.service_cidr;
            network.cluster_dns = tenth(options.service_cidr);
        }
        Ok(self)
    }

    /// Keeps the description for later commands.
    pub fn keep(&self) -> Result<(), Failure> {
        self.keep_as(&kept_file(&self.layout))
    }

    /// What the cluster was before a change that is not complete yet.
    pub fn former(&self) -> Result<Option<ClusterSpec>, Failure> {
        let path = former_file(&self.layout);
        if !path.try_exists().map_err(|e| unusable(&path, &e))? {
            return Ok(None);
        }
        cluster_file::judged(&path, cluster_file::read(&path)?).map(Some)
    }

    /// Remembers what the cluster was until a change is complete; `None`: it is.
    pub fn keep_former(&self, former: Option<ClusterSpec>) -> Result<(), Failure> {
        let path = former_file(&self.layout);
        match former {
            Some(spec) => Self { spec, layout: self.layout.clone() }.keep_as(&path),
            None => match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(unusable(&path, &e)),
                _ => Ok(()),
            },
        }
    }

    fn keep_as(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_saphyr::to_string(&self.spec).map_err(|e| unusable(path, &e))?;
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, text)
            .and_then(|()| std::fs::rename(&temporary, path))
            .map_err(|e| unusable(path, &e))
    }

    /// The hosts.
    pub fn hosts(&self) -> Result<Hosts, Failure> {
        match self.spec.provider {
            Provider::Local => self.local().map(Hosts::Local),
            Provider::Ssh => {
                let control = self.layout.run().join("ssh");
                let mut builder = std::fs::DirBuilder::new();
                std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700)
                    .create(&control)
                    .map_err(|e| Failure::new(format!("cannot make {}: {e}", control.display()), ""))?;
                let cox = PlanOptions::system().paths.program("cox");
                Ok(Hosts::Ssh { control, cox, packages: self.spec.packages.clone() })
            }
        }
    }

    fn local(&self) -> Result<LocalHosts, Failure> {
        let program = std::env::current_exe()
            .map_err(|e| Failure::new(format!("cannot find this program: {e}"), ""))?;
        Ok(LocalHosts::new(&self.layout, self.spec.network.host_cidr, program))
    }

    /// Where things lie on the hosts, and what this machine needs containerd to be told where it provides them.
    pub fn plan_options(&self) -> PlanOptions {
        let mut options = PlanOptions::system();
        if self.spec.provider == Provider::Ssh {
            options.traits = self.traits();
            return options;
        }
        let facts = Facts::gather(self.layout.root(), &[]);
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

    /// What the machines are like, as `up` found them last.
    fn traits(&self) -> BTreeMap<String, HostTraits> {
        let kept = std::fs::read(self.layout.root().join(TRAITS)).unwrap_or_default();
        serde_json::from_slice(&kept).unwrap_or_default()
    }

    /// Keeps what the machines are like, so that later commands plan for them as `up` does.
    pub fn keep_traits(&self, traits: &BTreeMap<String, HostTraits>) -> Result<(), Failure> {
        let path = self.layout.root().join(TRAITS);
        let text = serde_json::to_vec_pretty(traits).map_err(|e| unusable(&path, &e))?;
        std::fs::write(&path, text).map_err(|e| unusable(&path, &e))
    }

    /// Everything that proves who is who: made where it is missing; what is doubtful is told.
    pub fn trust(&self) -> Result<Trust, Failure> {
        let (trust, report) = Trust::ensure(&self.layout.pki(), &self.spec, jiff::Timestamp::now())
            .map_err(|e| Failure::of(&e))?;
        for warning in &report.warnings {
            crate::output::note(&format!("  warning: {warning}"));
        }
        Ok(trust)
    }

    /// The same as far as it is there; makes nothing.
    pub fn known(&self) -> Result<Trust, Failure> {
        Trust::read(&self.layout.pki(), &self.spec).map_err(|e| Failure::of(&e))
    }

    /// What each host shall have.
    pub fn plans(&self, trust: &Trust) -> Result<Vec<HostPlan>, Failure> {
        provision::plan::plan(&self.spec, trust, &self.plan_options()).map_err(|e| Failure::of(&e))
    }

    /// The admin kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        ClusterPki::kubeconfig(&self.layout.kubeconfigs(), "admin")
    }

    /// Where this machine reaches the API servers.
    pub fn server(&self) -> String {
        match self.spec.provider {
            Provider::Local => format!("https://127.0.0.1:{}", self.spec.api_server.local_port),
            Provider::Ssh => format!("https://{}", self.spec.endpoint()),
        }
    }

    /// Where the logs of services are, for people.
    pub fn logs_hint(&self) -> String {
        match self.spec.provider {
            Provider::Local => {
                format!("logs of each host's services are in {}/HOST", self.layout.logs().display())
            }
            Provider::Ssh => "`journalctl -u SERVICE` on the host tells more".into(),
        }
    }
}

/// Hosts of this machine keep their addresses wherever in the file they stand; new ones get those that are free.
fn settle_addresses(kept: &ClusterSpec, spec: &mut ClusterSpec) {
    let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
    for host in &mut spec.hosts {
        if let Some(known) = kept.host(&host.name) {
            host.address = known.address;
            taken.insert(known.address);
        }
    }
    // Of those that go, too: they run until the others have taken over.
    taken.extend(kept.hosts.iter().map(|h| h.address));
    // The first is this machine's.
    let mut free = spec.network.host_cidr.hosts().skip(1).map(IpAddr::V4);
    for host in spec.hosts.iter_mut().filter(|h| kept.host(&h.name).is_none()) {
        if !taken.insert(host.address)
            && let Some(address) = free.find(|a| !taken.contains(a))
        {
            host.address = address;
            taken.insert(address);
        }
    }
}

/// Where the cluster DNS is by custom.
fn tenth(service_cidr: ipnet::Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(service_cidr.network()).saturating_add(10))
}

/// Flags that are for one host alone, and whether they were given.
fn of_one_host(options: &Up) -> [(&'static str, bool); 4] {
    [
        ("--no-node", options.no_node),
        ("--foreground", options.foreground),
        ("--node-name", options.node_name.is_some()),
        ("--node-ip", options.node_ip.is_some()),
    ]
}

fn refuse_one_host(layout: &Layout) -> Result<(), Failure> {
    if !layout.root().join(cluster::SETTINGS).exists() {
        return Ok(());
    }
    Err(Failure::new(
        format!("cluster {:?} lives in this machine itself, without hosts of its own", layout.name()),
        "take another --name, or remove it with `cox down --purge`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(dir: &Path) -> HostsCluster {
        let spec = ClusterSpec::local("a", 3, 3, "10.200.7.0/24".parse().unwrap());
        HostsCluster { layout: Layout::new(dir, "a").unwrap(), spec }
    }

    fn up(dir: &Path, more: &[&str]) -> Up {
        let dir = dir.display().to_string();
        options(&[&["cox", "up", "--name", "a", "--data-dir", &dir], more].concat())
    }

    fn options(line: &[&str]) -> Up {
        use clap::Parser as _;
        match crate::args::Cli::try_parse_from(line).unwrap().command {
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
        assert_eq!(ask(&[]).unwrap().unwrap().spec, cluster.spec);
        let more = ask(&["--nodes=4", "--control-planes=3"]).unwrap().unwrap();
        assert_eq!((more.nodes(), more.spec.network.host_cidr), (4, cluster.spec.network.host_cidr));
        // What is not said stays.
        let fewer = ask(&["--nodes=2"]).unwrap().unwrap();
        assert_eq!((fewer.nodes(), fewer.control_planes(), fewer.spec.etcd), (2, 2, Topology::Stacked));
        let one = ask(&["--nodes=1"]).unwrap().unwrap();
        assert_eq!((one.nodes(), one.control_planes(), one.spec.etcd), (1, 1, Topology::Stacked));
        assert!(ask(&["--control-planes=4"]).unwrap_err().what.contains("do not fit"));
    }

    #[test]
    fn hosts_keep_their_addresses_when_one_before_them_goes() {
        let kept = ClusterSpec::local("a", 3, 3, "10.200.7.0/24".parse().unwrap());
        let mut spec = ClusterSpec::local("a", 4, 3, "10.200.7.0/24".parse().unwrap());
        spec.hosts.remove(1);
        // As a file without addresses would number them.
        for (host, number) in spec.hosts.iter_mut().zip(2..) {
            host.address = IpAddr::from([10, 200, 7, number]);
        }
        settle_addresses(&kept, &mut spec);
        let found: Vec<String> = spec.hosts.iter().map(|h| format!("{} {}", h.name, h.address)).collect();
        assert_eq!(found, ["a-1 10.200.7.2", "a-3 10.200.7.4", "a-4 10.200.7.5"]);
    }

    #[test]
    fn a_file_says_all_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mine.yaml");
        let key = dir.path().join("id");
        pki::write_private(&key, b"-----BEGIN OPENSSH PRIVATE KEY-----\n").unwrap();
        let text = "name: b\nssh: {user: me, sudo: true, key: id}\nhosts:\n- {name: one, address: 192.0.2.1, roles: [control-plane, worker]}\n- {name: two, address: 192.0.2.2, roles: [worker]}\n";
        std::fs::write(&file, text).unwrap();
        let ask = |more: &[&str]| {
            let (dir, file) = (dir.path().display().to_string(), file.display().to_string());
            HostsCluster::wanted(&options(&[&["cox", "up", "-f", &file, "--data-dir", &dir], more].concat()))
        };
        assert!(ask(&["--nodes=3"]).unwrap_err().what.contains("--nodes does not go with"));
        let cluster = ask(&[]).unwrap().unwrap();
        assert_eq!((cluster.layout.name(), cluster.server().as_str()), ("b", "https://192.0.2.1:6443"));
        assert_eq!(cluster.spec.hosts[0].ssh.key.as_deref(), Some(key.as_path()));
        std::fs::create_dir_all(cluster.layout.root()).unwrap();
        cluster.keep().unwrap();
        assert_eq!(HostsCluster::at(cluster.layout.clone()).unwrap().unwrap().spec, cluster.spec);
        std::fs::write(
            &file,
            format!("provider: local\n{}", text.replace("192.0.2", "10.89.0").replace("0.1,", "0.3,")),
        )
        .unwrap();
        assert!(ask(&[]).unwrap_err().what.contains("is of other hosts"));
    }
}
