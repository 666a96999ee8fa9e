//! How a host of a cluster is: what is asked of it, and what it answers. The question comes over whatever leads to the
//! host ([`Host::run`]), and `cox` answers it there.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use pki::CertificateFacts;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    apply::{Host, HostError, Running},
    plan::{HostPaths, HostPlan, Ready},
    probe::{post_json, probe},
};

/// How long a host may take to answer.
const PATIENCE: Duration = Duration::from_secs(25);
/// etcd's port for clients.
const ETCD: u16 = 2379;

/// What a host is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Its services, and how to tell that each works.
    pub services: BTreeMap<String, Ready>,
    /// Its certificates.
    pub certificates: Vec<PathBuf>,
    /// Its member of etcd, if it has one.
    pub etcd: Option<EtcdMember>,
}

/// What it takes to ask a member of etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdMember {
    /// Who signed its certificate.
    pub authority: PathBuf,
    /// A certificate that it takes.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// How a host is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// Its clock, in milliseconds.
    pub clock: i64,
    /// What stands in the way of services that do not work.
    pub ailing: BTreeMap<String, String>,
    /// When its certificates end, or why that cannot be told.
    pub certificates: BTreeMap<PathBuf, Result<Timestamp, String>>,
    /// Its member of etcd.
    pub etcd: Option<Result<EtcdStatus, String>>,
}

/// How a member of etcd is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdStatus {
    /// Its release.
    pub version: String,
    /// Who it is.
    pub member: String,
    /// Who it takes for the leader; empty where it knows none.
    pub leader: String,
    /// Bytes of its file.
    pub size: u64,
    /// Bytes of it that are used.
    pub used: u64,
    /// Whether it still learns what the others know.
    pub learner: bool,
    /// Alarms that are raised.
    pub alarms: Vec<String>,
}

impl Question {
    /// What to ask a host with this plan.
    pub fn of(plan: &HostPlan, paths: &HostPaths) -> Self {
        let services = plan.services.iter().map(|s| (s.name.clone(), s.ready.clone())).collect();
        let is_certificate = |path: &Path| path.extension().is_some_and(|e| e == "crt");
        let certificates = plan.files.iter().map(|f| f.path.clone()).filter(|p| is_certificate(p)).collect();
        let etcd = plan.service("etcd").map(|_| EtcdMember {
            authority: paths.pki("etcd/ca.crt"),
            certificate: paths.pki("etcd/peer.crt"),
            key: paths.pki("etcd/peer.key"),
        });
        Self { services, certificates, etcd }
    }

    /// Asks a host; its services are those that run there, planned or not.
    pub async fn ask(
        &self,
        host: &dyn Host,
        cox: &Path,
    ) -> Result<(BTreeMap<String, Running>, Answered), HostError> {
        let asked = async {
            let question = serde_json::to_vec(self).unwrap_or_default();
            let cox = cox.display().to_string();
            let services = host.services().await?;
            let before = Timestamp::now();
            let output = host.run(&[&cox, "report"], &question).await?;
            let after = Timestamp::now();
            if output.code != 0 {
                let said = output.err.trim().trim_start_matches("cox: ").to_owned();
                return Err(HostError::Refused { step: "ask how it is".into(), said });
            }
            let report: HostReport = serde_json::from_str(&output.out).map_err(|e| HostError::Refused {
                step: "read how it is".into(),
                said: format!("{e}; is the cox there of another build? `cox up` brings this one"),
            })?;
            Ok((services, Answered { ahead: ahead(report.clock, before, after), report }))
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| {
            Err(HostError::Unreachable(format!(
                "host {} does not answer within {} s",
                host.name(),
                PATIENCE.as_secs()
            )))
        })
    }
}

/// How a host is, and how its clock stands to ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// What it said.
    pub report: HostReport,
    /// By how many milliseconds its clock is ahead of ours at least; negative where it is behind.
    pub ahead: i64,
}

/// How far a clock that was read between two moments is away from them.
fn ahead(clock: i64, before: Timestamp, after: Timestamp) -> i64 {
    let (before, after) = (before.as_millisecond(), after.as_millisecond());
    clock - clock.clamp(before, after.max(before))
}

/// Answers the question on the host itself.
pub async fn report(question: &Question) -> HostReport {
    let probes = question.services.iter().map(|(name, ready)| async move { (name, probe(ready).await) });
    let (probed, etcd) = tokio::join!(futures::future::join_all(probes), async {
        match &question.etcd {
            Some(member) => Some(etcd_status(member).await),
            None => None,
        }
    });
    let ailing =
        probed.into_iter().filter_map(|(name, result)| Some((name.clone(), result.err()?))).collect();
    let ends = |path: &Path| {
        let text = pki::read(path)
            .map_err(|e| base::Chain(&e).to_string())?
            .ok_or_else(|| "it is missing".to_owned())?;
        CertificateFacts::from_pem(&text).map(|facts| facts.not_after).map_err(|e| e.to_string())
    };
    HostReport {
        clock: Timestamp::now().as_millisecond(),
        ailing,
        certificates: question.certificates.iter().map(|p| (p.clone(), ends(p))).collect(),
        etcd,
    }
}

async fn etcd_status(member: &EtcdMember) -> Result<EtcdStatus, String> {
    let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), ETCD);
    let ask = |path: &'static str, body: serde_json::Value| async move {
        post_json(at, &member.authority, (&member.certificate, &member.key), path, &body).await
    };
    let status = ask("/v3/maintenance/status", json!({})).await?;
    let alarms = ask("/v3/maintenance/alarm", json!({ "action": "GET" })).await?;
    Ok(etcd_said(&status, &alarms))
}

/// etcd writes numbers of 64 bits as text.
fn etcd_said(status: &serde_json::Value, alarms: &serde_json::Value) -> EtcdStatus {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let number = |value: &serde_json::Value| value.as_str().and_then(|v| v.parse().ok()).unwrap_or(0);
    let leader = text(&status["leader"]);
    EtcdStatus {
        version: text(&status["version"]),
        member: text(&status["header"]["member_id"]),
        leader: if leader == "0" { String::new() } else { leader },
        size: number(&status["dbSize"]),
        used: number(&status["dbSizeInUse"]),
        learner: status["isLearner"].as_bool().unwrap_or(false),
        alarms: alarms["alarms"].as_array().into_iter().flatten().map(|a| text(&a["alarm"])).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_by_no_more_than_what_is_sure() {
        let at = |ms: i64| Timestamp::from_millisecond(ms).expect("a time");
        let check = |clock: i64, want: i64| assert_eq!(ahead(clock, at(1_000), at(3_000)), want, "{clock}");
        check(500, -500);
        check(1_000, 0);
        check(2_999, 0);
        check(8_000, 5_000);
    }

    #[test]
    fn what_etcd_says_is_read() {
        let status = json!({
            "header": { "member_id": "12", "revision": "7" }, "version": "3.5.30", "dbSize": "20480",
            "leader": "12", "dbSizeInUse": "4096",
        });
        let said = etcd_said(&status, &json!({ "alarms": [{ "memberID": "12", "alarm": "NOSPACE" }] }));
        let want = EtcdStatus {
            version: "3.5.30".into(),
            member: "12".into(),
            leader: "12".into(),
            size: 20_480,
            used: 4_096,
            learner: false,
            alarms: vec!["NOSPACE".into()],
        };
        assert_eq!(said, want);
        assert_eq!(etcd_said(&json!({ "leader": "0" }), &json!({})), EtcdStatus::default());
    }

    #[tokio::test]
    async fn a_host_tells_what_it_has() {
        let dir = tempfile::tempdir().expect("a directory");
        let question = Question {
            services: [("gone".to_owned(), Ready::Socket(dir.path().join("no.sock")))].into(),
            certificates: vec![dir.path().join("none.crt")],
            etcd: None,
        };
        let text = serde_json::to_string(&report(&question).await).expect("text");
        let report: HostReport = serde_json::from_str(&text).expect("read back");
        assert!(report.ailing["gone"].contains("no.sock"), "{report:?}");
        assert_eq!(report.certificates[&dir.path().join("none.crt")], Err("it is missing".into()));
        assert_eq!(report.etcd, None);
    }
}
