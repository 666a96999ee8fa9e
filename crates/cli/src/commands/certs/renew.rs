//! `cox certs renew`: certificates issued again and brought to where they are read.
use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pki::{Action, CertificateFacts, ClusterPki, Expiry, Report};
use provision::apply::Changes;
use provision::plan::Trust;
use serde_json::json;

use super::Renew;
use super::kept::Kept;
use super::on_hosts;
use super::roll::{Manner, restarts, roll};
use crate::commands::up::Steps;
use crate::hosts::HostsCluster;
use crate::output::{self, Failure};

/// Which certificates are meant.
#[derive(Debug, PartialEq, Eq)]
enum Chosen {
    Due,
    These(BTreeSet<String>),
}

impl Chosen {
    fn of(asked: &[String], known: &[String]) -> Result<Self, Failure> {
        if asked.is_empty() {
            return Ok(Self::Due);
        }
        if asked.iter().any(|name| name == "all") {
            return Ok(Self::These(known.iter().cloned().collect()));
        }
        // As files and kubeconfigs are named, too.
        let bare = |name: &String| {
            let name = name.trim_end_matches(".kubeconfig").trim_end_matches(".crt");
            name.to_owned()
        };
        let asked: BTreeSet<String> = asked.iter().map(bare).collect();
        match asked.iter().find(|name| !known.contains(name)) {
            Some(unknown) => Err(Failure::new(
                format!("there is no certificate named {unknown:?}"),
                format!("there are all, {}", known.join(", ")),
            )),
            None => Ok(Self::These(asked)),
        }
    }
}

/// The certificates that do not last long enough any more. One that ends with its authority cannot be bettered.
fn due(present: &BTreeMap<String, CertificateFacts>, within: Duration, now: Timestamp) -> BTreeSet<String> {
    let ends_with_authority = |facts: &CertificateFacts| {
        let authorities = present.values().filter(|a| a.is_authority);
        authorities.filter(|a| a.issuer == facts.issuer).any(|a| a.not_after <= facts.not_after)
    };
    let is_due = |facts: &CertificateFacts| match facts.expiry(now, within) {
        Expiry::Expired => true,
        Expiry::Soon => !ends_with_authority(facts),
        Expiry::Fine => facts.is_early(now),
    };
    let leaves = present.iter().filter(|(_, facts)| !facts.is_authority);
    leaves.filter(|(_, facts)| is_due(facts)).map(|(name, _)| name.clone()).collect()
}

fn present(pki: &ClusterPki) -> Result<BTreeMap<String, CertificateFacts>, Failure> {
    let all = pki.inspect().map_err(|e| Failure::of(&e))?;
    let name = |path: &std::path::Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(all.into_iter().filter_map(|(path, facts)| Some((name(&path), facts.ok()?))).collect())
}

/// Whether hosts work with what they have; where something has expired, they cannot wait for each other.
pub async fn manner(cluster: &HostsCluster) -> Result<Manner, Failure> {
    // Without a complete directory there is nothing to compare with, and nothing that could be rolled out.
    let Ok(trust) = Trust::read(&cluster.layout.pki(), &cluster.spec) else { return Ok(Manner::AtOnce) };
    let paths = cluster.plan_options().paths;
    let (plans, hosts) = (cluster.plans(&trust)?, cluster.hosts()?);
    let asked = cluster.spec.hosts.iter().zip(&plans).map(|(host, plan)| {
        let (host, paths) = (hosts.host(host), &paths);
        async move { on_hosts::ask(&*host, plan, paths).await }
    });
    let own = on_hosts::own(&paths);
    let now = Timestamp::now();
    let over = futures::future::join_all(asked).await.into_iter().flatten().any(|found| {
        let all = found.files.iter().filter(|(path, _)| !own.contains(path));
        all.into_iter().any(|(_, facts)| facts.not_after <= now)
    });
    Ok(if over { Manner::AtOnce } else { Manner::Rolling })
}

/// Renews certificates.
pub async fn renew(options: Renew, as_json: bool) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let kept = Kept::find(&options.which)?;
    let _lock = kept.layout().lock().map_err(|e| Failure::of(&e))?;
    let (pki, spec) = (kept.pki(), kept.pki_spec().await?);
    let known = pki.names(&spec).map_err(|e| Failure::of(&e))?;
    let chosen = match Chosen::of(&options.names, &known)? {
        Chosen::These(names) => names,
        Chosen::Due => due(&present(&pki)?, options.within, Timestamp::now()),
    };
    let steps = Steps::new(as_json);
    steps.begin("certificates");
    let manner = match &kept {
        Kept::One(_) => Manner::Rolling,
        Kept::Hosts(cluster) => manner(cluster).await?,
    };
    let report = pki
        .ensure_and_renew(&spec, &|name| chosen.contains(name), Timestamp::now())
        .map_err(|e| Failure::of(&e))?;
    report.warnings.iter().for_each(|w| output::note(&format!("  warning: {w}")));
    let changes = match &kept {
        Kept::One(cluster) => {
            // All parts follow their files.
            let host = cluster.host().await?;
            let directory = cluster.layout.kubeconfigs();
            pki.ensure_kubeconfigs(&directory, cluster.layout.name(), &host.server(), &spec)
                .map_err(|e| Failure::of(&e))?;
            Changes::new()
        }
        Kept::Hosts(cluster) => {
            let trust = Trust::read(&cluster.layout.pki(), &cluster.spec).map_err(|e| Failure::of(&e))?;
            roll(cluster, &trust, manner, false, Duration::from_secs(options.wait), &steps).await?
        }
    };
    steps.end();
    tell(&kept, &report, &changes, began.elapsed(), as_json)?;
    Ok(ExitCode::SUCCESS)
}

/// The names of what was issued again.
fn renewed(report: &Report) -> Vec<String> {
    let items = report.items.iter().filter(|i| i.action != Action::Kept);
    items.map(|i| i.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()).collect()
}

fn tell(
    kept: &Kept,
    report: &Report,
    changes: &Changes,
    took: Duration,
    as_json: bool,
) -> Result<(), Failure> {
    let renewed = renewed(report);
    let restarted = restarts(changes);
    let seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
    let changed = !renewed.is_empty() || changes.values().any(|all| !all.is_empty());
    if as_json {
        return output::print_json(&json!({
            "name": kept.layout().name(),
            "changed": changed,
            "renewed": renewed,
            "restarted": restarted,
            "seconds": seconds,
        }));
    }
    if !changed {
        return output::print("No certificate has to be renewed; nothing was changed.\n");
    }
    let mut text = format!(
        "Renewed after {seconds} s: {}.\n",
        match renewed.as_slice() {
            [] => "nothing; hosts got what they lacked".to_owned(),
            names => names.join(", "),
        }
    );
    for (host, services) in restarted.iter().filter(|(_, services)| !services.is_empty()) {
        text += &format!("  {host}: {} started anew\n", services.join(", "));
    }
    if renewed.iter().any(|name| name == "admin") {
        text += "Copies of the administrator's kubeconfig work until theirs expires; `cox kubeconfig` prints the new one.\n";
    }
    output::print(&text)
}

#[cfg(test)]
mod tests {
    use pki::{KeyAlgorithm, PkiSpec};

    use super::*;

    #[test]
    fn names_are_those_of_certificates() {
        let known: Vec<String> = ["admin", "kube-scheduler"].map(str::to_owned).to_vec();
        let of =
            |asked: &[&str]| Chosen::of(&asked.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), &known);
        let these = |names: &[&str]| Chosen::These(names.iter().map(|s| (*s).to_owned()).collect());
        assert_eq!(of(&[]).unwrap(), Chosen::Due);
        assert_eq!(of(&["all"]).unwrap(), these(&["admin", "kube-scheduler"]));
        assert_eq!(of(&["admin.kubeconfig"]).unwrap(), these(&["admin"]));
        let unknown = of(&["admin", "x"]).unwrap_err();
        assert!(unknown.what.contains("\"x\"") && unknown.next.contains("kube-scheduler"), "{unknown}");
    }

    #[test]
    fn what_is_due_is_found_by_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let pki = ClusterPki::at(dir.path());
        let day = Duration::from_secs(86_400);
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let spec = PkiSpec {
            algorithm: KeyAlgorithm::EcdsaP256,
            authority_validity: 500 * day,
            certificate_validity: 100 * day,
            ..PkiSpec::default()
        };
        pki.ensure(&spec, start).unwrap();
        let all = present(&pki).unwrap();
        let after = |days: u32| start.checked_add(days * day).unwrap();
        assert!(due(&all, 30 * day, after(50)).is_empty());
        assert_eq!(due(&all, 30 * day, after(80)).len(), pki.names(&spec).unwrap().len());
        // Their end is that of their authority.
        pki.ensure_and_renew(&spec, &|name| name == "admin", after(450)).unwrap();
        let late = present(&pki).unwrap();
        assert!(!due(&late, 100 * day, after(460)).contains("admin"));
        assert!(due(&late, 100 * day, after(501)).contains("admin"));
    }
}
