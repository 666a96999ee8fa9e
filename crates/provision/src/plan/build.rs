//! Puts the plans together.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use pki::CertificatePaths;
use serde::{Deserialize, Serialize};

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
    /// Hosts whose member of etcd joins those that run already, to which it was announced before, with all members
    /// that there are then (`name=URL,...`).
    pub joining: BTreeMap<String, String>,
    /// What a new etcd is told apart by from one before it with the same members; the cluster's name if absent.
    pub etcd_token: Option<String>,
    /// What single hosts are like; those without an entry are as [`Self::containerd`] says.
    pub traits: BTreeMap<String, HostTraits>,
}

/// What a plan has to know of the host that it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostTraits {
    /// The file that names the host's resolvers, where `/etc/resolv.conf` is of no use in pods.
    pub resolv_conf: Option<PathBuf>,
    /// Whether containers may not have a lower out-of-memory score than containerd.
    pub restrict_oom_score: bool,
    /// How containerd stacks image layers there.
    pub snapshotter: String,
}

impl Default for HostTraits {
    /// Those of most machines.
    fn default() -> Self {
        Self { resolv_conf: None, restrict_oom_score: false, snapshotter: "overlayfs".into() }
    }
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
        Self { paths, containerd, joining: BTreeMap::new(), etcd_token: None, traits: BTreeMap::new() }
    }

    /// What containerd is told on a host.
    pub(super) fn containerd_of(&self, host: &str) -> ContainerdConfig {
        let mut config = self.containerd.clone();
        if let Some(traits) = self.traits.get(host) {
            config.restrict_oom_score = traits.restrict_oom_score;
            config.snapshotter.clone_from(&traits.snapshotter);
        }
        config
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

/// What a host shall have that joins by itself; `spec` is the cluster with that host in it.
pub fn plan_joining(
    spec: &ClusterSpec,
    trust: &Trust,
    options: &PlanOptions,
    host: &str,
) -> Result<HostPlan, TrustError> {
    let host = spec.host(host).ok_or_else(|| TrustError::Missing(host.into()))?;
    plan_host(spec, trust, options, host)
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
        sysctls: BTreeMap::new(),
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

    /// The kubeconfig of a part that every node has.
    pub fn node_kubeconfig(&mut self, part: &str, server: &str) -> Result<(), TrustError> {
        let secret = self.trust.node_kubeconfig(part, server)?;
        let path = self.options.paths.kubeconfig(part);
        self.file(&path, 0o600, Content::Secret(secret));
        Ok(())
    }

    pub fn service(&mut self, service: PlannedService) {
        self.plan.services.push(service);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Stage;

    fn spec(more: &str) -> ClusterSpec {
        let text = format!(
            "name: c\nhosts:\n\
             - {{name: cp1, address: 192.0.2.1, roles: [control-plane, worker]}}\n\
             - {{name: cp2, address: 192.0.2.2, roles: [control-plane]}}\n\
             - {{name: n1, address: 192.0.2.3, roles: [worker]}}\n{more}"
        );
        let reading = ClusterSpec::read(&text, &|_| Ok(()));
        reading.spec.unwrap_or_else(|| panic!("{:?}", reading.mistakes))
    }

    fn plans(spec: &ClusterSpec, options: &PlanOptions) -> Vec<HostPlan> {
        let dir = tempfile::tempdir().expect("a directory");
        let now = "2026-07-01T00:00:00Z".parse().expect("a time");
        let (trust, _) = Trust::ensure(dir.path(), spec, now).expect("made");
        let plans = plan(spec, &trust, options).expect("planned");
        assert_eq!(plan(spec, &trust, options).expect("planned"), plans);
        plans
    }

    #[test]
    fn everything_of_ours_can_be_below_one_directory() {
        let mut options = PlanOptions::system();
        options.paths = HostPaths::below(Path::new("/srv/x"));
        for plan in plans(&spec(""), &options) {
            let files = plan.files.iter().map(|f| &f.path);
            let all = files
                .chain(plan.directories.iter().map(|d| &d.path))
                .chain(plan.binaries.iter().map(|b| &b.path));
            for path in all {
                assert!(path.starts_with("/srv/x"), "{}", path.display());
            }
            for service in &plan.services {
                let elsewhere = |w: &&String| w.contains("/etc/") || w.contains("/var/");
                assert_eq!(service.exec.iter().find(elsewhere), None, "{}", service.name);
            }
        }
    }

    #[test]
    fn nodes_go_where_the_servers_can_be_lost() {
        let check = |more: &str, want: &str| {
            let plans = plans(&spec(more), &PlanOptions::system());
            let file = plans[2].file(Path::new("/etc/kubernetes/kubelet.conf")).expect("a kubeconfig");
            assert!(file.content.is_secret() && file.mode == 0o600);
            let text = String::from_utf8_lossy(file.content.bytes()).into_owned();
            assert!(text.contains(&format!("server: {want}\n")), "{more}: want {want}");
            let balancers: Vec<&str> = plans
                .iter()
                .filter(|p| p.services.iter().any(|s| s.stage == Stage::Balancer))
                .map(|p| p.host.as_str())
                .collect();
            balancers.join(" ")
        };
        assert_eq!(check("", "https://127.0.0.1:6444"), "cp1 n1");
        assert_eq!(
            check("apiServer: {endpoint: 'k8s.example.org:443'}\n", "https://k8s.example.org:443"),
            ""
        );
        let lb = "- {name: lb, address: 192.0.2.9, roles: [load-balancer]}\napiServer: {port: 7443, loadBalancer: ";
        assert_eq!(check(&format!("{lb}nginx}}\n"), "https://192.0.2.9:7443"), "lb");
        assert_eq!(check(&format!("{lb}haproxy}}\n"), "https://192.0.2.9:7443"), "lb");
        assert_eq!(check(&format!("{lb}ours}}\n"), "https://127.0.0.1:6444"), "cp1 n1 lb");
    }

    #[test]
    fn a_member_that_joins_says_so() {
        let mut options = PlanOptions::system();
        options.joining.insert("cp2".into(), "cp1=https://192.0.2.1:2380,cp2=https://192.0.2.2:2380".into());
        let plans = plans(&spec(""), &options);
        let says = |i: usize, word: &str| {
            let etcd: &PlannedService = plans[i].service("etcd").expect("a member");
            etcd.exec.iter().any(|w| w == word)
        };
        assert!(says(0, "--initial-cluster-state=new") && says(1, "--initial-cluster-state=existing"));
        assert_eq!(plans[2].service("etcd"), None);
        // Of the stages, each host has those of its roles, in order.
        let stages: Vec<Stage> = plans[0].services.iter().map(|s| s.stage).collect();
        assert!(stages.is_sorted() && stages[0] == Stage::Etcd && stages.last() == Some(&Stage::Node));
    }
}
