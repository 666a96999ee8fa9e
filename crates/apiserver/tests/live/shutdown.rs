//! A server that is asked to stop.
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use apiserver::Serving;
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;

use crate::harness::{Live, MAPS, PATIENCE, Who, request};

#[tokio::test(flavor = "multi_thread")]
async fn it_says_so_serves_on_and_ends_watches_well() -> Result<()> {
    let delay = Duration::from_secs(4);
    let live = Live::with(Serving { shutdown_delay: delay, ..Serving::default() }).await?;
    live.config_maps(1).await?;
    let watch = request(Method::GET, &format!("{MAPS}?watch=1"), "application/json", Bytes::new());
    let mut watch = live.open(Who::Admin, watch).await?.into_body();
    watch.frame().await.context("the first event")??;

    let began = Instant::now();
    live.stop.cancel();
    loop {
        let answer = live.get("/readyz").await?;
        if answer.status == 500 {
            ensure!(answer.text().contains("[-]shutdown failed: reason withheld\n"), "{}", answer.text());
            break;
        }
        ensure!(began.elapsed() < delay, "it is still ready");
    }
    ensure!(live.get("/livez").await?.status == 200, "nobody shall kill it");
    live.create(MAPS, &serde_json::json!({ "metadata": { "name": "late" } })).await?;
    let event = watch.frame().await.context("an event")??;
    ensure!(event.data_ref().is_some_and(|d| d.windows(4).any(|w| w == b"late")));
    let end = tokio::time::timeout(PATIENCE, watch.frame()).await?;
    ensure!(end.is_none(), "a clean end: {end:?}");
    tokio::time::timeout(Duration::from_secs(5), live.server.stopped()).await.context("it does not end")?;
    ensure!(began.elapsed() >= delay);
    ensure!(live.get("/readyz").await.is_err(), "nobody listens");
    Ok(())
}
