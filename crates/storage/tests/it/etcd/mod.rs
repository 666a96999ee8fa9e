//! The etcd backend on real etcd.

mod auth;
mod behaviour;
mod faults;
mod history;
mod tls;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use storage::etcd::Options;
use storage::real_etcd::{self, RealEtcd};
use storage::{Etcd, Storage};

pub(crate) fn options(endpoints: Vec<String>) -> Options {
    Options { endpoints, ..Options::default() }
}

pub(crate) async fn open(etcd: &RealEtcd) -> Arc<Etcd> {
    Arc::new(Etcd::open(options(etcd.endpoints())).await.expect("etcd answers"))
}

/// Runs the suite on an etcd of its own for each case.
async fn suite_on_fresh_members(program: &Path, change: impl Fn(&mut Options)) {
    let root = tempfile::tempdir().expect("a directory");
    let number = AtomicU32::new(0);
    let running = std::sync::Mutex::new(None);
    storage::suite::run(|| async {
        let dir = root.path().join(number.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir(&dir).expect("a directory");
        let etcd = RealEtcd::start(program, &dir, 1, None);
        let mut options = options(etcd.endpoints());
        change(&mut options);
        let store = Etcd::open(options).await.expect("etcd answers");
        *running.lock().expect("not poisoned") = Some(etcd);
        Arc::new(store) as Arc<dyn Storage>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_passes_the_suite() {
    let Some(program) = real_etcd::program() else { return };
    suite_on_fresh_members(&program, |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_passes_the_suite_without_recent_events() {
    let Some(program) = real_etcd::program() else { return };
    suite_on_fresh_members(&program, |options| options.recent_events = 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_pass_the_suite() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let etcd = RealEtcd::start(&program, root.path(), 3, None);
    etcd.leader();
    storage::suite::run(|| async {
        etcd.ctl(&[0], &["del", "", "--prefix"]);
        open(&etcd).await as Arc<dyn Storage>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_etcd_release_passes_the_suite() {
    let Some(program) = real_etcd::other_program() else { return };
    suite_on_fresh_members(&program, |_| {}).await;
}

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
