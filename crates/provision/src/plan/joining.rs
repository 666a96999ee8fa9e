//! What lets a host join a cluster by itself, with a bootstrap token: what it may read of the cluster, and its plan.
//!
//! A token is worth little: with it one may read how nodes are configured, whether a name is taken, and the tokens of two
//! service accounts that every node needs (the proxy's and the DNS'); and ask for a kubelet's certificate. All else the
//! node gets as a node.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Manifest, Secret, manifests::RBAC};
use crate::spec::{
    ApiServer, ClusterSpec, Encryption, Gravity, Host, Mistake, Part, Provider, Role, Ssh, Topology,
};

/// The ConfigMap in `kube-system` that says how nodes of the cluster are configured.
pub const CONFIG: &str = "cox-config";
/// The key in it that holds a `cluster.yaml`.
pub const CONFIG_KEY: &str = "cluster.yaml";
/// The label of nodes whose DNS server the controllers lead to, with its port.
pub const DNS_LABEL: &str = "coxswain/dns-port";
/// The service accounts of a node's parts.
pub const ACCOUNTS: [&str; 2] = ["kube-proxy", "coredns"];

/// The Secret with the token of a service account of [`ACCOUNTS`].
pub fn account_secret(account: &str) -> String {
    format!("cox-{account}-token")
}

/// With what a joining host proves who it is, until it has certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinSecrets {
    /// The bootstrap token.
    pub bootstrap: Secret,
    /// Tokens of [`ACCOUNTS`], by account.
    pub accounts: BTreeMap<String, Secret>,
}

/// What nodes have to know of a cluster, and nothing more: who serves its API, its networks, flags of nodes.
pub fn shared_spec(spec: &ClusterSpec) -> ClusterSpec {
    let keep = |role: &Role| matches!(role, Role::ControlPlane | Role::LoadBalancer);
    let hosts: Vec<Host> = spec
        .hosts
        .iter()
        .filter(|h| h.roles.iter().any(keep))
        .map(|h| Host {
            roles: h.roles.iter().copied().filter(keep).collect(),
            ssh: Ssh::default(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            ..h.clone()
        })
        .collect();
    let several = hosts.iter().filter(|h| h.is(Role::ControlPlane)).count() > 1;
    let of_nodes = |part: &Part| matches!(part, Part::Kubelet | Part::KubeProxy);
    ClusterSpec {
        // Whoever joins is a machine.
        provider: Provider::Ssh,
        hosts,
        api_server: ApiServer { extra_names: Vec::new(), local_port: 6443, ..spec.api_server.clone() },
        // Where objects are kept is no business of nodes.
        etcd: if several { Topology::Stacked } else { Topology::Embedded },
        encryption: Encryption::default(),
        packages: None,
        extra_args: spec
            .extra_args
            .iter()
            .filter(|(part, _)| of_nodes(part))
            .map(|(p, a)| (*p, a.clone()))
            .collect(),
        ..spec.clone()
    }
}

/// The cluster as it is for one more host, read as if it stood in a file; the error says everything that is wrong.
pub fn spec_with(config: &str, host: &Host) -> Result<ClusterSpec, String> {
    let told = |mistakes: &[Mistake]| {
        let errors = mistakes.iter().filter(|m| m.gravity == Gravity::Error);
        errors.map(|m| format!("{}: {}", m.path, m.message)).collect::<Vec<_>>().join("\n")
    };
    let reading = ClusterSpec::read(config, &|_| Ok(()));
    let Some(mut spec) = reading.spec else { return Err(told(&reading.mistakes)) };
    spec.hosts.retain(|h| h.name != host.name || h.is(Role::ControlPlane));
    spec.hosts.push(host.clone());
    let text = serde_saphyr::to_string(&spec).map_err(|e| e.to_string())?;
    let reading = ClusterSpec::read(&text, &|_| Ok(()));
    reading.spec.ok_or_else(|| told(&reading.mistakes))
}

fn role(namespace: &str, name: &str, rules: Value) -> Value {
    json!({
        "apiVersion": RBAC,
        "kind": "Role",
        "metadata": { "name": name, "namespace": namespace },
        "rules": rules,
    })
}

fn role_binding(namespace: &str, name: &str, subjects: Value) -> Value {
    json!({
        "apiVersion": RBAC,
        "kind": "RoleBinding",
        "metadata": { "name": name, "namespace": namespace },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
        "subjects": subjects,
    })
}

fn cluster_role(name: &str, rules: Value) -> Value {
    json!({ "apiVersion": RBAC, "kind": "ClusterRole", "metadata": { "name": name }, "rules": rules })
}

fn cluster_binding(name: &str, role: &str, subjects: Value) -> Value {
    json!({
        "apiVersion": RBAC,
        "kind": "ClusterRoleBinding",
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": subjects,
    })
}

/// The objects that make joining possible.
pub fn joining(spec: &ClusterSpec, authority_pem: &str) -> Manifest {
    let who = |kind: &str, name: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name });
    let account = |name: &str| json!({ "kind": "ServiceAccount", "name": name, "namespace": "kube-system" });
    let bootstrappers = || who("Group", "system:bootstrappers");
    let (public, system) = ("kube-public", "kube-system");
    let secrets: Vec<String> = ACCOUNTS.iter().map(|a| account_secret(a)).collect();
    let config = serde_saphyr::to_string(&shared_spec(spec)).expect("a cluster always has a YAML form");
    let mut objects = vec![
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": "cluster-info", "namespace": public },
            "data": { "kubeconfig": cluster_info(spec, authority_pem) },
        }),
        // Who joins has nothing yet; the token's signature in there tells the real one from another.
        role(
            public,
            "cox:cluster-info",
            json!([
                { "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"], "verbs": ["get"] },
            ]),
        ),
        role_binding(public, "cox:cluster-info", json!([who("User", "system:anonymous")])),
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": CONFIG, "namespace": system },
            "data": { CONFIG_KEY: config },
        }),
        role(
            system,
            "cox:joining",
            json!([
                { "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [CONFIG], "verbs": ["get"] },
                { "apiGroups": [""], "resources": ["secrets"], "resourceNames": secrets, "verbs": ["get"] },
            ]),
        ),
        role_binding(system, "cox:joining", json!([bootstrappers()])),
        cluster_role("cox:joining", json!([{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["get"] }])),
        cluster_binding("cox:joining", "cox:joining", json!([bootstrappers()])),
        // Certificates of kubelets' servers, where they ask for themselves.
        cluster_role(
            "cox:kubelet-serving",
            json!([
                { "apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/selfnodeserver"], "verbs": ["create"] },
            ]),
        ),
        cluster_binding("cox:kubelet-serving", "cox:kubelet-serving", json!([who("Group", "system:nodes")])),
        cluster_role(
            "cox:approve-kubelet-serving",
            json!([
                { "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["kubernetes.io/kubelet-serving"], "verbs": ["approve"] },
            ]),
        ),
        cluster_binding(
            "cox:approve-kubelet-serving",
            "cox:approve-kubelet-serving",
            json!([account("certificate-controller")]),
        ),
        cluster_binding("cox:node-proxier", "system:node-proxier", json!([account("kube-proxy")])),
        cluster_binding("cox:coredns", "system:coredns", json!([account("coredns")])),
    ];
    for name in ACCOUNTS {
        objects.push(json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": system },
        }));
        objects.push(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/service-account-token",
            "metadata": {
                "name": account_secret(name),
                "namespace": system,
                "annotations": { "kubernetes.io/service-account.name": name },
            },
        }));
    }
    Manifest { name: "joining", objects }
}

/// The kubeconfig that tells who joins where the API is and whom to trust, as kubeadm's.
fn cluster_info(spec: &ClusterSpec, authority_pem: &str) -> String {
    use base64::Engine as _;
    let authority = base64::engine::general_purpose::STANDARD.encode(authority_pem);
    let server = format!("https://{}", spec.endpoint());
    let value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "", "cluster": { "certificate-authority-data": authority, "server": server } }],
        "contexts": null,
        "current-context": "",
        "preferences": {},
        "users": null,
    });
    pki::kubeconfig_yaml(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name: c\nssh: {user: me, jump: bastion}\nhosts:\n\
        - {name: cp1, address: 192.0.2.1, roles: [control-plane, etcd]}\n\
        - {name: e2, address: 192.0.2.2, roles: [etcd], labels: {a: b}}\n\
        - {name: e3, address: 192.0.2.3, roles: [etcd]}\n\
        - {name: n1, address: 192.0.2.4, roles: [worker]}\n\
        extraArgs: {kubelet: {max-pods: '7'}, kube-apiserver: {oidc-client-id: x}}\n";

    fn host(name: &str, address: [u8; 4]) -> Host {
        Host {
            name: name.into(),
            address: address.into(),
            roles: vec![Role::Worker],
            ssh: Ssh::default(),
            labels: [(DNS_LABEL.to_owned(), "10053".to_owned())].into(),
            taints: Vec::new(),
        }
    }

    #[test]
    fn who_joins_learns_what_nodes_need() {
        let spec = ClusterSpec::read(TEXT, &|_| Ok(())).spec.expect("a cluster");
        let shared = shared_spec(&spec);
        let text = serde_saphyr::to_string(&shared).expect("text");
        for word in ["bastion", "oidc", "e2", "n1"] {
            assert!(!text.contains(word), "{word} in {text}");
        }
        let joined = spec_with(&text, &host("n9", [192, 0, 2, 9])).expect("a cluster");
        assert_eq!((joined.hosts.len(), joined.endpoint().to_string().as_str()), (2, "192.0.2.1:6443"));
        assert_eq!(joined.network, spec.network);
        assert_eq!(joined.extra_args[&Part::Kubelet]["max-pods"], "7");
        let wrong = |name: &str, address: [u8; 4]| spec_with(&text, &host(name, address)).expect_err("wrong");
        assert!(wrong("n9", [192, 0, 2, 1]).contains("192.0.2.1 is that of hosts[0] too"));
        assert!(wrong("n9", [10, 244, 3, 1]).contains("is in network.podCIDR"));
        assert!(wrong("cp1", [192, 0, 2, 9]).contains("cp1 is that of hosts[0] too"));
    }

    #[test]
    fn strangers_see_one_object_and_tokens_few() {
        let spec = ClusterSpec::read(TEXT, &|_| Ok(())).spec.expect("a cluster");
        let manifest = joining(&spec, "PEM");
        let find = |kind: &str, name: &str| -> &Value {
            let is = |o: &&Value| o["kind"] == kind && o["metadata"]["name"] == name;
            manifest.objects.iter().find(is).unwrap_or_else(|| panic!("{kind} {name}"))
        };
        let info = find("ConfigMap", "cluster-info")["data"]["kubeconfig"].as_str().expect("text");
        assert!(info.contains("server: https://192.0.2.1:6443"), "{info}");
        assert!(info.contains("UEVN"), "{info}");
        let anonymous = manifest.objects.iter().filter(|o| o.to_string().contains("system:anonymous"));
        assert_eq!(anonymous.count(), 1);
        assert_eq!(find("Secret", "cox-coredns-token")["type"], "kubernetes.io/service-account-token");
        let rules = &find("Role", "cox:joining")["rules"];
        assert!(rules.as_array().is_some_and(|r| {
            r.iter().all(|r| r["verbs"] == json!(["get"]) && r["resourceNames"].is_array())
        }));
    }
}
