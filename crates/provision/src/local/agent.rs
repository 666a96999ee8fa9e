//! What is said between a host's init and this machine: one request and one answer, as lines of JSON.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

use crate::{
    apply::{FileFacts, HostError, Output, Running},
    plan::{PlannedService, Ready, Stage},
};

/// Most bytes of a request or an answer.
pub(super) const LIMIT: u64 = 64 << 20;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a command may take: the objects of a large cluster are moved by one.
const COMMAND: Duration = Duration::from_secs(900);

/// What init is asked.
#[derive(Serialize, Deserialize)]
pub(super) enum Request {
    Ping,
    Inspect(Vec<PathBuf>),
    MakeDirectory { path: PathBuf, mode: u32 },
    WriteFile { path: PathBuf, mode: u32, content: String },
    Link { path: PathBuf, to: PathBuf },
    Run { command: Vec<String>, input: String },
    Set { settings: BTreeMap<String, String> },
    Services,
    Start { service: Box<PlannedService>, digest: String },
    Remove(String),
    StopStage(Stage),
    Probe(Ready),
    LastWords(String),
    PowerOff,
}

/// What it answers.
#[derive(Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Failed(String),
    Found(BTreeMap<PathBuf, FileFacts>),
    Output(Output),
    Settings(Vec<String>),
    Services(BTreeMap<String, Running>),
    Probed(Result<(), String>),
    Words(String),
}

/// Asks a host's init.
pub(super) async fn ask(socket: &Path, host: &str, request: &Request) -> Result<Answer, HostError> {
    let unreachable = |e: std::io::Error| HostError::Unreachable(format!("host {host} does not answer: {e}"));
    let talk = async {
        let mut stream = UnixStream::connect(socket).await?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(stream.take(LIMIT)).read_line(&mut answer).await?;
        Ok::<Answer, std::io::Error>(serde_json::from_str(&answer)?)
    };
    let patience = if matches!(request, Request::Run { .. }) { COMMAND } else { PATIENCE };
    tokio::time::timeout(patience, talk)
        .await
        .map_err(|_| HostError::Unreachable(format!("host {host} does not answer")))?
        .map_err(unreachable)
}

/// The process of the init behind a socket, if one answers.
pub(super) async fn init_of(socket: &Path) -> Option<i32> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let pid = stream.peer_cred().ok()?.pid();
    drop(stream);
    ask(socket, "", &Request::Ping).await.ok()?;
    pid
}
