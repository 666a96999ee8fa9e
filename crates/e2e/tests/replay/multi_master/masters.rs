//! Units of the masters and of the balancer, as the guide writes them.
use crate::changes::{Change, change};

/// With `ETCD_NAME`, `INTERNAL_IP` and `INITIAL_CLUSTER`.
pub const ETCD: &str = r#"
mkdir -p /etc/etcd /var/lib/etcd
cp /var/lib/kubernetes/ca.pem /var/lib/kubernetes/kubernetes-key.pem /var/lib/kubernetes/kubernetes.pem /etc/etcd/
cat << EOF | sudo tee /etc/systemd/system/etcd.service >/dev/null
        [Unit]
        Description=etcd
        Documentation=https://github.com/coreos

        [Service]
        ExecStart=/usr/local/bin/etcd \\
          --name ${ETCD_NAME} \\
          --cert-file=/etc/etcd/kubernetes.pem \\
          --key-file=/etc/etcd/kubernetes-key.pem \\
          --peer-cert-file=/etc/etcd/kubernetes.pem \\
          --peer-key-file=/etc/etcd/kubernetes-key.pem \\
          --trusted-ca-file=/etc/etcd/ca.pem \\
          --peer-trusted-ca-file=/etc/etcd/ca.pem \\
          --peer-client-cert-auth \\
          --client-cert-auth \\
          --initial-advertise-peer-urls https://${INTERNAL_IP}:2380 \\
          --listen-peer-urls https://${INTERNAL_IP}:2380 \\
          --listen-client-urls https://${INTERNAL_IP}:2379,https://127.0.0.1:2379 \\
          --advertise-client-urls https://${INTERNAL_IP}:2379 \\
          --initial-cluster-token etcd-cluster-0 \\
          --initial-cluster ${INITIAL_CLUSTER} \\
          --initial-cluster-state new \\
          --data-dir=/var/lib/etcd
        Restart=on-failure
        RestartSec=5

        [Install]
        WantedBy=multi-user.target
EOF
sudo systemctl daemon-reload
sudo systemctl enable etcd
sudo systemctl start etcd
"#;

/// Followed by what is asked of etcd.
pub const ETCDCTL: &str = "sudo ETCDCTL_API=3 etcdctl --endpoints=https://127.0.0.1:2379 --cacert=/etc/etcd/ca.pem \
    --cert=/etc/etcd/kubernetes.pem --key=/etc/etcd/kubernetes-key.pem";

/// With `INTERNAL_IP`, `CONTROLLER0_IP` and `CONTROLLER1_IP`.
pub const API_SERVER: &str = r#"
cat << EOF | sudo tee /etc/systemd/system/kube-apiserver.service >/dev/null
  [Unit]
  Description=Kubernetes API Server
  Documentation=https://github.com/kubernetes/kubernetes

  [Service]
  ExecStart=/usr/local/bin/kube-apiserver \\
    --advertise-address=${INTERNAL_IP} \\
    --allow-privileged=true \\
    --apiserver-count=3 \\
    --audit-log-maxage=30 \\
    --audit-log-maxbackup=3 \\
    --audit-log-maxsize=100 \\
    --audit-log-path=/var/log/audit.log \\
    --authorization-mode=Node,RBAC \\
    --bind-address=0.0.0.0 \\
    --client-ca-file=/var/lib/kubernetes/ca.pem \\
    --enable-admission-plugins=NamespaceLifecycle,LimitRanger,ServiceAccount,TaintNodesByCondition,Priority,DefaultTolerationSeconds,DefaultStorageClass,PersistentVolumeClaimResize,MutatingAdmissionWebhook,ValidatingAdmissionWebhook,ResourceQuota \\
    --enable-swagger-ui=true \\
    --etcd-cafile=/var/lib/kubernetes/ca.pem \\
    --etcd-certfile=/var/lib/kubernetes/kubernetes.pem \\
    --etcd-keyfile=/var/lib/kubernetes/kubernetes-key.pem \\
    --etcd-servers=https://$CONTROLLER0_IP:2379,https://$CONTROLLER1_IP:2379 \\
    --event-ttl=1h \\
    --experimental-encryption-provider-config=/var/lib/kubernetes/encryption-config.yaml \\
    --kubelet-certificate-authority=/var/lib/kubernetes/ca.pem \\
    --kubelet-client-certificate=/var/lib/kubernetes/kubernetes.pem \\
    --kubelet-client-key=/var/lib/kubernetes/kubernetes-key.pem \\
    --kubelet-https=true \\
    --runtime-config=api/all \\
    --service-account-key-file=/var/lib/kubernetes/service-account.pem \\
    --service-cluster-ip-range=10.32.0.0/24 \\
    --service-node-port-range=30000-32767 \\
    --tls-cert-file=/var/lib/kubernetes/kubernetes.pem \\
    --tls-private-key-file=/var/lib/kubernetes/kubernetes-key.pem \\
    --v=2 \\
    --kubelet-preferred-address-types=InternalIP,InternalDNS,Hostname,ExternalIP,ExternalDNS
  Restart=on-failure
  RestartSec=5

  [Install]
  WantedBy=multi-user.target
EOF
"#;

pub const API_SERVER_CHANGES: &[Change] = &[
    change("    --enable-swagger-ui=true \\\\\n", "", "gone since v1.24"),
    change(
        "--experimental-encryption-provider-config",
        "--encryption-provider-config",
        "gone since v1.24; renamed",
    ),
    change("    --kubelet-https=true \\\\\n", "", "gone since v1.22"),
    change(
        "    --service-cluster-ip-range",
        "    --service-account-signing-key-file=/var/lib/kubernetes/service-account-key.pem \\\\\n    \
         --service-account-issuer=https://kubernetes.default.svc.cluster.local \\\\\n    --service-cluster-ip-range",
        "required since v1.20: pods' tokens are issued by the API server",
    ),
];

pub const CONTROLLER_MANAGER: &str = r#"
cat << EOF | sudo tee /etc/systemd/system/kube-controller-manager.service >/dev/null
  [Unit]
  Description=Kubernetes Controller Manager
  Documentation=https://github.com/kubernetes/kubernetes

  [Service]
  ExecStart=/usr/local/bin/kube-controller-manager \\
    --address=0.0.0.0 \\
    --cluster-cidr=10.200.0.0/16 \\
    --cluster-name=kubernetes \\
    --cluster-signing-cert-file=/var/lib/kubernetes/ca.pem \\
    --cluster-signing-key-file=/var/lib/kubernetes/ca-key.pem \\
    --kubeconfig=/var/lib/kubernetes/kube-controller-manager.kubeconfig \\
    --allocate-node-cidrs=true \
    --leader-elect=true \\
    --root-ca-file=/var/lib/kubernetes/ca.pem \\
    --service-account-private-key-file=/var/lib/kubernetes/service-account-key.pem \\
    --service-cluster-ip-range=10.32.0.0/24 \\
    --use-service-account-credentials=true \\
    --v=2
  Restart=on-failure
  RestartSec=5

  [Install]
  WantedBy=multi-user.target
EOF
"#;

pub const CONTROLLER_MANAGER_CHANGES: &[Change] =
    &[change("--address=0.0.0.0", "--bind-address=0.0.0.0", "gone since v1.24; renamed")];

pub const SCHEDULER: &str = r#"
cat << EOF | sudo tee /etc/systemd/system/kube-scheduler.service >/dev/null
  [Unit]
  Description=Kubernetes Scheduler
  Documentation=https://github.com/kubernetes/kubernetes

  [Service]
  ExecStart=/usr/local/bin/kube-scheduler \\
    --config=/etc/kubernetes/config/kube-scheduler.yaml \\
    --v=2
  Restart=on-failure
  RestartSec=5

  [Install]
  WantedBy=multi-user.target
EOF
"#;

/// Of the guide's repository.
pub const SCHEDULER_CONFIG: &str = "apiVersion: kubescheduler.config.k8s.io/v1alpha1
kind: KubeSchedulerConfiguration
clientConnection:
  kubeconfig: \"/var/lib/kubernetes/kube-scheduler.kubeconfig\"
leaderElection:
  leaderElect: true
";

pub const SCHEDULER_CONFIG_CHANGES: &[Change] = &[change(
    "kubescheduler.config.k8s.io/v1alpha1",
    "kubescheduler.config.k8s.io/v1",
    "that version was removed in v1.19",
)];

/// `kubelet-rbac-clusterrole.yaml` and `kubelet-rbac-clusterrolebinding.yaml` of the guide's repository.
pub const KUBELET_RBAC: [(&str, &str); 2] = [
    (
        "kubelet-rbac-clusterrole.yaml",
        "apiVersion: rbac.authorization.k8s.io/v1beta1
kind: ClusterRole
metadata:
  annotations:
    rbac.authorization.kubernetes.io/autoupdate: \"true\"
  labels:
    kubernetes.io/bootstrapping: rbac-defaults
  name: system:kube-apiserver-to-kubelet
rules:
  - apiGroups: [\"\"]
    resources: [nodes/proxy, nodes/stats, nodes/log, nodes/spec, nodes/metrics]
    verbs: [\"*\"]
",
    ),
    (
        "kubelet-rbac-clusterrolebinding.yaml",
        "apiVersion: rbac.authorization.k8s.io/v1beta1
kind: ClusterRoleBinding
metadata:
  name: system:kube-apiserver
  namespace: \"\"
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: system:kube-apiserver-to-kubelet
subjects:
  - apiGroup: rbac.authorization.k8s.io
    kind: User
    name: kubernetes
",
    ),
];

pub const KUBELET_RBAC_CHANGES: &[Change] = &[change(
    "rbac.authorization.k8s.io/v1beta1",
    "rbac.authorization.k8s.io/v1",
    "that version of the API was removed in v1.22",
)];

/// With `CONTROLLER0_IP` and `CONTROLLER1_IP`.
pub const BALANCER: &str = r#"
mkdir -p /etc/nginx/tcpconf.d
cat > /etc/nginx/tcpconf.d/kubernetes.conf <<EOF
stream {
    upstream kubernetes {
        server ${CONTROLLER0_IP}:6443;
        server ${CONTROLLER1_IP}:6443;
    }

    server {
        listen 6443;
        listen 443;
        proxy_pass kubernetes;
    }
}
EOF
echo 'include /etc/nginx/tcpconf.d/*;' >> /etc/nginx/nginx.conf
nginx >/dev/null 2>&1
nginx -s reload
"#;
