//! The cluster that the certificates are of: on this machine itself, or on hosts.
use pki::{ClusterPki, PkiSpec};
use provision::Layout;
use provision::plan::pki_spec;

use crate::args::Which;
use crate::cluster::Cluster;
use crate::hosts::HostsCluster;
use crate::output::Failure;

/// A cluster that was brought up before.
pub enum Kept {
    /// In this machine itself.
    One(Box<Cluster>),
    /// On hosts.
    Hosts(Box<HostsCluster>),
}

impl Kept {
    /// The cluster that is meant.
    pub fn find(which: &Which) -> Result<Self, Failure> {
        Ok(match HostsCluster::kept(which)? {
            Some(cluster) => Self::Hosts(Box::new(cluster)),
            None => Self::One(Box::new(Cluster::kept(which)?)),
        })
    }

    /// Where it is kept.
    pub fn layout(&self) -> &Layout {
        match self {
            Self::One(cluster) => &cluster.layout,
            Self::Hosts(cluster) => &cluster.layout,
        }
    }

    /// Its keys and certificates.
    pub fn pki(&self) -> ClusterPki {
        ClusterPki::at(self.layout().pki())
    }

    /// What they are made for.
    pub async fn pki_spec(&self) -> Result<PkiSpec, Failure> {
        Ok(match self {
            Self::One(cluster) => cluster.host().await?.pki_spec(),
            Self::Hosts(cluster) => pki_spec(&cluster.spec),
        })
    }
}
