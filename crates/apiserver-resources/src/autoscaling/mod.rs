//! The autoscaling group.
pub(crate) mod horizontal_pod_autoscaler;
