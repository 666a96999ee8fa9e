//! Units and files of the workers, as the guide writes them, and what it stops short of.
use crate::changes::{Change, change};

/// With `HOSTNAME`.
pub const KUBELET_FILES: &str = r#"
mkdir -p /var/lib/kubelet /var/lib/kube-proxy /var/lib/kubernetes /var/run/kubernetes
mkdir -p /etc/cni/net.d /opt/cni/bin
cd /var/lib/incoming
mv ${HOSTNAME}-key.pem ${HOSTNAME}.pem /var/lib/kubelet/
mv ${HOSTNAME}.kubeconfig /var/lib/kubelet/kubeconfig
mv ca.pem /var/lib/kubernetes/
mv kube-proxy.kubeconfig /var/lib/kube-proxy/kubeconfig
cat << EOF | sudo tee /var/lib/kubelet/kubelet-config.yaml >/dev/null
kind: KubeletConfiguration
apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous:
    enabled: false
  webhook:
    enabled: true
  x509:
    clientCAFile: "/var/lib/kubernetes/ca.pem"
authorization:
  mode: Webhook
clusterDomain: "cluster.local"
clusterDNS:
  - "10.32.0.10"
runtimeRequestTimeout: "15m"
tlsCertFile: "/var/lib/kubelet/${HOSTNAME}.pem"
tlsPrivateKeyFile: "/var/lib/kubelet/${HOSTNAME}-key.pem"
EOF
"#;

/// With `HOSTNAME`.
pub const KUBELET: &str = r#"
cat << EOF | sudo tee /etc/systemd/system/kubelet.service >/dev/null
  [Unit]
  Description=Kubernetes Kubelet
  Documentation=https://github.com/kubernetes/kubernetes
  After=docker.service
  Requires=docker.service

  [Service]
  ExecStart=/usr/local/bin/kubelet \\
    --config=/var/lib/kubelet/kubelet-config.yaml \\
    --image-pull-progress-deadline=2m \\
    --kubeconfig=/var/lib/kubelet/kubeconfig \\
    --network-plugin=cni \\
    --register-node=true \\
    --v=2 \\
    --hostname-override=${HOSTNAME} \\
    --allow-privileged=true
  Restart=on-failure
  RestartSec=5

  [Install]
  WantedBy=multi-user.target
EOF
"#;

/// Without it the unit is not started at all.
pub const RUNTIME: Change =
    change("docker.service", "containerd.service", "Docker's kubelet ended with v1.24; any CRI runtime does");

pub const KUBELET_CHANGES: &[Change] = &[
    change("    --image-pull-progress-deadline=2m \\\\\n", "", "gone since v1.24"),
    change("    --network-plugin=cni \\\\\n", "", "gone since v1.24"),
    change(" \\\\\n    --allow-privileged=true", "", "gone since v1.15"),
];

pub const PROXY: &str = r#"
cat << EOF | sudo tee /var/lib/kube-proxy/kube-proxy-config.yaml >/dev/null
kind: KubeProxyConfiguration
apiVersion: kubeproxy.config.k8s.io/v1alpha1
clientConnection:
  kubeconfig: "/var/lib/kube-proxy/kubeconfig"
mode: "iptables"
clusterCIDR: "10.200.0.0/16"
EOF
cat << EOF | sudo tee /etc/systemd/system/kube-proxy.service >/dev/null
  [Unit]
  Description=Kubernetes Kube Proxy
  Documentation=https://github.com/kubernetes/kubernetes

  [Service]
  ExecStart=/usr/local/bin/kube-proxy \\
    --config=/var/lib/kube-proxy/kube-proxy-config.yaml
  Restart=on-failure
  RestartSec=5

  [Install]
  WantedBy=multi-user.target
EOF
"#;
