//! Files of the guide.
use crate::changes::{Change, change};

/// What the guide has from an earlier page: one certificate for all, as in the guides of its kind.
pub const CERTIFICATES: &str = r#"
mkdir -p /opt/certs; cd /opt/certs
openssl genrsa -out ca-key.pem 2048
openssl req -x509 -new -nodes -key ca-key.pem -days 365 -out ca.pem -subj "/O=Kubernetes/OU=CA/CN=Kubernetes"
cat > openssl.cnf <<EOF
[req]
distinguished_name = req_distinguished_name
[req_distinguished_name]
[v3_req]
basicConstraints = CA:FALSE
keyUsage = digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = DNS:master0,DNS:master1,DNS:master2,DNS:kubernetes.default,IP:10.180.1.1,IP:10.180.0.10,IP:10.180.0.11,IP:10.180.0.12,IP:127.0.0.1
EOF
openssl genrsa -out kubernetes-key.pem 2048
openssl req -new -key kubernetes-key.pem -out kubernetes.csr -subj "/O=Kubernetes/OU=Cluster/CN=kubernetes" -config openssl.cnf
openssl x509 -req -in kubernetes.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -out kubernetes.pem -days 365 \
  -extensions v3_req -extfile openssl.cnf
echo 'chAng3m3,admin,admin' > token.csv
echo 'kub3l3t,kubelet,kubelet' >> token.csv
kubeconfig() { # FILE USER TOKEN SERVER
  kubectl config set-cluster kubernetes --certificate-authority=ca.pem --embed-certs=true --server=https://$4:6443 --kubeconfig=$1
  kubectl config set-credentials $2 --token $3 --kubeconfig=$1
  kubectl config set-context default --cluster=kubernetes --user=$2 --kubeconfig=$1
  kubectl config use-context default --kubeconfig=$1
}
kubeconfig master.kubeconfig kubelet kub3l3t 127.0.0.1
kubeconfig admin.kubeconfig admin chAng3m3 127.0.0.1
"#;

/// With `INTERNAL_IP`.
pub const KUBELET: &str = r#"
cd /opt
cat > kubelet.service <<EOF
[Service]
Environment=KUBELET_IMAGE_TAG=v1.6.3_coreos.0
Environment="RKT_RUN_ARGS=--volume=resolv,kind=host,source=/etc/resolv.conf \
  --mount volume=resolv,target=/etc/resolv.conf \
  --uuid-file-save=/var/run/kubelet-pod.uuid"
ExecStartPre=-/usr/bin/rkt rm --uuid-file=/var/run/kubelet-pod.uuid
ExecStart=/usr/lib/coreos/kubelet-wrapper \
  --cloud-config=/etc/kubernetes/openstack.config \
  --cloud-provider=openstack \
  --network-plugin=kubenet \
  --require-kubeconfig \
  --pod-manifest-path=/etc/kubernetes/manifests \
  --kubeconfig=/etc/kubernetes/master.kubeconfig \
  --register-with-taints=node-role.kubernetes.io/master=:NoSchedule 
ExecStop=-/usr/bin/rkt stop --uuid-file=/var/run/kubelet-pod.uuid
Restart=always
RestartSec=10
[Install]
WantedBy=multi-user.target
EOF
sudo cp kubelet.service /etc/systemd/system/
"#;

/// Without it nothing is started at all.
pub const WRAPPER: Change = change(
    "/usr/lib/coreos/kubelet-wrapper",
    "/usr/local/bin/kubelet",
    "rkt, which the wrapper ran it in, ended in 2020",
);

pub const KUBELET_CHANGES: &[Change] = &[
    change("  --cloud-config=/etc/kubernetes/openstack.config \\\n", "", "gone since v1.34"),
    change("  --cloud-provider=openstack \\\n", "", "gone since v1.31 but for external"),
    change("  --network-plugin=kubenet \\\n", "", "gone since v1.24: CNI files take its place"),
    change("  --require-kubeconfig \\\n", "", "gone: --kubeconfig is enough"),
    change(
        "  --kubeconfig=",
        "  --client-ca-file=/etc/kubernetes/ca.pem --tls-cert-file=/etc/kubernetes/kubernetes.pem \
         --tls-private-key-file=/etc/kubernetes/kubernetes-key.pem \\\n  --kubeconfig=",
        "a kubelet lets nobody in without them, and the guide's API server checks its certificate",
    ),
];

/// With `ETCD_NAME` and `INTERNAL_IP`.
pub const ETCD: &str = r#"
cat > etcd.manifest << EOF
apiVersion: v1
kind: Pod
metadata:
  name: etcd
  namespace: kube-system
spec:
  hostNetwork: true
  volumes:
    - name: etc-kubernetes
      hostPath:
        path: /etc/kubernetes
    - name: var-lib-etcd
      hostPath:
        path: /var/lib/etcd
  containers:
    - name: etcd
      image: quay.io/coreos/etcd:v3.1.4
      env:
        - name: ETCD_NAME
          value: ${ETCD_NAME}
        - name: ETCD_DATA_DIR
          value: /var/lib/etcd
        - name: ETCD_INITIAL_CLUSTER
          value: master0=https://10.180.0.10:2380,master1=https://10.180.0.11:2380,master2=https://10.180.0.12:2380
        - name: ETCD_INITIAL_CLUSTER_TOKEN
          value: kubernetes-the-hard-way
        - name: ETCD_INITIAL_ADVERTISE_PEER_URLS
          value: https://${INTERNAL_IP}:2380
        - name: ETCD_ADVERTISE_CLIENT_URLS
          value: https://${INTERNAL_IP}:2379
        - name: ETCD_LISTEN_PEER_URLS
          value: https://${INTERNAL_IP}:2380
        - name: ETCD_LISTEN_CLIENT_URLS
          value: http://127.0.0.1:2379,https://${INTERNAL_IP}:2379
        - name: ETCD_CERT_FILE
          value: /etc/kubernetes/kubernetes.pem
        - name: ETCD_KEY_FILE
          value: /etc/kubernetes/kubernetes-key.pem
        - name: ETCD_CLIENT_CERT_AUTH
          value: "true"
        - name: ETCD_TRUSTED_CA_FILE
          value: /etc/kubernetes/ca.pem
        - name: ETCD_PEER_CERT_FILE
          value: /etc/kubernetes/kubernetes.pem
        - name: ETCD_PEER_KEY_FILE
          value: /etc/kubernetes/kubernetes-key.pem
        - name: ETCD_PEER_CLIENT_CERT_AUTH
          value: "true"
        - name: ETCD_PEER_TRUSTED_CA_FILE
          value: /etc/kubernetes/ca.pem
      livenessProbe:
        httpGet:
          host: 127.0.0.1
          path: /health
          port: 2379
          initialDelaySeconds: 300
          timeoutSeconds: 5
      volumeMounts:
        - name: var-lib-etcd
          mountPath: /var/lib/etcd
        - name: etc-kubernetes
          mountPath: /etc/kubernetes
EOF
sudo mv etcd.manifest /etc/kubernetes/manifests/
"#;

pub const ETCD_CHANGES: &[Change] =
    &[change("quay.io/coreos/etcd:v3.1.4", "localhost/etcd:v3.4", "the image's name")];

/// With `INTERNAL_IP`.
pub const API_SERVER: &str = r#"
cat > apiserver.manifest << EOF
apiVersion: v1
kind: Pod
metadata:
  name: apiserver 
  namespace: kube-system
spec:
  hostNetwork: true
  volumes:
    - name: etc-kubernetes
      hostPath:
        path: /etc/kubernetes
  containers:
    - name: apiserver
      image: quay.io/coreos/hyperkube:v1.6.3_coreos.0
      args:
        - /hyperkube
        - apiserver
        - --admission-control=NamespaceLifecycle,LimitRanger,ServiceAccount,DefaultStorageClass,ResourceQuota
        - --advertise-address=${INTERNAL_IP}
        - --allow-privileged=true
        - --apiserver-count=3 
        - --audit-log-maxage=30 
        - --audit-log-maxbackup=3 
        - --audit-log-maxsize=100 
        - --audit-log-path=/var/lib/audit.log 
        - --bind-address=0.0.0.0
        - --client-ca-file=/etc/kubernetes/ca.pem
        - --enable-swagger-ui=true
        - --etcd-cafile=/etc/kubernetes/ca.pem 
        - --etcd-certfile=/etc/kubernetes/kubernetes.pem
        - --etcd-keyfile=//etc/kubernetes/kubernetes-key.pem 
        - --etcd-servers=https://10.180.0.10:2379,https://10.180.0.11:2379,https://10.180.0.12:2379
        - --event-ttl=1h 
        - --experimental-bootstrap-token-auth 
        - --insecure-bind-address=0.0.0.0
        - --kubelet-certificate-authority=/etc/kubernetes/ca.pem 
        - --kubelet-client-certificate=/etc/kubernetes/kubernetes.pem 
        - --kubelet-client-key=/etc/kubernetes/kubernetes-key.pem 
        - --kubelet-https=true 
        - --runtime-config=rbac.authorization.k8s.io/v1alpha1 
        - --service-account-key-file=/etc/kubernetes/ca-key.pem 
        - --service-cluster-ip-range=10.180.1.0/24 
        - --service-node-port-range=30000-32767 
        - --tls-cert-file=/etc/kubernetes/kubernetes.pem 
        - --tls-private-key-file=/etc/kubernetes/kubernetes-key.pem 
        - --token-auth-file=/etc/kubernetes/token.csv 
        - --cloud-config=/etc/kubernetes/openstack.config 
        - --cloud-provider=openstack 
      livenessProbe:
      httpGet:
        host: 127.0.0.1
        path: /healthz
        port: 8080
        initialDelaySeconds: 15
        timeoutSeconds: 1
      volumeMounts:
        - mountPath: /etc/kubernetes
          name: etc-kubernetes
EOF
sudo mv apiserver.manifest /etc/kubernetes/manifests
"#;

pub const API_SERVER_IMAGE: &[Change] =
    &[change("quay.io/coreos/hyperkube:v1.6.3_coreos.0", "localhost/hyperkube:v1.36.0", "the image's name")];

pub const API_SERVER_CHANGES: &[Change] = &[
    change("        - --enable-swagger-ui=true\n", "", "gone since v1.24"),
    change("--experimental-bootstrap-token-auth ", "--enable-bootstrap-token-auth", "gone; renamed in v1.8"),
    change("        - --insecure-bind-address=0.0.0.0\n", "", "gone since v1.24"),
    change("        - --kubelet-https=true \n", "", "gone since v1.22"),
    change("        - --cloud-config=/etc/kubernetes/openstack.config \n", "", "gone since v1.33"),
    change("        - --cloud-provider=openstack \n", "", "gone since v1.33"),
    change(
        "        - --service-cluster-ip-range",
        "        - --service-account-signing-key-file=/etc/kubernetes/ca-key.pem\n        - --service-account-issuer=https://kubernetes.default\n        \
         - --service-cluster-ip-range",
        "required since v1.20: pods' tokens are issued by the API server",
    ),
    change(
        "        - --audit-log-path",
        "        - --audit-policy-file=/etc/kubernetes/audit.yaml\n        - --audit-log-path",
        "since v1.10 nothing is recorded without a policy",
    ),
];

pub const AUDIT: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n";

pub const CONTROLLER_MANAGER: &str = r#"
cat > controller-manager.manifest << EOF
apiVersion: v1
kind: Pod
metadata:
  name: controller-manager 
  namespace: kube-system
spec:
  hostNetwork: true
  volumes:
    - name: etc-kubernetes
      hostPath:
        path: /etc/kubernetes
  containers:
    - name: controller-manager 
      image: quay.io/coreos/hyperkube:v1.6.3_coreos.0
      args:
        - /hyperkube
        - controller-manager
        - --address=0.0.0.0
        - --allocate-node-cidrs=true 
        - --cluster-cidr=10.180.128.0/17 
        - --cluster-name=kubernetes 
        - --cluster-signing-cert-file=/etc/kubernetes/ca.pem 
        - --cluster-signing-key-file=/etc/kubernetes/ca-key.pem 
        - --leader-elect=true 
        - --master=http://${INTERNAL_IP}:8080 
        - --root-ca-file=/var/lib/kubernetes/ca.pem 
        - --service-cluster-ip-range=10.180.1.0/24
        - --cloud-config=/etc/kubernetes/openstack.config 
        - --cloud-provider=openstack 
      livenessProbe:
      httpGet:
        host: 127.0.0.1
        path: /healthz
        port: 8080
        initialDelaySeconds: 15
        timeoutSeconds: 1
      volumeMounts:
        - mountPath: /etc/kubernetes
          name: etc-kubernetes
EOF
sudo mv controller-manager.manifest /etc/kubernetes/manifests
"#;

pub const CONTROLLER_MANAGER_CHANGES: &[Change] = &[
    change("quay.io/coreos/hyperkube:v1.6.3_coreos.0", "localhost/hyperkube:v1.36.0", "the image's name"),
    change("--address=0.0.0.0", "--bind-address=0.0.0.0", "renamed; the old one is gone since v1.24"),
    change("        - --cloud-config=/etc/kubernetes/openstack.config \n", "", "clouds are gone since v1.31"),
    change("        - --cloud-provider=openstack \n", "", "clouds are gone since v1.31"),
    change(
        "--master=http://${INTERNAL_IP}:8080 ",
        "--kubeconfig=/etc/kubernetes/admin.kubeconfig",
        "nothing is served without TLS and credentials since v1.24",
    ),
    change("/var/lib/kubernetes/ca.pem", "/etc/kubernetes/ca.pem", "the guide mounts no other directory"),
];

pub const SCHEDULER: &str = r#"
cat > scheduler.manifest << EOF
apiVersion: v1
kind: Pod
metadata:
  name:  scheduler 
  namespace: kube-system
spec:
  hostNetwork: true
  containers:
    - name: scheduler
      image: quay.io/coreos/hyperkube:v1.6.3_coreos.0
      args:
        - /hyperkube
        - scheduler 
        - --leader-elect=true 
        - --master=http://${INTERNAL_IP}:8080 
      livenessProbe:
      httpGet:
        host: 127.0.0.1
        path: /healthz
        port: 8080
        initialDelaySeconds: 15
        timeoutSeconds: 1
EOF
sudo mv scheduler.manifest /etc/kubernetes/manifests
"#;

pub const SCHEDULER_CHANGES: &[Change] = &[
    change("quay.io/coreos/hyperkube:v1.6.3_coreos.0", "localhost/hyperkube:v1.36.0", "the image's name"),
    change(
        "--master=http://${INTERNAL_IP}:8080 ",
        "--kubeconfig=/etc/kubernetes/admin.kubeconfig",
        "nothing is served without TLS and credentials since v1.24",
    ),
    change(
        "      livenessProbe:\n",
        "      volumeMounts: [{mountPath: /etc/kubernetes, name: etc-kubernetes}]\n      livenessProbe:\n",
        "for the kubeconfig",
    ),
    change(
        "  containers:\n",
        "  volumes: [{name: etc-kubernetes, hostPath: {path: /etc/kubernetes}}]\n  containers:\n",
        "for the kubeconfig",
    ),
];

/// A worker that has nothing but a bootstrap token.
pub const WORKER: &str = r#"
mkdir -p /etc/kubernetes
kubectl config set-cluster kubernetes --certificate-authority=/etc/kubernetes/ca.pem --server=https://10.180.0.10:6443 --kubeconfig=/etc/kubernetes/bootstrap.kubeconfig
kubectl config set-credentials bootstrap --token abcdef.0123456789abcdef --kubeconfig=/etc/kubernetes/bootstrap.kubeconfig
kubectl config set-context default --cluster=kubernetes --user=bootstrap --kubeconfig=/etc/kubernetes/bootstrap.kubeconfig
kubectl config use-context default --kubeconfig=/etc/kubernetes/bootstrap.kubeconfig
cat > /etc/systemd/system/kubelet.service <<EOF
[Service]
ExecStart=/usr/local/bin/kubelet \
  --bootstrap-kubeconfig=/etc/kubernetes/bootstrap.kubeconfig \
  --kubeconfig=/etc/kubernetes/kubelet.kubeconfig \
  --client-ca-file=/etc/kubernetes/ca.pem \
  --rotate-server-certificates
Restart=always
RestartSec=10
EOF
systemctl start kubelet
"#;

pub const TOKEN: &str = "apiVersion: v1
kind: Secret
type: bootstrap.kubernetes.io/token
metadata: {name: bootstrap-token-abcdef, namespace: kube-system}
stringData: {token-id: abcdef, token-secret: 0123456789abcdef, usage-bootstrap-authentication: 'true'}
";
