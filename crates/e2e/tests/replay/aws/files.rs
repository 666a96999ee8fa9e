//! Files and units of the guide.
use crate::changes::{Change, change};

/// One certificate for everything; with `KUBERNETES_PUBLIC_IP_ADDRESS`.
pub const CERTIFICATES: &str = r#"
mkdir -p /opt/certs; cd /opt/certs
echo '{
  "signing": {
    "default": {
      "expiry": "8760h"
    },
    "profiles": {
      "kubernetes": {
        "usages": ["signing", "key encipherment", "server auth", "client auth"],
        "expiry": "8760h"
      }
    }
  }
}' > ca-config.json
echo '{
  "CN": "Kubernetes",
  "key": {
    "algo": "rsa",
    "size": 2048
  },
  "names": [
    {
      "C": "NO",
      "L": "Oslo",
      "O": "Kubernetes",
      "OU": "CA",
      "ST": "Oslo"
    }
  ]
}' > ca-csr.json
cfssl gencert -initca ca-csr.json | cfssljson -bare ca
cat > kubernetes-csr.json <<EOF
{
  "CN": "kubernetes",
  "hosts": [
    "etcd1",
    "etcd2",
    "controller1",
    "controller2",
    "worker1",
    "worker2",
    "10.0.0.1",
    "10.0.0.245",
    "10.0.0.246",
    "10.0.0.137",
    "10.0.0.138",
    "10.0.0.181",
    "10.0.0.182",
    "${KUBERNETES_PUBLIC_IP_ADDRESS}",
    "127.0.0.1"
  ],
  "key": {
    "algo": "rsa",
    "size": 2048
  },
  "names": [
    {
      "C": "NO",
      "L": "Oslo",
      "O": "Kubernetes",
      "OU": "Cluster",
      "ST": "Oslo"
    }
  ]
}
EOF
cfssl gencert \
  -ca=ca.pem \
  -ca-key=ca-key.pem \
  -config=ca-config.json \
  -profile=kubernetes \
  kubernetes-csr.json | cfssljson -bare kubernetes
"#;

/// With `INTERNAL_IP` and `ETCD_NAME`.
pub const ETCD: &str = r#"
cd /opt
cat > etcd.service <<"EOF"
[Unit]
Description=etcd
Documentation=https://github.com/coreos

[Service]
ExecStart=/usr/bin/etcd --name ETCD_NAME \
  --cert-file=/etc/etcd/kubernetes.pem \
  --key-file=/etc/etcd/kubernetes-key.pem \
  --peer-cert-file=/etc/etcd/kubernetes.pem \
  --peer-key-file=/etc/etcd/kubernetes-key.pem \
  --trusted-ca-file=/etc/etcd/ca.pem \
  --peer-trusted-ca-file=/etc/etcd/ca.pem \
  --initial-advertise-peer-urls https://INTERNAL_IP:2380 \
  --listen-peer-urls https://INTERNAL_IP:2380 \
  --listen-client-urls https://INTERNAL_IP:2379,http://127.0.0.1:2379 \
  --advertise-client-urls https://INTERNAL_IP:2379 \
  --initial-cluster-token etcd-cluster-0 \
  --initial-cluster etcd1=https://10.0.0.245:2380,etcd2=https://10.0.0.246:2380 \
  --initial-cluster-state new \
  --data-dir=/var/lib/etcd
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
EOF
sed -i s/INTERNAL_IP/$INTERNAL_IP/g etcd.service
sed -i s/ETCD_NAME/$ETCD_NAME/g etcd.service
sudo mv etcd.service /etc/systemd/system/
sudo systemctl daemon-reload
sudo systemctl enable etcd
sudo systemctl start etcd
"#;

pub const HEALTH: &str = "sudo etcdctl --ca-file=/etc/etcd/ca.pem cluster-health";

pub const HEALTH_CHANGES: &[Change] = &[
    change(
        "sudo etcdctl",
        "sudo ETCDCTL_API=3 etcdctl",
        "the guide's is version 2, which etcd 3 speaks no more by itself",
    ),
    change(
        "--ca-file=/etc/etcd/ca.pem",
        "--cacert=/etc/etcd/ca.pem --cert=/etc/etcd/kubernetes.pem --key=/etc/etcd/kubernetes-key.pem",
        "etcd 3 asks for a client certificate wherever it has --trusted-ca-file",
    ),
    change(
        "cluster-health",
        "--endpoints=https://10.0.0.245:2379,https://10.0.0.246:2379 endpoint health",
        "renamed in version 3, which does not mix http on 127.0.0.1 with the members' https",
    ),
];

pub const TOKENS: &str = "chAng3m3,admin,admin
chAng3m3,scheduler,scheduler
chAng3m3,kubelet,kubelet
";

pub const POLICY: &str = r#"{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"user":"*", "nonResourcePath": "*", "readonly": true}}
{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"user":"admin", "namespace": "*", "resource": "*", "apiGroup": "*"}}
{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"user":"scheduler", "namespace": "*", "resource": "*", "apiGroup": "*"}}
{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"user":"kubelet", "namespace": "*", "resource": "*", "apiGroup": "*"}}
{"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": {"group":"system:serviceaccounts", "namespace": "*", "resource": "*", "apiGroup": "*", "nonResourcePath": "*"}}
"#;

pub const API_SERVER: &str = r#"
cd /opt
cat > kube-apiserver.service <<"EOF"
[Unit]
Description=Kubernetes API Server
Documentation=https://github.com/GoogleCloudPlatform/kubernetes

[Service]
ExecStart=/usr/bin/kube-apiserver \
  --admission-control=NamespaceLifecycle,LimitRanger,SecurityContextDeny,ServiceAccount,ResourceQuota \
  --advertise-address=INTERNAL_IP \
  --allow-privileged=true \
  --apiserver-count=2 \
  --authorization-mode=ABAC \
  --authorization-policy-file=/var/lib/kubernetes/authorization-policy.jsonl \
  --bind-address=0.0.0.0 \
  --enable-swagger-ui=true \
  --etcd-cafile=/var/lib/kubernetes/ca.pem \
  --insecure-bind-address=0.0.0.0 \
  --kubelet-certificate-authority=/var/lib/kubernetes/ca.pem \
  --etcd-servers=https://10.0.0.245:2379,https://10.0.0.246:2379 \
  --service-account-key-file=/var/lib/kubernetes/kubernetes-key.pem \
  --service-cluster-ip-range=10.32.0.0/24 \
  --service-node-port-range=30000-32767 \
  --tls-cert-file=/var/lib/kubernetes/kubernetes.pem \
  --tls-private-key-file=/var/lib/kubernetes/kubernetes-key.pem \
  --token-auth-file=/var/lib/kubernetes/token.csv \
  --v=2
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
EOF
"#;

pub const API_SERVER_CHANGES: &[Change] = &[
    change(",SecurityContextDeny", "", "that plugin was removed in v1.30"),
    change("  --enable-swagger-ui=true \\\n", "", "gone since v1.24"),
    change("  --insecure-bind-address=0.0.0.0 \\\n", "", "gone since v1.24"),
    change(
        "  --etcd-servers",
        "  --etcd-certfile=/var/lib/kubernetes/kubernetes.pem \\\n  --etcd-keyfile=/var/lib/kubernetes/kubernetes-key.pem \\\n  --etcd-servers",
        "etcd 3 asks for a client certificate wherever it has --trusted-ca-file",
    ),
    change(
        "  --service-cluster-ip-range",
        "  --service-account-signing-key-file=/var/lib/kubernetes/kubernetes-key.pem \\\n  \
         --service-account-issuer=https://kubernetes.default.svc.cluster.local \\\n  --service-cluster-ip-range",
        "required since v1.20: pods' tokens are issued by the API server",
    ),
];

pub const CONTROLLER_MANAGER: &str = r#"
cd /opt
cat > kube-controller-manager.service <<"EOF"
[Unit]
Description=Kubernetes Controller Manager
Documentation=https://github.com/GoogleCloudPlatform/kubernetes

[Service]
ExecStart=/usr/bin/kube-controller-manager \
  --allocate-node-cidrs=true \
  --cluster-cidr=10.200.0.0/16 \
  --cluster-name=kubernetes \
  --leader-elect=true \
  --master=http://INTERNAL_IP:8080 \
  --root-ca-file=/var/lib/kubernetes/ca.pem \
  --service-account-private-key-file=/var/lib/kubernetes/kubernetes-key.pem \
  --service-cluster-ip-range=10.32.0.0/24 \
  --v=2
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
EOF
"#;

pub const SCHEDULER: &str = r#"
cd /opt
cat > kube-scheduler.service <<"EOF"
[Unit]
Description=Kubernetes Scheduler
Documentation=https://github.com/GoogleCloudPlatform/kubernetes

[Service]
ExecStart=/usr/bin/kube-scheduler \
  --leader-elect=true \
  --master=http://INTERNAL_IP:8080 \
  --v=2
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
EOF
"#;

pub const MASTER_CHANGES: &[Change] = &[change(
    "--master=http://INTERNAL_IP:8080",
    "--kubeconfig=/var/lib/kubernetes/kubeconfig",
    "nothing is served without TLS and credentials since v1.24",
)];

/// With `UNIT` and `INTERNAL_IP`.
pub const START: &str = r#"
cd /opt
sed -i s/INTERNAL_IP/$INTERNAL_IP/g $UNIT.service
sudo mv $UNIT.service /etc/systemd/system/
sudo systemctl daemon-reload
sudo systemctl enable $UNIT
sudo systemctl start $UNIT
"#;

/// For `NAME.kubeconfig`: with `SERVER`, `CA` and `NAME`.
pub const KUBECONFIG: &str = r#"
{ kubectl config set-cluster kubernetes --certificate-authority=$CA --embed-certs=true --server=$SERVER --kubeconfig=$NAME
kubectl config set-credentials admin --token chAng3m3 --kubeconfig=$NAME
kubectl config set-context default --cluster=kubernetes --user=admin --kubeconfig=$NAME
kubectl config use-context default --kubeconfig=$NAME; } >/dev/null
"#;

/// The guide leaves the load balancer to be done.
pub const HAPROXY: &str = r#"
mkdir -p /etc/haproxy
cat > /etc/haproxy/haproxy.cfg <<EOF
defaults
    mode tcp
    timeout connect 2s
    timeout client 10m
    timeout server 10m

frontend kubernetes
    bind *:443
    default_backend controllers

backend controllers
    balance roundrobin
    option httpchk
    # The policy lets those read it who are somebody.
    http-check send meth GET uri /readyz hdr Authorization "Bearer chAng3m3"
    http-check expect status 200
    default-server check check-ssl verify none inter 500ms fall 2 rise 2 on-marked-down shutdown-sessions
    server controller1 10.0.0.137:6443
    server controller2 10.0.0.138:6443
EOF
cat > /etc/systemd/system/haproxy.service <<EOF
[Service]
ExecStart=/usr/sbin/haproxy -W -db -f /etc/haproxy/haproxy.cfg
Restart=always
EOF
systemctl start haproxy
"#;
