//! Exec and attach, client to server, over every protocol.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use http::{Request, Response};
use hyper::body::Incoming;
use streaming::{
    Body, ExecStatus, Limits, Streams, TerminalSize, accept, bridge,
    client::{self, ClientError, ClientSession, ExecProtocol},
    dial::Dialer,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::{process::runtime, server::Server};

const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
const PROTOCOLS: [ExecProtocol; 3] =
    [ExecProtocol::Spdy, ExecProtocol::WebSocketV5, ExecProtocol::WebSocketV4];

async fn exec(server: &Server, streams: Streams, protocol: ExecProtocol, command: &[&str]) -> ClientSession {
    let uri = server.uri(&format!("/exec?{}", streams.to_kubelet_query(command)));
    client::remote_command(&Dialer::plain(), &uri, streams, protocol, &Limits::default())
        .await
        .expect("a session")
}

async fn collect(session: ClientSession) -> (Vec<u8>, Vec<u8>, ExecStatus) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (mut stdout, mut stderr) = (session.stdout.expect("stdout"), session.stderr.expect("stderr"));
    let read_out = stdout.read_to_end(&mut out);
    let read_err = stderr.read_to_end(&mut err);
    let (read_out, read_err, status) = tokio::join!(read_out, read_err, session.status);
    read_out.expect("stdout");
    read_err.expect("stderr");
    (out, err, status)
}

#[tokio::test]
async fn output_and_exit_code_arrive() {
    let server = Server::plain(runtime).await;
    for protocol in PROTOCOLS {
        let session = exec(&server, ALL, protocol, &["sh", "-c", "echo out; echo err >&2; exit 3"]).await;
        let (out, err, status) = collect(session).await;
        assert_eq!((&out[..], &err[..]), (&b"out\n"[..], &b"err\n"[..]), "{protocol:?}");
        assert_eq!(status.exit_code(), Some(3), "{protocol:?}");
        let (_, _, status) = collect(exec(&server, ALL, protocol, &["true"]).await).await;
        assert_eq!(status, ExecStatus::success(), "{protocol:?}");
        let (_, _, status) = collect(exec(&server, ALL, protocol, &["/no/such/program"]).await).await;
        assert_eq!(status.exit_code(), None, "{protocol:?}");
    }
}

#[tokio::test]
async fn input_passes_whole_and_its_end_is_seen() {
    let server = Server::plain(runtime).await;
    // More than all buffers on the way together.
    let input: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
    for protocol in [ExecProtocol::Spdy, ExecProtocol::WebSocketV5] {
        let mut session = exec(&server, ALL, protocol, &["cat"]).await;
        let mut stdin = session.stdin.take().expect("stdin");
        let send = async {
            stdin.write_all(&input).await.expect("input");
            stdin.shutdown().await.expect("end of input");
        };
        let ((), (out, _, status)) = tokio::join!(send, collect(session));
        assert!(out == input, "{protocol:?}: {} bytes", out.len());
        assert!(status.is_success(), "{protocol:?}");
    }
}

#[tokio::test]
async fn a_slow_reader_gets_all_output() {
    let server = Server::plain(runtime).await;
    for protocol in PROTOCOLS {
        let session =
            exec(&server, ALL, protocol, &["sh", "-c", "head -c 4000000 /dev/zero; echo end >&2"]).await;
        // The command has long ended when reading starts: nothing may be lost then.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (out, err, status) = collect(session).await;
        assert_eq!((out.len(), &err[..]), (4_000_000, &b"end\n"[..]), "{protocol:?}");
        assert!(status.is_success(), "{protocol:?}");
    }
}

#[tokio::test]
async fn terminal_sizes_arrive() {
    let server = Server::plain(runtime).await;
    let streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };
    for protocol in PROTOCOLS {
        let mut session = exec(&server, streams, protocol, &[]).await;
        let mut resize = session.resize.take().expect("a resize stream");
        resize.send(TerminalSize { width: 132, height: 43 }).await.expect("sent");
        let mut out = String::new();
        let mut stdout = session.stdout.take().expect("stdout");
        let (read, status) = tokio::join!(stdout.read_to_string(&mut out), session.status);
        read.expect("output");
        assert_eq!(out, "132x43\r\n", "{protocol:?}");
        assert!(status.is_success(), "{protocol:?}");
    }
}

/// A server that ends the client's protocol and starts another to `runtime`, as the kubelet does.
pub async fn bridging(runtime: http::Uri, mut request: Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let streams = Streams::from_kubelet_query(&query).expect("streams");
    let uri = format!("{}?{query}", runtime.to_string().trim_end_matches('/')).parse().expect("a uri");
    match accept::remote_command(&mut request, streams, &Limits::default()) {
        Err(refusal) => refusal,
        Ok(accepted) => {
            tokio::spawn(async move {
                let limits = Limits::default();
                let session = accepted.session.await.expect("a session");
                let dialer = Dialer::plain();
                let far = client::remote_command(&dialer, &uri, streams, ExecProtocol::Spdy, &limits).await;
                bridge::remote_command(session, far.expect("the runtime")).await;
            });
            accepted.response
        }
    }
}

#[tokio::test]
async fn a_bridge_carries_everything() {
    let far = Server::plain(runtime).await;
    let uri = far.uri("/exec");
    let server = Server::plain(move |request| bridging(uri.clone(), request)).await;
    for protocol in [ExecProtocol::Spdy, ExecProtocol::WebSocketV5] {
        let mut session = exec(&server, ALL, protocol, &["sh", "-c", "cat; echo err >&2; exit 5"]).await;
        let mut stdin = session.stdin.take().expect("stdin");
        stdin.write_all(b"through both").await.expect("input");
        stdin.shutdown().await.expect("end of input");
        let (out, err, status) = collect(session).await;
        assert_eq!((&out[..], &err[..]), (&b"through both"[..], &b"err\n"[..]), "{protocol:?}");
        assert_eq!(status.exit_code(), Some(5), "{protocol:?}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_command() {
    let far = Server::plain(runtime).await;
    let uri = far.uri("/exec");
    let server = Server::plain(move |request| bridging(uri.clone(), request)).await;
    let directory = tempfile::tempdir().expect("a directory");
    let mark = directory.path().join("ended");
    // `cat` ends with its input, which ends with the client.
    let script = format!("cat >/dev/null; touch {}", mark.display());
    for protocol in PROTOCOLS {
        let session = exec(&server, ALL, protocol, &["sh", "-c", &script]).await;
        drop(session);
        let appeared = async {
            while !mark.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), appeared)
            .await
            .expect("the command saw the end of its input");
        std::fs::remove_file(&mark).expect("removed");
    }
}

#[tokio::test]
async fn refusals_have_a_reason() {
    let server = Server::plain(runtime).await;
    let uri = server.uri("/exec?command=true");
    let refused = client::remote_command(&Dialer::plain(), &uri, ALL, ExecProtocol::Spdy, &Limits::default())
        .await
        .err();
    let Some(ClientError::Refused { status, message }) = refused else { panic!("not refused") };
    assert_eq!(status, 400);
    assert_eq!(message, "you must specify at least 1 of stdin, stdout, stderr");
}

/// All messages a plain WebSocket client of some subprotocol gets.
async fn messages(
    server: &Server,
    subprotocol: Option<&str>,
    query: &str,
    input: &[Message],
) -> Vec<Message> {
    let address = server.address;
    let mut request = format!("ws://{address}/exec?{query}").into_client_request().expect("a request");
    if let Some(subprotocol) = subprotocol {
        request.headers_mut().insert("sec-websocket-protocol", subprotocol.parse().expect("a value"));
    }
    let socket = tokio::net::TcpStream::connect(address).await.expect("connected");
    let (mut socket, _) = tokio_tungstenite::client_async(request, socket).await.expect("upgraded");
    for message in input {
        socket.send(message.clone()).await.expect("sent");
    }
    let mut messages = Vec::new();
    while let Some(message) = socket.next().await {
        messages.push(message.expect("a message"));
    }
    messages
}

#[tokio::test]
async fn legacy_clients_get_what_they_know() {
    let server = Server::plain(runtime).await;
    let close =
        |message: &Message| matches!(message, Message::Close(Some(frame)) if u16::from(frame.code) == 1000);
    // Without a subprotocol, or with the oldest: an empty first frame, output, nothing about success, a clean end.
    for subprotocol in [None, Some("channel.k8s.io")] {
        let all = messages(&server, subprotocol, "output=1&error=1&command=echo&command=hi", &[]).await;
        let data: Vec<&[u8]> =
            all.iter().filter(|m| m.is_binary()).map(|m| m.to_text().expect("text").as_bytes()).collect();
        assert_eq!(data, [&b"\x01"[..], b"\x01hi\n"], "{subprotocol:?}");
        assert!(close(all.last().expect("a last message")), "{all:?}");
    }
    // Failure is text on channel 3.
    let all = messages(&server, Some("channel.k8s.io"), "error=1&command=false", &[]).await;
    let expect = "\x03command terminated with non-zero exit code: exit status 1";
    assert_eq!(all[0], Message::Binary(vec![2].into()));
    assert_eq!(all[1], Message::Binary(expect.as_bytes().to_vec().into()));
    // Version 4 says success, too, and after all output.
    let all = messages(&server, Some("v4.channel.k8s.io"), "output=1&command=echo&command=hi", &[]).await;
    let success = b"\x03{\"metadata\":{},\"status\":\"Success\"}";
    assert_eq!(all[all.len() - 2], Message::Binary(success.to_vec().into()));
    // Base64: digits and text.
    let input = [Message::text("0YWJj")];
    let query = "input=1&output=1&command=head&command=-c&command=3";
    let all = messages(&server, Some("base64.channel.k8s.io"), query, &input).await;
    let texts: Vec<_> = all.iter().filter(|message| message.is_text()).cloned().collect();
    assert_eq!(texts, [Message::text("1"), Message::text("1YWJj")]);
}
