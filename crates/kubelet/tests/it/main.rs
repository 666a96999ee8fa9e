//! The kubelet on a real runtime: a containerd of the test's own, static pods, no API server in reach.

mod bench;
mod static_pods;
