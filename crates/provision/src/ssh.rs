//! Hosts at the other end of ssh, with systemd.
//!
//! The `ssh` of this machine does the talking: whoever can log in by hand can bring up a cluster, with the same keys,
//! agent, security tokens, jump hosts and `known_hosts`, and `~/.ssh/config` counts. One connection serves all commands
//! to a host. Nothing secret stands in a command line; it goes over standard input.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_trait::async_trait;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{
    apply::{FileFacts, Host, HostError, Images, Output, Running, sha256},
    plan::{PlannedRuntime, PlannedService, Ready, unit_path, unit_text},
    spec,
};

/// How long one command may take; packages take longest.
const PATIENCE: Duration = Duration::from_secs(900);
/// What our marks say about services: with what each was started.
const MARKS: &str = "/var/lib/cox/services";
/// What ssh ends with where it did not get to the host.
const NO_CONNECTION: i32 = 255;

/// A host at the other end of ssh.
#[derive(Clone, Debug)]
pub struct SshHost {
    name: String,
    options: Vec<String>,
    destination: String,
    sudo: bool,
    cox: PathBuf,
    /// It is this machine: nothing lies between.
    here: bool,
}

/// A word that means itself to a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// What may help where a connection failed.
fn hint(said: &str) -> &'static str {
    let has = |text: &str| said.contains(text);
    if has("Host key verification failed") {
        "; log in once by hand and compare its key's fingerprint, or put the key into known_hosts"
    } else if has("REMOTE HOST IDENTIFICATION HAS CHANGED") {
        "; it is another machine than before, or somebody is in between: if it was installed anew, ssh-keygen -R HOST"
    } else if has("Permission denied") {
        "; is the right key named in cluster.yaml or loaded into the agent, and may that user log in?"
    } else if has("Could not resolve hostname") {
        "; give its address in cluster.yaml"
    } else if has("timed out") || has("No route to host") || has("Connection refused") {
        "; is it on, is sshd running there, and does a firewall let port 22 through?"
    } else {
        ""
    }
}

impl SshHost {
    /// A host of a cluster; `control` is a directory for the sockets of connections, private to the user. `cox` is
    /// where the program lies on the host.
    pub fn new(host: &spec::Host, control: &Path, cox: &Path) -> Self {
        let ssh = &host.ssh;
        let mut options: Vec<String> = [
            // Nobody is there to be asked: what is not known is refused.
            "BatchMode=yes",
            "ConnectTimeout=15",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=4",
            "ControlMaster=auto",
            "ControlPersist=60",
        ]
        .iter()
        .flat_map(|option| ["-o".to_owned(), (*option).to_owned()])
        .collect();
        let at = ssh.host.clone().unwrap_or_else(|| host.address.to_string());
        let destination = format!("{}@{at}", ssh.user);
        // Short, as paths of sockets have to be.
        let socket = &sha256(format!("{destination}:{}", ssh.port).as_bytes())[..8];
        options.extend(["-o".to_owned(), format!("ControlPath={}", control.join(socket).display())]);
        options.extend(["-p".to_owned(), ssh.port.to_string()]);
        if let Some(key) = &ssh.key {
            options.extend(["-i".to_owned(), key.display().to_string()]);
        }
        if let Some(jump) = &ssh.jump {
            options.extend(["-J".to_owned(), jump.clone()]);
        }
        Self { name: host.name.clone(), options, destination, sudo: ssh.sudo, cox: cox.to_owned(), here: false }
    }

    /// This machine itself, for who is root on it: the same commands without a way to go.
    pub fn here(name: &str, cox: &Path) -> Self {
        Self {
            name: name.to_owned(),
            options: Vec::new(),
            destination: "this machine".into(),
            sudo: false,
            cox: cox.to_owned(),
            here: true,
        }
    }

    /// What takes a line to the shell that runs it.
    fn command(&self, line: String) -> Command {
        if self.here {
            let mut command = Command::new("sh");
            command.args(["-c", &line]).env("PATH", crate::binaries::search_path());
            return command;
        }
        let mut command = Command::new("ssh");
        command.args(&self.options).arg("--").arg(&self.destination).arg(line);
        command
    }

    /// With further options for `ssh`, which win over its configuration.
    #[must_use]
    pub fn with_options(mut self, options: &[&str]) -> Self {
        self.options.splice(0..0, options.iter().map(|o| (*o).to_owned()));
        self
    }

    /// The line that the shell over there runs.
    fn line(&self, command: &[&str]) -> String {
        let mut words: Vec<String> = Vec::new();
        if self.sudo {
            words.extend(["sudo", "-n", "--"].map(str::to_owned));
        }
        words.extend(command.iter().map(|word| quoted(word)));
        words.join(" ")
    }

    async fn talk(&self, command: &[&str], input: &[u8]) -> Result<Output, HostError> {
        let unreachable =
            |why: String| HostError::Unreachable(format!("no ssh to {}: {why}", self.destination));
        let mut child = self
            .command(self.line(command))
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| unreachable(format!("cannot run ssh: {e}; apt-get install openssh-client")))?;
        let stdin = child.stdin.take();
        let talk = async {
            let write = async {
                if let Some(mut stdin) = stdin {
                    // One that does not want its input says why itself.
                    let _ = stdin.write_all(input).await;
                    let _ = stdin.shutdown().await;
                }
            };
            let ((), output) = tokio::join!(write, child.wait_with_output());
            output
        };
        let output = tokio::time::timeout(PATIENCE, talk)
            .await
            .map_err(|_| unreachable(format!("no end of a command within {} s", PATIENCE.as_secs())))?
            .map_err(|e| unreachable(e.to_string()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (code, out, err) =
            (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr));
        if code == NO_CONNECTION && !self.here {
            let last = err.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
            return Err(unreachable(format!("{}{}", last.trim(), hint(&err))));
        }
        if self.sudo && code == 1 && err.contains("sudo:") && err.contains("password") {
            let next = "sudo asks for a password there; let this user run sudo without one (NOPASSWD)";
            return Err(HostError::Refused { step: "become root".into(), said: next.into() });
        }
        Ok(Output { code, out, err })
    }

    /// Runs a script with arguments; anything but success is an error.
    async fn script(
        &self,
        step: &str,
        script: &str,
        arguments: &[&str],
        input: &[u8],
    ) -> Result<String, HostError> {
        let mut command = vec!["sh", "-c", script, "sh"];
        command.extend(arguments);
        let output = self.talk(&command, input).await?;
        if output.code == 0 {
            return Ok(output.out);
        }
        let said =
            output.err.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned();
        Err(HostError::Refused { step: step.to_owned(), said })
    }
}

/// Tells what is at each path: a line that says it and a line with the path.
const INSPECT: &str = r#"for p; do
if [ -L "$p" ]; then printf 'L %s\n%s\n' "$(readlink "$p")" "$p"
elif [ -d "$p" ]; then printf 'D %s\n%s\n' "$(stat -c %a "$p")" "$p"
elif [ -e "$p" ]; then printf 'F %s %s\n%s\n' "$(stat -c %a "$p")" "$(sha256sum <"$p" | cut -d' ' -f1)" "$p"
fi; done"#;

fn inspected(text: &str) -> BTreeMap<PathBuf, FileFacts> {
    let mut lines = text.lines();
    let mut found = BTreeMap::new();
    while let (Some(what), Some(path)) = (lines.next(), lines.next()) {
        let mode = |text: &str| u32::from_str_radix(text, 8).ok();
        let facts = match what.split_once(' ') {
            Some(("L", to)) => Some(FileFacts::Link(to.into())),
            Some(("D", bits)) => mode(bits).map(|mode| FileFacts::Directory { mode }),
            Some(("F", rest)) => rest.split_once(' ').and_then(|(bits, sha256)| {
                Some(FileFacts::File { mode: mode(bits)?, sha256: sha256.to_owned() })
            }),
            _ => None,
        };
        found.extend(facts.map(|facts| (PathBuf::from(path), facts)));
    }
    found
}

/// Writes standard input beside the file, gives it its mode, then puts it in the file's place.
const WRITE: &str = r#"set -e; umask 022; d=$(dirname "$1"); mkdir -p "$d"; umask 077
t=$(mktemp "$d/.cox.XXXXXX"); trap 'rm -f "$t"' EXIT
cat >"$t"; chmod "$2" "$t"; sync "$t" 2>/dev/null || true; mv -fT "$t" "$1""#;

/// Installs what is missing, without starting the packages' own services; prints what it installed.
const PACKAGES: &str = r#"set -e; m=
for p; do s=$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null || true); [ "$s" = installed ] || m="$m $p"; done
[ -n "$m" ] || exit 0
r=/usr/sbin/policy-rc.d
if [ ! -e "$r" ]; then printf '#!/bin/sh\nexit 101\n' >"$r"; chmod 755 "$r"; trap 'rm -f "$r"' EXIT; fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update >&2; apt-get -qq -y --no-install-recommends install $m >&2
echo "$m""#;

/// Loads modules where there are any, sets what differs; prints what it set.
const KERNEL: &str = r#"for a; do case $a in
*=*) k=${a%%=*}; v=${a#*=}; f=/proc/sys/$(echo "$k" | tr . /)
[ -e "$f" ] && [ "$(tr '\t' ' ' <"$f")" != "$v" ] && printf %s "$v" >"$f" && echo "$k" ;;
*) modprobe -q "$a" 2>/dev/null ;;
esac; done; true"#;

/// Prints each service of ours: name, what it was started with, whether it runs, how often it was started again.
const SERVICES: &str = r#"cd "$1" 2>/dev/null || exit 0
for n in *; do [ -f "$n" ] || continue
s=$(systemctl is-active "$n.service" || true); r=$(systemctl show -p NRestarts --value "$n.service")
printf '%s %s %s %s\n' "$n" "$(cat "$n")" "$s" "${r:-0}"; done"#;

fn listed(text: &str) -> BTreeMap<String, Running> {
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, digest, state) = (words.next()?, words.next()?, words.next()?);
        let restarts = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let active = matches!(state, "active" | "activating" | "reloading");
        Some((name.to_owned(), Running { digest: digest.to_owned(), active, restarts }))
    };
    text.lines().filter_map(parse).collect()
}

const START: &str = r#"set -e; mkdir -p "$3"; rm -f "$3/$1"
systemctl daemon-reload; systemctl -q enable "$1.service"; systemctl --no-block restart "$1.service"
printf %s "$2" >"$3/$1""#;

const REMOVE: &str = r#"set -e; systemctl -q disable --now "$1.service" || true
rm -f "$2" "$3/$1"; systemctl daemon-reload"#;

#[async_trait]
impl Host for SshHost {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&self, command: &[&str], input: &[u8]) -> Result<Output, HostError> {
        self.talk(command, input).await
    }

    async fn inspect(&self, paths: &[&Path]) -> Result<BTreeMap<PathBuf, FileFacts>, HostError> {
        let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
        let arguments: Vec<&str> = paths.iter().map(String::as_str).collect();
        Ok(inspected(&self.script("look at its files", INSPECT, &arguments, b"").await?))
    }

    async fn make_directory(&self, path: &Path, mode: u32) -> Result<(), HostError> {
        let (path, mode) = (path.display().to_string(), format!("{mode:o}"));
        let script = r#"umask 022; mkdir -p "$1" && chmod "$2" "$1""#;
        self.script(&format!("make {path}"), script, &[&path, &mode], b"").await.map(drop)
    }

    async fn write_file(&self, path: &Path, mode: u32, content: &[u8]) -> Result<(), HostError> {
        let (path, mode) = (path.display().to_string(), format!("{mode:o}"));
        self.script(&format!("write {path}"), WRITE, &[&path, &mode], content).await.map(drop)
    }

    async fn link(&self, path: &Path, to: &Path) -> Result<(), HostError> {
        let (path, to) = (path.display().to_string(), to.display().to_string());
        let script =
            r#"umask 022; mkdir -p "$(dirname "$1")" && ln -sfn "$2" "$1.new" && mv -fT "$1.new" "$1""#;
        self.script(&format!("link {path}"), script, &[&path, &to], b"").await.map(drop)
    }

    async fn bring_cox(&self, from: &Path, _identity: &str, path: &Path) -> Result<bool, HostError> {
        let refused = |e: std::io::Error| HostError::Refused {
            step: format!("read {}", from.display()),
            said: e.to_string(),
        };
        let content = tokio::fs::read(from).await.map_err(refused)?;
        let wanted = FileFacts::File { sha256: sha256(&content), mode: 0o755 };
        if self.inspect(&[path]).await?.get(path) == Some(&wanted) {
            return Ok(false);
        }
        self.write_file(path, 0o755, &content).await?;
        Ok(true)
    }

    async fn install_packages(&self, packages: &[String]) -> Result<Vec<String>, HostError> {
        let arguments: Vec<&str> = packages.iter().map(String::as_str).collect();
        let said = self.script("install packages", PACKAGES, &arguments, b"").await?;
        Ok(said.split_whitespace().map(str::to_owned).collect())
    }

    async fn prepare_kernel(
        &self,
        modules: &[String],
        settings: &BTreeMap<String, String>,
    ) -> Result<Vec<String>, HostError> {
        let settings = settings.iter().map(|(name, value)| format!("{name}={value}"));
        let all: Vec<String> = modules.iter().cloned().chain(settings).collect();
        let arguments: Vec<&str> = all.iter().map(String::as_str).collect();
        let said = self.script("set kernel settings", KERNEL, &arguments, b"").await?;
        Ok(said.split_whitespace().map(str::to_owned).collect())
    }

    async fn services(&self) -> Result<BTreeMap<String, Running>, HostError> {
        Ok(listed(&self.script("list its services", SERVICES, &[MARKS], b"").await?))
    }

    async fn start_service(&self, service: &PlannedService, digest: &str) -> Result<(), HostError> {
        self.write_file(&unit_path(service), 0o644, unit_text(service).as_bytes()).await?;
        let step = format!("start {}", service.name);
        self.script(&step, START, &[&service.name, digest, MARKS], b"").await.map(drop)
    }

    async fn remove_service(&self, name: &str) -> Result<(), HostError> {
        let unit = format!("/etc/systemd/system/{name}.service");
        self.script(&format!("remove {name}"), REMOVE, &[name, &unit, MARKS], b"").await.map(drop)
    }

    async fn probe(&self, ready: &Ready) -> Result<Result<(), String>, HostError> {
        let refused =
            |e: serde_json::Error| HostError::Refused { step: "ask a service".into(), said: e.to_string() };
        let question = serde_json::to_vec(ready).map_err(refused)?;
        let cox = self.cox.display().to_string();
        let output = self.talk(&[&cox, "probe"], &question).await?;
        Ok(if output.code == 0 {
            Ok(())
        } else {
            Err(output.err.trim().trim_start_matches("cox: ").to_owned())
        })
    }

    async fn last_words(&self, service: &str) -> Result<String, HostError> {
        let unit = format!("{service}.service");
        let said =
            self.talk(&["journalctl", "-u", &unit, "-n", "20", "--no-pager", "-o", "cat"], b"").await?.out;
        let lines: Vec<&str> = said.lines().filter(|l| !l.trim().is_empty()).collect();
        let end = lines.iter().rev().find(|l| l.starts_with("cox: ")).or(lines.last());
        Ok(end.map(|l| (*l).to_owned()).unwrap_or_default())
    }

    async fn import_images(&self, runtime: &PlannedRuntime, _images: &Images) -> Result<bool, HostError> {
        let (cox, socket) = (self.cox.display().to_string(), runtime.socket.display().to_string());
        let output = self.talk(&[&cox, "import-images", "--socket", &socket], b"").await?;
        if output.code == 0 {
            return Ok(output.out.trim() == "imported");
        }
        let said = output.err.trim().trim_start_matches("cox: ").to_owned();
        Err(HostError::Refused { step: "import the system images".into(), said })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_mean_themselves_to_the_shell_over_there() {
        assert_eq!(quoted("/etc/x-1.yaml"), "/etc/x-1.yaml");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn what_the_scripts_print_is_read() {
        let found = inspected("L /usr/bin/x\n/a\nD 700\n/b c\nF 600 abc\n/d\nrubbish\n/e\n");
        let want = [
            (PathBuf::from("/a"), FileFacts::Link("/usr/bin/x".into())),
            ("/b c".into(), FileFacts::Directory { mode: 0o700 }),
            ("/d".into(), FileFacts::File { sha256: "abc".into(), mode: 0o600 }),
        ];
        assert_eq!(found, want.into());
        let services = listed("etcd d1 active 2\nkubelet d2 failed 0\n");
        assert!(services["etcd"].active && services["etcd"].restarts == 2 && services["etcd"].digest == "d1");
        assert!(!services["kubelet"].active);
    }

    #[test]
    fn the_way_to_a_host_is_what_its_file_says() {
        let host = spec::Host {
            name: "a".into(),
            address: [192, 0, 2, 1].into(),
            roles: Vec::new(),
            ssh: spec::Ssh {
                host: Some("a.example".into()),
                user: "me".into(),
                port: 2222,
                key: Some("/k".into()),
                jump: Some("j@jump:22".into()),
                sudo: true,
            },
            labels: BTreeMap::new(),
            taints: Vec::new(),
        };
        let ssh = SshHost::new(&host, Path::new("/c"), Path::new("/usr/local/bin/cox"));
        let options = ssh.options.join(" ");
        assert!(options.contains("-o ControlPath=/c/"), "{options}");
        assert!(options.ends_with("-p 2222 -i /k -J j@jump:22"), "{options}");
        assert_eq!(ssh.destination, "me@a.example");
        assert_eq!(ssh.line(&["echo", "a b"]), "sudo -n -- echo 'a b'");
        assert!(hint("Host key verification failed.").contains("known_hosts"));
    }
}
