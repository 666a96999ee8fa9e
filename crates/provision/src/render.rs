//! Writes what every host would get below one directory, for people to read and for other tools to carry out.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use crate::files;
use crate::plan::{
    BinarySource, HostPlan, PlanOptions, Trust, TrustError, haproxy_config, joining, manifests, nginx_config,
    plan, unit_path, unit_text,
};
use crate::spec::{ClusterSpec, Role};

/// Says that a directory was rendered, and of what.
const MARKER: &str = "cluster.json";
/// What is made anew each time.
const MADE: [&str; 3] = ["hosts", "manifests", "load-balancer"];

/// Why nothing, or not everything, was rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RenderError {
    /// The directory holds something else.
    #[error("{} is not empty and was not rendered by cox; choose another directory", .0.display())]
    Foreign(PathBuf),
    /// Keys or certificates.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The disk refused.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn failed<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RenderError + use<'a> {
    move |source| RenderError::Io { step, path: path.to_owned(), source }
}

/// A file that was rendered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RenderedFile {
    /// Where, below the directory.
    pub path: PathBuf,
    /// Its mode, in octal.
    pub mode: String,
    /// Whether a key is in it.
    pub secret: bool,
}

/// What was rendered.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// Every file but those of the trust, by path.
    pub files: Vec<RenderedFile>,
    /// What was done about the trust.
    pub trust: pki::Report,
}

struct Writing<'a> {
    root: &'a Path,
    files: Vec<RenderedFile>,
}

impl Writing<'_> {
    fn directory(&self, path: &Path) -> Result<(), RenderError> {
        // Keys are below: nobody else has any business here.
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(failed("create", path))
    }

    fn file(&mut self, path: &Path, content: &[u8], mode: u32, secret: bool) -> Result<(), RenderError> {
        let whole = self.root.join(path);
        if let Some(parent) = whole.parent() {
            self.directory(parent)?;
        }
        files::write_if_changed(&whole, content, mode).map_err(failed("write", &whole))?;
        // The mode of a new file is cut by the umask, and one that was there has the mode it had.
        let wanted = fs::Permissions::from_mode(mode);
        fs::set_permissions(&whole, wanted).map_err(failed("set the mode of", &whole))?;
        self.files.push(RenderedFile { path: path.to_owned(), mode: format!("{mode:04o}"), secret });
        Ok(())
    }
}

/// Makes the directory ready; what was rendered before goes, but for the trust.
fn prepare(root: &Path) -> Result<(), RenderError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed("create", root))?;
    let entries = fs::read_dir(root).map_err(failed("list", root))?;
    let foreign = entries.flatten().any(|e| e.file_name() != "pki");
    if !root.join(MARKER).exists() && foreign {
        return Err(RenderError::Foreign(root.to_owned()));
    }
    fs::set_permissions(root, fs::Permissions::from_mode(0o700)).map_err(failed("set the mode of", root))?;
    for name in MADE {
        let path = root.join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a host gets beside its files.
fn summary(plan: &HostPlan) -> serde_json::Value {
    let binaries: BTreeMap<_, _> = plan
        .binaries
        .iter()
        .map(|b| match &b.source {
            BinarySource::Cox => (&b.path, "cox".to_owned()),
            BinarySource::LinkTo(target) => (&b.path, format!("link to {}", target.display())),
        })
        .collect();
    let directories: BTreeMap<_, _> =
        plan.directories.iter().map(|d| (&d.path, format!("{:04o}", d.mode))).collect();
    json!({
        "host": plan.host,
        "address": plan.address,
        "packages": plan.packages,
        "binaries": binaries,
        "directories": directories,
        "modules": plan.modules,
        "sysctls": plan.sysctls,
        "services": plan.services.iter().map(|s| &s.name).collect::<Vec<_>>(),
        "sandboxImage": plan.runtime.as_ref().map(|r| &r.sandbox_image),
    })
}

/// Renders a cluster: `pki`, whose keys are kept from one time to the next; `kubeconfig`; `hosts/NAME` with every file at
/// its place, and `hosts/NAME.json` with what else the host gets; `manifests`; `load-balancer` with configuration for
/// one that is kept elsewhere.
pub fn render(
    spec: &ClusterSpec,
    options: &PlanOptions,
    root: &Path,
    now: Timestamp,
) -> Result<Rendered, RenderError> {
    prepare(root)?;
    let (trust, report) = Trust::ensure(&root.join("pki"), spec, now)?;
    let mut writing = Writing { root, files: Vec::new() };
    let described = pretty(&serde_json::to_value(spec).unwrap_or_default());
    writing.file(Path::new(MARKER), described.as_bytes(), 0o644, false)?;
    let admin = trust.admin_kubeconfig(spec)?;
    writing.file(Path::new("kubeconfig"), admin.expose().as_bytes(), 0o600, true)?;
    for plan in plan(spec, &trust, options)? {
        let home = Path::new("hosts").join(&plan.host);
        for file in &plan.files {
            let path = home.join(file.path.strip_prefix("/").unwrap_or(&file.path));
            writing.file(&path, file.content.bytes(), file.mode, file.content.is_secret())?;
        }
        for service in &plan.services {
            let unit = unit_path(service);
            let path = home.join(unit.strip_prefix("/").unwrap_or(&unit));
            writing.file(&path, unit_text(service).as_bytes(), 0o644, false)?;
        }
        let path = Path::new("hosts").join(format!("{}.json", plan.host));
        writing.file(&path, pretty(&summary(&plan)).as_bytes(), 0o644, false)?;
    }
    let joining = joining(spec, trust.authority_pem()?);
    for manifest in manifests(spec).into_iter().chain([joining]) {
        let path = Path::new("manifests").join(format!("{}.yaml", manifest.name));
        writing.file(&path, manifest.text().as_bytes(), 0o644, false)?;
    }
    if spec.hosts_with(Role::ControlPlane).count() > 1 {
        let home = Path::new("load-balancer");
        let authority = options.paths.haproxy_authority();
        let texts = [
            ("nginx.conf", nginx_config(spec)),
            ("haproxy.cfg", haproxy_config(spec, &authority)),
            ("kubernetes-ca.crt", trust.authority_pem()?.to_owned()),
        ];
        for (name, text) in texts {
            writing.file(&home.join(name), text.as_bytes(), 0o644, false)?;
        }
    }
    let mut files = writing.files;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Rendered { files, trust: report })
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_directory_is_left_alone_and_an_own_one_cleaned() {
        let text = "name: c\nhosts: [{name: a, address: 192.0.2.1, roles: [control-plane, worker]}]\n";
        let spec = ClusterSpec::read(text, &|_| Ok(())).spec.expect("a cluster");
        let now = "2026-07-01T00:00:00Z".parse().expect("a time");
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("diary"), "dear").expect("written");
        let error = render(&spec, &PlanOptions::system(), dir.path(), now).expect_err("refused");
        assert!(matches!(error, RenderError::Foreign(_)), "{error}");
        fs::remove_file(dir.path().join("diary")).expect("removed");

        let first = render(&spec, &PlanOptions::system(), dir.path(), now).expect("rendered");
        let gone = dir.path().join("hosts/gone/etc/kubernetes/x");
        fs::create_dir_all(gone.parent().expect("a parent")).expect("made");
        fs::write(&gone, "x").expect("written");
        let second = render(&spec, &PlanOptions::system(), dir.path(), now).expect("rendered");
        assert!(!gone.exists() && !second.trust.changed());
        assert_eq!(first.files, second.files);
    }
}
