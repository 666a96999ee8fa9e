//! Ports of a pod that get into each other's way.
use machinery::FieldPath;

use crate::tree::At;

struct Port<'v> {
    path: FieldPath,
    number: i64,
    protocol: &'v str,
    host_ip: &'v str,
    host_port: i64,
}

/// Finds them among the ports of all containers.
pub(super) fn ports(containers: &[At], found: &mut Vec<String>) {
    let mut before: Vec<Port<'_>> = Vec::new();
    for at in containers.iter().flat_map(|c| c.field("ports").items().collect::<Vec<_>>()) {
        let port = Port {
            path: at.path(),
            number: at.field("containerPort").number(),
            protocol: at.field("protocol").text(),
            host_ip: at.field("hostIP").text(),
            host_port: at.field("hostPort").number(),
        };
        let path = &port.path;
        if !port.host_ip.is_empty() && port.host_port == 0 {
            found.push(format!(
                "{path}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{}}}",
                at.field("name").text(),
                port.number,
                port.protocol,
                port.host_ip
            ));
        }
        let same = |other: &&Port<'_>| (other.number, other.protocol) == (port.number, port.protocol);
        for other in before.iter().filter(same) {
            let one_is_any = port.host_ip.is_empty() != other.host_ip.is_empty();
            let what = if (port.host_ip, port.host_port) == (other.host_ip, other.host_port) {
                "duplicate"
            } else if port.host_port == 0 || other.host_port == 0 {
                "overlapping"
            } else if port.host_port == other.host_port && one_is_any {
                "dangerously ambiguous"
            } else {
                continue;
            };
            found.push(format!("{path}: {what} port definition with {}", other.path));
        }
        before.push(port);
    }
    names(containers, found);
}

fn names(containers: &[At], found: &mut Vec<String>) {
    let mut first: Vec<(&str, FieldPath)> = Vec::new();
    for at in containers.iter().flat_map(|c| c.field("ports").items().collect::<Vec<_>>()) {
        let (name, path) = (at.field("name").text(), at.path());
        match first.iter().find(|(n, _)| *n == name) {
            _ if name.is_empty() => {}
            Some((_, other)) => found.push(format!(
                "{path}: duplicate port name {name:?} with {other}, services and probes that select ports by name will use {other}"
            )),
            None => first.push((name, path)),
        }
    }
}
