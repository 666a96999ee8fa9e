//! Files of the guide, for coreos1 (192.168.24.11) and a worker.
use crate::changes::{Change, change};

/// With `K8S_SERVICE_IP`, `MASTER_HOST`, and one worker.
pub const CERTIFICATES: &str = r#"
mkdir -p /opt/k8s_tls_assets; cd /opt/k8s_tls_assets
openssl genrsa -out ca-key.pem 2048
openssl req -x509 -new -nodes -key ca-key.pem -days 10000 -out ca.pem \
  -subj "/CN=kube-ca"
cat > openssl.cnf <<EOF
[req]
req_extensions = v3_req
distinguished_name = req_distinguished_name
[req_distinguished_name]
[ v3_req ]
basicConstraints = CA:FALSE
keyUsage = nonRepudiation, digitalSignature, keyEncipherment
subjectAltName = @alt_names
[alt_names]
DNS.1 = kubernetes
DNS.2 = kubernetes.default
DNS.3 = kubernetes.default.svc
DNS.4 = kubernetes.default.svc.cluster.local
IP.1 = ${K8S_SERVICE_IP}
IP.2 = ${MASTER_HOST}
EOF
openssl genrsa -out apiserver-key.pem 2048
openssl req -new -key apiserver-key.pem -out apiserver.csr -subj "/CN=kube-apiserver" -config openssl.cnf
openssl x509 -req -in apiserver.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -out apiserver.pem -days 365 -extensions v3_req -extfile openssl.cnf
cat > worker-openssl.cnf <<EOF
[req]
req_extensions = v3_req
distinguished_name = req_distinguished_name
[req_distinguished_name]
[ v3_req ]
basicConstraints = CA:FALSE
keyUsage = nonRepudiation, digitalSignature, keyEncipherment
subjectAltName = @alt_names
[alt_names]
IP.1 = \$ENV::WORKER_IP
EOF
for worker in 192.168.24.11:coreos1 192.168.24.12:coreos2; do
WORKER_IP=${worker%%:*} WORKER_FQDN=${worker##*:}
openssl genrsa -out ${WORKER_FQDN}-worker-key.pem 2048
WORKER_IP=${WORKER_IP} openssl req -new -key ${WORKER_FQDN}-worker-key.pem -out ${WORKER_FQDN}-worker.csr -subj "/CN=${WORKER_FQDN}" -config worker-openssl.cnf
WORKER_IP=${WORKER_IP} openssl x509 -req -in ${WORKER_FQDN}-worker.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -out ${WORKER_FQDN}-worker.pem -days 365 -extensions v3_req -extfile worker-openssl.cnf
done
openssl genrsa -out admin-key.pem 2048
openssl req -new -key admin-key.pem -out admin.csr -subj "/CN=kube-admin"
openssl x509 -req -in admin.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -out admin.pem -days 365
# In place of http://127.0.0.1:8080, which is no more. The parts' own certificates need extensions; the guide's
# administrator has none.
openssl x509 -req -in admin.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -out parts.pem -days 365 -extensions v3_req -extfile openssl.cnf
cp admin-key.pem parts-key.pem
for who in admin parts coreos1-worker coreos2-worker; do
  kubectl config set-cluster coreos --certificate-authority=ca.pem --embed-certs=true --server=https://${MASTER_HOST}:443 --kubeconfig=$who.kubeconfig
  kubectl config set-credentials $who --client-certificate=$who.pem --client-key=$who-key.pem --embed-certs=true --kubeconfig=$who.kubeconfig
  kubectl config set-context default --cluster=coreos --user=$who --kubeconfig=$who.kubeconfig
  kubectl config use-context default --kubeconfig=$who.kubeconfig
done
"#;

/// The guide's own page of it is empty; with `NAME` and `IP`.
pub const ETCD: &str = r#"
cat > /etc/systemd/system/etcd2.service <<EOF
[Service]
ExecStart=/usr/local/bin/etcd --name $NAME --data-dir /var/lib/etcd2 --advertise-client-urls http://$IP:2379 \
  --listen-client-urls http://0.0.0.0:2379 --initial-advertise-peer-urls http://$IP:2380 --listen-peer-urls http://$IP:2380 \
  --initial-cluster coreos1=http://192.168.24.11:2380,coreos2=http://192.168.24.12:2380 --initial-cluster-state new
Restart=always
EOF
systemctl start etcd2
"#;

/// With `HOST_IP`: the guide writes 192.168.24.11.
pub const KUBELET: &str = r#"
cat > /etc/systemd/system/kubelet.service <<EOF
[Service]
ExecStartPre=/usr/bin/mkdir -p /etc/kubernetes/manifests

Environment=KUBELET_VERSION=v1.2.3_coreos.cni.1
ExecStart=/opt/bin/kubelet-wrapper \
  --api-servers=http://127.0.0.1:8080 \
  --network-plugin-dir=/etc/kubernetes/cni/net.d \
  --network-plugin=cni \
  --register-schedulable=false \
  --allow-privileged=true \
  --config=/etc/kubernetes/manifests \
  --hostname-override=${HOST_IP} \
  --cluster-dns=10.3.0.10 \
  --cluster-domain=cluster.local
Restart=always
RestartSec=10

[Install]
WantedBy=multi-user.target
EOF
"#;

/// Without it nothing is started at all.
pub const WRAPPER: Change = change(
    "/opt/bin/kubelet-wrapper",
    "/usr/local/bin/kubelet",
    "rkt, which the wrapper ran it in, ended in 2020",
);

pub const KUBELET_CHANGES: &[Change] = &[
    change(
        "--api-servers=http://127.0.0.1:8080",
        "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig --client-ca-file=/etc/kubernetes/ssl/ca.pem",
        "gone since v1.8; a kubelet lets nobody in whom it does not know",
    ),
    change(
        "  --network-plugin-dir=/etc/kubernetes/cni/net.d \\\n",
        "",
        "gone: the container runtime reads CNI files",
    ),
    change("  --network-plugin=cni \\\n", "", "gone since v1.24"),
    change(
        "--register-schedulable=false",
        "--register-with-taints=node-role.kubernetes.io/master=:NoSchedule",
        "gone since v1.34",
    ),
    change("  --allow-privileged=true \\\n", "", "gone since v1.15"),
    change(
        "--config=/etc/kubernetes/manifests",
        "--pod-manifest-path=/etc/kubernetes/manifests",
        "renamed in v1.4; the old name is a file's",
    ),
];

pub const API_SERVER: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: kube-apiserver
  namespace: kube-system
spec:
  hostNetwork: true
  containers:
  - name: kube-apiserver
    image: quay.io/coreos/hyperkube:v1.2.3_coreos.0
    command:
    - /hyperkube
    - apiserver
    - --bind-address=0.0.0.0
    - --etcd-servers=http://192.168.24.11:2379,http://192.168.24.12:2379
    - --allow-privileged=true
    - --service-cluster-ip-range=10.3.0.0/24
    - --secure-port=443
    - --advertise-address=192.168.24.11
    - --admission-control=NamespaceLifecycle,NamespaceExists,LimitRanger,SecurityContextDeny,ServiceAccount,ResourceQuota
    - --tls-cert-file=/etc/kubernetes/ssl/apiserver.pem
    - --tls-private-key-file=/etc/kubernetes/ssl/apiserver-key.pem
    - --client-ca-file=/etc/kubernetes/ssl/ca.pem
    - --service-account-key-file=/etc/kubernetes/ssl/apiserver-key.pem
    - --runtime-config=extensions/v1beta1=true,extensions/v1beta1/thirdpartyresources=true
    ports:
    - containerPort: 443
      hostPort: 443
      name: https
    - containerPort: 8080
      hostPort: 8080
      name: local
    volumeMounts:
    - mountPath: /etc/kubernetes/ssl
      name: ssl-certs-kubernetes
      readOnly: true
    - mountPath: /etc/ssl/certs
      name: ssl-certs-host
      readOnly: true
  volumes:
  - hostPath:
      path: /etc/kubernetes/ssl
    name: ssl-certs-kubernetes
  - hostPath:
      path: /usr/share/ca-certificates
    name: ssl-certs-host
"#;

pub const IMAGE: Change =
    change("quay.io/coreos/hyperkube:v1.2.3_coreos.0", "localhost/hyperkube:v1.36.0", "the image's name");

pub const API_SERVER_CHANGES: &[Change] = &[
    IMAGE,
    change(",SecurityContextDeny", "", "that plugin was removed in v1.30"),
    change(
        "    - --runtime-config=extensions/v1beta1=true,extensions/v1beta1/thirdpartyresources=true\n",
        "",
        "that group was removed in v1.22, its third party resources in v1.8",
    ),
    change(
        "    - --service-account-key-file",
        "    - --service-account-signing-key-file=/etc/kubernetes/ssl/apiserver-key.pem\n    - --service-account-issuer=https://kubernetes.default.svc\n    \
         - --service-account-key-file",
        "required since v1.20: pods' tokens are issued by the API server",
    ),
];

pub const PROXY: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: kube-proxy
  namespace: kube-system
spec:
  hostNetwork: true
  containers:
  - name: kube-proxy
    image: quay.io/coreos/hyperkube:v1.2.3_coreos.0
    command:
    - /hyperkube
    - proxy
    - --master=http://127.0.0.1:8080
    - --proxy-mode=iptables
    securityContext:
      privileged: true
    volumeMounts:
    - mountPath: /etc/ssl/certs
      name: ssl-certs-host
      readOnly: true
  volumes:
  - hostPath:
      path: /usr/share/ca-certificates
    name: ssl-certs-host
"#;

pub const PROXY_CHANGES: &[Change] = &[
    IMAGE,
    change(
        "--master=http://127.0.0.1:8080",
        "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig\n    - --master=https://192.168.24.11:443",
        "nothing is served without TLS and credentials since v1.24",
    ),
    MOUNT,
    VOLUME,
];

const MOUNT: Change = change(
    "    volumeMounts:\n",
    "    volumeMounts:\n    - {mountPath: /etc/kubernetes, name: etc-kubernetes, readOnly: true}\n",
    "for the kubeconfig",
);
const VOLUME: Change = change(
    "  volumes:\n",
    "  volumes:\n  - {hostPath: {path: /etc/kubernetes}, name: etc-kubernetes}\n",
    "for the kubeconfig",
);

pub const CONTROLLER_MANAGER: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: kube-controller-manager
  namespace: kube-system
spec:
  hostNetwork: true
  containers:
  - name: kube-controller-manager
    image: quay.io/coreos/hyperkube:v1.2.3_coreos.0
    command:
    - /hyperkube
    - controller-manager
    - --master=http://127.0.0.1:8080
    - --leader-elect=true 
    - --service-account-private-key-file=/etc/kubernetes/ssl/apiserver-key.pem
    - --root-ca-file=/etc/kubernetes/ssl/ca.pem
    livenessProbe:
      httpGet:
        host: 127.0.0.1
        path: /healthz
        port: 10252
      initialDelaySeconds: 15
      timeoutSeconds: 1
    volumeMounts:
    - mountPath: /etc/kubernetes/ssl
      name: ssl-certs-kubernetes
      readOnly: true
    - mountPath: /etc/ssl/certs
      name: ssl-certs-host
      readOnly: true
  volumes:
  - hostPath:
      path: /etc/kubernetes/ssl
    name: ssl-certs-kubernetes
  - hostPath:
      path: /usr/share/ca-certificates
    name: ssl-certs-host
"#;

pub const CONTROLLER_MANAGER_CHANGES: &[Change] = &[
    IMAGE,
    change(
        "--master=http://127.0.0.1:8080",
        "--kubeconfig=/etc/kubernetes/parts.kubeconfig",
        "nothing is served without TLS and credentials since v1.24",
    ),
    change(
        "port: 10252",
        "port: 10257\n        scheme: HTTPS",
        "that port was closed in v1.24; health is told over TLS",
    ),
    MOUNT,
    VOLUME,
];

pub const SCHEDULER: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: kube-scheduler
  namespace: kube-system
spec:
  hostNetwork: true
  containers:
  - name: kube-scheduler
    image: quay.io/coreos/hyperkube:v1.2.3_coreos.0
    command:
    - /hyperkube
    - scheduler
    - --master=http://127.0.0.1:8080
    - --leader-elect=true
    livenessProbe:
      httpGet:
        host: 127.0.0.1
        path: /healthz
        port: 10251
      initialDelaySeconds: 15
      timeoutSeconds: 1
"#;

pub const SCHEDULER_CHANGES: &[Change] = &[
    IMAGE,
    change(
        "--master=http://127.0.0.1:8080",
        "--kubeconfig=/etc/kubernetes/parts.kubeconfig",
        "nothing is served without TLS and credentials since v1.24",
    ),
    change(
        "port: 10251",
        "port: 10259\n        scheme: HTTPS",
        "that port was closed in v1.24; health is told over TLS",
    ),
    change(
        "    livenessProbe:\n",
        "    volumeMounts:\n    - {mountPath: /etc/kubernetes, name: etc-kubernetes, readOnly: true}\n    livenessProbe:\n",
        "for the kubeconfig",
    ),
    change(
        "  containers:\n",
        "  volumes:\n  - {hostPath: {path: /etc/kubernetes}, name: etc-kubernetes}\n  containers:\n",
        "for the kubeconfig",
    ),
];
