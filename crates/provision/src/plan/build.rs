//! Puts the plans together.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use pki::CertificatePaths;

use super::{
    BinarySource, Content, HostPaths, HostPlan, PlannedBinary, PlannedDirectory, PlannedFile, PlannedService,
    Secret, Trust, TrustError, balancer, control_plane, etcd, node,
};
use crate::ContainerdConfig;
use crate::spec::{ClusterSpec, Host, Role};

/// The links that a control plane has.
const CONTROL_PLANE: [&str; 3] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];
/// The links that a node has.
const NODE: [&str; 2] = ["kubelet", "kube-proxy"];

/// What plans depend on beside the cluster.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// Where things lie on the hosts.
    pub paths: HostPaths,
    /// What containerd is told.
    pub containerd: ContainerdConfig,
    /// Hosts whose member of etcd joins those that run already: they are announced to these before they start.
    pub joining: BTreeSet<String>,
}

impl PlanOptions {
    /// For machines that belong to the cluster.
    pub fn system() -> Self {
        let paths = HostPaths::system();
        let containerd = ContainerdConfig {
            sandbox_image: images::pause_image(),
            cni_bin_dir: paths.cni_bin.clone(),
            snapshotter: "overlayfs".into(),
            restrict_oom_score: false,
        };
        Self { paths, containerd, joining: BTreeSet::new() }
    }
}

/// A plan that is being put together.
pub(super) struct Building<'a> {
    pub spec: &'a ClusterSpec,
    pub trust: &'a Trust,
    pub options: &'a PlanOptions,
    pub host: &'a Host,
    pub plan: HostPlan,
}

/// What every host of a cluster shall have, in the order of `cluster.yaml`. Touches nothing, and says the same whenever
/// it is asked the same.
pub fn plan(spec: &ClusterSpec, trust: &Trust, options: &PlanOptions) -> Result<Vec<HostPlan>, TrustError> {
    spec.hosts.iter().map(|host| plan_host(spec, trust, options, host)).collect()
}

fn plan_host(
    spec: &ClusterSpec,
    trust: &Trust,
    options: &PlanOptions,
    host: &Host,
) -> Result<HostPlan, TrustError> {
    let plan = HostPlan {
        host: host.name.clone(),
        address: host.address,
        directories: Vec::new(),
        files: Vec::new(),
        services: Vec::new(),
        packages: Vec::new(),
        binaries: Vec::new(),
        modules: Vec::new(),
        sysctls: std::collections::BTreeMap::new(),
        runtime: None,
    };
    let mut building = Building { spec, trust, options, host, plan };
    building.binaries();
    building.directory(&options.paths.config, 0o755);
    building.directory(&options.paths.config.join("pki"), 0o700);
    etcd::add(&mut building)?;
    control_plane::add(&mut building)?;
    balancer::add(&mut building)?;
    node::add(&mut building)?;
    let mut plan = building.plan;
    plan.services.sort_by_key(|s| s.stage);
    plan.files.sort_by(|a, b| a.path.cmp(&b.path));
    plan.directories.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(plan)
}

impl Building<'_> {
    fn binaries(&mut self) {
        let paths = &self.options.paths;
        let cox = paths.program("cox");
        self.plan.binaries.push(PlannedBinary { path: cox.clone(), source: BinarySource::Cox });
        let roles: [(Role, &[&str]); 2] = [(Role::ControlPlane, &CONTROL_PLANE), (Role::Worker, &NODE)];
        for (role, links) in roles {
            for link in links.iter().filter(|_| self.host.is(role)) {
                let source = BinarySource::LinkTo(cox.clone());
                self.plan.binaries.push(PlannedBinary { path: paths.program(link), source });
            }
        }
    }

    pub fn package(&mut self, name: &str) {
        if !self.plan.packages.iter().any(|p| p == name) {
            self.plan.packages.push(name.to_owned());
        }
    }

    pub fn directory(&mut self, path: &Path, mode: u32) {
        if !self.plan.directories.iter().any(|d| d.path == path) {
            self.plan.directories.push(PlannedDirectory { path: path.to_owned(), mode });
        }
    }

    /// Plans a file once, and the directory it is in.
    pub fn file(&mut self, path: &Path, mode: u32, content: Content) {
        if self.plan.file(path).is_some() {
            return;
        }
        if let Some(parent) = path.parent() {
            self.directory(parent, 0o755);
        }
        let mode = if content.is_secret() { mode & 0o600 } else { mode };
        self.plan.files.push(PlannedFile { path: path.to_owned(), mode, content });
    }

    pub fn text(&mut self, path: &Path, mode: u32, text: impl Into<String>) {
        self.file(path, mode, Content::Text(text.into()));
    }

    /// A file of the trust, at its place among kubeadm's.
    pub fn trusted(&mut self, name: &str, from: &Path) -> Result<(), TrustError> {
        let content = self.trust.content(from)?;
        let mode = if content.is_secret() { 0o600 } else { 0o644 };
        let path: PathBuf = self.options.paths.pki(name);
        self.file(&path, mode, content);
        Ok(())
    }

    /// The certificate of the cluster's authority.
    pub fn authority(&mut self) -> Result<(), TrustError> {
        let certificate = self.trust.pki().authority().certificate;
        self.trusted("ca.crt", &certificate)
    }

    pub fn kubeconfig(&mut self, who: &str, of: &CertificatePaths, server: &str) -> Result<(), TrustError> {
        let secret: Secret = self.trust.kubeconfig(of, server)?;
        let path = self.options.paths.kubeconfig(who);
        self.file(&path, 0o600, Content::Secret(secret));
        Ok(())
    }

    pub fn service(&mut self, service: PlannedService) {
        self.plan.services.push(service);
    }
}
