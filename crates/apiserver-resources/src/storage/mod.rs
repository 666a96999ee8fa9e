//! The storage.k8s.io group.
pub(crate) mod csi;
pub(crate) mod storage_class;
pub(crate) mod volume_attachment;
