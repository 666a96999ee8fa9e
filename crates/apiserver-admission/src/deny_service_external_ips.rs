//! `DenyServiceExternalIPs` (off unless asked for): no Service takes a new external IP, since whoever may write Services
//! could catch traffic for any address with it (CVE-2020-8554).
use async_trait::async_trait;
use machinery::{Object, StatusResult};
use serde_json::Value;

use crate::{Attributes, Operation, Plugin};

/// The plugin.
#[derive(Debug, Clone, Copy)]
pub struct DenyServiceExternalIps;

fn addresses(service: &Object) -> &[Value] {
    service.list_at(&["spec", "externalIPs"])
}

#[async_trait]
impl Plugin for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, a: &Attributes<'_>) -> StatusResult<()> {
        let Some(new) = a.object().filter(|_| a.is("", "services")) else { return Ok(()) };
        let known = a.old.map(addresses).unwrap_or_default();
        if addresses(new).iter().all(|ip| known.contains(ip)) {
            return Ok(());
        }
        Err(a.forbidden("Use of external IPs is denied by admission control"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Ask, object};

    #[tokio::test]
    async fn only_known_addresses_stay() {
        let service = |ips: &[&str]| object(json!({"metadata": {"name": "s"}, "spec": {"externalIPs": ips}}));
        for (old, new, good) in [
            (None, &[][..], true),
            (None, &["1.2.3.4"], false),
            (Some(&["1.2.3.4", "1.2.3.5"][..]), &["1.2.3.5"], true),
            (Some(&["1.2.3.4"]), &["1.2.3.4", "1.2.3.5"], false),
            (Some(&["1.2.3.4"]), &[], true),
            (Some(&[]), &["1.2.3.4"], false),
        ] {
            let operation = if old.is_some() { Operation::Update } else { Operation::Create };
            let ask = Ask {
                old: old.map(service),
                object: Some(service(new)),
                ..Ask::new(operation, ("", "services"), "Service")
            };
            let got = ask.run(&DenyServiceExternalIps).await.err();
            let want = "services \"s\" is forbidden: Use of external IPs is denied by admission control";
            assert_eq!(got.as_deref(), (!good).then_some(want), "{old:?} {new:?}");
        }
    }
}
