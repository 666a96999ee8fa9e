//! `cluster.yaml` on this machine: the file itself, and the keys that it names.
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use provision::spec::{ClusterSpec, Gravity, Mistake, Outside, Part, Reading, suggestion};

use crate::args::Cli;
use crate::output::Failure;

/// The file that verbs look for where none is named.
pub const DEFAULT: &str = "cluster.yaml";

/// Where a private key lies: from the home directory, or from the directory of the file that names it.
fn key_path(key: &Path, base: &Path, home: Option<&Path>) -> PathBuf {
    match (key.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => base.join(key),
    }
}

/// Whether a file is a private key that ssh would take.
fn look_at_key(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    let bad = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    let mode = std::fs::metadata(path).map_err(bad)?.permissions().mode();
    let bytes = std::fs::read(path).map_err(bad)?;
    let begins = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
    if !(begins.starts_with("-----BEGIN") && begins.contains("PRIVATE KEY")) {
        let hint =
            if path.extension().is_some_and(|e| e == "pub") { "; name the one without .pub" } else { "" };
        return Err(format!("{} is not a private key{hint}", path.display()));
    }
    if mode & 0o077 != 0 {
        return Err(format!(
            "{0} can be read by others, so ssh would not use it; chmod 600 {0}",
            path.display()
        ));
    }
    Ok(())
}

/// Whether a part of ours has a flag; etcd's are its own business.
fn look_at_flag(part: Part, flag: &str) -> Result<(), String> {
    let whole = Cli::command();
    let Some(command) = whole.find_subcommand(part.name()) else { return Ok(()) };
    // Those for every verb are taken too: -v.
    let arguments = command.get_arguments().chain(whole.get_arguments());
    let flags: Vec<&str> = arguments.filter_map(|a| a.get_long_and_visible_aliases()).flatten().collect();
    if flags.contains(&flag) {
        return Ok(());
    }
    let meant = suggestion(flag, flags.iter().copied());
    let meant = meant.map(|word| format!("; did you mean {word:?}?")).unwrap_or_default();
    Err(format!("{} has no such flag{meant}", part.name()))
}

/// Reads the file and says everything that is wrong with it.
pub fn read(file: &Path) -> Result<Reading, Failure> {
    let text = std::fs::read_to_string(file).map_err(|e| {
        Failure::new(format!("cannot read {}: {e}", file.display()), "`cox init` writes one to begin with")
    })?;
    let base = file.parent().unwrap_or(Path::new(""));
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let place = |key: &Path| key_path(key, base, home.as_deref());
    let outside = Outside { key: &|key| look_at_key(&place(key)), flag: &look_at_flag };
    let mut reading = ClusterSpec::read_with(&text, outside);
    if let Some(spec) = &mut reading.spec {
        spec.packages = spec.packages.as_deref().map(place);
    }
    for host in reading.spec.iter_mut().flat_map(|spec| &mut spec.hosts) {
        host.ssh.key = host.ssh.key.as_deref().map(place);
    }
    Ok(reading)
}

/// A mistake as editors and people find it: file, line, what.
pub fn told(file: &Path, mistake: &Mistake) -> String {
    format!("{}:{mistake}", file.display())
}

/// The cluster that the file describes, with the keys' places; warnings are told aside.
pub fn load(file: &Path) -> Result<ClusterSpec, Failure> {
    let reading = read(file)?;
    if reading.spec.is_some() {
        reading.mistakes.iter().for_each(|warning| crate::output::note(&told(file, warning)));
    }
    judged(file, reading)
}

/// The cluster that was read, or everything that is wrong.
pub fn judged(file: &Path, reading: Reading) -> Result<ClusterSpec, Failure> {
    let line = |m: &Mistake| format!("\n  {}", told(file, m));
    if let Some(spec) = reading.spec {
        return Ok(spec);
    }
    let errors: Vec<&Mistake> = reading.mistakes.iter().filter(|m| m.gravity == Gravity::Error).collect();
    let all: String = errors.iter().map(|m| line(m)).collect();
    Err(Failure::new(format!("{} has {}:{all}", file.display(), count(errors.len(), "mistake")), ""))
}

/// `1 host`, `2 hosts`.
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_found_from_home_and_from_the_file() {
        let check = |key: &str, home: Option<&str>, want: &str| {
            let found = key_path(Path::new(key), Path::new("/clusters"), home.map(Path::new));
            assert_eq!(found, Path::new(want), "{key}");
        };
        check("~/.ssh/id", Some("/home/me"), "/home/me/.ssh/id");
        check("keys/id", Some("/home/me"), "/clusters/keys/id");
        check("/keys/id", None, "/keys/id");
    }

    #[test]
    fn flags_of_our_parts_are_known() {
        let check = |part, flag: &str, want: &str| {
            let found = look_at_flag(part, flag).err().unwrap_or_default();
            assert_eq!(found, want, "{flag}");
        };
        check(Part::Kubelet, "max-pods", "");
        check(Part::KubeApiserver, "encryption-provider-config", "");
        check(Part::KubeScheduler, "v", "");
        check(Part::Etcd, "anything", "");
        check(Part::Kubelet, "max-podz", "kubelet has no such flag; did you mean \"max-pods\"?");
        check(Part::KubeProxy, "colour", "kube-proxy has no such flag");
    }

    #[test]
    fn keys_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let check = |name: &str, text: &str, mode: u32, want: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let found = look_at_key(&path).err().unwrap_or_default();
            assert!(found.contains(want) && found.is_empty() == want.is_empty(), "{name}: {found}");
        };
        check("id", "-----BEGIN OPENSSH PRIVATE KEY-----\n", 0o600, "");
        check("id", "-----BEGIN OPENSSH PRIVATE KEY-----\n", 0o644, "chmod 600");
        check("id.pub", "ssh-ed25519 AAAA me\n", 0o600, "is not a private key; name the one without .pub");
        check("other", "hello", 0o600, "is not a private key");
        assert!(look_at_key(&dir.path().join("none")).unwrap_err().contains("cannot read"));
    }
}
