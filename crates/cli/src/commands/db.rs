//! `cox db`: looks into a store.
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use storage::{Embedded, Image, KeyValue, Options, RangeRequest, Revision, Storage, copy};

use super::hosts_store;
use super::store::{Local, Meter, Place, Remote, Target, blocking};
use crate::output::{Failure, note, print, print_json};

/// Keys read from etcd at a time.
const PAGE: usize = 500;
/// Where Secrets are.
const SECRETS: &str = "/registry/secrets/";
/// What encrypted values begin with.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// `cox db`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  cox db stats\n  cox db check\n  cox db list /registry/pods/default/\n  \
    cox db get /registry/configmaps/kube-system/coredns\n  cox db check --backup /backup/monday.cox\n\n\
    All but `compact` work beside a running cluster and change nothing."
)]
pub struct Db {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs of `cox db`.
#[derive(Subcommand, Clone, Debug)]
pub enum Verb {
    /// Reads everything and tells whether it is whole (exit code 0) or not (1).
    #[command(after_help = "Examples:\n  cox db check\n  cox db check --backup /backup/monday.cox")]
    Check {
        /// A backup, in place of a store.
        #[arg(long, value_name = "BACKUP", conflicts_with_all = ["db", "etcd_servers"])]
        backup: Option<PathBuf>,
        /// Which store.
        #[command(flatten)]
        target: Target,
    },
    /// Gives up the history of a stopped store, or of an etcd; a running cluster does so by itself.
    #[command(
        after_help = "Examples:\n  cox down && cox db compact\n  cox db compact --etcd-servers http://127.0.0.1:2379"
    )]
    Compact {
        /// Which store.
        #[command(flatten)]
        target: Target,
    },
    /// Makes writes that change nothing until an etcd has come to a revision, and gives up the history before: who
    /// watched it is told to list anew.
    #[command(hide = true)]
    Raise {
        /// By how many at least.
        by: u64,
        /// Which store.
        #[command(flatten)]
        target: Target,
    },
    /// Tells how much there is: revision, keys and bytes by resource, disk.
    #[command(after_help = "Examples:\n  cox db stats\n  cox db stats -o json")]
    Stats {
        /// Which store.
        #[command(flatten)]
        target: Target,
    },
    /// Prints the value of a key as it is stored.
    #[command(
        after_help = "Examples:\n  cox db get /registry/pods/default/web-0\n  cox db get /registry/secrets/default/token --show-secrets\n\n\
        The bytes are those in the store: JSON, or encrypted. A Secret that is not encrypted is shown only when asked for."
    )]
    Get {
        /// The key.
        key: String,
        /// Shows Secrets that are stored without encryption.
        #[arg(long)]
        show_secrets: bool,
        /// Which store.
        #[command(flatten)]
        target: Target,
    },
    /// Lists the keys that begin with a prefix.
    #[command(after_help = "Examples:\n  cox db list\n  cox db list /registry/secrets/ --limit 20")]
    List {
        /// The prefix.
        #[arg(default_value = "/registry/")]
        prefix: String,
        /// At most so many; 0: all.
        #[arg(long, default_value_t = 0)]
        limit: usize,
        /// Which store.
        #[command(flatten)]
        target: Target,
    },
}

impl Verb {
    /// The store it is about, if it is about one.
    fn store(&self) -> Option<&Target> {
        match self {
            Self::Check { backup: Some(_), .. } => None,
            Self::Check { target, .. }
            | Self::Compact { target }
            | Self::Raise { target, .. }
            | Self::Stats { target }
            | Self::Get { target, .. }
            | Self::List { target, .. } => Some(target),
        }
    }

    /// The words that say the same elsewhere, but for the store.
    fn words(&self) -> Vec<String> {
        let mut words = vec!["db".to_owned()];
        match self {
            Self::Check { .. } => words.push("check".into()),
            Self::Compact { .. } => words.push("compact".into()),
            Self::Raise { by, .. } => words.extend(["raise".into(), by.to_string()]),
            Self::Stats { .. } => words.push("stats".into()),
            Self::Get { key, show_secrets, .. } => {
                words.extend(["get".into(), key.clone()]);
                words.extend(show_secrets.then(|| "--show-secrets".into()));
            }
            Self::List { prefix, limit, .. } => {
                words.extend(["list".into(), prefix.clone(), format!("--limit={limit}")]);
            }
        }
        words
    }
}

/// `cox db`.
pub async fn db(options: Db, as_json: bool) -> Result<ExitCode, Failure> {
    if let Some(target) = options.verb.store()
        && let Some(cluster) = hosts_store::cluster_of(target)?
    {
        let words = options.verb.words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        return hosts_store::pass_on(&cluster, &words, as_json).await;
    }
    match options.verb {
        Verb::Raise { by, target } => raise(by, &target, as_json).await,
        Verb::Check { backup, target } => check(backup, &target, as_json).await,
        Verb::Compact { target } => compact(&target, as_json).await,
        Verb::Stats { target } => stats(&target, as_json).await,
        Verb::Get { key, show_secrets, target } => get(&key, show_secrets, &target, as_json).await,
        Verb::List { prefix, limit, target } => list(&prefix, limit, &target, as_json).await,
    }
}

async fn check(file: Option<PathBuf>, target: &Target, as_json: bool) -> Result<ExitCode, Failure> {
    let (image, what) = match file {
        Some(file) => {
            let what = file.display().to_string();
            (blocking(move || Image::read_backup(&file)).await?.map_err(|e| Failure::of(&e))?, what)
        }
        None => everything(target, as_json).await?,
    };
    let (image, problems) = blocking(move || {
        let problems = image.problems();
        (image, problems)
    })
    .await?;
    let healthy = problems.is_empty();
    if as_json {
        print_json(&json!({
            "store": what,
            "healthy": healthy,
            "revision": image.revision().0,
            "keys": image.len(),
            "problems": problems,
        }))?;
    } else {
        let mut text = String::new();
        for problem in &problems {
            let _ = writeln!(text, "{problem}");
        }
        let verdict =
            if healthy { "is whole".to_owned() } else { format!("has {} problems", problems.len()) };
        let _ = writeln!(text, "{what} {verdict}: {} keys at revision {}.", image.len(), image.revision());
        print(&text)?;
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All keys of a store, and what it is called.
async fn everything(target: &Target, quiet: bool) -> Result<(Image, String), Failure> {
    match target.place()? {
        Place::Local(local) => Ok((local.image().await?.0, local.db.display().to_string())),
        Place::Etcd(Remote { flags, .. }) => {
            let store = flags.open().await?;
            let meter = Meter::new("reading keys", 0, quiet);
            let image = copy::read(&*store, &mut |keys| meter.at(keys)).await.map_err(|e| Failure::of(&e))?;
            meter.end();
            Ok((image, flags.name()))
        }
    }
}

async fn compact(target: &Target, as_json: bool) -> Result<ExitCode, Failure> {
    let (what, revision, disk) = match target.place()? {
        Place::Local(local) => {
            let held = local.hold()?;
            let before = local.image().await?.1.disk_bytes;
            let revision = compact_local(&local).await?;
            let after = local.image().await?.1.disk_bytes;
            drop(held);
            (local.db.display().to_string(), revision, Some((before, after)))
        }
        Place::Etcd(Remote { flags, .. }) => {
            let store = flags.open().await?;
            let compacted = async {
                let now = store.now().await?;
                store.compact(now).await.map(|()| now)
            };
            (flags.name(), compacted.await.map_err(|e| Failure::of(&e))?, None)
        }
    };
    if as_json {
        print_json(&json!({
            "store": what,
            "compactedTo": revision.0,
            "diskBytesBefore": disk.map(|disk| disk.0),
            "diskBytes": disk.map(|disk| disk.1),
        }))?;
    } else {
        let mut text = format!("{what} has no history before revision {revision}.\n");
        if let Some((before, after)) = disk {
            let _ = writeln!(text, "It took {} on disk and takes {}.", size(before), size(after));
        }
        print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn raise(by: u64, target: &Target, as_json: bool) -> Result<ExitCode, Failure> {
    let Place::Etcd(Remote { flags, .. }) = target.place()? else {
        return Err(Failure::new("an embedded store's revision is raised by `cox restore`", ""));
    };
    let store = flags.open().await?;
    let now = store.now().await.map_err(|e| Failure::of(&e))?;
    let to = Revision(now.0.saturating_add(by));
    let meter = Meter::new("empty writes", by, as_json);
    copy::raise(&store, to, 0, &mut |writes| meter.at(writes)).await.map_err(|e| Failure::of(&e))?;
    meter.end();
    let now = store.now().await.map_err(|e| Failure::of(&e))?;
    if as_json {
        print_json(&json!({ "store": flags.name(), "revision": now.0 }))?;
    } else {
        print(&format!("{} is at revision {now}.\n", flags.name()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn compact_local(local: &Local) -> Result<Revision, Failure> {
    let db = local.db.clone();
    let opened = blocking(move || Embedded::open(&db, Options::default())).await?;
    let store = Arc::new(opened.map_err(|e| local.failure(&e))?);
    let work = async {
        let now = store.now().await?;
        store.compact(now).await?;
        store.snapshot().await.map(|()| now)
    };
    let done = work.await.map_err(|e| Failure::of(&e));
    blocking(move || store.close()).await?;
    done
}

/// How much there is of a resource.
#[derive(Default)]
struct Share {
    keys: u64,
    bytes: u64,
    encrypted: u64,
}

fn shares(image: &Image) -> BTreeMap<String, Share> {
    let mut shares: BTreeMap<String, Share> = BTreeMap::new();
    for kv in image.prefix("") {
        let share = shares.entry(resource(&kv.key).to_owned()).or_default();
        share.keys += 1;
        share.bytes += (kv.key.len() + kv.value.len()) as u64;
        share.encrypted += u64::from(kv.value.starts_with(ENCRYPTED));
    }
    shares
}

/// The part of a key that names its resource: `/registry/pods`, `/registry/apps.example.com/widgets`.
fn resource(key: &str) -> &str {
    let mut slashes = key.match_indices('/').map(|(at, _)| at).skip(2);
    let Some(first) = slashes.next() else { return key };
    // A group's name has dots, a built-in resource's has none.
    let head = &key[..first];
    let is_group = head.rsplit('/').next().is_some_and(|name| name.contains('.'));
    match slashes.next() {
        Some(second) if is_group => &key[..second],
        _ => head,
    }
}

async fn stats(target: &Target, as_json: bool) -> Result<ExitCode, Failure> {
    let (image, survey, what) = match target.place()? {
        Place::Local(local) => {
            let (image, survey) = local.image().await?;
            (image, Some(survey), local.db.display().to_string())
        }
        Place::Etcd(_) => {
            let (image, what) = everything(target, as_json).await?;
            (image, None, what)
        }
    };
    let shares = shares(&image);
    let bytes: u64 = shares.values().map(|share| share.bytes).sum();
    if as_json {
        let resources: Vec<Value> = shares
            .iter()
            .map(|(name, s)| json!({ "prefix": name, "keys": s.keys, "bytes": s.bytes, "encrypted": s.encrypted }))
            .collect();
        let files = survey.as_ref().map(|survey| {
            let files = survey.files.iter().map(|(path, bytes)| json!({ "path": path, "bytes": bytes }));
            json!({
                "format": survey.format,
                "diskBytes": survey.disk_bytes,
                "unfinishedBytes": survey.unfinished_bytes,
                "files": files.collect::<Vec<_>>(),
            })
        });
        print_json(&json!({
            "store": what,
            "revision": image.revision().0,
            "keys": image.len(),
            "bytes": bytes,
            "leases": image.leases().len(),
            "embedded": files,
            "resources": resources,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!(
        "{what}: revision {}, {} keys, {}, {} leases\n",
        image.revision(),
        image.len(),
        size(bytes),
        image.leases().len()
    );
    if let Some(survey) = survey {
        let _ = writeln!(text, "format {}, {} on disk", survey.format, size(survey.disk_bytes));
    }
    let width = shares.keys().map(String::len).max().unwrap_or(0).max(8);
    let _ = writeln!(text, "\n{:<width$} {:>8} {:>10} {:>9}", "PREFIX", "KEYS", "SIZE", "ENCRYPTED");
    for (name, share) in &shares {
        let _ = writeln!(
            text,
            "{name:<width$} {:>8} {:>10} {:>9}",
            share.keys,
            size(share.bytes),
            share.encrypted
        );
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} GiB")
}

/// How a value is stored.
fn form(value: &[u8]) -> &'static str {
    match value {
        [b'k', b'8', b's', 0, ..] => "protobuf",
        [b'{', ..] => "json",
        encrypted if encrypted.starts_with(ENCRYPTED) => "encrypted",
        _ => "other",
    }
}

async fn get(key: &str, show_secrets: bool, target: &Target, as_json: bool) -> Result<ExitCode, Failure> {
    let found = match target.place()? {
        Place::Local(local) => local.image().await?.0.get(key),
        Place::Etcd(Remote { flags, .. }) => {
            flags.open().await?.get(key, None).await.map_err(|e| Failure::of(&e))?.0
        }
    };
    let Some(kv) = found else {
        return Err(Failure::new(format!("there is no key {key}"), "see `cox db list` for those there are"));
    };
    let form = form(&kv.value);
    let hidden = is_open_secret(&kv) && !show_secrets;
    let text = std::str::from_utf8(&kv.value).ok();
    if as_json {
        let value = text.filter(|_| !hidden);
        let raw = (text.is_none() && !hidden).then(|| bytes_as_hex(&kv.value));
        print_json(&json!({
            "key": &*kv.key,
            "createRevision": kv.create_revision.0,
            "modRevision": kv.mod_revision.0,
            "version": kv.version,
            "lease": kv.lease.map(|lease| lease.to_string()),
            "bytes": kv.value.len(),
            "form": form,
            "hidden": hidden,
            "value": value,
            "valueHex": raw,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let lease = kv.lease.map_or_else(String::new, |lease| format!(", lease {lease}"));
    note(&format!(
        "{key}: revision {}, created at {}, version {}{lease}, {} bytes, {form}",
        kv.mod_revision,
        kv.create_revision,
        kv.version,
        kv.value.len()
    ));
    if hidden {
        note("the value of a Secret that is not encrypted is not shown; --show-secrets shows it");
    } else if let Some(text) = text {
        print(&format!("{text}\n"))?;
    } else {
        print(&format!("{}\n", bytes_as_hex(&kv.value)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn is_open_secret(kv: &KeyValue) -> bool {
    kv.key.starts_with(SECRETS) && !kv.value.starts_with(ENCRYPTED)
}

fn bytes_as_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

async fn list(prefix: &str, limit: usize, target: &Target, as_json: bool) -> Result<ExitCode, Failure> {
    let wanted = if limit == 0 { usize::MAX } else { limit };
    let (kvs, revision) = match target.place()? {
        Place::Local(local) => {
            let image = local.image().await?.0;
            let kvs: Vec<KeyValue> = image.prefix(prefix).take(wanted).collect();
            (kvs, image.revision())
        }
        Place::Etcd(Remote { flags, .. }) => {
            range(&*flags.open().await?, prefix, wanted).await.map_err(|e| Failure::of(&e))?
        }
    };
    if as_json {
        let items: Vec<Value> = kvs
            .iter()
            .map(|kv| json!({ "key": &*kv.key, "modRevision": kv.mod_revision.0, "bytes": kv.value.len() }))
            .collect();
        print_json(&json!({ "revision": revision.0, "items": items }))?;
    } else {
        let mut text = String::new();
        for kv in &kvs {
            let _ = writeln!(text, "{:>12} {:>9} {}", kv.mod_revision.0, kv.value.len(), kv.key);
        }
        print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn range(
    store: &dyn Storage,
    prefix: &str,
    wanted: usize,
) -> Result<(Vec<KeyValue>, Revision), storage::Error> {
    let mut kvs: Vec<KeyValue> = Vec::new();
    let mut request = RangeRequest::prefix(prefix);
    loop {
        let page = store.range(request.clone().limit(PAGE.min(wanted - kvs.len()))).await?;
        let at = request.at.unwrap_or(page.revision);
        kvs.extend(page.kvs);
        match kvs.last() {
            Some(last) if page.more && kvs.len() < wanted => request = request.after(&last.key).at(at),
            _ => return Ok((kvs, at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resource_of_a_key_is_named() {
        for (key, expected) in [
            ("/registry/pods/default/a", "/registry/pods"),
            ("/registry/namespaces/default", "/registry/namespaces"),
            ("/registry/services/specs/default/a", "/registry/services"),
            ("/registry/example.com/widgets/default/a", "/registry/example.com/widgets"),
            ("/registry/ranges/servicenodeports", "/registry/ranges"),
            ("odd", "odd"),
        ] {
            assert_eq!(resource(key), expected);
        }
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!([size(0), size(1023), size(1536), size(3 << 30)], ["0 B", "1023 B", "1.5 KiB", "3.0 GiB"]);
    }

    #[test]
    fn secrets_are_shown_only_encrypted() {
        let kv = |key: &str, value: &'static [u8]| KeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: Revision(1),
            mod_revision: Revision(1),
            version: 1,
            lease: None,
        };
        assert!(is_open_secret(&kv("/registry/secrets/a/b", b"{}")));
        assert!(!is_open_secret(&kv("/registry/secrets/a/b", b"k8s:enc:aescbc:v1:key:x")));
        assert!(!is_open_secret(&kv("/registry/configmaps/a/b", b"{}")));
        assert_eq!(
            [form(b"{}"), form(b"k8s\0x"), form(b"k8s:enc:a"), form(b"")],
            ["json", "protobuf", "encrypted", "other"]
        );
    }
}
