//! The hosts of a `cluster.yaml`, as far as they can be read.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use super::reader::{Fields, Given};
use super::{Host, Role, Ssh};

/// A host, as far as it can be read.
#[derive(Clone, Debug, Default)]
pub(super) struct HostDraft {
    pub path: String,
    pub name: Option<String>,
    pub address: Option<IpAddr>,
    /// Whether an address stands there, readable or not.
    pub address_given: bool,
    pub roles: Vec<Role>,
    pub ssh: SshDraft,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<String>,
}

/// What is said about ssh, for all hosts or for one.
#[derive(Clone, Debug, Default)]
pub(super) struct SshDraft {
    pub path: String,
    pub host: Option<String>,
    pub user: Option<String>,
    pub port: Option<u16>,
    pub key: Option<PathBuf>,
    pub jump: Option<String>,
    pub sudo: Option<bool>,
}

impl SshDraft {
    pub fn read(given: &Given<'_>, own: bool) -> Self {
        let Some(mut fields) = given.fields() else { return Self::default() };
        let ssh = Self {
            path: given.path.clone(),
            host: if own { fields.take("host").and_then(|g| g.text()) } else { None },
            user: fields.take("user").and_then(|g| g.text()),
            port: fields.take("port").and_then(|g| g.port()),
            key: fields.take("key").and_then(|g| g.text()).map(PathBuf::from),
            jump: fields.take("jump").and_then(|g| g.text()),
            sudo: fields.take("sudo").and_then(|g| g.boolean()),
        };
        fields.end();
        ssh
    }

    /// What holds for a host: its own words first, then those for all.
    fn settled(&self, all: &Self) -> Ssh {
        let user = self.user.as_ref().or(all.user.as_ref()).cloned().unwrap_or_else(|| "root".into());
        Ssh {
            host: self.host.clone(),
            port: self.port.or(all.port).unwrap_or(22),
            key: self.key.as_ref().or(all.key.as_ref()).cloned(),
            jump: self.jump.as_ref().or(all.jump.as_ref()).cloned(),
            sudo: self.sudo.or(all.sudo).unwrap_or(user != "root"),
            user,
        }
    }
}

impl HostDraft {
    pub fn read(given: &Given<'_>) -> Option<Self> {
        let mut fields = given.fields()?;
        let address = fields.take("address");
        let host = Self {
            path: given.path.clone(),
            name: fields.need("name").and_then(|g| g.text()),
            address_given: address.is_some(),
            address: address.and_then(|g| g.parse("an IP address")),
            roles: roles(&mut fields),
            ssh: fields.take("ssh").map(|g| SshDraft::read(&g, true)).unwrap_or_default(),
            labels: fields.take("labels").map(|g| texts(&g)).unwrap_or_default(),
            taints: fields
                .take("taints")
                .map(|g| g.items().iter().filter_map(Given::text).collect())
                .unwrap_or_default(),
        };
        fields.end();
        Some(host)
    }

    pub fn is(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    pub fn finish(self, all: &SshDraft) -> Option<Host> {
        Some(Host {
            name: self.name?,
            address: self.address?,
            roles: self.roles,
            ssh: self.ssh.settled(all),
            labels: self.labels,
            taints: self.taints,
        })
    }
}

fn roles(fields: &mut Fields<'_>) -> Vec<Role> {
    let Some(given) = fields.need("roles") else { return Vec::new() };
    let Some(items) = given.list() else { return Vec::new() };
    if items.is_empty() {
        given.wrong("a host needs a role: control-plane, etcd, worker, load-balancer");
    }
    let mut roles = Vec::new();
    for item in items {
        let Some(role) = item.choice(&Role::ALL) else { continue };
        if roles.contains(&role) {
            item.wrong("the role stands there twice");
        } else {
            roles.push(role);
        }
    }
    roles
}

/// A map of texts.
pub(super) fn texts(given: &Given<'_>) -> BTreeMap<String, String> {
    given.pairs().into_iter().filter_map(|(key, value)| Some((key, value.text()?))).collect()
}
