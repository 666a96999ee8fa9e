//! `kill -9` in a loop under load, with clocks that jump: what was acknowledged is there, what was not is absent or
//! whole, revisions never go back, and the store starts by itself. Beside it, another process looks at the files.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use storage::{DeleteOutcome, Embedded, Expect, Image, LeaseId, Options, Storage, WriteOutcome};

use crate::quick;

/// Tells the test binary, started again by itself, to be the process that gets killed.
const CHILD: &str = "STORAGE_TEST_CRASH_DIR";
/// Where the child begins to count.
const FROM: &str = "STORAGE_TEST_CRASH_FROM";
/// Tells it to be the process that restores again and again.
const RESTORES: &str = "STORAGE_TEST_RESTORE_DIR";
/// How often to kill.
const KILLS: &str = "STORAGE_TEST_KILLS";
const WRITERS: u64 = 6;
const KEYS: u64 = 5;

/// What a writer does in a round, to which key. Writers have keys of their own, so each of them knows what has to be
/// there.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Op {
    Put { size: usize, leased: bool },
    Delete,
}

fn op(writer: u64, round: u64) -> (String, Op) {
    let mixed = (writer + 1)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(round.wrapping_mul(0xD1B5_4A32_D192_ED03));
    let mixed = mixed ^ (mixed >> 29);
    let key = format!("/{writer}/{}", mixed % KEYS);
    let op = match mixed >> 8 & 7 {
        0 => Op::Delete,
        kind => Op::Put { size: (mixed >> 16 & 0x7FF) as usize, leased: kind == 1 },
    };
    (key, op)
}

fn value(writer: u64, round: u64, size: usize) -> Bytes {
    let mut value = format!("{writer}.{round}.").into_bytes();
    value.resize(value.len() + size, b'v');
    value.into()
}

/// The process that gets killed; does nothing in an ordinary run of the tests.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let from: Vec<u64> = std::env::var(FROM)
        .expect("where to begin")
        .split(',')
        .map(|round| round.parse().expect("a number"))
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        // Snapshots all the time; every second life syncs.
        let sync = from[0].is_multiple_of(2);
        let store = Arc::new(
            Embedded::open(dir, Options { sync, snapshot_bytes: 20_000, ..Options::default() })
                .expect("open"),
        );
        let lease = store.grant(Duration::from_secs(100_000)).await.expect("grant");
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| tokio::spawn(write(store.clone(), writer, from[writer as usize], lease)))
            .collect();
        for writer in writers {
            writer.await.expect("no panic");
        }
    });
}

async fn write(store: Arc<Embedded>, writer: u64, from: u64, lease: LeaseId) {
    for round in from.. {
        let (key, op) = op(writer, round);
        let revision = match op {
            Op::Put { size, leased } => {
                let lease = leased.then_some(lease);
                match store.put(&key, value(writer, round, size), Expect::Any, lease).await {
                    Ok(WriteOutcome::Done(kv)) => kv.mod_revision,
                    other => panic!("{other:?}"),
                }
            }
            Op::Delete => match store.delete(&key, Expect::Any).await {
                Ok(DeleteOutcome::Deleted { revision, .. } | DeleteOutcome::Mismatch { revision, .. }) => {
                    revision
                }
                other => panic!("{other:?}"),
            },
        };
        // One write each: a line is whole or not there. The reader kills us, so it may be gone first.
        if std::io::stderr().write_all(format!("ack {writer} {round} {revision}\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// What has to be there, by what was acknowledged.
#[derive(Clone, Default)]
struct Expected {
    /// The next round of each writer.
    next: [u64; WRITERS as usize],
    keys: BTreeMap<String, Bytes>,
    revision: u64,
}

impl Expected {
    fn apply(&mut self, writer: u64, round: u64) {
        let (key, op) = op(writer, round);
        match op {
            Op::Put { size, .. } => self.keys.insert(key, value(writer, round, size)),
            Op::Delete => self.keys.remove(&key),
        };
        self.next[writer as usize] = round + 1;
    }

    /// Takes the line of an acknowledgement.
    fn acknowledge(&mut self, line: &str) {
        let words: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [writer, round, revision] = words[..] else { return };
        assert_eq!(self.next[writer as usize], round, "a writer goes on where it was");
        self.apply(writer, round);
        self.revision = self.revision.max(revision);
    }

    /// Each writer may have had one more write under way: it is absent or whole. Takes what is found.
    fn settle(&mut self, found: &BTreeMap<String, Bytes>) {
        for writer in 0..WRITERS {
            let own = format!("/{writer}/");
            let of = |keys: &BTreeMap<String, Bytes>| -> BTreeMap<String, Bytes> {
                keys.iter()
                    .filter(|(key, _)| key.starts_with(&own))
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect()
            };
            let found = of(found);
            if found == of(&self.keys) {
                // It may still have been a delete of nothing: that changes nothing, so it may be done again.
                continue;
            }
            let round = self.next[writer as usize];
            self.apply(writer, round);
            assert!(found == of(&self.keys), "writer {writer} in round {round}: lost, or by halves");
        }
    }
}

/// A clock that jumps between the lives of the process, in whole seconds.
fn start(dir: &Path, expected: &Expected, clock: Option<i64>) -> Child {
    let own = std::env::current_exe().expect("this binary");
    let mut command = match clock {
        Some(offset) => {
            let mut command = Command::new("unshare");
            command.arg("--time").args([
                "--monotonic",
                &offset.to_string(),
                "--boottime",
                &offset.to_string(),
            ]);
            command.arg(own);
            command
        }
        None => Command::new(own),
    };
    let from: Vec<String> = expected.next.iter().map(u64::to_string).collect();
    command
        .args(["kill::child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .env(FROM, from.join(","))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start")
}

/// Whether a process may have clocks of its own here.
fn clocks_can_jump() -> bool {
    let tried = Command::new("unshare").args(["--time", "--monotonic", "100000", "true"]).output();
    let can = tried.is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("skipped: jumping clocks need root and time namespaces");
    }
    can
}

#[tokio::test]
async fn a_killed_process_loses_nothing_acknowledged() {
    let kills: usize = std::env::var(KILLS).ok().and_then(|kills| kills.parse().ok()).unwrap_or(100);
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("data");
    let jumps = clocks_can_jump();
    let mut expected = Expected { revision: 1, ..Expected::default() };
    let began = Instant::now();
    for round in 0..kills {
        let clock = (jumps && round % 3 != 0).then(|| [90_000, 4_000_000, -1000][round / 3 % 3]);
        // A clock cannot be set before the machine's start.
        let clock = clock.filter(|offset| *offset > 0 || uptime() > Duration::from_secs(2000));
        let mut child = start(&dir, &expected, clock);
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let enough = 10 + round * 7919 % 400;
        let mut seen = 0;
        let mut said = Vec::new();
        while seen < enough {
            let Some(line) = lines.next() else { panic!("the child ended: {said:?}") };
            let line = line.expect("a line");
            if let Some(ack) = line.strip_prefix("ack ") {
                expected.acknowledge(ack);
                seen += 1;
            } else {
                said.push(line);
            }
        }
        if round % 10 == 5 {
            look_beside(&dir, &expected);
        }
        child.kill().expect("kill -9");
        // What it had acknowledged before it died counts too; its last line may be cut.
        for line in lines.map_while(Result::ok) {
            if let Some(ack) = line.strip_prefix("ack ") {
                expected.acknowledge(ack);
            }
        }
        child.wait().expect("wait");

        let looked = round % 2 == 0;
        let (found, revision) = if looked { look(&dir) } else { open(&dir).await };
        assert!(
            revision >= expected.revision,
            "acknowledged {} but the store is at {revision}",
            expected.revision
        );
        assert!(revision <= expected.revision + WRITERS + 1, "more writes than were asked for");
        expected.settle(&found);
        expected.revision = revision;
    }
    eprintln!("{kills} kills, revision {}, {:.1} s", expected.revision, began.elapsed().as_secs_f64());
}

fn uptime() -> Duration {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
    Duration::from_secs(seconds)
}

/// While the process writes: what was acknowledged before the look is in it.
fn look_beside(dir: &Path, expected: &Expected) {
    let (image, _) = Image::read(dir).expect("a look beside the running process");
    assert!(image.revision().0 >= expected.revision);
    assert_eq!(image.problems(), Vec::<String>::new());
}

fn look(dir: &Path) -> (BTreeMap<String, Bytes>, u64) {
    let (image, _) = Image::read(dir).expect("a look at what the kill left");
    assert_eq!(image.problems(), Vec::<String>::new());
    (image.prefix("/").map(|kv| (kv.key.to_string(), kv.value)).collect(), image.revision().0)
}

async fn open(dir: &Path) -> (BTreeMap<String, Bytes>, u64) {
    let looked = look(dir);
    let store = Embedded::open(dir, quick()).expect("opens by itself");
    let range = store.range(storage::RangeRequest::prefix("/")).await.expect("range");
    let found: BTreeMap<_, _> = range.kvs.into_iter().map(|kv| (kv.key.to_string(), kv.value)).collect();
    assert_eq!((&found, range.revision.0), (&looked.0, looked.1), "a look beside and an opening agree");
    // A lease lives by the monotonic clock, wherever that jumped: a long one does not end.
    (found, range.revision.0)
}

/// The process that restores and gets killed; does nothing in an ordinary run of the tests.
#[test]
fn restoring_child() {
    let Some(root) = std::env::var_os(RESTORES) else { return };
    let root = Path::new(&root);
    let backup = Image::read_backup(&root.join("backup")).expect("a backup");
    loop {
        let restored = backup.restore(&root.join("db"), 1, &mut |_| {}).expect("restore");
        if std::io::stderr().write_all(format!("restored {}\n", restored.revision).as_bytes()).is_err() {
            return;
        }
        // The test is about the new data; the old would fill the disk.
        let _ = std::fs::remove_dir_all(restored.aside.expect("there was data"));
    }
}

#[tokio::test]
async fn a_killed_restore_leaves_the_old_data_or_the_new() {
    let root = tempfile::tempdir().expect("a directory");
    let (db, backup) = (root.path().join("db"), root.path().join("backup"));
    let store = Embedded::open(&db, quick()).expect("open");
    for number in 0..200 {
        store.put(&format!("/{number}"), value(0, 0, 500), Expect::Any, None).await.expect("put");
    }
    drop(store);
    Image::read(&db).expect("read").0.write_backup(&backup, false, &mut |_| {}).expect("backup");
    for round in 0..20_u64 {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["kill::restoring_child", "--exact", "--nocapture", "--test-threads=1"])
            .env(RESTORES, root.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let told = |line: std::io::Result<String>| -> Option<u64> {
            line.ok()?.strip_prefix("restored ")?.parse().ok()
        };
        let told_first = lines.by_ref().find_map(told).expect("the child goes on");
        // Anywhere in the next one.
        std::thread::sleep(Duration::from_micros(round * 777 % 9000));
        child.kill().expect("kill -9");
        let last = lines.filter_map(told).last().unwrap_or(told_first);
        child.wait().expect("wait");
        let (image, _) = Image::read(&db).expect("whole at every moment");
        assert_eq!(image.len(), 200);
        assert!(
            image.revision().0 >= last && image.revision().0 <= last + 1,
            "{} after {last}",
            image.revision()
        );
        drop(Embedded::open(&db, quick()).expect("opens by itself"));
    }
}
