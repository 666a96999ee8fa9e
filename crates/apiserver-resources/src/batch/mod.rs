//! The batch group.
pub(crate) mod cron_job;
mod index_set;
pub(crate) mod job;
mod job_policy;
mod job_status;
pub(crate) mod schedule;
