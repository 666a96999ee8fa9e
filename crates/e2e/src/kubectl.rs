//! Running `kubectl` and asking again.
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// The longest that one command may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a command said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// `kubectl` with one kubeconfig and namespace.
#[derive(Debug, Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    namespace: String,
    /// Whose network it uses, where that is not this process's.
    network: Option<u32>,
}

impl Kubectl {
    /// With this kubeconfig, in namespace `default`.
    pub fn new(kubeconfig: &Path) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), namespace: "default".into(), network: None }
    }

    /// The same in the network namespace of a process.
    #[must_use]
    pub fn in_network_of(&self, process: u32) -> Self {
        Self { network: Some(process), ..self.clone() }
    }

    /// The same in another namespace.
    #[must_use]
    pub fn within(&self, namespace: &str) -> Self {
        Self { namespace: namespace.into(), ..self.clone() }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The command, ready to be given arguments.
    pub fn command(&self) -> Command {
        let mut command = match self.network {
            None => Command::new("kubectl"),
            Some(process) => {
                let mut command = Command::new("nsenter");
                command.args(["-t", &process.to_string(), "-n", "--", "kubectl"]);
                command
            }
        };
        command.env("KUBECONFIG", &self.kubeconfig).args(["-n", &self.namespace]);
        // Discovery of one cluster may not be taken for another's.
        command.arg("--cache-dir").arg(self.kubeconfig.with_extension("cache"));
        command
    }

    /// Runs it and tells how it ended.
    pub fn answer(&self, arguments: &[&str], input: Option<&str>) -> Result<Answer> {
        let mut command = self.command();
        command.args(arguments);
        run(command, input, PATIENCE).with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// Runs it; anything but success is an error. Gives standard output.
    pub fn run(&self, line: &str) -> Result<String> {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        self.args(&arguments)
    }

    /// [`Self::run`] for arguments with spaces in them.
    pub fn args(&self, arguments: &[&str]) -> Result<String> {
        let answer = self.answer(arguments, None)?;
        ensure!(
            answer.code == Some(0),
            "kubectl {} ended with {:?}\n{}{}",
            arguments.join(" "),
            answer.code,
            answer.out,
            answer.err
        );
        Ok(answer.out)
    }

    /// Runs it and expects it to fail. Gives standard error.
    pub fn refused(&self, line: &str) -> Result<String> {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let answer = self.answer(&arguments, None)?;
        ensure!(answer.code != Some(0), "kubectl {line} succeeded\n{}", answer.out);
        Ok(answer.err)
    }

    /// `kubectl VERB -f -` with this input.
    pub fn feed(&self, verb: &str, yaml: &str) -> Result<String> {
        let mut arguments: Vec<&str> = verb.split_whitespace().collect();
        arguments.extend(["-f", "-"]);
        let answer = self.answer(&arguments, Some(yaml))?;
        ensure!(
            answer.code == Some(0),
            "kubectl {verb} -f - ended with {:?}\n{}{}",
            answer.code,
            answer.out,
            answer.err
        );
        Ok(answer.out)
    }

    /// The value of a JSONPath expression in an object.
    pub fn field(&self, object: &str, path: &str) -> Result<String> {
        let mut arguments = vec!["get"];
        arguments.extend(object.split_whitespace());
        let expression = format!("jsonpath={{{path}}}");
        arguments.extend(["-o", &expression]);
        self.args(&arguments)
    }

    /// Starts it in the background; its output goes to a file that is given back.
    pub fn background(&self, line: &str, output: &Path) -> Result<Child> {
        let file = std::fs::File::create(output)?;
        let errors = file.try_clone()?;
        let mut command = self.command();
        command.args(line.split_whitespace()).stdin(Stdio::null()).stdout(file).stderr(errors);
        command.spawn().with_context(|| format!("kubectl {line}"))
    }
}

/// Runs a command within a time; what it says is read while it runs.
pub fn run(mut command: Command, input: Option<&str>, patience: Duration) -> Result<Answer> {
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start")?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(text.as_bytes()).context("cannot write the input")?;
    }
    let out = reader(child.stdout.take());
    let err = reader(child.stderr.take());
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("no end within {} s", patience.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = |thread: std::thread::JoinHandle<Vec<u8>>| {
        thread.join().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    };
    Ok(Answer { code: status.code(), out: text(out), err: text(err) })
}

fn reader(stream: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut all);
        }
        all
    })
}

/// Tries what has to work at once a second time, and says loudly that it had to: that is to be looked into.
pub fn at_once(what: &str, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    attempt().or_else(|first| {
        println!("FLAKY {what}: {first:#}");
        attempt().with_context(|| what.to_owned())
    })
}

/// Asks again until the answer is yes; what the last attempt said is the error.
pub fn eventually<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(e) if Instant::now() > deadline => {
                return Err(e.context(format!("{what}: not within {} s", patience.as_secs())));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
