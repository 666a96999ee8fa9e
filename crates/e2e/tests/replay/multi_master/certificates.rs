//! Certificates and kubeconfigs, made on the control node as the guide makes them.

/// What the guide's repository has beside its text, and its commands.
pub const CERTIFICATES: &str = r#"
cd /opt/certs
cat > ca-config.json <<EOF
{"signing": {"default": {"expiry": "8760h"}, "profiles": {"kubernetes": {
  "usages": ["signing", "key encipherment", "server auth", "client auth"], "expiry": "8760h"}}}}
EOF
csr() { # FILE CN O
cat > $1-csr.json <<EOF
{"CN": "$2", "key": {"algo": "rsa", "size": 2048}, "names": [{"C": "US", "L": "Portland", "O": "$3", "OU": "Kubernetes The Hard Way", "ST": "Oregon"}]}
EOF
}
csr ca Kubernetes Kubernetes
cfssl gencert -initca ca-csr.json | cfssljson -bare ca

for entry in $(cat node.cfg); do
  WORKER_HOST=${entry%%:*} WORKER_IP=${entry##*:}
  csr $WORKER_HOST system:node:$WORKER_HOST system:nodes
  cfssl gencert -ca=ca.pem -ca-key=ca-key.pem -config=ca-config.json -hostname=${WORKER_HOST},${WORKER_IP} -profile=kubernetes ${WORKER_HOST}-csr.json | cfssljson -bare ${WORKER_HOST}
done

csr kube-controller-manager system:kube-controller-manager system:kube-controller-manager
csr kube-proxy system:kube-proxy system:node-proxier
csr kube-scheduler system:kube-scheduler system:kube-scheduler
csr admin admin system:masters
csr service-account service-accounts Kubernetes
for who in kube-controller-manager kube-proxy kube-scheduler admin service-account; do
  cfssl gencert -ca=ca.pem -ca-key=ca-key.pem -config=ca-config.json -profile=kubernetes $who-csr.json | cfssljson -bare $who
done

csr kubernetes kubernetes Kubernetes
cfssl gencert -ca=ca.pem -ca-key=ca-key.pem -config=ca-config.json -hostname=${CERT_HOSTNAME} -profile=kubernetes kubernetes-csr.json | cfssljson -bare kubernetes
"#;

/// With `KUBERNETES_ADDRESS`, the balancer's.
pub const KUBECONFIGS: &str = r#"
cd /opt/certs
kubeconfig() { # FILE USER CERTIFICATE SERVER
  kubectl config set-cluster mycluster \
    --certificate-authority=ca.pem \
    --embed-certs=true \
    --server=https://$4:6443 \
    --kubeconfig=$1.kubeconfig
  kubectl config set-credentials $2 \
    --client-certificate=$3.pem \
    --client-key=$3-key.pem \
    --embed-certs=true \
    --kubeconfig=$1.kubeconfig
  kubectl config set-context default \
    --cluster=mycluster \
    --user=$2 \
    --kubeconfig=$1.kubeconfig
  kubectl config use-context default --kubeconfig=$1.kubeconfig
}
for instance in node1 node2; do
  kubeconfig ${instance} system:node:${instance} ${instance} ${KUBERNETES_ADDRESS}
done
kubeconfig kube-proxy system:kube-proxy kube-proxy ${KUBERNETES_ADDRESS}
kubeconfig kube-controller-manager system:kube-controller-manager kube-controller-manager 127.0.0.1
kubeconfig kube-scheduler system:kube-scheduler kube-scheduler 127.0.0.1
kubeconfig admin admin admin 127.0.0.1
# Not in the guide, which stops before it: the administrator from afar.
kubeconfig remote admin admin ${KUBERNETES_ADDRESS}
"#;

/// What the guide's repository has as `encryption-config.yaml`.
pub const ENCRYPTION: &str = r#"
cd /opt/certs
ENCRYPTION_KEY=$(head -c 32 /dev/urandom | base64)
cat > encryption-config.yaml <<EOF
kind: EncryptionConfig
apiVersion: v1
resources:
  - resources:
      - secrets
    providers:
      - aescbc:
          keys:
            - name: key1
              secret: ${ENCRYPTION_KEY}
      - identity: {}
EOF
"#;
