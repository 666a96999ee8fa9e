//! Services: which have to start, and whether they work.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{ApplyError, Bringing, Change, Host, HostError, Running, Tell, install::hex};
use crate::plan::{BinarySource, HostPlan, PlannedService, Ready, Stage, unit_text};

/// Everything that a service is started with: another digest, another start.
pub(super) fn digest(plan: &HostPlan, service: &PlannedService, cox: &str) -> String {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    let mut unit = service.clone();
    unit.exec
        .retain(|word| !service.first_start.iter().any(|f| word.trim_start_matches("--").starts_with(f)));
    add(unit_text(&unit).as_bytes());
    for path in &service.reads {
        add(path.as_os_str().as_encoded_bytes());
        add(plan.file(path).map_or(&[], |f| f.content.bytes()));
    }
    // A new build replaces what it runs.
    let program = service.exec.first().map(String::as_str).unwrap_or_default();
    let is_ours = |path: &str| {
        plan.binaries.iter().any(|b| {
            b.path.as_os_str() == path
                && match &b.source {
                    BinarySource::Cox => true,
                    BinarySource::LinkTo(to) => {
                        plan.binaries.iter().any(|o| o.path == *to && o.source == BinarySource::Cox)
                    }
                }
        })
    };
    if is_ours(program) {
        add(cox.as_bytes());
    }
    hex(&hash.finalize())
}

/// What has to be done for a service to be as planned; `edited` is whether something that it reads was not.
fn needed(found: Option<&Running>, digest: &str, edited: bool) -> Option<fn(String) -> Change> {
    match found {
        None => Some(Change::Started),
        Some(running) if running.active && (edited || running.digest != digest) => Some(Change::Restarted),
        Some(running) if !running.active => Some(Change::Started),
        Some(_) => None,
    }
}

/// Whether something that a service reads was changed, and it was not started since.
fn edited(service: &PlannedService, before: &[Change]) -> bool {
    let started = |change: &Change| matches!(change, Change::Started(name) | Change::Restarted(name) if *name == service.name);
    let since = before.iter().rposition(started).map_or(0, |at| at + 1);
    before[since..].iter().any(|change| matches!(change, Change::File(path) if service.restarts_with(path)))
}

/// Whether any service of a stage that runs would be started anew.
pub(super) async fn restarts(
    plan: &HostPlan,
    stage: Stage,
    host: &dyn Host,
    before: &[Change],
    bringing: &Bringing,
) -> Result<bool, ApplyError> {
    let mut services = plan.services.iter().filter(|s| s.stage == stage).peekable();
    if services.peek().is_none() {
        return Ok(false);
    }
    let failed = |e: HostError| ApplyError { host: plan.host.clone(), what: e.to_string() };
    let found = host.services().await.map_err(failed)?;
    Ok(services.any(|service| {
        let running = found.get(&service.name).filter(|r| r.active);
        let digest = digest(plan, service, &bringing.cox_identity);
        running.is_some() && needed(running, &digest, edited(service, before)).is_some()
    }))
}

/// Whether everything that is planned for a host runs as planned.
pub async fn runs_as_planned(
    plan: &HostPlan,
    host: &dyn Host,
    bringing: &Bringing,
) -> Result<bool, ApplyError> {
    let failed = |e: HostError| ApplyError { host: plan.host.clone(), what: e.to_string() };
    let found = host.services().await.map_err(failed)?;
    Ok(plan.services.iter().all(|service| {
        let digest = digest(plan, service, &bringing.cox_identity);
        needed(found.get(&service.name), &digest, false).is_none()
    }))
}

/// Removes the services that are not planned any more.
pub async fn remove_unplanned(plan: &HostPlan, host: &dyn Host) -> Result<Vec<Change>, ApplyError> {
    let failed = |e: HostError| ApplyError { host: plan.host.clone(), what: e.to_string() };
    let mut changes = Vec::new();
    for name in host.services().await.map_err(failed)?.into_keys() {
        if plan.service(&name).is_none() {
            host.remove_service(&name).await.map_err(failed)?;
            changes.push(Change::Removed(name));
        }
    }
    Ok(changes)
}

/// Starts the services of a stage that have to be, and returns when all of them work. `before` is what was changed on
/// the host already.
pub async fn start(
    plan: &HostPlan,
    stage: Stage,
    host: &dyn Host,
    before: &[Change],
    bringing: &Bringing,
    tell: Tell<'_>,
) -> Result<Vec<Change>, ApplyError> {
    let failed = |e: HostError| ApplyError { host: plan.host.clone(), what: e.to_string() };
    let services: Vec<&PlannedService> = plan.services.iter().filter(|s| s.stage == stage).collect();
    if services.is_empty() {
        return Ok(Vec::new());
    }
    let found: BTreeMap<String, Running> = host.services().await.map_err(failed)?;
    let runtime = plan.runtime.as_ref().filter(|_| stage == Stage::Node);
    let mut changes = Vec::new();
    let mut works: BTreeSet<&str> = BTreeSet::new();
    let mut has_images = runtime.is_none();
    for service in &services {
        // Those before it that it counts on: they have to work, and the runtime needs its images before its first pod.
        for first in services.iter().filter(|s| service.after.contains(&s.name)) {
            if works.insert(&first.name) {
                wait(plan, first, host, bringing.patience, tell).await?;
            }
            let is_runtime =
                runtime.is_some_and(|r| first.ready == Ready::Socket(r.socket.clone())) && !has_images;
            if let Some(runtime) = runtime.filter(|_| is_runtime) {
                tell(&plan.host, "system images");
                let imported = host.import_images(runtime, &bringing.images).await.map_err(failed)?;
                has_images = true;
                changes.extend(imported.then_some(Change::Images));
            }
        }
        let digest = digest(plan, service, &bringing.cox_identity);
        if let Some(change) = needed(found.get(&service.name), &digest, edited(service, before)) {
            tell(&plan.host, &service.name);
            host.start_service(service, &digest).await.map_err(failed)?;
            changes.push(change(service.name.clone()));
        }
    }
    for service in services.iter().filter(|s| !works.contains(s.name.as_str())) {
        wait(plan, service, host, bringing.patience, tell).await?;
    }
    if let Some(runtime) = runtime.filter(|_| !has_images) {
        let imported = host.import_images(runtime, &bringing.images).await.map_err(failed)?;
        changes.extend(imported.then_some(Change::Images));
    }
    Ok(changes)
}

async fn wait(
    plan: &HostPlan,
    service: &PlannedService,
    host: &dyn Host,
    patience: Duration,
    tell: Tell<'_>,
) -> Result<(), ApplyError> {
    if service.ready == Ready::None {
        return Ok(());
    }
    let failed = |e: HostError| ApplyError { host: plan.host.clone(), what: e.to_string() };
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(10);
    let mut told = false;
    loop {
        let Err(why) = host.probe(&service.ready).await.map_err(failed)? else { return Ok(()) };
        if Instant::now() > deadline {
            let running = host.services().await.map_err(failed)?.remove(&service.name);
            let ends = running.as_ref().is_some_and(|r| r.restarts > 0 || !r.active);
            let words = host.last_words(&service.name).await.unwrap_or_default();
            let how = if ends { "ends again and again" } else { "does not work" };
            let said = if words.is_empty() { String::new() } else { format!("; it said: {words}") };
            let what = format!("{} {how} ({why}) after {} s{said}", service.name, patience.as_secs());
            return Err(ApplyError { host: plan.host.clone(), what });
        }
        if !told {
            tell(&plan.host, &format!("waiting for {}", service.name));
            told = true;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::plan::{Content, PlannedBinary, PlannedFile};

    fn plan(config: &str) -> HostPlan {
        let exec = ["/usr/local/bin/kubelet", "--config=/etc/k.yaml"].map(str::to_owned).to_vec();
        let mut service = PlannedService::new("kubelet", "Kubelet", Stage::Node, exec);
        service.reads = vec!["/etc/k.yaml".into()];
        let link = BinarySource::LinkTo("/usr/local/bin/cox".into());
        HostPlan {
            host: "a".into(),
            address: [192, 0, 2, 1].into(),
            directories: Vec::new(),
            files: vec![PlannedFile {
                path: "/etc/k.yaml".into(),
                mode: 0o644,
                content: Content::Text(config.into()),
            }],
            services: vec![service],
            packages: Vec::new(),
            binaries: vec![
                PlannedBinary { path: "/usr/local/bin/cox".into(), source: BinarySource::Cox },
                PlannedBinary { path: PathBuf::from("/usr/local/bin/kubelet"), source: link },
            ],
            modules: Vec::new(),
            sysctls: BTreeMap::new(),
            runtime: None,
        }
    }

    #[test]
    fn a_service_starts_anew_with_what_it_reads_and_with_its_program() {
        let of = |config: &str, cox: &str| {
            let plan = plan(config);
            digest(&plan, &plan.services[0], cox)
        };
        assert_eq!(of("a", "1"), of("a", "1"));
        assert_ne!(of("a", "1"), of("b", "1"));
        assert_ne!(of("a", "1"), of("a", "2"));
        let mut other = plan("a");
        other.services[0].exec[0] = "/usr/bin/etcd".into();
        assert_eq!(digest(&other, &other.services[0], "1"), digest(&other, &other.services[0], "2"));
    }

    #[test]
    fn what_runs_as_planned_is_left_alone() {
        let running = |digest: &str, active| Running { digest: digest.into(), active, restarts: 0 };
        let check = |found: Option<&Running>, want: Option<Change>| {
            assert_eq!(needed(found, "d", false).map(|change| change("x".into())), want);
        };
        let again = needed(Some(&running("d", true)), "d", true).map(|change| change("x".into()));
        assert_eq!(again, Some(Change::Restarted("x".into())));
        check(Some(&running("old", false)), Some(Change::Started("x".into())));
        check(None, Some(Change::Started("x".into())));
        check(Some(&running("d", true)), None);
        check(Some(&running("d", false)), Some(Change::Started("x".into())));
        check(Some(&running("old", true)), Some(Change::Restarted("x".into())));
    }

    #[test]
    fn what_was_changed_before_a_start_is_no_reason_for_another() {
        let plan = plan("a");
        let service = &plan.services[0];
        let (file, other) = (Change::File("/etc/k.yaml".into()), Change::File("/etc/o.yaml".into()));
        let started = |name: &str| Change::Started(name.into());
        let check = |before: &[Change], want: bool| assert_eq!(edited(service, before), want, "{before:?}");
        check(&[], false);
        check(std::slice::from_ref(&other), false);
        check(std::slice::from_ref(&file), true);
        check(&[file.clone(), started("etcd")], true);
        check(&[file.clone(), started("kubelet")], false);
        check(&[file.clone(), Change::Restarted("kubelet".into()), other], false);
        check(&[started("kubelet"), file], true);
    }
}
