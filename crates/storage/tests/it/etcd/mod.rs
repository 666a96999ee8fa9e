//! The etcd backend on real etcd.

mod auth;
mod behaviour;
mod faults;
mod history;
mod partitions;
mod tls;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use storage::etcd::Options;
use storage::real_etcd::{self, RealEtcd, Setup};
use storage::{Etcd, Storage};

pub(crate) fn options(endpoints: Vec<String>) -> Options {
    Options { endpoints, ..Options::default() }
}

pub(crate) async fn open(etcd: &RealEtcd) -> Arc<Etcd> {
    Arc::new(etcd.open(Options::default()).await)
}

/// Three members that nothing happens to: a busy machine does not make them elect another leader. Not longer than
/// this, since no lease of etcd's is shorter than one and a half times as long.
fn steady(program: &Path, dir: &Path) -> RealEtcd {
    RealEtcd::with(program, dir, Setup { members: 3, election: Duration::from_secs(3), ..Setup::default() })
}

/// Runs the suite on an etcd that is emptied for each case.
async fn suite(etcd: &RealEtcd, options: Options) {
    storage::suite::run(|| async {
        let store = etcd.open(options.clone()).await;
        etcd.ctl(&[0], &["del", "", "--prefix"]);
        Arc::new(store) as Arc<dyn Storage>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_passes_the_suite() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    suite(&RealEtcd::start(&program, root.path(), 1, None), Options::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_passes_the_suite_without_recent_events() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let options = Options { recent_events: 3, ..Options::default() };
    suite(&RealEtcd::start(&program, root.path(), 1, None), options).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_pass_the_suite() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    suite(&steady(&program, root.path()), Options::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_etcd_release_passes_the_suite() {
    let Some(program) = real_etcd::other_program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    suite(&RealEtcd::start(&program, root.path(), 1, None), Options::default()).await;
}

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
