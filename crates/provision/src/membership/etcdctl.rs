//! etcd's own `etcdctl`, run on a host that has a member.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Member;
use crate::apply::{Host, HostError};
use crate::plan::{HostPaths, etcd_client_url, etcd_peer_url};
use crate::spec;

/// How long one question may take, and the one whether members work: those that are gone are always waited for.
const TIMEOUT: &str = "--command-timeout=5s";
const HEALTH: [&str; 2] = ["--command-timeout=2s", "--dial-timeout=1s"];

/// Why etcd was not asked, or refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdctlError {
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// etcd, or `etcdctl`.
    #[error("etcdctl {step}: {said}")]
    Refused {
        /// What was asked.
        step: String,
        /// What it said.
        said: String,
    },
}

/// Asks etcd, from a host that has the keys for it.
pub struct Etcdctl<'a> {
    on: &'a dyn Host,
    paths: &'a HostPaths,
    endpoint: String,
}

impl<'a> Etcdctl<'a> {
    /// From a host, at its own member.
    pub fn new(on: &'a dyn Host, host: &spec::Host, paths: &'a HostPaths) -> Self {
        Self { on, paths, endpoint: etcd_client_url(host) }
    }

    /// What it says, and whether all is well.
    async fn say(&self, endpoints: &str, words: &[&str]) -> Result<(bool, String, String), HostError> {
        let pki = |file: &str| self.paths.pki(file).display().to_string();
        let (authority, certificate, key) = (pki("etcd/ca.crt"), pki("etcd/peer.crt"), pki("etcd/peer.key"));
        let mut command = vec!["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", endpoints];
        command.extend(["--cacert", &authority, "--cert", &certificate, "--key", &key]);
        command.extend(words);
        let output = self.on.run(&command, b"").await?;
        Ok((output.code == 0, output.out, output.err))
    }

    async fn ask(&self, words: &[&str]) -> Result<String, EtcdctlError> {
        match self.say(&self.endpoint, &[&[TIMEOUT], words].concat()).await? {
            (true, out, _) => Ok(out),
            (false, _, err) => {
                let last = err.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
                Err(EtcdctlError::Refused { step: words.join(" "), said: told(last) })
            }
        }
    }

    /// The members, as this one knows them, and whether each works.
    pub async fn members(&self) -> Result<Vec<Member>, EtcdctlError> {
        let list = self.ask(&["member", "list", "-w", "json"]).await?;
        let (mut members, urls) = listed(&list).ok_or_else(|| EtcdctlError::Refused {
            step: "member list".into(),
            said: "its answer cannot be read".into(),
        })?;
        let all: Vec<&str> = urls.iter().filter(|url| !url.is_empty()).map(String::as_str).collect();
        if all.is_empty() {
            return Ok(members);
        }
        // Ends with an error where one of them does not work: that is an answer too.
        let (_, out, _) =
            self.say(&all.join(","), &[&["endpoint", "health", "-w", "json"][..], &HEALTH].concat()).await?;
        let healthy = healthy(&out);
        for (member, url) in members.iter_mut().zip(&urls) {
            member.healthy = !url.is_empty() && healthy.contains(url);
        }
        Ok(members)
    }

    /// Announces a member that learns until it is given a vote.
    pub async fn announce(&self, host: &spec::Host) -> Result<(), EtcdctlError> {
        let urls = format!("--peer-urls={}", etcd_peer_url(host));
        self.ask(&["member", "add", &host.name, "--learner", &urls]).await.map(drop)
    }

    /// Gives a member that learns a vote; refused until it has learned nearly everything.
    pub async fn promote(&self, id: u64) -> Result<(), EtcdctlError> {
        self.ask(&["member", "promote", &format!("{id:x}")]).await.map(drop)
    }

    /// Removes a member.
    pub async fn remove(&self, id: u64) -> Result<(), EtcdctlError> {
        self.ask(&["member", "remove", &format!("{id:x}")]).await.map(drop)
    }

    /// The revision that this one's member has come to, majority or not.
    pub async fn revision(&self) -> Result<u64, EtcdctlError> {
        let text = self.ask(&["endpoint", "status", "-w", "json"]).await?;
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        Ok(value[0]["Status"]["header"]["revision"].as_u64().unwrap_or(0))
    }
}

/// The error itself, out of what a client of 3.4 and of later ones writes about it.
fn told(line: &str) -> String {
    let found = serde_json::from_str::<Value>(line).ok();
    let error = found.as_ref().and_then(|v| v["error"].as_str()).unwrap_or(line);
    error.trim_start_matches("Error: ").trim().to_owned()
}

/// Members, and where clients reach each; a member that has never started says nothing about that.
fn listed(text: &str) -> Option<(Vec<Member>, Vec<String>)> {
    let value: Value = serde_json::from_str(text).ok()?;
    let first = |value: &Value| value[0].as_str().unwrap_or_default().to_owned();
    let member = |found: &Value| {
        let member = Member {
            id: found["ID"].as_u64()?,
            name: found["name"].as_str().unwrap_or_default().to_owned(),
            peer_url: first(&found["peerURLs"]),
            learner: found["isLearner"].as_bool().unwrap_or(false),
            healthy: false,
        };
        Some((member, first(&found["clientURLs"])))
    };
    let all: Option<Vec<_>> = value["members"].as_array()?.iter().map(member).collect();
    Some(all?.into_iter().unzip())
}

fn healthy(text: &str) -> BTreeSet<String> {
    let value: Value = serde_json::from_str(text.trim()).unwrap_or_default();
    let all = value.as_array().into_iter().flatten();
    all.filter(|e| e["health"] == true).filter_map(|e| e["endpoint"].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcdctl_prints_is_read() {
        let text = r#"{"header":{"cluster_id":1},"members":[
            {"ID":9372538179322589801,"name":"a","peerURLs":["https://192.0.2.1:2380"],"clientURLs":["https://192.0.2.1:2379"]},
            {"ID":2,"name":"","peerURLs":["https://192.0.2.2:2380"],"isLearner":true}]}"#;
        let (members, urls) = listed(text).expect("a list");
        assert_eq!((members[0].id, members[0].name.as_str()), (9372538179322589801, "a"));
        assert!(members[1].learner && members[1].name.is_empty());
        assert_eq!(urls, ["https://192.0.2.1:2379", ""]);
        assert_eq!(listed("rubbish"), None);
        let health = r#"[{"endpoint":"https://a:2379","health":true,"took":"9ms"},{"endpoint":"https://b:2379","health":false,"took":"5s","error":"context deadline exceeded"}]"#;
        assert_eq!(healthy(health), ["https://a:2379".to_owned()].into());
        assert_eq!(healthy(""), BTreeSet::new());
        assert_eq!(told("Error: etcdserver: unhealthy cluster"), "etcdserver: unhealthy cluster");
        assert_eq!(told(r#"{"level":"warn","error":"rpc error: x"}"#), "rpc error: x");
    }
}
