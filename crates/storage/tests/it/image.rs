//! Backups, restores, looks beside a running store, and moves between stores.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use storage::copy::{self, CopyError, Plan};
use storage::{
    Embedded, Error, Expect, Image, KeyValue, OpenError, Options, RangeRequest, Revision, Storage,
    WriteOutcome,
};

use crate::quick;

async fn put(store: &dyn Storage, key: &str, value: &str, lease: Option<storage::LeaseId>) -> KeyValue {
    match store.put(key, Bytes::copy_from_slice(value.as_bytes()), Expect::Any, lease).await {
        Ok(WriteOutcome::Done(kv)) => kv,
        other => panic!("{other:?}"),
    }
}

async fn all(store: &dyn Storage) -> Vec<KeyValue> {
    store.range(RangeRequest::default()).await.expect("range").kvs
}

/// Writes keys, some twice, some deleted again, one with a lease.
async fn filled(dir: &Path, options: Options) -> Embedded {
    let store = Embedded::open(dir, options).expect("open");
    for round in 0..30 {
        put(&store, &format!("/registry/pods/{}", round * 7 % 20), &format!("{round}"), None).await;
    }
    store.delete("/registry/pods/3", Expect::Any).await.expect("delete");
    let lease = store.grant(Duration::from_secs(3600)).await.expect("grant");
    put(&store, "/registry/events/a", "e", Some(lease)).await;
    store
}

fn quiet() -> impl FnMut(u64) + Send {
    |_| {}
}

#[tokio::test]
async fn a_backup_of_a_running_store_restores_all_of_it() {
    let root = tempfile::tempdir().expect("a directory");
    let (dir, file) = (root.path().join("db"), root.path().join("backup"));
    let store = filled(&dir, Options { snapshot_bytes: 600, ..quick() }).await;
    let (before, revision) = (all(&store).await, store.stats().revision);
    let (image, survey) = Image::read(&dir).expect("a look beside the running store");
    assert_eq!((image.revision(), image.len()), (revision, before.len() as u64));
    assert_eq!(image.prefix("").collect::<Vec<_>>(), before);
    assert_eq!(image.leases().len(), 1);
    assert_eq!((survey.format, survey.unfinished_bytes), (2, 0));
    let mut told = 0;
    image.write_backup(&file, false, &mut |keys| told = keys).expect("backup");
    assert_eq!(told, before.len() as u64);
    assert_eq!(fs::metadata(&file).expect("metadata").permissions().mode() & 0o777, 0o600);
    assert!(
        matches!(image.write_backup(&file, false, &mut quiet()), Err(OpenError::Io { .. })),
        "a backup is not written over"
    );
    image.write_backup(&file, true, &mut quiet()).expect("unless asked for");
    put(&store, "/registry/pods/0", "later", None).await;

    let backup = Image::read_backup(&file).expect("whole");
    let refused = backup.restore(&dir, 1000, &mut quiet());
    assert!(matches!(refused, Err(OpenError::Locked { .. })), "a running store is not replaced");
    let last = store.stats().revision;
    drop(store);
    let restored = backup.restore(&dir, 1000, &mut quiet()).expect("restore");
    assert_eq!((restored.revision, restored.before), (Revision(last.0 + 1000), Some(last)));
    let aside = restored.aside.expect("the old data is kept");
    assert_eq!(Image::read(&aside).expect("the old data").0.revision(), last);

    let store = Embedded::open(&dir, quick()).expect("open the restored");
    assert_eq!(all(&store).await, before);
    assert_eq!(store.now().await.expect("now"), restored.revision);
    // Whoever watched or listed the old store is told to begin anew.
    for known in [revision, last, Revision(restored.revision.0 - 1)] {
        assert!(matches!(store.watch("/", known).await, Err(Error::Compacted { .. })), "{known}");
    }
    let kv = put(&store, "/registry/pods/0", "new", None).await;
    assert_eq!(kv.mod_revision, Revision(restored.revision.0 + 1));
    let lease = before.iter().find_map(|kv| kv.lease).expect("a lease");
    let lease = store.lease(lease).await.expect("the lease is kept");
    assert!(lease.left <= Duration::from_secs(3600) && lease.left > Duration::from_secs(3000), "{lease:?}");
    let names: Vec<_> =
        fs::read_dir(root.path()).expect("list").map(|entry| entry.expect("entry").file_name()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

#[tokio::test]
async fn restores_go_on_above_everything_known() {
    let root = tempfile::tempdir().expect("a directory");
    let (dir, file) = (root.path().join("db"), root.path().join("backup"));
    drop(filled(&dir, quick()).await);
    Image::read(&dir).expect("read").0.write_backup(&file, false, &mut quiet()).expect("backup");
    let image = Image::read_backup(&file).expect("whole");
    let first = image.restore(&dir, 10, &mut quiet()).expect("restore");
    let second = image.restore(&dir, 10, &mut quiet()).expect("restore again");
    assert_eq!(second.revision.0, first.revision.0 + 10);
    assert_ne!(first.aside, second.aside);
    // Damage in the old data is no reason not to restore, but what it was at is not known then.
    fs::write(dir.join("0000000000000001.snapshot"), "damaged").expect("write");
    let third = image.restore(&dir, 1_000_000, &mut quiet()).expect("restore over damage");
    assert_eq!((third.before, third.revision.0), (None, image.revision().0 + 1_000_000));
    let elsewhere = root.path().join("new");
    let fresh = image.restore(&elsewhere, 5, &mut quiet()).expect("restore where nothing is");
    assert_eq!((fresh.before, fresh.aside), (None, None));
    Embedded::open(&elsewhere, quick()).expect("open");
}

#[tokio::test]
async fn a_restore_that_was_killed_is_begun_anew() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("db");
    drop(filled(&dir, quick()).await);
    let image = Image::read(&dir).expect("read").0;
    let half = root.path().join("db.restoring");
    fs::create_dir(&half).expect("create");
    fs::write(half.join("0000000000000001.log"), "half").expect("write");
    image.restore(&dir, 1, &mut quiet()).expect("restore");
    assert!(!half.exists());
}

#[tokio::test]
async fn a_damaged_backup_is_refused() {
    let root = crate::memory();
    let (dir, file) = (root.path().join("db"), root.path().join("backup"));
    drop(filled(&dir, quick()).await);
    Image::read(&dir).expect("read").0.write_backup(&file, false, &mut quiet()).expect("backup");
    let whole = fs::read(&file).expect("read");
    for cut in 0..whole.len() {
        fs::write(&file, &whole[..cut]).expect("write");
        let error = Image::read_backup(&file).expect_err("cut");
        assert!(
            matches!(error, OpenError::NoBackup { .. } | OpenError::DamagedBackup { .. }),
            "cut at {cut}: {error}"
        );
    }
    for offset in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[offset] ^= 0x10;
        fs::write(&file, &damaged).expect("write");
        Image::read_backup(&file).expect_err("damaged");
    }
    let mut newer = whole.clone();
    newer[8] = 77;
    fs::write(&file, &newer).expect("write");
    let error = Image::read_backup(&file).expect_err("of another version");
    assert!(error.to_string().contains("format version 77, this program reads versions 1 to 2"), "{error}");
    fs::write(&file, [&whole[..], b"more"].concat()).expect("write");
    Image::read_backup(&file).expect_err("something follows");
    // A data file is no backup.
    let log = dir.join("0000000000000001.log");
    assert!(matches!(Image::read_backup(&log), Err(OpenError::NoBackup { .. })));
}

/// Made by the first version of the program, which was killed while it wrote.
#[tokio::test]
async fn data_of_the_first_version_is_migrated() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("db");
    fs::create_dir(&dir).expect("create");
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/format-1");
    for entry in fs::read_dir(old).expect("list") {
        let entry = entry.expect("entry");
        fs::copy(entry.path(), dir.join(entry.file_name())).expect("copy");
    }
    let (image, survey) = Image::read(&dir).expect("read without migrating");
    assert_eq!(survey.format, 1);
    let before: Vec<_> = image.prefix("").collect();
    assert_eq!((image.revision().0, before.len()), (V1_REVISION, 20));
    // Twice: what was migrated opens as well.
    for round in 0..2 {
        let store = Embedded::open(&dir, quick()).expect("open");
        assert_eq!(fs::read_to_string(dir.join("FORMAT")).expect("read"), "coxswain-storage 2\n");
        assert_eq!(store.stats().revision.0, V1_REVISION + round);
        let mut found = all(&store).await;
        found.retain(|kv| &*kv.key != "/new");
        assert_eq!(found, before);
        put(&store, "/new", "x", None).await;
    }
    let store = Embedded::open(&dir, quick()).expect("open");
    store.snapshot().await.expect("a snapshot");
    drop(store);
    let (image, survey) = Image::read(&dir).expect("read");
    assert_eq!((image.revision().0, survey.format, survey.files.len()), (V1_REVISION + 2, 2, 2));
}

const V1_REVISION: u64 = 387;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looks_beside_a_busy_store_are_whole() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("db");
    // Files come and go all the time.
    let options = Options { snapshot_bytes: 2000, ..quick() };
    let store = Arc::new(Embedded::open(&dir, options).expect("open"));
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            let mut round = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                // The two are written together often, never apart by more than one.
                put(&*store, "/a", &round.to_string(), None).await;
                put(&*store, "/b", &round.to_string(), None).await;
                round += 1;
            }
        }
    });
    let mut last = Revision(0);
    for _ in 0..60 {
        let acknowledged = store.stats().revision;
        let (image, _) = Image::read(&dir).expect("a look");
        assert!(image.revision() >= acknowledged && image.revision() >= last);
        last = image.revision();
        let number = |key| -> Option<u64> { String::from_utf8_lossy(&image.get(key)?.value).parse().ok() };
        if let (Some(a), Some(b)) = (number("/a"), number("/b")) {
            assert!(a == b || a == b + 1, "{a} and {b}");
        }
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.expect("no panic");
}

fn refuse() -> Plan {
    Plan { replace: false, raise: Some(10_000), above: Revision(0) }
}

#[tokio::test]
async fn a_copy_keeps_objects_order_and_leases() {
    let root = tempfile::tempdir().expect("a directory");
    let source = filled(&root.path().join("from"), quick()).await;
    let image = copy::read(&source, &mut quiet()).await.expect("read");
    let target: Arc<dyn Storage> = Arc::new(Embedded::open(root.path().join("to"), quick()).expect("open"));
    let written = copy::write(&image, &target, refuse(), &mut quiet()).await.expect("write");
    let (old, new) = (all(&source).await, all(&*target).await);
    assert_eq!((written.keys, written.leases), (old.len() as u64, 1));
    let in_order = |kvs: &[KeyValue]| {
        let mut kvs: Vec<_> = kvs.to_vec();
        kvs.sort_by_key(|kv| kv.mod_revision);
        kvs.into_iter().map(|kv| (kv.key.to_string(), kv.value)).collect::<Vec<_>>()
    };
    assert_eq!(in_order(&old), in_order(&new));
    assert!(target.now().await.expect("now") >= source.now().await.expect("now"), "revisions do not go back");
    let leased =
        |kvs: &[KeyValue]| kvs.iter().find(|kv| kv.lease.is_some()).map(|kv| (kv.key.clone(), kv.lease));
    let (key, lease) = leased(&new).expect("a lease");
    assert_eq!(&*key, "/registry/events/a");
    let lease = target.lease(lease.expect("a lease")).await.expect("lease");
    assert!(lease.left <= Duration::from_secs(3600) && lease.left > Duration::from_secs(3000), "{lease:?}");
}

#[tokio::test]
async fn a_copy_into_a_store_with_keys_is_refused_or_replaces_them() {
    let root = tempfile::tempdir().expect("a directory");
    let source = filled(&root.path().join("from"), quick()).await;
    let image = copy::read(&source, &mut quiet()).await.expect("read");
    let target: Arc<dyn Storage> = Arc::new(Embedded::open(root.path().join("to"), quick()).expect("open"));
    put(&*target, "/registry/old", "old", None).await;
    let before = put(&*target, "/registry/pods/0", "old", None).await;
    let error = copy::write(&image, &target, refuse(), &mut quiet()).await.expect_err("not empty");
    assert!(
        matches!(&error, CopyError::NotEmpty { keys: 2, example } if &**example == "/registry/old"),
        "{error}"
    );
    assert_eq!(target.now().await.expect("now"), before.mod_revision, "nothing was written");
    let plan = Plan { replace: true, ..refuse() };
    let written = copy::write(&image, &target, plan, &mut quiet()).await.expect("write");
    assert_eq!((written.keys, written.removed), (image.len(), 1));
    assert_eq!(all(&*target).await.len() as u64, image.len());
    let far = Image::of(Revision(5_000_000), image.prefix("").collect(), Vec::new());
    let empty: Arc<dyn Storage> = Arc::new(Embedded::open(root.path().join("empty"), quick()).expect("open"));
    let error = copy::write(&far, &empty, refuse(), &mut quiet()).await.expect_err("too far");
    assert!(matches!(error, CopyError::TooFar { gap: 4_999_999, .. }), "{error}");
    let plan = Plan { raise: None, ..refuse() };
    let written = copy::write(&far, &empty, plan, &mut quiet()).await.expect("unless it is wanted so");
    assert_eq!(written.raised, 0);
}
