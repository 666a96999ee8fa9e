//! A pod's resolver configuration by `dnsPolicy` and `dnsConfig`: pure.

use std::net::IpAddr;

use cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::Pod;

use crate::pod::PodExt;

/// Servers, search list and options of a `resolv.conf`.
pub fn parse(resolv_conf: &str) -> DnsConfig {
    let mut found = DnsConfig::default();
    for line in resolv_conf.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => found.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                found.searches = words
                    .filter(|word| *word != ".")
                    .map(|word| word.trim_end_matches('.').to_owned())
                    .collect()
            }
            Some("options") => found.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    found
}

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// The resolver configuration of one pod.
pub fn config(pod: &Pod, cluster_dns: &[IpAddr], domain: &str, host: &DnsConfig) -> DnsConfig {
    let spec = pod.spec();
    let policy = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirst" if pod.host_network() => "Default",
        "ClusterFirst" | "ClusterFirstWithHostNet" if cluster_dns.is_empty() => "Default",
        other => other,
    };
    let mut out = match policy {
        "None" => DnsConfig::default(),
        "ClusterFirst" | "ClusterFirstWithHostNet" => {
            let mut searches =
                vec![format!("{}.svc.{domain}", pod.namespace()), format!("svc.{domain}"), domain.to_owned()];
            for search in &host.searches {
                if !searches.contains(search) {
                    searches.push(search.clone());
                }
            }
            DnsConfig {
                servers: cluster_dns.iter().map(IpAddr::to_string).collect(),
                searches,
                options: vec!["ndots:5".into()],
            }
        }
        _ => host.clone(),
    };
    if let Some(own) = &spec.dns_config {
        let merge = |list: &mut Vec<String>, more: Option<&Vec<String>>| {
            for entry in more.into_iter().flatten() {
                if !list.contains(entry) {
                    list.push(entry.clone());
                }
            }
        };
        merge(&mut out.servers, own.nameservers.as_ref());
        merge(&mut out.searches, own.searches.as_ref());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            out.options.retain(|known| known.split(':').next() != Some(name));
            out.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            });
        }
    }
    out.servers.truncate(MAX_SERVERS);
    out.searches.truncate(MAX_SEARCHES);
    while out.searches.iter().map(|search| search.len() + 1).sum::<usize>() > MAX_SEARCH_CHARS {
        out.searches.pop();
    }
    out
}

/// The pod's host name: `spec.hostname` or its name, shortened to what a host name may be.
pub fn hostname(pod: &Pod) -> String {
    let spec = pod.spec();
    if let Some(name) = &spec.hostname_override {
        return name.clone();
    }
    let name = spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(pod.name());
    crate::text::clipped(name, 63).trim_end_matches(['-', '.']).to_owned()
}

/// The pod's fully qualified name, if it has a subdomain.
pub fn fqdn(pod: &Pod, domain: &str) -> Option<String> {
    let subdomain = pod.spec().subdomain.as_deref().filter(|name| !name.is_empty())?;
    Some(format!("{}.{subdomain}.{}.svc.{domain}", hostname(pod), pod.namespace()))
}

/// The pod's managed hosts file.
pub fn hosts_file(pod: &Pod, ips: &[String], domain: &str, host_file: &str) -> String {
    let mut out = if pod.host_network() {
        format!("# Kubernetes-managed hosts file (host network).\n{host_file}")
    } else {
        let mut text = String::from(concat!(
            "# Kubernetes-managed hosts file.\n",
            "127.0.0.1\tlocalhost\n",
            "::1\tlocalhost ip6-localhost ip6-loopback\n",
            "fe00::0\tip6-localnet\n",
            "fe00::0\tip6-mcastprefix\n",
            "fe00::1\tip6-allnodes\n",
            "fe00::2\tip6-allrouters\n",
        ));
        let host = hostname(pod);
        for ip in ips {
            match fqdn(pod, domain) {
                Some(full) => text.push_str(&format!("{ip}\t{full}\t{host}\n")),
                None => text.push_str(&format!("{ip}\t{host}\n")),
            }
        }
        text
    };
    let aliases = pod.spec().host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            out.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec}))
            .expect("pod")
    }

    fn check(spec: serde_json::Value, servers: &[&str], searches: &[&str], options: &[&str]) {
        let host = parse("# c\nnameserver 1.1.1.1\nsearch corp.example. other\noptions rotate\n");
        let out = config(&pod(spec.clone()), &["10.96.0.10".parse().expect("ip")], "cluster.local", &host);
        assert_eq!(
            (out.servers.as_slice(), out.searches.as_slice(), out.options.as_slice()),
            (
                &servers.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..],
                &searches.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..],
                &options.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..]
            ),
            "{spec}"
        );
    }

    #[test]
    fn policies_choose_servers_and_search_lists() {
        let cluster = ["n.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example", "other"];
        check(json!({"containers": []}), &["10.96.0.10"], &cluster, &["ndots:5"]);
        check(
            json!({"containers": [], "hostNetwork": true}),
            &["1.1.1.1"],
            &["corp.example", "other"],
            &["rotate"],
        );
        check(
            json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
            &["10.96.0.10"],
            &cluster,
            &["ndots:5"],
        );
        check(
            json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"], "searches": ["x.y"],
                "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
            &["9.9.9.9"],
            &["x.y"],
            &["ndots:2", "edns0"],
        );
        check(
            json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}),
            &["10.96.0.10"],
            &cluster,
            &["ndots:1"],
        );
    }

    #[test]
    fn the_hosts_file_names_the_pod() {
        let pod = pod(
            json!({"containers": [], "subdomain": "sub", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}),
        );
        let text = hosts_file(&pod, &["10.0.0.2".into()], "cluster.local", "");
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.contains("10.0.0.2\tp.sub.n.svc.cluster.local\tp\n"));
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
    }
}
