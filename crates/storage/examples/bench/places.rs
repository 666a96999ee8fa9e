//! Where stores are: in this process, or an etcd that is started here.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use storage::etcd::{self, Etcd};
use storage::{Embedded, Options, Storage};

use crate::Outcome;

/// Tells this program to be the process that opens a store and says what it took.
pub const RECOVER: &str = "--recover";
const PATIENCE: Duration = Duration::from_secs(120);

/// What a start took.
pub struct Started {
    pub took: Duration,
    /// Bytes that are resident once it answers.
    pub memory: u64,
}

/// A kind of store.
#[async_trait]
pub trait Place: Send + Sync {
    /// An empty store; the one before is gone.
    async fn fresh(&self) -> Outcome<Arc<dyn Storage>>;
    /// Starts anew with what the last store has on the disk, in a process of its own.
    async fn reopen(&self) -> Outcome<Started>;
    /// The bytes that it takes on the disk.
    fn disk(&self) -> Outcome<u64>;
}

/// Embedded stores.
pub struct Local {
    dir: PathBuf,
}

impl Local {
    pub fn new(root: &Path) -> Self {
        Self { dir: root.join("embedded") }
    }
}

#[async_trait]
impl Place for Local {
    async fn fresh(&self) -> Outcome<Arc<dyn Storage>> {
        clear(&self.dir)?;
        Ok(Arc::new(Embedded::open(&self.dir, Options::default())?))
    }

    async fn reopen(&self) -> Outcome<Started> {
        let output = Command::new(std::env::current_exe()?).arg(RECOVER).arg(&self.dir).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut words = text.split_whitespace();
        let mut number = || words.next().and_then(|word| word.parse().ok());
        let (Some(micros), Some(memory)) = (number(), number()) else {
            return Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)).into());
        };
        Ok(Started { took: Duration::from_micros(micros), memory })
    }

    fn disk(&self) -> Outcome<u64> {
        bytes(&self.dir)
    }
}

/// Opens a store, and prints microseconds and resident bytes.
pub fn recover(dir: &Path) -> Outcome<()> {
    let began = Instant::now();
    let store = Embedded::open(dir, Options::default())?;
    let took = began.elapsed();
    println!("{} {}", took.as_micros(), resident(std::process::id())?);
    drop(store);
    Ok(())
}

/// One etcd after the other.
pub struct Server {
    binary: PathBuf,
    dir: PathBuf,
    running: Mutex<Option<(Child, String)>>,
}

impl Server {
    pub fn new(binary: &Path, root: &Path) -> Outcome<Self> {
        let said = Command::new(binary).arg("--version").output()?;
        eprintln!("bench: {}", String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or_default());
        Ok(Self { binary: binary.to_owned(), dir: root.join("etcd"), running: Mutex::default() })
    }

    fn stop(&self) -> Outcome<()> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((mut child, _)) = running {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts it; tells its address and process.
    fn start(&self) -> Outcome<(String, u32)> {
        let url = || format!("http://127.0.0.1:{}", storage::real_etcd::free_port());
        let (client, peer) = (url(), url());
        let child = Command::new(&self.binary)
            .arg("--data-dir")
            .arg(&self.dir)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(["--quota-backend-bytes", "8589934592", "--log-level", "error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pid = child.id();
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some((child, client.clone()));
        Ok((client, pid))
    }

    async fn connect(&self, url: &str) -> Outcome<Arc<dyn Storage>> {
        let options =
            etcd::Options { endpoints: vec![url.to_owned()], patience: PATIENCE, ..etcd::Options::default() };
        Ok(Arc::new(Etcd::open(options).await?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("bench: cannot end etcd: {error}");
        }
    }
}

#[async_trait]
impl Place for Server {
    async fn fresh(&self) -> Outcome<Arc<dyn Storage>> {
        self.stop()?;
        clear(&self.dir)?;
        let (url, _) = self.start()?;
        self.connect(&url).await
    }

    async fn reopen(&self) -> Outcome<Started> {
        self.stop()?;
        let began = Instant::now();
        let (url, pid) = self.start()?;
        let store = self.connect(&url).await?;
        store.now().await?;
        Ok(Started { took: began.elapsed(), memory: resident(pid)? })
    }

    fn disk(&self) -> Outcome<u64> {
        bytes(&self.dir)
    }
}

fn clear(dir: &Path) -> Outcome<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn bytes(dir: &Path) -> Outcome<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // Files come and go.
        let Ok(metadata) = entry.metadata() else { continue };
        // Blocks, not lengths: etcd allocates ahead.
        total += if metadata.is_dir() { bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(total)
}

fn resident(pid: u32) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}
