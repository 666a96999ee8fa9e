//! The wire between the hosts of a cluster: a bridge in a network namespace of its own, so that no firewall of the
//! machine (Docker's, most of all) filters what hosts say to each other. One pair of links leads out of it: the machine
//! is a neighbour of the hosts, and their way to everywhere else.

use std::{
    collections::BTreeMap,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use ipnet::{IpNet, Ipv4Net};
use net::host::Route;
use sha2::{Digest as _, Sha256};

use super::init::tool;
use crate::{Layout, files};

/// Name of the bridge in its namespace.
pub(super) const BRIDGE: &str = "br0";
/// Where clusters take the networks of their hosts from, a /24 each.
const POOL: [u8; 2] = [10, 200];

/// Why the wire could not be laid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwitchError {
    /// A program that makes links refused.
    #[error("cannot connect the hosts: {0:#}")]
    Tool(anyhow::Error),
    /// A file or setting.
    #[error("cannot {step}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The packet filter.
    #[error("cannot let the hosts reach what is outside of this machine")]
    Nft(#[from] net::nft::Error),
}

/// What tells the links and tables of a cluster from those of another on this machine: eight hexadecimal digits.
fn mark(root: &Path) -> String {
    let digest = Sha256::digest(root.as_os_str().as_encoded_bytes());
    crate::apply::hex(&digest[..4])
}

/// A network for the hosts of a cluster that nothing on this machine uses: another first choice for each cluster.
pub fn free_network(root: &Path, routes: &[Route]) -> Option<Ipv4Net> {
    let first = Sha256::digest(root.as_os_str().as_encoded_bytes())[0];
    (0..=255u8).map(|i| first.wrapping_add(i)).find_map(|third| {
        let net = Ipv4Net::new(Ipv4Addr::new(POOL[0], POOL[1], third, 0), 24).ok()?;
        let taken = routes.iter().filter(|r| !r.is_default()).any(|r| match r.destination {
            IpNet::V4(other) => other.contains(&net) || net.contains(&other),
            IpNet::V6(_) => false,
        });
        (!taken).then_some(net)
    })
}

/// The wire of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Switch {
    pub namespace: PathBuf,
    pub uplink: String,
    pub table: String,
    pub network: Ipv4Net,
    changes: PathBuf,
}

impl Switch {
    pub(super) fn of(layout: &Layout, network: Ipv4Net) -> Self {
        let mark = mark(layout.root());
        Self {
            namespace: layout.run().join("switch"),
            uplink: format!("cox{mark}"),
            table: format!("cox-hosts-{mark}"),
            network,
            changes: layout.host_changes(),
        }
    }

    /// The machine's own address on the wire.
    pub(super) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network.network()) + 1)
    }

    /// Whether the namespace is there: its file is a mount, not just a file.
    fn is_mounted(&self) -> bool {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let path = fs::canonicalize(&self.namespace).unwrap_or_else(|_| self.namespace.clone());
        crate::down::mounts_below(&mountinfo, &path).contains(&path)
    }

    /// Lays the wire where it is missing; says whether it was.
    pub(super) async fn ensure(&self) -> Result<bool, SwitchError> {
        let io = |step| move |source| SwitchError::Io { step, source };
        let inside = format!("--net={}", self.namespace.display());
        let within = |command: &[&str]| {
            let mut all = vec!["nsenter", &inside, "ip"];
            all.extend(command);
            tool(&all).map_err(SwitchError::Tool)
        };
        let mut changed = false;
        if !self.is_mounted() {
            fs::write(&self.namespace, "").map_err(io("make the switch's file"))?;
            tool(&["unshare", &inside, "true"]).map_err(SwitchError::Tool)?;
            within(&["link", "set", "lo", "up"])?;
            within(&["link", "add", BRIDGE, "type", "bridge"])?;
            within(&["link", "set", BRIDGE, "up"])?;
            changed = true;
        }
        let address = format!("{}/{}", self.gateway(), self.network.prefix_len());
        let has_link = Path::new("/sys/class/net").join(&self.uplink).exists();
        if !has_link {
            let namespace = self.namespace.display().to_string();
            tool(&[
                "ip",
                "link",
                "add",
                &self.uplink,
                "type",
                "veth",
                "peer",
                "name",
                "uplink",
                "netns",
                &namespace,
            ])
            .map_err(SwitchError::Tool)?;
            within(&["link", "set", "uplink", "master", BRIDGE, "up"])?;
            changed = true;
        }
        tool(&["ip", "addr", "replace", &address, "dev", &self.uplink]).map_err(SwitchError::Tool)?;
        tool(&["ip", "link", "set", &self.uplink, "up"]).map_err(SwitchError::Tool)?;
        let nft = net::nft::Nft::default();
        if changed || nft.list(&["table", "ip", &self.table]).await.is_err() {
            nft.apply(&self.rules()).await?;
            changed = true;
        }
        self.forward()?;
        Ok(changed)
    }

    /// What leaves the machine leaves with its address.
    fn rules(&self) -> String {
        let (table, net, link) = (&self.table, self.network, &self.uplink);
        format!(
            "add table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n\
             chain postrouting {{\ntype nat hook postrouting priority 100\n\
             ip saddr {net} oifname != \"{link}\" masquerade\n}}\n}}\n"
        )
    }

    /// Lets the machine forward packets; what was so before is put back when the cluster goes.
    fn forward(&self) -> Result<(), SwitchError> {
        let io = |step| move |source| SwitchError::Io { step, source };
        let path = PathBuf::from("/proc/sys/net/ipv4/ip_forward");
        let found = fs::read_to_string(&path).map_err(io("read net.ipv4.ip_forward"))?.trim().to_owned();
        if found == "1" {
            return Ok(());
        }
        let mut former: BTreeMap<PathBuf, String> = files::read_json(&self.changes).unwrap_or_default();
        former.entry(path.clone()).or_insert(found);
        files::write_json(&self.changes, &former).map_err(io("record what was so before"))?;
        // In a container that may not: hosts reach each other and this machine all the same.
        if let Err(error) = fs::write(&path, "1") {
            tracing::warn!(%error, "cannot set net.ipv4.ip_forward: hosts reach nothing outside of this machine");
        }
        Ok(())
    }

    /// Takes the wire away, but for the namespace, which goes with its mount.
    pub(super) async fn remove(&self) -> io::Result<bool> {
        net::host::delete_link(&self.uplink).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_get_networks_that_nothing_uses() {
        let root = Path::new("/var/lib/cox/default");
        let first = free_network(root, &[]).expect("one is free");
        assert_eq!(free_network(root, &[]), Some(first));
        let route = |net: &str| Route { destination: net.parse().expect("a network"), link: "eth0".into() };
        let taken = route(&first.to_string());
        let second = free_network(root, &[taken, route("0.0.0.0/0")]).expect("another is free");
        assert_ne!(first, second);
        assert_eq!(free_network(root, &[route("10.0.0.0/8")]), None);
        assert_ne!(mark(root), mark(Path::new("/var/lib/cox/other")));
    }
}
