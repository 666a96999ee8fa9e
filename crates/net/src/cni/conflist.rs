//! The network configuration list: rendered purely, installed atomically.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde_json::{Value, json};

/// What the pod network of one node is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network<'a> {
    /// Name of the network; the plugins file their state under it, so it has to differ between clusters of one host.
    pub name: &'a str,
    /// The node's pod ranges: one, or one for each family.
    pub pod_cidrs: &'a [IpNet],
    /// Where `host-local` keeps which address is taken.
    pub ipam_dir: &'a Path,
    /// Largest packet of the pods' links; `None` leaves the kernel's default.
    pub mtu: Option<u32>,
    /// Whether host ports are wanted; needs `iptables` on the host.
    pub host_ports: bool,
}

/// The configuration list of a network, as the container runtime reads it.
///
/// Nothing here masquerades: that is one rule in the proxy's own nftables table, not one of iptables for each pod.
pub fn conflist(network: &Network<'_>) -> String {
    let ranges: Vec<Value> =
        network.pod_cidrs.iter().map(|c| json!([{ "subnet": c.trunc().to_string() }])).collect();
    let routes: Vec<Value> = network
        .pod_cidrs
        .iter()
        .map(|c| json!({ "dst": if c.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" } }))
        .collect();
    let mut ptp = json!({
        "type": "ptp",
        "ipMasq": false,
        "ipam": { "type": "host-local", "dataDir": network.ipam_dir, "ranges": ranges, "routes": routes },
    });
    if let Some(mtu) = network.mtu {
        ptp["mtu"] = json!(mtu);
    }
    let mut plugins = vec![ptp];
    if network.host_ports {
        plugins.push(json!({ "type": "portmap", "capabilities": { "portMappings": true } }));
    }
    let list = json!({ "cniVersion": "1.0.0", "name": network.name, "plugins": plugins });
    format!("{list:#}\n")
}

/// File name of the configuration list in the runtime's directory.
const FILE: &str = "10-cox.conflist";

/// Puts a configuration list into the directory the runtime watches; says whether anything changed.
pub fn install(conf_dir: &Path, conflist: &str) -> io::Result<bool> {
    let path = path(conf_dir);
    match fs::read(&path) {
        Ok(found) if found == conflist.as_bytes() => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir_all(conf_dir)?,
        Err(error) => return Err(error),
    }
    // The runtime reads every `.conf`, `.conflist` and `.json` there: the half-written file has another name.
    let temporary = conf_dir.join(format!(".{FILE}.{}", std::process::id()));
    let written = (|| {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
        file.write_all(conflist.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map(|()| true)
}

/// Takes the configuration list away; fine if it was not there.
pub fn uninstall(conf_dir: &Path) -> io::Result<()> {
    match fs::remove_file(path(conf_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn path(conf_dir: &Path) -> PathBuf {
    conf_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidrs(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|t| t.parse().expect("a cidr")).collect()
    }

    #[test]
    fn renders_one_family() {
        let text = conflist(&Network {
            name: "cox-home",
            pod_cidrs: &cidrs(&["10.244.3.0/24"]),
            ipam_dir: Path::new("/d/ipam"),
            mtu: Some(1450),
            host_ports: true,
        });
        let want = json!({
            "cniVersion": "1.0.0",
            "name": "cox-home",
            "plugins": [
                { "type": "ptp", "ipMasq": false, "mtu": 1450, "ipam": {
                    "type": "host-local",
                    "dataDir": "/d/ipam",
                    "ranges": [[{ "subnet": "10.244.3.0/24" }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                } },
                { "type": "portmap", "capabilities": { "portMappings": true } },
            ],
        });
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), want);
    }

    #[test]
    fn renders_both_families_without_host_ports() {
        let text = conflist(&Network {
            name: "n",
            pod_cidrs: &cidrs(&["10.244.3.7/24", "fd00:3::/64"]),
            ipam_dir: Path::new("/d"),
            mtu: None,
            host_ports: false,
        });
        let list: Value = serde_json::from_str(&text).expect("JSON");
        let ipam = &list["plugins"][0]["ipam"];
        assert_eq!(ipam["ranges"], json!([[{ "subnet": "10.244.3.0/24" }], [{ "subnet": "fd00:3::/64" }]]));
        assert_eq!(ipam["routes"], json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]));
        assert_eq!(list["plugins"].as_array().map(Vec::len), Some(1));
        assert_eq!(list["plugins"][0].get("mtu"), None);
    }

    #[test]
    fn installs_once_and_only_the_list() {
        let dir = tempfile::tempdir().expect("a directory");
        let conf = dir.path().join("net.d");
        assert!(install(&conf, "{}").expect("written"));
        assert!(!install(&conf, "{}").expect("kept"));
        assert!(install(&conf, "{ }").expect("replaced"));
        let names: Vec<_> =
            fs::read_dir(&conf).expect("listed").map(|e| e.expect("an entry").file_name()).collect();
        assert_eq!(names, [FILE]);
        uninstall(&conf).expect("removed");
        uninstall(&conf).expect("nothing to do");
        assert_eq!(fs::read_dir(&conf).expect("listed").count(), 0);
    }
}
