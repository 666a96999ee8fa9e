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

mod answers;
mod scripts;

use async_trait::async_trait;
use tokio::{io::AsyncWriteExt as _, process::Command};

use self::answers::{file_of, hint, inspected, listed, refused_by_sudo};
use self::scripts::{INSPECT, INSTALL, KERNEL, MISSING, PROGRAM, PUT, REMOVE, SERVICES, START, WRITE};
use crate::{
    apply::{FileFacts, Host, HostError, Images, Output, Piece, Running, sha256},
    plan::{PlannedRuntime, PlannedService, Ready, unit_text},
    spec,
};

/// How long one command may take; packages take longest.
const PATIENCE: Duration = Duration::from_secs(900);
/// What our marks say about services: with what each was started.
const MARKS: &str = "/var/lib/cox/services";
/// Says which `cox` a host has.
const PROGRAM_MARK: &str = "/var/lib/cox/program";
/// Where packages lie on a host while they are installed.
const PACKAGES: &str = "/var/lib/cox/packages";
/// How long a host itself waits for a service, before we are asked for patience.
const PROBE: &str = "2000";
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
    packages: Option<PathBuf>,
}

/// What a command reads.
enum Input<'a> {
    Bytes(&'a [u8]),
    File(std::fs::File),
}

/// A word that means itself to a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
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
            options.extend(way_through(jump, ssh.key.as_deref()));
        }
        let (name, sudo, cox) = (host.name.clone(), ssh.sudo, cox.to_owned());
        Self { name, options, destination, sudo, cox, packages: None }
    }

    /// Packages that hosts lack come out of a directory of this machine with `.deb` files, and from nowhere else.
    #[must_use]
    pub fn with_packages(mut self, directory: Option<&Path>) -> Self {
        self.packages = directory.map(Path::to_owned);
        self
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
        self.talk_with(command, Input::Bytes(input)).await
    }

    async fn talk_with(&self, command: &[&str], input: Input<'_>) -> Result<Output, HostError> {
        let unreachable =
            |why: String| HostError::Unreachable(format!("no ssh to {}: {why}", self.destination));
        let (stdin, input) = match input {
            Input::Bytes(bytes) => (Stdio::piped(), bytes),
            Input::File(file) => (Stdio::from(file), &[][..]),
        };
        let mut child = Command::new("ssh")
            .args(&self.options)
            .arg("--")
            .arg(&self.destination)
            .arg(self.line(command))
            .env("LC_ALL", "C")
            .stdin(stdin)
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
        let began = tokio::time::Instant::now();
        let output = tokio::time::timeout(PATIENCE, talk)
            .await
            .map_err(|_| unreachable(format!("no end of a command within {} s", PATIENCE.as_secs())))?
            .map_err(|e| unreachable(e.to_string()))?;
        let what: Vec<&str> = command.iter().map(|word| word.get(..48).unwrap_or(word)).take(6).collect();
        tracing::debug!(host = self.name, ?what, took = ?began.elapsed(), "a host was asked");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (code, out, err) =
            (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr));
        if code == NO_CONNECTION {
            let last = err.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
            return Err(unreachable(format!("{}{}", last.trim(), hint(&err))));
        }
        if self.sudo
            && code != 0
            && let Some(said) = refused_by_sudo(&err)
        {
            return Err(HostError::Refused { step: "become root".into(), said: said.into() });
        }
        Ok(Output { code, out, err })
    }

    async fn upload(&self, from: &Path, path: &Path, mode: u32) -> Result<(), HostError> {
        let unreadable = |e: std::io::Error| HostError::Refused {
            step: format!("read {}", from.display()),
            said: e.to_string(),
        };
        let file = std::fs::File::open(from).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len().to_string();
        let (target, mode) = (path.display().to_string(), format!("{mode:o}"));
        let command = ["sh", "-c", WRITE, "sh", &target, &mode, &size];
        let output = self.talk_with(&command, Input::File(file)).await?;
        succeeded(&format!("write {target}"), output).map(drop)
    }

    /// Brings the packages that this machine has for hosts; where to, or nothing if it has none.
    async fn bring_packages(&self) -> Result<&'static str, HostError> {
        let Some(directory) = &self.packages else { return Ok("") };
        let unreadable = |e: std::io::Error| HostError::Refused {
            step: format!("read {}", directory.display()),
            said: e.to_string(),
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|e| e == "deb") {
                files.push(path);
            }
        }
        for file in &files {
            let name = file.file_name().unwrap_or_default();
            self.upload(file, &Path::new(PACKAGES).join(name), 0o644).await?;
        }
        if files.is_empty() {
            let said = format!("there is no .deb file in {}", directory.display());
            return Err(HostError::Refused { step: "bring packages".into(), said });
        }
        Ok(PACKAGES)
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
        succeeded(step, self.talk(&command, input).await?)
    }
}

/// What a command that has to succeed printed.
fn succeeded(step: &str, output: Output) -> Result<String, HostError> {
    if output.code == 0 {
        return Ok(output.out);
    }
    let lines = || output.err.lines().map(str::trim).filter(|l| !l.is_empty());
    // apt ends with what follows from what it said first.
    let said = lines().find(|l| l.starts_with("E: ")).or(lines().next_back()).unwrap_or("it said nothing");
    Err(HostError::Refused { step: step.to_owned(), said: said.to_owned() })
}

/// How ssh gets to a host through another. Its own option for that would leave the key behind.
fn way_through(jump: &str, key: Option<&Path>) -> Vec<String> {
    if jump.contains(',') {
        return vec!["-J".into(), jump.to_owned()];
    }
    let mut way = String::from("ssh -o BatchMode=yes -o ConnectTimeout=15");
    if let Some(key) = key {
        way += &format!(" -i {}", quoted(&key.display().to_string()).replace('%', "%%"));
    }
    way += &format!(" -W [%h]:%p {}", quoted(&format!("ssh://{jump}")));
    vec!["-o".into(), format!("ProxyCommand={way}")]
}

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
        let (path, mode, size) = (path.display().to_string(), format!("{mode:o}"), content.len().to_string());
        self.script(&format!("write {path}"), WRITE, &[&path, &mode, &size], content).await.map(drop)
    }

    async fn put(&self, pieces: &[Piece<'_>]) -> Result<(), HostError> {
        let (mut words, mut input) = (Vec::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Directory(path, mode) => {
                    words.extend(["D".to_owned(), format!("{mode:o}"), path.display().to_string()]);
                }
                Piece::Link(path, to) => {
                    words.extend(["L".to_owned(), to.display().to_string(), path.display().to_string()]);
                }
                Piece::File(path, mode, content) => {
                    words.extend(["F".to_owned(), format!("{mode:o}"), path.display().to_string()]);
                    words.push(content.len().to_string());
                    input.extend_from_slice(content);
                }
            }
        }
        let arguments: Vec<&str> = words.iter().map(String::as_str).collect();
        self.script("write its files", PUT, &arguments, &input).await.map(drop)
    }

    async fn link(&self, path: &Path, to: &Path) -> Result<(), HostError> {
        let (path, to) = (path.display().to_string(), to.display().to_string());
        let script =
            r#"umask 022; mkdir -p "$(dirname "$1")" && ln -sfn "$2" "$1.new" && mv -fT "$1.new" "$1""#;
        self.script(&format!("link {path}"), script, &[&path, &to], b"").await.map(drop)
    }

    async fn bring_cox(&self, from: &Path, identity: &str, path: &Path) -> Result<bool, HostError> {
        let refused = |e: std::io::Error| HostError::Refused {
            step: format!("read {}", from.display()),
            said: e.to_string(),
        };
        let sha256 = match identity.len() {
            64 => identity.to_owned(),
            // It is told by something else than its content.
            _ => sha256(&tokio::fs::read(from).await.map_err(refused)?),
        };
        let at = path.display().to_string();
        let is_there =
            self.script("look at its cox", PROGRAM, &[&at, &sha256, PROGRAM_MARK, ""], b"").await?;
        if is_there.trim() == "same" {
            return Ok(false);
        }
        self.upload(from, path, 0o755).await?;
        self.script("look at its cox", PROGRAM, &[&at, &sha256, PROGRAM_MARK, "written"], b"").await?;
        Ok(true)
    }

    async fn install_packages(&self, packages: &[String]) -> Result<Vec<String>, HostError> {
        let wanted: Vec<String> = packages.iter().map(|p| format!("{p}={}", file_of(p))).collect();
        let arguments: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let said = self.script("look for packages", MISSING, &arguments, b"").await?;
        let missing: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
        if missing.is_empty() {
            return Ok(missing);
        }
        let brought = self.bring_packages().await?;
        let mut arguments = vec![brought];
        arguments.extend(missing.iter().map(String::as_str));
        let step = format!("install {}", missing.join(", "));
        let installed = self.script(&step, INSTALL, &arguments, b"").await;
        if !brought.is_empty() {
            self.script("clean up", r#"rm -rf "$1""#, &[brought], b"").await?;
        }
        installed.map(|_| missing)
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
        let (step, unit) = (format!("start {}", service.name), unit_text(service));
        self.script(&step, START, &[&service.name, digest, MARKS], unit.as_bytes()).await.map(drop)
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
        let output = self.talk(&[&cox, "probe", "--patience-ms", PROBE], &question).await?;
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
        let command = [&cox, "import-images", "--socket", &socket, "--snapshotter", &runtime.snapshotter];
        let output = self.talk(&command, b"").await?;
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
        let way = "ProxyCommand=ssh -o BatchMode=yes -o ConnectTimeout=15 -i /k -W [%h]:%p ssh://j@jump:22";
        assert!(options.ends_with(&format!("-p 2222 -i /k -o {way}")), "{options}");
        assert_eq!(way_through("a,b", None), ["-J", "a,b"]);
        assert_eq!(ssh.destination, "me@a.example");
        assert_eq!(ssh.line(&["echo", "a b"]), "sudo -n -- echo 'a b'");
    }
}
