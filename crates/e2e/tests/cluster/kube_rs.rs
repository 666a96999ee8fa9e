//! kube-rs against a cluster with pods: it waits, execs, reads logs, forwards a port.
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::Cluster;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, DeleteParams, LogParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::HELLO;

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn kube_rs(cluster: &Cluster) -> Result<()> {
    cluster.namespace("kube-rs")?;
    let kubeconfig = cluster.root().join("kubeconfig/admin.kubeconfig");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let pods: Api<Pod> = Api::namespaced(Client::try_from(config)?, "kube-rs");
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "hello" },
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{ "name": "hello", "image": HELLO }],
            },
        }))?;
        pods.create(&PostParams::default(), &pod).await?;
        let running = await_condition(pods.clone(), "hello", conditions::is_pod_running());
        tokio::time::timeout(PATIENCE, running).await.context("it does not run")??;
        tokio::time::timeout(PATIENCE, streams(&pods)).await.context("a stream hangs")??;
        pods.delete("hello", &DeleteParams::default()).await?;
        Ok(())
    })
}

async fn streams(pods: &Api<Pod>) -> Result<()> {
    // Standard input goes in, both outputs and the exit code come out.
    let params = AttachParams::default().stdin(true).stdout(true).stderr(true);
    let mut exec =
        pods.exec("hello", ["sh", "-c", "read line; echo got $line; echo bad >&2; exit 3"], &params).await?;
    let mut stdin = exec.stdin().context("stdin")?;
    stdin.write_all(b"words\n").await?;
    stdin.flush().await?;
    let (mut out, mut err) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (exec.stdout().context("stdout")?, exec.stderr().context("stderr")?);
    let status = exec.take_status().context("status")?;
    tokio::try_join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err))?;
    ensure!((out.as_str(), err.as_str()) == ("got words\n", "bad\n"), "{out:?} {err:?}");
    let status = status.await.context("no status")?;
    let code =
        status.details.and_then(|d| d.causes).and_then(|c| c.into_iter().next()).and_then(|c| c.message);
    ensure!(status.reason.as_deref() == Some("NonZeroExitCode") && code.as_deref() == Some("3"), "{code:?}");

    let mut forward = pods.portforward("hello", &[8080]).await?;
    let mut stream = forward.take_stream(8080).context("a stream")?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200") && answer.contains("hello"), "{answer}");
    pods.logs("hello", &LogParams::default()).await?;
    Ok(())
}
