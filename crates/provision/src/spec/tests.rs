use super::*;

fn read(text: &str) -> Reading {
    ClusterSpec::read(text, &|path| {
        if path.ends_with("good") { Ok(()) } else { Err(format!("cannot read {}", path.display())) }
    })
}

fn told(text: &str) -> Vec<String> {
    read(text).mistakes.iter().map(ToString::to_string).collect()
}

#[test]
fn one_broken_file_tells_everything_at_once() {
    let text = "\
name: Home_Cluster
provider: aws
kubernetes: 1.36
network:
  serviceCIDR: 10.96.0.0/12
  podCIDR: 10.100.0.0/22
  nodeCIDRMaskSize: 24
  clusterDNS: 10.32.0.10
  domain: Cluster..local
  podNetwork: routs
  mtu: 12
  serviceCDIR: x
ssh:
  key: missing
  port: 70000
  user: -oProxyCommand
hosts:
- name: a
  address: 192.0.2.1
  roles: [control-plane, etcd]
- name: a
  address: 192.0.2.1
  roles: [control-plane, control-plane]
- name: Node_3
  address: 10.100.0.7
  roles: [worker, master]
  taints: ['x:Never']
  labels: {'a b': c}
- name: d
  address: example.org
  roles: []
  ssh: {port: 0, key: other/missing}
- name: e
  roles: [worker]
  adress: 192.0.2.9
- name: f
  address: 127.0.0.1
  roles: [worker]
- name: g
  address: 192.0.2.10
  roles: [worker]
- name: h
  address: 192.0.2.11
  roles: [worker]
- name: i
  address: 192.0.2.12
  roles: worker
apiServer:
  port: 10250
  loadBalancer: nginx
  endpoint: bad_name:6443
  extraNames: ['fine.example.org', 'not fine']
etcd:
  topology: embedded
  topology: stacked
encryption:
  provider: secretbx
extraArgs:
  kube-api-server: {a: b}
  kubelet: {--max-pods: 10}
";
    let want = [
        "1: name: bad cluster name \"Home_Cluster\": use at most 32 of a-z, 0-9 and '-', beginning and ending with a letter or digit",
        "2: provider: there is no provider \"aws\" yet; there are local and ssh, and ssh takes machines of any cloud",
        "3: kubernetes: unknown key; there are name, provider, network, ssh, hosts, apiServer, etcd, encryption, packages, extraArgs",
        "6: network.podCIDR: 10.100.0.0/22 has room for 4 nodes with a /24 each, and there are 5 workers",
        "6: network.podCIDR: 10.100.0.0/22 overlaps with network.serviceCIDR, 10.96.0.0/12",
        "8: network.clusterDNS: 10.32.0.10 is not in network.serviceCIDR, 10.96.0.0/12",
        "9: network.domain: \"Cluster..local\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        "10: network.podNetwork: \"routs\" is none of routes, vxlan, none; did you mean \"routes\"?",
        "11: network.mtu: packets have 576 to 65535 bytes",
        "12: network.serviceCDIR: unknown key; did you mean \"serviceCIDR\"?",
        "14: ssh.key: cannot read missing",
        "15: ssh.port: \"70000\" is not a port; ports are 1 to 65535",
        "16: ssh.user: \"-oProxyCommand\" is nothing that ssh could use",
        "21: hosts[1].name: a is that of hosts[0] too",
        "22: hosts[1].address: 192.0.2.1 is that of hosts[0] too",
        "23: hosts[1].roles[1]: the role stands there twice",
        "24: hosts[2].name: \"Node_3\" cannot be the name of a node: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        "25: hosts[2].address: 10.100.0.7 is in network.podCIDR, 10.100.0.0/22",
        "25: hosts[2].address: 10.100.0.7 is in network.serviceCIDR, 10.96.0.0/12",
        "26: hosts[2].roles[1]: \"master\" is none of control-plane, etcd, worker, load-balancer",
        "27: hosts[2].taints[0]: \"Never\" is no effect; there are NoSchedule, PreferNoSchedule, NoExecute",
        "28: hosts[2].labels.a b: \"a b\" is no label: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        "30: hosts[3].address: \"example.org\" is not an IP address",
        "31: hosts[3].roles: a host needs a role: control-plane, etcd, worker, load-balancer",
        "32: hosts[3].ssh.key: cannot read other/missing",
        "32: hosts[3].ssh.port: \"0\" is not a port; ports are 1 to 65535",
        "33: hosts[4].address: it is missing",
        "35: hosts[4].adress: unknown key; did you mean \"address\"?",
        "37: hosts[5].address: 127.0.0.1 is no address that other hosts could reach",
        "47: hosts[8].roles: want a list, found text",
        "49: apiServer.port: 10250 is the port of the kubelet",
        "50: apiServer.loadBalancer: no host has the role load-balancer",
        "51: apiServer.endpoint: \"bad_name\" is neither a DNS name nor an IP address",
        "52: apiServer.extraNames[1]: \"not fine\" is neither a DNS name nor an IP address",
        "54: etcd.topology: embedded has no members, and there are hosts with the role etcd; want hosts",
        "54: etcd.topology: embedded is a store inside of one API server, and there are 2 control planes; want stacked or hosts",
        "55: etcd.topology: the key stands there twice",
        "57: encryption.provider: \"secretbx\" is none of secretbox, aesgcm, aescbc, identity; did you mean \"secretbox\"?",
        "59: extraArgs.kube-api-server: unknown key; did you mean \"kube-apiserver\"?",
        "60: extraArgs.kubelet.--max-pods: flags are written without dashes in front: \"max-pods\"",
    ];
    let found = told(text);
    for (i, line) in found.iter().enumerate() {
        assert_eq!(Some(line.as_str()), want.get(i).copied(), "all:\n{}", found.join("\n"));
    }
    assert_eq!(found.len(), want.len());
    assert_eq!(read(text).spec, None);
}

fn small(hosts: &str, more: &str) -> String {
    format!("name: c\nhosts:\n{hosts}{more}")
}

fn host(name: &str, last: u8, roles: &str) -> String {
    format!("- {{name: {name}, address: 192.0.2.{last}, roles: [{roles}]}}\n")
}

#[test]
fn defaults_follow_from_the_hosts() {
    let check = |hosts: &str, more: &str, want: (Topology, LoadBalancer, &str)| {
        let reading = read(&small(hosts, more));
        let spec = reading.spec.unwrap_or_else(|| panic!("{:?}", reading.mistakes));
        assert_eq!(
            (spec.etcd, spec.api_server.load_balancer, &*spec.endpoint().to_string()),
            want,
            "{hosts}"
        );
    };
    let one = host("a", 1, "control-plane, worker");
    check(&one, "", (Topology::Embedded, LoadBalancer::None, "192.0.2.1:6443"));
    let three: String = (1..=3).map(|i| host(&format!("cp{i}"), i, "control-plane, worker")).collect();
    check(&three, "", (Topology::Stacked, LoadBalancer::Ours, "192.0.2.1:6443"));
    let external = "apiServer: {endpoint: 'k8s.example.org:443'}\n";
    check(&three, external, (Topology::Stacked, LoadBalancer::External, "k8s.example.org:443"));
    let apart: String =
        three.clone() + &(11..=13).map(|i| host(&format!("e{i}"), i, "etcd")).collect::<String>();
    check(&apart, "", (Topology::Hosts, LoadBalancer::Ours, "192.0.2.1:6443"));
    let balanced = three + &host("lb", 9, "load-balancer");
    let haproxy = "apiServer: {loadBalancer: haproxy, port: 7443}\n";
    check(&balanced, haproxy, (Topology::Stacked, LoadBalancer::Haproxy, "192.0.2.9:7443"));
    let v6 = "apiServer: {endpoint: '[2001:db8::1]:443'}\n";
    check(&one, v6, (Topology::Embedded, LoadBalancer::None, "[2001:db8::1]:443"));
}

#[test]
fn each_of_these_is_told() {
    let check = |text: &str, want: &[&str]| assert_eq!(told(text), want, "{text}");
    let one = host("a", 1, "control-plane, worker");
    check("", &["1: want a map, found empty"]);
    check("[]", &["1: want a map, found a list"]);
    check(
        "name: c\nhosts: []\n",
        &[
            "2: hosts: no host has the role control-plane",
            "2: warning: hosts: no host has the role worker: there will be nowhere for pods to run",
        ],
    );
    let two = one.clone() + &host("b", 2, "control-plane, worker");
    check(
        &small(&two, ""),
        &[
            "2: warning: hosts: an etcd of 2 members survives the loss of no more hosts than one of 1; want an odd number",
        ],
    );
    check(
        &small(&two, "etcd: {topology: embedded}\n"),
        &[
            "5: etcd.topology: embedded is a store inside of one API server, and there are 2 control planes; want stacked or hosts",
        ],
    );
    check(
        &small(&two, "etcd: {topology: hosts}\napiServer: {loadBalancer: none}\n"),
        &[
            "5: etcd.topology: no host has the role etcd",
            "6: apiServer.loadBalancer: 2 control planes need one; want ours, external, nginx or haproxy",
        ],
    );
    check(
        &small(&one, "apiServer: {loadBalancer: external}\n"),
        &["4: apiServer.endpoint: it is missing: where is the external load balancer?"],
    );
    check(
        &small(&one, "apiServer: {port: 6444}\n"),
        &["4: apiServer.balancerPort: it is apiServer.port too, and both are on one host"],
    );
    check(
        &small(&one, "apiServer: {port: 30001}\n"),
        &["4: apiServer.port: 30001 is in network.nodePortRange"],
    );
    check(
        &small(&one, "network: {podCIDR: 10.244.0.0/23, nodeCIDRMaskSize: 22}\n"),
        &[
            "4: network.nodeCIDRMaskSize: /22 is no part of 10.244.0.0/23 that pods could be in; want /23 to /30",
        ],
    );
    let nodes: String = (1..=3).map(|i| host(&format!("n{i}"), i, "control-plane, worker")).collect();
    check(
        &small(&nodes, "network: {podCIDR: 10.244.0.0/23}\n"),
        &["6: network.podCIDR: 10.244.0.0/23 has room for 2 nodes with a /24 each, and there are 3 workers"],
    );
    check(
        &small(&one, "network: {serviceCIDR: 10.96.0.1/16, clusterDNS: 10.96.0.1}\n"),
        &[
            "4: network.clusterDNS: 10.96.0.1 is the address of the kubernetes Service",
            "4: network.serviceCIDR: 10.96.0.1/16 has bits set behind its prefix; the network is 10.96.0.0/16",
        ],
    );
    check(
        &small(&one, "ssh: {jump: 'user@bastion:x'}\n"),
        &["4: ssh.jump: \"x\" is not a port; want user@host:port"],
    );
    check(
        &small(&one, "encryption: {provider: identity}\n"),
        &["4: warning: encryption.provider: identity seals nothing: secrets are stored as they are"],
    );
    let local = "provider: local\nname: c\nhosts:\n- {name: a, roles: [control-plane, worker]}\n\
                 - {name: b, address: 10.89.0.1, roles: [worker]}\n- {name: c, address: 192.0.2.1, roles: [worker]}\n";
    check(
        local,
        &[
            "5: hosts[1].address: 10.89.0.1 is this machine's own address in network.hostCIDR",
            "6: hosts[2].address: 192.0.2.1 is not in network.hostCIDR, 10.89.0.0/24",
        ],
    );
}

#[test]
fn a_host_has_its_own_way_or_that_of_all() {
    let text = "\
name: c
ssh: {user: admin, key: good, jump: 'me@bastion:2222'}
hosts:
- {name: a, address: 192.0.2.1, roles: [control-plane, worker]}
- {name: b, address: 192.0.2.2, roles: [worker], ssh: {host: b.example.org, user: root, port: 2200}}
";
    let reading = read(text);
    assert_eq!(reading.mistakes, []);
    let spec = reading.spec.expect("a cluster");
    let (a, b) = (&spec.hosts[0].ssh, &spec.hosts[1].ssh);
    assert_eq!((a.user.as_str(), a.port, a.sudo, a.host.as_deref()), ("admin", 22, true, None));
    assert_eq!(
        (b.user.as_str(), b.port, b.sudo, b.host.as_deref()),
        ("root", 2200, false, Some("b.example.org"))
    );
    assert_eq!((&a.key, &b.jump), (&Some("good".into()), &Some("me@bastion:2222".into())));
}

#[test]
fn local_clusters_need_no_file() {
    let spec = ClusterSpec::local("dev", 3, 3, "10.89.7.0/24".parse().expect("a range"));
    assert_eq!((spec.etcd, spec.api_server.load_balancer), (Topology::Stacked, LoadBalancer::Ours));
    let hosts: Vec<String> =
        spec.hosts.iter().map(|h| format!("{} {} {:?}", h.name, h.address, h.roles)).collect();
    assert_eq!(
        hosts,
        [
            "dev-1 10.89.7.2 [ControlPlane, Worker]",
            "dev-2 10.89.7.3 [ControlPlane, Worker]",
            "dev-3 10.89.7.4 [ControlPlane, Worker]",
        ]
    );
    let one = ClusterSpec::local("dev", 2, 1, "10.89.7.0/24".parse().expect("a range"));
    assert_eq!(
        (one.etcd, one.hosts_with(Role::ControlPlane).count(), one.hosts.len()),
        (Topology::Embedded, 1, 2)
    );
}

#[test]
fn what_is_written_reads_the_same() {
    let text = "\
name: c
network: {podNetwork: vxlan, mtu: 9000, nodePortRange: 30000-30100}
ssh: {user: admin, key: good, jump: 'me@bastion:2222'}
hosts:
- {name: a, address: 192.0.2.1, roles: [control-plane, worker], labels: {x/y: z}, taints: ['a=b:NoExecute']}
- {name: b, address: 192.0.2.2, roles: [etcd], ssh: {host: b.example.org, sudo: false}}
apiServer: {endpoint: 'api.example.org', extraNames: ['*.example.org']}
extraArgs: {kube-scheduler: {v: 3}}
";
    let reading = read(text);
    assert_eq!(reading.mistakes, []);
    let spec = reading.spec.expect("a cluster");
    let written = serde_json::to_string_pretty(&spec).expect("JSON");
    let again = read(&written);
    assert_eq!(again.mistakes, [], "{written}");
    assert_eq!(again.spec, Some(spec));
}

#[test]
fn no_text_is_too_much() {
    let nested = format!("hosts: {}", "[".repeat(200_000));
    let maps = (0..5_000).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>();
    let laughs = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                  d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\n\
                  g: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
    for text in
        [&nested, &maps, laughs, "\u{0}", "--- a\n--- b\n", "name: !!binary x", "? [a]\n: b", "<<: *x"]
    {
        let reading = read(text);
        assert!(reading.spec.is_none() && !reading.mistakes.is_empty());
    }
}
