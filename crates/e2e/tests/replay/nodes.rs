//! What guides leave to other guides: a container runtime, the pod network, the cluster DNS, something to run.
use anyhow::{Result, ensure};

use crate::hosts::Host;
use crate::images::{HYPERKUBE, PAUSE};

const CONTAINERD: &str = r#"
mkdir -p /etc/containerd /etc/cni/net.d
cat > /etc/containerd/config.toml <<EOF
version = 2
oom_score = 0
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${PAUSE}"
  # Nobody here may lower it.
  restrict_oom_score_adj = true
EOF
cat > /etc/systemd/system/containerd.service <<EOF
[Unit]
Description=containerd container runtime
[Service]
ExecStartPre=-/sbin/modprobe overlay
ExecStart=/usr/bin/containerd
Restart=always
RestartSec=5
[Install]
WantedBy=multi-user.target
EOF
systemctl start containerd
"#;

/// In place of Docker, which the kubelet speaks to no more since v1.24.
pub fn start_containerd(host: &Host) -> Result<()> {
    host.sh(&format!("PAUSE={PAUSE}\n{CONTAINERD}"))?;
    host.until("containerd answers", "ctr version", |_| true)?;
    Ok(())
}

/// As hard-way guides write it, with `POD_CIDR`.
const CNI: &str = r#"
cat <<EOF | sudo tee /etc/cni/net.d/10-bridge.conf >/dev/null
{
    "cniVersion": "0.3.1",
    "name": "bridge",
    "type": "bridge",
    "bridge": "cnio0",
    "isGateway": true,
    "ipMasq": true,
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "${POD_CIDR}"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
    }
}
EOF
cat <<EOF | sudo tee /etc/cni/net.d/99-loopback.conf >/dev/null
{
    "cniVersion": "0.3.1",
    "name": "lo",
    "type": "loopback"
}
EOF
# What a pod is answered by another of its node goes by the bridge alone otherwise.
if [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]; then echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables; fi
"#;

/// The CNI files of a node whose part of the pod network is known.
pub fn write_network(node: &Host, cidr: &str) -> Result<()> {
    node.sh(&format!("POD_CIDR={cidr}\n{CNI}")).map(drop)
}

/// The pod network by CNI files and static routes. `kubectl` runs on `admin`.
pub fn network(admin: &Host, kubectl: &str, nodes: &[&Host], others: &[&Host]) -> Result<()> {
    for node in nodes {
        let ask = format!("{kubectl} get node {} -o jsonpath={{.spec.podCIDR}}", node.name);
        let cidr = admin.until("a node gets its network", &ask, |cidr| cidr.contains('/'))?;
        write_network(node, &cidr)?;
        for other in nodes.iter().chain(others).filter(|other| other.name != node.name) {
            other.sh(&format!("ip route replace {cidr} via {}", node.address))?;
        }
    }
    Ok(())
}

/// The cluster DNS at an address, and a web server on every node.
pub fn workload(dns: &str) -> String {
    WORKLOAD.replace("IMAGE", HYPERKUBE).replace("DNS_ADDRESS", dns)
}

const WORKLOAD: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: coredns, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: system:coredns}
rules:
- {apiGroups: [""], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: system:coredns}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:coredns}
subjects: [{kind: ServiceAccount, name: coredns, namespace: kube-system}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: coredns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  replicas: 2
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      serviceAccountName: coredns
      dnsPolicy: Default
      containers:
      - name: coredns
        image: IMAGE
        command: [/hyperkube, dns, "--listen=$(POD_IP):53"]
        env: [{name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
        ports: [{name: dns, containerPort: 53, protocol: UDP}, {name: dns-tcp, containerPort: 53}]
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  clusterIP: DNS_ADDRESS
  selector: {k8s-app: kube-dns}
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: IMAGE
        command: [/hyperkube, hello]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
"#;

/// From a pod of each node: every other node's pod by its address, and the Service by its name.
pub fn talk(admin: &Host, kubectl: &str, nodes: usize) -> Result<()> {
    let ready = format!("{kubectl} get ds web -o jsonpath={{.status.numberReady}}");
    admin.until("the pods are ready", &ready, |n| n == nodes.to_string())?;
    let list = format!(
        "{kubectl} get pods -l app=web -o jsonpath='{{range .items[*]}}{{.metadata.name}} {{.status.podIP}} {{.spec.nodeName}}{{\"\\n\"}}{{end}}'"
    );
    let listed = admin.sh(&list)?;
    let pods: Vec<Vec<&str>> = listed.lines().map(|line| line.split(' ').collect()).collect();
    ensure!(pods.len() == nodes && pods.iter().all(|pod| pod.len() == 3), "{listed}");
    for from in &pods {
        for to in &pods {
            let ask = format!("{kubectl} exec {} -- wget -qO- http://{}:8080/", from[0], to[1]);
            admin.until("pods across nodes", &ask, |page| page.contains(to[0]))?;
        }
        let ask = format!("{kubectl} exec {} -- wget -qO- http://web.default.svc.cluster.local/", from[0]);
        admin.until("the Service by its name", &ask, |page| page.contains("web-"))?;
        let asked = format!("{kubectl} logs {} --tail=20", from[0]);
        admin.until("logs", &asked, |_| true)?;
    }
    Ok(())
}
