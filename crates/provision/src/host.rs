//! What one host of a cluster shall become, and the steps to it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use async_trait::async_trait;
use images::Source;
use ipnet::IpNet;
use jiff::Timestamp;
use pki::{ClusterPki, KeyAlgorithm, NodeIdentity, PkiSpec};

use crate::encryption::EncryptionKey;
use crate::{
    Containerd, ContainerdConfig, Facts, Finding, Layout, Neighbour, ProcessRecord, Step, WantedNetwork,
    WantedPort, Wish, check, ensure_system_images, files, system_images::system_images_present,
};

/// What a host of a local cluster shall become.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Where its files lie.
    pub layout: Layout,
    /// Name of its Node object, and of the host in certificates.
    pub node_name: String,
    /// Addresses others reach it by.
    pub addresses: Vec<IpAddr>,
    /// The one that it tells others; the first of [`Self::addresses`] unless it has none.
    pub advertise_address: IpAddr,
    /// Port of the API server; 0 takes a free one, and then kubeconfigs are not written here.
    pub secure_port: u16,
    /// Further names and addresses of the API server.
    pub extra_names: Vec<String>,
    /// Ranges of Services.
    pub service_cidrs: Vec<IpNet>,
    /// Ranges of pods.
    pub pod_cidrs: Vec<IpNet>,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// Whether the host runs pods.
    pub node: bool,
    /// Further TCP ports that its parts will listen on, what for, and the flag that chooses another.
    pub other_ports: Vec<(u16, String, &'static str)>,
    /// Other clusters that run pods on this machine.
    pub neighbours: Vec<Neighbour>,
    /// Kind of the certificates' keys.
    pub algorithm: KeyAlgorithm,
    /// What the system images are made of.
    pub images: Source,
}

impl HostConfig {
    /// The defaults for this host: its name, its addresses, upstream's networks and ports.
    pub async fn detect(layout: Layout) -> anyhow::Result<Self> {
        let found = net::host::addresses().await.context("cannot list the host's addresses")?;
        let primary = net::host::primary_address(&found, &net::host::routes());
        let advertise_address = primary.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let mut addresses: Vec<IpAddr> = primary.into_iter().collect();
        addresses.extend(found.iter().map(|a| a.address).filter(|a| Some(*a) != primary));
        Ok(Self {
            layout,
            node_name: node_name(&rustix::system::uname().nodename().to_string_lossy()),
            addresses,
            advertise_address,
            secure_port: 6443,
            extra_names: Vec::new(),
            service_cidrs: vec!["10.96.0.0/12".parse()?],
            pod_cidrs: vec!["10.244.0.0/16".parse()?],
            cluster_domain: "cluster.local".into(),
            node: true,
            other_ports: Vec::new(),
            neighbours: Vec::new(),
            algorithm: KeyAlgorithm::default(),
            images: Source::of_this_host().context("cannot find the running program")?,
        })
    }

    /// Where the parts on this host reach the API server.
    pub fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.secure_port)
    }

    /// The cluster's trust.
    pub fn pki(&self) -> ClusterPki {
        ClusterPki::at(self.layout.pki())
    }

    /// What the trust is made for.
    pub fn pki_spec(&self) -> PkiSpec {
        let node = NodeIdentity { name: self.node_name.clone(), addresses: self.addresses.clone() };
        let mut names = vec![self.node_name.clone()];
        names.extend(self.extra_names.iter().cloned());
        PkiSpec {
            api_server_names: names,
            api_server_addresses: self.addresses.clone(),
            service_cidrs: self.service_cidrs.clone(),
            cluster_domain: self.cluster_domain.clone(),
            nodes: if self.node { vec![node] } else { Vec::new() },
            algorithm: self.algorithm,
            service_account_algorithm: self.algorithm,
            ..PkiSpec::default()
        }
    }

    /// The kubeconfig of `admin`, `kube-controller-manager`, `kube-scheduler` or `kube-proxy`.
    pub fn kubeconfig(&self, part: &str) -> PathBuf {
        ClusterPki::kubeconfig(&self.layout.kubeconfigs(), part)
    }

    /// The kubeconfig of this host's kubelet.
    pub fn kubelet_kubeconfig(&self) -> PathBuf {
        self.kubeconfig(&format!("kubelet-{}", self.node_name))
    }

    /// What the cluster's containerd is told, given what the host is like.
    pub fn containerd_config(&self, facts: &Facts) -> ContainerdConfig {
        ContainerdConfig {
            sandbox_image: format!("{}:{}", images::PAUSE, self.images.version),
            cni_bin_dir: facts.cni_bin_dir.clone(),
            snapshotter: facts.snapshotter().to_owned(),
            restrict_oom_score: !facts.can_lower_oom_score,
        }
    }

    fn wish(&self) -> Wish {
        let any: IpAddr = Ipv6Addr::UNSPECIFIED.into();
        let own = (self.secure_port, "API server".to_owned(), "--secure-port");
        let ports = [own].into_iter().chain(self.other_ports.iter().cloned());
        let ports = ports.map(|(port, what, flag)| WantedPort { address: any, port, what, flag }).collect();
        let networks = |cidrs: &[IpNet], what, flag| -> Vec<WantedNetwork> {
            cidrs.iter().map(|network| WantedNetwork { network: *network, what, flag }).collect()
        };
        let mut all = networks(&self.pod_cidrs, "pod network", "--cluster-cidr");
        all.extend(networks(&self.service_cidrs, "service network", "--service-cidr"));
        Wish {
            node: self.node,
            ports,
            networks: all,
            neighbours: self.neighbours.clone(),
            own_processes: own_processes(&self.layout),
            running: Containerd::find(&self.layout).is_some(),
        }
    }
}

/// A host name as the name of a Node: lower case, and nothing that DNS names may not have.
fn node_name(host: &str) -> String {
    let name: String = host
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .take(253)
        .collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

/// The numbers of all processes recorded for the cluster that still run.
pub fn own_processes(layout: &Layout) -> Vec<i32> {
    fs::read_dir(layout.run())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.path().extension().is_some_and(|e| e == "process"))
        .filter_map(|e| ProcessRecord::read(&e.path()))
        .filter(ProcessRecord::is_alive)
        .map(|r| r.pid)
        .collect()
}

/// What stands in the way of a host becoming what it shall, errors first. Changes nothing.
pub fn preflight(config: &HostConfig) -> Vec<Finding> {
    let wish = config.wish();
    let ports: Vec<u16> = wish.ports.iter().map(|p| p.port).collect();
    check(&Facts::gather(config.layout.root(), &ports), &wish)
}

/// The steps before a control plane can start: directories, certificates, kubeconfigs.
pub fn control_plane(config: &HostConfig) -> Vec<Box<dyn Step>> {
    let mut steps: Vec<Box<dyn Step>> =
        vec![Box::new(Directories(config.clone())), Box::new(Certificates(config.clone()))];
    steps.push(Box::new(EncryptionKey(config.layout.clone())));
    if config.secure_port != 0 {
        steps.push(Box::new(Kubeconfigs(config.clone())));
    }
    steps
}

/// The steps before a kubelet can start, after [`control_plane`]'s: kernel settings, containerd, system images.
///
/// They need nothing of a control plane and can run beside its start.
pub fn node(config: &HostConfig) -> Vec<Box<dyn Step>> {
    vec![
        Box::new(Kernel(config.clone())),
        Box::new(Runtime(config.clone())),
        Box::new(Images(config.clone())),
    ]
}

struct Directories(HostConfig);

#[async_trait]
impl Step for Directories {
    fn name(&self) -> &'static str {
        "directories"
    }

    async fn is_done(&self) -> bool {
        self.0.layout.is_prepared()
    }

    async fn apply(&mut self) -> anyhow::Result<String> {
        self.0.layout.prepare()?;
        Ok(self.0.layout.root().display().to_string())
    }
}

struct Certificates(HostConfig);

#[async_trait]
impl Step for Certificates {
    fn name(&self) -> &'static str {
        "certificates"
    }

    async fn is_done(&self) -> bool {
        self.0.pki().is_complete(&self.0.pki_spec(), Timestamp::now())
    }

    async fn apply(&mut self) -> anyhow::Result<String> {
        let (pki, spec) = (self.0.pki(), self.0.pki_spec());
        let report = tokio::task::spawn_blocking(move || pki.ensure(&spec, Timestamp::now())).await??;
        for warning in &report.warnings {
            tracing::warn!("{warning}");
        }
        let made = report.items.iter().filter(|i| i.action != pki::Action::Kept);
        let told: Vec<String> = made
            .clone()
            .filter_map(|i| match &i.action {
                pki::Action::Renewed { because } => Some(format!("{}: {because}", stem(&i.path))),
                _ => None,
            })
            .collect();
        let count = made.count();
        Ok(if told.is_empty() {
            format!("{count} made")
        } else {
            format!("{count} made ({})", told.join("; "))
        })
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

struct Kubeconfigs(HostConfig);

#[async_trait]
impl Step for Kubeconfigs {
    fn name(&self) -> &'static str {
        "kubeconfigs"
    }

    async fn is_done(&self) -> bool {
        let c = &self.0;
        c.pki().kubeconfigs_are_complete(&c.layout.kubeconfigs(), c.layout.name(), &c.server(), &c.pki_spec())
    }

    async fn apply(&mut self) -> anyhow::Result<String> {
        let c = &self.0;
        let dir = c.layout.kubeconfigs();
        c.pki().ensure_kubeconfigs(&dir, c.layout.name(), &c.server(), &c.pki_spec())?;
        Ok(dir.display().to_string())
    }
}

struct Kernel(HostConfig);

impl Kernel {
    fn wanted(&self) -> Vec<(PathBuf, &'static str)> {
        let mut all = vec![(PathBuf::from("/proc/sys/net/ipv4/ip_forward"), "1")];
        if self.0.pod_cidrs.iter().any(|c| c.addr().is_ipv6()) {
            all.push((PathBuf::from("/proc/sys/net/ipv6/conf/all/forwarding"), "1"));
        }
        all
    }
}

fn setting(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[async_trait]
impl Step for Kernel {
    fn name(&self) -> &'static str {
        "kernel settings"
    }

    async fn is_done(&self) -> bool {
        self.wanted().iter().all(|(path, value)| setting(path) == *value)
    }

    async fn apply(&mut self) -> anyhow::Result<String> {
        let record = self.0.layout.host_changes();
        let mut former: std::collections::BTreeMap<PathBuf, String> =
            files::read_json(&record).unwrap_or_default();
        let mut told = Vec::new();
        for (path, value) in self.wanted() {
            let found = setting(&path);
            if found == value {
                continue;
            }
            // Recorded first: what is changed is always known, even if this is the last thing we do.
            former.entry(path.clone()).or_insert(found);
            files::write_json(&record, &former)?;
            fs::write(&path, value).with_context(|| {
                format!(
                    "cannot set {} to {value}; pods could reach nothing. In a container, set it from outside",
                    path.display()
                )
            })?;
            told.push(format!("{} = {value}", path.display()));
        }
        Ok(told.join(", "))
    }
}

struct Runtime(HostConfig);

#[async_trait]
impl Step for Runtime {
    fn name(&self) -> &'static str {
        "containerd"
    }

    async fn is_done(&self) -> bool {
        let facts = Facts::gather(self.0.layout.root(), &[]);
        Containerd::is_current(&self.0.layout, &self.0.containerd_config(&facts)).await
    }

    async fn apply(&mut self) -> anyhow::Result<String> {
        let facts = Facts::gather(self.0.layout.root(), &[]);
        let running = Containerd::ensure(&self.0.layout, &self.0.containerd_config(&facts)).await?;
        Ok(format!("started, pid {}", running.process().record().pid))
    }
}

struct Images(HostConfig);

#[async_trait]
impl Step for Images {
    fn name(&self) -> &'static str {
        "system images"
    }

    async fn is_done(&self) -> bool {
        let Some(containerd) = Containerd::find(&self.0.layout) else { return false };
        system_images_present(&self.0.layout, containerd.cri(), &self.0.images).await.unwrap_or(false)
    }

    async fn apply(&mut self) -> anyhow::Result<String> {
        let containerd = Containerd::find(&self.0.layout).context("containerd does not run")?;
        let facts = Facts::gather(self.0.layout.root(), &[]);
        // A container that waits for its image should not wait for ever: the import of a large binary takes seconds.
        let import = ensure_system_images(
            &self.0.layout,
            containerd.cri(),
            self.0.images.clone(),
            facts.snapshotter(),
        );
        tokio::time::timeout(Duration::from_secs(300), import)
            .await
            .context("the import takes too long")??;
        Ok("imported".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_become_node_names() {
        let check = |host: &str, want: &str| assert_eq!(node_name(host), want, "{host}");
        check("Laptop", "laptop");
        check("my_host.example.org", "my-host.example.org");
        check("-x-", "x");
        check("(none)", "none");
        check("", "localhost");
    }
}
