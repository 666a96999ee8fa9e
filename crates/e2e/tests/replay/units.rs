//! A tiny systemd: enough to start the unit files that guides write. A link named `systemctl` to this test's own binary
//! is what runs on a host; each started unit has a supervisor of its own, which is this binary too.
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

const UNITS: [&str; 2] = ["/etc/systemd/system", "/lib/systemd/system"];
const STATE: &str = "/run/units";

/// What is read of a unit file.
#[derive(Debug, Default, PartialEq)]
pub struct Unit {
    requires: Vec<String>,
    environment: Vec<(String, String)>,
    start_pre: Vec<String>,
    start: String,
    restart: String,
    restart_sec: f64,
}

/// Splits as a shell does, for quotes and blanks alone.
fn words(text: &str) -> Vec<String> {
    let (mut all, mut word, mut quote, mut any) = (Vec::new(), String::new(), None, false);
    for c in text.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => word.push(c),
            None if c == '"' || c == '\'' => (quote, any) = (Some(c), true),
            None if c.is_whitespace() => {
                if any || !word.is_empty() {
                    all.push(std::mem::take(&mut word));
                }
                any = false;
            }
            None => word.push(c),
        }
    }
    if any || !word.is_empty() {
        all.push(word);
    }
    all
}

/// The lines of a unit file; a backslash at a line's end goes on with the next.
fn logical_lines(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let (line, more) = match line.trim_end().strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line.trim_end(), false),
        };
        match all.last_mut().filter(|_| open) {
            Some(last) => *last = format!("{last} {}", line.trim()),
            None => all.push(line.trim().to_owned()),
        }
        open = more;
    }
    all
}

impl Unit {
    /// Reads the text of a unit file.
    pub fn parse(text: &str) -> Result<Self> {
        let mut unit = Self { restart: "no".into(), restart_sec: 0.1, ..Self::default() };
        for line in logical_lines(text) {
            if line.is_empty() || line.starts_with(['#', ';', '[']) {
                continue;
            }
            let (key, value) =
                line.split_once('=').with_context(|| format!("no unit file's line: {line}"))?;
            let value = value.trim();
            match key.trim() {
                "Requires" => unit.requires.extend(words(value)),
                "Environment" => unit.environment.extend(
                    words(value).iter().filter_map(|w| w.split_once('=')).map(|(k, v)| (k.into(), v.into())),
                ),
                "ExecStartPre" => unit.start_pre.push(value.to_owned()),
                "ExecStart" => unit.start = value.to_owned(),
                "Restart" => unit.restart = value.to_owned(),
                "RestartSec" => unit.restart_sec = value.trim_end_matches('s').parse()?,
                _ => {}
            }
        }
        ensure!(!unit.start.is_empty(), "the unit has no ExecStart=");
        Ok(unit)
    }

    fn restarts(&self, success: bool) -> bool {
        self.restart == "always" || (self.restart == "on-failure" && !success)
    }
}

fn unit_file(name: &str) -> Result<PathBuf> {
    let file = if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
    let found = UNITS.iter().map(|dir| Path::new(dir).join(&file)).find(|path| path.exists());
    found.with_context(|| format!("Unit {file} not found."))
}

fn state(name: &str, what: &str) -> PathBuf {
    Path::new(STATE).join(format!("{}.{what}", name.trim_end_matches(".service")))
}

/// Where a unit's output goes, inside of its host.
pub fn log_of(name: &str) -> String {
    format!("/var/log/units/{name}.log")
}

fn main_pid(name: &str) -> Option<String> {
    let pid = fs::read_to_string(state(name, "pid")).ok()?;
    // A process that ended and was reaped has no directory.
    Path::new("/proc").join(pid.trim()).exists().then(|| pid.trim().to_owned())
}

fn start(name: &str) -> Result<()> {
    let name = name.trim_end_matches(".service");
    let unit = Unit::parse(&fs::read_to_string(unit_file(name)?)?)?;
    for required in &unit.requires {
        unit_file(required)?;
        if main_pid(required).is_none() {
            start(required)?;
        }
    }
    if main_pid(name).is_some() {
        return Ok(());
    }
    fs::create_dir_all(STATE)?;
    fs::create_dir_all("/var/log/units")?;
    for old in ["stop", "pid", "result"] {
        let _ = fs::remove_file(state(name, old));
    }
    let null = || Stdio::null();
    // Its own name for itself, and not the file's: a build may have replaced that meanwhile.
    let mut supervisor = Command::new("/proc/self/exe");
    supervisor
        .arg0("systemctl")
        .args(["--supervise", name])
        .stdin(null())
        .stdout(null())
        .stderr(null())
        .spawn()?;
    for _ in 0..600 {
        if main_pid(name).is_some() || state(name, "result").exists() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("Job for {name}.service failed: it does not start")
}

fn stop(name: &str) -> Result<()> {
    fs::create_dir_all(STATE)?;
    File::create(state(name, "stop"))?;
    let Some(pid) = main_pid(name) else { return Ok(()) };
    Command::new("kill").arg(&pid).status()?;
    for second in 0..200 {
        if main_pid(name).is_none() {
            return Ok(());
        }
        if second == 150 {
            Command::new("kill").args(["-9", &pid]).status()?;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("{name} does not stop")
}

/// `systemctl VERB UNIT...` on a host.
pub fn systemctl(arguments: &[String]) -> ExitCode {
    let [verb, names @ ..] = arguments else { return ExitCode::from(2) };
    let names: Vec<&String> = names.iter().filter(|name| !name.starts_with('-')).collect();
    let each = |act: fn(&str) -> Result<()>| names.iter().try_for_each(|name| act(name));
    let done = match verb.as_str() {
        "daemon-reload" => Ok(()),
        "enable" => each(|name| unit_file(name).map(drop)),
        "start" => each(start),
        "stop" => each(stop),
        "restart" => each(stop).and_then(|()| each(start)),
        "status" | "is-active" => each(|name| {
            let pid = main_pid(name).with_context(|| format!("{name}.service: inactive (dead)"))?;
            println!("{name}.service: active (running), Main PID: {pid}");
            Ok(())
        }),
        other => Err(anyhow::anyhow!("Unknown command verb {other}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Units run in the host's own cgroups, whoever asked for them.
fn enter_cgroups() {
    let root = Path::new("/sys/fs/cgroup");
    let pid = std::process::id().to_string();
    for dir in fs::read_dir(root).into_iter().flatten().flatten() {
        let _ = fs::write(dir.path().join("cgroup.procs"), &pid);
    }
    let _ = fs::write(root.join("init/cgroup.procs"), &pid);
}

fn spawn(line: &str, unit: &Unit, log: &File) -> Result<std::process::Child> {
    let words = words(line);
    let (program, arguments) = words.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    // Of the shell that started it, a unit has nothing.
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.args(arguments).envs(unit.environment.iter().cloned()).current_dir("/");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    command.spawn().with_context(|| program.clone())
}

fn run_once(name: &str, unit: &Unit, log: &mut File) -> Result<bool> {
    for line in &unit.start_pre {
        let (line, may_fail) = line.strip_prefix('-').map_or((line.as_str(), false), |line| (line, true));
        let succeeded = spawn(line, unit, log).and_then(|mut child| Ok(child.wait()?.success()));
        ensure!(may_fail || succeeded.as_ref().is_ok_and(|ok| *ok), "ExecStartPre={line}: {succeeded:?}");
    }
    let mut child = spawn(&unit.start, unit, log)?;
    fs::write(state(name, "pid"), child.id().to_string())?;
    let status = child.wait()?;
    writeln!(log, "[{name}.service: Main process exited, {status}]")?;
    Ok(status.success())
}

/// Runs a unit, and again as its `Restart=` says, until it is stopped.
pub fn supervise(name: &str) -> ExitCode {
    enter_cgroups();
    let own = std::process::id().to_string();
    let work = || -> Result<bool> {
        fs::write(state(name, "owner"), &own)?;
        let mut log = OpenOptions::new().create(true).append(true).open(log_of(name))?;
        loop {
            // A file that was changed counts from the next start on.
            let unit = Unit::parse(&fs::read_to_string(unit_file(name)?)?)?;
            let success = match run_once(name, &unit, &mut log) {
                Ok(success) => success,
                Err(e) => {
                    writeln!(log, "[{name}.service: {e:#}]")?;
                    false
                }
            };
            fs::write(state(name, "result"), success.to_string())?;
            // It may have been stopped, and started again by another supervisor.
            let over = || {
                let owner = fs::read_to_string(state(name, "owner")).unwrap_or_default();
                state(name, "stop").exists() || owner != own
            };
            if over() || !unit.restarts(success) {
                return Ok(success);
            }
            std::thread::sleep(Duration::from_secs_f64(unit.restart_sec));
            if over() {
                return Ok(success);
            }
        }
    };
    if work().unwrap_or(false) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the runner itself must get right, checked before anything is started.
pub fn check() -> Result<()> {
    let unit = Unit::parse(
        "  [Unit]\n  Requires=docker.service\n[Service]\nEnvironment=A=1 \"B=two words\"\nExecStart=/bin/x --a \\\n    --b=c \\\n  --d\n  Restart=on-failure\nRestartSec=5\n# x\n\n[Install]\nWantedBy=multi-user.target",
    )?;
    let environment = vec![("A".into(), "1".into()), ("B".into(), "two words".into())];
    let expect = Unit {
        requires: vec!["docker.service".into()],
        environment,
        start_pre: Vec::new(),
        start: "/bin/x --a --b=c --d".into(),
        restart: "on-failure".into(),
        restart_sec: 5.0,
    };
    ensure!(unit.start.split_whitespace().eq(expect.start.split_whitespace()), "{unit:?}");
    ensure!(Unit { start: expect.start.clone(), ..unit } == expect, "the unit file is read wrongly");
    ensure!(expect.restarts(false) && !expect.restarts(true), "restarts");
    Ok(())
}
