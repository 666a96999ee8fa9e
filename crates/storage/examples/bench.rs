//! Prints how fast the embedded store is: `bench [DIRECTORY]`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use storage::{Embedded, Expect, Options, RangeRequest, Storage, WriteOutcome};

const VALUE: usize = 1024;
const ROUND: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = match std::env::args_os().nth(1) {
        Some(path) => tempfile::tempdir_in(path)?,
        None => tempfile::tempdir_in(".")?,
    };
    println!("durable writes of {VALUE} bytes");
    println!("{:>8} {:>10} {:>9} {:>9}", "clients", "writes/s", "p50 us", "p99 us");
    for clients in [1, 64, 256] {
        let store = Arc::new(Embedded::open(root.path().join(clients.to_string()), Options::default())?);
        let (rate, p50, p99) = writes(&store, clients).await?;
        println!("{clients:>8} {rate:>10.0} {p50:>9} {p99:>9}");
    }
    let path = root.path().join("scan");
    let store = Arc::new(Embedded::open(&path, Options::default())?);
    fill(&store, 100_000).await?;
    let began = Instant::now();
    let found = store.range(RangeRequest::prefix("/")).await?;
    println!("range of {} keys: {:.1} ms", found.kvs.len(), ms(began));
    let began = Instant::now();
    let counted = store.range(RangeRequest { count_only: true, ..RangeRequest::prefix("/") }).await?;
    println!("count of {} keys: {:.1} ms", counted.count, ms(began));
    let began = Instant::now();
    for at in 0..100_000 {
        store.get(&key(at), None).await?;
    }
    println!("point reads: {:.0}/s", 100_000.0 / began.elapsed().as_secs_f64());
    drop(store);
    let began = Instant::now();
    let store = Embedded::open(&path, Options::default())?;
    println!("opening with {} keys: {:.0} ms", store.stats().keys, ms(began));
    Ok(())
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

fn key(at: usize) -> String {
    format!("/registry/pods/default/pod-{at:07}")
}

async fn writes(
    store: &Arc<Embedded>,
    clients: usize,
) -> Result<(f64, u128, u128), Box<dyn std::error::Error>> {
    let began = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                while began.elapsed() < ROUND {
                    let asked = Instant::now();
                    let key = key(client * 1000 + took.len() % 1000);
                    match store.put(&key, Bytes::from(vec![7; VALUE]), Expect::Any, None).await {
                        Ok(WriteOutcome::Done(_)) => took.push(asked.elapsed().as_micros()),
                        other => return Err(format!("{other:?}")),
                    }
                }
                Ok(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await??);
    }
    let elapsed = began.elapsed().as_secs_f64();
    took.sort_unstable();
    Ok((took.len() as f64 / elapsed, took[took.len() / 2], took[took.len() * 99 / 100]))
}

async fn fill(store: &Arc<Embedded>, keys: usize) -> Result<(), Box<dyn std::error::Error>> {
    let tasks: Vec<_> = (0..64)
        .map(|part| {
            let store = store.clone();
            tokio::spawn(async move {
                for at in (part..keys).step_by(64) {
                    store.put(&key(at), Bytes::from(vec![7; VALUE]), Expect::Any, None).await?;
                }
                Ok::<_, storage::Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(())
}
