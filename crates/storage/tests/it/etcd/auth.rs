//! etcd's own users.

use storage::etcd::Options;
use storage::real_etcd::{self, RealEtcd};
use storage::suite::{events, put, value};
use storage::{Error, Etcd, Storage};

use super::{open, options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_logs_in_and_others_are_refused() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let etcd = RealEtcd::start(&program, root.path(), 1, None);
    drop(open(&etcd).await);
    etcd.ctl(&[0], &["user", "add", "root:hunter2"]);
    etcd.ctl(&[0], &["user", "grant-role", "root", "root"]);
    etcd.ctl(&[0], &["auth", "enable"]);
    let login = |password: &str| Options {
        login: Some(("root".into(), password.into())),
        ..options(etcd.endpoints())
    };
    let store = std::sync::Arc::new(etcd.open(login("hunter2")).await);
    let before = store.now().await.expect("now");
    let dynamic: std::sync::Arc<dyn Storage> = store.clone();
    let mut watch = store.watch("/a", before).await.expect("watch");
    put(&dynamic, "/a", "1").await;
    assert_eq!(value(&dynamic, "/a", None).await.as_deref(), Some("1"));
    assert_eq!(events(&mut watch, 1).await.len(), 1);
    let refusals = [(login("wrong"), "authentication failed"), (options(etcd.endpoints()), "none is set")];
    for (refused, why) in refusals {
        let error = Etcd::open(refused).await.err().expect("refused").to_string();
        assert!(error.contains(why) && !error.contains("hunter2"), "{error}");
    }
    let huge = store.put("/a", vec![0; 2 << 20].into(), storage::Expect::Any, None).await;
    assert!(matches!(huge, Err(Error::ValueTooLarge { .. })), "{huge:?}");
}
