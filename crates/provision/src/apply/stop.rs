//! Services that have to be still for a while.

use super::{Host, HostError};
use crate::plan::Stage;

/// Stops services of some stages, those that others count on last.
pub async fn stop_services(
    host: &dyn Host,
    stages: &[Stage],
    plan: &crate::plan::HostPlan,
) -> Result<(), HostError> {
    let found = host.services().await?;
    for stage in Stage::ALL.into_iter().rev().filter(|stage| stages.contains(stage)) {
        for service in plan.services.iter().rev().filter(|s| s.stage == stage) {
            if found.contains_key(&service.name) {
                host.remove_service(&service.name).await?;
            }
        }
    }
    Ok(())
}
