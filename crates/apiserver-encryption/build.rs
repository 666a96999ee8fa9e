//! Generates the messages, client and server of KMS v2 from `proto/kms.proto`; needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/kms.proto");
    let files = protox::compile(["kms.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_server(true)
        .build_client(true)
        .btree_map(".")
        .skip_debug([".v2.DecryptResponse", ".v2.EncryptRequest"])
        .compile_fds(files)?;
    Ok(())
}
