//! Generates the CRI v1 types and client from `proto/api.proto`; needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/api.proto");
    let files = protox::compile(["api.proto"], ["proto"])?;
    tonic_prost_build::configure().build_server(false).build_client(true).compile_fds(files)?;
    Ok(())
}
