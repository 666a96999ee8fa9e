//! The load, the same for every store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use storage::{Expect, RangeRequest, Storage, WatchStream, WriteOutcome};

use crate::Outcome;

/// Bytes of a value.
pub const VALUE: usize = 1024;
/// Bytes of a value where there are many keys to read.
pub const SMALL: usize = 256;
const FILLERS: usize = 64;

/// How long writes took.
pub struct Took {
    pub rate: f64,
    pub p50: Duration,
    pub p99: Duration,
}

fn key(at: usize) -> String {
    format!("/registry/pods/default/pod-{at:07}")
}

async fn put(store: &Arc<dyn Storage>, key: &str, size: usize) -> Outcome<u64> {
    match store.put(key, Bytes::from(vec![b'7'; size]), Expect::Any, None).await? {
        WriteOutcome::Done(kv) => Ok(kv.mod_revision.0),
        other => Err(format!("{other:?}").into()),
    }
}

/// Runs tasks and collects what each of them gives.
async fn tasks<T, F>(count: usize, task: impl Fn(usize) -> F) -> Outcome<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Outcome<T>> + Send + 'static,
{
    let spawned: Vec<_> = (0..count).map(|number| tokio::spawn(task(number))).collect();
    try_join_all(spawned).await?.into_iter().collect()
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

/// Writers that each wait for their write before the next.
pub async fn writes(store: &Arc<dyn Storage>, writers: usize, round: Duration) -> Outcome<Took> {
    let began = Instant::now();
    let took = tasks(writers, |writer| {
        let store = store.clone();
        async move {
            let mut took = Vec::new();
            while began.elapsed() < round {
                let asked = Instant::now();
                put(&store, &key(writer * 1000 + took.len() % 1000), VALUE).await?;
                took.push(asked.elapsed());
            }
            Ok(took)
        }
    });
    let mut took: Vec<Duration> = took.await?.into_iter().flatten().collect();
    let elapsed = began.elapsed().as_secs_f64();
    took.sort_unstable();
    Ok(Took { rate: took.len() as f64 / elapsed, p50: percentile(&took, 50), p99: percentile(&took, 99) })
}

/// Makes keys.
pub async fn fill(store: &Arc<dyn Storage>, keys: usize, size: usize) -> Outcome<()> {
    tasks(FILLERS, |part| {
        let store = store.clone();
        async move {
            for at in (part..keys).step_by(FILLERS) {
                put(&store, &key(at), size).await?;
            }
            Ok(())
        }
    })
    .await
    .map(drop)
}

/// Overwrites keys in turn.
pub async fn overwrite(store: &Arc<dyn Storage>, keys: usize, updates: usize, from: usize) -> Outcome<()> {
    tasks(FILLERS, |part| {
        let store = store.clone();
        async move {
            for at in (part..updates).step_by(FILLERS) {
                put(&store, &key((from * updates + at) % keys), VALUE).await?;
            }
            Ok(())
        }
    })
    .await
    .map(drop)
}

/// Reads all keys; the time in the middle.
pub async fn range(store: &Arc<dyn Storage>, rounds: usize) -> Outcome<Duration> {
    let mut took = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        let found = store.range(RangeRequest::prefix("/registry/pods/")).await?;
        took.push(began.elapsed());
        if found.kvs.len() != 100_000 {
            return Err(format!("{} keys", found.kvs.len()).into());
        }
    }
    took.sort_unstable();
    Ok(percentile(&took, 50))
}

/// Readers of one key after the other.
pub async fn reads(store: &Arc<dyn Storage>, readers: usize, round: Duration) -> Outcome<f64> {
    let began = Instant::now();
    let counts = tasks(readers, |reader| {
        let store = store.clone();
        async move {
            let mut count = 0_usize;
            while began.elapsed() < round {
                store.get(&key((reader * 1_009 + count * 7) % 100_000), None).await?;
                count += 1;
                if count.is_multiple_of(64) {
                    tokio::task::yield_now().await;
                }
            }
            Ok(count)
        }
    });
    Ok(counts.await?.iter().sum::<usize>() as f64 / began.elapsed().as_secs_f64())
}

async fn until(watch: &mut WatchStream, revision: u64) -> Outcome<()> {
    loop {
        let batch = watch.next_batch().await.ok_or("the watch ended")??;
        if batch.events.last().is_some_and(|event| event.revision.0 >= revision) {
            return Ok(());
        }
    }
}

/// From asking for a write to its event.
pub async fn watch_latency(store: &Arc<dyn Storage>, writes: usize) -> Outcome<(Duration, Duration)> {
    let mut watch = store.watch("/registry/pods/", store.now().await?).await?;
    let mut took = Vec::new();
    for number in 0..writes {
        let began = Instant::now();
        let revision = put(store, &key(number), SMALL).await?;
        until(&mut watch, revision).await?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    Ok((percentile(&took, 50), percentile(&took, 99)))
}

/// Events delivered a second, to all watches together.
pub async fn fan_out(store: &Arc<dyn Storage>, watches: usize, writes: usize) -> Outcome<f64> {
    let from = store.now().await?;
    let mut readers = Vec::new();
    for _ in 0..watches {
        let mut watch = store.watch("/registry/pods/", from).await?;
        readers.push(tokio::spawn(async move {
            let mut seen = 0;
            while seen < writes {
                seen += watch.next_batch().await.ok_or("the watch ended")??.events.len();
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(seen)
        }));
    }
    let began = Instant::now();
    for number in 0..writes {
        put(store, &key(number), SMALL).await?;
    }
    let mut seen = 0;
    for reader in readers {
        seen += reader.await??;
    }
    Ok(seen as f64 / began.elapsed().as_secs_f64())
}
