//! The autoscaling group.
pub(crate) mod horizontal_pod_autoscaler;
mod metric;
pub(crate) mod v1;
