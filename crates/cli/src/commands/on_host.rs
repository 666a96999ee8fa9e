//! What `cox` is asked on a host of a cluster, by another `cox`.
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use provision::apply::Bringing;
use provision::plan::Ready;

use crate::output::{self, Failure};

/// `cox host-init`: the first process of a host in namespaces.
pub async fn host_init(spec: &Path) -> Result<ExitCode, Failure> {
    let text =
        std::fs::read(spec).map_err(|e| Failure::new(format!("cannot read {}: {e}", spec.display()), ""))?;
    let spec = serde_json::from_slice(&text).map_err(|e| Failure::of(&e))?;
    provision::local::run_init(spec).await?;
    Ok(ExitCode::SUCCESS)
}

/// `cox probe`: whether a service of this host works, as another `cox` asks over ssh; the question is standard input.
pub async fn probe(patience_ms: u64) -> Result<ExitCode, Failure> {
    let ready: Ready = serde_json::from_reader(std::io::Read::take(std::io::stdin(), 1 << 16))
        .map_err(|e| Failure::of(&e))?;
    let deadline = tokio::time::Instant::now() + Duration::from_millis(patience_ms);
    loop {
        match provision::probe(&ready).await {
            Ok(()) => return Ok(ExitCode::SUCCESS),
            Err(why) if tokio::time::Instant::now() >= deadline => return Err(Failure::new(why, "")),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// `cox import-images`: gives this host's container runtime the system images, made of this binary.
pub async fn import_images(socket: &Path, snapshotter: &str) -> Result<ExitCode, Failure> {
    let source = images::Source::of_this_host()
        .map_err(|e| Failure::new(format!("cannot find the running program: {e}"), ""))?;
    let bringing = Bringing::new(source, Duration::ZERO)?;
    let record = Path::new("/var/lib/cox/system-images.json");
    let imported = provision::import_system_images(socket, record, &bringing.images, snapshotter).await?;
    output::print(if imported { "imported\n" } else { "present\n" })?;
    Ok(ExitCode::SUCCESS)
}
