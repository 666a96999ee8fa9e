//! The first `cluster.yaml`, with every setting in it or beside it.

use super::Provider;

/// A commented `cluster.yaml` to begin with.
pub fn template(provider: Provider, name: &str) -> String {
    let (hosts, reach) = match provider {
        Provider::Local => (LOCAL_HOSTS, ""),
        Provider::Ssh => (SSH_HOSTS, SSH),
    };
    let provider = match provider {
        Provider::Local => {
            "local                 # hosts are namespaces of this machine; ssh: real ones with systemd"
        }
        Provider::Ssh => {
            "ssh                   # hosts have systemd and are reached over ssh; local: namespaces here"
        }
    };
    format!("{HEAD}name: {name}\nprovider: {provider}\n\n{reach}{hosts}{REST}")
}

const HEAD: &str = "\
# A cluster. `cox validate` checks this file, `cox render DIR` shows what would be installed, `cox up` makes it so.
# What is commented out shows the default.
";

const SSH: &str = "\
# How to reach the hosts; each can have an `ssh` of its own.
ssh:
  user: root
# port: 22
# key: ~/.ssh/id_ed25519          # else the agent's keys, and ssh's own defaults
# jump: user@bastion.example.org  # a host to go through
# sudo: true                      # whether the user becomes root with sudo; true unless it is root

";

const SSH_HOSTS: &str = "\
# Roles: control-plane, worker; etcd (for members on hosts of their own), load-balancer (see apiServer.loadBalancer).
hosts:
- name: cp1
  address: 192.0.2.11
  roles: [control-plane]
- name: node1
  address: 192.0.2.21
  roles: [worker]
# labels: {disk: fast}
# taints: ['dedicated=builds:NoSchedule']
# ssh: {host: 203.0.113.21, port: 2222}
- name: node2
  address: 192.0.2.22
  roles: [worker]

";

const LOCAL_HOSTS: &str = "\
# Roles: control-plane, worker; etcd (for members on hosts of their own), load-balancer (see apiServer.loadBalancer).
# Addresses are given by cox, out of network.hostCIDR.
hosts:
- name: one
  roles: [control-plane, worker]
- name: two
  roles: [worker]

";

const REST: &str = "\
# network:
#   serviceCIDR: 10.96.0.0/12
#   podCIDR: 10.244.0.0/16
#   nodeCIDRMaskSize: 24           # each node's part of it
#   clusterDNS: 10.96.0.10         # the tenth address of serviceCIDR
#   domain: cluster.local
#   podNetwork: routes             # hosts on one link; vxlan: a tunnel between all; none: you install one
#   mtu: 1500
#   nodePortRange: 30000-32767
#   hostCIDR: 10.89.0.0/24         # of the hosts themselves, with provider local

# apiServer:
#   port: 6443
#   endpoint: k8s.example.org:6443 # where clients go; else the load balancer, else the first control plane
#   loadBalancer: none             # with several control planes: ours (on every node). Or external (yours, at the
#                                  # endpoint), nginx, haproxy (on the hosts with the role load-balancer)
#   balancerPort: 6444             # of ours, on each node's loopback
#   localPort: 6443                # of this machine's loopback, with provider local
#   extraNames: []                 # further names and addresses in the certificates

# etcd:
#   topology: embedded             # stacked (on every control plane) with several of them; hosts (with the role etcd)

# encryption:
#   provider: secretbox            # aesgcm, aescbc, identity (none)
#   resources: [secrets]

# packages: ./packages            # .deb files for hosts that reach no mirror; else they ask their own sources

# extraArgs:                       # flags beyond ours, and in place of ours; without dashes in front
#   kube-apiserver: {goaway-chance: '0.001'}
#   kubelet: {max-pods: '200'}
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ClusterSpec;

    #[test]
    fn what_is_written_is_valid() {
        for (_, provider) in Provider::ALL {
            let text = template(provider, "home");
            let reading = ClusterSpec::read(&text, &|_| Ok(()));
            assert_eq!(reading.mistakes, [], "{provider:?}");
            let spec = reading.spec.expect("a cluster");
            assert_eq!((spec.name.as_str(), spec.provider), ("home", provider));
        }
    }

    /// Comments show defaults: with all of them taken away, nothing changes but what has no default.
    #[test]
    fn the_comments_are_true() {
        let text = template(Provider::Ssh, "home");
        let plain = ClusterSpec::read(&text, &|_| Ok(())).spec.expect("a cluster");
        let spoken: String = text
            .lines()
            .skip_while(|line| !line.starts_with("# network:"))
            .map(|line| line.strip_prefix("# ").unwrap_or(line))
            // Continuation of a comment.
            .filter(|line| !line.trim_start().starts_with('#'))
            .map(|line| format!("{line}\n"))
            .collect();
        let (head, _) = text.split_once("# network:").expect("a network");
        let reading = ClusterSpec::read(&format!("{head}{spoken}"), &|_| Ok(()));
        assert_eq!(reading.mistakes, []);
        let mut spoken = reading.spec.expect("a cluster");
        assert!(spoken.api_server.endpoint.take().is_some());
        assert_eq!(std::mem::take(&mut spoken.extra_args).len(), 2);
        assert_eq!(spoken.packages.take().as_deref(), Some("./packages".as_ref()));
        assert_eq!(spoken.network.mtu.take(), Some(1500));
        assert_eq!(spoken, plain);
    }
}
