//! Prints how fast the embedded store is, and etcd beside it on the same disk: `bench [FLAGS]`, see `--help`.
//!
//! Both are measured through the same trait with the same load: the embedded store in this process, as an API server
//! has it, etcd as one member on loopback without TLS, through the client an API server uses.

mod load;
mod places;
mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use storage::Storage;

use crate::places::{Local, Place, Server};
use crate::table::Table;

const HELP: &str = "bench [--dir DIR] [--etcd PATH | --no-etcd] [--seconds N] [--objects N] [--updates N]

  --dir DIR      where data is kept meanwhile: a disk, or syncing costs nothing (.)
  --etcd PATH    the etcd to compare with (etcd, where it is on the PATH)
  --no-etcd      no comparison
  --seconds N    for each number of writers (3)
  --objects N    for recovery and memory (100000); the full measurement takes 1000000
  --updates N    for disk use (200000); the full measurement takes 10000000";

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

struct Flags {
    dir: PathBuf,
    etcd: Option<PathBuf>,
    round: Duration,
    objects: usize,
    updates: usize,
}

fn flags() -> Outcome<Flags> {
    let mut flags = Flags {
        dir: ".".into(),
        etcd: Some("etcd".into()),
        round: Duration::from_secs(3),
        objects: 100_000,
        updates: 200_000,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        match word.as_str() {
            "--dir" => flags.dir = value()?.into(),
            "--etcd" => flags.etcd = Some(value()?.into()),
            "--no-etcd" => flags.etcd = None,
            "--seconds" => flags.round = Duration::from_secs(value()?.parse()?),
            "--objects" => flags.objects = value()?.parse()?,
            "--updates" => flags.updates = value()?.parse()?,
            "--help" => {
                println!("{HELP}");
                std::process::exit(0);
            }
            other => return Err(format!("unknown flag {other}\n{HELP}").into()),
        }
    }
    Ok(flags)
}

fn main() -> Outcome<()> {
    // The process whose memory is measured opens a store and says what that took.
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, dir] = words.as_slice()
        && word == places::RECOVER
    {
        return places::recover(dir.as_ref());
    }
    let flags = flags()?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure(&flags))
}

async fn measure(flags: &Flags) -> Outcome<()> {
    let root = tempfile::Builder::new().prefix("storage-bench-").tempdir_in(&flags.dir)?;
    let mut table = Table::default();
    all(&Local::new(root.path()), flags, table.column(0)).await?;
    match &flags.etcd {
        Some(binary) => match Server::new(binary, root.path()) {
            Ok(server) => all(&server, flags, table.column(1)).await?,
            Err(error) => eprintln!("bench: no etcd: {error}"),
        },
        None => eprintln!("bench: no etcd, as asked for"),
    }
    print!("{}", table.markdown());
    Ok(())
}

/// Every row, for one kind of store.
async fn all(place: &dyn Place, flags: &Flags, mut rows: table::Column<'_>) -> Outcome<()> {
    for writers in [1, 16, 64, 256, 1000] {
        let store = place.fresh().await?;
        let took = load::writes(&store, writers, flags.round).await?;
        rows.rate(&format!("durable writes of 1 KB, {writers} writers"), took.rate, "/s");
        rows.time(&format!("… p50, {writers} writers"), took.p50);
        rows.time(&format!("… p99, {writers} writers"), took.p99);
    }

    let store = place.fresh().await?;
    load::fill(&store, 100_000, load::SMALL).await?;
    rows.time("range of 100,000 keys", load::range(&store, 5).await?);
    rows.rate("point reads, 1 reader", load::reads(&store, 1, flags.round).await?, "/s");
    rows.rate("point reads, 64 readers", load::reads(&store, 64, flags.round).await?, "/s");

    let (p50, p99) = load::watch_latency(&store, 2000).await?;
    rows.time("write to event, p50", p50);
    rows.time("write to event, p99", p99);
    rows.rate("events to 1,000 watches of one prefix", load::fan_out(&store, 1000, 500).await?, "/s");
    drop(store);

    let store = place.fresh().await?;
    load::fill(&store, flags.objects, load::VALUE).await?;
    drop(store);
    let found = place.reopen().await?;
    let objects = flags.objects;
    rows.time(&format!("start with {objects} objects of 1 KB"), found.took);
    rows.size(&format!("memory with {objects} objects of 1 KB"), found.memory);

    let store = place.fresh().await?;
    let began = Instant::now();
    let most = updates(place, &store, flags.updates).await?;
    let updates = flags.updates;
    rows.size(&format!("disk, most during {updates} updates of 10,000 objects"), most);
    rows.size("… at the end", place.disk()?);
    rows.rate("… updates while compacting, 64 writers", updates as f64 / began.elapsed().as_secs_f64(), "/s");
    Ok(())
}

/// Overwrites objects again and again, with ten compactions on the way; tells the most disk that was seen.
async fn updates(place: &dyn Place, store: &Arc<dyn Storage>, updates: usize) -> Outcome<u64> {
    let mut most = 0;
    for part in 0..10 {
        load::overwrite(store, 10_000, updates / 10, part).await?;
        store.compact(store.now().await?).await?;
        most = most.max(place.disk()?);
    }
    Ok(most)
}
