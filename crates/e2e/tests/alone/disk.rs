//! A disk that fills up under a running server.
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{ApiServer, binary, eventually, is_root};

/// A small file system in memory; dropped, it is unmounted.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cox-e2e-disk-").tempdir()?;
        let option = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &option, "finish"]).arg(dir.path()).output()?;
        ensure!(mounted.status.success(), "mount: {}", String::from_utf8_lossy(&mounted.stderr));
        Ok(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_stops_writes_only_and_loses_nothing() -> Result<()> {
    if !is_root("a disk of a test's own") {
        return Ok(());
    }
    let disk = SmallDisk::mount("48m")?;
    // What somebody else keeps there.
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1u8; 24 << 20])?;
    let mut server = ApiServer::start(&binary(), Some(&disk.path().join("db")))?;
    let path = "/api/v1/namespaces/default/configmaps";
    let text = "x".repeat(900_000);
    let create = |server: &ApiServer, i: usize| {
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"c{i}"}},"data":{{"n":"{i}","t":"{text}"}}}}"#
        );
        let request = server.request(path).method("POST").body("application/json", body.as_bytes());
        request.send(&server.admin())
    };
    let mut kept = Vec::new();
    let mut refused = None;
    for i in 0..60 {
        let (code, answer) = create(&server, i)?;
        match code.as_str() {
            "201" => kept.push(i),
            _ => {
                ensure!(
                    code == "503" && answer.contains("no space left on the device that holds the store"),
                    "not a clear error: {code} {answer}"
                );
                refused = Some(i);
                break;
            }
        }
    }
    let Some(refused) = refused else { anyhow::bail!("the disk does not fill up") };
    ensure!(kept.len() > 3, "the disk was full from the start");

    let all_there = |server: &ApiServer, kept: &[usize]| -> Result<()> {
        for i in kept {
            let (code, answer) = server.request(&format!("{path}/c{i}")).send(&server.admin())?;
            ensure!(code == "200" && answer.contains(&format!("\"n\":\"{i}\"")), "c{i} is lost: {code}");
        }
        Ok(())
    };
    // Reads go on, and what was refused is not there.
    all_there(&server, &kept)?;
    let (code, _) = server.request(&format!("{path}/c{refused}")).send(&server.admin())?;
    ensure!(code == "404", "a refused write is there: {code}");
    let names = server.kubectl().run("get configmaps -o name")?;
    ensure!(names.lines().filter(|n| n.starts_with("configmap/c")).count() == kept.len(), "{names}");

    // Killed while full, it comes back with all that it acknowledged, and writes once there is room.
    server.kill_and_start()?;
    all_there(&server, &kept)?;
    std::fs::remove_file(&ballast)?;
    let mut written = kept.clone();
    eventually("writes work again", Duration::from_secs(30), || {
        let (code, answer) = create(&server, refused)?;
        ensure!(code == "201", "{code} {answer}");
        Ok(())
    })?;
    written.push(refused);
    server.kill_and_start()?;
    all_there(&server, &written)?;
    Ok(())
}

#[test]
fn a_full_disk_is_recovered_from_without_a_restart() -> Result<()> {
    if !is_root("a disk of a test's own") {
        return Ok(());
    }
    let disk = SmallDisk::mount("24m")?;
    let server = ApiServer::start(&binary(), Some(&disk.path().join("db")))?;
    let create = |name: &str| {
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"t":"{}"}}}}"#,
            "x".repeat(100_000)
        );
        let path = "/api/v1/namespaces/default/configmaps";
        server.request(path).method("POST").body("application/json", body.as_bytes()).send(&server.admin())
    };
    ensure!(create("before")?.0 == "201", "nothing works");
    // Filled to the last byte by somebody else.
    let ballast = disk.path().join("ballast");
    let mut file = std::fs::File::create(&ballast)?;
    let filled = std::io::copy(&mut std::io::repeat(1), &mut file);
    ensure!(filled.is_err(), "the disk has no end");
    let (code, answer) = create("during")?;
    ensure!(code == "503" && answer.contains("no space left"), "{code} {answer}");
    drop(file);
    std::fs::remove_file(&ballast)?;
    eventually("writes work again", Duration::from_secs(30), || {
        let (code, answer) = create("after")?;
        ensure!(code == "201", "{code} {answer}");
        Ok(())
    })?;
    let names = server.kubectl().run("get configmaps -o name")?;
    ensure!(names.contains("configmap/before\n") && names.contains("configmap/after\n"), "{names}");
    ensure!(!names.contains("configmap/during"), "{names}");
    Ok(())
}
