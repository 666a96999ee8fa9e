//! What CNI plugins leave behind when they are never asked to delete: cached results, address reservations, links.
//!
//! The cache of results names every link and address that a network's plugins made, so nothing is guessed by name.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tracing::{debug, warn};

/// Where the CNI library keeps results, whatever the runtime.
const RESULTS: &str = "/var/lib/cni/results";

/// One container that was attached to a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The sandbox.
    pub container_id: String,
    /// Links made on the host's side.
    pub host_links: Vec<String>,
    /// Addresses the container had.
    pub addresses: Vec<ipnet::IpNet>,
}

/// What is left of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Containers still attached, as far as the cache knows, with the file that says so.
    pub attachments: Vec<(PathBuf, Attachment)>,
    /// Results of the runtime's own loopback network for the same containers: nothing but files.
    pub loopbacks: Vec<PathBuf>,
}

/// The network that containerd attaches every container to by itself.
const LOOPBACK: &str = "cni-loopback";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    network_name: String,
    container_id: String,
    #[serde(default)]
    result: Outcome,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Outcome {
    interfaces: Vec<Interface>,
    ips: Vec<Address>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Address {
    address: String,
}

/// Reads one cached result; `None` if it is of another network or not a result.
pub fn parse_result(text: &[u8], network: &str) -> Option<Attachment> {
    let cached: Cached = serde_json::from_slice(text).ok()?;
    (cached.network_name == network).then(|| Attachment {
        container_id: cached.container_id,
        host_links: cached
            .result
            .interfaces
            .into_iter()
            .filter(|i| i.sandbox.is_empty() && !i.name.is_empty())
            .map(|i| i.name)
            .collect(),
        addresses: cached.result.ips.iter().filter_map(|a| a.address.parse().ok()).collect(),
    })
}

/// Lists what is left of a network on this host.
pub fn find(network: &str) -> io::Result<Leftovers> {
    find_in(Path::new(RESULTS), network)
}

fn find_in(results: &Path, network: &str) -> io::Result<Leftovers> {
    let mut found = Leftovers::default();
    let mut loopbacks = Vec::new();
    let entries = match fs::read_dir(results) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        // Another process may have removed it meanwhile.
        let Ok(text) = fs::read(&path) else { continue };
        if let Some(attachment) = parse_result(&text, network) {
            found.attachments.push((path, attachment));
        } else if let Some(attachment) = parse_result(&text, LOOPBACK) {
            loopbacks.push((path, attachment.container_id));
        }
    }
    found.attachments.sort_by(|a, b| a.0.cmp(&b.0));
    loopbacks.retain(|(_, id)| found.attachments.iter().any(|(_, a)| a.container_id == *id));
    found.loopbacks = loopbacks.into_iter().map(|(path, _)| path).collect();
    Ok(found)
}

/// Removes what is left: links, cached results, and the network's address reservations below `ipam_dir`.
///
/// Call it when no container of the network runs any more. Goes on past what it cannot remove, and says how many
/// things those were.
pub async fn remove(leftovers: &Leftovers, ipam_dir: &Path, network: &str) -> usize {
    let mut failed = 0;
    for (path, attachment) in &leftovers.attachments {
        for link in &attachment.host_links {
            match crate::host::delete_link(link).await {
                Ok(true) => debug!(link, "removed a leftover link"),
                Ok(false) => {}
                Err(error) => {
                    warn!(link, %error, "cannot remove a leftover link");
                    failed += 1;
                }
            }
        }
        failed += usize::from(!gone(path, fs::remove_file(path)));
    }
    for path in &leftovers.loopbacks {
        failed += usize::from(!gone(path, fs::remove_file(path)));
    }
    let reservations = ipam_dir.join(network);
    failed + usize::from(!gone(&reservations, fs::remove_dir_all(&reservations)))
}

fn gone(path: &Path, removed: io::Result<()>) -> bool {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), %error, "cannot remove a leftover");
            false
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = r#"{"kind":"cniCacheV1","containerId":"abc","config":"e30=","ifName":"eth0",
        "networkName":"cox-home","result":{"cniVersion":"1.0.0",
        "interfaces":[{"mac":"1e:2d","name":"veth12ab"},{"name":"eth0","sandbox":"/run/netns/x"}],
        "ips":[{"address":"10.244.0.5/24","gateway":"10.244.0.1","interface":1}],"dns":{}}}"#;

    #[test]
    fn a_cached_result_names_the_host_side() {
        assert_eq!(
            parse_result(RESULT.as_bytes(), "cox-home"),
            Some(Attachment {
                container_id: "abc".into(),
                host_links: vec!["veth12ab".into()],
                addresses: vec!["10.244.0.5/24".parse().expect("an address")],
            })
        );
        assert_eq!(parse_result(RESULT.as_bytes(), "cox-other"), None);
        assert_eq!(parse_result(b"rubbish", "cox-home"), None);
    }

    #[tokio::test]
    async fn removes_only_its_own_network() {
        let dir = tempfile::tempdir().expect("a directory");
        let results = dir.path().join("results");
        let ipam = dir.path().join("ipam");
        for network in ["cox-home", "cox-other"] {
            fs::create_dir_all(ipam.join(network)).expect("a directory");
            fs::write(ipam.join(network).join("10.244.0.5"), "abc").expect("written");
        }
        fs::create_dir(&results).expect("a directory");
        // A link that cannot exist: names have at most 15 characters.
        let ours = RESULT.replace("veth12ab", "link-of-a-pod-that-is-gone");
        fs::write(results.join("cox-home-abc-eth0"), &ours).expect("written");
        fs::write(results.join("cox-other-abc-eth0"), ours.replace("cox-home", "cox-other"))
            .expect("written");
        fs::write(results.join("rubbish"), "rubbish").expect("written");
        for id in ["abc", "of-someone-else"] {
            let loopback = RESULT.replace("cox-home", LOOPBACK).replace("abc", id);
            fs::write(results.join(format!("{LOOPBACK}-{id}-lo")), loopback).expect("written");
        }

        let found = find_in(&results, "cox-home").expect("listed");
        assert_eq!(found.attachments.len(), 1);
        assert_eq!(remove(&found, &ipam, "cox-home").await, 0);
        assert_eq!(find_in(&results, "cox-home").expect("listed"), Leftovers::default());
        assert!(!results.join("cni-loopback-abc-lo").exists());
        assert!(results.join("cni-loopback-of-someone-else-lo").exists());
        assert!(!ipam.join("cox-home").exists());
        assert!(ipam.join("cox-other").exists());
        assert_eq!(find_in(&results, "cox-other").expect("listed").attachments.len(), 1);
    }
}
