//! Sets up a pod's volumes, keeps their files up to date, and takes them away.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, HostPathVolumeSource, Pod, ProjectedVolumeSource, Volume,
};

use crate::amount;
use crate::env::Sources;
use crate::objects::Reader;
use crate::pod::PodExt;
use crate::shared::Shared;
use crate::volumes::atomic::{self, File, Files};
use crate::volumes::tokens::Tokens;
use crate::volumes::{Mounted, MountedVolume, payload};

/// What setting up a pod's volumes came to.
pub struct Outcome {
    /// The volumes that are there.
    pub mounted: Mounted,
    /// Volumes that failed, with the words for the event.
    pub failed: Vec<(String, String)>,
    /// When a token in a volume has to be renewed.
    pub refresh_at: Option<Timestamp>,
    /// The tokens, to be kept for the next time.
    pub tokens: Tokens,
}

/// All that volumes are made from.
pub struct Job {
    /// The pod, with its addresses in its status once known.
    pub pod: std::sync::Arc<Pod>,
    /// The objects that the pod refers to.
    pub reader: Reader,
    /// The tokens asked for so far.
    pub tokens: Tokens,
}

/// Makes every volume of the pod, or brings it up to date.
pub async fn set_up(shared: &Shared, mut job: Job) -> Outcome {
    let mut out =
        Outcome { mounted: Mounted::default(), failed: vec![], refresh_at: None, tokens: Tokens::default() };
    let pod = job.pod.clone();
    for volume in pod.spec().volumes.iter().flatten() {
        match one(shared, &mut job, volume, &mut out.refresh_at).await {
            Ok(mounted) => {
                out.mounted.paths.insert(volume.name.clone(), mounted);
            }
            Err(error) => out.failed.push((volume.name.clone(), error)),
        }
    }
    out.tokens = job.tokens;
    out
}

fn directory(shared: &Shared, pod: &Pod, plugin: &str, name: &str) -> PathBuf {
    shared.pod_dir(pod.uid()).join("volumes").join(plugin).join(name)
}

fn group(pod: &Pod) -> Option<u32> {
    pod.spec()
        .security_context
        .as_ref()
        .and_then(|security| security.fs_group)
        .and_then(|group| u32::try_from(group).ok())
}

async fn one(
    shared: &Shared,
    job: &mut Job,
    volume: &Volume,
    refresh_at: &mut Option<Timestamp>,
) -> Result<MountedVolume, String> {
    let pod = job.pod.clone();
    let writable = |path: PathBuf| MountedVolume { path, read_only: false };
    if let Some(source) = &volume.empty_dir {
        let path = directory(shared, &pod, "kubernetes.io~empty-dir", &volume.name);
        empty_dir(&path, source, group(&pod)).map_err(|error| error.to_string())?;
        return Ok(writable(path));
    }
    if let Some(source) = &volume.host_path {
        host_path(source)?;
        return Ok(writable(PathBuf::from(&source.path)));
    }
    let (plugin, in_memory, files) = if let Some(source) = &volume.config_map {
        let (name, items, mode, optional) = payload::config_map_source(source);
        let files = match job.reader.config_map(name).await.map_err(|error| error.to_string())? {
            Some(map) => payload::config_map(&map, items, mode, optional)
                .map_err(|error| format!("configmap {error}"))?,
            None if optional => Files::new(),
            None => return Err(payload::missing("configmap", name)),
        };
        ("kubernetes.io~configmap", false, files)
    } else if let Some(source) = &volume.secret {
        let (name, items, mode, optional) = payload::secret_source(source);
        let files = match job.reader.secret(name).await.map_err(|error| error.to_string())? {
            Some(secret) => payload::secret(&secret, items, mode, optional)?,
            None if optional => Files::new(),
            None => return Err(payload::missing("secret", name)),
        };
        ("kubernetes.io~secret", true, files)
    } else if let Some(source) = &volume.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        let files = payload::downward(&pod, items, source.default_mode, &facts(shared, &pod))?;
        ("kubernetes.io~downward-api", true, files)
    } else if let Some(source) = &volume.projected {
        ("kubernetes.io~projected", true, projected(shared, job, source, refresh_at).await?)
    } else {
        return Err("no volume plugin matched".into());
    };
    let path = directory(shared, &pod, plugin, &volume.name);
    let wrote = || -> io::Result<()> {
        make_directory(&path, 0o777)?;
        if in_memory && !is_mount(&path)? {
            mount_tmpfs(&path, None)?;
        }
        if let Some(group) = group(&pod) {
            std::os::unix::fs::chown(&path, None, Some(group))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o2777))?;
        }
        atomic::write(&path, &files, group(&pod)).map(|_| ())
    };
    wrote().map_err(|error| error.to_string())?;
    Ok(MountedVolume { path, read_only: true })
}

fn facts(shared: &Shared, pod: &Pod) -> Sources {
    let status = pod.status.as_ref();
    Sources {
        allocatable: shared.allocatable.clone(),
        host_ips: shared.host_ips.iter().map(ToString::to_string).collect(),
        pod_ips: status
            .and_then(|status| status.pod_ips.as_ref())
            .into_iter()
            .flatten()
            .map(|ip| ip.ip.clone())
            .collect(),
        ..Default::default()
    }
}

async fn projected(
    shared: &Shared,
    job: &mut Job,
    source: &ProjectedVolumeSource,
    refresh_at: &mut Option<Timestamp>,
) -> Result<Files, String> {
    let mut all = Files::new();
    let default = source.default_mode;
    for part in source.sources.iter().flatten() {
        if let Some(map) = &part.config_map {
            let optional = map.optional == Some(true);
            match job.reader.config_map(&map.name).await.map_err(|error| error.to_string())? {
                Some(found) => all.extend(
                    payload::config_map(&found, map.items.as_ref(), default, optional)
                        .map_err(|error| format!("configmap {error}"))?,
                ),
                None if optional => {}
                None => return Err(payload::missing("configmap", &map.name)),
            }
        } else if let Some(secret) = &part.secret {
            let optional = secret.optional == Some(true);
            match job.reader.secret(&secret.name).await.map_err(|error| error.to_string())? {
                Some(found) => all.extend(payload::secret(&found, secret.items.as_ref(), default, optional)?),
                None if optional => {}
                None => return Err(payload::missing("secret", &secret.name)),
            }
        } else if let Some(downward) = &part.downward_api {
            let items = downward.items.as_deref().unwrap_or_default();
            all.extend(payload::downward(&job.pod, items, default, &facts(shared, &job.pod))?);
        } else if let Some(projection) = &part.service_account_token {
            let (token, refresh) =
                job.tokens.get(&shared.client, &job.pod, projection, Timestamp::now()).await?;
            *refresh_at = Some(refresh_at.map_or(refresh, |earlier| earlier.min(refresh)));
            let file = File {
                data: token.into_bytes(),
                mode: payload::token_mode(&job.pod, default),
                owner: payload::token_owner(&job.pod),
            };
            all.insert(PathBuf::from(&projection.path), file);
        } else {
            return Err("projected source is not supported".into());
        }
    }
    Ok(all)
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, group: Option<u32>) -> io::Result<()> {
    let fresh = !path.is_dir();
    make_directory(path, 0o777)?;
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => {
            if !is_mount(path)? {
                let limit = source.size_limit.as_ref().and_then(amount::value).filter(|bytes| *bytes > 0);
                mount_tmpfs(path, limit)?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
            }
        }
        other => return Err(io::Error::other(format!("unknown storage medium {other:?}"))),
    }
    if let Some(group) = group.filter(|_| fresh) {
        std::os::unix::fs::chown(path, None, Some(group))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o2777))?;
    }
    Ok(())
}

fn host_path(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let wrong = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", source.path));
    let file_type = fs::metadata(path).ok().map(|metadata| metadata.file_type());
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if file_type.is_none() => fs::create_dir_all(path)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .map_err(|error| error.to_string()),
        "FileOrCreate" if file_type.is_none() => fs::File::create(path)
            .and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o644)))
            .map_err(|error| error.to_string()),
        "Directory" | "DirectoryOrCreate" if !file_type.is_some_and(|kind| kind.is_dir()) => {
            wrong("a directory")
        }
        "File" | "FileOrCreate" if !file_type.is_some_and(|kind| kind.is_file()) => wrong("a file"),
        "Socket" if !file_type.is_some_and(|kind| kind.is_socket()) => wrong("a socket file"),
        "CharDevice" if !file_type.is_some_and(|kind| kind.is_char_device()) => wrong("a character device"),
        "BlockDevice" if !file_type.is_some_and(|kind| kind.is_block_device()) => wrong("a block device"),
        "Directory" | "DirectoryOrCreate" | "File" | "FileOrCreate" | "Socket" | "CharDevice"
        | "BlockDevice" => Ok(()),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

fn mount_tmpfs(path: &Path, limit: Option<i64>) -> io::Result<()> {
    let options = limit.map(|bytes| format!("size={bytes}")).unwrap_or_default();
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    rustix::mount::mount(
        "tmpfs",
        path,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        Some(options.as_c_str()),
    )?;
    Ok(())
}

/// Mount points at or below a path, the deepest first.
pub fn mounts_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescaped(point)))
        .filter(|point| point.starts_with(path))
        .collect();
    found.reverse();
    Ok(found)
}

/// Undoes the octal escapes of mountinfo.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn is_mount(path: &Path) -> io::Result<bool> {
    Ok(mounts_below(path)?.iter().any(|point| point == path))
}

/// Unmounts everything of a pod and removes its directory.
pub fn tear_down(pod_dir: &Path) -> io::Result<()> {
    if !pod_dir.exists() {
        return Ok(());
    }
    for point in mounts_below(pod_dir)? {
        match rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // What is still mounted is someone's data: never delete through it.
    if let Some(left) = mounts_below(pod_dir)?.first() {
        return Err(io::Error::other(format!("{} is still mounted", left.display())));
    }
    match fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescaped(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescaped(r"/plain"), "/plain");
    }

    #[test]
    fn host_paths_are_what_their_type_says() {
        let dir = tempfile::tempdir().expect("dir");
        let check = |name: &str, kind: &str| {
            let path = dir.path().join(name).to_string_lossy().into_owned();
            host_path(&HostPathVolumeSource { path, type_: Some(kind.into()) })
        };
        assert_eq!(check("d", "DirectoryOrCreate"), Ok(()));
        assert_eq!(check("d", "Directory"), Ok(()));
        assert!(check("d", "File").is_err_and(|error| error.ends_with("is not a file")));
        assert_eq!(check("f", "FileOrCreate"), Ok(()));
        assert!(check("none", "Socket").is_err());
        assert!(check("d", "Door").is_err());
        assert_eq!(check("none", ""), Ok(()));
    }
}
