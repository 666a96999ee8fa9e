//! Runs plugins in order.
use async_trait::async_trait;
use machinery::StatusResult;

use crate::{Attributes, Operation};

/// One rule of admission.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Upstream's name, for example `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Whether it has a say in this operation at all.
    fn handles(&self, operation: Operation) -> bool;

    /// Changes the object, or refuses. Runs before validation.
    async fn mutate(&self, _attributes: &mut Attributes<'_>) -> StatusResult<()> {
        Ok(())
    }

    /// Refuses what may not be. Runs on the final object.
    async fn validate(&self, _attributes: &Attributes<'_>) -> StatusResult<()> {
        Ok(())
    }

    /// The same, for a plugin that also leaves a note of it.
    async fn conclude(&self, attributes: &mut Attributes<'_>) -> StatusResult<()> {
        self.validate(attributes).await
    }
}

/// Plugins in the order in which they run.
#[derive(Default)]
pub struct Chain(pub Vec<Box<dyn Plugin>>);

impl Chain {
    /// All plugins change the object; the first refusal ends it.
    pub async fn mutate(&self, attributes: &mut Attributes<'_>) -> StatusResult<()> {
        let operation = attributes.operation;
        for plugin in self.0.iter().filter(|p| p.handles(operation)) {
            plugin.mutate(attributes).await?;
        }
        Ok(())
    }

    /// All plugins look at the final object; the first refusal ends it.
    pub async fn validate(&self, attributes: &mut Attributes<'_>) -> StatusResult<()> {
        let operation = attributes.operation;
        for plugin in self.0.iter().filter(|p| p.handles(operation)) {
            plugin.conclude(attributes).await?;
        }
        Ok(())
    }
}
