//! One local cluster: what was asked for, what follows from it, and where it is kept.
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use pki::ClusterPki;
use provision::{HostConfig, Layout, Neighbour, ProcessRecord};
use serde::{Deserialize, Serialize};

use crate::args::{Up, Which};
use crate::commands::up::PROCESS;
use crate::output::Failure;

/// What a local cluster is like. Kept beside its data, so that every later command agrees with the first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Port of the API server.
    pub secure_port: u16,
    /// Whether this machine runs pods.
    pub node: bool,
    /// Name of the node.
    pub node_name: String,
    /// Address of this machine.
    pub address: IpAddr,
    /// Network of the pods.
    pub cluster_cidr: Ipv4Net,
    /// Network of the Services.
    pub service_cidr: Ipv4Net,
    /// Port of the kubelet.
    pub kubelet_port: u16,
    /// Port of the cluster DNS on the node's address; Services lead port 53 there.
    pub dns_port: u16,
    /// The etcd that keeps the objects, in place of the embedded store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdSettings>,
}

/// Where a cluster's etcd is, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EtcdSettings {
    /// The members' URLs.
    pub servers: Vec<String>,
    /// Where the keys are.
    pub prefix: String,
    /// Authority of the members' certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// The file that keeps the settings, in the cluster's directory.
pub const SETTINGS: &str = "cluster.json";

/// A local cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Where it is kept.
    pub layout: Layout,
    /// What it is like.
    pub settings: Settings,
}

/// Name of the cluster where none is given.
const DEFAULT_NAME: &str = "default";

/// The layout of a cluster.
pub fn layout(which: &Which) -> Result<Layout, Failure> {
    let name = match which.file() {
        Some(file) => crate::cluster_file::judged(file, crate::cluster_file::read(file)?)?.name,
        None => which.name.clone().unwrap_or_else(|| DEFAULT_NAME.to_owned()),
    };
    Layout::new(&which.data_dir, &name).map_err(|e| Failure::of(&e))
}

fn settings_file(layout: &Layout) -> PathBuf {
    layout.root().join(SETTINGS)
}

/// What was written down about a cluster, if anything was.
fn kept_settings(layout: &Layout) -> Result<Option<Settings>, Failure> {
    let path = settings_file(layout);
    let unusable = |why: String| {
        Failure::new(format!("cannot read {}: {why}", path.display()), "run `cox up` to write it again")
    };
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| unusable(e.to_string())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unusable(e.to_string())),
    }
}

/// The etcd that keeps a cluster's objects; `None`: its embedded store does.
pub fn etcd_of(layout: &Layout) -> Result<Option<EtcdSettings>, Failure> {
    Ok(kept_settings(layout)?.and_then(|settings| settings.etcd))
}

/// Writes down which etcd keeps a stopped cluster's objects from now on, or that its embedded store does.
pub fn keep_etcd(layout: &Layout, etcd: Option<EtcdSettings>) -> Result<(), Failure> {
    match kept_settings(layout)? {
        Some(settings) => Cluster { layout: layout.clone(), settings: Settings { etcd, ..settings } }.keep(),
        // It was never brought up: `up` will be told.
        None => Ok(()),
    }
}

/// Which etcd `up` uses. Unlike other flags, these hold until others are given: they say where the objects are.
fn etcd_wanted(layout: &Layout, options: &Up) -> Result<Option<EtcdSettings>, Failure> {
    let asked = options.etcd.settings();
    let has_objects = || std::fs::read_dir(layout.db()).is_ok_and(|mut entries| entries.next().is_some());
    match (kept_settings(layout), asked) {
        (Ok(Some(kept)), None) => Ok(kept.etcd),
        (Ok(None), asked) => Ok(asked),
        (Ok(Some(kept)), asked @ Some(_)) if kept.etcd.is_some() || !has_objects() => Ok(asked),
        (Ok(Some(_)), Some(_)) => Err(Failure::new(
            format!("the objects of cluster {:?} are in its embedded store", layout.name()),
            "move them first, with `cox migrate --from embedded --to etcd`; `cox up` then uses that etcd by itself",
        )),
        // Nobody knows any more; what is there, or was said, does.
        (Err(_), asked @ Some(_)) => Ok(asked),
        (Err(_), None) if has_objects() => Ok(None),
        (Err(failure), None) => Err(Failure {
            next: "if the cluster is on etcd, name it with --etcd-servers; else remove that file".into(),
            ..failure
        }),
    }
}

/// The clusters that are kept in a directory.
fn clusters_in(data_dir: &Path) -> Vec<Which> {
    let names = std::fs::read_dir(data_dir).into_iter().flatten().flatten();
    names
        .filter(|entry| entry.path().join(SETTINGS).is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .map(|name| Which { name: Some(name), file: None, data_dir: data_dir.to_owned() })
        .collect()
}

/// The clusters whose background processes run, wherever they are kept.
fn running_clusters() -> Vec<Which> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter_map(|line| cluster_of(&String::from_utf8_lossy(&line)))
        .collect()
}

/// Which cluster a command line of [`crate::commands::up`] runs; arguments end with a zero byte.
fn cluster_of(line: &str) -> Option<Which> {
    match line.split('\0').collect::<Vec<_>>().as_slice() {
        [_, "run", "--name", name, "--data-dir", data_dir, ..] => {
            Some(Which { name: Some((*name).to_owned()), file: None, data_dir: PathBuf::from(data_dir) })
        }
        _ => None,
    }
}

impl Cluster {
    /// The cluster that `up` is about; a flag that is left out means its default again.
    pub async fn wanted(options: &Up) -> Result<Self, Failure> {
        let layout = layout(&options.which)?;
        let etcd = etcd_wanted(&layout, options)?;
        let detected = HostConfig::detect(layout.clone()).await?;
        let settings = Settings {
            secure_port: options.secure_port.unwrap_or(6443),
            node: !options.no_node,
            node_name: options.node_name.clone().unwrap_or(detected.node_name),
            address: options.node_ip.unwrap_or(detected.advertise_address),
            cluster_cidr: options.cluster_cidr,
            service_cidr: options.service_cidr,
            kubelet_port: options.kubelet_port,
            dns_port: options.dns_port,
            etcd,
        };
        Ok(Self { layout, settings })
    }

    /// What this host has to become.
    pub async fn host(&self) -> Result<HostConfig, Failure> {
        let settings = &self.settings;
        let mut host = HostConfig::detect(self.layout.clone()).await?;
        host.node_name.clone_from(&settings.node_name);
        host.addresses.retain(|a| *a != settings.address);
        host.addresses.insert(0, settings.address);
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        if !host.addresses.contains(&loopback) {
            host.addresses.push(loopback);
        }
        host.advertise_address = settings.address;
        host.secure_port = settings.secure_port;
        host.service_cidrs = vec![settings.service_cidr.into()];
        host.pod_cidrs = vec![settings.cluster_cidr.into()];
        host.node = settings.node;
        if settings.node {
            host.other_ports = vec![
                (settings.kubelet_port, "kubelet".to_owned(), "--kubelet-port"),
                (settings.dns_port, "cluster DNS".to_owned(), "--dns-port"),
            ];
            host.neighbours = self.neighbours();
        }
        Ok(host)
    }

    /// The other clusters that run pods on this machine, as far as they can be found: those beside this one, and
    /// those whose process runs.
    fn neighbours(&self) -> Vec<Neighbour> {
        let beside = self.layout.root().parent().map(clusters_in).unwrap_or_default();
        let mut all: Vec<Which> = beside.into_iter().chain(running_clusters()).collect();
        all.sort_by(|a, b| (&a.data_dir, &a.name).cmp(&(&b.data_dir, &b.name)));
        all.dedup_by(|a, b| (&a.data_dir, &a.name) == (&b.data_dir, &b.name));
        all.iter()
            .filter_map(|which| Self::kept(which).ok())
            .filter(|other| other.layout.root() != self.layout.root() && other.settings.node && other.is_up())
            .map(|other| Neighbour {
                name: other.layout.name().to_owned(),
                networks: vec![other.settings.cluster_cidr.into(), other.settings.service_cidr.into()],
            })
            .collect()
    }

    /// Whether its parts run, or its pods.
    fn is_up(&self) -> bool {
        let record = ProcessRecord::read(&self.layout.process_record(PROCESS));
        record.is_some_and(|r| r.is_alive()) || provision::Containerd::find(&self.layout).is_some()
    }

    /// The cluster as it was brought up last.
    pub fn kept(which: &Which) -> Result<Self, Failure> {
        let layout = layout(which)?;
        match kept_settings(&layout)? {
            Some(settings) => Ok(Self { layout, settings }),
            None => Err(Failure::new(
                format!("there is no cluster named {:?} in {}", layout.name(), which.data_dir.display()),
                "run `cox up` to make one, or name another with --name and --data-dir",
            )),
        }
    }

    /// Keeps the settings for later commands.
    pub fn keep(&self) -> Result<(), Failure> {
        let path = settings_file(&self.layout);
        let mut text = serde_json::to_vec_pretty(&self.settings).map_err(|e| Failure::of(&e))?;
        text.push(b'\n');
        let fail = |e: std::io::Error| {
            Failure::new(format!("cannot write {}: {e}", path.display()), "is the disk full?")
        };
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, text).map_err(fail)?;
        std::fs::rename(&temporary, &path).map_err(fail)
    }

    /// The certificates of the cluster.
    pub fn pki(&self) -> ClusterPki {
        ClusterPki::at(self.layout.pki())
    }

    /// The admin kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        ClusterPki::kubeconfig(&self.layout.kubeconfigs(), "admin")
    }

    /// The cluster IP of the DNS: the tenth of the service network.
    pub fn dns_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.settings.service_cidr.network()) + 10)
    }

    /// The certificates' issuer of service-account tokens, as kubeadm names it.
    pub fn issuer(&self) -> &'static str {
        "https://kubernetes.default.svc.cluster.local"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_found_by_their_directories_and_processes() {
        let line = |text: &str| cluster_of(text).map(|w| (w.name, w.data_dir));
        assert_eq!(
            line("/usr/bin/cox\0run\0--name\0a\0--data-dir\0/x\0"),
            Some((Some("a".to_owned()), "/x".into()))
        );
        assert_eq!(line("/usr/bin/cox\0up\0--name\0a\0"), None);
        assert_eq!(line(""), None);
        assert!(clusters_in(Path::new("/nowhere")).is_empty());
    }

    #[test]
    fn the_dns_is_the_tenth_service_address() {
        let settings = Settings {
            secure_port: 6443,
            node: true,
            node_name: "a".into(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            cluster_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.32.0.0/24".parse().unwrap(),
            kubelet_port: 10250,
            dns_port: 10053,
            etcd: None,
        };
        let layout = Layout::new(Path::new("/tmp/x"), "a").unwrap();
        assert_eq!(Cluster { layout, settings }.dns_ip().to_string(), "10.32.0.10");
    }

    fn up(dir: &Path, words: &[&str]) -> Up {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            up: Up,
        }
        let dir = dir.to_str().unwrap();
        <Line as clap::Parser>::try_parse_from([&["up", "--data-dir", dir], words].concat()).unwrap().up
    }

    #[test]
    fn an_etcd_holds_until_another_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), "default").unwrap();
        let wanted = |words: &[&str]| etcd_wanted(&layout, &up(dir.path(), words));
        assert_eq!(wanted(&[]).unwrap(), None);
        let asked = wanted(&["--etcd-servers=https://a:2379", "--etcd-cafile=ca.crt"]).unwrap().unwrap();
        assert!(asked.ca_file.as_ref().unwrap().is_absolute(), "{asked:?}");
        std::fs::create_dir_all(layout.db()).unwrap();
        let text = r#"{"securePort":1,"node":false,"nodeName":"a","address":"127.0.0.1","clusterCidr":"10.244.0.0/16",
            "serviceCidr":"10.96.0.0/12","kubeletPort":2,"dnsPort":3}"#;
        let file = settings_file(&layout);
        std::fs::write(&file, text).unwrap();
        assert_eq!(etcd_of(&layout).unwrap(), None);
        keep_etcd(&layout, Some(asked.clone())).unwrap();
        assert_eq!(wanted(&[]).unwrap(), Some(asked.clone()), "no flag is no wish for another store");
        let other = wanted(&["--etcd-servers=https://b:2379"]).unwrap().unwrap();
        assert_eq!((other.servers, other.ca_file), (vec!["https://b:2379".to_owned()], None));
        keep_etcd(&layout, None).unwrap();
        assert!(!std::fs::read_to_string(&file).unwrap().contains("etcd"));

        std::fs::write(layout.db().join("x"), "").unwrap();
        let refused = wanted(&["--etcd-servers=https://a:2379"]).unwrap_err();
        assert!(refused.to_string().contains("cox migrate"), "{refused}");
        std::fs::write(&file, "{").unwrap();
        assert_eq!(wanted(&[]).unwrap(), None, "there are objects");
        std::fs::remove_file(layout.db().join("x")).unwrap();
        assert!(wanted(&[]).unwrap_err().to_string().contains("--etcd-servers"));
    }
}
