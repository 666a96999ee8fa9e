//! The system images of a cluster, built from the running binary: no registry is needed.
//!
//! Read [`SystemImages`] first: it builds `localhost/cox/pause` and `localhost/cox/hello` as one OCI archive, written
//! straight into the importer ([`import`]) without a copy on disk. [`pause`] and [`hello`] are the programs inside.
//!
//! What it is not: it pulls nothing, and it does not know whether an image is present; whoever talks to the runtime
//! compares [`SystemImages::images`] with what the runtime has.

mod content;
mod hello;
mod import;
mod layer;
mod oci;
mod pause;

pub use content::Source;
pub use hello::{HelloConfig, Identity, hello, run_hello};
pub use import::{ImportError, import};
pub use oci::{BuildError, Image, SystemImages};
pub use pause::{pause, pause_program};

/// Name of the image whose process holds a pod's namespaces, without its tag.
pub const PAUSE: &str = "localhost/cox/pause";
/// Name of the image that tells who it is over HTTP, without its tag.
pub const HELLO: &str = "localhost/cox/hello";
/// The tag of this build's images.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The pause image of this build, with its tag.
pub fn pause_image() -> String {
    format!("{PAUSE}:{VERSION}")
}
