//! etcd's durable writes, for comparison: one member, syncing, through its JSON gateway.
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Plan;
use crate::connect::{Body, read};
use crate::process::Process;
use crate::report::{Report, median};
use base::ports::free_port;

/// Bytes of a value.
const SIZE: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes with 1 and 64 clients.
pub async fn measure(plan: &Plan, directory: &Path, report: &mut Report) -> Result<()> {
    let Some(binary) = find("etcd") else {
        report.problem("etcd: it is not on this machine");
        return Ok(());
    };
    let port = free_port()?;
    let url = format!("http://127.0.0.1:{port}");
    let peers = format!("http://127.0.0.1:{}", free_port()?);
    let mut command = Command::new(binary);
    command
        .arg("--data-dir")
        .arg(directory.join("etcd"))
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("default={peers}")])
        .args(["--quota-backend-bytes", "4294967296", "--log-level", "error"]);
    let mut process = Process::start(command, "etcd", &directory.join("etcd.log"))?;
    let began = Instant::now();
    while let Err(e) = first(port).await {
        process.check()?;
        ensure!(began.elapsed() < PATIENCE, "etcd does not write: {e:#}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for (clients, ours) in [(1, "create, 1 client"), (64, "create, 64 clients, 4 connections")] {
        let mut rates = Vec::new();
        for round in 0..plan.rounds {
            rates.push(writes(port, clients, plan.round(), round).await?);
        }
        let rate = median(rates);
        let ratio = report
            .value(ours)
            .map(|o| format!(": ours, with TLS and all rules, has {:.1} times as many", o / rate));
        let detail = format!("1 KB, synced, JSON gateway without TLS{}", ratio.unwrap_or_default());
        report.add(
            format!("etcd put, {clients} client{}", if clients == 1 { "" } else { "s" }),
            rate,
            "/s",
            detail,
        );
    }
    Ok(())
}

fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|p| p.is_file())
}

async fn connect(port: u16) -> Result<http1::SendRequest<Body>> {
    let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn first(port: u16) -> Result<()> {
    put(&mut connect(port).await?, "ready").await
}

async fn put(sender: &mut http1::SendRequest<Body>, key: &str) -> Result<()> {
    let value = STANDARD.encode([b'x'; SIZE]);
    let body = format!(r#"{{"key":"{}","value":"{value}"}}"#, STANDARD.encode(key));
    let request =
        Request::post("/v3/kv/put").header("host", "127.0.0.1").body(Full::new(Bytes::from(body)))?;
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    ensure!(response.status() == StatusCode::OK, "etcd: {}", response.status());
    read(response).await?;
    Ok(())
}

async fn writes(port: u16, clients: usize, time: Duration, round: usize) -> Result<f64> {
    let mut senders = Vec::new();
    for _ in 0..clients {
        senders.push(connect(port).await.context("etcd")?);
    }
    let began = Instant::now();
    let all = senders.into_iter().enumerate().map(|(client, mut sender)| async move {
        let mut count = 0_usize;
        while began.elapsed() < time {
            put(&mut sender, &format!("/registry/configmaps/{round}/{client}/{count}")).await?;
            count += 1;
        }
        Ok::<_, anyhow::Error>(count)
    });
    let counts = futures::future::try_join_all(all).await?;
    Ok(counts.iter().sum::<usize>() as f64 / began.elapsed().as_secs_f64())
}
