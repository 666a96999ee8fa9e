//! What ssh, sudo and the scripts say, read.

use std::{collections::BTreeMap, path::PathBuf};

use crate::apply::{FileFacts, Running};

/// What may help where a connection failed.
pub(super) fn hint(said: &str) -> &'static str {
    let has = |text: &str| said.contains(text);
    if has("Host key verification failed") {
        "; log in once by hand and compare its key's fingerprint, or put the key into known_hosts"
    } else if has("REMOTE HOST IDENTIFICATION HAS CHANGED") {
        "; it is another machine than before, or somebody is in between: if it was installed anew, ssh-keygen -R HOST"
    } else if has("Permission denied") {
        "; is the right key named in cluster.yaml or loaded into the agent, and may that user log in?"
    } else if has("Could not resolve hostname") {
        "; give its address in cluster.yaml"
    } else if has("timed out") || has("No route to host") || has("Connection refused") {
        "; is it on, is sshd running there, and does a firewall let port 22 through?"
    } else {
        ""
    }
}

/// What sudo has against a user.
pub(super) fn refused_by_sudo(said: &str) -> Option<&'static str> {
    if said.contains("sudo: not found") || said.contains("sudo: command not found") {
        Some("there is no sudo there; install it, or log in as root")
    } else if said.contains("sudo:") && said.contains("password") {
        Some("sudo asks for a password there; let this user run sudo without one (NOPASSWD in /etc/sudoers)")
    } else if said.contains("not in the sudoers file") || said.contains("is not allowed to execute") {
        Some(
            "this user may not use sudo there; let it run sudo without a password (NOPASSWD in /etc/sudoers)",
        )
    } else {
        None
    }
}

/// A file that tells that a package is not needed.
pub(super) fn file_of(package: &str) -> &'static str {
    match package {
        "containerd" => "/usr/bin/containerd",
        "runc" => "/usr/sbin/runc",
        "containernetworking-plugins" => "/usr/lib/cni/ptp",
        "nftables" => "/usr/sbin/nft",
        "conntrack" => "/usr/sbin/conntrack",
        "iptables" => "/usr/sbin/iptables",
        "etcd-server" => "/usr/bin/etcd",
        "etcd-client" => "/usr/bin/etcdctl",
        "nginx" => "/usr/sbin/nginx",
        "haproxy" => "/usr/sbin/haproxy",
        _ => "",
    }
}

/// What is at paths, in what [`INSPECT`](super::scripts::INSPECT) prints.
pub(super) fn inspected(text: &str) -> BTreeMap<PathBuf, FileFacts> {
    let mut lines = text.lines();
    let mut found = BTreeMap::new();
    while let (Some(what), Some(path)) = (lines.next(), lines.next()) {
        let mode = |text: &str| u32::from_str_radix(text, 8).ok();
        let facts = match what.split_once(' ') {
            Some(("L", to)) => Some(FileFacts::Link(to.into())),
            Some(("D", bits)) => mode(bits).map(|mode| FileFacts::Directory { mode }),
            Some(("F", rest)) => rest.split_once(' ').and_then(|(bits, sha256)| {
                Some(FileFacts::File { mode: mode(bits)?, sha256: sha256.to_owned() })
            }),
            _ => None,
        };
        found.extend(facts.map(|facts| (PathBuf::from(path), facts)));
    }
    found
}

/// The services in what [`SERVICES`](super::scripts::SERVICES) prints. One whose unit was edited, or that would not
/// start with its machine, is none that was started as it shall be.
pub(super) fn listed(text: &str) -> BTreeMap<String, Running> {
    let mut found: BTreeMap<String, Running> = BTreeMap::new();
    for line in text.lines().filter_map(|l| l.strip_prefix("service=")) {
        let mut words = line.split(' ');
        let (Some(name), Some(digest), kept) = (words.next(), words.next(), words.next()) else { continue };
        let digest = if kept == Some("kept") { digest.to_owned() } else { String::new() };
        found.insert(name.to_owned(), Running { digest, active: false, restarts: 0 });
    }
    for unit in text.split("\n\n") {
        let value =
            |key: &str| unit.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default();
        let Some(running) = found.get_mut(value("Id").trim_end_matches(".service")) else { continue };
        running.active = matches!(value("ActiveState"), "active" | "activating" | "reloading");
        running.restarts = value("NRestarts").parse().unwrap_or(0);
        if value("UnitFileState") != "enabled" {
            running.digest.clear();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_scripts_print_is_read() {
        let found = inspected("L /usr/bin/x\n/a\nD 700\n/b c\nF 600 abc\n/d\nrubbish\n/e\n");
        let want = [
            (PathBuf::from("/a"), FileFacts::Link("/usr/bin/x".into())),
            ("/b c".into(), FileFacts::Directory { mode: 0o700 }),
            ("/d".into(), FileFacts::File { sha256: "abc".into(), mode: 0o600 }),
        ];
        assert_eq!(found, want.into());
        let services = listed(
            "service=etcd d1 kept\nservice=kubelet d2 edited\nservice=cox-dns d3 kept\nservice=new d4 kept\n\
             NRestarts=2\nId=etcd.service\nActiveState=active\nUnitFileState=enabled\nNRestarts=2\n\n\
             Id=kubelet.service\nActiveState=failed\nUnitFileState=enabled\nNRestarts=0\n\n\
             Id=cox-dns.service\nActiveState=active\nUnitFileState=disabled\nNRestarts=0\n",
        );
        let check = |name: &str, digest: &str, active, restarts| {
            let want = Running { digest: digest.to_owned(), active, restarts };
            assert_eq!(services[name], want, "{name}");
        };
        check("etcd", "d1", true, 2);
        check("kubelet", "", false, 0);
        check("cox-dns", "", true, 0);
        check("new", "d4", false, 0);
    }

    #[test]
    fn what_went_wrong_is_told_with_what_may_help() {
        assert!(
            refused_by_sudo("sudo: a password is required").is_some_and(|said| said.contains("NOPASSWD"))
        );
        assert!(refused_by_sudo("sh: 1: sudo: not found").is_some_and(|said| said.contains("no sudo")));
        assert_eq!(refused_by_sudo("cat: /x: No such file"), None);
        assert!(hint("Host key verification failed.").contains("known_hosts"));
    }
}
