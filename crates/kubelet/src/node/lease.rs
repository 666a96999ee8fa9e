//! Renews the node's Lease, apart from everything else: it is what keeps the node alive in the cluster's eyes.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio_util::sync::CancellationToken;

use crate::config::Config;

const NAMESPACE: &str = "kube-node-lease";
const RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(7);

fn fresh(config: &Config, owner: Option<OwnerReference>) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            namespace: Some(NAMESPACE.into()),
            owner_references: owner.map(|owner| vec![owner]),
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(config.node_name.clone()),
            lease_duration_seconds: Some(i32::try_from(config.lease_duration.as_secs()).unwrap_or(40)),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..Default::default()
        }),
    }
}

/// The lease, renewed: pure but for the time.
fn renewed(lease: &Lease, config: &Config) -> Lease {
    let mut lease = lease.clone();
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(config.node_name.clone());
    spec.lease_duration_seconds = Some(i32::try_from(config.lease_duration.as_secs()).unwrap_or(40));
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    lease
}

async fn once(
    leases: &Api<Lease>,
    nodes: &Api<Node>,
    config: &Config,
    known: Option<Lease>,
) -> Result<Lease, kube::Error> {
    let params = PostParams::default();
    let known = match known {
        Some(known) => Some(known),
        None => leases.get_opt(&config.node_name).await?,
    };
    match known {
        Some(lease) => leases.replace(&config.node_name, &params, &renewed(&lease, config)).await,
        None => {
            let node = nodes.get_opt(&config.node_name).await?;
            let owner = node.and_then(|node| {
                Some(OwnerReference {
                    api_version: "v1".into(),
                    kind: "Node".into(),
                    name: node.metadata.name?,
                    uid: node.metadata.uid?,
                    ..Default::default()
                })
            });
            leases.create(&params, &fresh(config, owner)).await
        }
    }
}

/// Renews until stopped.
pub async fn run(client: kube::Client, config: &Config, stop: CancellationToken) {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let nodes: Api<Node> = Api::all(client);
    let mut known: Option<Lease> = None;
    let mut wait = RETRY;
    loop {
        // A try that hangs must not outlive the lease.
        let pause =
            match tokio::time::timeout(config.lease_renew, once(&leases, &nodes, config, known.take())).await
            {
                Ok(Ok(lease)) => {
                    known = Some(lease);
                    wait = RETRY;
                    config.lease_renew
                }
                failed => {
                    if let Ok(Err(error)) = failed {
                        tracing::debug!(error = %error, "lease not renewed");
                    }
                    let pause = wait;
                    wait = (wait * 2).min(LONGEST_RETRY);
                    pause
                }
            };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
