//! What a host needs before the parts of a cluster can run on it, as steps that can be repeated, and how to take it
//! all away again.
//!
//! Read [`HostConfig`] first: what a host shall become. [`preflight`] says what stands in the way; [`control_plane`]
//! and [`node`] are the steps, [`run`] does those that are not done; [`down`] is the way back. [`Layout`] says where
//! everything lies.
//!
//! Several hosts: [`spec`] reads `cluster.yaml`, [`plan`](mod@plan) says what each host shall have, [`render`] writes it down,
//! [`apply`] makes hosts what their plans say: hosts in namespaces of this machine ([`local`]) or over ssh ([`SshHost`]).
//! [`membership`] says how a cluster becomes another one: hosts that come, go, and are lost.
//!
//! What it is not: it starts no part of Kubernetes itself (that is the binary's business) and it speaks to no API
//! server. State is on disk and in the kernel, never here: each call finds out anew what there is.

pub mod apply;
mod binaries;
mod clean;
mod containerd;
mod down;
mod encryption;
mod facts;
mod files;
mod host;
mod layout;
pub mod local;
pub mod membership;
pub mod plan;
mod preflight;
mod probe;
mod process;
mod render;
mod report;
pub mod spec;
mod ssh;
mod step;
mod system_images;

pub use binaries::{find_cni_plugins, find_program};
pub use clean::{Cleaning, Leaving, clean_pods, clean_rest, leave_all};
pub use containerd::{Containerd, ContainerdConfig, ContainerdError, containerd_config};
pub use down::{DownOptions, Removed, down};
pub use facts::{CgroupMode, Facts, Listener};
pub use host::{HostConfig, control_plane, node, own_processes, preflight};
pub use layout::{Layout, LayoutError, LayoutLock};
pub use preflight::{Finding, Neighbour, Severity, WantedNetwork, WantedPort, Wish, check};
pub use probe::probe;
pub use process::{Process, ProcessRecord};
pub use render::{RenderError, Rendered, RenderedFile, render};
pub use report::{Answered, EtcdStatus, HostReport, Question, report};
pub use ssh::SshHost;
pub use step::{Progress, Step, StepError, run};
pub use system_images::{ensure_system_images, import_system_images};
