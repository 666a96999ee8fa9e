//! Where things lie on a host.

use std::path::{Path, PathBuf};

/// Where things lie on a host: kubeadm's places, so that who knows those finds everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPaths {
    /// Configuration, certificates and kubeconfigs: `/etc/kubernetes`.
    pub config: PathBuf,
    /// Programs that we bring.
    pub bin: PathBuf,
    /// State of the kubelet and of pods' volumes.
    pub kubelet: PathBuf,
    /// Logs of pods.
    pub pod_logs: PathBuf,
    /// Data of etcd.
    pub etcd: PathBuf,
    /// Data of the embedded store.
    pub db: PathBuf,
    /// Configuration of containerd.
    pub containerd_config: PathBuf,
    /// Images and containers.
    pub containerd_root: PathBuf,
    /// What containerd keeps while the machine runs; its socket is in there.
    pub containerd_state: PathBuf,
    /// Configuration of the pod network.
    pub cni_conf: PathBuf,
    /// The CNI plugins.
    pub cni_bin: PathBuf,
    /// Configuration of nginx.
    pub nginx_config: PathBuf,
    /// Configuration of haproxy.
    pub haproxy_config: PathBuf,
    /// Where kernel modules are named that are loaded at each start of the machine, and where kernel settings are; none
    /// where the host is no machine.
    pub at_boot: Option<(PathBuf, PathBuf)>,
    /// The programs of packages.
    pub programs: Programs,
}

/// Programs that come in packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// etcd.
    pub etcd: PathBuf,
    /// containerd.
    pub containerd: PathBuf,
    /// runc.
    pub runc: PathBuf,
    /// nginx.
    pub nginx: PathBuf,
    /// haproxy.
    pub haproxy: PathBuf,
}

impl Default for Programs {
    /// Where Debian puts them.
    fn default() -> Self {
        Self {
            etcd: "/usr/bin/etcd".into(),
            containerd: "/usr/bin/containerd".into(),
            runc: "/usr/sbin/runc".into(),
            nginx: "/usr/sbin/nginx".into(),
            haproxy: "/usr/sbin/haproxy".into(),
        }
    }
}

impl HostPaths {
    /// Those of a machine that belongs to the cluster.
    pub fn system() -> Self {
        Self {
            config: "/etc/kubernetes".into(),
            bin: "/usr/local/bin".into(),
            kubelet: "/var/lib/kubelet".into(),
            pod_logs: "/var/log/pods".into(),
            etcd: "/var/lib/etcd".into(),
            db: "/var/lib/cox/db".into(),
            containerd_config: "/etc/containerd/config.toml".into(),
            containerd_root: "/var/lib/containerd".into(),
            containerd_state: "/run/containerd".into(),
            cni_conf: "/etc/cni/net.d".into(),
            cni_bin: "/usr/lib/cni".into(),
            nginx_config: "/etc/nginx/nginx.conf".into(),
            haproxy_config: "/etc/haproxy/haproxy.cfg".into(),
            at_boot: Some(("/etc/modules-load.d/cox.conf".into(), "/etc/sysctl.d/90-cox.conf".into())),
            programs: Programs::default(),
        }
    }

    /// Everything that is ours below one directory, for a host that shares a machine.
    pub fn below(root: &Path) -> Self {
        Self {
            config: root.join("kubernetes"),
            bin: root.join("bin"),
            kubelet: root.join("kubelet"),
            pod_logs: root.join("logs/pods"),
            etcd: root.join("etcd"),
            db: root.join("db"),
            containerd_config: root.join("containerd/config.toml"),
            containerd_root: root.join("containerd/data"),
            containerd_state: root.join("run/containerd"),
            cni_conf: root.join("cni/net.d"),
            cni_bin: "/usr/lib/cni".into(),
            nginx_config: root.join("nginx/nginx.conf"),
            haproxy_config: root.join("haproxy/haproxy.cfg"),
            at_boot: None,
            programs: Programs::default(),
        }
    }

    /// A file of the trust, as kubeadm names it: `ca.crt`, `etcd/server.key`.
    pub fn pki(&self, file: &str) -> PathBuf {
        self.config.join("pki").join(file)
    }

    /// A kubeconfig: `admin`, `controller-manager`, `scheduler`, `kubelet`, `kube-proxy`, `coredns`.
    pub fn kubeconfig(&self, who: &str) -> PathBuf {
        self.config.join(format!("{who}.conf"))
    }

    /// The link of a part's name to `cox`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// containerd's socket.
    pub fn containerd_socket(&self) -> PathBuf {
        self.containerd_state.join("containerd.sock")
    }

    /// The serving certificate of the kubelet or its key.
    pub fn kubelet_serving(&self, extension: &str) -> PathBuf {
        self.kubelet.join("pki").join(format!("kubelet.{extension}"))
    }

    /// Who signed the API servers' certificates, where haproxy reads it.
    pub fn haproxy_authority(&self) -> PathBuf {
        self.haproxy_config.with_file_name("kubernetes-ca.crt")
    }
}
