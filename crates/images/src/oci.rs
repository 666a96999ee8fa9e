//! The images as an OCI layout in a tar: measured first, then written straight to whoever reads it.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use serde_json::{Value, json};

use crate::{
    HELLO, PAUSE, Source,
    content::{base_layer, pause_layer},
    layer::{Hashing, Layer, digest},
    pause_program,
};

/// An archive that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} the system images")]
pub struct BuildError {
    /// What failed.
    pub step: &'static str,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// One image and the names it goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Full names with tags.
    pub names: Vec<String>,
    /// Digest of its configuration: what a container runtime calls its id.
    pub id: String,
    config: Vec<u8>,
    layers: Vec<usize>,
}

struct MeasuredLayer {
    layer: Layer,
    digest: String,
    size: u64,
}

/// The system images: small in memory, large only while they are written.
pub struct SystemImages {
    layers: Vec<MeasuredLayer>,
    images: Vec<Image>,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/";

impl SystemImages {
    /// Looks at everything that goes in, and computes the digests. Reads the whole binary once.
    pub fn build(source: &Source) -> Result<Self, BuildError> {
        let failed = |source| BuildError { step: "measure", source };
        let measure = |layer: Layer| -> Result<MeasuredLayer, BuildError> {
            let (digest, size) = layer.measure().map_err(failed)?;
            Ok(MeasuredLayer { layer, digest, size })
        };
        let base = measure(base_layer(source).map_err(|source| BuildError { step: "collect", source })?)?;
        let mut layers = vec![base];
        let version = &source.version;
        let pause_names = vec![format!("{PAUSE}:{version}")];
        let mut images = Vec::new();
        match pause_program() {
            Some(program) => {
                layers.push(measure(pause_layer(program))?);
                images.push(image(&layers, vec![1], pause_names, &["/pause"], &[], None));
            }
            None => images.push(image(&layers, vec![0], pause_names, &["/cox", "pause"], &[], None)),
        }
        let hello = |tags: &[&str], tells: &str| {
            let names = tags.iter().map(|t| format!("{HELLO}:{t}")).collect();
            let told = format!("HELLO_VERSION={tells}");
            image(&layers, vec![0], names, &["/cox", "hello"], &[PATH, &told], Some(8080))
        };
        let told = [hello(&[version, "latest"], version), hello(&["v1"], "v1"), hello(&["v2"], "v2")];
        images.extend(told);
        Ok(Self { layers, images })
    }

    /// What there is.
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// Id of each image by its full name.
    pub fn ids(&self) -> BTreeMap<String, String> {
        self.images.iter().flat_map(|i| i.names.iter().map(|n| (n.clone(), i.id.clone()))).collect()
    }

    /// Writes all images as one tar of an OCI layout. Each layer stands in it once.
    pub fn write(&self, out: impl Write) -> Result<(), BuildError> {
        self.write_tar(out).map_err(|source| BuildError { step: "write", source })
    }

    fn write_tar(&self, out: impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(out);
        let mut manifests = Vec::new();
        let mut small: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for image in &self.images {
            let manifest = to_bytes(&self.manifest(image));
            for name in &image.names {
                manifests.push(json!({
                    "mediaType": MANIFEST,
                    "digest": digest(&manifest),
                    "size": manifest.len(),
                    "platform": { "os": "linux", "architecture": architecture() },
                    "annotations": {
                        "io.containerd.image.name": name,
                        "org.opencontainers.image.ref.name": name.rsplit(':').next(),
                    },
                }));
            }
            small.insert(digest(&manifest), manifest);
            small.insert(image.id.clone(), image.config.clone());
        }
        let index = to_bytes(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }));
        append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut tar, "index.json", &index)?;
        for (digest, bytes) in &small {
            append(&mut tar, &blob(digest), bytes)?;
        }
        for measured in &self.layers {
            let mut header = header(measured.size);
            header.set_path(blob(&measured.digest))?;
            header.set_cksum();
            let out = tar.get_mut();
            out.write_all(header.as_bytes())?;
            let mut hashing = Hashing::new(io::BufWriter::with_capacity(1 << 16, &mut *out));
            measured.layer.write(&mut hashing)?;
            hashing.flush()?;
            let found = hashing.finish();
            if found != (measured.digest.clone(), measured.size) {
                return Err(io::Error::other("a file changed while the images were being made; try again"));
            }
            let padding = (512 - measured.size % 512) % 512;
            out.write_all(&[0; 512][..padding as usize])?;
        }
        tar.finish()
    }

    fn manifest(&self, image: &Image) -> Value {
        let layers: Vec<Value> = image
            .layers
            .iter()
            .map(|i| json!({ "mediaType": LAYER, "digest": self.layers[*i].digest, "size": self.layers[*i].size }))
            .collect();
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": image.id, "size": image.config.len() },
            "layers": layers,
        })
    }
}

fn image(
    all: &[MeasuredLayer],
    layers: Vec<usize>,
    names: Vec<String>,
    entrypoint: &[&str],
    env: &[&str],
    port: Option<u16>,
) -> Image {
    let mut run = json!({ "Entrypoint": entrypoint, "Env": env, "WorkingDir": "/" });
    if let Some(port) = port {
        run["ExposedPorts"] = json!({ format!("{port}/tcp"): {} });
    }
    let digests: Vec<&str> = layers.iter().map(|i| all[*i].digest.as_str()).collect();
    let config = to_bytes(&json!({
        "architecture": architecture(),
        "os": "linux",
        "config": run,
        "rootfs": { "type": "layers", "diff_ids": digests },
    }));
    Image { names, id: digest(&config), config, layers }
}

fn to_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(bytes.len() as u64), path, bytes)
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// Go's name of this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        // Any dynamically linked program will do, and a small one keeps the test quick.
        Source { binary: "/bin/true".into(), busybox: None, version: "9.9".into() }
    }

    #[test]
    fn the_archive_holds_what_its_index_promises() {
        let images = SystemImages::build(&source()).expect("built");
        let mut bytes = Vec::new();
        images.write(&mut bytes).expect("written");
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().expect("a tar") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            let mut content = Vec::new();
            io::Read::read_to_end(&mut entry, &mut content).expect("readable");
            files.insert(path, content);
        }
        for (path, content) in &files {
            if let Some(name) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(format!("sha256:{name}"), digest(content), "{path}");
            }
        }
        let index: Value = serde_json::from_slice(&files["index.json"]).expect("JSON");
        let mut names = BTreeMap::new();
        for descriptor in index["manifests"].as_array().expect("a list") {
            let text = |v: &Value| v.as_str().expect("text").to_owned();
            let manifest = &files[&blob(&text(&descriptor["digest"]))];
            assert_eq!(descriptor["size"], manifest.len());
            let manifest: Value = serde_json::from_slice(manifest).expect("JSON");
            let config = &files[&blob(&text(&manifest["config"]["digest"]))];
            let config: Value = serde_json::from_slice(config).expect("JSON");
            for (layer, diff) in manifest["layers"]
                .as_array()
                .expect("a list")
                .iter()
                .zip(config["rootfs"]["diff_ids"].as_array().expect("a list"))
            {
                assert_eq!(layer["digest"], *diff);
                assert_eq!(layer["size"], files[&blob(&text(diff))].len());
            }
            names.insert(
                text(&descriptor["annotations"]["io.containerd.image.name"]),
                text(&manifest["config"]["digest"]),
            );
        }
        assert_eq!(names, images.ids());
        let listed: Vec<&str> = names.keys().map(String::as_str).collect();
        assert_eq!(
            listed,
            [
                "localhost/cox/hello:9.9",
                "localhost/cox/hello:latest",
                "localhost/cox/hello:v1",
                "localhost/cox/hello:v2",
                "localhost/cox/pause:9.9",
            ]
        );
        assert_eq!(names["localhost/cox/hello:9.9"], names["localhost/cox/hello:latest"]);
        assert_ne!(names["localhost/cox/hello:v1"], names["localhost/cox/hello:v2"]);
    }

    #[test]
    fn building_twice_gives_the_same_ids() {
        let ids = || SystemImages::build(&source()).expect("built").ids();
        assert_eq!(ids(), ids());
    }

    #[test]
    fn a_missing_binary_is_named() {
        let source = Source { binary: "/nonexistent/cox".into(), ..source() };
        let error = SystemImages::build(&source).err().expect("refused");
        assert_eq!(error.step, "collect");
    }
}
