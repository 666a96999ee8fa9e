//! Steps that know whether they are done, and doing those that are not.

use async_trait::async_trait;
use tracing::{debug, info};

/// One thing to be so on a host. Done again, it changes nothing.
#[async_trait]
pub trait Step: Send {
    /// What it is, in a few words (`certificates`).
    fn name(&self) -> &'static str;

    /// Whether there is nothing to do. Looks at the host, never at what was done before.
    async fn is_done(&self) -> bool;

    /// Makes it so. Answers what it changed, for people.
    async fn apply(&mut self) -> anyhow::Result<String>;
}

/// How far a [`run`] has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There was nothing to do.
    AlreadyDone(&'static str),
    /// It begins.
    Begins(&'static str),
    /// It is done; what it changed.
    Done(&'static str, String),
}

/// A step that failed. Those before it are done, those after it were not tried.
#[derive(Debug, thiserror::Error)]
#[error("{step} failed")]
pub struct StepError {
    /// Which one.
    pub step: &'static str,
    /// Why.
    #[source]
    pub source: anyhow::Error,
}

/// Does the steps that are not done, in order; stops at the first that fails.
pub async fn run(
    steps: Vec<Box<dyn Step>>,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<(), StepError> {
    for mut step in steps {
        let name = step.name();
        if step.is_done().await {
            debug!(step = name, "nothing to do");
            progress(Progress::AlreadyDone(name));
            continue;
        }
        progress(Progress::Begins(name));
        let changed = step.apply().await.map_err(|source| StepError { step: name, source })?;
        info!(step = name, changed, "step done");
        progress(Progress::Done(name, changed));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;

    struct Flag(&'static str, Arc<AtomicBool>, bool);

    #[async_trait]
    impl Step for Flag {
        fn name(&self) -> &'static str {
            self.0
        }

        async fn is_done(&self) -> bool {
            self.1.load(Ordering::SeqCst)
        }

        async fn apply(&mut self) -> anyhow::Result<String> {
            anyhow::ensure!(self.2, "broken");
            self.1.store(true, Ordering::SeqCst);
            Ok("set".into())
        }
    }

    #[tokio::test]
    async fn does_what_is_not_done_and_stops_at_the_first_failure() {
        let flags: Vec<_> = (0..3).map(|_| Arc::new(AtomicBool::new(false))).collect();
        let steps = |second: bool| -> Vec<Box<dyn Step>> {
            vec![
                Box::new(Flag("one", flags[0].clone(), true)),
                Box::new(Flag("two", flags[1].clone(), second)),
                Box::new(Flag("three", flags[2].clone(), true)),
            ]
        };
        let mut seen = Vec::new();
        let error = run(steps(false), |p| seen.push(p)).await.expect_err("the second fails");
        assert_eq!(error.step, "two");
        assert_eq!(
            seen,
            [Progress::Begins("one"), Progress::Done("one", "set".into()), Progress::Begins("two")]
        );
        assert!(!flags[2].load(Ordering::SeqCst));

        let mut seen = Vec::new();
        run(steps(true), |p| seen.push(p)).await.expect("all done");
        assert_eq!(seen[0], Progress::AlreadyDone("one"));
        let mut seen = Vec::new();
        run(steps(true), |p| seen.push(p)).await.expect("all done");
        assert_eq!(seen, ["one", "two", "three"].map(Progress::AlreadyDone));
    }
}
