//! `cox certs rotate-ca`: other authorities, or another key of service accounts, phase by phase.
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pki::{Phase, PkiSpec, Rotated, Rotation};
use provision::plan::Trust;
use serde_json::{Value, json};

use super::kept::Kept;
use super::roll::{Manner, restarts, roll};
use super::{RotateCa, list, objects, renew};
use crate::commands::up::{self, Steps};
use crate::commands::up_hosts::{admin, nodes_ready};
use crate::output::{self, Failure};

/// How long workloads get to work again.
const WORKLOADS: Duration = Duration::from_secs(600);

/// What is to be replaced, of what the cluster has.
fn wanted(options: &RotateCa, spec: &PkiSpec) -> Result<BTreeSet<Rotated>, Failure> {
    let has_etcd = !spec.etcd_members.is_empty();
    let mut what: BTreeSet<Rotated> = options.what.iter().copied().collect();
    if what.contains(&Rotated::EtcdCa) && !has_etcd {
        return Err(Failure::new("this cluster has no etcd of ours, and no authority for it", ""));
    }
    if what.is_empty() && !options.service_account_key {
        what.extend([Rotated::Ca, Rotated::FrontProxyCa]);
        what.extend(has_etcd.then_some(Rotated::EtcdCa));
    }
    what.extend(options.service_account_key.then_some(Rotated::ServiceAccountKey));
    Ok(what)
}

/// Whether the rotation that is under way may be what was asked for.
fn agree(found: &Rotation, options: &RotateCa, what: &BTreeSet<Rotated>) -> Result<(), Failure> {
    let named = !options.what.is_empty() || options.service_account_key;
    if named && found.what != *what {
        return Err(Failure::new(
            format!("a rotation of {} is under way, in phase {}", found.names(), found.phase.name()),
            "`cox certs rotate-ca` without names goes on with it; then the next can begin",
        ));
    }
    if found.phase > options.until {
        return Err(Failure::new(
            format!("the rotation is in phase {} already, past {}", found.phase.name(), options.until.name()),
            "there is no way back; go on without --until, or name a later phase",
        ));
    }
    Ok(())
}

/// Rotates.
pub async fn rotate(options: RotateCa, as_json: bool) -> Result<ExitCode, Failure> {
    let began = Instant::now();
    let kept = Kept::find(&options.which)?;
    let _lock = kept.layout().lock().map_err(|e| Failure::of(&e))?;
    if let Kept::One(cluster) = &kept
        && up::runs_in_foreground(cluster)
    {
        return Err(Failure::new(
            "the cluster runs in the foreground, and has to be started anew in each phase",
            "stop it, rotate, which takes a moment then, and start it again",
        ));
    }
    let (pki, spec) = (kept.pki(), kept.pki_spec().await?);
    let what = wanted(&options, &spec)?;
    let found = pki.rotation().map_err(|e| Failure::of(&e))?;
    if let Some(found) = &found {
        agree(found, &options, &what)?;
    }
    let manner = match &kept {
        Kept::One(_) => Manner::Rolling,
        Kept::Hosts(cluster) => renew::manner(cluster).await?,
    };
    let steps = Steps::new(as_json);
    steps.begin("new keys");
    let mut rotation = pki.begin_rotation(&what, &spec, Timestamp::now()).map_err(|e| Failure::of(&e))?;
    let mut log = Vec::new();
    let finished = loop {
        let title =
            format!("phase {} of {}, {}", rotation.phase.number(), Phase::ALL.len(), rotation.phase.name());
        steps.begin(&title);
        let phase_began = Instant::now();
        pki.enter(&rotation).map_err(|e| Failure::of(&e))?;
        let restarted = reach_all(&kept, &spec, manner, &options, &steps).await?;
        let seconds = rounded(phase_began.elapsed());
        steps.done(&title, &format!("{} ({seconds} s)", rotation.phase.purpose()));
        log.push(json!({ "phase": rotation.phase.name(), "restarted": restarted, "seconds": seconds }));
        let Some(next) = rotation.phase.next() else {
            pki.finish_rotation().map_err(|e| Failure::of(&e))?;
            break true;
        };
        if rotation.phase >= options.until {
            break false;
        }
        if runs(&kept) {
            between(&kept, &rotation, &options, &steps).await?;
        }
        rotation.phase = next;
        pki.note_rotation(&rotation).map_err(|e| Failure::of(&e))?;
    };
    steps.end();
    tell(&kept, &rotation, finished, &log, began.elapsed(), as_json)?;
    Ok(ExitCode::SUCCESS)
}

fn rounded(took: Duration) -> f64 {
    (took.as_secs_f64() * 1000.0).round() / 1000.0
}

fn runs(kept: &Kept) -> bool {
    match kept {
        Kept::One(cluster) => up::is_running(cluster),
        Kept::Hosts(_) => true,
    }
}

/// Issues what the phase wants and lets everything that runs know; says what was started anew.
async fn reach_all(
    kept: &Kept,
    spec: &PkiSpec,
    manner: Manner,
    options: &RotateCa,
    steps: &Steps,
) -> Result<Value, Failure> {
    let pki = kept.pki();
    // The report's warning, that a rotation is under way, is no news here.
    pki.ensure(spec, Timestamp::now()).map_err(|e| Failure::of(&e))?;
    let patience = Duration::from_secs(options.wait);
    match kept {
        Kept::One(cluster) => {
            let server = cluster.host().await?.server();
            pki.ensure_kubeconfigs(&cluster.layout.kubeconfigs(), cluster.layout.name(), &server, spec)
                .map_err(|e| Failure::of(&e))?;
            let restarted = up::restart(cluster, options.wait, steps).await?;
            Ok(if restarted { json!({ "here": ["cox"] }) } else { json!({}) })
        }
        Kept::Hosts(cluster) => {
            let trust = Trust::read(&cluster.layout.pki(), &cluster.spec).map_err(|e| Failure::of(&e))?;
            let changes = roll(cluster, &trust, manner, true, patience, steps).await?;
            steps.begin("waiting for the nodes");
            let client = admin(&cluster.admin_kubeconfig()).await?;
            nodes_ready(&client, &cluster.spec, patience).await?;
            Ok(json!(restarts(&changes)))
        }
    }
}

/// What has to happen before the next phase.
async fn between(kept: &Kept, rotation: &Rotation, options: &RotateCa, steps: &Steps) -> Result<(), Failure> {
    if rotation.phase == Phase::IssueNew {
        let kubeconfig = match kept {
            Kept::One(cluster) => cluster.admin_kubeconfig(),
            Kept::Hosts(cluster) => cluster.admin_kubeconfig(),
        };
        let client = admin(&kubeconfig).await?;
        if rotation.what.contains(&Rotated::ServiceAccountKey) {
            let signed = objects::sign_tokens_anew(&client).await?;
            if signed > 0 {
                steps.done(
                    "tokens",
                    &format!("{signed} in Secrets are signed anew; copies of them work until the last phase"),
                );
            }
        }
        if let Kept::Hosts(cluster) = kept {
            let ours = cluster.spec.hosts.iter().map(|h| h.name.as_str()).collect();
            let strangers = objects::strangers(&client, &ours).await?;
            if !strangers.is_empty() {
                return Err(Failure::new(
                    format!(
                        "these nodes joined by themselves and know nothing of the new authority: {}",
                        strangers.join(", ")
                    ),
                    "let them join again now, while both are trusted, or remove them; then `cox certs rotate-ca` goes on",
                ));
            }
        }
        if options.restart_workloads {
            steps.begin("workloads are started anew");
            let count = objects::restart_workloads(&client, WORKLOADS).await?;
            steps.done("workloads", &format!("{count} started anew"));
        }
    }
    if !options.settle.is_zero() {
        let seconds = options.settle.as_secs();
        steps.begin(&format!("{seconds} s in which pods take up what was changed"));
        tokio::time::sleep(options.settle).await;
    }
    Ok(())
}

fn tell(
    kept: &Kept,
    rotation: &Rotation,
    finished: bool,
    log: &[Value],
    took: Duration,
    as_json: bool,
) -> Result<(), Failure> {
    let seconds = rounded(took);
    if as_json {
        return output::print_json(&json!({
            "name": kept.layout().name(),
            "finished": finished,
            "rotation": list::told(rotation),
            "phases": log,
            "seconds": seconds,
        }));
    }
    if !finished {
        return output::print(&format!(
            "The rotation of {} is in phase {}: {}.\n`cox certs rotate-ca` goes on with it.\n",
            rotation.names(),
            rotation.phase.name(),
            rotation.phase.purpose()
        ));
    }
    let kubeconfigs = match rotation.what.contains(&Rotated::Ca) {
        true => "Copies of kubeconfigs do not work any more; `cox kubeconfig` prints the new one.\n",
        false => "",
    };
    output::print(&format!("Rotated after {seconds} s: {}.\n{kubeconfigs}", rotation.names()))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::commands::certs::Verb;

    fn options(words: &[&str]) -> RotateCa {
        let line = [&["cox", "certs", "rotate-ca"], words].concat();
        match Cli::try_parse_from(line).unwrap().command {
            Command::Certs(certs) => match certs.verb {
                Some(Verb::RotateCa(options)) => options,
                _ => panic!("another verb"),
            },
            _ => panic!("another command"),
        }
    }

    #[test]
    fn all_authorities_are_meant_unless_some_are_named() {
        use Rotated::{Ca, EtcdCa, FrontProxyCa, ServiceAccountKey};
        let node = pki::NodeIdentity { name: "a".into(), addresses: Vec::new() };
        let etcd = PkiSpec { etcd_members: vec![node], ..PkiSpec::default() };
        let check = |words: &[&str], spec: &PkiSpec, want: &[Rotated]| {
            assert_eq!(wanted(&options(words), spec).unwrap(), want.iter().copied().collect(), "{words:?}");
        };
        check(&[], &PkiSpec::default(), &[Ca, FrontProxyCa]);
        check(&[], &etcd, &[Ca, FrontProxyCa, EtcdCa]);
        check(&["etcd-ca"], &etcd, &[EtcdCa]);
        check(&["--service-account-key"], &etcd, &[ServiceAccountKey]);
        check(&["ca", "--service-account-key"], &etcd, &[Ca, ServiceAccountKey]);
        assert!(wanted(&options(&["etcd-ca"]), &PkiSpec::default()).is_err());
    }

    #[test]
    fn one_rotation_at_a_time_and_never_back() {
        let found = Rotation {
            what: [Rotated::Ca].into(),
            phase: Phase::IssueNew,
            begun: "2026-01-01T00:00:00Z".parse().unwrap(),
        };
        let check = |words: &[&str], want: Option<&str>| {
            let options = options(words);
            let what = wanted(&options, &PkiSpec::default()).unwrap();
            let said = agree(&found, &options, &what).err().map(|e| e.to_string());
            assert_eq!(said.is_some(), want.is_some(), "{words:?}: {said:?}");
            assert!(said.unwrap_or_default().contains(want.unwrap_or_default()), "{words:?}");
        };
        check(&[], None);
        check(&["ca"], None);
        check(&["--until", "issue-new"], None);
        check(&["front-proxy-ca"], Some("under way"));
        check(&["--service-account-key"], Some("under way"));
        check(&["--until", "trust-both"], Some("no way back"));
    }
}
