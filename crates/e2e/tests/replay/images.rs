//! Images out of what this machine has: there is no registry to pull from.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::hosts::{Host, which};

/// `cox` as `/hyperkube`, with `nft`, `conntrack` and a shell.
pub const HYPERKUBE: &str = "localhost/hyperkube:v1.36.0";
/// etcd.
pub const ETCD: &str = "localhost/etcd:v3.4";
/// Holds a pod's namespaces.
pub const PAUSE: &str = "localhost/pause:3.1";

/// Archives of images, in a directory that outlives them.
pub struct Images(PathBuf);

const ARCHIVE: &str = r#"
set -eu
work=$1 name=$2 command=$3
cd "$work"
tar -C root --owner 0 --group 0 --numeric-owner --mtime @0 --sort name -cf layer.tar .
layer=$(sha256sum layer.tar | cut -d' ' -f1)
arch=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
printf '{"architecture":"%s","os":"linux","config":{"Cmd":["%s"],"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
  "$arch" "$command" "$layer" >config.json
printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$name" >manifest.json
tar -cf image.tar config.json manifest.json layer.tar
rm -rf root layer.tar
"#;

/// Copies a program and the libraries that it is linked with.
fn add(root: &Path, program: &Path, to: &str) -> Result<()> {
    let place = |path: &str| -> Result<PathBuf> {
        let place = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(place.parent().context("no place")?)?;
        Ok(place)
    };
    fs::copy(program, place(to)?).with_context(|| program.display().to_string())?;
    let linked = Command::new("ldd").arg(program).output()?;
    for word in String::from_utf8_lossy(&linked.stdout).split_whitespace().filter(|w| w.starts_with('/')) {
        if !place(word)?.exists() {
            fs::copy(word, place(word)?).with_context(|| word.to_owned())?;
        }
    }
    Ok(())
}

impl Images {
    /// Archives will be made in this directory.
    pub fn new(dir: &Path) -> Self {
        Self(dir.join("images"))
    }

    /// The archive of an image; made the first time.
    fn archive(&self, name: &str) -> Result<PathBuf> {
        let work = self.0.join(name.replace(['/', ':'], "-"));
        let archive = work.join("image.tar");
        if archive.exists() {
            return Ok(archive);
        }
        let root = work.join("root");
        for dir in ["tmp", "etc", "var/lib", "run", "bin"] {
            fs::create_dir_all(root.join(dir))?;
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
        let busybox = which("busybox").context("busybox is not installed")?;
        let command = match name {
            HYPERKUBE => {
                add(&root, &e2e::binary(), "/hyperkube")?;
                // A debug build is mostly names of lines.
                ensure!(Command::new("strip").arg(root.join("hyperkube")).status()?.success(), "strip");
                for tool in ["nft", "conntrack"] {
                    add(&root, &which(tool).with_context(|| tool.to_owned())?, &format!("/usr/sbin/{tool}"))?;
                }
                "/hyperkube"
            }
            ETCD => {
                add(&root, &which("etcd").context("etcd is not installed")?, "/usr/local/bin/etcd")?;
                "/usr/local/bin/etcd"
            }
            _ => "/bin/pause",
        };
        add(&root, &busybox, "/bin/busybox")?;
        for applet in ["sh", "cat", "sleep", "wget", "nslookup", "hostname", "ls", "echo"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
        }
        fs::write(
            root.join("bin/pause"),
            "#!/bin/sh\ntrap 'exit 0' TERM INT\nwhile :; do sleep 86400 & wait $!; done\n",
        )?;
        ensure!(Command::new("chmod").arg("755").arg(root.join("bin/pause")).status()?.success(), "chmod");
        let mut make = Command::new("bash");
        let output = make.args(["-c", ARCHIVE, "archive"]).arg(&work).args([name, command]).output()?;
        ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(archive)
    }

    /// Makes images known to the runtime of a host.
    pub fn import(&self, host: &Host, names: &[&str]) -> Result<()> {
        for name in names {
            let archive = self.archive(name)?;
            // A link would lead out of the host's view; another name of the same file does not.
            let inside = host.path("/var/lib/image.tar");
            let _ = fs::remove_file(&inside);
            if fs::hard_link(&archive, host.outside("var/lib/image.tar")).is_err() {
                fs::copy(&archive, &inside)?;
            }
            host.sh("ctr -n k8s.io images import /var/lib/image.tar >/dev/null; rm /var/lib/image.tar")?;
        }
        Ok(())
    }
}
