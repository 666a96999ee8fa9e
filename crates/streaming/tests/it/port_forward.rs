//! Port-forward, client to server, over every protocol.

use futures::{SinkExt, StreamExt};
use http::{Request, Response};
use hyper::body::Incoming;
use streaming::{
    Body, Limits, accept, bridge,
    client::{PortForwardClient, PortForwardTransport},
    dial::Dialer,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::{process::runtime, server::Server};

const TRANSPORTS: [PortForwardTransport; 2] = [PortForwardTransport::Spdy, PortForwardTransport::WebSocket];

/// A TCP server that sends back what it gets, in upper case, until the client's end.
pub async fn shouting() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(size @ 1..) = socket.read(&mut buffer).await {
                    buffer[..size].make_ascii_uppercase();
                    if socket.write_all(&buffer[..size]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.expect("a loopback port").local_addr().expect("an address").port()
}

pub async fn bridging(runtime: http::Uri, mut request: Request<Incoming>) -> Response<Body> {
    match accept::port_forward(&mut request, &Limits::default()) {
        Err(refusal) => refusal,
        Ok(accepted) => {
            tokio::spawn(async move {
                let session = accepted.session.await.expect("a session");
                let transport = PortForwardTransport::Spdy;
                let limits = Limits::default();
                let far = PortForwardClient::connect(&Dialer::plain(), &runtime, transport, &limits).await;
                let failure = |port: u16, reason: &str| format!("error forwarding port {port}: {reason}");
                bridge::port_forward(session, far.expect("the runtime"), failure).await;
            });
            accepted.response
        }
    }
}

#[tokio::test]
async fn many_connections_share_one() {
    let port = shouting().await;
    let far = Server::plain(runtime).await;
    let uri = far.uri("/portForward");
    let near = Server::plain(move |request| bridging(uri.clone(), request)).await;
    for (server, transport) in
        [&far, &near].into_iter().flat_map(|server| TRANSPORTS.map(|kind| (server, kind)))
    {
        let uri = server.uri("/portForward");
        let client = PortForwardClient::connect(&Dialer::plain(), &uri, transport, &Limits::default()).await;
        let client = client.expect("a client");
        let connections = (0..20).map(|number| {
            let client = &client;
            async move {
                let (mut data, mut error) = client.open(port).await.expect("a connection");
                let text = format!("hello from {number} ").repeat(2000);
                let (mut reader, mut writer) = tokio::io::split(&mut data);
                let send = async {
                    writer.write_all(text.as_bytes()).await.expect("sent");
                    writer.shutdown().await.expect("ended");
                };
                let mut answer = String::new();
                let (_, read) = tokio::join!(send, reader.read_to_string(&mut answer));
                read.expect("an answer");
                assert!(answer == text.to_ascii_uppercase(), "{} of {} bytes", answer.len(), text.len());
                let mut message = String::new();
                error.read_to_string(&mut message).await.expect("the error stream's end");
                assert_eq!(message, "");
            }
        });
        futures::future::join_all(connections).await;
        client.close().await;
    }
}

#[tokio::test]
async fn a_closed_port_is_reported_and_the_rest_goes_on() {
    let (open, closed) = (shouting().await, closed_port().await);
    let far = Server::plain(runtime).await;
    let uri = far.uri("/portForward");
    let near = Server::plain(move |request| bridging(uri.clone(), request)).await;
    for (server, transport) in
        [&far, &near].into_iter().flat_map(|server| TRANSPORTS.map(|kind| (server, kind)))
    {
        let uri = server.uri("/portForward");
        let client = PortForwardClient::connect(&Dialer::plain(), &uri, transport, &Limits::default()).await;
        let client = client.expect("a client");
        let (_data, mut error) = client.open(closed).await.expect("streams");
        let mut message = String::new();
        error.read_to_string(&mut message).await.expect("a message");
        assert!(message.starts_with(&format!("dial {closed}: ")), "{message:?}");
        let (mut data, _error) = client.open(open).await.expect("a connection");
        data.write_all(b"still here").await.expect("sent");
        let mut answer = [0; 10];
        data.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"STILL HERE");
    }
}

#[tokio::test]
async fn websocket_channels_forward_the_ports_of_the_query() {
    let port = shouting().await;
    let server = Server::plain(runtime).await;
    let uri = format!("ws://{}/portForward?port={port}", server.address);
    let mut request = uri.into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", "v4.channel.k8s.io".parse().expect("a value"));
    let socket = tokio::net::TcpStream::connect(server.address).await.expect("connected");
    let (mut socket, _) = tokio_tungstenite::client_async(request, socket).await.expect("upgraded");
    let mut next = async |expect: &[u8]| {
        let message = socket.next().await.expect("a message").expect("no failure");
        assert_eq!(message, Message::Binary(expect.to_vec().into()));
    };
    let [low, high] = port.to_le_bytes();
    next(&[0, low, high]).await;
    next(&[1, low, high]).await;
    socket.send(Message::Binary(b"\x00hi".to_vec().into())).await.expect("sent");
    let message = socket.next().await.expect("a message").expect("no failure");
    assert_eq!(message, Message::Binary(b"\x00HI".to_vec().into()));
}
