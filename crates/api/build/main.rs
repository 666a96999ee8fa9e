//! Takes the descriptions of types and fields out of the sources of `k8s-openapi`, where they are comments.
mod describe;

use std::path::PathBuf;
use std::process::Command;

/// Its module for our version of Kubernetes.
const VERSION: &str = "src/v1_36";

fn main() {
    println!("cargo::rerun-if-changed=build");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo names OUT_DIR"));
    let sources = sources();
    let text = describe::describe(&sources)
        .unwrap_or_else(|e| panic!("cannot take descriptions from {}: {e}", sources.display()));
    let file = out.join("descriptions.txt");
    std::fs::write(&file, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", file.display()));
}

/// Where cargo keeps the sources of the version that is built.
fn sources() -> PathBuf {
    let cargo = std::env::var_os("CARGO").expect("cargo names itself");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--offline", "--locked"])
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "k8s-openapi")
        .and_then(|package| package["manifest_path"].as_str())
        .expect("k8s-openapi is a dependency");
    PathBuf::from(manifest).with_file_name(VERSION)
}
