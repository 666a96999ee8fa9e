use std::sync::{Arc, Mutex};

use client::{ElectionConfig, lead};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::server;

/// One Lease with optimistic locking.
fn lease_server(lease: Arc<Mutex<Value>>, broken: Arc<Mutex<bool>>) -> kube::Client {
    let (client, _) = server::client(move |method, _, body| {
        if *broken.lock().unwrap() {
            return server::reply(503, &server::failure(503, "ServiceUnavailable"));
        }
        let mut lease = lease.lock().unwrap();
        match method {
            "GET" if lease.is_null() => server::reply(404, &server::failure(404, "NotFound")),
            "GET" => server::reply(200, &lease),
            "POST" if lease.is_null() => {
                *lease = body;
                lease["metadata"]["resourceVersion"] = json!("1");
                server::reply(201, &lease)
            }
            "PUT" if body["metadata"]["resourceVersion"] == lease["metadata"]["resourceVersion"] => {
                let rv: u64 = lease["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
                *lease = body;
                lease["metadata"]["resourceVersion"] = json!((rv + 1).to_string());
                server::reply(200, &lease)
            }
            _ => server::reply(409, &server::failure(409, "Conflict")),
        }
    });
    client
}

#[tokio::test(start_paused = true)]
async fn the_lease_passes_on_when_released_and_a_leader_that_cannot_renew_stops() {
    let lease = Arc::new(Mutex::new(Value::Null));
    let broken = Arc::new(Mutex::new(false));
    let run = |who: &str, stop: &CancellationToken, leads: &CancellationToken| {
        let client = lease_server(lease.clone(), broken.clone());
        let (config, leads) = (ElectionConfig::new("kube-system", "x", who), leads.clone());
        tokio::spawn(lead(client, config, stop.clone(), move |token| async move {
            leads.cancel();
            token.cancelled().await;
        }))
    };
    let (stop_a, leads_a) = (CancellationToken::new(), CancellationToken::new());
    let a = run("a", &stop_a, &leads_a);
    leads_a.cancelled().await;
    let (stop_b, leads_b) = (CancellationToken::new(), CancellationToken::new());
    let b = run("b", &stop_b, &leads_b);
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert!(!leads_b.is_cancelled(), "a renews");

    stop_a.cancel();
    assert!(a.await.unwrap().unwrap().is_some());
    assert_eq!(lease.lock().unwrap()["spec"]["holderIdentity"], "");
    leads_b.cancelled().await;
    assert_eq!(lease.lock().unwrap()["spec"]["holderIdentity"], "b");
    assert_eq!(lease.lock().unwrap()["spec"]["leaseTransitions"], 1);

    *broken.lock().unwrap() = true;
    assert!(b.await.unwrap().is_err());
}
