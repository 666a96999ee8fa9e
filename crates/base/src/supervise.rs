//! Tasks that are started again when they fail.
use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Chain;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A task that ran this long has recovered: its next failure pauses briefly again.
const RECOVERED: Duration = Duration::from_secs(60);

/// How a supervised task is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// It failed with this and is about to be started again.
    Failed(String),
    /// It ended because it was asked to.
    Stopped,
}

/// A task that is started again when it fails.
pub struct Supervised {
    name: &'static str,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Supervised {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How it is doing.
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A handle that tells how it is doing, for those who do not own it.
    pub fn watch(&self) -> impl Fn() -> State + Send + Sync + use<> {
        let state = self.state.clone();
        move || state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for its end after a stop.
    pub async fn ended(self) {
        let _ = self.task.await;
    }
}

/// Runs `work` until `stop` fires. What fails or panics is logged and started again, after a pause that grows with
/// repetition.
pub fn supervise<W, F, E>(name: &'static str, stop: CancellationToken, mut work: W) -> Supervised
where
    W: FnMut(CancellationToken) -> F + Send + 'static,
    F: Future<Output = Result<(), E>> + Send,
    E: Error + Send + 'static,
{
    let state = Arc::new(Mutex::new(State::Running));
    let shared = state.clone();
    let task = tokio::spawn(async move {
        let set = |state: State| *shared.lock().unwrap_or_else(PoisonError::into_inner) = state;
        let mut pause = FIRST_PAUSE;
        while !stop.is_cancelled() {
            set(State::Running);
            let began = Instant::now();
            let result = AssertUnwindSafe(work(stop.child_token())).catch_unwind().await;
            if stop.is_cancelled() {
                break;
            }
            let why = match result {
                Ok(Ok(())) => "it ended".to_owned(),
                Ok(Err(e)) => Chain(&e).to_string(),
                Err(_) => "it panicked; this is a bug".to_owned(),
            };
            if began.elapsed() > RECOVERED {
                pause = FIRST_PAUSE;
            }
            tracing::error!(part = name, why, again_in = ?pause, "a part failed");
            set(State::Failed(why));
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        set(State::Stopped);
    });
    Supervised { name, state, task }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_started_again_until_the_stop() {
        let runs = Arc::new(AtomicU32::new(0));
        let stop = CancellationToken::new();
        let (counted, until) = (runs.clone(), stop.clone());
        let task = supervise("test", stop.clone(), move |token| {
            let n = counted.fetch_add(1, Ordering::SeqCst);
            let until = until.clone();
            async move {
                match n {
                    0 => return Err(std::io::Error::other("first")),
                    1 => panic!("second"),
                    _ => until.cancel(),
                }
                token.cancelled().await;
                Ok(())
            }
        });
        task.ended().await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }
}
