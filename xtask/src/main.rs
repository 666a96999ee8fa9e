//! Checks and code generation for this workspace: `cargo xtask generate SPEC`, `cargo xtask layers`,
//! `cargo xtask licences`.
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

mod generate;
mod layers;
mod licences;
mod proto;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace");
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["generate", spec] => {
            let files = generate::generate(
                &PathBuf::from(spec),
                &root.join("xtask/kinds.toml"),
                &root.join("xtask/pointers.txt"),
            )?;
            for (name, text) in files {
                std::fs::write(root.join("crates/api/src/generated").join(name), text)?;
            }
            Ok(())
        }
        ["licences"] => match licences::check(root)?.as_slice() {
            [] => Ok(()),
            wrong => bail!("{}", wrong.join("\n")),
        },
        ["layers"] => match layers::check(root)?.as_slice() {
            [] => Ok(()),
            wrong => bail!("{}", wrong.join("\n")),
        },
        _ => bail!(
            "usage: cargo xtask generate PATH/openapi-v2.json | cargo xtask layers | cargo xtask licences"
        ),
    }
}
