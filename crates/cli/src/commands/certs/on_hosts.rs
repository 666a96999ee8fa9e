//! What certificates lie on a host: read there, so that no key leaves it.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use pki::CertificateFacts;
use provision::apply::Host;
use provision::plan::{HostPaths, HostPlan};

/// How long a host gets to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Clocks that are further apart than this make certificates look early or over.
const SKEW: i64 = 60;

/// Says the time, and of each file the certificates without the keys.
const SCRIPT: &str = r#"date +%s
for f in "$@"; do
  [ -f "$f" ] || continue
  echo "=== $f"
  case $f in
    *.conf) sed -n 's/^ *client-certificate-data: *//p' "$f" ;;
    *) sed -n '/-BEGIN CERTIFICATE-/,/-END CERTIFICATE-/p' "$f" ;;
  esac
done"#;

/// What a host has.
pub struct Found {
    /// Its clock, less ours, in seconds.
    pub skew: i64,
    /// The first certificate of each file that has one which is no authority's.
    pub files: BTreeMap<PathBuf, CertificateFacts>,
}

impl Found {
    /// What is wrong with its clock, for people.
    pub fn clock(&self, host: &str, now: Timestamp) -> Option<String> {
        if self.skew.abs() <= SKEW {
            return None;
        }
        let theirs = Timestamp::from_second(now.as_second().saturating_add(self.skew)).unwrap_or(now);
        let ours = Timestamp::from_second(now.as_second()).unwrap_or(now);
        Some(format!(
            "the clock of host {host} says {theirs}, ours {ours}: certificates seem not yet valid, or expired, to one of \
             them; set the clocks by NTP"
        ))
    }
}

/// The files of certificates that a host may have: those of its plan, and those that its kubelet asked for.
fn paths(plan: &HostPlan, paths: &HostPaths) -> Vec<PathBuf> {
    let planned = plan.files.iter().map(|f| f.path.clone());
    let mut all: Vec<PathBuf> =
        planned.filter(|p| p.extension().is_some_and(|e| e == "crt" || e == "conf")).collect();
    all.extend(own(paths));
    all
}

/// What a kubelet asked for itself.
pub fn own(paths: &HostPaths) -> [PathBuf; 2] {
    let file = |name: &str| paths.kubelet.join("pki").join(name);
    [file("kubelet-client-current.pem"), file("kubelet-server-current.pem")]
}

/// Asks a host; the error is for people.
pub async fn ask(host: &dyn Host, plan: &HostPlan, of: &HostPaths) -> Result<Found, String> {
    let files: Vec<String> = paths(plan, of).iter().map(|p| p.display().to_string()).collect();
    let mut command = vec!["sh", "-c", SCRIPT, "sh"];
    command.extend(files.iter().map(String::as_str));
    let answer = tokio::time::timeout(PATIENCE, host.run(&command, &[])).await;
    let output = answer
        .map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?
        .map_err(|e| e.to_string())?;
    if output.code != 0 {
        return Err(format!("it cannot say what it has: {}", output.err.trim()));
    }
    read(&output.out, Timestamp::now()).ok_or_else(|| "it gives a strange answer".to_owned())
}

fn read(said: &str, now: Timestamp) -> Option<Found> {
    let (clock, rest) = said.split_once('\n')?;
    let skew = clock.trim().parse::<i64>().ok()?.saturating_sub(now.as_second());
    let mut files = BTreeMap::new();
    for part in rest.split("=== ").skip(1) {
        let Some((path, content)) = part.split_once('\n') else { continue };
        let facts = match content.trim_start().starts_with("-----") {
            true => CertificateFacts::from_pem(content),
            false => CertificateFacts::from_base64(content),
        };
        if let Some(facts) = facts.ok().filter(|f| !f.is_authority) {
            files.insert(PathBuf::from(path), facts);
        }
    }
    Some(Found { skew, files })
}

#[cfg(test)]
mod tests {
    use pki::{Authority, KeyAlgorithm, Subject};

    use super::*;

    #[test]
    fn certificates_are_read_out_of_files_and_kubeconfigs() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let day = Duration::from_secs(86_400);
        let ca = Authority::create(&Subject::new("ca"), KeyAlgorithm::EcdsaP256, 10 * day, now).unwrap();
        let spec = pki::CertificateSpec {
            subject: Subject::new("a"),
            names: Vec::new(),
            usages: vec![pki::Usage::Client],
            validity: day,
        };
        let pem = ca.issue(&spec, KeyAlgorithm::EcdsaP256, now).unwrap().certificate_pem;
        let file = pki::Kubeconfig {
            cluster: "c".into(),
            server: "https://a:1".into(),
            authority_pem: ca.certificate_pem().into(),
            user: "u".into(),
            credentials: pki::Credentials::ClientCertificate {
                certificate_pem: pem.clone(),
                key_pem: "k".into(),
            },
            namespace: None,
        };
        let yaml = file.to_yaml();
        let data = yaml.lines().find_map(|l| l.trim().strip_prefix("client-certificate-data: ")).unwrap();
        let said = format!(
            "1767225700\n=== /etc/a.crt\n{pem}=== /etc/a.conf\n{data}\n=== /etc/ca.crt\n{}=== /etc/t.conf\n",
            ca.certificate_pem()
        );
        let found = read(&said, now).unwrap();
        let paths: Vec<_> = found.files.keys().map(|p| p.display().to_string()).collect();
        assert_eq!(paths, ["/etc/a.conf", "/etc/a.crt"]);
        assert_eq!(found.skew, 100);
        let clock = found.clock("h1", now).unwrap();
        assert!(clock.contains("2026-01-01T00:01:40Z") && clock.contains("2026-01-01T00:00:00Z"), "{clock}");
        assert!(read("1767225610\n", now).unwrap().clock("h1", now).is_none());
        assert!(read("no clock\n", now).is_none());
    }
}
