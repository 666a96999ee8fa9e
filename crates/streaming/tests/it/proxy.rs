//! The proxy: tunnels, answers passed back, streaming bodies, failures.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody, channel::Channel};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use streaming::{
    Body, BoxError, Limits, Streams, body,
    client::{self, ExecProtocol},
    dial::Dialer,
    proxy::{self, ProxyOptions},
};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::{process::runtime, server::Server};

async fn forwarding(target: http::Uri, request: Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = request.uri().path().trim_start_matches("/prefix");
    let target = format!("{}{path}{query}", target.to_string().trim_end_matches('/')).parse().expect("a uri");
    let options = ProxyOptions { client: Some([127, 0, 0, 1].into()), path_prefix: Some("/prefix".into()) };
    let forwarded = proxy::forward(request, &target, &Dialer::plain(), &options, &Limits::default()).await;
    forwarded.unwrap_or_else(|error| error.into_response())
}

async fn get(server: &Server, path: &str) -> Response<Incoming> {
    let socket = TcpStream::connect(server.address).await.expect("connected");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.expect("http");
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "front").header("authorization", "Bearer secret");
    sender.send_request(request.body(Empty::<Bytes>::new()).expect("a request")).await.expect("a response")
}

#[tokio::test]
async fn upgrades_pass_through_and_refusals_come_back() {
    let far = Server::plain(runtime).await;
    let uri = far.uri("");
    let near = Server::plain(move |request| forwarding(uri.clone(), request)).await;
    let streams = Streams { stdin: false, stdout: true, stderr: true, tty: false };
    for protocol in [ExecProtocol::Spdy, ExecProtocol::WebSocketV5] {
        let uri = near.uri("/exec?output=1&error=1&command=echo&command=hi");
        let session =
            client::remote_command(&Dialer::plain(), &uri, streams, protocol, &Limits::default()).await;
        let session = session.expect("a session");
        let mut out = String::new();
        let (read, status) = tokio::join!(
            async { session.stdout.expect("out").read_to_string(&mut out).await },
            session.status
        );
        read.expect("output");
        assert_eq!((out.as_str(), status.exit_code()), ("hi\n", Some(0)));
        let uri = near.uri("/exec?command=true");
        let refused =
            client::remote_command(&Dialer::plain(), &uri, streams, protocol, &Limits::default()).await;
        assert!(
            matches!(refused, Err(client::ClientError::Refused { status, .. }) if status == StatusCode::BAD_REQUEST)
        );
    }
}

#[tokio::test]
async fn a_body_streams_before_it_ends() {
    let (mut sender, channel) = Channel::<Bytes, BoxError>::new(4);
    let once = std::sync::Mutex::new(Some(channel));
    let far = Server::plain(move |request: Request<Incoming>| {
        assert!(request.headers().get("authorization").is_none(), "credentials stay at the proxy");
        assert_eq!(request.headers()["x-forwarded-for"], "127.0.0.1");
        let body = once.lock().expect("unpoisoned").take().expect("one request");
        async move { Response::new(BodyExt::boxed(body.map_err(|error| error))) }
    })
    .await;
    let uri = far.uri("");
    let near = Server::plain(move |request| forwarding(uri.clone(), request)).await;
    sender.send_data(Bytes::from_static(b"first")).await.expect("sent");
    let mut response = get(&near, "/logs?follow=true").await;
    let first = response.body_mut().frame().await.expect("a frame").expect("data").into_data().expect("data");
    assert_eq!(&first[..], b"first");
    // The client goes, and the target sees it.
    drop(response);
    let noticed = async { while sender.send_data(Bytes::from_static(b"more")).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), noticed).await.expect("the target is told");
}

#[tokio::test]
async fn redirects_get_the_prefix_and_request_bodies_arrive() {
    let far = Server::plain(|request: Request<Incoming>| async move {
        let uri = request.headers()["x-forwarded-uri"].to_str().expect("text").to_owned();
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        let response = Response::builder().status(302).header("location", "/login").header("x-seen", uri);
        response.body(body::full(body)).expect("a response")
    })
    .await;
    let uri = far.uri("");
    let near = Server::plain(move |request| forwarding(uri.clone(), request)).await;
    let socket = TcpStream::connect(near.address).await.expect("connected");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.expect("http");
    tokio::spawn(connection);
    let chunks = futures::stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"posted")))]);
    let request = Request::post("/prefix/a/b").body(StreamBody::new(chunks)).expect("a request");
    let response = sender.send_request(request).await.expect("a response");
    assert_eq!(response.status(), 302);
    assert_eq!(response.headers()["location"], "/prefix/login");
    assert_eq!(response.headers()["x-seen"], "/prefix/a/b");
    assert_eq!(&response.into_body().collect().await.expect("a body").to_bytes()[..], b"posted");
}

#[tokio::test]
async fn an_unreachable_target_is_a_status() {
    let closed =
        tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let request = Request::get("/exec").header("connection", "Upgrade").header("upgrade", "SPDY/3.1");
    let request = request.body(Full::new(Bytes::new())).expect("a request");
    let target = format!("http://{closed}/exec").parse().expect("a uri");
    let failed =
        proxy::forward(request, &target, &Dialer::plain(), &ProxyOptions::default(), &Limits::default())
            .await;
    let response = failed.expect_err("nothing listens").into_response();
    assert_eq!(response.status(), 500);
    let bytes = response.into_body().collect().await.expect("a body").to_bytes();
    let status: serde_json::Value = serde_json::from_slice(&bytes).expect("a status");
    let message = status["message"].as_str().expect("a message");
    assert!(message.starts_with(&format!("error dialing backend: dial tcp {closed}: ")), "{message}");
}

#[tokio::test]
async fn certificates_of_strangers_are_taken_only_where_asked_for() {
    let far = Server::tls(|_| async { Response::new(body::full("through TLS")) }).await;
    let target = format!("https://{}/", far.address).parse().expect("a uri");
    let get = async |dialer: Dialer| {
        let request = Request::get("/").body(Empty::<Bytes>::new()).expect("a request");
        proxy::forward(request, &target, &dialer, &ProxyOptions::default(), &Limits::default()).await
    };
    let response = get(Dialer::unverified()).await.expect("an answer");
    assert_eq!(&response.into_body().collect().await.expect("a body").to_bytes()[..], b"through TLS");
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let strict = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let Err(refused) = get(Dialer::tls(std::sync::Arc::new(strict))).await else {
        panic!("an unknown certificate was taken");
    };
    assert!(refused.to_string().starts_with("error dialing backend: tls handshake with "), "{refused}");
}
