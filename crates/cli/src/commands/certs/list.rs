//! `cox certs`: every certificate, whose it is, and how long it lasts.
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use pki::{CertificateFacts, ClusterPki, Expiry};
use serde_json::{Value, json};

use super::kept::Kept;
use super::on_hosts::{self, Found};
use crate::args::Which;
use crate::hosts::HostsCluster;
use crate::output::{self, Failure};

/// A certificate.
struct Row {
    name: String,
    facts: CertificateFacts,
    /// Who signed it; none: it is an authority.
    authority: Option<String>,
    /// Where it lies: `here`, or hosts.
    places: Vec<String>,
    /// Whether anything depends on it.
    in_use: bool,
}

/// How a certificate is at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Early,
    Expired,
    Soon,
    Fine,
}

impl State {
    fn of(facts: &CertificateFacts, within: Duration, now: Timestamp) -> Self {
        match facts.expiry(now, within) {
            Expiry::Expired => Self::Expired,
            _ if facts.is_early(now) => Self::Early,
            Expiry::Soon => Self::Soon,
            Expiry::Fine => Self::Fine,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Early => "not-yet-valid",
            Self::Expired => "expired",
            Self::Soon => "expires-soon",
            Self::Fine => "valid",
        }
    }
}

/// Whether a certificate is good, and the words for it, with what to do where it is not.
pub fn standing(facts: &CertificateFacts, now: Timestamp) -> (bool, String) {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let mend = if facts.is_authority { "rotate-ca` replaces it" } else { "renew` mends it" };
    match State::of(facts, Duration::ZERO, now) {
        State::Expired => (false, format!("expired {}; `cox certs {mend}", facts.not_after)),
        State::Early => (
            false,
            format!(
                "not valid before {}, and the clock of this machine says {now}: is it behind, or was the one that \
                 issued it ahead? Set clocks by NTP; `cox certs {mend}",
                facts.not_before
            ),
        ),
        State::Soon | State::Fine => (true, format!("expires {}", facts.not_after)),
    }
}

/// A duration as kubeadm shows it.
fn residual(facts: &CertificateFacts, now: Timestamp) -> String {
    let seconds = facts.not_after.as_second() - now.as_second();
    match seconds {
        ..=0 => "<invalid>".to_owned(),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        86_400..31_536_000 => format!("{}d", seconds / 86_400),
        _ => format!("{}y", seconds / 31_536_000),
    }
}

/// What lies in the cluster's own directory.
fn local(kept: &Kept) -> Result<(Vec<Row>, Vec<String>), Failure> {
    let pki = kept.pki();
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    for (path, facts) in pki.inspect().map_err(|e| Failure::of(&e))? {
        let name = stem(&path);
        let text = pki::read(&path).map_err(|e| Failure::of(&e))?.unwrap_or_default();
        let facts = match facts {
            Ok(facts) => facts,
            Err(error) => {
                notes.push(format!("{} cannot be read: {}", path.display(), base::Chain(&error)));
                continue;
            }
        };
        if !facts.is_authority {
            let authority = pki.signer_of(&text);
            rows.push(Row { name, facts, authority, places: vec!["here".into()], in_use: true });
            continue;
        }
        let key = pki::read(&path.with_extension("key")).ok().flatten();
        let key = key.and_then(|text| pki::PrivateKey::from_pem(&text).ok());
        for facts in CertificateFacts::all_from_pem(&text).unwrap_or_default() {
            let signs = key.as_ref().is_none_or(|key| facts.matches(key));
            let name = if signs { name.clone() } else { format!("{name} (only trusted)") };
            rows.push(Row { name, facts, authority: None, places: vec!["here".into()], in_use: signs });
        }
    }
    let kubeconfigs = std::fs::read_dir(kept.layout().kubeconfigs()).into_iter().flatten().flatten();
    let mut kubeconfigs: Vec<_> = kubeconfigs.map(|entry| entry.path()).collect();
    kubeconfigs.sort();
    for path in kubeconfigs {
        if path.extension().is_none_or(|e| e != "kubeconfig") {
            continue;
        }
        let Ok(Some(text)) = pki::read(&path) else { continue };
        let data = text.lines().find_map(|l| l.trim().strip_prefix("client-certificate-data: "));
        let Some(facts) = data.and_then(|d| CertificateFacts::from_base64(d).ok()) else { continue };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let same = rows.iter().find(|r| r.facts.serial == facts.serial);
        let authority = same.map_or_else(|| Some(facts.issuer.clone()), |r| r.authority.clone());
        rows.push(Row { name, facts, authority, places: vec!["here".into()], in_use: true });
    }
    Ok((rows, notes))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Adds what a host has: a certificate of the cluster's directory gets another place, any other a row of its own.
fn add_host(rows: &mut Vec<Row>, host: &str, found: &Found, own: &[std::path::PathBuf]) {
    let given =
        found.files.iter().find(|(path, _)| path.ends_with("kubelet.conf")).map(|(_, f)| f.not_before);
    for (path, facts) in &found.files {
        if let Some(row) = rows.iter_mut().find(|r| r.facts.serial == facts.serial) {
            if row.places.last().is_none_or(|p| p != host) {
                row.places.push(host.to_owned());
            }
            continue;
        }
        let is_own = own.contains(path);
        let name = match is_own {
            true => stem(path).trim_end_matches("-current").to_owned(),
            false => format!("{} (not the present one)", path.display()),
        };
        // A kubelet that was given a newer one than it asked for before uses that.
        let in_use = !is_own || given.is_none_or(|given| given <= facts.not_before);
        let name = if in_use { name } else { format!("{name} (not in use)") };
        let authority = Some(facts.issuer.clone());
        rows.push(Row { name, facts: facts.clone(), authority, places: vec![host.to_owned()], in_use });
    }
}

/// Asks all hosts; what cannot be told is a note.
async fn from_hosts(
    cluster: &HostsCluster,
    rows: &mut Vec<Row>,
    notes: &mut Vec<String>,
) -> Result<(), Failure> {
    let trust = match provision::plan::Trust::read(&cluster.layout.pki(), &cluster.spec) {
        Ok(trust) => trust,
        Err(error) => {
            notes.push(format!("hosts were not asked: {}", base::Chain(&error)));
            return Ok(());
        }
    };
    let options = cluster.plan_options();
    let plans = cluster.plans(&trust)?;
    let hosts = cluster.hosts()?;
    let asked = cluster.spec.hosts.iter().zip(&plans).map(|(host, plan)| {
        let host = hosts.host(host);
        let paths = &options.paths;
        async move { on_hosts::ask(&*host, plan, paths).await }
    });
    let own = on_hosts::own(&options.paths);
    for (answer, plan) in futures::future::join_all(asked).await.into_iter().zip(&plans) {
        match answer {
            Ok(found) => {
                notes.extend(found.clock(&plan.host, Timestamp::now()));
                add_host(rows, &plan.host, &found, &own);
            }
            Err(why) => notes.push(format!("host {} was not asked: {why}", plan.host)),
        }
    }
    Ok(())
}

/// Tells of all certificates.
pub async fn list(which: &Which, within: Option<Duration>, as_json: bool) -> Result<ExitCode, Failure> {
    let kept = Kept::find(which)?;
    let (mut rows, mut notes) = local(&kept)?;
    if let Kept::Hosts(cluster) = &kept {
        from_hosts(cluster, &mut rows, &mut notes).await?;
    }
    let pki = kept.pki();
    let rotation = pki.rotation().map_err(|e| Failure::of(&e))?;
    let now = Timestamp::now();
    let margin = within.unwrap_or_default();
    let state = |row: &Row| State::of(&row.facts, margin, now);
    let bad = rows.iter().filter(|r| r.in_use && state(r) != State::Fine).count();
    if as_json {
        let items = |authorities: bool| -> Vec<Value> {
            rows.iter()
                .filter(|r| r.facts.is_authority == authorities)
                .map(|r| {
                    json!({
                        "name": r.name,
                        "subject": r.facts.subject.common_name,
                        "notBefore": r.facts.not_before.to_string(),
                        "expires": r.facts.not_after.to_string(),
                        "residualSeconds": (r.facts.not_after.as_second() - now.as_second()).max(0),
                        "authority": r.authority,
                        "where": r.places,
                        "inUse": r.in_use,
                        "state": state(r).name(),
                    })
                })
                .collect()
        };
        output::print_json(&json!({
            "name": kept.layout().name(),
            "certificates": items(false),
            "authorities": items(true),
            "rotation": rotation.as_ref().map(told),
            "notes": notes,
        }))?;
    } else {
        output::print(&(table(&rows, margin, now) + &rotation_text(&pki)? + &notes_text(&notes)))?;
    }
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A rotation as JSON.
pub fn told(rotation: &pki::Rotation) -> Value {
    json!({
        "what": rotation.what.iter().map(|w| w.name()).collect::<Vec<_>>(),
        "phase": rotation.phase.name(),
        "begun": rotation.begun.to_string(),
    })
}

fn rotation_text(pki: &ClusterPki) -> Result<String, Failure> {
    let Some(rotation) = pki.rotation().map_err(|e| Failure::of(&e))? else { return Ok(String::new()) };
    Ok(format!(
        "\nA rotation of {} began at {} and is in phase {} of {}, {}: {}.\n`cox certs rotate-ca` goes on with it.\n",
        rotation.names(),
        Timestamp::from_second(rotation.begun.as_second()).unwrap_or(rotation.begun),
        rotation.phase.number(),
        pki::Phase::ALL.len(),
        rotation.phase.name(),
        rotation.phase.purpose(),
    ))
}

fn notes_text(notes: &[String]) -> String {
    notes.iter().map(|note| format!("\nnote: {note}\n")).collect()
}

/// The table that people read, and what to do.
fn table(rows: &[Row], within: Duration, now: Timestamp) -> String {
    let name_width = rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(21);
    let signers = rows.iter().filter_map(|r| r.authority.as_ref()).map(String::len);
    let signer_width = signers.max().unwrap_or(0).max(9);
    let mut text = String::new();
    for authorities in [false, true] {
        let (what, signer, place) = match authorities {
            false => ("CERTIFICATE", "AUTHORITY", "WHERE"),
            true => ("\nCERTIFICATE AUTHORITY", "", ""),
        };
        let width = name_width + usize::from(authorities);
        text += format!(
            "{what:<width$}  {:<22}  {:<13}  {signer:<signer_width$}  {place}",
            "EXPIRES", "RESIDUAL TIME"
        )
        .trim_end();
        text.push('\n');
        for row in rows.iter().filter(|r| r.facts.is_authority == authorities) {
            let line = format!(
                "{:<name_width$}  {:<22}  {:<13}  {:<signer_width$}  {}",
                row.name,
                row.facts.not_after.strftime("%b %d, %Y %H:%M UTC").to_string(),
                residual(&row.facts, now),
                row.authority.as_deref().unwrap_or_default(),
                if authorities { String::new() } else { row.places.join(", ") },
            );
            text += line.trim_end();
            text.push('\n');
        }
    }
    let of = |wanted: State, authorities: bool| -> Vec<&str> {
        let all = rows.iter().filter(|r| r.in_use && r.facts.is_authority == authorities);
        all.filter(|r| State::of(&r.facts, within, now) == wanted).map(|r| r.name.as_str()).collect()
    };
    // What an authority that is over has signed is over with it.
    let renew = if of(State::Expired, true).is_empty() { "cox certs renew" } else { "cox certs rotate-ca" };
    for (state, is) in [(State::Expired, "Expired"), (State::Soon, "Soon to expire")] {
        for (authorities, next) in [(false, renew), (true, "cox certs rotate-ca")] {
            let names = of(state, authorities);
            if !names.is_empty() {
                text += &format!("\n{is}: {}. `{next}` replaces what has or will.\n", names.join(", "));
            }
        }
    }
    for row in rows.iter().filter(|r| State::of(&r.facts, within, now) == State::Early) {
        text += &format!("\n{}: {}\n", row.name, standing(&row.facts, now).1);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use pki::{Authority, KeyAlgorithm, Subject};

    use super::*;

    fn at(day: u64) -> Timestamp {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        start.checked_add(Duration::from_secs(day * 86_400)).unwrap()
    }

    fn facts(name: &str, from: u64, days: u64) -> CertificateFacts {
        let whole = Duration::from_secs(4000 * 86_400);
        let ca = Authority::create(&Subject::new("ca"), KeyAlgorithm::EcdsaP256, whole, at(0)).unwrap();
        if name == "ca" {
            return CertificateFacts::from_pem(ca.certificate_pem()).unwrap();
        }
        let spec = pki::CertificateSpec {
            subject: Subject::new(name),
            names: Vec::new(),
            usages: vec![pki::Usage::Client],
            validity: Duration::from_secs(days * 86_400),
        };
        let pem = ca.issue(&spec, KeyAlgorithm::EcdsaP256, at(from)).unwrap().certificate_pem;
        CertificateFacts::from_pem(&pem).unwrap()
    }

    fn row(name: &str, facts: CertificateFacts) -> Row {
        let authority = (!facts.is_authority).then(|| "ca".to_owned());
        Row { name: name.into(), facts, authority, places: vec!["here".into()], in_use: true }
    }

    #[test]
    fn what_is_left_is_told_as_kubeadm_does() {
        let one = facts("a", 10, 400);
        for (day, want) in [(10, "1y"), (60, "350d"), (409, "24h"), (410, "<invalid>"), (500, "<invalid>")] {
            let want = if want == "24h" { "1d" } else { want };
            assert_eq!(residual(&one, at(day)), want, "day {day}");
        }
        let soon = one.not_after.checked_sub(Duration::from_secs(90)).unwrap();
        assert_eq!(residual(&one, soon), "1m");
    }

    #[test]
    fn what_is_wrong_is_told_with_what_to_do() {
        let one = facts("a", 10, 20);
        assert_eq!(standing(&one, at(15)), (true, "expires 2026-01-31T00:00:00Z".into()));
        let (good, text) = standing(&one, at(31));
        assert!(!good && text.contains("cox certs renew"), "{text}");
        let (good, text) = standing(&one, at(5));
        assert!(
            !good && text.contains("2026-01-10T23:55:00Z") && text.contains("2026-01-06T00:00:00Z"),
            "{text}"
        );
        let (good, text) = standing(&facts("ca", 0, 0), at(5000));
        assert!(!good && text.contains("cox certs rotate-ca"), "{text}");
    }

    #[test]
    fn the_table_says_what_expires() {
        let rows = [row("admin", facts("admin", 0, 10)), row("ca", facts("ca", 0, 0))];
        let text = table(&rows, Duration::ZERO, at(1));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("CERTIFICATE ") && lines[0].ends_with("WHERE"), "{text}");
        assert!(lines[1].starts_with("admin ") && lines[1].contains("Jan 11, 2026 00:00 UTC"), "{text}");
        assert!(lines[3].starts_with("CERTIFICATE AUTHORITY") && lines[4].starts_with("ca "), "{text}");
        assert_eq!(lines.len(), 5, "{text}");
        assert!(table(&rows, Duration::ZERO, at(11)).contains("Expired: admin. `cox certs renew`"));
        assert!(table(&rows, Duration::from_secs(86_400 * 5), at(7)).contains("Soon to expire: admin"));
    }

    #[test]
    fn the_same_certificate_at_several_places_is_one_row() {
        let (shared, old, rotated) = (facts("x", 5, 10), facts("x", 1, 10), facts("n", 8, 10));
        let mut rows = vec![row("kube-scheduler", shared.clone())];
        let own = [PathBuf::from("/k/kubelet-client-current.pem")];
        let found = |files: &[(&str, &CertificateFacts)]| Found {
            skew: 0,
            files: files.iter().map(|(p, f)| (PathBuf::from(p), (*f).clone())).collect::<BTreeMap<_, _>>(),
        };
        add_host(&mut rows, "h1", &found(&[("/e/scheduler.conf", &shared), ("/e/s.crt", &shared)]), &own);
        add_host(&mut rows, "h2", &found(&[("/e/scheduler.conf", &old)]), &own);
        let kubelet = [("/e/kubelet.conf", &shared), ("/k/kubelet-client-current.pem", &rotated)];
        add_host(&mut rows, "h3", &found(&kubelet), &own);
        let stale = [("/e/kubelet.conf", &shared), ("/k/kubelet-client-current.pem", &old)];
        let mut others = vec![row("kubelet", shared.clone())];
        add_host(&mut others, "h4", &found(&stale), &own);
        assert_eq!(rows[0].places, ["here", "h1", "h3"]);
        assert!(rows[1].name.contains("not the present one") && rows[1].places == ["h2"]);
        assert_eq!((rows[2].name.as_str(), rows[2].in_use), ("kubelet-client", true));
        assert!(!others[1].in_use && others[1].name.contains("not in use"));
    }
}
