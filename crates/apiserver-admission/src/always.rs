//! `AlwaysAdmit` and `AlwaysDeny`: what upstream keeps for tests, and names in old command lines.
use async_trait::async_trait;
use machinery::StatusResult;

use crate::{Attributes, Operation, Plugin};

/// Refuses nothing.
#[derive(Debug, Clone, Copy)]
pub struct AlwaysAdmit;

/// Refuses everything.
#[derive(Debug, Clone, Copy)]
pub struct AlwaysDeny;

#[async_trait]
impl Plugin for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }

    fn handles(&self, _operation: Operation) -> bool {
        false
    }
}

#[async_trait]
impl Plugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    fn handles(&self, _operation: Operation) -> bool {
        true
    }

    async fn mutate(&self, a: &mut Attributes<'_>) -> StatusResult<()> {
        self.validate(a).await
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        Err(a.forbidden("admission control is denying all modifications"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::Ask;

    #[tokio::test]
    async fn all_or_nothing() {
        let pod = || Ask::create_pod(json!({"metadata": {"name": "p", "namespace": "a"}}));
        assert!(pod().run(&AlwaysAdmit).await.is_ok());
        let refused = pod().run(&AlwaysDeny).await.unwrap_err();
        assert_eq!(refused, "pods \"p\" is forbidden: admission control is denying all modifications");
    }
}
