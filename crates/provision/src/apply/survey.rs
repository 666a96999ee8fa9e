//! What a machine is like, looked at before anything is done to it, and whether it will do.

use std::{collections::BTreeMap, path::PathBuf};

use super::{ApplyError, Host, HostError};
use crate::plan::HostTraits;
use crate::spec::{ClusterSpec, Role};
use crate::{Finding, Severity};

/// Where systemd-resolved names the resolvers that it asks itself; those in `/etc/resolv.conf` are then its own loopback
/// address, which is another one in each pod.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
/// Says on a machine to which cluster it belongs.
pub const CLUSTER_MARK: &str = "/var/lib/cox/cluster";
/// Certificates count from a while before they were made: clocks that are further apart than this break them.
const WORST_CLOCK: i64 = 240;
/// Leases and tokens live by the clock: what is further apart than this shows.
const BAD_CLOCK: i64 = 10;
const MIB: u64 = 1 << 20;
/// `CAP_SYS_RESOURCE`, which it takes to lower a score for the out-of-memory killer.
const RESOURCES: u32 = 24;

/// Prints facts, one in a line.
const SURVEY: &str = r#"say() { printf '%s=%s\n' "$1" "$2"; }
say user "$(id -u)"; say machine "$(uname -m)"; say clock "$(date +%s)"
if [ -d /run/systemd/system ]; then say systemd yes; fi
r=/run/systemd/resolve/resolv.conf
if [ -s $r ] && ! grep -E '^[[:space:]]*nameserver' /etc/resolv.conf | grep -qvE 'nameserver[[:space:]]+(127\.|::1)'; then say resolved yes; fi
say capabilities "$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/1/status)"
say free "$(df -Pk /var/lib | tail -n 1 | (read -r a b c d e && echo "$d"))"
say filesystem "$(stat -f -c %T /var/lib)"
if [ -f /var/lib/cox/cluster ]; then say cluster "$(head -c 100 /var/lib/cox/cluster)"
elif [ -e /etc/kubernetes/pki/ca.crt ] && [ ! -d /var/lib/cox/services ]; then say foreign yes; fi"#;

/// What a machine is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    facts: BTreeMap<String, String>,
    /// Its clock, in seconds, and ours when it told.
    clock: Option<(i64, i64)>,
}

impl Survey {
    fn read(text: &str, now: i64) -> Self {
        let facts: BTreeMap<String, String> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect();
        let clock = facts.get("clock").and_then(|c| c.parse().ok()).map(|clock| (clock, now));
        Self { facts, clock }
    }

    fn is(&self, fact: &str) -> bool {
        self.facts.get(fact).is_some_and(|value| value == "yes")
    }

    fn text(&self, fact: &str) -> &str {
        self.facts.get(fact).map_or("", String::as_str)
    }

    /// What plans for it have to know.
    pub fn traits(&self) -> HostTraits {
        let capabilities = u64::from_str_radix(self.text("capabilities"), 16).unwrap_or(u64::MAX);
        HostTraits {
            resolv_conf: self.is("resolved").then(|| PathBuf::from(RESOLVED)),
            restrict_oom_score: capabilities & (1 << RESOURCES) == 0,
            snapshotter: if self.text("filesystem") == "overlayfs" { "native" } else { "overlayfs" }.into(),
        }
    }

    /// Whether it is not yet known there to which cluster it belongs.
    pub fn unmarked(&self) -> bool {
        self.text("cluster").is_empty()
    }

    /// What stands in the way of its part in a cluster. `machine` is what this program was built for.
    fn judge(&self, cluster: &str, worker: bool, machine: &str) -> Vec<Finding> {
        let mut out = Vec::new();
        let mut say = |severity, problem: String, next: &str| {
            out.push(Finding { severity, problem, next: next.to_owned() });
        };
        if self.text("user") != "0" {
            say(
                Severity::Error,
                "this user is not root there".into(),
                "log in as root, or as one who may use sudo without a password, with `sudo: true`",
            );
        }
        if !self.is("systemd") {
            say(
                Severity::Error,
                "systemd does not run there".into(),
                "services need it; use a host that has it",
            );
        }
        let other = self.text("machine");
        if !other.is_empty() && other != machine {
            say(
                Severity::Error,
                format!("it is {other}, and this cox is for {machine}"),
                "run a cox that was built for the hosts",
            );
        }
        if self.is("foreign") {
            say(
                Severity::Error,
                "it belongs to another cluster: /etc/kubernetes/pki/ca.crt is not of our making".into(),
                "take it out of that one first (`kubeadm reset`), or use another host",
            );
        }
        if !self.unmarked() && self.text("cluster") != cluster {
            say(
                Severity::Error,
                format!("it belongs to cluster {:?}", self.text("cluster")),
                "take it out of that one first, or use another host",
            );
        }
        if let Some((theirs, ours)) = self.clock {
            let apart = theirs - ours;
            let how = if apart < 0 { "behind" } else { "ahead" };
            let problem = format!("its clock is {} s {how} of this machine's", apart.abs());
            let next = "let both follow a time server (`timedatectl set-ntp true`): certificates and leases count on it";
            match apart.abs() {
                WORST_CLOCK.. => say(Severity::Error, problem, next),
                BAD_CLOCK.. => say(Severity::Warning, problem, next),
                _ => {}
            }
        }
        let free = self.text("free").parse::<u64>().map(|kib| kib * 1024);
        let (least, good) = if worker { (512 * MIB, 2048 * MIB) } else { (128 * MIB, 512 * MIB) };
        if let Ok(free) = free
            && free < good
        {
            let severity = if free < least { Severity::Error } else { Severity::Warning };
            say(
                severity,
                format!("only {} MiB are free below /var/lib", free / MIB),
                "free some space there",
            );
        }
        if worker && self.text("filesystem") == "overlayfs" {
            say(
                Severity::Warning,
                "/var/lib lies on an overlay itself: image layers are copied, which takes time and space"
                    .into(),
                "mount a plain file system (ext4, xfs) at /var/lib/containerd",
            );
        }
        out
    }
}

/// What `uname -m` says where this program runs.
fn own_machine() -> String {
    rustix::system::uname().machine().to_string_lossy().into_owned()
}

async fn survey(host: &dyn Host, now: impl Fn() -> i64) -> Result<Survey, HostError> {
    let before = now();
    let output = host.run(&["sh", "-c", SURVEY], b"").await?;
    if output.code != 0 {
        let said = output.err.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("it said nothing").to_owned();
        return Err(HostError::Refused { step: "look at it".into(), said });
    }
    // The first connection takes a while; its clock was read between the two.
    let (after, read) = (now(), Survey::read(&output.out, before));
    let clock = read.clock.map(|(theirs, _)| (theirs, theirs.clamp(before, after)));
    Ok(Survey { clock, ..read })
}

/// What all hosts of a cluster are like and what is to be told aside, or all that stands in the way, of all hosts at once.
pub async fn survey_all(
    spec: &ClusterSpec,
    hosts: &[&dyn Host],
) -> Result<(BTreeMap<String, Survey>, Vec<String>), Vec<ApplyError>> {
    let now = || jiff::Timestamp::now().as_second();
    let all = futures::future::join_all(hosts.iter().map(|host| survey(*host, now))).await;
    let (mut found, mut warnings, mut errors) = (BTreeMap::new(), Vec::new(), Vec::new());
    for (host, result) in hosts.iter().zip(all) {
        let name = host.name().to_owned();
        let survey = match result {
            Ok(survey) => survey,
            Err(error) => {
                errors.push(ApplyError { host: name, what: error.to_string() });
                continue;
            }
        };
        let worker = spec.host(&name).is_some_and(|h| h.is(Role::Worker));
        for finding in survey.judge(&spec.name, worker, &own_machine()) {
            match finding.severity {
                Severity::Error => errors.push(ApplyError { host: name.clone(), what: finding.to_string() }),
                Severity::Warning => warnings.push(format!("host {name}: {finding}")),
            }
        }
        found.insert(name, survey);
    }
    if errors.is_empty() { Ok((found, warnings)) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "user=0\nmachine=x86_64\nclock=1000\nsystemd=yes\ncapabilities=000001ffffffffff\nfree=50000000\n\
                        filesystem=ext2/ext3\n";

    fn found(more: &str, now: i64) -> Vec<String> {
        let survey = Survey::read(&format!("{GOOD}{more}"), now);
        survey.judge("home", true, "x86_64").iter().map(|f| format!("{:?}: {f}", f.severity)).collect()
    }

    #[test]
    fn what_stands_in_the_way_is_told_with_what_to_do() {
        let check = |more: &str, words: &[&str]| {
            let found = found(more, 1000);
            assert_eq!(found.len(), usize::from(!words.is_empty()), "{more}: {found:?}");
            for word in words {
                assert!(found[0].contains(word), "{word:?} in {found:?}");
            }
        };
        check("", &[]);
        check("cluster=home", &[]);
        check("user=1000", &["Error", "not root", "sudo"]);
        check("systemd=no", &["Error", "systemd"]);
        check("machine=aarch64", &["Error", "aarch64", "x86_64"]);
        check("foreign=yes", &["Error", "another cluster", "kubeadm reset"]);
        check("cluster=work", &["Error", "belongs to cluster \"work\""]);
        check("free=100000", &["Error", "97 MiB"]);
        check("free=1000000", &["Warning", "976 MiB"]);
        check("filesystem=overlayfs", &["Warning", "overlay"]);
        assert!(found("", 1020)[0].starts_with("Warning: its clock is 20 s behind"));
        assert!(found("", 700)[0].starts_with("Error: its clock is 300 s ahead"));
        assert!(Survey::read("rubbish", 0).judge("home", true, "x86_64").len() == 2);
    }

    #[test]
    fn plans_learn_what_differs_between_hosts() {
        let traits = |more: &str| Survey::read(&format!("{GOOD}{more}"), 0).traits();
        let usual = HostTraits::default();
        assert_eq!(traits(""), usual);
        assert_eq!(traits("resolved=yes").resolv_conf.as_deref(), Some(RESOLVED.as_ref()));
        assert!(traits("capabilities=000001fffeffffff").restrict_oom_score);
        assert_eq!(traits("filesystem=overlayfs").snapshotter, "native");
    }
}
