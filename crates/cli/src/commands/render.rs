//! `cox render`: everything that `up` would install, in a directory.
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use pki::Action;
use provision::Rendered;
use provision::plan::PlanOptions;
use serde_json::json;

use crate::cluster_file::{self, count};
use crate::output::{self, Failure};

/// `cox render`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  cox render out                 reads cluster.yaml\n  cox render out --file prod.yaml\n  \
    cox render out -o json | jq -r '.files[] | select(.secret) | .path'\n\n\
    In the directory, which nobody else can enter:\n  pki/            keys and certificates; kept from one time to the next, as long as they fit\n  \
    kubeconfig      of the administrator\n  hosts/NAME/     every file of a host at its place; hosts/NAME.json says what else it gets\n  \
    manifests/      objects that the cluster has from the beginning\n  load-balancer/  nginx and haproxy configuration, for one that is kept elsewhere"
)]
pub struct Render {
    /// The directory; everything but pki in it is made anew.
    pub dir: PathBuf,
    /// The cluster.
    #[arg(short, long, default_value = cluster_file::DEFAULT)]
    pub file: PathBuf,
}

/// The files, by host, as a tree that one can read.
fn listing(dir: &Path, rendered: &Rendered) -> String {
    let made = rendered.trust.items.iter().filter(|i| i.action != Action::Kept).count();
    let kept = rendered.trust.items.len() - made;
    let mut text = String::new();
    for file in &rendered.files {
        let key = if file.secret { "  secret" } else { "" };
        text += &format!("{} {}{key}\n", file.mode, dir.join(&file.path).display());
    }
    for item in &rendered.trust.items {
        if let Action::Renewed { because } = &item.action {
            text += &format!("{} is issued again: {because}\n", item.path.display());
        }
    }
    let files = count(rendered.files.len(), "file");
    text + &format!("{files} in {}; of keys and certificates {made} made, {kept} kept\n", dir.display())
}

/// Renders the cluster.
pub fn render(options: &Render, json: bool) -> Result<ExitCode, Failure> {
    let spec = cluster_file::load(&options.file)?;
    let rendered = provision::render(&spec, &PlanOptions::system(), &options.dir, Timestamp::now())
        .map_err(|e| Failure::of(&e))?;
    for warning in &rendered.trust.warnings {
        output::note(&format!("cox: {warning}"));
    }
    if json {
        let trust: Vec<_> = rendered
            .trust
            .items
            .iter()
            .map(|item| {
                let (action, because) = match &item.action {
                    Action::Kept => ("kept", None),
                    Action::Created => ("created", None),
                    Action::Renewed { because } => ("renewed", Some(because.to_string())),
                };
                json!({ "path": item.path, "action": action, "because": because })
            })
            .collect();
        output::print_json(&json!({
            "dir": options.dir,
            "cluster": spec.name,
            "kubeconfig": options.dir.join("kubeconfig"),
            "files": rendered.files,
            "pki": trust,
            "warnings": rendered.trust.warnings,
        }))?;
    } else {
        output::print(&listing(&options.dir, &rendered))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use provision::plan::{Trust, plan};
    use provision::spec::ClusterSpec;

    use super::*;
    use crate::args::{Cli, is_part};
    use crate::parts::files;

    const CLUSTERS: [&str; 3] = [
        include_str!("../../../provision/tests/golden/one-node.yaml"),
        include_str!("../../../provision/tests/golden/stacked.yaml"),
        include_str!("../../../provision/tests/golden/separate.yaml"),
    ];

    /// Every line that starts a part of ours is one that it takes, and every file that it is given too.
    #[test]
    fn parts_take_what_is_planned_for_them() {
        let mut seen = std::collections::BTreeSet::new();
        for text in CLUSTERS {
            let spec = ClusterSpec::read(text, &|_| Ok(())).spec.expect("a cluster");
            let dir = tempfile::tempdir().expect("a directory");
            let (trust, _) = Trust::ensure(dir.path(), &spec, Timestamp::now()).expect("made");
            for plan in plan(&spec, &trust, &PlanOptions::system()).expect("planned") {
                for service in &plan.services {
                    let program = Path::new(&service.exec[0]);
                    assert!(program.is_absolute());
                    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let mut line = vec!["cox".to_owned()];
                    if is_part(&name) {
                        assert!(plan.binaries.iter().any(|b| b.path == program), "{name} is no link");
                        line.push(name.clone());
                    } else if name != "cox" {
                        continue;
                    }
                    line.extend(service.exec[1..].iter().cloned());
                    if let Err(error) = Cli::try_parse_from(&line) {
                        panic!("{}: {error}", line.join(" "));
                    }
                    seen.insert(line[1].clone());
                    // What it restarts for is planned.
                    for path in &service.reads {
                        assert!(plan.file(path).is_some(), "{} of {}", path.display(), service.name);
                    }
                    for unit in &service.after {
                        assert!(plan.service(unit).is_some(), "{unit} before {}", service.name);
                    }
                }
                for (path, kind) in
                    [("/var/lib/kubelet/config.yaml", 0), ("/etc/kubernetes/kube-proxy.yaml", 1)]
                {
                    let Some(file) = plan.file(Path::new(path)) else { continue };
                    let copy = dir.path().join("file.yaml");
                    std::fs::write(&copy, file.content.bytes()).expect("written");
                    let warnings = match kind {
                        0 => files::kubelet::read(&copy).expect("taken").1,
                        _ => files::proxy::read(&copy).expect("taken").1,
                    };
                    assert_eq!(warnings, [""; 0], "{path}");
                }
            }
        }
        let all: Vec<&str> = seen.iter().map(String::as_str).collect();
        assert_eq!(
            all,
            [
                "balancer",
                "dns",
                "kube-apiserver",
                "kube-controller-manager",
                "kube-proxy",
                "kube-scheduler",
                "kubelet"
            ]
        );
    }
}
