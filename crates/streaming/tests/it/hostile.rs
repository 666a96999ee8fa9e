//! Peers that break the protocol, flood it or say nothing.

use std::{future::Future, time::Duration};

use bytes::{Bytes, BytesMut};
use proptest::{prelude::*, test_runner::TestRunner};
use streaming::{
    Limits,
    spdy::{
        Connection, HeaderCompressor, Headers, Role,
        frame::{Control, Head, encode_control, encode_data, parse_control, parse_head, reset},
    },
    ws::Tunnel,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// A server connection, and the peer's end of its wire.
fn server(limits: &Limits) -> (Connection, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    (Connection::start(ours, Role::Server, limits), theirs)
}

fn open(compress: &mut HeaderCompressor, id: u32) -> Bytes {
    let block = compress.compress(&Headers::new([("streamType", "data"), ("port", "80")]));
    let mut out = BytesMut::new();
    encode_control(&Control::SynStream { id, fin: false, unidirectional: false, block }, &mut out);
    out.freeze()
}

async fn next_control(wire: &mut DuplexStream) -> Control {
    let mut head = [0; 8];
    wire.read_exact(&mut head).await.expect("a frame");
    let Head::Control { kind, flags, len } = parse_head(head).expect("a head") else {
        panic!("a data frame")
    };
    let mut payload = vec![0; len];
    wire.read_exact(&mut payload).await.expect("a payload");
    parse_control(kind, flags, payload.into()).expect("a control frame")
}

/// A test must fail rather than hang.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("seconds should do")
}

#[test]
fn random_bytes_end_a_connection_and_nothing_else() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let chunk = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..64),
        // Heads of real frames, so that payloads are reached.
        (1u8..10, any::<u8>(), 0u8..32, proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(kind, flags, len, rest)| [vec![0x80, 3, 0, kind, flags, 0, 0, len], rest].concat()),
        Just(vec![0, 0, 0, 1, 1, 0, 0, 0]),
    ];
    let bytes = proptest::collection::vec(chunk, 0..8).prop_map(|chunks| chunks.concat());
    TestRunner::default()
        .run(&bytes, |bytes| {
            runtime.block_on(soon(async {
                let (mut connection, mut wire) = server(&Limits::default());
                // The other side may have given up half-way.
                let _ = wire.write_all(&bytes).await;
                drop(wire);
                while let Some(incoming) = connection.accept().await {
                    drop(incoming.accept().await);
                }
                connection.closed().cancelled().await;
            }));
            Ok(())
        })
        .expect("no bytes break the connection's task");
}

#[test]
fn random_bytes_end_a_tunnel_and_nothing_else() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    TestRunner::default()
        .run(&proptest::collection::vec(any::<u8>(), 0..256), |bytes| {
            runtime.block_on(soon(async {
                let (ours, mut wire) = tokio::io::duplex(1024);
                let mut tunnel = Tunnel::server(ours, &Limits::default()).await;
                wire.write_all(&bytes).await.expect("room");
                drop(wire);
                let mut read = Vec::new();
                let _ = tunnel.read_to_end(&mut read).await;
                assert!(read.len() <= bytes.len());
            }));
            Ok(())
        })
        .expect("no bytes break the tunnel");
}

#[tokio::test]
async fn too_many_streams_are_refused_and_the_rest_lives() {
    let limits = Limits { max_streams: 2, ..Limits::default() };
    let (mut connection, mut wire) = server(&limits);
    let mut compress = HeaderCompressor::new();
    let mut kept = Vec::new();
    for id in [1, 3] {
        wire.write_all(&open(&mut compress, id)).await.expect("sent");
        kept.push(soon(connection.accept()).await.expect("a stream").accept().await);
        assert!(
            matches!(soon(next_control(&mut wire)).await, Control::SynReply { id: replied, .. } if replied == id)
        );
    }
    wire.write_all(&open(&mut compress, 5)).await.expect("sent");
    assert_eq!(
        soon(next_control(&mut wire)).await,
        Control::RstStream { id: 5, status: reset::REFUSED_STREAM }
    );
    // An identifier used before breaks the protocol, but only for that stream.
    wire.write_all(&open(&mut compress, 3)).await.expect("sent");
    assert_eq!(
        soon(next_control(&mut wire)).await,
        Control::RstStream { id: 3, status: reset::PROTOCOL_ERROR }
    );
    let mut data = BytesMut::new();
    encode_data(1, true, b"still here", &mut data);
    wire.write_all(&data).await.expect("sent");
    let mut read = String::new();
    soon(kept[0].read_to_string(&mut read)).await.expect("data");
    assert_eq!(read, "still here");
}

#[tokio::test]
async fn oversized_headers_end_the_connection() {
    let limits = Limits { max_header_block: 1024, max_control_frame: 4096, ..Limits::default() };
    // Small on the wire, large after inflating.
    let bomb = HeaderCompressor::new().compress(&Headers::new([("a", "x".repeat(100_000))]));
    assert!(bomb.len() < 4000);
    for block in [bomb, Bytes::from(vec![0; 5000])] {
        let (connection, mut wire) = server(&limits);
        let mut out = BytesMut::new();
        encode_control(&Control::SynStream { id: 1, fin: false, unidirectional: false, block }, &mut out);
        wire.write_all(&out).await.expect("sent");
        soon(connection.closed().cancelled()).await;
    }
}

#[tokio::test]
async fn pings_are_answered_only_to_who_asked() {
    let (_connection, mut wire) = server(&Limits::default());
    let mut out = BytesMut::new();
    // 2 is an answer to a ping of ours that never was; 7 is the client's.
    for id in [2, 7] {
        encode_control(&Control::Ping { id }, &mut out);
    }
    wire.write_all(&out).await.expect("sent");
    assert_eq!(soon(next_control(&mut wire)).await, Control::Ping { id: 7 });
}

#[tokio::test]
async fn silence_ends_a_connection_and_noise_keeps_it() {
    let limits = Limits { idle: Duration::from_millis(400), ..Limits::default() };
    let (connection, mut wire) = server(&limits);
    let mut ping = BytesMut::new();
    encode_control(&Control::Ping { id: 1 }, &mut ping);
    let start = std::time::Instant::now();
    for _ in 0..8 {
        wire.write_all(&ping).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        !connection.closed().is_cancelled() || start.elapsed() > Duration::from_secs(2),
        "noise keeps it open"
    );
    soon(connection.closed().cancelled()).await;
}

#[tokio::test]
async fn a_farewell_comes_after_all_data() {
    let (mut connection, mut wire) = server(&Limits::default());
    wire.write_all(&open(&mut HeaderCompressor::new(), 1)).await.expect("sent");
    let mut stream = soon(connection.accept()).await.expect("a stream").accept().await;
    stream.write_all(b"last words").await.expect("written");
    stream.shutdown().await.expect("ended");
    let closing = tokio::spawn(connection.close());
    let mut all = Vec::new();
    soon(wire.read_to_end(&mut all)).await.expect("everything");
    let mut expect = BytesMut::new();
    encode_data(1, false, b"last words", &mut expect);
    encode_data(1, true, b"", &mut expect);
    encode_control(&Control::GoAway { last: 1, status: 0 }, &mut expect);
    assert!(all.ends_with(&expect), "{all:?}");
    drop(wire);
    soon(closing).await.expect("closed");
}
